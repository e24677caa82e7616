"""Bounds the connections of a server: the size and slowness of requests and answers, and the number of connections.

uvicorn's protocol for httptools, which this extends, bounds none of them: a head without an end, a client that sends a
byte a minute, or one that does not read its answer would hold memory and a connection for ever. This module never looks
at what a request asks for.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

import httptools
from prometheus_client import CollectorRegistry, Counter, Gauge
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from saga_kit.runtime.backoff import pause

HEAD_BYTES_MAX: Final = 16_384
"""Bytes of a request's line and headers, a multiple of any token."""
MESSAGE_BYTES_MAX: Final = 4_194_304
"""Bytes of a whole request as it is sent, chunk sizes and trailers included; no accepted body is as large."""
PIPELINED_MAX: Final = 16
"""Requests that a client may send before it has their answers."""
HEAD_S: Final = 10.0
"""Seconds from the connection, or the first byte of a further request, to the end of the head. After an early answer,
the rest of the body has as long."""
ANSWER_S: Final = 30.0
"""Seconds that a client has to read an answer."""
_UPGRADING: Final = {b"connection", b"upgrade", b"http2-settings"}
LINGER_S: Final = 1.0
"""Seconds between a refusal and the end: a client that is still sending would miss the answer."""
WATCH_S: Final = 1.0
_CLOSE: Final = (b"connection", b"close")
CONNECTION: Final = "order_saga.connection"
SELF: Final = "self"
"""A request's scope has its connection at `scope["extensions"][CONNECTION][SELF]`."""
SPARE_MAX: Final = 8
"""Further connections when all are taken, for health and metrics alone."""
SPARE_S: Final = 1.0
"""Seconds for the head of a request on such a connection."""
SPARE_PATHS: Final = (b"/health", b"/metrics")
IPV6_NETWORK_BITS: Final = 64
"""The size of the IPv6 network that one customer has; all its addresses count as one."""


class ConnectionRefusal(Enum):
    """Why a connection is refused: the name of the problem and its HTTP status."""

    BAD_REQUEST = "bad-request", 400
    METHOD_NOT_ALLOWED = "method-not-allowed", 405
    HEADERS_TOO_LARGE = "headers-too-large", 431
    OVERLOADED = "overloaded", 503

    def __str__(self) -> str:
        """Return the problem's name."""
        return self.value[0]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[1]


def answer_without_body(_: ConnectionRefusal) -> bytes:
    """Write an answer's headers, without a body: the connection ends."""
    return b"connection: close\r\ncontent-length: 0\r\n\r\n"


Upgrade = Callable[["Connection"], asyncio.Protocol]
"""Makes the protocol that a connection is upgraded to. That protocol tells `Connection.lost` of its end."""

Owner = tuple[str, str]
"""Who has a connection: an address; from the first authenticated request on, its user."""


