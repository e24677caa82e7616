"""Lets webhooks reach the internet only: a name is looked up once, judged, and that very address is dialled.

A name may lead to another address a moment later, so nothing is judged beforehand: this is the last step before a
connection, at every one. Not one of its addresses may be private. The system's resolver answers in threads, and may
take half a minute for a name whose servers say nothing; it has many threads, and one lookup a name at a time, so that
other names do not wait for it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpcore2
from httpcore2 import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream

from contracts.webhooks import is_public

Network = IPv4Network | IPv6Network
LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""Return the addresses of a host, as text; raises `OSError` when there is none."""

DIALLED_MAX: Final = 3
"""So many addresses of a host are tried, one after the other."""
DIAL_S: Final = 5.0
THREADS_EACH: Final = 3
"""For each attempt: one that has given up after 15 s leaves a lookup behind, which may take three times as long."""


class Forbidden(httpcore2.ConnectError):
    """A host that webhooks may not reach."""


def networks_of(text: str) -> tuple[Network, ...]:
    """Read networks with commas between, such as `127.0.0.0/8,::1`; raises `ValueError`."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def may_reach(address: str, networks: Iterable[Network], *, public: bool) -> bool:
    """Tell whether an address is in one of the networks or, with `public`, of the internet. A zone is left out."""
    ip = ip_address(address.partition("%")[0])
    bare = ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
    return any(_within(one, network) for one in {ip, bare} for network in networks) or (public and is_public(ip))


def _within(ip: IPv4Address | IPv6Address, network: Network) -> bool:
    return ip.version == network.version and ip in network


class Lookups:
    """Asks the system's resolver, in threads of its own."""

    def __init__(self, attempts_max: int = 100) -> None:
        """`attempts_max` are under way at the same time. A thread is made when it is first needed."""
        self._threads = ThreadPoolExecutor(THREADS_EACH * attempts_max, thread_name_prefix="lookup")
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. Raises `OSError` when it has none."""
        key = host, port
        if (lookup := self._running.get(key)) is None:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _resolve, host, port)
            self._running[key] = lookup
            lookup.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(lookup)  # others may wait for the same

    def _end(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # whoever waited for it may have gone

    def close(self) -> None:
        """Wait for no lookup: each ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class GuardedNetwork(AsyncNetworkBackend):
    """Dials what may be reached: with `public` the internet, and `networks` in any case."""

    def __init__(self, look_up: LookUp, networks: Sequence[Network], *, public: bool) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._look_up = look_up
        self._networks = networks
        self._public = public

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Look a host up and connect. Raises `Forbidden`, and `ConnectError` or `ConnectTimeout` as any backend."""
        try:
            addresses = await self._look_up(host, port)
        except (OSError, UnicodeError):  # a label that is too long is no valid name
            raise httpcore2.ConnectError("its host has no address") from None
        if not addresses:
            raise httpcore2.ConnectError("its host has no address")
        if not all(may_reach(address, self._networks, public=self._public) for address in addresses):
            raise Forbidden("its host has an address that webhooks may not reach")
        limit_s = DIAL_S if timeout is None else min(timeout, DIAL_S)
        *others, last = addresses[:DIALLED_MAX]
        for address in others:
            with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._inner.connect_tcp(address, port, limit_s, local_address, socket_options)
        return await self._inner.connect_tcp(last, port, limit_s, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002 - httpcore's interface
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        socket_options: Iterable[SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> AsyncNetworkStream:
        """Refuse: no webhook goes to a file."""
        raise Forbidden("webhooks reach no sockets of this machine")

    async def sleep(self, seconds: float) -> None:
        """Sleep, as a backend must be able to."""
        await asyncio.sleep(seconds)
