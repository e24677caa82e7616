"""Audit again and again. Each run reads everything: an old row can be corrupted as well as a new one.

Only the findings of the last run are stored. When the database is away, the run fails and the next one connects again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from operations.audit.checks import CHECKS
from operations.audit.look import Audited, audit_on, connection_to
from saga_kit.runtime.backoff import pause
from saga_kit.runtime.errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from operations.audit.look import Finding

INVARIANTS: Final = sorted({check.invariant for check in CHECKS}, key=lambda name: int(name[1:]))
RESULTS: Final = ("clean", "findings", "failed")


class AuditMetrics:
    """The metrics of a repeated audit."""

    def __init__(self) -> None:
        """Create a series for each invariant and result, so that 0 differs from unknown."""
        self.registry = CollectorRegistry()
        self.findings = Gauge("audit_findings", "What the last run found.", ["invariant"], registry=self.registry)
        self.duration = Gauge("audit_duration_seconds", "How long the last run took.", registry=self.registry)
        self.orders = Gauge("audit_orders", "Orders that the last run looked at.", registry=self.registry)
        self.last_success = Gauge(
            "audit_last_success_timestamp_seconds", "When a run last came to its end.", registry=self.registry
        )
        self.ledger_seen = Gauge(
            "audit_ledger_seen", "Whether the last run could see the ledger; if not, it judged no money.",
            registry=self.registry,
        )  # fmt: skip
        self.runs = Counter("audit_runs", "Runs: clean, findings or failed.", ["result"], registry=self.registry)
        for result in RESULTS:
            self.runs.labels(result)

    def ended(self, done: Audited, seconds: float) -> None:
        """Show a run that came to its end."""
        tally = Tally(finding.invariant for finding in done.findings)
        for invariant in INVARIANTS:
            self.findings.labels(invariant).set(tally[invariant])
        self.duration.set(seconds)
        self.orders.set(done.orders)
        self.ledger_seen.set(not done.hidden)
        self.last_success.set_to_current_time()
        self.runs.labels("findings" if done.findings else "clean").inc()


async def watch(
    database: str,
    stopping: asyncio.Event,
    metrics: AuditMetrics,
    say: Callable[[str], None],
    *,
    every_s: float,
    ledger: str = "",
    alarm: Callable[[str], None] = lambda _findings: None,
) -> int:
    """Audit, then every `every_s` from the begin of one run to the next, until `stopping`; return the exit status.

    That is the last run's: 0 clean, 1 with findings or failed. One line a run, and one for each finding that is new;
    `alarm` gets those that are new in one text.
    """
    known: set[Finding] = set()
    status = 0
    while True:
        began = time.monotonic()
        try:
            async with connection_to(database) as connection:
                done = await _or_stop(audit_on(connection, ledger=ledger), stopping)
        except (SQLAlchemyError, OSError) as error:
            metrics.runs.labels("failed").inc()
            say(f"failed: {describe(error)}")
            status = 1
        else:
            if done is None:
                return status
            took_s = time.monotonic() - began
            metrics.ended(done, took_s)
            new = [finding for finding in done.findings if finding not in known]
            lines = [f"{one.invariant} {one.order_id or ''} {one.what}".replace("  ", " ") for one in new]
            for line in lines:
                say(line)
            if lines:
                alarm("\n".join(lines))
            known, status = set(done.findings), int(bool(done.findings))
            unseen = f", not the ledger: {done.hidden}" if done.hidden else ""
            say(f"{done.orders} orders in {took_s:.1f} s: {len(done.findings) or 'no'} findings{unseen}")
        if await pause(stopping, max(0.0, began + every_s - time.monotonic())):
            return status


async def _or_stop(audit: Coroutine[Any, Any, Audited], stopping: asyncio.Event) -> Audited | None:
    """Wait for a run, but end it when the process must stop; return None then."""
    running = asyncio.create_task(audit)
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not running.done():
        running.cancel()
        await asyncio.wait({running})
        return None
    return running.result()
