"""Sends a webhook: one POST, whose answer is read a little and never followed.

Everything here may be somebody's who means harm: the URL, the host, the answer. An attempt takes `ATTEMPT_S` at most,
reads `ANSWER_BYTES_MAX` at most, and ends with an `Answer` whatever happens. Connections are kept for a moment, since
the next webhook often goes to the same host; each was judged by the guard when it was made.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import httpcore2
import msgspec
from httpcore2 import AsyncConnectionPool, Proxy, Response

from contracts.webhooks import url_fault
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.guard import Forbidden, GuardedNetwork, LookUp, Network
from projections.webhooks.rules import Answer, retry_after_s
from projections.webhooks.signing import Signer
from saga_kit.runtime.sealing import NotSealed

ATTEMPT_S: Final = 15.0
BODY_S: Final = 1.0
"""The status decides; the rest of an answer is waited for no longer than this."""
ANSWER_BYTES_MAX: Final = 16_384
SHOWN_MAX: Final = 200
KEPT_OPEN_S: Final = 5.0
CONNECTIONS_KEPT: Final = 100
HEADERS: Final = [(b"content-type", b"application/json"), (b"user-agent", b"order-saga-webhooks")]
_TIMEOUTS: Final = {"connect": ATTEMPT_S, "read": ATTEMPT_S, "write": ATTEMPT_S, "pool": ATTEMPT_S}


class Poster:
    """Sends webhooks to the internet and, for local stacks and tests, to the `networks` that an operator allows.

    Only those networks take `http` and any port. With a `proxy`, an HTTP proxy that judges addresses itself, the
    internet is reached through it alone.
    """

    def __init__(
        self,
        signer: Signer,
        look_up: LookUp,
        *,
        networks: Sequence[Network] = (),
        proxy: str | None = None,
        attempt_s: float = ATTEMPT_S,
        trust: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._signer = signer
        self._attempt_s = attempt_s
        self._now = now
        trust = trust or ssl.create_default_context()
        self._internet = _pool(
            trust, None if proxy else GuardedNetwork(look_up, networks, public=True), Proxy(proxy) if proxy else None
        )
        self._local = _pool(trust, GuardedNetwork(look_up, networks, public=False), None) if networks else None

    async def send(self, endpoint: Endpoint, delivery: Delivery) -> Answer:
        """Send a delivery; return the answer. Raises nothing but a cancellation."""
        began = time.monotonic()
        status: list[int] = []
        try:
            async with asyncio.timeout(self._attempt_s):
                text, asked_s = await self._post(endpoint, delivery, status)
        except Exception as error:  # noqa: BLE001 - nothing that somebody sends may stop the sender
            duration_s = time.monotonic() - began
            # Once there is a status, only the rest of the answer can have failed, which nobody needs.
            return Answer(status[0], duration_s) if status else Answer(None, duration_s, self._fault(error))
        return Answer(status[0], time.monotonic() - began, None, text, asked_s)

    async def _post(self, endpoint: Endpoint, delivery: Delivery, status: list[int]) -> tuple[str | None, float | None]:
        pool = self._pool_for(endpoint.target)
        now = self._now()
        headers = HEADERS + self._signer.headers(endpoint.secrets, delivery.event_id, delivery.body, now)
        async with pool.stream(
            "POST", endpoint.target, headers=headers, content=delivery.body, extensions={"timeout": _TIMEOUTS}
        ) as response:
            status.append(response.status)
            return await _read_a_little(response), retry_after_s(_header(response, b"retry-after"), now)

    def _pool_for(self, url: str) -> AsyncConnectionPool:
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
        if isinstance(error, Forbidden | httpcore2.ProxyError):
            return str(error)[:SHOWN_MAX]
        if isinstance(error, NotSealed | msgspec.MsgspecError):
            return "its secret can't be read here: an operator must look at WEBHOOKS_KEYS"
        if isinstance(error, httpcore2.ConnectError):
            return f"can't be connected to: {_printable(str(error)) or 'refused'}"
        if isinstance(error, httpcore2.ProtocolError):
            return "its answer is no HTTP"
        return "the connection broke" if isinstance(error, httpcore2.NetworkError | OSError) else "can't be sent"

    async def close(self) -> None:
        """Close all connections."""
        for pool in (self._internet, self._local):
            if pool is not None:
                await pool.aclose()


_url_fault: Final = lru_cache(1_000)(url_fault)


def _pool(trust: ssl.SSLContext, network: GuardedNetwork | None, proxy: Proxy | None) -> AsyncConnectionPool:
    # No bound on connections: the sender has one on attempts, and here one attempt would wait for another.
    return AsyncConnectionPool(
        ssl_context=trust,
        proxy=proxy,
        max_connections=None,
        max_keepalive_connections=CONNECTIONS_KEPT,
        keepalive_expiry=KEPT_OPEN_S,
        http1=True,
        http2=False,
        retries=0,
        network_backend=network,
    )


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
