"""The health and metrics endpoints of every service, and the server that carries them in the service's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from saga_kit.runtime.connections import Connections
from saga_kit.runtime.errors import CannotStart, describe

STARTING: Final = "starting"
"""The result of a check while its service starts; it is no failure."""
CHECK_TIMEOUT_S: Final = 3.0
REUSED_S: Final = 1.0
"""How long a report is reused: however many probes there are, the database is asked once a second."""
CONNECTIONS_MAX: Final = 64
"""Connections of probes and scrapers to a worker's health port."""
MESSAGE_BYTES_MAX: Final = 65_536
"""Bytes of a whole request to that port; none has a body."""

Check = Callable[[], Awaitable[str | None]]
"""Returns None, or what is wrong in one line. The line is public, so it names no host. May raise."""

log = structlog.get_logger(__name__)


class Health:
    """Whether this process is ready; `checks` may be added to while it starts, or replaced."""

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        self.checks: dict[str, Check] = dict(checks or {})
        self._made: asyncio.Task[dict[str, str]] | None = None
        self._made_of: dict[str, Check] = {}
        self._made_at = -float("inf")
        self._told: dict[str, str] = {}

    async def report(self) -> dict[str, str]:
        """Run all checks at once; map each name to "ok" or to what is wrong.

        Callers share a report while it is made, and for `REUSED_S` after.
        """
        now = asyncio.get_running_loop().time()
        old = self._made is None or (self._made.done() and now - self._made_at > REUSED_S)
        if self._made is None or old or self._made_of != self.checks:
            self._made_of, self._made_at = dict(self.checks), now
            self._made = asyncio.create_task(self._make(self._made_of))
        return await asyncio.shield(self._made)  # a caller that is cancelled does not end it for the others

    async def _make(self, checks: Mapping[str, Check]) -> dict[str, str]:
        results = await asyncio.gather(*(self._run(name, check) for name, check in checks.items()))
        return dict(zip(checks, results, strict=True))

    async def _run(self, name: str, check: Check) -> str:
        """Run a check. A library's message goes to the log alone: it may name hosts, users and addresses."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                shown = cause = await check() or "ok"
        except TimeoutError:
            shown = cause = f"no answer within {CHECK_TIMEOUT_S:.0f} s"
        except Exception as error:  # noqa: BLE001 - a failing check is a result
            shown, cause = f"failed: {type(error).__name__}; the log says more", describe(error)
        if shown != self._told.get(name, "ok"):
            say = log.info if shown in {"ok", STARTING} else log.warning
            say("health changed", check=name, cause=cause)
        self._told[name] = shown
        return shown


def health_routes(health: Health, registry: CollectorRegistry) -> list[Route]:
    """Make `/health` and `/health/ready` (503 until every check is ok), `/health/live` and `/metrics`."""

    async def ready(_: Request) -> Response:
        report = await health.report()
        well = all(result == "ok" for result in report.values())
        body = {"status": "ok" if well else "unavailable", "checks": report}
        return JSONResponse(body, status_code=200 if well else 503)

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/health", ready),
        Route("/health/ready", ready),
        Route("/health/live", live),
        Route("/metrics", metrics),
    ]


def listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything else starts. Raises `CannotStart` with one line for a busy port."""
    try:
        sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # A response is written in two parts. Without this, the second waits 40 ms for the client's delayed ACK of the
        # first. asyncio sets it only on sockets that name their protocol; accepted sockets inherit it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise CannotStart(f"can't listen on {host}:{port}: {cause}") from None
    return sock


class HealthServer:
    """Serves an application's routes until it is closed."""

    def __init__(self, sock: socket.socket, routes: list[Route]) -> None:
        self._sock = sock
        # Its metrics are not exported: they would look like those of the API.
        self._connections = Connections(
            CONNECTIONS_MAX, registry=CollectorRegistry(), message_bytes_max=MESSAGE_BYTES_MAX
        )
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=self._connections.make,  # type: ignore[arg-type]  # uvicorn calls it, as it would the class
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        self._server = EmbeddedServer(config)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._sock.getsockname()[1])

    def start(self) -> None:
        """Serve in a task."""
        serving = self._server.serve(sockets=[self._sock])
        self._tasks = [asyncio.create_task(part) for part in (serving, self._connections.watch(self._stopping))]

    async def stop(self) -> None:
        """Answer the requests that are under way, then close."""
        self._server.should_exit = True
        self._stopping.set()
        await asyncio.gather(*self._tasks)


class EmbeddedServer(uvicorn.Server):
    """A server inside a process that handles signals itself: uvicorn would raise them again and skip its draining."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield
