"""The envelope of every message: CloudEvents 1.0 in Kafka's binary mode. It knows no message.

`UnreadableMessage` is the only exception of `contracts`; its reason says what is wrong.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from contracts.vocabulary import check_instant

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/json"
FIRST_APPENDED: Final = "first-appended-at"
"""A header with an RFC 3339 time: when the broker first had a record that was published again."""
HEADER_LENGTH_MAX: Final = 1024
"""Characters of a `ce_` header."""
TIME_LENGTH_MAX: Final = 64
"""Bytes of `ce_time`. RFC 3339 allows any number of digits in a fraction, and parsed times are cached."""
_BYTES_MAX: Final = 4 * HEADER_LENGTH_MAX
ATTEMPT_MAX: Final = 1_000_000
REASON_LENGTH_MAX: Final = 500
"""Characters of any reason, as `ReasonText` has it."""
QUOTED_LENGTH_MAX: Final = 40
"""Characters of a broken value that a reason quotes."""

_SPEC_VERSION = SPEC_VERSION.encode()
_CONTENT_TYPE = CONTENT_TYPE.encode()
_SPEC_VERSION_HEADER = ("ce_specversion", _SPEC_VERSION)
_CONTENT_TYPE_HEADER = ("content-type", _CONTENT_TYPE)
_CACHED_MAX = 1024
"""Size of the caches of headers: types and sources are few, and messages sent together have one time."""
_read_time = msgspec.json.Decoder(datetime).decode  # the same RFC 3339 as in bodies, on every Python
_write_time = msgspec.json.Encoder().encode
TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""W3C Trace Context: trace, span and flags, of any version but the invalid `ff`."""
_ATTEMPT = re.compile(rb"[1-9][0-9]{0,8}")


class UnreadableMessage(Exception):  # noqa: N818 - it names the thing that a dead letter holds
    """A record can't be read; `reason` says what is wrong and what would be right."""

    def __init__(self, reason: str) -> None:
        """Cut the reason to `REASON_LENGTH_MAX`."""
        self.reason = reason[:REASON_LENGTH_MAX]
        super().__init__(self.reason)


class Envelope(msgspec.Struct, frozen=True):
    """The content of the headers: id, type, source, time, trace and the number of the attempt, from 1.

    `time` is `ce_time`, or when the broker first had a record that was published again, if that is earlier.
    """

    id: str
    type: str
    source: str
    time: datetime
    traceparent: str | None = None
    attempt: int = 1


class Outgoing(msgspec.Struct, frozen=True):
    """A message ready for the wire. `topic` is without the system's prefix; `id` is the CloudEvents id."""

    topic: str
    key: str
    id: str
    value: bytes
    headers: list[tuple[str, bytes]]


def write_headers(envelope: Envelope) -> list[tuple[str, bytes]]:
    """Write the headers of an envelope, `attempt` only from the second on."""
    shared = _shared_headers(envelope.type, envelope.source, envelope.time)
    headers = [_SPEC_VERSION_HEADER, ("ce_id", envelope.id.encode()), *shared]
    if envelope.traceparent is not None:
        headers.append(("traceparent", envelope.traceparent.encode()))
    if envelope.attempt > 1:
        headers.append(("attempt", str(envelope.attempt).encode()))
    return headers


def read_envelope(headers: Sequence[tuple[str, bytes | None]]) -> Envelope:
    """Read an envelope from raw Kafka headers. Other headers are ignored, even when they are not UTF-8.

    Of a header that comes twice the last counts. Raises `UnreadableMessage` for a missing or malformed header.
    """
    raw = dict(headers)
    if (version := _given(raw.get("ce_specversion"), "ce_specversion")) != _SPEC_VERSION:
        raise UnreadableMessage(f"header ce_specversion must be '1.0', got {version[:QUOTED_LENGTH_MAX]!r}")
    if (content_type := raw.get("content-type")) is not None and content_type != _CONTENT_TYPE:
        _check_content_type(content_type)
    return Envelope(
        id=_text(raw.get("ce_id"), "ce_id"),
        type=_cached_text(raw.get("ce_type"), "ce_type"),
        source=_cached_text(raw.get("ce_source"), "ce_source"),
        time=_earlier(_time(_given(raw.get("ce_time"), "ce_time")), raw.get(FIRST_APPENDED)),
        traceparent=_traceparent(raw.get("traceparent")),
        attempt=_attempt(raw.get("attempt")),
    )


@lru_cache(_CACHED_MAX)
def _shared_headers(kind: str, source: str, time: datetime) -> tuple[tuple[str, bytes], ...]:
    """Write the headers that messages of one type, source and time share."""
    return (
        ("ce_type", kind.encode()),
        ("ce_source", source.encode()),
        ("ce_time", _write_time(time.astimezone(UTC))[1:-1]),
        _CONTENT_TYPE_HEADER,
    )


def format_time(time: datetime) -> str:
    """Write an aware time as RFC 3339 in UTC, with microseconds."""
    return _write_time(time.astimezone(UTC))[1:-1].decode()


def first_appended(timestamp_ms: int, headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    """Make the header `FIRST_APPENDED` for a record that is published again.

    Return an empty list when it has one already, or its broker's time is unknown.
    """
    if timestamp_ms <= 0 or any(name == FIRST_APPENDED for name, _ in headers):
        return []
    return [(FIRST_APPENDED, format_time(datetime.fromtimestamp(timestamp_ms / 1000, UTC)).encode())]


def _given(value: bytes | None, name: str) -> bytes:
    if not value:
        raise UnreadableMessage(f"header {name} is missing: CloudEvents 1.0 in binary mode needs it")
    return value


def _text(value: bytes | None, name: str) -> str:
    given = _given(value, name)
    try:
        text = given.decode() if len(given) <= _BYTES_MAX else None
    except UnicodeDecodeError:
        raise UnreadableMessage(f"header {name} is not UTF-8") from None
    # A NUL would break the insert that stores the message, and a control character a log line.
    if text is None or len(text) > HEADER_LENGTH_MAX or not text.isprintable():
        raise UnreadableMessage(f"header {name} must be at most {HEADER_LENGTH_MAX} printable characters")
    return text


_cached_text = lru_cache(_CACHED_MAX)(_text)


def _check_content_type(value: bytes) -> None:
    if value.split(b";")[0].strip().lower() != _CONTENT_TYPE:
        raise UnreadableMessage(f"header content-type must be {CONTENT_TYPE}, got {value[:QUOTED_LENGTH_MAX]!r}")


@lru_cache(_CACHED_MAX)
def _time(value: bytes) -> datetime:
    if len(value) > TIME_LENGTH_MAX:
        raise UnreadableMessage(f"header ce_time must be at most {TIME_LENGTH_MAX} bytes, got {len(value)}")
    try:
        time = _read_time(b'"' + value + b'"')
        check_instant(time)
    except ValueError:
        raise UnreadableMessage(f"header ce_time must be an RFC 3339 time, got {value[:QUOTED_LENGTH_MAX]!r}") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _earlier(time: datetime, first_appended: bytes | None) -> datetime:
    if first_appended is None:
        return time
    try:
        return min(time, _time(first_appended))
    except UnreadableMessage:  # the header is ours; another sender's is ignored
        return time


def _traceparent(value: bytes | None) -> str | None:
    # An order is not lost over a broken trace; W3C Trace Context says to start a new one.
    if value is None:
        return None
    text = value.decode("latin-1")
    return text if TRACEPARENT.fullmatch(text) else None


def _attempt(value: bytes | None) -> int:
    return min(int(value), ATTEMPT_MAX) if value is not None and _ATTEMPT.fullmatch(value) else 1
