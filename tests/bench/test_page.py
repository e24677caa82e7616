"""The pages show what the records hold: missed targets, absent records, and numbers computed by the formulae."""

from __future__ import annotations

import pytest

from tests.bench import scaling
from tests.bench.page import SCENARIOS, page
from tests.bench.scenario import CPU, RATIOS, SPEED, WAL, Target, spreads
from tests.bench.weigh import BYTES, DISK, MESSAGES, ROWS
from tests.evidence.record import Record, Spread, Table

LOOP = {
    RATIOS: {"system / lean, orders/s": [0.6, 0.4, 0.5]},
    SPEED: {"system, orders/s": [1000.0]},
    CPU: {
        "system: orchestrator": [100.0],
        "system: balance": [70.0],
        "system: assets": [35.0],
        "system: postgres": [140.0],
        "system: broker": [20.0],
    },
    WAL: {"system": [10_000.0]},
    MESSAGES: {"all": [11.0]},
    BYTES: {"all": [6000.0], "orders.events": [3000.0]},
    ROWS: {"all": [12.0]},
    DISK: {"all": [5000.0]},
}


def record(name: str, figures: dict[str, dict[str, list[float]]], **more: list[str]) -> Record:
    """Make a record."""
    counts: dict[str, int | float | str] = {"orders": 1_000_000}
    return Record(
        name=name,
        title="",
        what="",
        command=f"repeat {name}",
        commit="abc",
        changed=False,
        began_at="2026-01-01 00:00 UTC",
        duration_s=10,
        machine="2 CPUs",
        counts=counts,
        tables=[Table("Part by part", ["part"], [["1"]])],
        figures=spreads(figures),
        **more,
    )


LOOP_ON_KAFKA = record("loop-kafka", LOOP)


def test_every_scenario_is_on_the_page_and_what_was_not_measured_is_absent() -> None:
    """A page without records has a section for each scenario, with the command that would make the record."""
    text = page([])
    for scenario in SCENARIOS:
        assert f"\n## {scenario.title}\n" in text
        assert f'Absent: no full run has been recorded. `make bench ARGS="{scenario.name} --broker kafka' in text
        for target in scenario.targets:
            assert f"| {target.words} |" in text
    assert "Cannot be measured there: the embedded broker has one member a group." in text
    assert "**missed**" not in text


def test_a_record_is_shown_with_its_median_and_spread() -> None:
    """A record is shown with machine, command, figures, counts and tables, under its own broker only."""
    text = page([LOOP_ON_KAFKA])
    assert "| **system / lean, orders/s** | 0.5 | 0.4 | 0.6 |" in text
    assert "`repeat loop-kafka`" in text
    assert "2026-01-01 00:00 UTC, 10 s; 2 CPUs." in text
    assert "| orders | 1,000,000 |" in text
    assert "Part by part:" in text
    assert 'ARGS="loop --broker embedded --record"' in text
    assert 'ARGS="loop --broker kafka --record"' not in text


def test_targets_are_judged_where_there_is_a_record() -> None:
    """A target is met at the limit itself, missed beyond it, and absent without a figure."""
    text = page([LOOP_ON_KAFKA])
    assert "| ≥ 0.5 | 0.5, met | absent |" in text
    assert "| 80 µs of PostgreSQL for an order; measured with both ledgers | ≤ 80 | 140, **missed** | absent |" in text
    assert "| forty times DBOS | ≥ 40 | absent | absent |" in text


def test_what_was_wrong_is_not_hidden() -> None:
    """A run that found something says so on the page."""
    assert "**Wrong:** 3 accepted orders are missing" in page(
        [record("rest-kafka", {}, found=["3 accepted orders are missing"])]
    )


@pytest.mark.parametrize(
    ("bound", "median", "met"),
    [("at least", 2, True), ("at least", 1.99, False), ("at most", 2, True), ("at most", 2.01, False)],
)
def test_a_target_is_met_by_the_median(bound: str, median: float, met: bool) -> None:  # noqa: FBT001 - a table's column
    """A median at the limit meets the target; without the figure there is no verdict."""
    target = Target("", "it", "at least" if bound == "at least" else "at most", 2)
    assert target.met({RATIOS: {"it": Spread(median, 0, 9, [])}}) is met
    assert target.met({RATIOS: {}}) is None
    assert target.met({}) is None