class Connections:
    """All connections of one server: makes them when uvicorn asks for one, and ends those that take too much.

    When there are `at_most`, a new connection replaces another one. Among connections without a user, the address with
    the most loses the one that has been idle longest. If there are none, the user with the most idle ones loses one. So
    a client that takes all connections takes them from itself. A connection on which a user's request is being answered
    is never ended. When none can be ended, a few spare connections serve health checks.
    """

    def __init__(
        self,
        at_most: int,
        *,
        registry: CollectorRegistry,
        per_user: int | None = None,
        head_s: float = HEAD_S,
        answer_s: float = ANSWER_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        answer: Callable[[ConnectionRefusal], bytes] = answer_without_body,
        upgrades: Mapping[bytes, Upgrade] = MappingProxyType({}),
    ) -> None:
        """`answer` writes what follows the status line of a refusal.

        `upgrades`: at which paths, as they are sent, a connection may become a WebSocket. Any other offer is declined.
        """
        self._at_most = at_most
        self._per_user = per_user
        self._head_s = head_s
        self._answer_s = answer_s
        self.message_bytes_max = message_bytes_max
        self.answer = answer
        self.upgrades = upgrades
        self.draining = False
        """The next answer on each connection is its last."""
        self._none_left = asyncio.Event()
        self._open: set[Connection] = set()
        self._watched: set[Connection] = set()
        """Those that may owe something; all but streams whose clients have read everything."""
        self._part = self._chunk = b""
        self._spare: dict[Connection, None] = {}
        self._owned: dict[Owner, dict[Connection, None]] = {}
        """The connections of each owner, in the order in which they last became idle."""
        self._cut = Counter("http_server_connections_cut", "Connections ended by us.", ["why"], registry=registry)
        gauge = Gauge("http_server_connections", "Connections that are open.", registry=registry)
        gauge.set_function(lambda: len(self._open) + len(self._spare))

    def make(self, **given: Any) -> Connection:
        """Make the protocol of a new connection; uvicorn calls it."""
        return Connection(self, **given)

    def open(self, connection: Connection) -> bool:
        """Add a connection; return False when it is a spare one."""
        if len(self._open) >= self._at_most and not self._make_room():
            if len(self._spare) >= SPARE_MAX:
                next(iter(self._spare)).refuse(ConnectionRefusal.OVERLOADED)
            self._spare[connection] = None
            return False
        self._open.add(connection)
        self._watched.add(connection)
        self._owned.setdefault(connection.owner, {})[connection] = None
        return True

    def close(self, connection: Connection) -> None:
        """Remove a connection."""
        self._spare.pop(connection, None)
        self._watched.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._disown(connection)
            if not self._open:
                self._none_left.set()

    def hand_over(self, connection: Connection, owner: Owner, *, bounded: bool) -> bool:
        """Set the owner of a connection; return whether that user may have one more."""
        if connection not in self._open or connection.owner == owner:
            return True
        self._disown(connection)
        connection.owner = owner
        owned = self._owned.setdefault(owner, {})
        owned[connection] = None
        if not bounded or self._per_user is None or len(owned) <= self._per_user:
            return True
        oldest = next((one for one in owned if one.idle), None)
        if oldest is not None:
            oldest.cut("too many of a user")
        return oldest is not None

    def idle(self, connection: Connection) -> None:
        """Move a connection that becomes idle to the end of its owner's."""
        owned = self._owned.get(connection.owner, {})
        if owned.pop(connection, 0) is None:
            owned[connection] = None

    def chunk(self, part: bytes) -> bytes:
        """Return a part of an answer as a chunk; thousands of connections get the same one after another."""
        if part is not self._part:
            self._part, self._chunk = part, b"%x\r\n%b\r\n" % (len(part), part)
        return self._chunk

    def owes(self, connection: Connection, *, owing: bool) -> None:
        """Look at a connection every second from now on, or no more: thousands of idle streams cost nothing."""
        if not owing:
            self._watched.discard(connection)
        elif connection in self._open:
            self._watched.add(connection)

    def note(self, why: str) -> None:
        """Count a connection that the server ends."""
        self._cut.labels(why).inc()

    async def watch(self, stopping: asyncio.Event) -> None:
        """End connections whose time is over, every second until `stopping`."""
        while not await pause(stopping, min(WATCH_S, self._head_s / 2)):
            now = asyncio.get_running_loop().time()
            for connection in list(self._watched):
                if (why := connection.overdue(now, self._head_s, self._answer_s)) is not None:
                    connection.cut(why)
            for connection in list(self._spare):
                if connection.overdue(now, min(SPARE_S, self._head_s), self._answer_s) is not None:
                    connection.refuse(ConnectionRefusal.OVERLOADED)

    async def drain(self, within_s: float) -> None:
        """Let each connection end with its next answer, which says so; return when all have, or after `within_s`.

        A client that keeps its connection open may be sending at any moment. If the server closed it now, that request
        would get no answer, and its client could not know whether it was worked on.
        """
        self.draining = True
        for connection in self._open:
            connection.answer_last()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._open:
                    self._none_left.clear()
                    await self._none_left.wait()

    def _make_room(self) -> bool:
        """End the connection that may go first; return whether there was one."""
        addresses = [owned for owner, owned in self._owned.items() if owner[0] == _ADDRESS]
        if addresses:
            largest = max(addresses, key=len)
            chosen = next((one for one in largest if one.idle), next(iter(largest)))
            chosen.cut("too many")
            return True
        for owned in sorted(self._owned.values(), key=len, reverse=True):
            if (idle := next((one for one in owned if one.idle), None)) is not None:
                idle.cut("too many")
                return True
        return False

    def _disown(self, connection: Connection) -> None:
        owned = self._owned[connection.owner]
        del owned[connection]
        if not owned:
            del self._owned[connection.owner]


_ADDRESS: Final = "address"
_USER: Final = "user"


