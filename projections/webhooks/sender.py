"""Sends deliveries: finds them, claims them, has them sent, and marks what became of them.

    find: which endpoints have something due      claim: lease their deliveries, in one statement
    send: `lines` says which is next               mark: what `rules` says, many attempts in one transaction

A process that ends anywhere in this leaves leases behind. They run out, and the deliveries are sent once more: each is
delivered at least once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

import structlog

from contracts.webhooks import DeliveryState, EndpointKind, EndpointState
from projections.webhooks import store
from projections.webhooks.deliveries import Attempt, Delivery, Endpoint, Marked
from projections.webhooks.lines import Lane, Lines, Start, lease_end
from projections.webhooks.metrics import WebhookMetrics
from projections.webhooks.rules import Answer, Health, next_health, next_step
from projections.webhooks.store import Due, Standing
from saga_kit.runtime.backoff import RESTS, Backoff, keep_doing
from saga_kit.runtime.crash_points import reached
from saga_kit.runtime.errors import describe
from saga_kit.runtime.transactions import Transaction, Transactions

FIND_S: Final = 1.0
"""How often all endpoints are looked through for something due; what this process stores itself is known at once."""
IDLE_S: Final = 1.0
TIDY_S: Final = 60.0
TIDY_ROWS_MAX: Final = 1_000
MARK_MAX: Final = 500
DRAIN_S: Final = 16.0
"""At the end, attempts under way have so long to be answered."""

log = structlog.get_logger(__name__)


class SendPoint(StrEnum):
    """Where a sender can crash, besides the places of a batch."""

    CLAIMED = "deliveries claimed"
    """They are leased; nothing is sent."""
    ANSWERED = "delivery answered"
    """The endpoint has answered; nothing is stored of it."""
    MARK_WRITTEN = "attempts written"
    """What became of attempts is written, and not committed."""
    MARKED = "attempts marked"
    """It is committed."""


class Courier(Protocol):
    """Tells one kind of endpoint."""

    async def send(self, endpoint: Endpoint, delivery: Delivery) -> Answer:
        """Send a delivery; return the answer in bounded time. It raises nothing but a cancellation."""


class Sender:
    """Sends what is due to endpoints of the kinds that it has couriers for."""

    def __init__(
        self,
        transactions: Transactions,
        couriers: Mapping[EndpointKind, Courier],
        metrics: WebhookMetrics,
        *,
        in_flight_max: int,
        keep_days: float,
        chance: Callable[[], float] = random.random,
        tell: Callable[[str, str], None] = lambda _title, _text: None,
    ) -> None:
        self._transactions = transactions
        self._couriers = couriers
        self._metrics = metrics
        self._keep_days = keep_days
        self._chance = chance
        self._tell = tell
        self._lines = Lines(in_flight_max)
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._attempts: list[tuple[Attempt, bool]] = []
        self._returned: list[Delivery] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def notice(self, endpoint_ids: Collection[UUID]) -> None:
        """Learn that deliveries of these endpoints are stored."""
        if self._lines.notice(endpoint_ids, _now_s()):
            self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until `stopping`; then let what is under way end, and mark it."""
        over = asyncio.Event()
        marking = asyncio.create_task(self._mark_all(over))
        try:
            await asyncio.gather(
                keep_doing("finding deliveries", self._find, stopping, every_s=FIND_S, rests=RESTS),
                keep_doing("sending", self._send, stopping, every_s=IDLE_S, woken=self._woken),
                keep_doing("deleting deliveries", self._tidy, stopping, every_s=TIDY_S, rests=RESTS),
            )
            self._stopping = True
            self._returned += self._lines.take_back()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=DRAIN_S)
        finally:
            for task in self._tasks:
                task.cancel()  # its lease runs out, and it is sent once more
            over.set()
            self._ended.set()
            await marking

    async def _find(self) -> None:
        async with self._transactions.alone() as tx:
            due = await store.due(tx, self._couriers.keys())
        self._measure(due)
        self._lines.forget_idle()
        if self._lines.found({one.endpoint_id: one.failures for one in due}, _now_s()):
            self._woken.set()

    def _measure(self, due: Sequence[Due]) -> None:
        working = [one.overdue_s for one in due if not one.failures]
        self._metrics.overdue_seconds.set(max(working, default=0.0))
        self._metrics.due_endpoints.labels("no").set(len(working))
        self._metrics.due_endpoints.labels("yes").set(len(due) - len(working))

    async def _send(self) -> bool:
        """Claim what is due and can be sent soon, and start what can start; return whether there is more to claim."""
        self._woken.clear()
        self._start()
        if not (wants := self._lines.wants()):
            await self._wait_for_gap()
            return False
        began_s = _now_s()
        async with self._transactions.begin() as tx:
            found = await store.claim(tx, wants)
        reached(SendPoint.CLAIMED, [one for _, several in found for one in several])
        self._returned += self._lines.claimed(wants, found, lease_end(began_s), _now_s())
        self._ended.set()
        self._start()
        return self._lines.hungry

    async def _wait_for_gap(self) -> None:
        """Have this woken when a pause between two attempts at a throttled endpoint ends."""
        at_s = self._lines.next_at_s()
        if at_s < math.inf:
            asyncio.get_running_loop().call_at(at_s, self._woken.set)

    def _start(self) -> None:
        if self._stopping:
            return
        for one in self._lines.start(_now_s()):
            if isinstance(one, Delivery):
                self._returned.append(one)
                self._ended.set()
                continue
            task = asyncio.create_task(self._attempt(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._show_running()

    async def _attempt(self, begun: Start) -> None:
        answer = await self._send_one(begun)
        reached(SendPoint.ANSWERED, [begun.delivery])
        self._metrics.attempts.labels(begun.endpoint.kind, answer.verdict).inc()
        self._metrics.attempt_seconds.labels(begun.endpoint.kind).observe(answer.duration_s)
        if answer.ours:
            self._metrics.own_failures.labels(begun.endpoint.kind).inc()
        now_s = _now_s()
        shaky, back = self._lines.ended(begun, answer, now_s)
        self._attempts.append((Attempt(begun.delivery, answer, now_s), shaky))
        self._returned += back
        self._ended.set()
        self._start()
        if self._lines.hungry:
            self._woken.set()

    async def _send_one(self, begun: Start) -> Answer:
        try:
            return await self._couriers[begun.endpoint.kind].send(begun.endpoint, begun.delivery)
        except Exception:
            log.exception("a courier failed, which is a bug", kind=begun.endpoint.kind)
            return Answer(None, 0.0, "can't be sent: an operator must look at the log")

    def _show_running(self) -> None:
        for lane in Lane:
            self._metrics.in_flight.labels(lane).set(self._lines.running[lane])

    async def _mark_all(self, over: asyncio.Event) -> None:
        """Mark what has ended until `over`, and then the rest. After an error the same is marked again."""
        backoff = Backoff()
        while not (over.is_set() and not self._attempts and not self._returned):
            await self._ended.wait()
            attempts, back = self._attempts[:MARK_MAX], self._returned[:]
            if not over.is_set() and len(self._attempts) <= len(attempts):
                self._ended.clear()
            if not attempts and not back:
                continue
            try:
                await self._mark(attempts, back)
            except Exception as error:  # noqa: BLE001 - the database is away, most likely; leases outlast a short outage
                self._ended.set()
                delay_s = backoff.next_s()
                log.warning("attempts can't be marked, will try again", cause=describe(error), attempts=len(attempts))
                await asyncio.sleep(delay_s)
            else:
                backoff.reset()
                del self._attempts[: len(attempts)], self._returned[: len(back)]

    async def _mark(self, attempts: Sequence[tuple[Attempt, bool]], back: Sequence[Delivery]) -> None:
        """Store what attempts have come to, for their deliveries and endpoints, in one transaction."""
        shaky = {attempt.delivery.endpoint_id for attempt, is_shaky in attempts if is_shaky}
        async with self._transactions.begin() as tx:
            standings = await store.standings(tx, shaky) if shaky else {}
            health = self._fold([attempt for attempt, _ in attempts], standings)
            marked = [self._step(attempt) for attempt, _ in attempts]
            if marked:
                await store.mark(tx, marked, _now_s())
            if back:
                await store.hand_back(tx, back)
            await self._store_health(tx, standings, health)
            await tx.flush()
            reached(SendPoint.MARK_WRITTEN, attempts)
        reached(SendPoint.MARKED, attempts)
        self._show_marked(marked, health, {key: one.now for key, one in standings.items()})

    def _fold(self, attempts: Sequence[Attempt], standings: Mapping[UUID, Standing]) -> dict[UUID, Health]:
        """Return the health of each locked endpoint after its attempts; one that is DISABLED already stays as it is."""
        health = {key: one.health for key, one in standings.items() if one.active}
        for attempt in attempts:
            key = attempt.delivery.endpoint_id
            if key in health and health[key].given_up is None:
                health[key] = next_health(health[key], attempt.answer, standings[key].now, self._chance())
        return health

    def _step(self, attempt: Attempt) -> Marked:
        step = next_step(attempt.delivery.attempts + 1, attempt.answer, self._chance())
        return Marked(attempt, step.state, step.delay_s, step.reason)

    async def _store_health(
        self, tx: Transaction, standings: Mapping[UUID, Standing], health: Mapping[UUID, Health]
    ) -> None:
        again = [key for key, one in health.items() if not one.failures_in_row and standings[key].health.silent]
        if again:
            await store.bring_forward(tx, again)
        if health:
            store.store_health(tx, health)
        for key, one in health.items():
            if one.given_up is not None:
                await store.tell_disabled(tx, standings[key], one.given_up)

    def _show_marked(
        self, marked: Sequence[Marked], health: Mapping[UUID, Health], now: Mapping[UUID, datetime]
    ) -> None:
        """After the commit: tell the lines and the metrics."""
        now_s = _now_s()
        for one in marked:
            self._lines.marked(one.attempt.delivery.endpoint_id)
            if one.state is not DeliveryState.PENDING:
                self._metrics.ended.labels(one.state).inc()
        for key, state in health.items():
            paused_s = 0.0 if state.paused_until is None else (state.paused_until - now[key]).total_seconds()
            self._lines.stored_health(key, state.failures_in_row, paused_s, now_s)
            if state.given_up is not None:
                why = "gone" if state.given_up.endswith("it is gone") else "failing"
                self._metrics.disabled.labels(why).inc()
                log.warning("an endpoint is disabled", endpoint_id=str(key), why=why)
                self._tell("Order Saga: an endpoint is disabled", f"endpoint {key}: {why}")
        if self._lines.hungry:
            self._woken.set()

    async def _tidy(self) -> bool:
        """Give up what waits for too long, and delete what ended long ago; return whether there may be more."""
        async with self._transactions.alone() as tx:
            expired = await store.give_up_old(tx, TIDY_ROWS_MAX)
            deleted = await store.delete_ended(tx, self._keep_days, TIDY_ROWS_MAX)
            await store.forget_codes(tx)
            counts = await store.count_endpoints(tx)
        for kind in EndpointKind:
            for state in EndpointState:
                self._metrics.endpoints.labels(kind, state).set(counts.get((kind, state), 0))
        self._metrics.expired.inc(expired)
        self._metrics.deleted.inc(deleted)
        return max(expired, deleted) >= TIDY_ROWS_MAX


def _now_s() -> float:
    return asyncio.get_running_loop().time()
