"""`GET /ws`: several streams over one WebSocket, for whoever subscribes. Each channel is the stream that SSE has, too.

All channels of a connection are one stream among the streams of the process: one of its user's, one to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, ParamSpec
from uuid import UUID

import structlog
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from order_api.http.authentication import Authentication
from order_api.http.middleware import STREAMED
from order_api.http.problems import PROBLEMS, Code, Problem
from order_api.http.tokens import Caller
from order_api.http.tokens import Scope as TokenScope
from order_api.live import messages
from order_api.live.framing import SAID
from order_api.live.messages import Auth, Messages, Ping, Subscribe, Unsubscribe, say
from order_api.live.service import LiveUpdates, Wished
from order_api.live.streams import Stream, Streams, retry_ms
from order_api.orders.description.parts import READERS
from order_api.orders.service import OrderService
from saga_kit.runtime.connections import CONNECTION, SELF, Connection
from saga_kit.runtime.errors import classify, describe

AUTH_S: Final = 5.0
"""How long a client that came without a token has to show one."""
SAID_MAX: Final = 200
"""Messages that a client may send in a second."""
REASON_BYTES_MAX: Final = 120
"""Bytes of the reason in a close frame, which has room for 123."""
GOING_AWAY, FAULT, LATER = 1001, 1011, 1013
UNAUTHENTICATED, FORBIDDEN, TOO_LATE, TOO_MANY = 4401, 4403, 4408, 4429
_CLOSE: Final = {
    Code.RATE_LIMITED: TOO_MANY,
    Code.TOO_MANY_STREAMS: TOO_MANY,
    Code.OVERLOADED: LATER,
    Code.UNAVAILABLE: LATER,
    Code.INSUFFICIENT_SCOPE: FORBIDDEN,
}

P = ParamSpec("P")
log = structlog.get_logger(__name__)


class WebSockets:
    """Serves every WebSocket, as an application."""

    def __init__(
        self,
        live: LiveUpdates,
        streams: Streams,
        orders: OrderService,
        authentication: Authentication,
        origins: Sequence[str],
    ) -> None:
        """`origins`: whose scripts may come, besides those of the host that is asked."""
        self.live = live
        self.streams = streams
        self.orders = orders
        self._authentication = authentication
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one. What is wrong before it is accepted is raised as a problem, afterwards said by its close code."""
        await receive()  # that it wants to connect
        connection: Connection = scope["extensions"][CONNECTION][SELF]
        caller = await self._greet(scope)
        await send({"type": "websocket.accept", "subprotocol": messages.PROTOCOL})
        try:
            if caller is None:
                caller = await self._introduced(scope, receive)
            with (
                self.streams.open(caller, "websocket", lambda: connection.cut("answer not read")) as stream,
                connection.telling_loss(lambda: stream.end("gone")),
            ):
                scope["state"][STREAMED] = stream
                await _Session(self, scope, caller, stream, send).run(receive)
        except Problem as problem:
            await _close(send, _CLOSE.get(problem.code, UNAUTHENTICATED), _words(problem))
        except TimeoutError:
            await _close(send, TOO_LATE, f"no token within {AUTH_S:g} s")
        except ClientDisconnected:
            pass
        except Exception as error:
            if classify(error) == "poison":
                log.exception("websocket failed", cause=describe(error))
                await _close(send, FAULT, "")
            else:
                await _close(send, LATER, _words(Problem(Code.UNAVAILABLE)))

    async def caller(self, scope: Scope, token: str) -> Caller:
        """Return whose token a message shows; raise what `Authentication.caller` does."""
        try:
            header = f"Bearer {token}".encode("ascii")
        except UnicodeEncodeError:
            raise Problem(Code.INVALID_TOKEN, "the token can't be read") from None
        return await self._reader({**scope, "headers": [(b"authorization", header)]})

    def count(self, caller: Caller) -> None:
        """Count something that a client asks for as a request of its user; raise the problem of one too many."""
        self._authentication.spend(caller)

    async def _greet(self, scope: Scope) -> Caller | None:
        """Judge the handshake; return the caller, None when it is to say who it is by its first message."""
        headers = Headers(scope=scope)
        for origin in headers.getlist("origin"):
            if origin not in self._origins and origin.partition("://")[2] != headers.get("host"):
                raise Problem(Code.ORIGIN_NOT_ALLOWED)
        if messages.PROTOCOL not in scope["subprotocols"]:
            raise Problem(Code.BAD_REQUEST, f"the subprotocol {messages.PROTOCOL} must be offered")
        if scope["query_string"]:
            raise Problem(Code.BAD_REQUEST, "the address takes no parameters, and a token least of all")
        if "authorization" not in headers:
            if self.streams.closed:
                raise Problem(Code.OVERLOADED)
            return None
        caller = await self._reader(scope)
        self.streams.check(caller)
        return caller

    async def _introduced(self, scope: Scope, receive: Receive) -> Caller:
        """Wait for the first message, which must show a token. Raises `TimeoutError`, too."""
        async with asyncio.timeout(AUTH_S):
            text = await _next(receive)
        said = messages.read(text)
        if not isinstance(said, Auth):
            raise Problem(Code.MISSING_TOKEN, "the first message must be an auth")
        return await self.caller(scope, said.token)

    async def _reader(self, scope: Scope) -> Caller:
        caller = await self._authentication.caller(HTTPConnection(scope))
        caller.need(*READERS)
        return caller


