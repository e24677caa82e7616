"""The routes of streams of server-sent events, declared with what the document says of them."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.limits import InFlight
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller
from order_api.live import examples
from order_api.live.messages import PATH, PROTOCOL
from order_api.live.parameters import ALL, PRICES, RESUME, RESUME_VERSION, read_version, read_wished
from order_api.live.service import LiveUpdates
from order_api.live.sse import FRAMES, MEDIA_TYPE, EventStream
from order_api.live.streams import Streams
from order_api.openapi.declarations import Returns, operation
from order_api.orders.description.parts import CLIENT_ORDER_ID, ORDER_ID, READERS, USER_ID
from order_api.orders.requests import about, named_order_id, order_id_of
from order_api.orders.service import OrderService

_RULES = (
    " The stream ends when the token expires, after about an hour, and when the service is restarted: it says `bye`,"
    " and a client comes back with the `id` that it had last, to any process. The page `docs/streams.md` has every"
    " event."
)
_ONE_ORDER = {
    200: Returns("Its versions, until the last one.", examples=examples.of_order, media_type=MEDIA_TYPE),
    204: Returns("The client has its last version: there is nothing to come."),
}


class StreamRoutes:
    """The endpoints of streams."""

    def __init__(self, live: LiveUpdates, streams: Streams, orders: OrderService, in_flight: InFlight) -> None:
        self._live = live
        self._streams = streams
        self._orders = orders
        self._in_flight = in_flight

    @operation(
        "GET",
        "/events",
        "streamEvents",
        {200: Returns("Events, as they happen.", examples=examples.of_orders, media_type=MEDIA_TYPE)},
        description="Begins with the open orders, then `snapshot-end`, then each new version as it is committed: the"
        " newest of each order, never an older one. What can't be shown is said with `gap`. Keep the highest version of"
        " each order." + _RULES,
        parameters=(USER_ID, ALL, PRICES, RESUME),
        scopes=READERS,
        problems=(Code.OTHER_USER, Code.INVALID_REQUEST, Code.TOO_MANY_STREAMS),
        tag="streams",
    )
    async def events(self, request: Request, caller: Caller) -> Response:
        """Follow orders."""
        wished = read_wished(request, caller)
        self._streams.check(caller)
        return EventStream(
            *(self._streams, self._in_flight, caller), lambda stream: self._live.of_orders(wished, stream, FRAMES)
        )

    @operation(
        "GET",
        "/orders/{order_id}/events",
        "streamOrder",
        _ONE_ORDER,
        description="Begins with the order as it is; with `Last-Event-ID`, each version after that one comes first."
        " Every version comes; those that were missed come without the order as it was. Ends after the last one."
        + _RULES,
        parameters=(ORDER_ID, RESUME_VERSION),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, Code.TOO_MANY_STREAMS),
        tag="streams",
    )
    async def order(self, request: Request, caller: Caller) -> Response:
        """Follow one order to its end."""
        return await self._follow(request, order_id_of(request), caller)

    @operation(
        "GET",
        "/orders/by-client-id/{client_order_id}/events",
        "streamOrderByClientId",
        _ONE_ORDER,
        description="The same as by the order's id." + _RULES,
        parameters=(CLIENT_ORDER_ID, USER_ID, RESUME_VERSION),
        scopes=READERS,
        problems=(Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, Code.TOO_MANY_STREAMS),
        tag="streams",
    )
    async def named_order(self, request: Request, caller: Caller) -> Response:
        """Follow one order to its end, by the user's own name for it."""
        return await self._follow(request, await named_order_id(request, self._orders, caller), caller)

    @operation(
        "GET",
        PATH,
        "openSocket",
        {101: Returns("The WebSocket is open.")},
        description="The same streams as channels of one connection, with the subprotocol `" + PROTOCOL + "`. The token"
        " comes in the header `Authorization`, or in the first message. `docs/streams.md` and"
        " `docs/asyncapi-websocket.json` have its messages.",
        problems=(
            *(Code.BAD_REQUEST, Code.INVALID_TOKEN, Code.INSUFFICIENT_SCOPE, Code.ORIGIN_NOT_ALLOWED),
            *(Code.UPGRADE_REQUIRED, Code.RATE_LIMITED, Code.TOO_MANY_STREAMS, Code.OVERLOADED, Code.UNAVAILABLE),
        ),
        tag="streams",
    )
    async def socket(self, _request: Request) -> Response:
        """Open a WebSocket."""
        # A handshake never comes here: this request lacks the header `Upgrade`, or a proxy has dropped it.
        raise Problem(Code.UPGRADE_REQUIRED, headers={"connection": "upgrade", "upgrade": "websocket"})

    async def _follow(self, request: Request, order_id: UUID, caller: Caller) -> Response:
        known = read_version(request)
        order = await self._orders.order(about(request, order_id), caller)
        if known is not None and order.status.terminal and known >= order.version:
            return Response(status_code=204)
        self._streams.check(caller)
        return EventStream(
            *(self._streams, self._in_flight, caller),
            lambda stream: self._live.of_order(order, known, caller, stream, FRAMES),
        )
