"""What a stream shows before it is live: the open orders of its user, and for one that comes back what it has missed.

Everything is read from the database, so a client may come back to any process. Reads of many streams share statements,
and two statements run at a time: when many come back at once, ordinary requests still find a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from contracts import codec
from contracts.orders import Order, OrderStatusChanged
from contracts.vocabulary import id_text
from order_api.live.mailbox import OrderEvent
from order_api.live.marks import mark_of, time_of
from order_api.live.store import PAGE, Asked, Shown
from order_api.orders.batcher import Batcher

OVERLAP: Final = timedelta(minutes=10)
"""How far before its mark a stream is shown what has changed: a transaction is as old as its first statement, and
others see it when it commits. Nobody is harmed by what comes twice."""
AT_ONCE: Final = 2
"""Statements that run at a time."""
USERS_MAX: Final = 10
"""Users of one statement: their orders are in memory together."""


class Snapshot(NamedTuple):
    """Orders as they are, oldest change first; all that was committed before `mark` is in them, unless there is a gap.

    With a gap they are not all that was asked for.
    """

    orders: list[OrderEvent]
    mark: int
    gap: bool
    disabled: list[bytes]
    """The user's endpoints that are given up, as its other endpoints are told of them."""


class ShowsOrders(Protocol):
    """Whoever reads orders for many streams at once."""

    async def show(self, asked: Sequence[Asked]) -> list[Shown]:
        """Return what each of these asks for, in their order."""


class Snapshots:
    """Reads them."""

    def __init__(self, store: ShowsOrders) -> None:
        self._readers: tuple[Batcher[Asked, Shown], ...] = tuple(
            Batcher(store.show, batch_size_max=USERS_MAX) for _ in range(AT_ONCE)
        )
        self._turn = 0

    async def of_user(self, user_id: str, since: int | None = None) -> Snapshot:
        """Read the open orders of a user, and those that have ended since the mark `since`, if one is given.

        A mark that is ahead of the database's time is none that this database gave: that is a gap, too. Raises what the
        driver does, `TimeoutError`, and `Overloaded`.
        """
        self._turn += 1
        asked = Asked(user_id, None if since is None else time_of(since) - OVERLAP)
        shown = await self._readers[self._turn % AT_ONCE].do(asked)
        mark, events = mark_of(shown.at), list[OrderEvent]()
        for first in range(0, len(shown.orders), PAGE):
            events += map(snapshot_event, shown.orders[first : first + PAGE])
            await asyncio.sleep(0)
        return Snapshot(
            events,
            mark,
            gap=not shown.whole or (since is not None and since > mark),
            disabled=[codec.encode(one) for one in shown.disabled],
        )


def snapshot_event(order: Order) -> OrderEvent:
    """Tell how an order stands. It is no change, so the event has no previous status, and it has no mark."""
    event = OrderStatusChanged(
        order_id=order.order_id,
        version=order.version,
        status=order.status,
        previous_status=None,
        reason_code=order.reason_code,
        occurred_at=order.updated_at,
        order=order,
    )
    return OrderEvent(
        id_text(order.order_id).encode(), order.version, codec.encode(event), 0, terminal=order.status.terminal
    )
