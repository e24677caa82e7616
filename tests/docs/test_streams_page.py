"""The page about live updates tells every event of a stream, and every word that a WebSocket's client may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from order_api.live.document import socket_document
from order_api.live.messages import Said

PAGE = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
MESSAGES: dict[str, Any] = socket_document()["components"]["messages"]


def _first_cells(head: str) -> set[str]:
    rows = PAGE[PAGE.index(head) :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([a-z.-]+)`", row.split("|")[1])}


def test_every_event_is_told() -> None:
    """What has a channel is an event of a stream; `version` is one of a single order, and stands below the table."""
    events = {name for name, message in MESSAGES.items() if "channel" in message["payload"].get("required", ())}
    assert events - {"version"} | {"bye"} == _first_cells("| event | `id` |")
    assert "comes as `version`" in PAGE


def test_every_op_is_told() -> None:
    """A client finds all that it may say."""
    assert {kind.__struct_config__.tag for kind in get_args(Said)} == _first_cells("| op | members |")
