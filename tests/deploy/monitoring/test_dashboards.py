"""The dashboards are fresh and well formed. What they show of a running system: `test_running.py`."""

from __future__ import annotations

import json

from docs.generate import dashboards


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
