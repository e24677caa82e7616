"""Other addresses of a call: under `/v1`, with a slash at the end, and by HEAD.

The document and the answers name one address for each call; these lead to the same endpoint and the same answer.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from order_api.http.problems import TYPE_PREFIX

VERSION_PREFIX: Final = "/v1"
HEAD: Final = "head"
"""The state of a request has this flag when it came by HEAD."""


class Addresses:
    """A middleware that maps an address to its call. HEAD is answered as GET is; the server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = plain_path(scope["path"])
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        scope["state"][HEAD] = True
        as_get = {**scope, "method": "GET"}  # the server itself looks at `scope`, and sends no body
        try:
            await self._app(as_get, receive, send)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]


def plain_path(path: str) -> str:
    """Return a path as the routes have it: without the version, and without a slash at the end."""
    if path == VERSION_PREFIX or path.startswith(f"{VERSION_PREFIX}/"):
        path = path.removeprefix(VERSION_PREFIX) or "/"
    if f"{path}/" == TYPE_PREFIX:
        return TYPE_PREFIX
    return path.removesuffix("/") if path not in {"/", TYPE_PREFIX} else path