def test_titles_are_anchors() -> None:
    """A title has no character that an anchor would drop, since the table of targets links to the sections."""
    assert [] == [one.title for one in SCENARIOS if not one.title.replace(" ", "").replace(",", "").isalpha()]


def test_the_plan_follows_from_the_formulae() -> None:
    """At 100 µs of the orchestrator for an order and 70 % of a core, one process carries 7,000 orders/s."""
    one = scaling.model([LOOP_ON_KAFKA])
    assert one is not None
    assert [1, 2, 143] == [scaling.processes(rate, one.cpu_s["orchestrator"]) for rate in (1000, 10_000, 1_000_000)]
    assert [3, 3, 180] == [scaling.brokers(rate, one.wire) for rate in (1000, 10_000, 1_000_000)]
    found = {limit.what: round(limit.orders_per_s) for limit in scaling.limits(one)}
    assert found["one orchestrator process"] == 7000
    assert found["12 orchestrator processes: one a partition"] == 84_000
    assert found["PostgreSQL on 16 cores"] == 80_000
    assert found["PostgreSQL's log at 200 MB/s"] == 20_000
    assert scaling.cell(one).what == "PostgreSQL's log at 200 MB/s"
    text = scaling.page([LOOP_ON_KAFKA])
    assert "| **cells** | 1 | 1 | 50 |" in text
    assert "| orchestrator processes | 1 | 2 | 143 |" in text
    assert "| disk for a day's orders, GB | 432 | 4,320 | 432,000 |" in text


def test_the_plan_takes_kafkas_numbers_first_and_the_hot_accounts_where_there_are_any() -> None:
    """Numbers of the embedded broker are used where Kafka has none, and a missing record is shown as absent."""
    embedded = record("loop-embedded", LOOP | {SPEED: {"system, orders/s": [5.0]}})
    hot = record("hot-embedded", {CPU: {"hot: balance": [35.0]}})
    models = [scaling.model(known) for known in ([embedded], [embedded, LOOP_ON_KAFKA], [embedded, hot])]
    assert [(5.0, 70), (1000.0, 70), (5.0, 35)] == [
        (one.orders_per_s, round(one.hot_cpu_s * 1e6)) for one in models if one is not None
    ]
    assert "Absent: no full run of the whole loop has been recorded." in scaling.page([hot])
    assert "| API processes | absent | absent | absent |" in scaling.page([embedded])


def test_the_plan_reckons_with_what_was_found_of_its_assumptions() -> None:
    """The plan uses CPU time near the peak and the cost of two processes of a kind; members share partitions evenly."""
    ratios = {f"two / one, CPU per order of {name}": [by] for name, by in (("orchestrator", 1.2), ("balance", 0.9))}
    records = [
        LOOP_ON_KAFKA,
        record("rate-kafka", {CPU: {"at 85 %: orchestrator": [140.0]}}),
        record("pair-kafka", {RATIOS: ratios}),
        record("growth-kafka", {RATIOS: {"large / small, CPU per order of postgres": [1.04]}}),
    ]
    one = scaling.model(records)
    assert one is not None
    assert [140, 70] == [round(one.cpu_s[name] * 1e6) for name in ("orchestrator", "balance")]
    assert {"orchestrator": 1.2, "balance": 1.0, "assets": 1.0} == one.together
    found = {limit.what: round(limit.orders_per_s) for limit in scaling.limits(one)}
    assert found["one orchestrator process"] == 5000
    assert found["12 orchestrator processes: one a partition"] == 50_000
    assert [1, 2, 6, 12] == [scaling.processes(rate, 140e-6, 1.2) for rate in (5000, 5001, 20_000, 30_000)]
    text = scaling.page(records)
    assert "1.2 times with the orchestrator, 1 times with the balance" in text
    assert "Found: PostgreSQL's CPU time for an order was 1.04 times." in text
    assert "Not measured, or found to hold." in scaling.page([LOOP_ON_KAFKA])
