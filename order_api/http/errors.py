"""The error handler: whatever is raised while a request is served becomes a problem document here, and nowhere else.

An error of the infrastructure is a 503: the outcome is unknown, and it is never a business answer. Any other error that
nobody foresaw is a fault of this program: a 500, and all that is known of it in the log.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from order_api.http.problems import PROBLEMS, Code, Problem
from order_api.http.routing import route_of, routes_for
from saga_kit.runtime.errors import classify, describe

NO_ROUTE: Final = "none"
"""Stands in metrics and log lines for the route of a request that no route is for."""
_CODES: Final = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}

log = structlog.get_logger(__name__)


class ErrorHandler:
    """A middleware that answers what the application inside raises."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. What is raised after the answer has begun is raised again: it is too late for another.

        The handshake of a WebSocket is a request, too, until it is accepted.
        """
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_part(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_part)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception as error:
            if begun:
                raise
            await _answer(error, scope)(scope, receive, send)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an error of the framework: no such route, no such method, broken HTTP."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    code = _CODES.get(error.status_code, Code.BAD_REQUEST)
    headers = {"allow": _allowed(request.scope)} if code is Code.METHOD_NOT_ALLOWED else error.headers
    return Problem(code, headers=headers).response(request.scope["path"])


def _allowed(scope: Scope) -> str:
    """List the methods of all routes with this path: the framework names those of the first one only."""
    methods = {method for route in routes_for(scope) for method in route.methods or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _answer(error: Exception, scope: Scope) -> Response:
    """Make the problem document; it names the order when the request is known to be about one."""
    state = scope["state"]
    if isinstance(error, Problem):
        problem, instance = error, scope["path"]
    else:
        problem, instance = _unexpected(error, scope), state.get("instance", scope["path"])
    if PROBLEMS[problem.code].status >= 500 and "trace_id" in state:  # noqa: PLR2004 - an HTTP status
        problem.members.setdefault("trace_id", state["trace_id"])  # so that an operator can find it
    return problem.response(instance)


def _unexpected(error: Exception, scope: Scope) -> Problem:
    known = {"route": route_of(scope) or NO_ROUTE}
    if "trace_id" in scope["state"]:
        known["trace_id"] = scope["state"]["trace_id"]
    if classify(error) != "poison":
        log.warning("request failed", cause=describe(error), **known)
        return Problem(Code.UNAVAILABLE)
    log.error("request failed with an error of its own", exc_info=error, **known)
    return Problem(Code.INTERNAL_ERROR)
