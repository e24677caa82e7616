"""Sends a webhook: one POST, whose answer is read a little and never followed.

Everything here may be somebody's who means harm: the URL, the host, the answer. An attempt takes `ATTEMPT_S` at most,
reads `ANSWER_BYTES_MAX` at most, and ends with an `Answer` whatever happens. Connections are kept for a moment, since
the next webhook often goes to the same host; each was judged by the guard when it was made.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol
from uuid import UUID

import httpcore2
import msgspec
from httpcore2 import AsyncConnectionPool, Proxy, Response

from contracts.webhooks import SECRET_UNREADABLE, url_fault
from projections.webhooks.bounds import BoundedNetwork
from projections.webhooks.deliveries import Delivery, Endpoint, Posting
from projections.webhooks.guard import Forbidden, GuardedNetwork, LookUp, Network
from projections.webhooks.rules import AT_ONCE_MAX, Answer, retry_after_s
from saga_kit.runtime.backoff import pause
from saga_kit.runtime.sealing import NotSealed

ATTEMPT_S: Final = 15.0
BODY_S: Final = 1.0
"""The status decides; the rest of an answer is waited for no longer than this."""
ANSWER_BYTES_MAX: Final = 16_384
ANSWER_READ_MAX: Final = 131_072
"""Bytes that are read in all, with those before the body: a head (the parser has a bound for one) and interim ones."""
SHOWN_MAX: Final = 200
KEPT_OPEN_S: Final = 5.0
_TIMEOUTS: Final = {"connect": ATTEMPT_S, "read": ATTEMPT_S, "write": ATTEMPT_S, "pool": ATTEMPT_S}


class BadTarget(Exception):  # noqa: N818 - it is what it is
    """Nothing can ever be sent to what a user has given; its text says why."""


class Composer(Protocol):
    """Says what is sent by HTTP for a delivery."""

    def compose(self, endpoint: Endpoint, delivery: Delivery, now: datetime) -> Posting:
        """Make the request at `now` (UTC). Raises `BadTarget`, `NotSealed`, and `msgspec.MsgspecError`.

        The latter is for what is stored wrongly.
        """


class Poster:
    """Sends webhooks, and what is like them.

    They go to the internet and, for local stacks and tests, to the `networks` that an operator allows. Only those
    networks take `http` and any port. With a `proxy`, an HTTP proxy that judges addresses itself, the internet is
    reached through it alone.
    """

    def __init__(
        self,
        composer: Composer,
        look_up: LookUp,
        *,
        networks: Sequence[Network] = (),
        proxy: str | None = None,
        attempt_s: float = ATTEMPT_S,
        trust: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._composer = composer
        self._attempt_s = attempt_s
        self._now = now
        trust = trust or ssl.create_default_context()
        guarded = None if proxy else GuardedNetwork(look_up, networks, public=True)
        self._internet = Pools(trust, guarded, Proxy(proxy) if proxy else None)
        self._local = Pools(trust, GuardedNetwork(look_up, networks, public=False), None) if networks else None

    async def send(self, endpoint: Endpoint, delivery: Delivery) -> Answer:
        """Send a delivery; return the answer. Raises nothing but a cancellation."""
        began = time.monotonic()
        status: list[int] = []
        try:
            async with asyncio.timeout(self._attempt_s):
                text, asked_s = await self._post(endpoint, delivery, status)
        except Exception as error:  # noqa: BLE001 - nothing that somebody sends may stop the sender
            duration_s = time.monotonic() - began
            if status:  # only the rest of the answer can have failed, which nobody needs
                return Answer(status[0], duration_s)
            gone, ours = isinstance(error, BadTarget), isinstance(error, NotSealed | msgspec.MsgspecError)
            return Answer(None, duration_s, self._fault(error), gone=gone, ours=ours)
        return Answer(status[0], time.monotonic() - began, None, text, asked_s)

    async def _post(self, endpoint: Endpoint, delivery: Delivery, status: list[int]) -> tuple[str | None, float | None]:
        now = self._now()
        posting = self._composer.compose(endpoint, delivery, now)
        pools = self._pools_for(posting.url)
        async with (
            pools.of(endpoint.endpoint_id) as pool,
            pool.stream(
                "POST", posting.url, headers=posting.headers, content=posting.body, extensions={"timeout": _TIMEOUTS}
            ) as response,
        ):
            status.append(response.status)
            return await _read_a_little(response), retry_after_s(_header(response, b"retry-after"), now)

    def _pools_for(self, url: str) -> Pools:
        fault = _url_fault(url)
        if fault is None:
            return self._internet
        if self._local is None or (wrong := url_fault(url, anywhere=True)) is not None:
            raise Forbidden(f"its URL {fault if self._local is None else wrong}")
        return self._local

    def _fault(self, error: Exception) -> str:
        """Say in words why there is no good answer. Nothing of a private network is told."""
        if isinstance(error, TimeoutError | httpcore2.TimeoutException):
            return f"no answer within {self._attempt_s:g} s"
        if isinstance(error, BadTarget | Forbidden | httpcore2.ProxyError):
            return str(error)[:SHOWN_MAX]
        if isinstance(error, NotSealed | msgspec.MsgspecError):
            return SECRET_UNREADABLE if isinstance(error, NotSealed) else "what is stored of it can't be read"
        if isinstance(error, httpcore2.ConnectError):
            return f"can't be connected to: {_printable(str(error)) or 'refused'}"
        if isinstance(error, httpcore2.RemoteProtocolError):
            return "its answer is no HTTP"
        return "the connection broke" if isinstance(error, httpcore2.NetworkError | OSError) else "can't be sent"

    async def close(self) -> None:
        """Close all connections."""
        for pools in (self._internet, self._local):
            if pools is not None:
                await pools.close()


class Pools:
    """A connection pool for each endpoint, closed a moment after its last use.

    With one pool for all, each request looks at every connection there is: at a hundred, half of the time went there.
    """

    def __init__(self, trust: ssl.SSLContext, network: GuardedNetwork | None, proxy: Proxy | None) -> None:
        self._trust = trust
        self._network = network
        self._proxy = proxy
        self._kept: dict[UUID, _Kept] = {}
        self._closing: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def of(self, endpoint_id: UUID) -> AsyncIterator[AsyncConnectionPool]:
        """Give the pool of an endpoint for one request."""
        if (kept := self._kept.get(endpoint_id)) is None:
            kept = self._kept[endpoint_id] = _Kept(self._new())
        kept.users += 1
        try:
            yield kept.pool
        finally:
            kept.users -= 1
            kept.used_s = time.monotonic()
            if self._closing is None:
                self._closing = asyncio.create_task(self._close_unused())

    async def _close_unused(self) -> None:
        """Close what is not used, until nothing is left or all are to be closed."""
        while self._kept and not await pause(self._ending, KEPT_OPEN_S):
            for endpoint_id, kept in list(self._kept.items()):
                # Judged one by one: while one is being closed, the next may come into use.
                if not kept.users and kept.used_s <= time.monotonic() - KEPT_OPEN_S:
                    del self._kept[endpoint_id]
                    await kept.pool.aclose()
        self._closing = None

    async def close(self) -> None:
        """Close all of them."""
        self._ending.set()
        if self._closing is not None:
            await self._closing  # called off, it would leave open what it is just closing
        while self._kept:
            await self._kept.popitem()[1].pool.aclose()

    def _new(self) -> AsyncConnectionPool:
        # No bound on connections: the sender has one on attempts, and here one attempt would wait for another.
        return AsyncConnectionPool(
            ssl_context=self._trust,
            proxy=self._proxy,
            max_connections=None,
            max_keepalive_connections=AT_ONCE_MAX,
            keepalive_expiry=KEPT_OPEN_S,
            http1=True,
            http2=False,
            retries=0,
            network_backend=BoundedNetwork(self._network or httpcore2.AnyIOBackend(), ANSWER_READ_MAX),
        )


@dataclass(slots=True)
class _Kept:
    """A pool, how many requests use it, and when the last one ended."""

    pool: AsyncConnectionPool
    users: int = 0
    used_s: float = 0.0


_url_fault: Final = lru_cache(1_000)(url_fault)


async def _read_a_little(response: Response) -> str | None:
    """Read the beginning of an answer; return its first printable characters. What breaks it off is no failure."""
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in response.aiter_stream():
                read += part[: ANSWER_BYTES_MAX - len(read)]
                if len(read) >= ANSWER_BYTES_MAX:
                    break
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
        pass
    return _printable(read[: SHOWN_MAX * 4].decode(errors="replace")) or None


def _printable(text: str) -> str:
    return "".join(one for one in text if one.isprintable())[:SHOWN_MAX]


def _header(response: Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), None)
