"""Plans of PostgreSQL, as `EXPLAIN (FORMAT JSON)` tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def nodes_of(told: Any) -> list[dict[str, Any]]:
    """Return all nodes of a plan as it was told, be it text or parsed already."""
    [plan] = json.loads(told) if isinstance(told, str) else told
    return list(_nodes(plan["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)
