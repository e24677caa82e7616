"""The routes of health and metrics, which every service of the kit has, declared for the document of the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from order_api.openapi.declarations import TEXT, Example, Returns, operation


class ReadinessReport(msgspec.Struct, frozen=True):
    """Whether the process is ready, and what each check found."""

    MEANINGS: ClassVar = {
        "status": "`ok` or `unavailable`.",
        "checks": "Each check's name, and `ok` or what is wrong.",
    }
    status: str
    checks: dict[str, str]


class Liveness(msgspec.Struct, frozen=True):
    """The process answers."""

    MEANINGS: ClassVar = {"status": "`ok`."}
    status: str


def _ready() -> dict[str, Example]:
    report = ReadinessReport("ok", {"database": "ok", "broker": "ok"})
    return {"ready": Example("All is well", msgspec.to_builtins(report))}


def _not_ready() -> dict[str, Example]:
    report = ReadinessReport("unavailable", {"database": "no answer", "broker": "ok"})
    return {"not ready": Example("No database", msgspec.to_builtins(report))}


def _alive() -> dict[str, Example]:
    return {"alive": Example("It answers", msgspec.to_builtins(Liveness("ok")))}


_READINESS: Final = {
    200: Returns("Every check is ok.", ReadinessReport, _ready),
    503: Returns("A check is not ok.", ReadinessReport, _not_ready),
}


class HealthRoutes:
    """Serves the kit's routes of health under their declarations."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._endpoints = {route.path: route.endpoint for route in routes}

    @operation("GET", "/health", "readHealth", _READINESS, tag="operation")
    async def health(self, request: Request) -> Response:
        """Is it ready."""
        return await self._serve(request)

    @operation("GET", "/health/ready", "readReadiness", _READINESS, tag="operation")
    async def ready(self, request: Request) -> Response:
        """Is it ready."""
        return await self._serve(request)

    @operation("GET", "/health/live", "readLiveness", {200: Returns("It answers.", Liveness, _alive)}, tag="operation")
    async def live(self, request: Request) -> Response:
        """Is it alive."""
        return await self._serve(request)

    @operation("GET", "/metrics", "readMetrics", {200: Returns("All of them.", media_type=TEXT)}, tag="operation")
    async def metrics(self, request: Request) -> Response:
        """Prometheus metrics."""
        return await self._serve(request)

    async def _serve(self, request: Request) -> Response:
        answer: Response = await self._endpoints[request.scope["route"].path](request)
        return answer
