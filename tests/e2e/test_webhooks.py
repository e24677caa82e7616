"""Webhooks of a whole system: what its orders end as is what the receivers of their users are told, verified."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.orders import buy, sell
from tests.e2e.system import eventually, running
from tests.e2e.trader import Trader
from tests.e2e.webhooks import tell, told
from tests.projections.webhooks.receivers import receiving
from tests.support.infrastructure import Infrastructure

USERS = ("alice", "bob")


async def test_receivers_are_told_what_orders_end_as(infrastructure: Infrastructure, tmp_path: Path) -> None:
    """Each order's end comes to its own user; who wants every version gets each of them, through a death too."""
    async with (
        receiving() as every, receiving() as newest,
        running(infrastructure, tmp_path, replicas={"webhooks": 1}) as system, Trader(system) as trader,
    ):  # fmt: skip
        await tell(system.stack, "alice", every.url, every_version=True)
        await tell(system.stack, "bob", newest.url, every_version=False)
        wanted = [
            order for user in USERS for _ in range(5) for order in (buy(user, "BTC", "0.01"), sell(user, "ETH", "0.1"))
        ]
        for number, order in enumerate(wanted):
            await trader.post(order)
            if number == len(wanted) // 2:
                [pid] = system.stack.pids["webhooks"]
                os.kill(pid, signal.SIGKILL)  # its leases run out in a minute
        ends = {order_id: end.split()[0] for order_id, end in (await trader.ended(trader.accepted)).items()}

        async def all_told() -> bool:
            last = {one: orders[-1]["status"] for receiver in (every, newest) for one, orders in told(receiver).items()}
            versions = [[one["version"] for one in orders] for orders in told(every).values()]
            return last == ends and all(found == list(range(1, found[-1] + 1)) for found in versions)

        await eventually(all_told, "all ends are told, and every version to who wants it", within_s=150)
        for user, receiver in zip(USERS, (every, newest), strict=True):
            assert {order_id for order_id, one in trader.accepted.items() if one.user_id == user} == told(
                receiver
            ).keys()
