"""The route of previews, declared with what the document says of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import Code
from order_api.http.tokens import Caller, Scope
from order_api.openapi.declarations import Body, Returns, operation
from order_api.orders.description.examples import bodies
from order_api.orders.requests import json_response
from order_api.orders.submission import OrderBody, read_body
from order_api.preview import examples
from order_api.preview.service import Previews
from order_api.preview.views import Preview


class PreviewRoutes:
    """The endpoint that previews an order."""

    def __init__(self, service: Previews, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._service = service
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "POST",
        "/orders/preview",
        "previewOrder",
        {200: Returns("What would become of it.", Preview, examples.previews)},
        description="Takes the body of `POST /orders`, and refuses with the same problems. The asset service is asked"
        " as for an order, and the order's own rules are applied to its answer: what would be held, what a fill would"
        " cost and bring, and every refusal that can be known now. `not_checked` says what can't be: the balance, and"
        " how many orders are open. An order that was submitted before under the same `client_order_id` is answered as"
        " it stands, with `existing_order_id`. Nothing is stored or shown, no money is held, and the order counts"
        " nowhere. It is no promise: the price moves on.",
        scopes=(Scope.WRITE,),
        problems=(*(Code.OTHER_USER, Code.CLIENT_ORDER_ID_REUSED, *BODY_PROBLEMS),),
        body=Body(OrderBody, bodies),
    )
    async def preview(self, request: Request, caller: Caller) -> Response:
        """Say what would become of an order, without making it."""
        body = read_body(await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max))
        return json_response(await self._service.preview(body, caller))
