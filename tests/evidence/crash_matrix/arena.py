"""One system in which processes are killed, round after round: arm, provoke, wait for the restart, check everything.

A round kills at most one process of each service, each in a cell of its own. It is over when all killed services work
again, every order has ended and the full check has found nothing. Before the check, the operator's commands replay the
messages that were made poison, and resume the orders that were parked by a false answer.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.checker import assert_all_is_well
from tests.e2e.orders import RETRYABLE
from tests.e2e.system import Servers, System, eventually, running
from tests.e2e.trader import Trader
from tests.e2e.webhooks import tell, told
from tests.evidence.crash_matrix.cells import SET_ASIDE, Cell
from tests.evidence.crash_matrix.provoke import USERS, Provoker, wait_s
from tests.evidence.crash_matrix.service import FOLDER
from tests.evidence.crash_matrix.watcher import PLANTED, Armoury
from tests.projections.webhooks.receivers import Receiver, receiving

SESSION_TIMEOUT_S: Final = "2"
"""A killed member's partitions are reassigned after this time, while its successor starts."""
TIME_SCALE: Final = 0.5
"""A check repeats after 1 s and times out after 15 s: longer than three services need to restart."""
HIT_WITHIN_S: Final = 180.0
PARKED_FOR: Final = re.compile(rf"{PLANTED}|a lie")
"""The only reasons for which orders may park."""
FIRED: Final = """
    SELECT o.order_id::text, o.average_price,
        (SELECT count(*) FROM audit.history h WHERE h.order_id = o.order_id AND h.name = 'Fired') AS fires
    FROM audit.orders o WHERE o.order_id = ANY($1::uuid[])"""
SCHEMAS: Final = ("orders", "balances", "assets", "webhooks")
LEASE_OVER_S: Final = 60.0
"""Longer than the lease on a row whose relay was killed."""
TOLD_WITHIN_S: Final = 150.0
"""Longer than twice the lease on a webhook whose sender was killed."""


class Outcome(NamedTuple):
    """The result of a cell. `trouble`: what was wrong after it, None when the system survived it."""

    cell: Cell
    hit: bool
    trouble: str | None
    seconds: float


