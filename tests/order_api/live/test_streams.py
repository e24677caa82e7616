"""Streams of one process: their limits, their heartbeats, and when each must end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller, Scope
from order_api.live.feed import Feed
from order_api.live.streams import BYE_S, HEARTBEAT_S, RETRY_MS, RETRY_SPREAD_MS, Stream, Streams, retry_ms

WHOLE_ROUND_S = HEARTBEAT_S


def _caller(user_id: str = "alice", *scopes: Scope, lasts_s: float = 600.0) -> Caller:
    return Caller(user_id, frozenset(scopes or (Scope.READ,)), "token", time.time() + lasts_s)


class Made:
    """Streams with a registry of their own."""

    def __init__(self, *, streams_max: int = 10, per_user_max: int = 10, age_s: float = 3600.0) -> None:
        self.registry = CollectorRegistry()
        self.feed = Feed()
        self.streams = Streams(
            self.feed,
            streams_max=streams_max,
            per_user_max=per_user_max,
            registry=self.registry,
            heartbeat=lambda mark: b"beat %d" % mark,
            age_s=age_s,
        )
        self.now = asyncio.get_running_loop().time()
        self.streams.tick(self.now)
        self.held = ExitStack()

    def open(self, caller: Caller | None = None, abort: Callable[[], object] = lambda: None) -> Stream:
        """Open a stream until the end of the test."""
        return self.held.enter_context(self.streams.open(caller or _caller(), "sse", abort))

    def after(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.streams.tick(self.now)

    def metric(self, name: str, **labels: str) -> float:
        """Read a metric."""
        return self.registry.get_sample_value(name, labels) or 0.0


async def test_a_user_and_a_process_have_so_many_streams_and_no_more() -> None:
    """429 for the user, 503 for all; who acts for many users is bounded by the process alone; a place becomes free."""
    made = Made(streams_max=4, per_user_max=2)
    made.open()
    with made.streams.open(_caller(), "sse", lambda: None):
        with pytest.raises(Problem) as refused:
            made.open()
        assert Code.TOO_MANY_STREAMS == refused.value.code
    made.open()
    service = _caller("desk", Scope.ACT_FOR_USERS)
    for _ in range(2):
        made.open(service)
    with pytest.raises(Problem) as refused:
        made.open(_caller("bob"))
    assert (Code.OVERLOADED, "1") == (refused.value.code, refused.value.headers["retry-after"])
    assert 4 == made.metric("http_server_streams", kind="sse")
    made.held.close()
    assert (0, 0) == (len(made.streams), made.metric("http_server_streams", kind="sse"))


async def test_every_stream_has_one_heartbeat_in_a_round_and_they_are_spread() -> None:
    """One in fifteen seconds each, and not all in the same second."""
    made = Made(streams_max=100, per_user_max=100)
    streams = [made.open() for _ in range(2 * HEARTBEAT_S)]
    beats = []
    for _ in range(HEARTBEAT_S):
        made.after(1.0)
        beats.append(sum(stream.mailbox.take().beat for stream in streams))
    assert [2] * HEARTBEAT_S == beats


async def test_an_idle_stream_is_not_woken_for_a_heartbeat() -> None:
    """It is written past its task; but after what the stream has still to send, and never ahead of what it has read."""
    made, written = Made(), list[bytes]()
    stream = made.open()

    def write(part: bytes) -> bool:
        written.append(part)
        return True

    stream.write_part = write
    made.feed.mark = 7
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    made.after(WHOLE_ROUND_S)
    await asyncio.sleep(0)
    assert ([b"beat 7"], False) == (written, waiting.done())

    stream.mark = 8  # it has shown more than the feed has heard of
    made.after(WHOLE_ROUND_S)
    assert ([b"beat 7"], True) == (written, (await waiting).beat)

    stream.mark = 0
    stream.mailbox.missed()  # it has something to send
    made.after(WHOLE_ROUND_S)
    taken = await stream.next()
    assert ([b"beat 7"], True, True) == (written, taken.stale, taken.beat)

    stream.write_part = lambda _: False  # its client has not read what came before
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    made.after(WHOLE_ROUND_S)
    assert (await waiting).beat


async def test_a_round_that_comes_late_makes_up_for_it() -> None:
    """When the loop was held up, nobody's heartbeat is left out."""
    made = Made()
    streams = [made.open() for _ in range(5)]
    made.after(WHOLE_ROUND_S)
    assert all(stream.mailbox.take().beat for stream in streams)


async def test_a_stream_ends_when_its_token_expires_and_not_before() -> None:
    """Within two seconds after; another one's goes on."""
    made = Made()
    short, long = made.open(_caller(lasts_s=30)), made.open(_caller(lasts_s=60))
    made.after(29.0)
    assert (None, None) == (short.why, long.why)
    made.after(2.0)
    assert ("expired", None) == (short.why, long.why)
    assert not (await short.next()).orders


async def test_a_stream_that_does_not_leave_when_its_time_is_over_is_cut() -> None:
    """Its client reads slowly, so what it was to be sent would go on after its token; one that leaves is not cut."""
    made, aborted = Made(), list[bool]()
    stuck = made.open(_caller(lasts_s=30), abort=lambda: aborted.append(True))
    with made.streams.open(_caller(lasts_s=30), "sse", lambda: pytest.fail("it has left")) as polite:
        made.after(31.0)
        assert ["expired"] * 2 == [stuck.why, polite.why]
    assert [] == aborted
    made.after(BYE_S + 1)
    assert [True] == aborted


async def test_a_stream_ends_by_its_age_and_a_new_token_does_not_change_that() -> None:
    """An hour, a tenth more or less; the new token counts only where it ends sooner."""
    made = Made(age_s=100.0)
    stream = made.open(_caller(lasts_s=50))
    made.after(40.0)
    made.streams.renew(stream, _caller(lasts_s=1_000))
    made.after(48.0)
    assert stream.why is None
    made.after(24.0)
    assert "age" == stream.why


async def test_ages_are_spread() -> None:
    """So that clients come back one by one, after any process has started."""
    made = Made(streams_max=100, per_user_max=100, age_s=1_000.0)
    ends = [made.open(_caller(lasts_s=10_000)).due - made.now for _ in range(50)]
    took_s = asyncio.get_running_loop().time() - made.now
    assert 900 <= min(ends) < 970
    assert 1_030 < max(ends) <= 1_102 + took_s


async def test_all_say_goodbye_at_shutdown_and_who_does_not_is_cut() -> None:
    """No new one is opened; one whose client does not read is cut before the process has to end."""
    made, aborted = Made(), asyncio.Event()
    stuck = made.open(abort=aborted.set)
    with made.streams.open(_caller(), "sse", lambda: pytest.fail("it has left")) as polite:
        made.streams.close()
        assert ["shutdown"] * 2 == [stuck.why, polite.why]
    with pytest.raises(Problem) as refused:
        made.open()
    assert Code.OVERLOADED == refused.value.code
    async with asyncio.timeout(BYE_S + 5):
        await aborted.wait()


async def test_the_first_reason_to_end_counts() -> None:
    """And it is what the metric has, with what was conflated."""
    made = Made()
    with made.streams.open(_caller(), "sse", lambda: None) as stream:
        stream.end("expired")
        stream.end("shutdown")
    assert (1, 0) == tuple(made.metric("stream_ended_total", why=why) for why in ("expired", "shutdown"))


async def test_prices_are_handed_out_with_every_tick() -> None:
    """Not when they come."""
    made = Made()
    stream = made.open()
    made.feed.follow_prices(["BTC"], stream.mailbox)
    made.feed.hear_prices({"BTC": b"1"})
    assert [] == stream.mailbox.take().prices
    made.after(0.25)
    assert [b"1"] == [price.data for price in stream.mailbox.take().prices]


def test_clients_come_back_at_different_times() -> None:
    """After two to ten seconds."""
    times = {retry_ms() for _ in range(200)}
    assert RETRY_MS <= min(times) < max(times) < RETRY_MS + RETRY_SPREAD_MS
    assert 100 < len(times)
