"""The orchestrator's composition root: builds the parts and hands them to the kit."""

from __future__ import annotations

import asyncio
import time

from order_saga.core.phases import QUESTIONS
from order_saga.core.saga import Incoming
from order_saga.triggers.metrics import TriggerMetrics, keep_tidy, refresh_ages
from order_saga.triggers.process import TriggerHandler
from order_saga.worker.admission import AdmissionLimit
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics, refresh_gauges
from order_saga.worker.process import ChangeHandler, SagaHandler
from order_saga.worker.settings import OrchestratorSettings
from order_saga.worker.tables import SCHEMA
from order_saga.worker.timers import run_expiries, run_fires, run_timers
from saga_kit.messaging.batch import BatchProcess
from saga_kit.runtime.settings import load
from saga_kit.service import FurtherConsumer, Kit, run_service

SCAN_INTERVAL_S = 0.25


def run() -> int:
    """Run one orchestrator until it is told to stop; return the exit status."""
    settings = load(OrchestratorSettings)
    scale = settings.order_saga_time_scale
    breaker, metrics, fired = CircuitBreaker(), SagaMetrics(), asyncio.Event()
    trigger_metrics = TriggerMetrics()
    # However slow the saga's clock runs, nothing keeps orders out for longer than at its usual pace.
    admission = AdmissionLimit(time.monotonic, young_s=min(row.retry_s for row in QUESTIONS.values()) * min(1.0, scale))

    def handler(kit: Kit) -> SagaHandler:
        metrics.register(kit.registry)
        metrics.watch(admission)
        return SagaHandler(
            time_scale=scale,
            metrics=metrics,
            breaker=breaker,
            admission=admission,
            max_open_orders=settings.order_saga_max_open_orders,
        )

    async def timers(kit: Kit, process: BatchProcess[Incoming]) -> None:
        await run_timers(
            kit.transactions, process, breaker, kit.stopping, interval_s=SCAN_INTERVAL_S * min(1.0, scale * 2)
        )

    async def expiries(kit: Kit, process: BatchProcess[Incoming]) -> None:
        await run_expiries(kit.transactions, process, kit.stopping, interval_s=SCAN_INTERVAL_S)

    async def fires(kit: Kit, process: BatchProcess[Incoming]) -> None:
        await run_fires(kit.transactions, process, admission, fired, kit.stopping, interval_s=SCAN_INTERVAL_S)

    async def gauges(kit: Kit, _process: BatchProcess[Incoming]) -> None:
        await refresh_gauges(kit.transactions, metrics, kit.stopping)

    def changes(_kit: Kit) -> ChangeHandler:
        return ChangeHandler(time_scale=scale, metrics=metrics, breaker=breaker, admission=admission)

    def triggers(kit: Kit) -> TriggerHandler:
        trigger_metrics.register(kit.registry)
        return TriggerHandler(kit.transactions, metrics=trigger_metrics, on_fired=lambda _ids: fired.set())

    async def ages(kit: Kit, _process: BatchProcess[Incoming]) -> None:
        await refresh_ages(kit.transactions, trigger_metrics, kit.stopping)

    async def tidying(kit: Kit, _process: BatchProcess[Incoming]) -> None:
        await keep_tidy(kit.transactions, kit.stopping)

    return run_service(
        settings,
        name="orchestrator",
        schema=SCHEMA,
        handler=handler,
        tasks=(timers, expiries, fires, gauges, ages, tidying),
        # Ticks and changes have consumers of their own: they wait behind no batch of orders, nor these behind them. The
        # group is still called as when it took cancels alone, so that it goes on where it is.
        further=[FurtherConsumer("triggers", triggers), FurtherConsumer("cancels", changes)],
    )
