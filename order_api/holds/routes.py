"""The routes of `/holds`, from HTTP to the service of holds and back, each with what the document says of it."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from contracts.codec import encode
from contracts.examples import HOLD_ID as EXAMPLE_ID
from order_api.holds import examples
from order_api.holds.holds import CaptureBody, HoldBody, ServiceHold, address, is_captured_so, read_capture, read_hold
from order_api.holds.service import HoldService
from order_api.holds.store import Origin
from order_api.http.bodies import BODY_PROBLEMS, json_answer, read_json_body
from order_api.http.limits import InFlight
from order_api.http.paths import id_in_path
from order_api.http.problems import Code
from order_api.http.request_headers import KEY_RULE, read_key
from order_api.http.tokens import Caller, Scope
from order_api.openapi.declarations import Body, Parameter, Returns, idempotency_key, operation
from order_api.openapi.schemas import ORDER_ID as ID_SCHEMA
from order_api.settings import KEY_KEPT_DAYS

TAG: Final = "holds"
HOLD_ID: Final = Parameter("hold_id", "path", "The hold's id, in its canonical text.", ID_SCHEMA, EXAMPLE_ID)
KEY: Final = idempotency_key(
    f"{KEY_RULE}, another for each hold. Kept for at least {KEY_KEPT_DAYS} days,"
    " unless whoever runs the service has set another time.",
    examples.KEY,
)
_LINKS: Final = dict.fromkeys(("readHold", "captureHold", "releaseHold"), "hold_id")


class HoldRoutes:
    """The endpoints of `/holds`, for services that are known."""

    def __init__(self, service: HoldService, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._service = service
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "POST",
        "/holds",
        "placeHold",
        {
            202: Returns(
                "Accepted. From now on `Location` finds it.",
                ServiceHold,
                examples.accepted,
                ("Location", "Idempotency-Replayed"),
                links=_LINKS,
            )
        },
        description="The money of a user is held for a service, such as for a withdrawal or a fee, beside all orders."
        " Give an `Idempotency-Key`, and repeat the request as often as you like: the same hold is answered, with"
        " `Idempotency-Replayed: true`. Then read the hold until it is `HELD` or `REFUSED`; its events are on"
        " `holds.events`, too.",
        parameters=(KEY,),
        scopes=(Scope.WRITE_HOLDS,),
        problems=(*BODY_PROBLEMS, Code.HOLD_KEY_REUSED),
        body=Body(HoldBody, examples.bodies),
        tag=TAG,
    )
    async def place(self, request: Request, caller: Caller) -> Response:
        """Hold money of a user."""
        key = read_key(request.headers)
        body = read_hold(await self._read(request))
        hold, replayed = await self._service.place(body, key, caller, _origin(request, caller))
        headers = {"location": hold.address} | ({"idempotency-replayed": "true"} if replayed else {})
        return _json(hold, 202, headers)

    @operation(
        "GET",
        "/holds/{hold_id}",
        "readHold",
        {200: Returns("The hold.", ServiceHold, examples.every_hold)},
        description="A service sees the holds that it has asked for here. `status` follows the events, so it may be a"
        " moment behind the ledger.",
        parameters=(HOLD_ID,),
        scopes=(Scope.READ_HOLDS, Scope.WRITE_HOLDS),
        problems=(Code.HOLD_NOT_FOUND,),
        tag=TAG,
    )
    async def read(self, request: Request, caller: Caller) -> Response:
        """Read a hold."""
        return _json(await self._service.hold(_hold_id(request), caller))

    @operation(
        "PUT",
        "/holds/{hold_id}/capture",
        "captureHold",
        {
            202: Returns("The capture is accepted; the ledger decides it.", ServiceHold, examples.capture_requested),
            200: Returns("It was captured just so before.", ServiceHold, examples.capture_done),
        },
        description="A hold is captured once, by at most what is held; what is left returns to the user in the same"
        " transaction. Asking for the same again is safe. A hold that has expired pays nothing.",
        parameters=(HOLD_ID,),
        scopes=(Scope.WRITE_HOLDS,),
        problems=(*BODY_PROBLEMS, Code.HOLD_NOT_FOUND, Code.HOLD_NOT_HELD, Code.HOLD_CAPTURE_DIFFERS),
        body=Body(CaptureBody, examples.captures),
        tag=TAG,
    )
    async def capture(self, request: Request, caller: Caller) -> Response:
        """Capture a hold."""
        hold_id = _hold_id(request)
        body = read_capture(await self._read(request))
        hold = await self._service.capture(hold_id, body, caller, _origin(request, caller))
        # By its state: that it was refused may be known by now, and is no reason to say that it is done.
        return _json(hold, 200 if is_captured_so(hold, body) else 202)

    @operation(
        "PUT",
        "/holds/{hold_id}/release",
        "releaseHold",
        {
            202: Returns("The release is accepted; the ledger decides it.", ServiceHold, examples.release_requested),
            200: Returns("Nothing is held any more.", ServiceHold, examples.release_done),
        },
        description="The whole hold returns to the user. Asking again is safe.",
        parameters=(HOLD_ID,),
        scopes=(Scope.WRITE_HOLDS,),
        problems=(Code.HOLD_NOT_FOUND, Code.HOLD_NOT_HELD),
        tag=TAG,
    )
    async def release(self, request: Request, caller: Caller) -> Response:
        """Release a hold."""
        hold = await self._service.release(_hold_id(request), caller, _origin(request, caller))
        return _json(hold, 202 if hold.holds else 200)

    async def _read(self, request: Request) -> bytes:
        return await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)


def _origin(request: Request, caller: Caller) -> Origin:
    return Origin(caller.token_id, request.scope["state"].get("traceparent"))


def _hold_id(request: Request) -> UUID:
    """Read the id in the path, and note what the request is about: a failure from here on names its address."""
    hold_id = id_in_path(request, "hold_id", "a hold id", Code.HOLD_NOT_FOUND)
    request.state.instance = address(hold_id)
    return hold_id


def _json(hold: ServiceHold, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_answer(encode(hold), status, headers)
