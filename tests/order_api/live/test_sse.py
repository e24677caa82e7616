"""Server-sent events as they are written: what a browser's parser, here the client library's, makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from order_api.live import sse
from order_api.live.mailbox import OrderEvent, PriceEvent


def _parsed(*frames: bytes) -> list[httpx2.ServerSentEvent]:
    request, headers = httpx2.Request("GET", "http://api/events"), {"content-type": sse.MEDIA_TYPE}
    answer = httpx2.Response(200, headers=headers, content=b"".join(frames), request=request)
    return list(httpx2.EventSource(answer))


def _event(version: int = 3, mark: int = 7, assets: Sequence[str] = ()) -> OrderEvent:
    return OrderEvent(b"an-order", version, b'{"version":3}', mark, assets=tuple(assets))


@given(st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_data_comes_out_as_it_went_in(text: str) -> None:
    """JSON has no line ends, but whoever writes one with line ends breaks no stream: a reader gets the same JSON."""
    data = msgspec.json.format(msgspec.json.encode({"text": text}), indent=2)
    [event] = _parsed(sse.frame("order", data, "t1"))
    assert ("order", "t1", {"text": text}) == (event.event, event.id, msgspec.json.decode(event.data))


def test_an_order_is_written_with_its_mark_and_what_money_moved() -> None:
    """The id is the mark; without one there is none, so that a client keeps the id it has."""
    order, account = _parsed(sse.order_frame(_event(assets=["BTC", "USD"])))
    assert ("order", "t7", '{"version":3}') == (order.event, order.id, order.data)
    assert ("account", {"assets": ["BTC", "USD"]}) == (account.event, msgspec.json.decode(account.data))
    assert b"id:" not in sse.order_frame(_event(mark=0))


def test_a_stream_never_names_a_mark_older_than_what_it_has_shown() -> None:
    """What comes right after the snapshot has the snapshot's mark; later ones share what is written for all."""
    event = _event()
    [early] = _parsed(sse.order_frame_since(event, 9))
    assert "t9" == early.id
    assert sse.order_frame_since(event, 5) is sse.order_frame_since(event, 7)


def test_the_stream_of_an_order_has_versions_for_ids() -> None:
    """So that a client can ask for what comes after the one it has."""
    [event] = _parsed(sse.version_frame(_event()))
    assert ("order", "3") == (event.event, event.id)


def test_what_else_is_said_is_json_without_an_id() -> None:
    """Heartbeats, gaps, prices and goodbyes change no position; the goodbye says when to come back."""
    frames = [
        sse.FRAMES.heartbeat(0),
        sse.FRAMES.heartbeat(1_772_461_800_000_000),
        sse.FRAMES.gap(0, None),
        sse.FRAMES.price(PriceEvent("BTC", b'{"price":"1"}')),
        sse.bye_frame("age"),
    ]
    assert b"id:" not in b"".join(frames)
    beat, later, gap, price, bye = _parsed(*frames)
    assert msgspec.json.decode(beat.data)["complete_until"] is None
    assert "2026-03-02T14:30:00Z" == msgspec.json.decode(later.data)["complete_until"]
    assert {"since": None, "list": None} == msgspec.json.decode(gap.data)
    assert ("price", '{"price":"1"}') == (price.event, price.data)
    assert ("bye", {"why": "age"}) == (bye.event, msgspec.json.decode(bye.data))
    assert 2_000 <= (bye.retry or 0) < 10_000