class _Subscription:
    """One channel, its stream and the task that sends it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.task: asyncio.Task[None] | None = None


class _Session:
    """One connection, from its caller on."""

    def __init__(self, of: WebSockets, scope: Scope, caller: Caller, stream: Stream, send: Send) -> None:
        self._of = of
        self._scope = scope
        self._caller = caller
        self._stream = stream
        self._send = send
        self._channels: dict[str, _Subscription] = {}
        self._ends: tuple[int, str] | None = None
        """The close code and the reason, when the client broke a rule or we have a fault."""
        self._second, self._said = 0, 0

    async def run(self, receive: Receive) -> None:
        """Serve until it ends, and say goodbye."""
        reading = asyncio.create_task(self._guarded(self._read, receive))
        try:
            await self._say(say("authenticated", messages.Authenticated(self._caller.user_id, self._caller.expires_at)))
            while self._stream.why is None:
                if (await self._stream.next()).beat:
                    await self._beat()
        finally:
            tasks = [reading, *(one.task for one in self._channels.values() if one.task is not None)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._part()

    async def _part(self) -> None:
        why = self._stream.why
        if self._ends is not None:
            await _close(self._send, *self._ends)
        elif why in SAID:
            await self._say(say("bye", messages.Farewell(str(why), retry_ms())))
            await _close(self._send, UNAUTHENTICATED if why == "expired" else GOING_AWAY, str(why))

    async def _read(self, receive: Receive) -> None:
        """Read what the client says, until it is gone."""
        while True:
            text = await _next(receive)
            self._count()
            channel = None
            try:
                said = messages.read(text)
                channel = getattr(said, "channel", None)
                await self._obey(said)
            except Problem as problem:
                await self._say(say("error", messages.Refused(str(problem.code), _words(problem)), channel))

    async def _obey(self, said: messages.Said) -> None:
        match said:
            case Auth():
                await self._renew(said)
            case Subscribe():
                self._of.count(self._caller)
                await self._subscribe(said)
            case Unsubscribe():
                await self._unsubscribe(said.channel)
            case Ping():
                await self._say(say("pong"))

    async def _renew(self, said: Auth) -> None:
        """Go on with another token of the same user, that allows no less."""
        caller = await self._of.caller(self._scope, said.token)
        if caller.user_id != self._caller.user_id or not self._caller.scopes <= caller.scopes:
            raise Problem(Code.INVALID_TOKEN, "it must be of the same user and allow no less than the one before")
        self._caller = caller
        self._of.streams.renew(self._stream, caller)
        await self._say(say("authenticated", messages.Authenticated(caller.user_id, caller.expires_at)))

    async def _subscribe(self, said: Subscribe) -> None:
        if said.channel in self._channels:
            raise Problem(Code.INVALID_REQUEST, "the channel is subscribed already")
        if len(self._channels) >= messages.CHANNELS_MAX:
            raise Problem(Code.TOO_MANY_STREAMS, f"one connection has at most {messages.CHANNELS_MAX} channels")
        subscription = _Subscription(Stream(self._stream.abort))
        parts = await self._parts(said, subscription.stream)
        self._channels[said.channel] = subscription
        await self._say(say("subscribed", channel=said.channel))
        subscription.task = asyncio.create_task(self._guarded(self._tell, said.channel, subscription, parts))

    async def _parts(self, said: Subscribe, stream: Stream) -> AsyncGenerator[Sequence[bytes]]:
        """Make what a channel sends; raise the problem of one that the caller may not have."""
        channel, framing = messages.read_channel(said.channel), Messages(said.channel)
        live, caller = self._of.live, self._caller
        if (said.user_id is not None or said.all) and said.channel != messages.ORDERS:
            raise Problem(Code.INVALID_REQUEST, "user_id and all are for the channel orders")
        if channel.asset_id is not None:
            if said.since is not None:
                raise Problem(Code.INVALID_REQUEST, "prices have no ids to go on from")
            return live.of_prices([channel.asset_id], stream, framing)
        if channel.order_id is not None:
            known = messages.read_version(said.since)
            order = await self._of.orders.order(UUID(channel.order_id), caller)
            return live.of_order(order, known, caller, stream, framing)
        return live.of_orders(self._wished(said), stream, framing)

    def _wished(self, said: Subscribe) -> Wished:
        """Return whose orders the channel of orders is to have; raise the problem of those that its caller may not."""
        caller, since = self._caller, messages.read_mark(said.since)
        if said.all:
            if said.user_id is not None:
                raise Problem(Code.INVALID_REQUEST, "user_id must not come with all")
            caller.need(TokenScope.OPERATE)
            return Wished(None, since=since)
        user_id = said.user_id or caller.user_id
        if not caller.sees(user_id):
            raise Problem(Code.OTHER_USER)
        return Wished(user_id, since=since, listed_as=None if user_id == caller.user_id else user_id)

    async def _tell(self, channel: str, subscription: _Subscription, parts: AsyncGenerator[Sequence[bytes]]) -> None:
        """Send a channel to its end."""
        stream = subscription.stream
        try:
            async with aclosing(parts):
                async for part in parts:
                    for one in part:
                        await self._say(one)
        except Problem as problem:  # its order is gone meanwhile
            await self._say(say("error", messages.Refused(str(problem.code), _words(problem)), channel))
        finally:
            self._stream.mailbox.conflated += stream.mailbox.conflated
            self._stream.events += stream.events
            self._channels.pop(channel, None)
        if stream.why == "unavailable":
            self._stream.end("unavailable")
        else:
            await self._say(say("ended", channel=channel))

    async def _unsubscribe(self, channel: str) -> None:
        subscription = self._channels.get(channel)
        if subscription is None or subscription.task is None:
            raise Problem(Code.INVALID_REQUEST, "the channel is not subscribed")
        subscription.task.cancel()
        await asyncio.wait([subscription.task])
        self._channels.pop(channel, None)
        await self._say(say("unsubscribed", channel=channel))

    async def _beat(self) -> None:
        """Say that the connection is alive; the channel of orders says it itself, with what it has sent."""
        orders = self._channels.get(messages.ORDERS)
        if orders is not None:
            orders.stream.mailbox.beat()
        else:
            await self._say(messages.ALL_ORDERS.heartbeat(0))

    def _count(self) -> None:
        """End the connection of a client that says too much."""
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second, self._said = second, 0
        self._said += 1
        if self._said > SAID_MAX:
            self._fail(TOO_MANY, f"more than {SAID_MAX} messages in a second")
            raise _Over

    async def _guarded(self, work: Callable[P, Awaitable[None]], *args: P.args, **options: P.kwargs) -> None:
        """Do a part of the work; whatever ends it, the connection learns it."""
        try:
            await work(*args, **options)
        except ClientDisconnected:
            self._stream.end("gone")
        except _Over:
            pass
        except Exception as error:
            if classify(error) == "poison":
                log.exception("websocket failed", cause=describe(error))
                self._fail(FAULT, "")
            else:
                self._stream.end("unavailable")

    def _fail(self, code: int, reason: str) -> None:
        self._ends = code, reason
        self._stream.end("refused")

    async def _say(self, message: bytes) -> None:
        await self._send({"type": "websocket.send", "text": message.decode()})


class _Over(Exception):  # noqa: N818 - it is no error
    """The client has said too much."""


async def _next(receive: Receive) -> str:
    """Return the next message; raise `ClientDisconnected` at the end, and the problem of one that is no text."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        raise ClientDisconnected
    text: str = message.get("text") or ""
    return text  # a message of bytes is no JSON, either


async def _close(send: Send, code: int, reason: str) -> None:
    short = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
    await send({"type": "websocket.close", "code": code, "reason": short})


def _words(problem: Problem) -> str:
    return problem.detail or PROBLEMS[problem.code].meaning