class Arena:
    """A running system, watched."""

    def __init__(self, system: System, trader: Trader, armoury: Armoury, receiver: Receiver) -> None:
        self._system = system
        self._trader = trader
        self._receiver = receiver
        self._armoury = armoury
        self._provoker = Provoker(system, trader)

    async def prepare(self) -> None:
        """Set up users and assets."""
        await self._provoker.prepare()
        for user_id in (*USERS, "carol"):
            await tell(self._system.stack, user_id, self._receiver.url, every_version=True)

    async def play(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Run a round that hits each of `cells` (of different services); return the outcomes."""
        begin = time.monotonic()
        for cell in cells:
            self._armoury.arm(cell)
        trouble = None
        try:
            async with asyncio.TaskGroup() as round_:
                operating = round_.create_task(self._operate())
                await asyncio.gather(*(self._hit(cell) for cell in cells))
                await asyncio.gather(*(self._is_back(cell) for cell in cells))
                await self._check(cells)
                operating.cancel()
        except* Exception as found:  # noqa: BLE001 - whatever it is, it is what was found
            trouble = _in_short(found)
        for cell in cells:
            self._armoury.disarm(cell.service)
        seconds = time.monotonic() - begin
        return [Outcome(cell, self._armoury.hit(cell) is not None, trouble, seconds) for cell in cells]

    async def close(self) -> str | None:
        """Expect empty outboxes and no process that ended by itself; return what is wrong, or None."""
        try:
            await eventually(self._nothing_is_unsent, "the outboxes are empty", within_s=LEASE_OVER_S)
        except AssertionError as error:
            return str(error)
        lines = [line for log in self._system.stack.logs.glob("*.log") for line in log.read_text().splitlines()]
        died = [line for line in lines if re.search(r"\[critical|a part failed", line)]
        return f"a process ended by itself: {died[0]}" if died else None

    async def _hit(self, cell: Cell) -> None:
        """Provoke the message until a process has died in this cell."""
        give_up_at = time.monotonic() + HIT_WITHIN_S
        while self._armoury.hit(cell) is None:
            assert time.monotonic() < give_up_at, f"{cell.name} was not hit within {HIT_WITHIN_S:g} s"
            await self._provoker.provoke(cell)
            await self._waited(cell)

    async def _waited(self, cell: Cell) -> None:
        until = time.monotonic() + wait_s(cell)
        while self._armoury.hit(cell) is None and time.monotonic() < until:
            await asyncio.sleep(0.05)

    async def _is_back(self, cell: Cell) -> None:
        """Wait until another process has replaced the one that died."""
        marker = self._armoury.hit(cell)
        assert marker is not None
        await eventually(lambda: self._system.is_replaced(cell.service, 0, marker["pid"]), f"{cell.service} is back")

    async def _check(self, cells: Sequence[Cell]) -> None:
        ends = await self._trader.ended(self._trader.accepted)
        accepted = self._trader.accepted
        surprises = {order_id: end for order_id, end in ends.items() if end not in accepted[order_id].announced}
        interfered = {order_id for order_id, wanted in accepted.items() if wanted.ends.endswith("EXECUTION_FAILED")}
        unexpected = {k: v for k, v in surprises.items() if v not in RETRYABLE and k not in interfered}
        assert unexpected == {}, f"orders ended otherwise than announced: {unexpected}"
        await self._replay_dead_letters(cells)
        await self._provoker.settle_holds()
        await assert_all_is_well(self._system, self._trader)
        await eventually(self._all_is_told, "receivers are told every version", within_s=TOLD_WITHIN_S)
        planned = self._provoker.planned
        rows = await self._system.rows(FIRED, list(planned))
        fired_at = {row["order_id"]: row["average_price"] for row in rows}
        assert planned == fired_at, "an order was fired by a tick that was not planned"
        assert [] == [row["order_id"] for row in rows if row["fires"] != 1], "not fired exactly once"

    async def _all_is_told(self) -> bool:
        """Tell whether each version of each order has come to its user's receiver, verified."""
        came = told(self._receiver)
        return all(
            {one["version"] for one in came.get(order_id, ())} == set(self._system.events.versions(order_id))
            for order_id in self._trader.accepted
        )

    async def _operate(self) -> None:
        """Resume parked orders as an operator would; an order that this matrix did not park is a fault."""
        statement = "SELECT order_id::text, parked_reason FROM audit.orders WHERE parked_reason IS NOT NULL"
        while True:
            for order_id, reason in await self._system.rows(statement):
                assert PARKED_FOR.search(reason), f"order {order_id} is parked: {reason}"
                await self._system.cli("resume", order_id)
            await self._provoker.repeat()
            await asyncio.sleep(0.2)

    async def _replay_dead_letters(self, cells: Sequence[Cell]) -> None:
        """Replay the dead letters that this round planted; any other dead letter is a fault."""
        for schema in SCHEMAS:
            rows = await self._system.owner_rows(
                f"SELECT dead_letter_id, reason FROM {schema}.dead_letters"
                " WHERE replayed_at IS NULL AND discarded_at IS NULL"
            )
            for number, reason in rows:
                assert PLANTED in reason, f"dead letter {schema}/{number}: {reason}"
                assert any(cell.point in SET_ASIDE for cell in cells), f"dead letter {schema}/{number}"
                done = await self._system.cli("dead-letters", "replay", f"{schema}/{number}")
                assert done.code == 0, done.err

    async def _nothing_is_unsent(self) -> bool:
        counts = [(await self._system.owner_rows(f"SELECT count(*) FROM {schema}.outbox"))[0][0] for schema in SCHEMAS]
        return not any(counts)


@asynccontextmanager
async def arena(servers: Servers, folder: Path) -> AsyncIterator[Arena]:
    """Run a system without an API (the orders come by Kafka), one process of each service, each of them watched."""
    armoury = Armoury(folder / "armoury")
    environment = {FOLDER: str(folder / "armoury"), "KAFKA_SESSION_TIMEOUT_S": SESSION_TIMEOUT_S}
    command = (sys.executable, "-m", "tests.evidence.crash_matrix.service")
    async with receiving() as receiver, running(
        servers, folder, replicas={"api": 0, "webhooks": 1}, time_scale=TIME_SCALE, environment=environment,
        command=command, pause_max_s=0.2,
    ) as system, Trader(system) as trader:  # fmt: skip
        one = Arena(system, trader, armoury, receiver)
        await one.prepare()
        yield one


def _in_short(found: BaseExceptionGroup[BaseException]) -> str:
    first = found.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return f"{type(first).__name__}: {str(first)[:1000]}"
