"""`docs/scaling.md`: what ten and a thousand times the load would take, reckoned from the records of the benchmark.

Formulae and assumptions stand on the page; every number of the model is taken from a record, so none can go stale. It
is a plan: nothing of it was run at that size, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contracts.topics import ORDERS_REQUESTS
from tests.bench import capacity
from tests.bench.page import RECORDS, figure
from tests.bench.scenario import CPU, RATIOS, SPEED, WAL
from tests.bench.weigh import BYTES, DISK, MESSAGES, ROWS
from tests.evidence import record as evidence
from tests.evidence.record import Record, table_of
from tests.support.project import ROOT

PAGE: Final = ROOT / "docs" / "scaling.md"
PARTITIONS: Final = ORDERS_REQUESTS.partitions
USE: Final = 0.7
"""How much of a core may be in use: above, latency grows faster than the load."""
POSTGRES_CORES: Final = 16
LOG_MB_PER_S: Final = 200
BROKER_MB_PER_S: Final = 100
"""What one broker takes in, replicas included."""
REPLICAS: Final = 3
SERVICES: Final = ("orchestrator", "balance", "assets")
MANY: Final = (1, 10, 1000)
OLD: Final = "large / small, CPU per order of postgres"
BUSY: Final = "at 85 %"
"""The share of the peak at which an order's processor time is taken where that was measured: near what `USE` means."""


@dataclass(frozen=True)
class Model:
    """What one order takes. Processor time in seconds, everything else in bytes."""

    source: Record
    orders_per_s: float
    cpu_s: Mapping[str, float]
    together: Mapping[str, float]
    """How many times as much an order takes of a service with two processes as with one; 1 where nobody measured it."""
    wire: float
    events: float
    wal: float
    disk: float
    rows: float
    messages: float
    hot_cpu_s: float
    """Of the balance service, when half of the orders are one account's."""
    api_cpu_s: float | None
    """Of the API, for an order that comes by REST."""


@dataclass(frozen=True)
class Limit:
    """What stops one cell, and at how many orders a second."""

    what: str
    orders_per_s: float
    then: str
    of_cell: bool = True
    """Whether only another cell helps."""


def model(records: list[Record]) -> Model | None:
    """Take the numbers from the records, Apache Kafka's first; None without a record of the whole loop."""
    loop, rate, pair, hot, api = (_best(records, name) for name in ("loop", "rate", "pair", "hot", "rest"))
    if loop is None:
        return None
    used = {name: loop.figures[CPU].get(f"system: {name}") for name in (*SERVICES, "postgres", "broker")}
    if rate is not None:
        used |= {name: rate.figures[CPU].get(f"{BUSY}: {name}") or one for name, one in used.items()}
    cpu = {name: one.median / 1e6 for name, one in used.items() if one is not None}
    shared = {name: pair and pair.figures[RATIOS].get(f"two / one, CPU per order of {name}") for name in SERVICES}
    return Model(
        source=loop,
        orders_per_s=loop.figures[SPEED]["system, orders/s"].median,
        cpu_s=cpu,
        together={name: max(1.0, one.median) if one else 1.0 for name, one in shared.items()},
        wire=loop.figures[BYTES]["all"].median,
        events=loop.figures[BYTES]["orders.events"].median,
        wal=loop.figures[WAL]["system"].median,
        disk=loop.figures[DISK]["all"].median,
        rows=loop.figures[ROWS]["all"].median,
        messages=loop.figures[MESSAGES]["all"].median,
        hot_cpu_s=hot.figures[CPU]["hot: balance"].median / 1e6 if hot else cpu["balance"],
        api_cpu_s=api.figures[CPU]["api: api"].median / 1e6 if api else None,
    )


def _best(records: list[Record], name: str) -> Record | None:
    known = {record.name: record for record in records}
    return known.get(f"{name}-kafka") or known.get(f"{name}-embedded")


def processes(per_s: float, cpu_s: float, together: float = 1.0) -> int:
    """Return how many processes of one core each carry so many orders a second; `together`: see `Model`.

    Those of one cell share its partitions evenly, so their number divides that of the partitions.
    """
    if per_s * cpu_s <= USE:
        return 1
    least = math.ceil(per_s * cpu_s * together / USE)
    return next((many for many in range(least, PARTITIONS + 1) if PARTITIONS % many == 0), least)


