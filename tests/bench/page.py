"""`docs/performance.md`, made of the records of the benchmark's runs; nobody types a figure.

Every scenario is there, on every broker that it can run on. What was not measured is said to be absent, and a target
that was missed is said to be missed.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

import psutil

from order_saga.core.phases import MAX_REQUEST_AGE_S
from tests.bench import (
    amend,
    cancel,
    drift,
    fire,
    growth,
    hot,
    idle,
    limit,
    loop,
    market_orders,
    pair,
    rate,
    recovery,
    rest_api,
    streams,
    webhooks,
)
from tests.bench.ground import BrokerChoice
from tests.bench.market import crash, ratchet, ticks
from tests.bench.scenario import RATIOS, Scenario, Target
from tests.evidence import record as evidence
from tests.evidence.record import Record, Spread, table_of
from tests.support.project import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
README: Final = ROOT / "README.md"
BEGIN, END = "<!-- the speed, from docs/performance/*.json -->", "<!-- end of the speed -->"
RECORDS: Final = ROOT / "docs" / "performance"
SCENARIOS: Final = tuple(
    module.SCENARIO
    for module in (
        *(loop, rest_api, rate, idle, recovery, growth, drift, pair, hot),
        *(market_orders, limit, fire, cancel, amend, ticks, ratchet, crash, webhooks, streams),
    )
)
BROKERS: Final[dict[BrokerChoice, str]] = {"kafka": "Apache Kafka", "embedded": "the embedded broker"}
_HEAD: Final = """# Performance

Generated from the records of the last full runs (`docs/performance/*.json`) by `make docs`; nothing here is typed by
hand. What can be compared between machines are the ratios: where two are compared, they took turns in the same
rounds, on the same broker and PostgreSQL. Absolute figures are one machine's, which load driver, broker, database and
all processes share. A figure is the median of the rounds, with the least and the most of them; where there are no
rounds (a steady load, an order that is weighed) it was measured once. Each record says of which commit it is. What it
would take to carry ten and a thousand times as much is in [scaling.md](scaling.md); of what an order's cost is made,
and why, in [order-costs.md](order-costs.md).

The targets are the project's own. One that was missed stays here until it is met."""


def machine() -> str:
    """Describe this machine without its number of cores, which every record has anyway."""
    model = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    return f"{model}, {memory}" if model else memory


def page(records: list[Record]) -> str:
    """Generate the page from the records."""
    known = {record.name: record for record in records}
    parts = [_HEAD, _summary(known), *(_section(scenario, known) for scenario in SCENARIOS)]
    return "\n\n".join(parts) + "\n"


def claim(records: list[Record]) -> str:
    """Write the README's sentence on throughput and latency, and on the API, which accepts more."""
    known = {record.name: record for record in records}
    speed, api = (known[f"{name}-kafka"].figures["Throughput and latency"] for name in ("rate", "rest"))

    def seconds(what: str) -> str:
        half, most = (f"{speed[f'{what}, {share} ms'].median / 1000:.2g} s" for share in ("p50", "p99"))
        return f"half of them within {half} and 99 of 100 within {most}"

    return (
        "Measured on two cores that also carry the load driver, Apache Kafka and PostgreSQL, from request to last "
        f"event: {figure(speed['peak, orders/s'].median)} orders a second at the peak, {seconds('peak')}; at "
        f"{figure(round(speed['15 %, orders/s'].median))} a second, {seconds('15 %')}. One API process accepts "
        f"{figure(api['api, accepted/s'].median)} requests a second. Requests that come faster than orders are "
        f"carried out wait in Kafka; one that waits for {MAX_REQUEST_AGE_S:g} s expires."
    )


def readme(text: str, records: list[Record]) -> str:
    """Replace the claim in the README's text."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{textwrap.fill(claim(records), 128)}\n{end}{tail}" if end else text


def _summary(known: dict[str, Record]) -> str:
    rows = []
    for scenario in SCENARIOS:
        for number, target in enumerate(scenario.targets):
            anchor = scenario.title.lower().replace(" ", "-").replace(",", "")
            title = f"[{scenario.title}](#{anchor})" if not number else ""
            verdicts = [_verdict(target, scenario, kind, known) for kind in BROKERS]
            rows.append([title, target.words, _limit(target), *verdicts])
    columns = ["", "target", "", *(words.removeprefix("the ") for words in BROKERS.values())]
    return "## Targets\n\n" + table_of(columns, rows)


def _limit(target: Target) -> str:
    return f"{'≥' if target.bound == 'at least' else '≤'} {target.limit:g}"


def _verdict(target: Target, scenario: Scenario, kind: BrokerChoice, known: dict[str, Record]) -> str:
    """Return the measured figure of a target, and whether it was met."""
    if kind == "embedded" and scenario.needs_kafka:
        return "cannot be"
    record = known.get(f"{scenario.name}-{kind}")
    met = target.met(record.figures) if record else None
    if record is None or met is None:
        return "absent"
    return f"{figure(record.figures[target.group][target.figure].median)}, {'met' if met else '**missed**'}"


def _section(scenario: Scenario, known: dict[str, Record]) -> str:
    parts = [f"## {scenario.title}", scenario.what, scenario.reading]
    for kind, words in BROKERS.items():
        parts.append(f"### {scenario.title}: {words}")
        parts += _runs(scenario, kind, known.get(f"{scenario.name}-{kind}"))
    return "\n\n".join(parts)


def _runs(scenario: Scenario, kind: BrokerChoice, record: Record | None) -> list[str]:
    if kind == "embedded" and scenario.needs_kafka:
        return [f"Cannot be measured there: {scenario.needs_kafka}."]
    if record is None:
        return [f'Absent: no full run has been recorded. `make bench ARGS="{scenario.name} --broker {kind} --record"`']
    parts = [f"`{record.command}`", evidence.circumstances(record)]
    for group, figures in record.figures.items():
        parts.append(table_of([group, "median", "least", "most"], [_row(group, *one) for one in figures.items()]))
    if record.counts:
        parts.append(table_of(["", ""], [[name, evidence.figure(value)] for name, value in record.counts.items()]))
    parts += [f"{table.title}:\n\n{table_of(table.columns, table.rows)}" for table in record.tables]
    return parts + ["**Wrong:** " + one for one in record.found]


def _row(group: str, name: str, spread: Spread) -> list[str]:
    return [f"**{name}**" if group == RATIOS else name, *map(figure, (spread.median, spread.least, spread.most))]


def figure(value: float) -> str:
    """Format a measured value of four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _cpuinfo() -> list[str]:
    place = Path("/proc/cpuinfo")
    return place.read_text().splitlines() if place.exists() else []


if __name__ == "__main__":
    RECORDED = evidence.read(RECORDS)
    PAGE.write_text(page(RECORDED))
    README.write_text(readme(README.read_text(), RECORDED))
