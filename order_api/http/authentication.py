"""Who may come in: the caller of a request, known by the token, and not more often than is allowed.

It is passed before anything else of a request is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.limits import RETRY_AFTER_S, RateLimit
from order_api.http.problems import Code, Problem
from order_api.http.routing import Endpoint
from order_api.http.tokens import Caller, Scope, Tokens
from saga_kit.runtime.connections import CONNECTION, SELF, Connection

ServeCaller = Callable[[Request, Caller], Awaitable[Response]]


class Authentication:
    """Lets in who has a good token and has not used up what is allowed. Without `limit`, everything is."""

    def __init__(self, tokens: Tokens, limit: RateLimit | None = None) -> None:
        self._tokens = tokens
        self._limit = limit

    def needed(self, serve: ServeCaller, *any_of: Scope) -> Endpoint:
        """Let a function serve only who has one of these scopes."""

        async def authenticated(request: Request) -> Response:
            caller = await self.caller(request)
            caller.need(*any_of)
            return await serve(request, caller)

        return authenticated

    async def caller(self, request: Request) -> Caller:
        """Say who calls; raise the problem when nobody may.

        Who acts for users is a service that is trusted to keep its own measure: it speaks for many, so it is not
        limited as one.
        """
        caller = await self._tokens.caller(request.headers)
        request.state.user_id = caller.user_id
        connection: Connection | None = request.scope.get("extensions", {}).get(CONNECTION, {}).get(SELF)
        trusted = caller.one_user is None
        if connection is not None and not connection.belongs_to(caller.user_id, bounded=not trusted):
            detail = "the caller has too many connections. Nothing was done."
            raise Problem(Code.RATE_LIMITED, detail, headers={"connection": "close", "retry-after": str(RETRY_AFTER_S)})
        if self._limit is not None and not trusted:
            spent = self._limit.spend(caller.user_id)
            request.state.headers = spent.headers  # on whatever is answered
            if not spent.allowed:
                raise Problem(Code.RATE_LIMITED)
        return caller
