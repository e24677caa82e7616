"""Tells operators of orders that are parked or overdue and of dead letters, by channels of their own.

Several processes look, and one of them tells: what was told is a row. A number that grows is told again, but not before
`PAUSE`; one that stays is told again after `AGAIN`, in case nobody has seen it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from projections.webhooks import store
from saga_kit.runtime.backoff import RESTS, keep_doing
from saga_kit.runtime.transactions import Transactions

LOOK_S: Final = 30.0
PAUSE: Final = timedelta(minutes=10)
AGAIN: Final = timedelta(days=1)


class Alarms:
    """Looks for trouble, and tells it. `tell` gets a title and a text, and never waits."""

    def __init__(self, transactions: Transactions, tell: Callable[[str, str], None]) -> None:
        self._transactions = transactions
        self._tell = tell

    async def run(self, stopping: asyncio.Event) -> None:
        """Do so until `stopping`."""
        await keep_doing("telling operators", self.look, stopping, every_s=LOOK_S, rests=RESTS)

    async def look(self) -> None:
        """Tell what is to be told now, in one message."""
        async with self._transactions.begin() as tx:
            alarms = await store.alarms(tx, PAUSE, AGAIN)
        if alarms:
            lines = (f"{one.number} {one.subject}, since {one.since:%Y-%m-%d %H:%M} UTC" for one in alarms)
            self._tell("Order Saga: an operator should look", "\n".join([*lines, "order-saga stuck says more"]))
