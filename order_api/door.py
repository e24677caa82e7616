"""What every request passes on its way in and out: it is measured, and whatever goes wrong becomes a problem document.

This is the one place where errors of the infrastructure are caught: they are a 503, never a business answer.
"""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.problems import Code, Problem
from saga_kit.errors import classify, describe

SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE: Final = 499
"""Counted for a client that hung up before its answer, as nginx does."""

log = structlog.get_logger(__name__)


class Door:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "From the request's head to the end of its answer.",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self._paths: dict[Any, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status:  # too late to say anything else
                raise
            await _unexpected(error, scope)(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._duration.labels(self._route(scope), method, str(status or CLIENT_GONE)).observe(
                time.perf_counter() - started
            )

    def _route(self, scope: Scope) -> str:
        """Name the route by its pattern, found by its endpoint: FastAPI tells its own routes only, not a plain one."""
        if not self._paths:
            self._paths = {route.endpoint: route.path for route in scope["app"].routes if isinstance(route, Route)}
        return self._paths.get(scope.get("endpoint"), "none")


async def on_problem(request: Request, problem: Problem) -> Response:
    """Answer with a problem that an endpoint raised."""
    return problem.response(request.url.path)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer with the problem for an error of the framework: no such route, no such method, broken HTTP."""
    code = _CODES.get(error.status_code, Code.BAD_REQUEST)
    return Problem(code, headers=error.headers).response(request.url.path)


_CODES: Final = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}


def _unexpected(error: Exception, scope: Scope) -> Response:
    """Answer an error that nobody foresaw, with the order's address where there is one."""
    instance = scope.get("state", {}).get("instance", scope["path"])
    if classify(error) == "infrastructure":
        log.warning("request failed", path=scope["path"], cause=describe(error))
        return Problem(Code.UNAVAILABLE).response(instance)
    log.error("request failed with an error of its own", path=scope["path"], exc_info=error)
    return Problem(Code.INTERNAL_ERROR).response(instance)
