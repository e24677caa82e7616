"""The part of `docs/scaling.md` for who runs the chart: what to set for a load, reckoned from model and code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import yaml

from order_api.process import CHECKS
from order_api.settings import ApiSettings
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.transactions import Transactions
from tests.bench.page import figure
from tests.evidence.record import table_of
from tests.support.project import ROOT

VALUES: Final = ROOT / "deploy" / "helm" / "order-saga" / "values.yaml"
LOADS: Final = (100, 500, 1_000, 2_000, 5_000, 10_000, 15_000)
"""Orders a second."""
KINDS: Final = ("orchestrator", "balance", "assets", "webhooks", "api")
ALONE: Final = 1.0
"""How much of a core a process may use while one of its kind is lost."""
BESIDE: Final = 10
"""Connections of the audit, of the hooks, and of people with psql."""
RESERVED: Final = 3
"""PostgreSQL's `superuser_reserved_connections`."""


class Costs(NamedTuple):
    """What the plan takes from the model. Processor time in seconds for an order, by kind; bytes on the wire."""

    cpu_s: Mapping[str, float]
    together: Mapping[str, float]
    wire: float
    events: float
    use: float
    partitions: int
    copies: int


def pools() -> dict[str, int]:
    """Return the most database connections of a process of each kind, as its code makes its pools."""
    engine = inspect.signature(create_engine).parameters["pool_size"].default
    transactions = inspect.signature(Transactions).parameters["size"].default
    api = CHECKS + int(ApiSettings.model_fields["api_database_pool_size"].default)
    return dict.fromkeys(KINDS, engine + transactions) | {"api": api}


def replicas(per_s: float, kind: str, costs: Costs) -> int:
    """Return how many processes the chart should run.

    Two at least; as many as keep each below `use` of a core, and below a whole one while one of them is lost. Those of
    one group share its partitions evenly. More of them than `partitions` is more than a cell can have.
    """
    work = per_s * costs.cpu_s.get(kind, 0.0) * costs.together.get(kind, 1.0)
    for number in range(2, costs.partitions + 1):
        even = kind == "api" or costs.partitions % number == 0
        if even and work / number <= costs.use and work / (number - 1) <= ALONE:
            return number
    return max(2, math.ceil(work / costs.use))


def connections(numbers: Mapping[str, int]) -> int:
    """Return how many connections PostgreSQL must take: while all kinds are replaced, there is one more of each."""
    each = pools()
    return sum((number + 1) * each[kind] for kind, number in numbers.items()) + BESIDE + RESERVED


def section(costs: Costs) -> str:
    """Write the section."""
    values = yaml.safe_load(VALUES.read_text())
    numbers = {per_s: {kind: replicas(per_s, kind, costs) for kind in KINDS} for per_s in LOADS}
    fitting = {
        per_s: one for per_s, one in numbers.items() if max(one[kind] for kind in KINDS[:-1]) <= costs.partitions
    }
    head = ["orders/s", *KINDS, "cores in use", "`max_connections`", "Kafka in, MB/s", "Kafka out, MB/s"]
    rows = [_row(per_s, one, costs) for per_s, one in fitting.items()]
    pool_rows = [[kind, str(size)] for kind, size in pools().items()]
    return _TEXT.format(
        table=table_of(head, rows),
        use=f"{costs.use:.0%}",
        partitions=costs.partitions,
        copies=costs.copies,
        pools=table_of(["process", "connections at most"], pool_rows),
        beside=BESIDE,
        reserved=RESERVED,
        cpu=values["resources"]["requests"]["cpu"],
        request=values["resources"]["requests"]["memory"],
        limit=values["resources"]["limits"]["memory"],
        share=_share(costs, values),
        steps=_steps(values),
    )


def _row(per_s: int, numbers: Mapping[str, int], costs: Costs) -> list[str]:
    cores = sum(per_s * costs.cpu_s.get(kind, 0.0) * costs.together.get(kind, 1.0) for kind in KINDS)
    taken = per_s * costs.wire * costs.copies / 1e6
    read = per_s * (costs.wire * costs.copies + costs.events * (numbers["api"])) / 1e6
    return [
        figure(per_s),
        *(str(numbers[kind]) for kind in KINDS),
        figure(_short(cores)),
        figure(connections(numbers)),
        figure(_short(taken)),
        figure(_short(read)),
    ]


def _share(costs: Costs, values: Mapping[str, Any]) -> str:
    """Say how many orders a second the processes of the defaults carry within what they ask for."""
    asked = int(str(values["resources"]["requests"]["cpu"]).removesuffix("m")) / 1000
    least = min(
        (values["services"][kind]["replicas"] * asked / (costs.cpu_s[kind] * costs.together.get(kind, 1.0)), kind)
        for kind in KINDS
        if kind in costs.cpu_s
    )
    return f"{figure(_short(least[0]))} orders/s, where the {least[1]} uses what it asks for"


def _steps(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{step['replicas']} from {figure(step['lag'])}" for step in values["keda"]["steps"])


def _short(value: float) -> float:
    return float(f"{value:.3g}")


_TEXT: Final = """## Capacity

What to set for a load, for the chart's values. Each process stays below {use} of a core, and below a whole one while
one of its kind is lost; there are two at least, and their number divides the {partitions} partitions. All orders come
by REST.

{table}

Nobody measured the webhook process: what a webhook takes depends on its receiver. *Cores in use* are those of our
processes; PostgreSQL and the brokers have theirs ([sizes](#sizes)). *Kafka in* has {copies} copies of each record.
*Kafka out* has what the copies read, every reader once, and the events once more for each process of the API: all of
them read all events.

`max_connections` is for all of these, each at its most, one more process of each kind during a rolling upgrade,
{beside} for the audit, the hooks and people, and the {reserved} that PostgreSQL reserves. Behind PgBouncer in session
mode they are as many; a smaller `API_DATABASE_POOL_SIZE` makes fewer.

{pools}

- **Requests and limits.** The chart asks for {cpu} and {request} for each process, limits memory to {limit}, and the
  CPU not at all. With its defaults a cell carries {share}. Beyond, ask for what they use
  (`services.orchestrator.resources`), or they are put where there is no core for them.
- **Scaling by lag.** KEDA's steps ({steps} records) are for a backlog. For a load that is known, set
  `replicas` as above.
- **A node is lost.** The table leaves room for it: while it is away, the others carry its share.
- **Partitions.** {partitions} are enough for these loads. More than {partitions} processes of a kind need more of
  them, of all topics at once and while they are empty; another cell is easier ([cells](cells.md))."""