def brokers(per_s: float, wire: float) -> int:
    """Return how many brokers take so much in, with its replicas."""
    return max(REPLICAS, math.ceil(per_s * wire * REPLICAS / BROKER_MB_PER_S / 1e6))


def limits(one: Model) -> list[Limit]:
    """List what stops a cell, the first to do so first."""
    found = [
        Limit(f"one {name} process", USE / one.cpu_s[name], f"start another, up to {PARTITIONS}", of_cell=False)
        for name in SERVICES
    ]
    found += [
        Limit(
            f"{PARTITIONS} {name} processes: one a partition",
            PARTITIONS * USE / (one.cpu_s[name] * one.together[name]),
            "more partitions, or another cell",
        )
        for name in SERVICES
    ]  # fmt: skip
    found += [
        Limit("one account: one partition, one balance process", USE / one.hot_cpu_s, "sub-accounts", of_cell=False),
        Limit(
            "one asset: one partition, one asset process", USE / one.cpu_s["assets"],
            "CheckAsset keyed by the order: it only reads", of_cell=False,
        ),
        Limit(f"PostgreSQL on {POSTGRES_CORES} cores", POSTGRES_CORES * USE / one.cpu_s["postgres"], "another cell"),
        Limit(f"PostgreSQL's log at {LOG_MB_PER_S} MB/s", LOG_MB_PER_S * 1e6 / one.wal, "another cell"),
        Limit(
            f"one broker at {BROKER_MB_PER_S} MB/s in, {REPLICAS} replicas",
            BROKER_MB_PER_S * 1e6 / (one.wire * REPLICAS), "more brokers under the same topics", of_cell=False,
        ),
    ]  # fmt: skip
    return sorted(found, key=lambda limit: limit.orders_per_s)


def cell(one: Model) -> Limit:
    """Return what stops a cell for good: more processes and brokers no longer help."""
    return next(limit for limit in limits(one) if limit.of_cell)


def page(records: list[Record]) -> str:
    """Make the page of the records."""
    one = model(records)
    if one is None:
        absent = 'Absent: no full run of the whole loop has been recorded. `make bench ARGS="loop --record"`'
        parts = [_HEAD, _MODEL_HEAD, absent, _FORMULAE, _RESTING, _CELLS, _CHANGES]
    else:
        parts = [
            _HEAD,
            _assumptions(one, records),
            _MODEL_HEAD,
            _model(one),
            _FORMULAE,
            _sizes(one),
            _limits(one),
            capacity.section(_costs(one)),
            _RESTING,
            _CELLS,
            _CHANGES,
        ]
    return "\n\n".join(parts) + "\n"


def _costs(one: Model) -> capacity.Costs:
    cpu = {name: one.cpu_s[name] for name in SERVICES} | ({"api": one.api_cpu_s} if one.api_cpu_s else {})
    return capacity.Costs(cpu, one.together, one.wire, one.events, USE, PARTITIONS, REPLICAS)


def _model(one: Model) -> str:
    rows = [
        *([f"CPU of {name}, µs", figure(_short(used * 1e6))] for name, used in one.cpu_s.items()),
        *([f"the same with two processes of {name}, times", figure(_short(by))] for name, by in one.together.items()),
        ["CPU of balance with one hot account, µs", figure(_short(one.hot_cpu_s * 1e6))],
        ["CPU of the API, by REST, µs", figure(_short(one.api_cpu_s * 1e6)) if one.api_cpu_s else "absent"],
        ["messages", figure(one.messages)],
        ["bytes on the wire, once", figure(one.wire)],
        ["of them events", figure(one.events)],
        ["bytes of PostgreSQL's log", figure(one.wal)],
        ["rows that stay", figure(one.rows)],
        ["bytes on disk with indexes", figure(one.disk)],
    ]
    said = f"From `{one.source.command}`. {evidence.circumstances(one.source)} There the system carried"
    return (
        f"{said} {figure(one.orders_per_s)} orders/s. CPU times are those {BUSY} of the peak, where that was measured "
        f"(*Latency at a rate*).\n\n{table_of(['for one order', ''], rows)}"
    )


