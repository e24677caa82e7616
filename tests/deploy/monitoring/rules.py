"""The alerts and dashboards under test: their expressions with metrics and labels, and those that the code declares."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from docs.generate import dashboards
from docs.generate.kubernetes import CHART
from tests.support.project import ROOT

ALERTS: Final = CHART / "files" / "alerts.yaml"
RULES: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
ROOMS: Final = ("operations", "order_api", "order_saga", "participants", "projections", "saga_kit")
SUFFIXES: Final = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
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


def declared() -> Mapping[str, set[str]]:
    """Find every metric in the code, by the names that Prometheus sees, with its labels."""
    found: dict[str, set[str]] = {}
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        text = path.read_text()
        if "prometheus_client" not in text:
            continue
        for name, labels in _declared(text):
            found[name] = labels
            if path.name == "telemetry.py":  # the kit's, of every consumer
                found |= {f"{group}_{name}": labels for group in FURTHER}
    return found


def _declared(text: str) -> Iterator[tuple[str, set[str]]]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
            continue
        name = node.args[0]
        if node.func.id in SUFFIXES and isinstance(name, ast.Constant):
            labels = node.args[2] if len(node.args) > 2 else ast.List([])
            metric = str(name.value)
            assert isinstance(labels, ast.List), metric
            known = {str(one.value) for one in labels.elts if isinstance(one, ast.Constant)}
            yield from ((metric + suffix, known) for suffix in SUFFIXES[node.func.id])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the project's host and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
