"""The names of metrics: those that a process has, and those that the page of metrics has."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.project import ROOT

PAGE = ROOT / "docs" / "observability.md"
_OF_PYTHON = ("process_", "python_")


def told() -> set[str]:
    """Return the names that the page has, without labels."""
    return set(re.findall(r"`([a-z0-9_]+)(?:\{[a-z_, ]*\})?`", PAGE.read_text()))


def names(metrics: str | Iterable[Metric]) -> set[str]:
    """Return the names of metrics, as Prometheus has them, without those of every Python process."""
    families = text_string_to_metric_families(metrics) if isinstance(metrics, str) else metrics
    found = {one.name + ("_total" if one.type == "counter" else "") for one in families}
    return {name for name in found if not name.startswith(_OF_PYTHON) and not name.endswith("_created")}