def _assumptions(one: Model, records: list[Record]) -> str:
    """Say how what the plan rests on was found to be."""
    if any(by != 1 for by in one.together.values()):
        more = ", ".join(f"{figure(_short(by))} times with the {name}" for name, by in one.together.items())
        shared = (
            f"Found with two, at the load of one: an order cost {more} the CPU time of one, because each then has "
            "smaller batches. The plan reckons with that, though larger loads have larger batches"
        )
    else:
        shared = "Not measured, or found to hold"
    growth = _best(records, "growth")
    postgres = growth and growth.figures[RATIOS].get(OLD)
    old = "Not measured" if not postgres else f"Found: PostgreSQL's CPU time for an order was {postgres.median:g} times"
    return f"""Two assumptions decide whether it holds:

- Several processes of a kind cost what one does (*Two of each*). {shared}.
- Orders that have ended cost new ones nothing (*With many orders in the tables*). {old}."""


def _sizes(one: Model) -> str:
    wanted = [one.orders_per_s * times for times in MANY]
    stop = cell(one).orders_per_s

    def row(what: str, *values: float | str) -> list[str]:
        return [what, *(value if isinstance(value, str) else figure(_short(value)) for value in values)]

    rows = [
        row("orders/s", *wanted),
        *(
            row(f"{name} processes", *(processes(rate, one.cpu_s[name], one.together[name]) for rate in wanted))
            for name in SERVICES
        ),
        row("API processes", *(processes(rate, one.api_cpu_s) if one.api_cpu_s else "absent" for rate in wanted)),
        row("PostgreSQL, cores in all", *(rate * one.cpu_s["postgres"] / USE for rate in wanted)),
        row("PostgreSQL's log, MB/s in all", *(rate * one.wal / 1e6 for rate in wanted)),
        row("rows/s that stay, in all", *(rate * one.rows for rate in wanted)),
        row("disk for a day's orders, GB", *(rate * 86_400 * one.disk / 1e9 for rate in wanted)),
        row("disk for a month's, TB", *(rate * 30 * 86_400 * one.disk / 1e12 for rate in wanted)),
        row("broker, MB/s in, before replicas", *(rate * one.wire / 1e6 for rate in wanted)),
        row("brokers", *(brokers(rate, one.wire) for rate in wanted)),
        row("**cells**", *(max(1, math.ceil(rate / stop)) for rate in wanted)),
    ]  # fmt: skip
    return "## Sizes\n\n" + table_of(["", "as measured", "10x", "1,000x"], rows)


def _limits(one: Model) -> str:
    first = next(limit for limit in limits(one))
    last = cell(one)
    rows = [[limit.what, figure(_short(limit.orders_per_s)), limit.then] for limit in limits(one)]
    words = (
        f"The first to be full is {first.what}, at {figure(_short(first.orders_per_s))} orders/s. What ends the growth "
        f"of one cell is {last.what}, at {figure(_short(last.orders_per_s))} orders/s: that is what one cell can have."
    )
    return f"## What is full when\n\n{words}\n\n" + table_of(["limit", "orders/s", "then"], rows)


def _short(value: float) -> float:
    return float(f"{value:.3g}")


_HEAD: Final = """# Scaling

A plan for ten and for a thousand times the load. Its numbers are reckoned by `make docs` from what was measured
([performance.md](performance.md)); none is typed by hand, and none was run at that size."""

_MODEL_HEAD: Final = "## The model: what one order takes"

