"""The dashboards are fresh, well formed, and show what the processes of a running system really have."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import httpx2
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from docs.generate import dashboards
from operations.audit.watch import AuditMetrics
from order_api.http.keys import JwksKeys
from tests.deploy.monitoring.rules import NOT_OURS, expressions, used
from tests.e2e.system import running
from tests.support.infrastructure import Infrastructure


def test_the_dashboards_are_made_from_the_list_of_panels() -> None:
    """`make docs` writes them; there is no other file."""
    assert dashboards.files() == {path: path.read_text() for path in dashboards.FOLDER.iterdir()}


def test_panels_lie_side_by_side_and_have_names() -> None:
    """No panel covers another, each says what to look for, and each line has a name of its own."""
    for text in dashboards.files().values():
        page = json.loads(text)
        taken: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= dashboards.COLUMNS
            taken |= cells
        graphs = [panel for panel in page["panels"] if panel["type"] != "row"]
        assert all(panel["description"] and panel["targets"] for panel in graphs)
        assert len(graphs) == len({panel["title"] for panel in graphs})
        assert len(page["panels"]) == len({panel["id"] for panel in page["panels"]})


async def test_a_running_system_has_every_metric_of_alerts_and_dashboards(
    infrastructure: Infrastructure, tmp_path: Path
) -> None:
    """Each of them stands on the metrics page of a process, or of what this system runs without."""
    shown: set[str] = set()
    async with running(infrastructure, tmp_path, replicas={"webhooks": 1}) as system, httpx2.AsyncClient() as client:
        for pid in chain.from_iterable(
            system.stack.pids[name] for name in ("api", "orchestrator", "balance", "webhooks")
        ):
            text = (await client.get(f"http://127.0.0.1:{system.port(pid)}/metrics")).text
            shown |= {
                sample for family in text_string_to_metric_families(text) for sample in _names(family.name, family.type)
            }
    elsewhere = CollectorRegistry()
    JwksKeys("https://id.example/keys", registry=elsewhere)  # this system's tokens are signed with a secret
    for registry in (elsewhere, AuditMetrics().registry):
        shown |= {sample for family in registry.collect() for sample in _names(family.name, family.type)}
    wanted = set(chain.from_iterable(used(expression)[0] for expression in expressions()))
    assert set() == wanted - shown - {"up", "order_saga_processes_wanted"}
    assert NOT_OURS.keys() - shown == {"up", "order_saga_processes_wanted"}


def _names(name: str, kind: str) -> set[str]:
    """Name the samples of a family, also of one that has none yet."""
    if kind == "histogram":
        return {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    return {f"{name}_total"} if kind == "counter" else {name}
