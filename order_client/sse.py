"""Reads Server-Sent Events out of bytes, however they are cut (WHATWG HTML, 9.2.6). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

EVENT_BYTES_MAX: Final = 1_048_576
"""More than an event can have; what is longer is no stream of ours."""
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_RETRY_DIGITS_MAX: Final = 9


class ServerEvent(NamedTuple):
    """An event: its name, its data, and the id that came last in the stream, if one did."""

    name: str
    data: bytes
    last_id: str | None


class EventReader:
    """Takes the parts of a stream. `retry_ms`: how long to wait before the next connection; None: it did not say."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._last_id: str | None = None
        self._begins = True

    def feed(self, part: bytes) -> Iterator[ServerEvent]:
        """Yield the events that are complete with this part. Raises `ValueError` for one that is far too long."""
        text = self._rest + part
        held = text.endswith(b"\r")  # of a line end that may go on with the next part
        lines = _LINE_END.split(text[:-1] if held else text)
        self._rest = lines.pop() + (b"\r" if held else b"")
        if len(self._rest) > EVENT_BYTES_MAX:
            raise ValueError(f"a line of more than {EVENT_BYTES_MAX} bytes")
        for line in lines:
            if (event := self._read(line)) is not None:
                yield event

    def _read(self, line: bytes) -> ServerEvent | None:
        if self._begins:
            line, self._begins = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return self._event()
        name, _, value = line.partition(b":")
        self._field(name, value.removeprefix(b" "))
        return None

    def _field(self, name: bytes, value: bytes) -> None:
        match name:
            case b"data":
                self._size += len(value)
                if self._size > EVENT_BYTES_MAX:
                    raise ValueError(f"an event of more than {EVENT_BYTES_MAX} bytes")
                self._data.append(value)
            case b"event":
                self._name = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._last_id = value.decode("utf-8", "replace") or None
            case b"retry" if value.isdigit() and len(value) <= _RETRY_DIGITS_MAX:
                self.retry_ms = int(value)
            case _:  # a comment, which has no name, or a field that nobody knows
                pass

    def _event(self) -> ServerEvent | None:
        name, data = self._name or "message", self._data
        self._name, self._data, self._size = "", [], 0
        return ServerEvent(name, b"\n".join(data), self._last_id) if data else None
