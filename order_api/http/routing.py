"""Finds the route of a request, in the application or in one that it mounts, and serves the hot one directly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
"""A function that serves a request."""


class Direct:
    """Serves a function as an application. The framework's own wrapper, which handles errors, would cost 3 % more."""

    def __init__(self, serve: Endpoint) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        response = await self._serve(Request(scope, receive))
        await response(scope, receive, send)


def route_of(scope: Scope) -> str | None:
    """Return the pattern of a request's route; None when no route is for it."""
    # A mount has no path: nothing in it has served the request, which may have a route with other methods.
    if "route" in scope and scope["route"].path:
        path: str = scope["route"].path
        return path
    # The request was refused on its way to its route.
    return next((route.path for route in routes_for(scope)), None)


class NoOtherMethod:
    """Refuses a request whose path is another route's own: no pattern such as `/orders/{order_id}` is meant by it."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        """Answer 405."""
        raise HTTPException(405)


def literal_paths_first(routes: Iterable[Route]) -> list[Route]:
    """Order routes so that a path without parameters is never taken for a value of a parameter, by any method."""
    listed = list(routes)
    literal = [route for route in listed if "{" not in route.path]
    closed = [Route(path, NoOtherMethod()) for path in dict.fromkeys(route.path for route in literal)]
    return [*literal, *closed, *(route for route in listed if "{" in route.path)]


def routes_for(scope: Scope) -> Iterator[Route]:
    """Find the routes with the path of a request, whatever their methods. A path without parameters has its own."""
    top = scope["router"] if "router" in scope else scope["app"]
    found = [route for route in all_routes(top.routes) if route.matches(scope)[0] is not Match.NONE]
    literal = [route for route in found if "{" not in route.path]
    return iter(literal or found)


def all_routes(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """List routes, those of mounted applications in their place."""
    for route in routes:
        if isinstance(route, Mount):
            yield from all_routes(route.routes)
        elif isinstance(route, Route):
            yield route
