"""Authentication: finds the caller of a request by its token, and applies the limits of that caller.

It comes before anything else of a request is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from order_api.http.limits import RETRY_AFTER_S, RateLimit
from order_api.http.problems import Code, Problem
from order_api.http.routing import Endpoint
from order_api.http.tokens import Caller, Scope, Tokens
from saga_kit.runtime.connections import CONNECTION, SELF, Connection

ServeCaller = Callable[[Request, Caller], Awaitable[Response]]


class Authentication:
    """Accepts callers with a good token who are within their limits. Without `limit` there is no limit of requests."""

    def __init__(self, tokens: Tokens, limit: RateLimit | None = None) -> None:
        self._tokens = tokens
        self._limit = limit

    def needed(self, serve: ServeCaller, *any_of: Scope) -> Endpoint:
        """Make a function serve only callers who have one of these scopes."""

        async def authenticated(request: Request) -> Response:
            caller = await self.caller(request)
            caller.need(*any_of)
            return await serve(request, caller)

        return authenticated

    async def caller(self, request: HTTPConnection) -> Caller:
        """Return the caller; raise the problem of a bad token, and of one who has used up a limit.

        A caller that acts for users is a trusted service: it sends the requests of many, so the limits of one user do
        not apply to it.
        """
        caller = await self._tokens.caller(request.headers)
        request.state.user_id = caller.user_id
        connection: Connection | None = request.scope.get("extensions", {}).get(CONNECTION, {}).get(SELF)
        trusted = caller.one_user is None
        if connection is not None and not connection.belongs_to(caller.user_id, bounded=not trusted):
            detail = "the caller has too many connections. Nothing was done."
            raise Problem(Code.RATE_LIMITED, detail, headers={"connection": "close", "retry-after": str(RETRY_AFTER_S)})
        request.state.headers = self.spend(caller)  # on whatever is answered
        return caller

    def spend(self, caller: Caller) -> dict[str, str]:
        """Count a request of this caller, and return the headers that say so; raise the problem of one too many."""
        if self._limit is None or caller.one_user is None:
            return {}
        spent = self._limit.spend(caller.user_id)
        if not spent.allowed:
            raise Problem(Code.RATE_LIMITED, headers=spent.headers)
        return spent.headers
