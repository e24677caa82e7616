"""All streams of one process: how many there may be, their heartbeats, when each must end, and why it did.

A stream that has nothing to send costs no timer and no task of its own: one loop serves the heartbeats and the ends of
all of them.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from order_api.http.limits import RETRY_AFTER_S
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.live.feed import Feed
from order_api.live.mailbox import Mailbox, Taken
from saga_kit.runtime.backoff import pause

HEARTBEAT_S: Final = 15
AGE_S: Final = 3600.0
AGE_SPREAD: Final = 0.1
"""A stream ends after `AGE_S`, a tenth more or less: so clients spread over the processes, and not all at once."""
TICK_S: Final = 0.25
"""How often prices are handed out at most."""
IDLE_TICK_S: Final = 1.0
BYE_S: Final = 2.0
"""Seconds that streams have to say goodbye when their time is over, or the process ends; then their connections are
cut."""
RETRY_MS: Final = 2_000
RETRY_SPREAD_MS: Final = 8_000

Kind = Literal["sse", "websocket"]
Why = Literal["shutdown", "expired", "age", "unavailable", "ended", "gone", "refused"]
"""Why a stream ends. `ended`: its order has; `gone`: its client has; `refused`: its client broke a rule."""


class Stream:
    """One stream: its mailbox, and why it must end, once it must."""

    __slots__ = (
        *("_waiter", "_woken", "abort", "due", "events", "mailbox", "mark", "oldest", "slot", "why", "write_part"),
    )

    def __init__(self, abort: Callable[[], object]) -> None:
        """`abort` ends its connection at once."""
        # Not an asyncio.Event, which takes a kilobyte: one task waits.
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None
        self.mailbox = Mailbox(self._wake)
        self.abort = abort
        self.write_part: Callable[[bytes], bool] | None = None
        """Writes past the task of the stream, and returns whether that was possible."""
        self.mark = 0
        """All that was committed before it has been sent, whatever the feed has heard (see `marks`)."""
        self.why: Why | None = None
        self.events = 0
        """Orders and prices that it has sent."""
        self.slot = 0
        self.due = 0
        """The second, by the loop's time, in which it must end."""
        self.oldest = 0.0
        """When it must end by its age."""

    def end(self, why: Why) -> None:
        """Have it end; the first reason counts."""
        self.why = self.why or why
        self._wake()

    async def next(self) -> Taken:
        """Wait for news, and return what is in the mailbox. It may be nothing, when there is a reason to end."""
        if not self._woken:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._woken = False
        return self.mailbox.take()

    def beat(self, heard: int, written: bytes) -> None:
        """Send a heartbeat, `written` for a feed that has heard all before the mark `heard`.

        A stream that has nothing else to send is not woken for it: of thousands most are idle.
        """
        idle = self._waiter is not None and not self._woken and self.mark <= heard
        if not (idle and self.write_part is not None and self.write_part(written)):
            self.mailbox.beat()

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Streams:
    """The streams that are open."""

    def __init__(
        self,
        feed: Feed,
        *,
        streams_max: int,
        per_user_max: int,
        registry: CollectorRegistry,
        heartbeat: Callable[[int], bytes],
        age_s: float = AGE_S,
    ) -> None:
        """`heartbeat` writes one for a mark of the feed."""
        self._feed = feed
        self._heartbeat = heartbeat
        self._streams_max = streams_max
        self._per_user_max = per_user_max
        self._age_s = age_s
        self._users: Count[str] = Count()
        self._slots: list[set[Stream]] = [set() for _ in range(HEARTBEAT_S)]
        self._due: dict[int, set[Stream]] = {}
        self._streams: set[Stream] = set()
        self._second = -1
        self._turn = 0
        self.closed = False
        self._open = Gauge("http_server_streams", "Streams that are open.", ["kind"], registry=registry)
        self.events = Counter("stream_events", "Events that were sent in streams.", ["event"], registry=registry)
        self._conflated = Counter(
            "stream_events_conflated", "Versions that a newer one replaced before they were sent.", registry=registry
        )
        self.gaps = Counter("stream_gaps", "Gaps that streams told of.", registry=registry)
        self._ended = Counter("stream_ended", "Streams that have ended.", ["why"], registry=registry)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._streams)

    def check(self, caller: Caller) -> None:
        """Raise the problem of one stream too many: of this caller's, or of all."""
        if self.closed or len(self) >= self._streams_max:
            raise Problem(Code.OVERLOADED, "it has no room for another stream", headers=_LATER)
        if caller.one_user is not None and self._users[caller.user_id] >= self._per_user_max:
            detail = f"the caller has {self._per_user_max} streams open at this process"
            raise Problem(Code.TOO_MANY_STREAMS, detail, headers=_LATER)

    @contextmanager
    def open(self, caller: Caller, kind: Kind, abort: Callable[[], object]) -> Iterator[Stream]:
        """Open a stream as long as the context lasts; raise what `check` does. `abort` ends its connection at once.

        It must end when the caller's token expires, and by its age.
        """
        self.check(caller)
        stream = Stream(abort)
        self._turn += 1
        stream.slot = self._turn % HEARTBEAT_S
        self._slots[stream.slot].add(stream)
        self._users[caller.user_id] += 1
        self._open.labels(kind).inc()
        age_s = self._age_s * (1 + AGE_SPREAD * (2 * random.random() - 1))  # noqa: S311 - no secret
        stream.oldest = asyncio.get_running_loop().time() + age_s
        self._streams.add(stream)
        self.renew(stream, caller)
        try:
            yield stream
        finally:
            self._leave(stream, caller)
            self._open.labels(kind).dec()

    def renew(self, stream: Stream, caller: Caller) -> None:
        """Let a stream last as long as its caller's token is good, but no longer than by its age."""
        now = asyncio.get_running_loop().time()
        self._forget_due(stream)
        stream.due = max(int(min(now + caller.expires_at - time.time(), stream.oldest)), self._second) + 1
        self._due.setdefault(stream.due, set()).add(stream)

    def close(self) -> None:
        """Have all of them say goodbye; cut those that have not after `BYE_S`, since nobody reads them."""
        self.closed = True
        for stream in [*self._streams]:
            stream.end("shutdown")
        asyncio.get_running_loop().call_later(BYE_S, self._cut)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve heartbeats, ends and prices until `stopping`."""
        clock = asyncio.get_running_loop().time
        self._second = int(clock())
        while not await pause(stopping, TICK_S if self._streams else IDLE_TICK_S):
            self.tick(clock())

    def tick(self, now: float) -> None:
        """Do what has become due by the loop's time `now`."""
        self._feed.hand_out_prices()
        while self._second < int(now):
            self._second += 1
            heard = self._feed.mark
            written = self._heartbeat(heard)
            for stream in self._slots[self._second % HEARTBEAT_S]:
                stream.beat(heard, written)
            for stream in self._due.pop(self._second, ()):
                self._end(stream)

    def _end(self, stream: Stream) -> None:
        """Have a stream end whose time is over; cut it when it has not, since its client is slow to read."""
        if stream.why is not None:
            stream.abort()
            return
        stream.end("age" if self._second > stream.oldest else "expired")
        stream.due = self._second + math.ceil(BYE_S)
        self._due.setdefault(stream.due, set()).add(stream)

    def _leave(self, stream: Stream, caller: Caller) -> None:
        self._streams.discard(stream)
        self._forget_due(stream)
        self._slots[stream.slot].discard(stream)
        self._users[caller.user_id] -= 1
        if not self._users[caller.user_id]:
            del self._users[caller.user_id]
        self._conflated.inc(stream.mailbox.conflated)
        self._ended.labels(stream.why or "gone").inc()

    def _forget_due(self, stream: Stream) -> None:
        due = self._due.get(stream.due)
        if due is not None:
            due.discard(stream)
            if not due:
                del self._due[stream.due]

    def _cut(self) -> None:
        for stream in [*self._streams]:
            stream.abort()


_LATER: Final = {"retry-after": str(RETRY_AFTER_S)}


def retry_ms() -> int:
    """Return after how long a client should come back: not all of them at once."""
    return RETRY_MS + random.randrange(RETRY_SPREAD_MS)  # noqa: S311 - no secret
