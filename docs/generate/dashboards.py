"""Writes the Grafana dashboards that the Helm chart brings, from the one list of panels below. `make docs` runs it.

Each query is PromQL with two words of Grafana: `$release` and `$__rate_interval`. The label `job` is a process's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from docs.generate.kubernetes import CHART

FOLDER: Final = CHART / "files" / "dashboards"
PANELS_IN_A_ROW: Final = 3
COLUMNS: Final = 24
HEIGHT: Final = 8


class Panel(NamedTuple):
    """A graph: its title, its unit by Grafana's name, what to look for, and queries by the names of their lines."""

    title: str
    unit: str
    meaning: str
    queries: dict[str, str]


class Dashboard(NamedTuple):
    """One page: what it is about, and its panels by the rows that they stand in."""

    title: str
    rows: dict[str, tuple[Panel, ...]]


def rate(metric: str, by: str = "", **labels: str) -> str:
    """Write the sum of a counter's rate, by some of its labels. A label's value is a matcher, such as `=~"5.."`."""
    chosen = "".join(f",{label}{matcher}" for label, matcher in labels.items())
    return f'sum by ({by}) (rate({metric}{{release="$release"{chosen}}}[$__rate_interval]))'


def quantile(share: float, histogram: str, by: str = "", **labels: str) -> str:
    """Write a quantile of a histogram, in its own unit."""
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', f'{by}, le'.removeprefix(', '), **labels)})"


def most(gauge: str, by: str = "") -> str:
    """Write a gauge that each process of a kind shows alike, because all read it from the same table."""
    return f'max by ({by}) ({gauge}{{release="$release"}})'


def least(gauge: str) -> str:
    """Write a gauge that is 1 while all is well, of the process that is worst."""
    return f'min({gauge}{{release="$release"}})'


def total(gauge: str, by: str = "") -> str:
    """Write a gauge of which each process shows its own share."""
    return f'sum by ({by}) ({gauge}{{release="$release"}})'


_REQUESTS: Final = "http_server_request_duration_seconds"
_DURATION: Final = "order_duration_seconds"
_BY_JOB: Final = "{{job}}"
_OTHER_GROUPS: Final = ("cancels", "triggers", "holds")
"""Groups of further consumers of a process, whose metrics have their name in front."""

ORDERS: Final = Dashboard(
    "Orders",
    {
        "Promises": (
            Panel(
                "Requests without a 5xx, of which 99.9 % is the objective", "percentunit",
                "Over 30 days. The alert ApiErrorBudgetBurns looks at how fast the rest is used up.",
                {"availability": f'1 - (sum(rate({_REQUESTS}_count{{release="$release",job="api",route!~"/health.*",'
                 f'status=~"5.."}}[30d])) or vector(0)) / sum(rate({_REQUESTS}_count{{release="$release",job="api",'
                 'route!~"/health.*"}[30d]))'},
            ),
            Panel(
                "Orders that end within 5 s, of which 99 % is the objective", "percentunit",
                "Over 30 days, of those that may not wait for the market. See the alert OrderErrorBudgetBurns.",
                {"in time": f'sum(rate({_DURATION}_bucket{{release="$release",may_wait="false",le="5.0"}}[30d]))'
                 f' / sum(rate({_DURATION}_count{{release="$release",may_wait="false"}}[30d]))'},
            ),
            Panel(
                "Orders that wait for an operator, and that ask for too long", "short",
                "Both are 0. `order-saga stuck` says which and why.",
                {"parked": most("saga_parked_orders"), "overdue": most("saga_overdue_orders")},
            ),
            Panel(
                "What the audit found", "short", "Always 0. Each line is an invariant.",
                {"{{invariant}}": most("audit_findings", "invariant")},
            ),
        ),
        "Orders": (
            Panel(
                "Orders a second", "ops", "Those that are accepted faster than they end wait in Kafka.",
                {"accepted by the API": rate("orders_accepted_total", job='="api"'),
                 "taken on": rate("orders_accepted_total", job='="orchestrator"'),
                 "{{status}}": rate("orders_finished_total", "status")},
            ),
            Panel(
                "From request to end", "s", "Of orders that have ended and may not wait for the market.",
                {"half": quantile(0.5, _DURATION, may_wait='="false"'),
                 "99 of 100": quantile(0.99, _DURATION, may_wait='="false"')},
            ),
            Panel(
                "Why orders fail and are cancelled", "ops", "By reason code.",
                {"{{status}} {{reason_code}}":
                 rate("orders_finished_total", "status, reason_code", status='!="COMPLETED"')},
            ),
            Panel("Open orders, by phase", "short", "Many in one phase: a participant is slow.",
                  {"{{phase}}": most("saga_phase_orders", "phase")}),
            Panel(
                "Admission: the limit and what is in work", "short", "About the same for long: orders come too fast.",
                {"limit": total("saga_admission_limit"), "in work": total("saga_admission_in_flight")},
            ),
            Panel("Paused participants", "short", "1 while an operator has paused it.",
                  {"{{participant}}": most("saga_participant_paused", "participant")}),
        ),
        "Orders that wait for a price": (
            Panel("Orders that rest, and that are fired", "short", "Fired ones are filled at once.",
                  {"resting": most("saga_resting_orders"), "fired": most("saga_fired_orders")}),
            Panel("Age of prices", "s", "Over 30 s nothing fires there.",
                  {"{{asset}}": most("price_feed_age_seconds", "asset")}),
            Panel("From a tick to what it fired", "s", "At 30 s a tick is too old to fire.",
                  {"99 of 100": quantile(0.99, "trigger_lag_seconds")}),
        ),
    },
)  # fmt: skip

