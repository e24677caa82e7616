"""Decides which delivery is sent next, so that no endpoint holds up another. It does no I/O and reads no clock.

An endpoint has a *line*: what is claimed for it, what is under way, and its window. Attempts have a number of slots in
all. An endpoint is in the quick lane when its last attempt was a quick success, and else in one of the others, which
share half of the slots: those that are not known yet, those that are slow or have failed, and those that are silent.
Within a lane, lines take turns, also at being claimed for. So ten thousand dead endpoints, or all e-mails while their
relay is away, wait for each other and hold up nobody else: neither who is slow, nor who is new.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID

from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.rules import (
    AT_ONCE_MAX,
    PROBES_AFTER,
    QUICK_S,
    Answer,
    Verdict,
    at_once,
    gap_s,
    holds_up,
    next_window,
)
from projections.webhooks.store import LEASE_S, Want

AHEAD: Final = 32
"""Deliveries claimed ahead for a quick endpoint; a claim for each attempt would cost more than the attempt."""
CLAIM_LINES_MAX: Final = 100
WAITING_MAX: Final = 2_000
"""Claimed deliveries that wait in memory, of all endpoints."""
LEASE_LEFT_S: Final = 20.0
"""No attempt begins with less of the lease: it takes 15 s at most, and its mark a moment."""
IDLE_MAX: Final = 10_000
"""Endpoints without work whose window stays in memory."""


class Lane(StrEnum):
    """Which share of the slots an endpoint's attempts count for."""

    QUICK = "quick"
    NEW = "new"
    """No attempt of this process has ended there."""
    SLOW = "slow"
    SILENT = "silent"
    """It has failed too often in a row, and gets probes only."""


SHARES: Final = {Lane.QUICK: 1, Lane.NEW: 8, Lane.SLOW: 4, Lane.SILENT: 8}
"""A lane has one slot in so many at most."""


class Waiting(NamedTuple):
    """A claimed delivery, and until when it is leased by the loop's clock."""

    delivery: Delivery
    until_s: float


class Line:
    """What this process does for one endpoint."""

    __slots__ = (
        "due",
        "endpoint",
        "endpoint_id",
        "failures",
        "not_before_s",
        "pace",
        "paused_until_s",
        "queued",
        "running",
        "unmarked",
        "waiting",
        "window",
    )

    def __init__(self, endpoint_id: UUID) -> None:
        self.endpoint_id = endpoint_id
        self.endpoint: Endpoint | None = None
        self.due = False
        self.waiting: deque[Waiting] = deque()
        self.running = 0
        self.unmarked = 0
        self.window = 1.0
        self.failures = 0
        self.pace = Lane.NEW
        self.queued = False
        self.not_before_s = -math.inf
        self.paused_until_s = -math.inf

    @property
    def lane(self) -> Lane:
        """Where its next attempt counts."""
        return Lane.SILENT if self.failures >= PROBES_AFTER else self.pace

    @property
    def at_once(self) -> int:
        """How many attempts it may have at the same time."""
        return at_once(self.window, self.failures)

    @property
    def leased(self) -> int:
        """How many deliveries of it this process has leased."""
        return len(self.waiting) + self.running + self.unmarked

    @property
    def idle(self) -> bool:
        """Whether nothing of it is leased."""
        return self.leased == 0

    def rows_to_claim(self) -> int:
        """Say how many deliveries to claim now."""
        if self.pace is Lane.QUICK and self.window >= AT_ONCE_MAX:
            return AHEAD - len(self.waiting) if len(self.waiting) <= AHEAD // 2 else 0
        return max(0, self.at_once - len(self.waiting) - self.running)


class Start(NamedTuple):
    """An attempt to begin. `lane` is where it counts until it has ended."""

    endpoint: Endpoint
    delivery: Delivery
    lane: Lane


