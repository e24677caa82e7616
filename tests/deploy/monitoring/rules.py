"""The alerts and dashboards under test: their expressions with metrics and labels, and those that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from docs.generate import dashboards
from docs.generate.kubernetes import CHART
from tests.support.metrics import labels_told

ALERTS: Final = CHART / "files" / "alerts.yaml"
RULES: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
FURTHER: Final = ("cancels", "triggers", "holds")
"""Groups of further consumers: a process shows their metrics with the group's name in front."""
NOT_OURS: Final[dict[str, set[str]]] = {
    "up": set(),
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "order_saga_processes_wanted": set(),
}
"""Metrics of Prometheus itself, of its Python client, and of the rules that the chart adds."""
OF_ALL: Final = {"release", "job", "le"}
"""Labels that the scraping gives, and that of a histogram's buckets."""

_SELECTOR: Final = re.compile(r"\b([a-z_]+)\{([^}]*)\}")
_BY: Final = re.compile(r"\b(?:by|on) \(([a-z_, ]*)\)")


def expressions() -> Iterator[str]:
    """Yield the expression of every alert and of every panel, with a release in place of Grafana's variable."""
    yield from (rule["expr"] for rule in RULES.values())
    yield from (
        query.replace("$__rate_interval", "5m").replace("$release", "order-saga") for query in dashboards.queries()
    )


def used(expression: str) -> tuple[dict[str, set[str]], set[str]]:
    """Return the metrics of an expression with the labels that they are chosen by, and the labels that it groups by."""
    metrics: dict[str, set[str]] = {}
    for name, matchers in _SELECTOR.findall(expression):
        metrics.setdefault(name, set()).update(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", matchers))
    grouped = {label.strip() for labels in _BY.findall(expression) for label in labels.split(",")} - {""}
    return metrics, grouped


def known() -> Mapping[str, set[str]]:
    """Return every metric by the names that Prometheus has, with its labels: those of the page of metrics."""
    found: dict[str, set[str]] = {}
    for name, labels in labels_told().items():
        for shown in (name, *(f"{name}_{end}" for end in ("bucket", "sum", "count"))):  # a histogram has these
            found |= {shown: labels} | {f"{group}_{shown}": labels for group in FURTHER}
    return {**found, **NOT_OURS}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the project's host and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
