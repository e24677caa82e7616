"""A server with limits, and what the tests of its connections say to it over raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from order_api.http.bodies import read_body_bytes
from order_api.http.connections import write_problem
from order_api.http.problems import Problem
from saga_kit.runtime import connections as connections_module
from saga_kit.runtime.connections import CONNECTION, SELF, Connection, Connections
from saga_kit.runtime.health import listen
from tests.order_api.support import until
from tests.support.listening import take_no_more

HEAD_S = 0.6
ANSWER_S = 1.0
BODY_S = 0.6
PATIENT_S = 60.0
"""Instead of each of these where a test is not about it: a client that is held up is not cut then."""
CUT_WITHIN_S = 30.0
"""However busy the machine is."""
GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
BYTES_MAX = 1000


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hang up soon after what is refused."""
    monkeypatch.setattr(connections_module, "LINGER_S", 0.1)


@dataclass
class Server:
    """A server with limits whose application notes what it is asked and answers with the body's size."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    port: int = 0
    asked: list[Any] = field(default_factory=list)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    watched: set[Connection] = field(default_factory=set)
    """The connections that are looked at every second."""
    answer: bytes = b""
    body_s: float = PATIENT_S
    bounds: Connections | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        self.asked.append(scope)
        try:
            response = await self._serve(Request(scope, receive))
        except Problem as problem:
            response = problem.response(scope["path"])
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _serve(self, request: Request) -> Response:
        if request.url.path == "/wait":
            await self.may_go_on.wait()
        if request.url.path == "/stream":
            return _Stream(self)
        if request.method != "POST" or request.url.path == "/unread":
            return Response(self.answer or b"well")
        body = await read_body_bytes(request, bytes_max=BYTES_MAX, within_s=self.body_s)
        return Response(f"{len(body)} bytes")

    def cut(self, why: str) -> float:
        """Return how many connections were ended for this reason."""
        return self.registry.get_sample_value("http_server_connections_cut_total", {"why": why}) or 0

    @property
    def connections(self) -> float:
        """How many connections are open."""
        return self.registry.get_sample_value("http_server_connections") or 0

    def belongs_to(self, user_id: str, nth: int = -1) -> bool:
        """Say whose the last request was, or another."""
        return bool(self.asked[nth]["extensions"][CONNECTION][SELF].belongs_to(user_id))

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection from an address."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    async def say(self, *parts: bytes, within_s: float = PATIENT_S, address: str = "127.0.0.1") -> bytes:
        """Send bytes; return all that comes back until the server hangs up.

        It is read while more is sent: who is slow, and sends to a server that has hung up, would lose it.
        """
        reader, writer = await self.connect(address)
        hearing = asyncio.create_task(_heard(reader))
        try:
            async with asyncio.timeout(within_s):
                with suppress(ConnectionError):
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(0.02)
                return await hearing
        finally:
            hearing.cancel()
            writer.close()


async def _heard(reader: asyncio.StreamReader) -> bytes:
    heard = b""
    with suppress(ConnectionError):
        while more := await reader.read(65536):
            heard += more
    return heard


class _Stream(Response):
    """An answer that goes on until the server's `may_go_on`; its first part is the server's answer."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - an ASGI application
        connection = scope["extensions"][CONNECTION][SELF]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        connection.stream()
        await send({"type": "http.response.body", "body": self._server.answer, "more_body": True})
        await self._server.may_go_on.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def serving(
    at_most: int = 50, *, head_s: float = PATIENT_S, answer_s: float = PATIENT_S, body_s: float = PATIENT_S
) -> AsyncIterator[Server]:
    """Run a server, whose limits of time are short where a test wants them so."""
    server = Server(body_s=body_s)
    connections = Connections(at_most, registry=server.registry, head_s=head_s, answer_s=answer_s, answer=write_problem)
    server.bounds = connections
    server.watched = connections._watched  # noqa: SLF001 - what it costs can't be seen otherwise
    config = uvicorn.Config(
        server,
        http=connections.make,  # type: ignore[arg-type]  # uvicorn calls it, as it would the class
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_keep_alive=int(PATIENT_S),
        timeout_graceful_shutdown=1,
    )
    sock = listen("127.0.0.1", 0)
    server.port = sock.getsockname()[1]
    running, stopping = uvicorn.Server(config), asyncio.Event()
    with sock:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running._serve([sock]))  # noqa: SLF001 - `serve` would take the signals
            tasks.create_task(connections.watch(stopping))
            await until(lambda: running.started)
            try:
                yield server
            finally:
                server.may_go_on.set()
                for listener in running.servers:
                    await take_no_more(listener)
                running.should_exit = True
                stopping.set()


def status_of(answer: bytes) -> int:
    """Return an answer's status; 0 stands for no answer."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def problem_of(answer: bytes) -> tuple[int, str]:
    """Return the status and code of a problem that ends the connection and gives nothing away."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"server:" not in head.lower()
    return status_of(answer), json.loads(body)["code"]
