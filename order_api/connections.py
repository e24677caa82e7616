"""The connections of the server: what a client may send before it has a request, how slowly, and how many may try.

It extends uvicorn's protocol for httptools, which bounds none of that: a head that never ends, a client that sends a
byte a minute or does not read its answer would each hold memory and a connection for ever. Never what a request says.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

import httptools
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from order_api.door import HEADERS
from order_api.problems import Code, Problem
from saga_kit.backoff import pause

HEAD_BYTES_MAX: Final = 16_384
"""Of a request's line and headers; a token fits many times."""
MESSAGE_BYTES_MAX: Final = 4_194_304
"""Of a whole request as it is sent, chunk sizes and trailers included: far more than any body that is read here."""
PIPELINED_MAX: Final = 16
"""Requests that a client may send ahead of their answers."""
HEAD_S: Final = 10.0
"""From the connection, or the first byte of a further request, to the end of its head; and for the rest of a body that
is still being sent when the answer is out."""
ANSWER_S: Final = 30.0
"""For the client to read an answer."""
_UPGRADING: Final = {b"connection", b"upgrade", b"http2-settings"}
LINGER_S: Final = 1.0
"""Between a refusal and the end: a client that is still sending would miss what it is told."""
WATCH_S: Final = 1.0
OWN_FILES: Final = 200
"""That the process needs for itself: database, broker, libraries that are loaded late."""

log = structlog.get_logger(__name__)


