"""What the orchestrator counts for Prometheus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from contracts.amends import AmendState
from contracts.terms import WAITS
from order_saga.core.phases import IDLE, PASSED, PHASES, TERMINAL
from order_saga.core.saga import Participant, Phase
from order_saga.worker import resting_store, store
from saga_kit.runtime.backoff import RESTS, keep_doing
from saga_kit.runtime.transactions import begin

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from sqlalchemy.ext.asyncio import AsyncEngine

    from order_saga.core.fold import Folded
    from order_saga.core.saga import HistoryEntry
    from order_saga.worker.admission import AdmissionLimit
    from saga_kit.runtime.transactions import Begins

INTERVAL_S: Final = 5.0
COUNT_INTERVAL_S: Final = 60.0
_CHANGES: Final = frozenset({"amended", "amend_refused", "held", "released"})
"""Lines of a history that say what became of a change."""
ARCHIVED: Final = "archived"
"""Besides the core's reasons to ignore a message: its order ended long ago and is archived."""
SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class SagaMetrics:
    """The orchestrator's own metrics, counted once a batch after its commit."""

    def __init__(self) -> None:
        self.accepted = Counter("orders_accepted", "Orders taken on.", registry=None)
        self.finished = Counter("orders_finished", "Orders ended.", ["status", "reason_code"], registry=None)
        self.duration = Histogram(
            "order_duration_seconds", "From request to end.", ["may_wait"], buckets=SECONDS, registry=None
        )
        self.ignored = Counter("saga_replies_ignored", "Messages that moved nothing.", ["why"], registry=None)
        self.amends = Counter("order_amends", "Amends that have ended.", ["outcome"], registry=None)
        self.suspensions = Counter("order_suspensions", "Orders held and released.", ["change"], registry=None)
        self.parked_now = Gauge("saga_parked_orders", "Orders that wait for an operator.", registry=None)
        self.overdue = Gauge("saga_overdue_orders", "Orders that ask for longer than they should.", registry=None)
        self.phases = Gauge("saga_phase_orders", "Orders that have not ended.", ["phase"], registry=None)
        self.limit = Gauge("saga_admission_limit", "Questions that may wait for an answer at once.", registry=None)
        self.in_flight = Gauge("saga_admission_in_flight", "Young questions that wait for an answer.", registry=None)
        self.resting = Gauge("saga_resting_orders", "Orders that wait for the market, none on hold.", registry=None)
        self.unexecuted = Gauge("saga_fired_orders", "Orders that a tick has fired, not executed yet.", registry=None)
        self.paused = Gauge("saga_participant_paused", "1: nobody asks it.", ["participant"], registry=None)

    def register(self, registry: CollectorRegistry) -> None:
        """Show everything on a process's metrics page."""
        for metric in vars(self).values():
            registry.register(metric)

    def watch(self, admission: AdmissionLimit) -> None:
        """Show an admission limit as it is whenever somebody looks."""
        self.limit.set_function(lambda: admission.limit)
        self.in_flight.set_function(lambda: admission.in_flight)

    def count(self, folded: Folded, archived: int = 0) -> None:
        """Count what a committed batch decided, and messages of archived orders, which it left out."""
        for event in folded.events:
            if event.version == 1:
                self.accepted.inc()
            if event.status.terminal:
                self.finished.labels(event.status.value, event.reason_code or "").inc()
                took_s = max(0.0, (event.occurred_at - event.order.created_at).total_seconds())
                self.duration.labels(str(event.order.time_in_force in WAITS).lower()).observe(took_s)
        for why, number in folded.ignored.items():
            self.ignored.labels(why.value).inc(number)
        if archived:
            self.ignored.labels(ARCHIVED).inc(archived)
        for entry in (entry for row in folded.history.values() for entry in row.entries):
            if entry.kind in _CHANGES:
                self._count_change(entry)

    def _count_change(self, entry: HistoryEntry) -> None:
        if entry.kind in {"held", "released"}:
            self.suspensions.labels(entry.kind).inc()
        else:
            self.amends.labels(entry.detail.get("reason_code", AmendState.APPLIED)).inc()


async def refresh_gauges(source: AsyncEngine | Begins, metrics: SagaMetrics, stopping: asyncio.Event) -> None:
    """Set the gauges from the tables, every few seconds, until told to stop; once a minute for resting orders."""

    async def look() -> None:
        async with begin(source) as tx:
            phases, parked, overdue = await store.counts(tx)
            paused = await store.paused(tx)
            fired = await resting_store.count_fired(tx)
        for phase in PHASES.keys() - TERMINAL - IDLE - PASSED - {Phase.NEW}:
            metrics.phases.labels(phase.value).set(phases.get(phase.value, 0))
        metrics.unexecuted.set(fired)
        metrics.parked_now.set(parked)
        metrics.overdue.set(overdue)
        for participant in Participant:
            metrics.paused.labels(participant.value).set(participant in paused)

    async def count_resting() -> None:
        async with begin(source) as tx:
            waiting, idle = await resting_store.count_resting(tx)
        metrics.resting.set(waiting)
        for phase, number in idle.items():
            metrics.phases.labels(phase.value).set(number)

    await asyncio.gather(
        keep_doing("gauges", look, stopping, every_s=INTERVAL_S, rests=RESTS),
        keep_doing("count of resting orders", count_resting, stopping, every_s=COUNT_INTERVAL_S, rests=RESTS),
    )
