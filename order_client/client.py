"""The two clients: each does the steps of `core` in its own way, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import httpcore2
import httpx2

from order_client.core import (
    Close,
    Emit,
    Items,
    Lost,
    Open,
    Pause,
    Read,
    Request,
    Response,
    Retry,
    Send,
    Session,
    Step,
    Steps,
    Token,
    Write,
)
from order_client.errors import UnexpectedAnswerError
from order_client.holds import HoldCalls
from order_client.market import MarketCalls
from order_client.notification_calls import NotificationCalls
from order_client.operating import OperatingCalls
from order_client.orders import OrderCalls
from order_client.socket import SocketCalls
from order_client.streams import StreamCalls
from order_client.surface import Awaiting, Blocking
from order_client.webhook_calls import WebhookCalls

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 33_554_432
READ_BYTES: Final = 65_536
_SWITCHED: Final = 101
_ERROR: Final = 400
_BROKEN: Final = (
    *(httpx2.HTTPError, httpx2.StreamError),
    *(httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException),  # of a WebSocket's connection
)
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_HEADERS: Final = {"user-agent": "order-saga-client"}


class Client(
    OrderCalls,
    StreamCalls,
    SocketCalls,
    MarketCalls,
    WebhookCalls,
    NotificationCalls,
    HoldCalls,
    OperatingCalls,
    Blocking,
):
    """A client whose methods return when the API has answered. Several threads may share it.

    `token`: a bearer token, or a function that gets one; it is asked for another one when the API refuses the last.
    `timeout_s`: for a connection, and for the API to answer besides what it was asked to wait. `http`: your own HTTP
    client, for a proxy or certificates of your own; you close it.
    """

    def __init__(
        self,
        address: str,
        token: str | Callable[[], str] | None = None,
        *,
        retry: Retry | None = None,
        timeout_s: float = TIMEOUT_S,
        http: httpx2.Client | None = None,
    ) -> None:
        self.session = Session(retry or Retry(), renews=callable(token))
        self._address = _checked(address)
        self._timeout_s = timeout_s
        self._ask = token if callable(token) else None
        self._token = None if callable(token) else token
        self._lock = threading.Lock()
        self._own = http is None
        self._http = http or httpx2.Client(headers=_HEADERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._own:
            self._http.close()

    def run(self, steps: Steps[T]) -> T:
        """Do the steps of a call."""
        done: Any = None
        while True:
            try:
                step = steps.send(done)
            except StopIteration as end:
                return cast("T", end.value)
            done = self._do(step)

    def iterate(self, steps: Items[T]) -> Generator[T, None, None]:
        """Do the steps of an iteration."""
        stream = _Stream(self._http)
        done: Any = None
        try:
            while True:
                try:
                    step = steps.send(done)
                except StopIteration:
                    return
                done = None
                if isinstance(step, Emit):
                    yield step.item
                elif isinstance(step, Open):
                    done = stream.open(self._built(step.request, step.silence_s), step.silence_s)
                elif isinstance(step, Read):
                    done = stream.read()
                elif isinstance(step, Write):
                    done = stream.write(step.data)
                elif isinstance(step, Close):
                    stream.close()
                else:
                    done = self._do(step)
        finally:
            steps.close()
            stream.close()

    def _do(self, step: Step) -> Any:
        match step:
            case Token(refused):
                return self._give_token(refused)
            case Send(request):
                return self._send(request)
            case Pause(seconds):
                time.sleep(seconds)
                return None
            case _:
                raise TypeError(f"a call has no step {step}")

    def _give_token(self, refused: str | None) -> str | None:
        with self._lock:
            if self._ask is not None and (self._token is None or self._token == refused):
                given: object = self._ask()
                if inspect.iscoroutine(given):
                    given.close()
                self._token = _text(given)
            return self._token

    def _send(self, request: Request) -> Response | Lost:
        try:
            answer = self._http.send(self._built(request, self._timeout_s + request.waits_s), stream=True)
            try:
                body = bytearray()
                for part in answer.iter_bytes():
                    _collect(body, part)
            finally:
                answer.close()
        except httpx2.HTTPError as error:
            return _lost(error)
        return _response(answer, bytes(body))

    def _built(self, request: Request, read_s: float) -> httpx2.Request:
        return _built(self._http, self._address, request, read_s, self._timeout_s)


class _Stream:
    """A connection whose answer is read bit by bit, or none."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http
        self._answer: httpx2.Response | None = None
        self._parts: Iterator[bytes] = iter(())
        self._wire: Any = None
        """What the connection is when it has become a WebSocket."""
        self._silence_s = 0.0

    def open(self, request: httpx2.Request, silence_s: float) -> Response | Lost:
        self.close()
        try:
            self._answer = self._http.send(request, stream=True)
            if self._answer.status_code >= _ERROR:
                body = self._answer.read()
                return _response(self._answer, body)
        except httpx2.HTTPError as error:
            self.close()
            return _lost(error)
        if self._answer.status_code == _SWITCHED:
            self._wire, self._silence_s = self._answer.extensions["network_stream"], silence_s
        else:
            self._parts = self._answer.iter_bytes()
        return _response(self._answer)

    def read(self) -> bytes | Lost:
        try:
            if self._wire is not None:
                return cast("bytes", self._wire.read(READ_BYTES, timeout=self._silence_s))
            return next((part for part in self._parts if part), b"")
        except _BROKEN as error:
            self.close()
            return _lost(error)

    def write(self, data: bytes) -> Lost | None:
        try:
            self._wire.write(data, timeout=self._silence_s)
        except _BROKEN as error:
            self.close()
            return _lost(error)
        return None

    def close(self) -> None:
        answer, self._answer, self._parts, self._wire = self._answer, None, iter(()), None
        if answer is not None:
            answer.close()


class AsyncClient(
    OrderCalls,
    StreamCalls,
    SocketCalls,
    MarketCalls,
    WebhookCalls,
    NotificationCalls,
    HoldCalls,
    OperatingCalls,
    Awaiting,
):
    """A client whose methods are awaited. It belongs to one event loop; else it is as `Client`.

    `token` may also be a coroutine function.
    """

    def __init__(
        self,
        address: str,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        *,
        retry: Retry | None = None,
        timeout_s: float = TIMEOUT_S,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self.session = Session(retry or Retry(), renews=callable(token))
        self._address = _checked(address)
        self._timeout_s = timeout_s
        self._ask = token if callable(token) else None
        self._token = None if callable(token) else token
        self._lock = asyncio.Lock()
        self._own = http is None
        self._http = http or httpx2.AsyncClient(headers=_HEADERS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._own:
            await self._http.aclose()

    async def run(self, steps: Steps[T]) -> T:
        """Do the steps of a call."""
        done: Any = None
        while True:
            try:
                step = steps.send(done)
            except StopIteration as end:
                return cast("T", end.value)
            done = await self._do(step)

    async def iterate(self, steps: Items[T]) -> AsyncGenerator[T, None]:
        """Do the steps of an iteration."""
        stream = _AsyncStream(self._http)
        done: Any = None
        try:
            while True:
                try:
                    step = steps.send(done)
                except StopIteration:
                    return
                done = None
                if isinstance(step, Emit):
                    yield step.item
                elif isinstance(step, Open):
                    done = await stream.open(self._built(step.request, step.silence_s), step.silence_s)
                elif isinstance(step, Read):
                    done = await stream.read()
                elif isinstance(step, Write):
                    done = await stream.write(step.data)
                elif isinstance(step, Close):
                    await stream.close()
                else:
                    done = await self._do(step)
        finally:
            steps.close()
            await stream.close()

    async def _do(self, step: Step) -> Any:
        match step:
            case Token(refused):
                return await self._give_token(refused)
            case Send(request):
                return await self._send(request)
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None
            case _:
                raise TypeError(f"a call has no step {step}")

    async def _give_token(self, refused: str | None) -> str | None:
        async with self._lock:
            if self._ask is not None and (self._token is None or self._token == refused):
                given = self._ask()
                self._token = _text(await given if inspect.isawaitable(given) else given)
            return self._token

    async def _send(self, request: Request) -> Response | Lost:
        try:
            answer = await self._http.send(self._built(request, self._timeout_s + request.waits_s), stream=True)
            try:
                body = bytearray()
                async for part in answer.aiter_bytes():
                    _collect(body, part)
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            return _lost(error)
        return _response(answer, bytes(body))

    def _built(self, request: Request, read_s: float) -> httpx2.Request:
        return _built(self._http, self._address, request, read_s, self._timeout_s)


class _AsyncStream:
    """A connection whose answer is read bit by bit, or none."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._answer: httpx2.Response | None = None
        self._parts: AsyncIterator[bytes] | None = None
        self._wire: Any = None
        self._silence_s = 0.0

    async def open(self, request: httpx2.Request, silence_s: float) -> Response | Lost:
        await self.close()
        try:
            self._answer = await self._http.send(request, stream=True)
            if self._answer.status_code >= _ERROR:
                body = await self._answer.aread()
                return _response(self._answer, body)
        except httpx2.HTTPError as error:
            await self.close()
            return _lost(error)
        if self._answer.status_code == _SWITCHED:
            self._wire, self._silence_s = self._answer.extensions["network_stream"], silence_s
        else:
            self._parts = self._answer.aiter_bytes()
        return _response(self._answer)

    async def read(self) -> bytes | Lost:
        try:
            if self._wire is not None:
                return cast("bytes", await self._wire.read(READ_BYTES, timeout=self._silence_s))
            while self._parts is not None:
                if part := await anext(self._parts, b""):
                    return part
                self._parts = None
        except _BROKEN as error:
            await self.close()
            return _lost(error)
        return b""

    async def write(self, data: bytes) -> Lost | None:
        try:
            await self._wire.write(data, timeout=self._silence_s)
        except _BROKEN as error:
            await self.close()
            return _lost(error)
        return None

    async def close(self) -> None:
        answer, self._answer, self._parts, self._wire = self._answer, None, None, None
        if answer is not None:
            await answer.aclose()


def _checked(address: str) -> str:
    """Return the API's address without a slash at its end. Raises `ValueError` for what is none."""
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise ValueError(f"{address!r} is no address: {error}") from None
    if url.scheme not in {"http", "https"}:
        raise ValueError(f"{address!r} is no address: it must begin with http:// or https://")
    if not url.host or url.query or url.fragment:
        raise ValueError(f"{address!r} is no address of an API")
    return address.rstrip("/")


def _built(
    http: httpx2.Client | httpx2.AsyncClient, address: str, request: Request, read_s: float, timeout_s: float
) -> httpx2.Request:
    return http.build_request(
        request.method,
        address + request.path,
        params=list(request.query) or None,
        headers=dict(request.headers),
        content=request.body,
        timeout=httpx2.Timeout(timeout_s, read=read_s),
    )


def _text(token: object) -> str:
    if not isinstance(token, str):
        raise TypeError(f"the function that gets the token gave a {type(token).__name__} and no text")
    return token


def _collect(body: bytearray, part: bytes) -> None:
    body += part
    if len(body) > ANSWER_BYTES_MAX:
        raise UnexpectedAnswerError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")


def _response(answer: httpx2.Response, body: bytes = b"") -> Response:
    headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status_code, headers, body)


def _lost(error: Exception) -> Lost:
    return Lost(str(error) or type(error).__name__, sent=not isinstance(error, _NOT_SENT))
