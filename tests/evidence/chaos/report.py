"""Shows a run to people: its figures and tables, on the terminal and in the record for the evidence page."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table as Shown

from tests.evidence import record as evidence
from tests.evidence.chaos.run import Outcome
from tests.evidence.chaos.schedule import KILLS, Kind

FINDINGS_SHOWN = 40
KINDS = ("lost", "doubled", "money", "trigger", "stream", "webhook")
"""Findings that have a figure of their own."""


def figures(outcome: Outcome) -> dict[str, int | float | str]:
    """Return a run's figures by name."""
    done = [one for one in outcome.faults if not one.not_done]
    return {
        "kills": sum(one.fault.kind in KILLS for one in done),
        "faults in all": len(done),
        "fewest orders in flight at a fault": min((one.in_flight for one in outcome.faults), default=0),
        "orders": outcome.orders,
        "orders lost": _found(outcome, "lost"),
        "effects doubled": _found(outcome, "doubled"),
        "sums of money that are off": _found(outcome, "money"),
        "other findings": len(outcome.findings) - sum(_found(outcome, kind) for kind in KINDS),
        "versions told on the wire": outcome.events,
        "told more than once": outcome.repeated_events,
        "unreadable messages kept": outcome.dead_letters,
        "prices read": outcome.ticks,
        "conditional orders": sum(outcome.types.values()),
        "of these, resting at most at a time": outcome.resting_most,
        **{f"of these, {what}": number for what, number in sorted(outcome.waited.items())},
        "ticks that disagree with the oracle": _found(outcome, "trigger"),
        **dict(sorted(outcome.watched.items())),
        "what streams did not show as it is, or not at all": _found(outcome, "stream"),
        "webhooks that never came, or not as they should": _found(outcome, "webhook"),
        "latency p50, s": _percentile(outcome.latencies_s, 0.50),
        "latency p95, s": _percentile(outcome.latencies_s, 0.95),
        "latency p99, s": _percentile(outcome.latencies_s, 0.99),
        "latency max, s": _percentile(outcome.latencies_s, 1.0),
        "longest time in which no order ended, s": round(outcome.longest_pause_s, 1),
        "longest until all that was in flight at a fault had ended, s": round(outcome.longest_recovery_s, 1),
        "all had ended so long after the last fault, s": round(outcome.quiet_after_s, 1),
    }


def tables(outcome: Outcome) -> list[evidence.Table]:
    """Make the run's tables."""
    made: list[evidence.Table] = [_faults(outcome)]
    for title, columns, counts in (
        ("Wishes", ["what, by REST or Kafka", "number"], outcome.placed),
        ("How conditional orders ended", ["type and status", "orders"], outcome.types),
        ("How orders ended", ["status and reason", "orders"], outcome.ends),
        ("What the API answered", ["status code", "answers"], outcome.answers),
        ("What the system counted itself (at least)", ["metric", "count"], Counter(outcome.counters)),
    ):
        made.append(evidence.Table(title, columns, [[name, f"{number:,}"] for name, number in counts.most_common()]))
    return made


def show(outcome: Outcome, console: Console) -> None:
    """Print everything."""
    for table in tables(outcome):
        shown = Shown(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    shown = Shown("figure", "", title="The run", title_justify="left")
    for name, figure in figures(outcome).items():
        shown.add_row(name, f"{figure:,}" if not isinstance(figure, str) else figure)
    console.print(shown)
    for finding in outcome.findings[:FINDINGS_SHOWN]:
        console.print(str(finding), style="red", markup=False, highlight=False, soft_wrap=True)
    if more := len(outcome.findings) - FINDINGS_SHOWN:
        console.print(f"... and {more} more" if more > 0 else "", style="red")


def not_done(outcome: Outcome) -> list[str]:
    """Say which faults were not done, and why, a line for each kind."""
    reasons = Counter((one.fault.kind.value, one.not_done) for one in outcome.faults if one.not_done)
    return [f"not done: {kind} ({number} times): {why}" for (kind, why), number in reasons.items()]


def _faults(outcome: Outcome) -> evidence.Table:
    rows = []
    for kind in Kind:
        of_kind = [one for one in outcome.faults if one.fault.kind is kind]
        done = [one for one in of_kind if not one.not_done]
        targets = Counter(one.fault.target for one in done)
        told = ", ".join(f"{target} {number}" for target, number in sorted(targets.items()))
        slowest_s = max((one.recovered_s for one in done if one.recovered_s is not None), default=0.0)
        rows.append([kind.value, str(len(done)), str(len(of_kind) - len(done)), f"{slowest_s:.1f} s", told])
    columns = ["fault", "done", "not done", "longest until an order that came later had ended", "to whom"]
    return evidence.Table("Faults", columns, rows)


def _found(outcome: Outcome, kind: str) -> int:
    return sum(finding.kind == kind for finding in outcome.findings)


def _percentile(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(len(values) * share))], 3) if values else 0.0
