"""Reading Server-Sent Events, however a network cuts them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_client.sse import EVENT_BYTES_MAX, EventReader, ServerEvent

STREAM = (
    "\ufeffretry: 2500\n\n"
    ": a comment\r\n\r\n"
    'event: order\nid: t1\ndata: {"a":\ndata: 1}\n\n'
    "event: nothing\n\n"
    "data: ünd\r\rid\ndata:x\n\n"
    "id: a\0b\nretry: soon\nunknown: field\nevent: heartbeat\r\ndata\r\n\r\n"
    "data: never complete\n"
).encode()
EVENTS = [
    ServerEvent("order", b'{"a":\n1}', "t1"),
    ServerEvent("message", "ünd".encode(), "t1"),
    ServerEvent("message", b"x", None),
    ServerEvent("heartbeat", b"", None),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_where_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    """The events are the same, whatever the line ends, and one that is not complete is none."""
    reader = EventReader()
    places = [0, *sorted(cuts), len(STREAM)]
    assert EVENTS == _feed(reader, [STREAM[begin:end] for begin, end in pairwise(places)])
    assert 2500 == reader.retry_ms


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 70_000, b"data: " + b"x" * 70_000 + b"\n"])
def test_an_event_without_end_is_refused(endless: bytes) -> None:
    """Memory is bounded: by a line, and by the lines of an event."""
    reader = EventReader()
    with pytest.raises(ValueError, match=f"more than {EVENT_BYTES_MAX} bytes"):
        _feed(reader, [endless] * 20)


def _feed(reader: EventReader, parts: list[bytes]) -> list[ServerEvent]:
    return [event for part in parts for event in reader.feed(part)]
