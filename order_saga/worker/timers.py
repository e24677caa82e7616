"""The scanner: finds orders whose time has come and has them handled as messages, in batches like all others.

Orders that a tick has fired are executed the same way: their rows are what was decided, so none is lost by a crash. The
trigger engine wakes the scanner for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from order_saga.core.saga import ExpiryDue, Incoming, TimerDue
from order_saga.worker import resting_store, store
from order_saga.worker.market import RestingPoint
from saga_kit.messaging.batch import Received
from saga_kit.runtime.backoff import keep_doing
from saga_kit.runtime.crash_points import CrashPoint, reached
from saga_kit.runtime.lookback import LookBack
from saga_kit.runtime.transactions import alone

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from order_saga.core.saga import Phase
    from order_saga.worker.admission import AdmissionLimit
    from order_saga.worker.circuit_breaker import CircuitBreaker
    from saga_kit.messaging.batch import BatchProcess
    from saga_kit.runtime.transactions import Begins, Transaction

FIRED_MAX: Final = 192
"""Fired orders of one batch: the orders beside them wait no longer for it than for a usual one."""
FIRED_MIN: Final = 64
"""With less room for them than this, they wait for more: small batches cost more for each order."""
ROOM_EVERY_S: Final = 0.005
ROUND_MAX: Final = 500
"""Orders of one round: as many as a batch of messages."""
WAKE_MAX: Final = 5_000
WAKE_PAGES_MAX: Final = 200
PROBES: Final = 10
"""Orders of a round that ask a silent participant all the same ..."""
PROBE_EVERY_S: Final = 1.0
"""... in one round in this time, however many rounds there are."""


async def run_timers(
    source: AsyncEngine | Begins,
    process: BatchProcess[Incoming],
    breaker: CircuitBreaker,
    stopping: asyncio.Event,
    *,
    interval_s: float,
) -> None:
    """Scan until told to stop: at once again after a full round, else after `interval_s`."""
    scanner = _Scanner(source, process, breaker)

    async def scan() -> bool:
        return await scanner.scan() == ROUND_MAX

    await keep_doing("timers", scan, stopping, every_s=interval_s)


async def run_expiries(
    source: AsyncEngine | Begins, process: BatchProcess[Incoming], stopping: asyncio.Event, *, interval_s: float
) -> None:
    """End resting orders whose time has come until told to stop, looking every `interval_s`."""

    async def expire() -> bool:
        async with alone(source) as tx:
            order_ids = await resting_store.expired(tx, ROUND_MAX)
        if order_ids:
            reached(RestingPoint.EXPIRIES_FOUND, order_ids)
        await process.run([Received(ExpiryDue(order_id)) for order_id in order_ids])
        return len(order_ids) == ROUND_MAX

    await keep_doing("expiries", expire, stopping, every_s=interval_s)


async def run_fires(
    source: AsyncEngine | Begins,
    process: BatchProcess[Incoming],
    admission: AdmissionLimit,
    woken: asyncio.Event,
    stopping: asyncio.Event,
    *,
    interval_s: float,
) -> None:
    """Execute orders that ticks have fired until told to stop: when `woken`, and every `interval_s` in any case.

    The admission limit says how many at once, so that a mass of them leaves room for other orders; while it has not
    much room for them, it is waited for, since larger batches cost less.
    """

    async def execute() -> bool:
        woken.clear()
        most = min(FIRED_MAX, admission.room_for_fires())
        if most < FIRED_MIN:
            await asyncio.sleep(ROOM_EVERY_S)
            return True
        async with alone(source) as tx:
            order_ids = await resting_store.fired(tx, most)
        if order_ids:
            reached(RestingPoint.FIRES_FOUND, order_ids)
        with admission.firing(order_ids):
            await process.run([Received(TimerDue(order_id)) for order_id in order_ids])
        return bool(order_ids)

    await keep_doing("fires", execute, stopping, every_s=interval_s, woken=woken)


class _Scanner:
    """Keeps, between rounds, which phases it still wakes and when it last probed."""

    def __init__(self, source: AsyncEngine | Begins, process: BatchProcess[Incoming], breaker: CircuitBreaker) -> None:
        self._source, self._process, self._breaker = source, process, breaker
        self._waking: set[Phase] = set()
        self._pages = 0
        self._probed_at = -PROBE_EVERY_S
        self._lookback = LookBack()

    async def scan(self) -> int:
        """Do a round; return how many orders were due."""
        if back := self._breaker.closed_again():
            self._waking |= set(back)
            self._pages = WAKE_PAGES_MAX
        with self._lookback.look() as look:
            async with alone(self._source) as tx:
                order_ids = await store.due(tx, ROUND_MAX, look.back_s)
                if self._waking and len(order_ids) < ROUND_MAX:
                    await self._wake(tx)
                    order_ids = await store.due(tx, ROUND_MAX, look.back_s)
            look.saw_all = len(order_ids) < ROUND_MAX
        timers = self._timers(order_ids)
        if timers:
            reached(CrashPoint.TIMERS_FOUND, timers)
            await self._process.run(timers)
        return len(timers)

    async def _wake(self, tx: Transaction) -> None:
        """Wake a page of the orders whose participant answers again. The next page comes when these have been asked."""
        woken = await store.wake(tx, sorted(self._waking), WAKE_MAX)
        self._pages -= 1
        if woken < WAKE_MAX or not self._pages:
            self._waking = set()

    def _timers(self, order_ids: list[UUID]) -> list[Received[Incoming]]:
        """Make the timers of a round. While a breaker is open, the first ones are probes once in `PROBE_EVERY_S`."""
        now = asyncio.get_running_loop().time()
        probes = 0
        if order_ids and self._breaker.silent() and now - self._probed_at >= PROBE_EVERY_S:
            probes, self._probed_at = PROBES, now
        return [Received(TimerDue(order_id, probe=number < probes)) for number, order_id in enumerate(order_ids)]