def make_room(connections_max: int) -> None:
    """Let this process have so many files open, besides its own: most systems allow 1,024 unless they are asked.

    Without it the process could not even reach its database once clients have taken all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + OWN_FILES
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            log.warning("the system allows fewer open files than API_CONNECTIONS_MAX needs", files=allowed)


class Connections:
    """All connections of one server: makes them when uvicorn asks for one, and cuts off clients that take too long."""

    def __init__(
        self, at_most: int, *, registry: CollectorRegistry, head_s: float = HEAD_S, answer_s: float = ANSWER_S
    ) -> None:
        self._at_most = at_most
        self._head_s = head_s
        self._answer_s = answer_s
        self._open: set[Connection] = set()
        self._cut = Counter("http_server_connections_cut", "Connections ended by us.", ["why"], registry=registry)
        gauge = Gauge("http_server_connections", "Connections that are open.", registry=registry)
        gauge.set_function(lambda: len(self._open))

    def make(self, **given: Any) -> Connection:
        """Make the protocol of a new connection, from what uvicorn gives to it."""
        return Connection(self, **given)

    def open(self, connection: Connection) -> bool:
        """Count a connection in, unless there are too many."""
        if len(self._open) >= self._at_most:
            self.note("too many")
            return False
        self._open.add(connection)
        return True

    def close(self, connection: Connection) -> None:
        """Count a connection out."""
        self._open.discard(connection)

    def note(self, why: str) -> None:
        """Count a connection that we end."""
        self._cut.labels(why).inc()

    async def watch(self, stopping: asyncio.Event) -> None:
        """Look every second for connections whose time is over, until `stopping`."""
        while not await pause(stopping, min(WATCH_S, self._head_s / 2)):
            now = asyncio.get_running_loop().time()
            for connection in list(self._open):
                if (why := connection.overdue(now, self._head_s, self._answer_s)) is not None:
                    connection.cut(why)


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, all_of_them: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = all_of_them
        self._owed_since: float | None = None
        """Since when the client owes us a head, or the rest of a body that nobody reads any more."""
        self._unread_since: float | None = None
        """Since when a part of an answer waits to be read."""
        self._method = b""
        self._upgrade = False
        """The head that was just read offers to speak another protocol."""
        self._deaf = False
        """Nothing that comes is of any interest: the connection ends."""
        self._begun = False
        """A head is under way."""
        self._in_body = False
        self._complete = False
        """The last bytes ended a request."""
        self._chunk_bytes = 0
        self._message_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Take the connection in, or say that there are too many."""
        super().connection_made(transport)
        self._owed_since = self.loop.time()
        if not self._all.open(self):
            self._tell(Code.OVERLOADED)
            self._deaf = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.close(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, for as long as it is a request of bounded size."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._complete = False
        self._chunk_bytes = len(data)
        self._message_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(error.__context__.code if isinstance(error.__context__, _Refused) else Code.BAD_REQUEST)
        else:
            self._judge()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            else:
                return
            self._decline_upgrade()

    def _decline_upgrade(self) -> None:
        """Read the head again without its offer to speak h2c or websockets, by a parser that goes on with the body.

        An offer is no demand (RFC 9110, 7.8), but the old parser takes it for one and stops.
        """
        self._upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        head = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UPGRADING)
        self.parser.feed_data(b"%b %b HTTP/1.1\r\n%b\r\n" % (self._method, self.url, head))

    def _judge(self) -> None:
        """Look at what is there after some bytes: whether the client owes more, and whether it was too much."""
        if self._in_body:
            if self._message_bytes > MESSAGE_BYTES_MAX:
                self.cut("body too large")
        elif not self._complete or self._begun:
            if self._owed_since is None:
                self._owed_since = self.loop.time()
            if self._message_bytes > HEAD_BYTES_MAX:
                self._refuse(Code.HEADERS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        # What stands before it in the same chunk belongs to another; a complete head is measured by itself.
        self._message_bytes = 0 if self._complete else self._chunk_bytes
        self._begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes behind a body (trailers) is nothing that anybody here reads."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take a request on, if its head is one."""
        self._method = self.parser.get_method()
        if max(self._message_bytes, self._chunk_bytes) > HEAD_BYTES_MAX:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES_MAX:
                raise _Refused(Code.HEADERS_TOO_LARGE)
        hosts = [name for name, _ in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):  # RFC 9112, 3.2
            raise _Refused(Code.BAD_REQUEST)
        if len(self.pipeline) >= PIPELINED_MAX:
            raise _Refused(Code.OVERLOADED)
        if self._method == b"CONNECT":
            raise _Refused(Code.METHOD_NOT_ALLOWED)
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            self._owed_since = None
            self._begun, self._in_body = False, True
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if self._upgrade:
            return
        self._in_body, self._complete = False, True
        self._owed_since = None
        self._message_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer."""
        self._unread_since = None
        if self._in_body or self._begun:
            self._owed_since = self.loop.time()
        super().on_response_complete()

    def overdue(self, now: float, head_s: float, answer_s: float) -> str | None:
        """Tell what this client did not do in time; None while all is well. Called about once a second."""
        if self.transport.get_write_buffer_size() == 0:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        if self._unread_since is not None and now - self._unread_since > answer_s:
            return "answer not read"
        if not self._answering and self._owed_since is not None and now - self._owed_since > head_s:
            return "body too slow" if self._in_body else "head too slow"
        return None

    def cut(self, why: str) -> None:
        """End the connection at once."""
        self._all.note(why)
        self._deaf = True
        self.transport.abort()

    def _refuse(self, code: Code) -> None:
        """End the connection because of what came: with a word, unless it would spoil an answer on its way."""
        if self._answering:
            if self.cycle.response_started or self.pipeline:
                self.cut(str(code))
                return
            self.cycle.disconnected = True  # whoever reads this request's body hears no more
            self.cycle.message_event.set()
        self._all.note(str(code))
        self._deaf = True
        self._tell(code)
        self.loop.call_later(LINGER_S, self.transport.abort)

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's type leaves out that there is none yet
        return cycle is not None and not cycle.response_complete

    def _tell(self, code: Code) -> None:
        answer = Problem(code, headers={"connection": "close"}).response("/")
        headers = b"".join(b"%b: %b\r\n" % header for header in {**HEADERS, **dict(answer.raw_headers)}.items())
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[answer.status_code], headers, bytes(answer.body)))


class _Refused(Exception):  # noqa: N818 - it is what happened
    """A head is not taken; raised through the parser."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code
