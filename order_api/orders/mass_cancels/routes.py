"""The routes of mass cancels and of cancel timers, each declared with what the document says of it."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import Code
from order_api.http.request_headers import read_key
from order_api.http.tokens import Caller, Scope
from order_api.openapi.declarations import Body, Parameter, Returns, operation
from order_api.orders.description import mass_cancel_examples as examples
from order_api.orders.description.parts import CANCELLERS, KEY, READERS, USER_ID
from order_api.orders.mass_cancels.bodies import (
    TIMEOUT_MAX_S,
    CancelAllAnswer,
    CancelAllBody,
    CancelTimer,
    CancelTimerBody,
    answer_of,
    filter_of,
    read_cancel_all,
    read_cancel_timer,
    timer_of,
)
from order_api.orders.mass_cancels.service import MassCancels
from order_api.orders.requests import json_response, origin_of, user_of

_BODY_PROBLEMS: Final = (Code.OTHER_USER, *BODY_PROBLEMS)
_TIMER: Final = {200: Returns("The timer.", CancelTimer, examples.timers)}
_KEY: Final = Parameter(
    KEY.name,
    KEY.place,
    "Makes repeating the request safe: the same cancel of all is answered, as far as it is by then. The key may be one"
    " that an order has, or that another requester has used: these keys are apart.",
    KEY.schema,
    KEY.example,
)


class MassCancelRoutes:
    """The endpoints below `/orders` that are about all of a user's open orders. They stand before those of one."""

    def __init__(self, service: MassCancels, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._service = service
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "POST",
        "/orders/cancel-all",
        "cancelAllOrders",
        {202: Returns("The cancels are accepted; the saga decides each.", CancelAllAnswer, examples.cancels)},
        description="Every order that was accepted before this call, has not been filled, and fits the filters, is"
        " cancelled as by a call of its own. An order that is submitted at the same moment may be among them or not;"
        " one that is submitted after the answer is not. `orders` counts the cancels: an order whose cancel was asked"
        " for before has none again. While `completed_at` is null there are more to come, by themselves; the same"
        " request with the same `Idempotency-Key` tells how far it is.",
        parameters=(_KEY,),
        scopes=CANCELLERS,
        problems=(*_BODY_PROBLEMS, Code.CANCEL_ALL_KEY_REUSED),
        body=Body(CancelAllBody, examples.cancel_all_bodies),
    )
    async def cancel_all(self, request: Request, caller: Caller) -> Response:
        """Cancel all of a user's open orders, or those that fit a filter."""
        key = read_key(request.headers)
        body = read_cancel_all(await self._read(request))
        user_id = body.user_id or caller.user_id
        origin = origin_of(request, caller)
        made, replayed = await self._service.cancel_all(user_id, filter_of(body), key, caller, origin)
        return json_response(answer_of(made), 202, {"idempotency-replayed": "true"} if replayed else None)

    @operation(
        "PUT",
        "/orders/cancel-all-after",
        "setCancelTimer",
        _TIMER,
        description="A dead man's switch. Without another call within `timeout_s`, at most"
        f" {TIMEOUT_MAX_S}, all of the user's open orders are cancelled, and the timer is off: `fired_at` says so. A"
        " user has one timer; each call replaces it, and 0 switches it off. The database's clock decides, and the"
        " timer stands in the database: it fires, once, within about a second when any API process runs, else when the"
        " next one does. A call that comes after `fires_at` is too late: the timer fires first. Call at a third of"
        " `timeout_s`, so that a lost call does no harm.",
        scopes=(Scope.WRITE,),
        problems=_BODY_PROBLEMS,
        body=Body(CancelTimerBody, examples.timer_bodies),
    )
    async def set_timer(self, request: Request, caller: Caller) -> Response:
        """Have all open orders cancelled unless this call is repeated in time."""
        body = read_cancel_timer(await self._read(request))
        user_id = body.user_id or caller.user_id
        timer = await self._service.set_timer(user_id, body.timeout_s, caller, origin_of(request, caller))
        return json_response(timer_of(user_id, timer))

    @operation(
        "GET",
        "/orders/cancel-all-after",
        "readCancelTimer",
        _TIMER,
        description="`orders` counts the cancels of its last firing, all of them when `completed_at` is set.",
        parameters=(USER_ID,),
        scopes=READERS,
        problems=(Code.OTHER_USER, Code.INVALID_REQUEST),
    )
    async def timer(self, request: Request, caller: Caller) -> Response:
        """Read the timer that cancels all open orders."""
        user_id = user_of(request, caller)
        return json_response(timer_of(user_id, await self._service.timer(user_id, caller)))

    async def _read(self, request: Request) -> bytes:
        return await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)
