"""Limits of the load: requests of one user in a second, and requests of everybody at the same time (load shedding).

Each process counts its own requests: several API processes accept that much each.
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
"""The longest that any request may take, its waiting included; after that the answer is a 503, outcome unknown."""
LIMITED_PATHS: Final = ("/orders", "/holds", "/events", "/prices", "/assets", "/accounts")
"""Health, metrics and documentation are not limited: operators need them most when the process is busy."""
RETRY_AFTER_S: Final = 1
TIME_LIMIT: Final = "time_limit"
"""A request's state has its time limit by this name: a stream, which goes on, has it lifted."""


class Spent(NamedTuple):
    """Whether a request of a user is allowed, and the headers that tell its client."""

    allowed: bool
    headers: dict[str, str]


class RateLimit:
    """A number of requests a second for each user, counted by a sliding-window counter.

    The count is this second's requests and a share of the last second's: the share of it that lies less than a second
    back. So a burst around the end of a second gets no double limit. A refused request does not count: a client that is
    too fast is served as much as is allowed. Two tables of counts hold the users of two seconds, and nobody else.

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
        part = self._advance()
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
        """The number of users in memory."""
        return len(self._now.keys() | self._before.keys())

    def _advance(self) -> float:
        """Begin a new second when it is time; return the share of it that is over."""
        clock = self._clock()
        second = int(clock)
        if second != self._second:
            self._before = self._now if second == self._second + 1 else {}
            self._now = {}
            self._second = second
        return clock - second


class InFlight:
    """The number of requests in flight.

    One more than `at_most` is refused at once: a queue would make everybody wait, and its requests time out.
    """

    def __init__(self, at_most: int, *, registry: CollectorRegistry) -> None:
        self._at_most = at_most
        self.working = 0
        gauge = Gauge("http_server_in_flight_requests", "Requests that are being worked on.", registry=registry)
        gauge.set_function(lambda: self.working)
        self._shed = Counter("http_server_shed_requests", "Requests refused for want of room.", registry=registry)

    def enter(self) -> bool:
        """Count a request in if there is room; return whether there was. It must `leave` again."""
        if self.working >= self._at_most:
            self._shed.inc()
            return False
        self.working += 1
        return True

    def leave(self) -> None:
        """Count a request out."""
        self.working -= 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count this request out while it only waits for something to happen.

        It is counted in again even when there is no room: it is accepted, and only its answer is missing.
        """
        self.working -= 1
        try:
            yield
        finally:
            self.working += 1


class LoadShedding:
    """The middleware that refuses requests beyond the limit in flight, and ends those that take too long."""

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises `TimeoutError` for one that takes longer than `REQUEST_S`."""
        if scope["type"] != "http" or not scope["path"].startswith(LIMITED_PATHS):
            await self._app(scope, receive, send)
        elif self._in_flight.enter():
            try:
                async with asyncio.timeout(REQUEST_S) as time_limit:
                    scope["state"][TIME_LIMIT] = time_limit
                    await self._app(scope, receive, send)
            finally:
                self._in_flight.leave()
        else:
            problem = Problem(Code.OVERLOADED, headers={"retry-after": str(RETRY_AFTER_S)})
            await problem.response(scope["path"])(scope, receive, send)
