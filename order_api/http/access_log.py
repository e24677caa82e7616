"""One line for each request: the method and the route, the caller, and how it ended. A stream has one more, at first.

A line never holds an address, a token, a key, a path or a query: the route's pattern stands for the path. Lines are
written directly and not through the standard library's logging: one costs 3 us instead of 22.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

POLLED: Final = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Routes that probes and scrapers call all day: they have a line at the level DEBUG only."""


GONE: Final = "gone"
"""Why a stream has ended that no reason of ours has ended."""

Level = Literal["info", "debug"]
Event = Literal["request", "stream began", "stream ended"]


class AccessLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line; its fields are named as in all other lines of the process."""

    timestamp: datetime
    level: Level
    event: Event = "request"
    service: str = "api"
    method: str
    route: str
    """Its pattern; `none` when there is no such route."""
    status: int
    """499: the client hung up before there was an answer. 101: it has become a WebSocket."""
    duration_ms: float
    bytes_sent: int
    """Of the answer's body, or of the messages of a WebSocket."""
    user_id: str | UnsetType = UNSET
    """The caller, once it is known."""
    order_id: UUID | str | UnsetType = UNSET
    why: str | UnsetType = UNSET
    """Why a stream has ended."""
    events: int | UnsetType = UNSET
    """Orders and prices that it has sent."""
    close_code: int | UnsetType = UNSET
    """Of a WebSocket that we have closed."""
    trace_id: str | UnsetType = UNSET
    span_id: str | UnsetType = UNSET


class AccessLog:
    """Writes lines to stderr: to be read by people or as JSON, and none that is less severe than `level`."""

    def __init__(self, *, log_format: str, level: str) -> None:
        self._render = _ENCODER.encode if log_format == "json" else _for_people
        self._levels = {"DEBUG": {"info", "debug"}, "INFO": {"info"}}.get(level, set())

    def level_of(self, route: str) -> Level | None:
        """Return the level of a line about this route; None when it is not to be written."""
        level: Level = "debug" if route in POLLED else "info"
        return level if level in self._levels else None

    def write(self, line: AccessLine) -> None:
        """Write a line. A log that can't be written is no reason to fail a request."""
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more; a stream that is closed
            sys.stderr.buffer.write(self._render(line) + b"\n")
            sys.stderr.buffer.flush()


_ENCODER: Final = msgspec.json.Encoder()


def _for_people(line: AccessLine) -> bytes:
    facts = msgspec.to_builtins(line)
    head = "{timestamp} [{level:<9}] {event}".format(**facts)
    pairs = (f"{name}={facts[name]}" for name in AccessLine.__struct_fields__[3:] if name in facts)
    return f"{head} {' '.join(pairs)}".encode()