class Lines:
    """All lines of this process; times are seconds by the loop's clock."""

    def __init__(self, in_flight_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._share = {lane: in_flight_max // one_in for lane, one_in in SHARES.items()}
        self._lines: dict[UUID, Line] = {}
        self._hungry: dict[Lane, OrderedDict[UUID, Line]] = {lane: OrderedDict() for lane in Lane}
        self._ready: dict[Lane, deque[Line]] = {lane: deque() for lane in Lane}
        self._later: list[tuple[float, int, Line]] = []
        self._numbers = 0
        self._waiting = 0
        self.running: dict[Lane, int] = dict.fromkeys(Lane, 0)

    @property
    def hungry(self) -> bool:
        """Whether there is something to claim."""
        return any(self._may_claim(lane) for lane in Lane)

    def notice(self, endpoint_ids: Iterable[UUID], now_s: float) -> bool:
        """Learn that endpoints have something to be sent; return whether there is something to claim."""
        for endpoint_id in endpoint_ids:
            line = self._line(endpoint_id)
            if line.paused_until_s <= now_s:
                line.due = True
                self._feed(line)
        return self.hungry

    def found(self, failures: Mapping[UUID, int], now_s: float) -> bool:
        """Learn the same from the database, with their failures in a row, before anything is claimed for them.

        It knows best who pauses: a user may have enabled an endpoint.
        """
        for endpoint_id, in_row in failures.items():
            line = self._line(endpoint_id)
            line.paused_until_s = -math.inf
            if line.idle:
                line.failures = in_row
        return self.notice(failures, now_s)

    def _line(self, endpoint_id: UUID) -> Line:
        if (line := self._lines.get(endpoint_id)) is None:
            line = self._lines[endpoint_id] = Line(endpoint_id)
        return line

    def wants(self) -> list[Want]:
        """Say what to claim. Whoever asks claims it, and tells by `claimed`."""
        wants: list[Want] = []
        for lane in Lane:
            if self._may_claim(lane):
                room = CLAIM_LINES_MAX if lane is Lane.QUICK else self._in_flight_max - len(self._ready[lane])
                lines = islice(self._hungry[lane].values(), min(room, CLAIM_LINES_MAX))
                wants += [Want(one.endpoint_id, one.rows_to_claim(), one.leased) for one in lines]
        return wants

    def _may_claim(self, lane: Lane) -> bool:
        return bool(self._hungry[lane]) and not self._is_full(lane)

    def _is_full(self, lane: Lane) -> bool:
        return self._waiting >= WAITING_MAX if lane is Lane.QUICK else len(self._ready[lane]) >= self._in_flight_max

    def _feed(self, line: Line) -> None:
        """Note whether there is something to claim for a line, and which lane it counts in."""
        for lane in Lane:
            if not (line.due and line.lane is lane and line.rows_to_claim() > 0):
                self._hungry[lane].pop(line.endpoint_id, None)
            elif line.endpoint_id not in self._hungry[lane]:
                self._hungry[lane][line.endpoint_id] = line

    def claimed(
        self, wants: Collection[Want], found: Iterable[tuple[Endpoint, list[Delivery]]], until_s: float, now_s: float
    ) -> list[Delivery]:
        """Take what was claimed. An endpoint that gave less than was wanted has nothing more for now.

        Return what is to be handed back: an endpoint that nobody knew to be silent has enough others before it.
        """
        back: list[Delivery] = []
        given = {endpoint.endpoint_id: (endpoint, deliveries) for endpoint, deliveries in found}
        for want in wants:
            line = self._line(want.endpoint_id)
            endpoint, deliveries = given.get(want.endpoint_id, (None, []))
            if endpoint is not None:
                if line.idle:
                    line.failures = endpoint.failures_in_row  # while it has leases, only this process changes it
                line.endpoint = endpoint
                if line.lane is Lane.SILENT and self._is_full(Lane.SILENT):
                    back += deliveries
                    deliveries = []
                line.waiting.extend(Waiting(one, until_s) for one in deliveries)
                self._waiting += len(deliveries)
            line.due = line.due and len(given.get(want.endpoint_id, (None, []))[1]) >= want.rows
            self._hungry[line.lane].pop(want.endpoint_id, None)  # its next turn is the last; other lanes `_feed` clears
            self._feed(line)
            self._queue(line, now_s)
        return back

    def start(self, now_s: float) -> Iterator[Start | Delivery]:
        """Give the attempts that can begin now; a delivery alone is to be handed back, since its lease is too old."""
        while self._later and self._later[0][0] <= now_s:
            line = heapq.heappop(self._later)[2]
            line.queued = False
            self._queue(line, now_s)
        while (lane := self._next_lane()) is not None:
            line = self._ready[lane].popleft()
            line.queued = False
            if line.lane is not lane:  # it has changed while it was in line
                self._queue(line, now_s)
                continue
            if not line.waiting:
                continue
            waiting = line.waiting.popleft()
            self._waiting -= 1
            if waiting.until_s - now_s < LEASE_LEFT_S:
                yield waiting.delivery
            else:
                assert line.endpoint is not None  # noqa: S101 - what waits was claimed with its endpoint
                line.running += 1
                self.running[lane] += 1
                yield Start(line.endpoint, waiting.delivery, lane)
            self._queue(line, now_s)
            self._feed(line)

    def _next_lane(self) -> Lane | None:
        """Return the lane whose turn it is: the one with fewer attempts under way, if it has work and a slot."""
        if sum(self.running.values()) >= self._in_flight_max:
            return None
        free = [lane for lane, ready in self._ready.items() if ready and self.running[lane] < self._share[lane]]
        return min(free, key=self.running.__getitem__, default=None)

    def ended(self, begun: Start, answer: Answer, now_s: float) -> tuple[bool, list[Delivery]]:
        """Learn how an attempt has ended.

        Return whether the health of its endpoint changes, and what to hand back: the rest waits while it is silent.
        """
        line = self._lines[begun.endpoint.endpoint_id]
        delivered = answer.verdict is Verdict.DELIVERED
        shaky = line.failures > 0 or not delivered or answer.rest_s > 0
        line.running -= 1
        line.unmarked += 1
        self.running[begun.lane] -= 1
        line.window = next_window(line.window, answer)
        line.failures = 0 if delivered else line.failures + 1
        line.pace = Lane.QUICK if delivered and answer.duration_s <= QUICK_S else Lane.SLOW
        line.not_before_s = now_s + gap_s(line.window)
        back: list[Delivery] = []
        if holds_up(answer, line.failures):
            back = [one.delivery for one in line.waiting]
            self._waiting -= len(back)
            line.waiting.clear()
            line.due = False
        self._queue(line, now_s)
        self._feed(line)
        return shaky, back

    def marked(self, endpoint_id: UUID) -> None:
        """Learn that an attempt is stored."""
        if (line := self._lines.get(endpoint_id)) is not None:
            line.unmarked -= 1

    def stored_health(self, endpoint_id: UUID, failures: int, paused_s: float, now_s: float) -> None:
        """Learn how an endpoint does by the database, and for how long it pauses."""
        if (line := self._lines.get(endpoint_id)) is None:
            return
        if not line.unmarked:  # else it knows more already
            line.failures = failures
        line.paused_until_s = now_s + paused_s
        if paused_s > 0:
            line.due = False
        self._feed(line)

    def take_back(self) -> list[Delivery]:
        """Give up all that is claimed and not under way; return it."""
        back = [one.delivery for line in self._lines.values() for one in line.waiting]
        for line in self._lines.values():
            line.waiting.clear()
            line.due = False
            self._feed(line)
        self._waiting = 0
        return back

    def next_at_s(self) -> float:
        """Return when a pause between two attempts ends; infinity when there is none."""
        return self._later[0][0] if self._later else math.inf

    def forget_idle(self) -> None:
        """Forget the endpoints that had nothing for the longest time, when there are too many."""
        surplus = len(self._lines) - IDLE_MAX
        if surplus <= 0:
            return
        idle = [key for key, line in self._lines.items() if line.idle and not line.queued and not line.due]
        for key in idle[:surplus]:
            del self._lines[key]

    def _queue(self, line: Line, now_s: float) -> None:
        """Put a line where it takes its turn, if it may have one more attempt."""
        if line.queued or not line.waiting or line.running >= line.at_once:
            return
        line.queued = True
        if line.not_before_s > now_s:
            self._numbers += 1
            heapq.heappush(self._later, (line.not_before_s, self._numbers, line))
        else:
            self._ready[line.lane].append(line)


def lease_end(claim_began_s: float) -> float:
    """Return until when a lease holds for sure, by the clock of whoever claimed it."""
    return claim_began_s + LEASE_S
