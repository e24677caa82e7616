"""The health and metrics endpoints of every service, and the server that carries them in the service's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from saga_kit.errors import CannotStart, describe

CHECK_TIMEOUT_S: Final = 3.0

Check = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else what is wrong, in one line; may raise."""


class Health:
    """Whether this process is ready; `checks` may be added to while it starts."""

    def __init__(self, checks: Mapping[str, Check] | None = None) -> None:
        self.checks: dict[str, Check] = dict(checks or {})

    async def report(self) -> dict[str, str]:
        """Run all checks at once; map each name to "ok" or to what is wrong."""
        results = await asyncio.gather(*(_run(check) for check in self.checks.values()))
        return dict(zip(self.checks, results, strict=True))


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
    """Take the port at once, so that a busy one is a clear line; raises `CannotStart`."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise CannotStart(f"can't listen on {host}:{port}: {cause}") from None


class HealthServer:
    """Serves an application's routes until it is closed."""

    def __init__(self, sock: socket.socket, routes: list[Route]) -> None:
        self._sock = sock
        config = uvicorn.Config(
            Starlette(routes=routes), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._sock.getsockname()[1])

    def start(self) -> None:
        """Serve in a task."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))

    async def stop(self) -> None:
        """Answer what is asked already, then close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the service, which drains first."""
        yield


async def _run(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check() or "ok"
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:.0f} s"
    except Exception as error:  # noqa: BLE001 - a check that fails is an answer
        return describe(error)