PROCESSES: Final = Dashboard(
    "Processes",
    {
        "Consumers": (
            Panel(
                "Records that wait", "short", "What is behind is taken up faster than it comes.",
                {_BY_JOB: total("consumer_lag_messages", "job")}
                | {f"{_BY_JOB} {group}": total(f"{group}_consumer_lag_messages", "job") for group in _OTHER_GROUPS},
            ),
            Panel(
                "Records a second", "ops", "By consumer group.",
                {_BY_JOB: rate("batch_size_sum", "job")}
                | {f"{_BY_JOB} {group}": rate(f"{group}_batch_size_sum", "job") for group in _OTHER_GROUPS},
            ),
            Panel("Records in a batch, half of them", "short", "500 for long: the process is full.",
                  {_BY_JOB: quantile(0.5, "batch_size", "job")}),
            Panel("Time of a batch", "s", "99 of 100.", {_BY_JOB: quantile(0.99, "batch_duration_seconds", "job")}),
            Panel("Tries that ended in a fault of the world", "ops", "The database or the broker.",
                  {_BY_JOB: rate("batch_retries_total", "job")}),
            Panel(
                "Partitions that stand still", "short", "Held: by somebody's open transaction. Blocked: can't be read.",
                {f"{_BY_JOB} held": total("consumer_held_partitions", "job"),
                 f"{_BY_JOB} blocked": total("consumer_blocked_partitions", "job")},
            ),
        ),
        "Messages": (
            Panel("Age of what is not sent yet", "s", "The broker is away, or refuses.",
                  {_BY_JOB: most("outbox_oldest_unsent_seconds", "job")}),
            Panel("Dead letters", "short", "`order-saga dead-letters list` shows them.",
                  {_BY_JOB: most("dead_letters", "job")}),
            Panel(
                "Messages set aside and put off", "ops", "Put off: somebody holds a row locked.",
                {f"{_BY_JOB} {{{{outcome}}}}": rate("messages_set_aside_total", "job, outcome"),
                 f"{_BY_JOB} {{{{how}}}}": rate("messages_put_off_total", "job, how")},
            ),
        ),
        "Machines": (
            Panel("Processes that answer", "short", "At least two of each service.", {_BY_JOB: total("up", "job")}),
            Panel("CPU, in cores", "short", "One process uses one core at most.",
                  {_BY_JOB: rate("process_cpu_seconds_total", "job")}),
            Panel("Memory", "bytes", "Of the largest process of a kind.",
                  {_BY_JOB: most("process_resident_memory_bytes", "job")}),
        ),
    },
)  # fmt: skip

API: Final = Dashboard(
    "API",
    {
        "Requests": (
            Panel("Requests a second, by status", "ops", "499: the client closed its connection before the answer.",
                  {"{{status}}": rate(f"{_REQUESTS}_count", "status", job='="api"')}),
            Panel("Time of requests, 99 of 100", "s", "By route.", {"{{route}}": quantile(0.99, _REQUESTS, "route")}),
            Panel("Requests in work, refused, waiting", "short", "Refused for want of room, before they are begun.",
                  {"in work": total("http_server_in_flight_requests"), "waiting": total("http_server_waiting_requests"),
                   "refused a second": rate("http_server_shed_requests_total")}),
        ),
        "Connections and streams": (
            Panel("Connections", "short", "Those that wait for an order included.",
                  {"open": total("http_server_connections")}),
            Panel("Streams that are open", "short", "Live updates, by kind.",
                  {"{{kind}}": total("http_server_streams", "kind")}),
            Panel("Events sent, and gaps", "ops", "Gaps that grow: clients that are too slow.",
                  {"{{event}}": rate("stream_events_total", "event"), "gaps": rate("stream_gaps_total"),
                   "conflated": rate("stream_events_conflated_total")}),
        ),
        "What it hears": (
            Panel("It hears events, holds and prices", "short", "1, or it looks things up instead.",
                  {"events": least("order_events_followed"), "holds": least("hold_events_followed"),
                   "prices": least("asset_prices_followed")}),
            Panel("Age of the keys of tokens", "s", "They are fetched every 5 minutes.",
                  {"age": most("jwks_age_seconds")}),
            Panel("What its sweepers had to send again", "ops", "The broker was away when they were accepted.",
                  {"orders": rate("orders_published_again_total"),
                   "holds": rate("hold_requests_published_again_total")}),
        ),
        "Webhooks": (
            Panel("Age of the oldest delivery that is due", "s", "More than seconds: too few processes.",
                  {"age": most("webhook_oldest_due_seconds")}),
            Panel("Attempts", "ops", "By what they came to.",
                  {"{{kind}} {{verdict}}": rate("webhook_attempts_total", "kind, verdict")}),
            Panel("Endpoints given up, a second", "ops", "Their users are told.",
                  {"{{why}}": rate("webhook_endpoints_disabled_total", "why")}),
        ),
    },
)  # fmt: skip

DASHBOARDS: Final = {"orders": ORDERS, "processes": PROCESSES, "api": API}


def files() -> dict[Path, str]:
    """Write each dashboard as Grafana reads it, by the file that has it."""
    return {FOLDER / f"{name}.json": json.dumps(_page(name, one), indent=1) + "\n" for name, one in DASHBOARDS.items()}


def queries() -> Iterator[str]:
    """Tell every query of every panel."""
    for dashboard in DASHBOARDS.values():
        for panels in dashboard.rows.values():
            for panel in panels:
                yield from panel.queries.values()


def _page(name: str, dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    line = 0
    for title, row in dashboard.rows.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": _place(line, 0, 1, COLUMNS)})
        line += 1
        for number, panel in enumerate(row):
            below, beside = divmod(number, PANELS_IN_A_ROW)
            width = COLUMNS // PANELS_IN_A_ROW
            panels.append(_graph(panel, _place(line + below * HEIGHT, beside * width, HEIGHT, width)))
        line += -(-len(row) // PANELS_IN_A_ROW) * HEIGHT
    return {
        "uid": f"order-saga-{name}",
        "title": f"Order Saga: {dashboard.title}",
        "tags": ["order-saga"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


def _graph(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query, "legendFormat": line, "datasource": source}
            for number, (line, query) in enumerate(panel.queries.items())
        ],
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "release",
            "type": "query",
            "label": "Release",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": "label_values(saga_parked_orders, release)", "refId": "release"},
            "refresh": 2,
        },
    ]


def _place(y: int, x: int, height: int, width: int) -> dict[str, int]:
    return {"h": height, "w": width, "x": x, "y": y}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text)