_RULES: Final = [
    [
        "processes of a kind",
        (
            f"1, if R · c ≤ {USE:g}: a Python process uses one core, and above {USE:.0%} latency grows; else "
            f"⌈R · c · s / {USE:g}⌉, in one cell the next number that divides {PARTITIONS} evenly"
        ),
    ],
    ["cores of PostgreSQL", f"R · c / {USE:g}"],
    ["log, MB/s", "R · w / 10⁶"],
    ["disk for a day, GB", "R · 86,400 · d / 10⁹"],
    ["brokers", f"⌈R · b · {REPLICAS} / ({BROKER_MB_PER_S} · 10⁶)⌉, at least {REPLICAS}"],
    ["most members of a group", f"the partitions of a topic: {PARTITIONS}"],
    ["most orders/s of one account", f"{USE:g} / c of the balance service"],
    [
        "most orders/s of one cell",
        (
            f"the least of {PARTITIONS} · {USE:g} / (c · s) of each service, {POSTGRES_CORES} · {USE:g} / c of "
            f"PostgreSQL, and {LOG_MB_PER_S} · 10⁶ / w"
        ),
    ],
    ["cells", "⌈R / the most of one cell⌉"],
]
_FORMULAE: Final = f"""## Formulae and assumptions

With *R* orders a second, *c* seconds of CPU, *s* times as many with two processes, *b* bytes on the wire, *w* bytes of
log, *d* bytes on disk for one order:

{table_of(["", ""], _RULES)}

Assumed, not measured: a PostgreSQL server of {POSTGRES_CORES} cores whose log device takes {LOG_MB_PER_S} MB/s; a
broker that takes in {BROKER_MB_PER_S} MB/s; cores as fast as those that were measured; {REPLICAS} replicas of each
partition; orders that are spread over accounts and assets (one that is hot: below). A batch of up to 500 messages
shares a commit, and batches grow with the load, so commits a second are no limit of their own."""

_RESTING: Final = """## Orders that rest

An order that rests costs two rows and no work: nothing looks at it until a tick, its end, or its user does. What
would read all of them was changed: the count of open orders by phase leaves them out (`saga_resting_orders` counts
their narrow rows), a pause does not look at them, `check-deploy` tries one of each shape, and a user's open orders
have indexes of their own ([indexes](indexes.md)). `tests/order_saga/worker/test_resting_plans.py` holds these
look-ups to their indexes with 100,000 orders that rest. The audit reads each of them, as it reads each order; its
pages are ranges of ids, so it is all the same how old an open order is.

A tick that fires very many orders binds them to itself first, thousands a second, and no crash changes that; then they
are executed at about the pace of market orders, and these go on beside them, slower ([performance](performance.md))."""

_CELLS: Final = """## Cells

A cell is a whole system: topics under a prefix of their own, orchestrators, participants, API, and one PostgreSQL that
no other cell knows. A user belongs to one cell, by a hash of the user's id; nothing ever spans two cells, because an
order, its holds and its account are one user's. A cell that fails stops its own users only, and one more cell is one
more of what has been measured, not a larger one. Orders only read assets and prices, so every cell has them all. What
knows a user's cell is a router, which must keep to some rules: [cells](cells.md)."""

_STEPS: Final = [
    [
        "several processes",
        "the number of replicas",
        "everything else: members share partitions, rows are guarded, timers claim with `SKIP LOCKED`",
    ],
    [
        "10x",
        (
            "processes; PostgreSQL and brokers on machines of their own, the log on its own device; what has ended "
            "must leave for an archive"
        ),
        "code, contracts, topics, schema",
    ],
    [
        "beyond a topic's partitions",
        "their number in `contracts/topics.py`: of all topics at once, while these are empty, because keys move",
        "the saga, the stores, the participants",
    ],
    [
        "1,000x",
        (
            "cells: a router in front of the API that knows a user's cell; `KAFKA_TOPIC_PREFIX` and `DATABASE_URL` "
            "for each; an audit of each, and a sum of them"
        ),
        "the saga, contracts, stores, migrations: a cell does not know that there are others",
    ],
    [
        "a hot account",
        "the ledger splits it into sub-accounts, each with a key and a partition of its own, and moves money between",
        "the saga: it names an account and does not look inside",
    ],
    [
        "a hot asset",
        "`CheckAsset` is keyed by the order instead of the asset: the service only reads",
        "the saga, the reply",
    ],
]
_CHANGES: Final = f"""## What changes, what does not

{table_of(["step", "must change", "needs no change"], _STEPS)}

What a thousandfold load does *not* need is another kind of database, a cache, or a lock service: an order touches its
own rows only, and those of one account."""


if __name__ == "__main__":
    PAGE.write_text(page(evidence.read(RECORDS)))
