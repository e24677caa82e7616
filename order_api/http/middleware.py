"""What every request passes on its way in and out: it is measured, told and traced, and gets the headers that protect.

Whatever goes wrong becomes a problem document here: the one place where errors of the infrastructure are caught. They
are a 503, never a business answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from msgspec import UNSET
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.http.access_log import AccessLog, Line
from order_api.http.problems import PROBLEMS, Code, Problem
from order_api.http.request_span import describe_answer, request_span
from saga_kit.runtime.errors import classify, describe

SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE: Final = 499
"""Counted for a client that hung up before its answer, as nginx does."""
NO_ROUTE: Final = "none"
"""Counted for a request that no route is for."""
HEADERS: Final = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
"""On every answer that does not say otherwise: it is for its caller, and no browser is to make anything else of it.

Strict-Transport-Security is not among them: it must not be sent without TLS (RFC 6797, 7.2), and whoever ends TLS in
front of this process can promise it for the host's name, which this process does not know.
"""

log = structlog.get_logger(__name__)


class Door:
    """The outermost middleware of the application."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, access_log: AccessLog | None) -> None:
        self._app = app
        self._access_log = access_log
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
        method = scope["method"] if scope["method"] in METHODS else "other"
        answer = _Answer(send, scope.setdefault("state", {}))
        with request_span(scope, method) as span:
            if (context := span.get_span_context()).is_valid:
                scope["state"]["trace_id"] = f"{context.trace_id:032x}"
            try:
                await self._app(scope, receive, answer.send)
            except ClientDisconnect:
                pass
            except Exception as error:
                if answer.status:  # too late to say anything else
                    raise
                await self._unexpected(error, scope)(scope, receive, answer.send)
            finally:
                self._tell(scope, method, answer, span, time.perf_counter() - started)

    def _tell(self, scope: Scope, method: str, answer: _Answer, span: Span, seconds: float) -> None:
        """Tell metrics, log and trace what came of a request."""
        route, status, state = self._route(scope), answer.status or CLIENT_GONE, scope["state"]
        self._duration.labels(route or NO_ROUTE, method, str(status)).observe(seconds)
        describe_answer(span, method, route, answer.status, state.get("order_id"))
        if self._access_log is None or (level := self._access_log.level_of(route or NO_ROUTE)) is None:
            return
        context = span.get_span_context()
        self._access_log.tell(
            Line(
                timestamp=datetime.now(UTC),
                level=level,
                method=method,
                route=route or NO_ROUTE,
                status=status,
                duration_ms=round(seconds * 1000, 3),
                bytes_sent=answer.bytes_sent,
                user_id=state.get("user_id", UNSET),
                order_id=state.get("order_id", UNSET),
                trace_id=state.get("trace_id", UNSET),
                span_id=UNSET if context.is_remote or not context.is_valid else f"{context.span_id:016x}",
            )
        )

    def _unexpected(self, error: Exception, scope: Scope) -> Response:
        """Answer an error that nobody foresaw, with the order's address where there is one."""
        known, state = {"route": self._route(scope) or NO_ROUTE}, scope["state"]
        if "trace_id" in state:
            known["trace_id"] = state["trace_id"]
        if classify(error) == "infrastructure":
            log.warning("request failed", cause=describe(error), **known)
            problem = Problem(Code.UNAVAILABLE)
        else:
            log.error("request failed with an error of its own", exc_info=error, **known)
            problem = Problem(Code.INTERNAL_ERROR)
        return _response(problem, state, state.get("instance", scope["path"]))

    def _route(self, scope: Scope) -> str | None:
        """Name the route by its pattern, found by its endpoint: FastAPI tells its own routes only, not a plain one."""
        if not self._paths:
            self._paths = {route.endpoint: route.path for route in scope["app"].routes if isinstance(route, Route)}
        if "endpoint" in scope:
            return self._paths.get(scope["endpoint"])
        # There is none, or the request was refused on its way to it.
        routes = (route for route in scope["app"].routes if isinstance(route, Route))
        return next((route.path for route in routes if route.matches(scope)[0] is not Match.NONE), None)


class _Answer:
    """An answer on its way out: it gets the headers that every answer has, and is measured."""

    __slots__ = ("_send", "_state", "bytes_sent", "status")

    def __init__(self, send: Send, state: Mapping[str, Any]) -> None:
        self._send = send
        self._state = state
        self.status = 0
        self.bytes_sent = 0

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._complete(message.get("headers", ()))}
        else:
            self.bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def _complete(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add the headers in `request.state.headers` and those of every answer, and never one that is there."""
        complete = dict(HEADERS)
        for name, value in self._state.get("headers", {}).items():
            complete[name.lower().encode()] = value.encode("latin-1")
        own = list(headers)
        for name, _ in own:
            complete.pop(name, None)
        return [*own, *complete.items()]


async def on_problem(request: Request, problem: Problem) -> Response:
    """Answer with a problem that an endpoint raised."""
    return _response(problem, request.scope["state"], request.url.path)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """Answer with the problem for an error of the framework: no such route, no such method, broken HTTP."""
    code = _CODES.get(error.status_code, Code.BAD_REQUEST)
    headers = {"allow": _allowed(request)} if code is Code.METHOD_NOT_ALLOWED else error.headers
    return Problem(code, headers=headers).response(request.url.path)


def _allowed(request: Request) -> str:
    """List the methods of all routes with this path: Starlette names those of the first one only."""
    fitting = [route for route in request.app.routes if isinstance(route, Route) and _fits(route, request)]
    methods = {method for route in fitting for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _fits(route: Route, request: Request) -> bool:
    return route.matches(request.scope)[0] is not Match.NONE


_CODES: Final = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}


def _response(problem: Problem, state: Mapping[str, Any], instance: str) -> Response:
    """Answer with a problem; one that is our fault names the trace, for whoever is asked about it."""
    if PROBLEMS[problem.code].status >= 500 and "trace_id" in state:  # noqa: PLR2004 - an HTTP status
        problem.members.setdefault("trace_id", state["trace_id"])
    return problem.response(instance)