def owner_of(peer: str | None) -> Owner:
    """Return the owner for an address; an IPv6 network counts as one."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return _ADDRESS, peer or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _ADDRESS, str(address.ipv4_mapped)
        return _ADDRESS, str(ipaddress.ip_network((int(address), IPV6_NETWORK_BITS), strict=False))
    return _ADDRESS, str(address)


class Connection(HttpToolsProtocol):
    """One connection, with its limits."""

    def __init__(self, all_of_them: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = all_of_them
        self.owner: Owner = (_ADDRESS, "")
        """Who has it."""
        self._spare = False
        """It is one of the spare connections: only health and metrics are answered."""
        self._owed_since: float | None = None
        """Since when the client owes a head, or the rest of a body that is no longer read."""
        self._unread_since: float | None = None
        """Since when a part of an answer waits for the client to read it."""
        self._method = b""
        self._upgrade = False
        """The last head offers an upgrade to another protocol."""
        self._ending = False
        """The connection ends: further bytes are ignored."""
        self._begun = False
        """A head has begun and is not complete."""
        self._in_body = False
        self._complete = False
        """The last bytes completed a request."""
        self._chunk_bytes = 0
        self._message_bytes = 0
        self._tell_loss: Callable[[], object] | None = None
        self._upgraded = False
        """Another protocol has it."""
        self._streaming = False
        """The answer goes on; the transport tells when the client has not read all of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Add the connection to all of them."""
        super().connection_made(transport)
        self._owed_since = self.loop.time()
        self.owner = owner_of(self.client[0] if self.client else None)
        self._spare = not self._all.open(self)

    def belongs_to(self, user_id: str, *, bounded: bool = True) -> bool:
        """Give the connection to an authenticated user; return whether the user may have one more (if `bounded`)."""
        return self._all.hand_over(self, (_USER, user_id), bounded=bounded)

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered on this connection. One that is upgraded is never idle."""
        return not (self._answering or self._upgraded)

    def answer_last(self) -> None:
        """End the connection with the answer that is under way, if one is."""
        if self._answering:
            scope = self.cycle.scope
            scope["headers"] = [*scope["headers"], _CLOSE]  # uvicorn answers such a request so, if it has not begun to
            self.cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        super().connection_lost(exc)
        self.lost()

    def lost(self) -> None:
        """Remove the connection, and tell whoever waits: its own protocol has ended, or the one it was upgraded to."""
        self._all.close(self)
        if self._tell_loss is not None:
            self._tell_loss()

    @contextmanager
    def telling_loss(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` if the connection ends as long as the context lasts, or has ended before.

        A request that waits for long learns so that its client is gone, without a task that waits for that.
        """
        self._tell_loss = tell
        if self.transport.is_closing():
            tell()
        try:
            yield
        finally:
            self._tell_loss = None

    def stream(self) -> None:
        """Take the answer that has begun as one that goes on for long, and mostly has nothing to say.

        Its task waits with the next part until all of the last is on its way, and only meanwhile the connection is
        looked at every second.
        """
        self._streaming = True
        self.transport.set_write_buffer_limits(high=0)
        self._all.owes(self, owing=self.transport.get_write_buffer_size() > 0)

    def pause_writing(self) -> None:
        """Note that the client has not read all that was written."""
        super().pause_writing()
        self._all.owes(self, owing=True)

    def resume_writing(self) -> None:
        """Note that the client has read on."""
        super().resume_writing()
        if self._streaming:
            self._unread_since = None
            self._all.owes(self, owing=False)

    def write_part(self, part: bytes) -> bool:
        """Write one more part of an answer that goes on, without its task; return whether that was possible.

        It is not while the client has not read what was written before, nor for an answer without chunks (HTTP/1.0).
        """
        cycle = self.cycle
        if not self._streaming or self.flow.write_paused or cycle.disconnected or not cycle.chunked_encoding:
            return False
        self.transport.write(self._all.chunk(part))
        return True

    def data_received(self, data: bytes) -> None:
        """Parse more bytes; refuse what is no request or is too large."""
        if self._ending:
            return
        self._unset_keepalive_if_required()
        self._complete = False
        self._chunk_bytes = len(data)
        self._message_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            refused = error.__context__
            self.refuse(refused.refusal if isinstance(refused, _Refused) else ConnectionRefusal.BAD_REQUEST)
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
            if (make := self._wanted_upgrade()) is not None:
                self._upgrade_to(make, data)
                return
            self._decline_upgrade()

    def _wanted_upgrade(self) -> Upgrade | None:
        """Return what makes the protocol that the last head asks for; None when the offer is declined."""
        if self._method != b"GET" or self._answering or self._get_upgrade() != b"websocket":
            return None
        return self._all.upgrades.get(self.url.partition(b"?")[0])

    def _upgrade_to(self, make: Upgrade, data: bytes) -> None:
        """Hand the connection over to another protocol, with the head. It stays one of all, with its limits."""
        if data:  # nobody may send anything before the handshake is answered
            self.refuse(ConnectionRefusal.BAD_REQUEST)
            return
        self._unset_keepalive_if_required()
        self._owed_since = None
        self._begun = False
        self._complete = True
        self._upgraded = True
        self.connections.discard(self)
        head = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        successor = make(self)
        successor.connection_made(self.transport)
        successor.data_received(b"GET %b HTTP/1.1\r\n%b\r\n" % (self.url, head))
        self.transport.set_protocol(successor)

    def _decline_upgrade(self) -> None:
        """Parse the head again without its upgrade to h2c or websockets, with a new parser that goes on with the body.

        An upgrade is an offer (RFC 9110, 7.8), but the old parser takes it for a demand and stops.
        """
        self._upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        head = b"".join(b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UPGRADING)
        self.parser.feed_data(b"%b %b HTTP/1.1\r\n%b\r\n" % (self._method, self.url, head))

    def _judge(self) -> None:
        """After some bytes: note whether the client owes more, and refuse what is too much."""
        if self._in_body:
            if self._message_bytes > self._all.message_bytes_max:
                self.cut("body too large")
        elif not self._complete or self._begun:
            if self._owed_since is None:
                self._owed_since = self.loop.time()
            if self._message_bytes > HEAD_BYTES_MAX:
                self.refuse(ConnectionRefusal.HEADERS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        # Bytes before it in the same chunk belong to another request; a complete head is measured by itself.
        self._message_bytes = 0 if self._complete else self._chunk_bytes
        self._begun = True
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {SELF: self}}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers, which follow a body, are ignored."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Accept a request, or refuse its head."""
        self._method = self.parser.get_method()
        if max(self._message_bytes, self._chunk_bytes) > HEAD_BYTES_MAX:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES_MAX:
                raise _Refused(ConnectionRefusal.HEADERS_TOO_LARGE)
        hosts = [name for name, _ in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):  # RFC 9112, 3.2
            raise _Refused(ConnectionRefusal.BAD_REQUEST)
        if len(self.pipeline) >= PIPELINED_MAX:
            raise _Refused(ConnectionRefusal.OVERLOADED)
        if self._method == b"CONNECT":
            raise _Refused(ConnectionRefusal.METHOD_NOT_ALLOWED)
        if self._spare and not self.url.startswith(SPARE_PATHS):
            raise _Refused(ConnectionRefusal.OVERLOADED)
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            self._owed_since = None
            self._begun, self._in_body = False, True
            super().on_headers_complete()
            if self._all.draining:
                self.answer_last()

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
        if self._streaming:
            self._streaming = False
            self.transport.set_write_buffer_limits(high=HIGH_WATER_LIMIT)
            self._all.owes(self, owing=True)
        if self._in_body or self._begun:
            self._owed_since = self.loop.time()
        super().on_response_complete()
        if self._spare:
            self._ending = True
            self.transport.close()  # when the answer is written
        elif self.idle:
            self._all.idle(self)

    def overdue(self, now: float, head_s: float, answer_s: float) -> str | None:
        """Return what this client did not do in time, None while all is well. Called about once a second."""
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
        self._all.close(self)
        self._ending = True
        self.transport.abort()

    def refuse(self, refusal: ConnectionRefusal) -> None:
        """End the connection because of a bad request: with an answer, unless another answer is on its way."""
        if self._answering:
            if self.cycle.response_started or self.pipeline:
                self.cut(str(refusal))
                return
            self.cycle.disconnected = True  # whoever reads this request's body gets no more
            self.cycle.message_event.set()
        self._all.note(str(refusal))
        self._ending = True
        self.transport.write(STATUS_LINE[refusal.status] + self._all.answer(refusal))
        if self._spare:
            self._all.close(self)
            self.transport.close()
        else:
            self.loop.call_later(LINGER_S, self.transport.abort)

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's type leaves out that there is none yet
        return cycle is not None and not cycle.response_complete


class _Refused(Exception):  # noqa: N818 - it is what happened
    """Raised through the parser for a head that is refused."""

    def __init__(self, refusal: ConnectionRefusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal
