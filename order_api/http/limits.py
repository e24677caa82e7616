"""How much is taken on at once: from one user in a second, and from everybody at the same time. Never who somebody is.

Both count in this process alone: several API processes take that much each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.types import ASGIApp, Receive, Scope, Send

from order_api.http.problems import Code, Problem

WINDOW_S: Final = 1
REQUEST_S: Final = 60.0
"""The longest that any request may take, its waiting included; beyond it the answer is that the outcome is unknown."""
LIMITED_PATH: Final = "/orders"
"""Health, metrics and documentation answer however busy the process is: whoever looks after it needs them then."""
RETRY_AFTER_S: Final = 1


class Spent(NamedTuple):
    """What became of one request of a user, and the headers that tell its client."""

    allowed: bool
    headers: dict[str, str]


class RateLimit:
    """So many requests a second for each user, counted in a sliding window.

    The window holds this second's requests and the part of the last second's that it still covers, so no burst at the
    turn of a second gets twice as much. A request that is refused does not count: a client that is too fast is served
    as much as is allowed. Two tables of counts are all the memory; who asked for nothing lately is in neither.

    The headers are those of draft-ietf-httpapi-ratelimit-headers-06, the last draft with one number in each field.
    """

    def __init__(self, per_s: int, clock: Callable[[], float] = time.time) -> None:
        self._per_s = per_s
        self._clock = clock
        self._second = 0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def spend(self, user_id: str) -> Spent:
        """Count a request of this user, unless it is one too many."""
        part = self._turn()
        now = self._now.get(user_id, 0)
        used = now + int(self._before.get(user_id, 0) * (1 - part))
        allowed = used < self._per_s
        if allowed:
            self._now[user_id] = now + 1
        headers = {
            "ratelimit-limit": str(self._per_s),
            "ratelimit-remaining": str(self._per_s - used - allowed),
            "ratelimit-reset": str(WINDOW_S),
            "ratelimit-policy": f"{self._per_s};w={WINDOW_S}",
        }
        return Spent(allowed, headers if allowed else {**headers, "retry-after": str(WINDOW_S)})

    @property
    def users(self) -> int:
        """How many users are in memory."""
        return len(self._now.keys() | self._before.keys())

    def _turn(self) -> float:
        """Begin a new second when it is time; return how much of it is over."""
        clock = self._clock()
        second = int(clock)
        if second != self._second:
            self._before = self._now if second == self._second + 1 else {}
            self._now = {}
            self._second = second
        return clock - second


class InFlight:
    """How many requests are being worked on.

    One more than `at_most` is refused at once: a queue would only make everybody wait, in the end for nobody.
    """

    def __init__(self, at_most: int, *, registry: CollectorRegistry) -> None:
        self._at_most = at_most
        self.working = 0
        gauge = Gauge("http_server_in_flight_requests", "Requests that are being worked on.", registry=registry)
        gauge.set_function(lambda: self.working)
        self._shed = Counter("http_server_shed_requests", "Requests refused for want of room.", registry=registry)

    def enter(self) -> bool:
        """Take a place if there is one; whoever got it leaves again."""
        if self.working >= self._at_most:
            self._shed.inc()
            return False
        self.working += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self.working -= 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Give the place to others for as long as this request only waits for something to happen.

        It gets one back even when there is none left: it is accepted, and only its answer is missing.
        """
        self.working -= 1
        try:
            yield
        finally:
            self.working += 1


class LoadShedding:
    """The middleware that refuses what is too much, and ends what takes too long."""

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises `TimeoutError` for one that takes longer than `REQUEST_S`."""
        if scope["type"] != "http" or not scope["path"].startswith(LIMITED_PATH):
            await self._app(scope, receive, send)
        elif self._in_flight.enter():
            try:
                async with asyncio.timeout(REQUEST_S):
                    await self._app(scope, receive, send)
            finally:
                self._in_flight.leave()
        else:
            problem = Problem(Code.OVERLOADED, headers={"retry-after": str(RETRY_AFTER_S)})
            await problem.response(scope["path"])(scope, receive, send)
