"""The protocol of a WebSocket: uvicorn's, within the limits of all connections.

uvicorn's bounds the size of a message, and reads no more while one waits to be served. But it takes as many as came
with one read, be they ten thousand, and it bounds neither the number of a message's parts, nor of pings, nor what it
answers to a client that does not read.
"""

from __future__ import annotations

import logging
from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from saga_kit.runtime.connections import CONNECTION, SELF, Connection

MESSAGE_BYTES_MAX: Final = 16_384
"""Bytes of a message from a client; a token fits in."""
FRAMES_MAX: Final = 400
"""Frames of a client in a second, pings and the parts of messages included: each costs time that others wait for."""
READ_BYTES_MAX: Final = 4_096
"""Bytes that are taken at once, so that a client is stopped before thousands of its frames have been read."""
PARTS_MAX: Final = 64
"""Frames of one message: a client that sends a message in smaller parts keeps them for ever, empty ones for nothing."""
UNREAD_BYTES_MAX: Final = 1_048_576
"""Bytes of answers that may wait for a client that goes on sending."""
PING_S: Final = 20.0
"""Between two pings, and for their answer."""
TOO_BIG, TOO_MANY = 1009, 4429
GOODBYE_S: Final = 5.0
"""Seconds that whoever serves the connection has to end it when the server does."""


class WebSocket(WebSocketsSansIOProtocol):
    """One connection after its upgrade."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.config, connection.server_state, connection.app_state)
        self._connection = connection
        self._second, self._frames = 0, 0
        # uvicorn's own lines have the whole address, and what it says of a broken connection is no news.
        self.logger = logging.getLogger(f"{__name__}.quiet")
        self.logger.setLevel(logging.CRITICAL + 1)

    def handle_connect(self, event: object) -> None:
        """Make the scope with its connection in it."""
        super().handle_connect(event)  # type: ignore[arg-type]  # the base class takes what its parser makes
        if self.response.status_code == 101:  # noqa: PLR2004 - an HTTP status
            self.scope["extensions"][CONNECTION] = {SELF: self._connection}

    def data_received(self, data: bytes) -> None:
        """Take more bytes, unless the client does not read what is answered."""
        if self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._connection.cut("answer not read")
            return
        for first in range(0, len(data), READ_BYTES_MAX):
            if self.transport.is_closing():
                return
            super().data_received(data[first : first + READ_BYTES_MAX])

    def handle_events(self) -> None:
        """Take what was read, unless it is too much."""
        second = int(self.loop.time())
        if second != self._second:
            self._second, self._frames = second, 0
        self._frames += len(self.conn.events)
        if self._frames > FRAMES_MAX:
            self.conn.fail(TOO_MANY, f"more than {FRAMES_MAX} frames in a second")
            self.handle_parser_exception()
            return
        super().handle_events()

    def handle_cont(self, event: Frame) -> None:
        """Take a further part of a message."""
        if len(self.frames) >= PARTS_MAX:
            self.conn.fail(TOO_BIG, "too many frames in a message")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        super().connection_lost(exc)
        self._connection.lost()

    def shutdown(self) -> None:
        """Let whoever serves the connection say goodbye: it was told. What then still stands is cut."""
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
        else:
            self.loop.call_later(GOODBYE_S, self.transport.abort)
