"""The routes of `/webhooks`, from HTTP to the service and back, each with what the document says of it."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from contracts.examples import ENDPOINT_ID as EXAMPLE_ID
from contracts.webhooks import DeliveryState
from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.paths import id_in_path
from order_api.http.problems import BrokenRule, Code, Problem
from order_api.http.request_headers import KEY_RULE, read_key
from order_api.http.tokens import Caller, Scope
from order_api.openapi.declarations import Body, Parameter, Returns, idempotency_key, operation
from order_api.openapi.schemas import ORDER_ID as ID_SCHEMA
from order_api.openapi.schemas import reference
from order_api.orders.description.parts import USER_ID
from order_api.orders.pages import page_parameters, read_page, write_cursor
from order_api.orders.requests import json_response, once, origin_of, user_of
from order_api.settings import KEY_KEPT_DAYS
from order_api.webhooks import examples
from order_api.webhooks.endpoints import (
    RecoverBody,
    WebhookBody,
    WebhookChangeBody,
    WebhookDeliveries,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookList,
    WebhookRecovery,
    WebhookSecret,
    address,
    read_change,
    read_recover,
    read_webhook,
)
from order_api.webhooks.service import Place, WebhookService

TAG: Final = "webhooks"
SCOPES: Final = (Scope.MANAGE_WEBHOOKS,)
_EVENT_ID: Final = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,200}")

ENDPOINT_ID: Final = Parameter(
    "endpoint_id", "path", "The endpoint's id, in its canonical text.", ID_SCHEMA, EXAMPLE_ID
)
EVENT_ID: Final = Parameter("event_id", "path", "The `webhook-id`.", {"type": "string"}, examples.EVENT_ID)
KEY: Final = idempotency_key(
    f"{KEY_RULE}, another for each endpoint. Kept for at least {KEY_KEPT_DAYS} days, unless whoever runs the service"
    " has set another time.",
    examples.KEY,
)
STATUS: Final = Parameter(
    "status", "query", "Only deliveries with this status.", reference(DeliveryState.__name__), "FAILED"
)
LIMIT, CURSOR = page_parameters("Deliveries", examples.cursor)


class WebhookRoutes:
    """The endpoints of `/webhooks`, for callers that are known."""

    def __init__(self, service: WebhookService, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._service = service
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "POST",
        "/webhooks",
        "createWebhook",
        {
            201: Returns(
                "It is made. Keep the secret: it is not shown again.",
                WebhookSecret,
                examples.created,
                ("Location", "Idempotency-Replayed"),
            )
        },
        description="From now on the URL gets a POST for each change of the user's orders, signed as Standard Webhooks"
        " 1.0.0 has it. It may come more than once, so note `webhook-id`. A URL that leads to a private address is"
        " refused, here and again at each attempt.",
        parameters=(KEY,),
        scopes=SCOPES,
        problems=(
            *(*BODY_PROBLEMS, Code.OTHER_USER, Code.TOO_MANY_WEBHOOKS, Code.WEBHOOK_KEY_REUSED, Code.WEBHOOKS_OFF),
        ),
        body=Body(WebhookBody, examples.bodies),
        tag=TAG,
    )
    async def create(self, request: Request, caller: Caller) -> Response:
        """Have a URL told of orders."""
        key = read_key(request.headers)
        body = read_webhook(await self._read(request))
        made, replayed = await self._service.create(body, key, caller, origin_of(request, caller))
        headers = {"location": made.webhook.address} | ({"idempotency-replayed": "true"} if replayed else {})
        return _secret(made, 201, headers)

    @operation(
        "GET",
        "/webhooks",
        "listWebhooks",
        {200: Returns("All of them, oldest first.", WebhookList, examples.several)},
        parameters=(USER_ID,),
        scopes=SCOPES,
        problems=(Code.INVALID_REQUEST, Code.OTHER_USER),
        tag=TAG,
    )
    async def several(self, request: Request, caller: Caller) -> Response:
        """List a user's webhooks."""
        return json_response(WebhookList(await self._service.of_user(user_of(request, caller), caller)))

    @operation(
        "GET",
        "/webhooks/{endpoint_id}",
        "readWebhook",
        {200: Returns("The endpoint.", WebhookEndpoint, examples.every_webhook)},
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(Code.WEBHOOK_NOT_FOUND,),
        tag=TAG,
    )
    async def read(self, request: Request, caller: Caller) -> Response:
        """Read a webhook, and how it does."""
        return json_response(await self._service.webhook(_endpoint_id(request), caller))

    @operation(
        "PATCH",
        "/webhooks/{endpoint_id}",
        "changeWebhook",
        {200: Returns("The endpoint as it is now.", WebhookEndpoint, examples.every_webhook)},
        description="What is left out stays. `state: ACTIVE` enables an endpoint again.",
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(*BODY_PROBLEMS, Code.WEBHOOK_NOT_FOUND),
        body=Body(WebhookChangeBody, examples.changes),
        tag=TAG,
    )
    async def change(self, request: Request, caller: Caller) -> Response:
        """Change a webhook, or enable it again."""
        endpoint_id = _endpoint_id(request)
        body = read_change(await self._read(request))
        return json_response(await self._service.change(endpoint_id, body, caller, origin_of(request, caller)))

    @operation(
        "DELETE",
        "/webhooks/{endpoint_id}",
        "deleteWebhook",
        {204: Returns("It is deleted.")},
        description="All that is known of what was sent there goes with it. What is on its way may still arrive.",
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(Code.WEBHOOK_NOT_FOUND,),
        tag=TAG,
    )
    async def delete(self, request: Request, caller: Caller) -> Response:
        """Delete a webhook."""
        await self._service.delete(_endpoint_id(request), caller, origin_of(request, caller))
        return Response(status_code=204)

    @operation(
        "POST",
        "/webhooks/{endpoint_id}/secret",
        "rotateWebhookSecret",
        {200: Returns("The new secret. Keep it: it is not shown again.", WebhookSecret, examples.rotated)},
        description="For 24 hours each webhook is signed with both, the new one first: change the receiver meanwhile.",
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(Code.WEBHOOK_NOT_FOUND, Code.WEBHOOKS_OFF),
        tag=TAG,
    )
    async def rotate(self, request: Request, caller: Caller) -> Response:
        """Replace the secret of a webhook."""
        return _secret(await self._service.rotate(_endpoint_id(request), caller, origin_of(request, caller)))

    @operation(
        "POST",
        "/webhooks/{endpoint_id}/ping",
        "pingWebhook",
        {202: Returns("It is to be sent.", WebhookDelivery, examples.pinged)},
        description="While a ping is to be sent, there is no other one.",
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(Code.WEBHOOK_NOT_FOUND, Code.DELIVERY_NOT_FOUND, Code.WEBHOOK_DISABLED),
        tag=TAG,
    )
    async def ping(self, request: Request, caller: Caller) -> Response:
        """Have a ping sent to a webhook."""
        return json_response(await self._service.ping(_endpoint_id(request), caller, origin_of(request, caller)), 202)

    @operation(
        "GET",
        "/webhooks/{endpoint_id}/deliveries",
        "listWebhookDeliveries",
        {200: Returns("A page of them, newest first.", WebhookDeliveries, examples.deliveries)},
        description="Each with its last attempts: when, how long, what came back, and why it failed.",
        parameters=(ENDPOINT_ID, STATUS, LIMIT, CURSOR),
        scopes=SCOPES,
        problems=(Code.INVALID_REQUEST, Code.WEBHOOK_NOT_FOUND),
        tag=TAG,
    )
    async def deliveries(self, request: Request, caller: Caller) -> Response:
        """List what was sent to a webhook."""
        endpoint_id = _endpoint_id(request)
        status, after, limit = _read_page(request)
        found = await self._service.deliveries(endpoint_id, caller, status, after, limit + 1)
        page, last = found[:limit], found[limit - 1] if len(found) > limit else None
        more = None if last is None else write_cursor(last.created_at, last.event_id)
        return json_response(WebhookDeliveries(page, more))

    @operation(
        "POST",
        "/webhooks/{endpoint_id}/deliveries/{event_id}/redeliver",
        "redeliverWebhook",
        {202: Returns("It is to be sent.", WebhookDelivery, examples.redelivered)},
        description="The same bytes with the same `webhook-id`, whatever became of it before. One that had all its"
        " attempts gets one more.",
        parameters=(ENDPOINT_ID, EVENT_ID),
        scopes=SCOPES,
        problems=(Code.WEBHOOK_NOT_FOUND, Code.DELIVERY_NOT_FOUND, Code.WEBHOOK_DISABLED),
        tag=TAG,
    )
    async def redeliver(self, request: Request, caller: Caller) -> Response:
        """Have a delivery sent again."""
        endpoint_id = _endpoint_id(request)
        event_id = request.path_params["event_id"]
        if _EVENT_ID.fullmatch(event_id) is None:
            raise Problem(Code.DELIVERY_NOT_FOUND)
        origin = origin_of(request, caller)
        return json_response(await self._service.redeliver(endpoint_id, event_id, caller, origin), 202)

    @operation(
        "POST",
        "/webhooks/{endpoint_id}/recover",
        "recoverWebhook",
        {202: Returns("They are to be sent.", WebhookRecovery, examples.recoveries)},
        description="Each order of the user that has changed since then is told as it is now, unless that was delivered"
        " or is to be sent. An endpoint with `every_version` gets, too, the older versions that were given up or left"
        " out. Looked for are 1,000 orders, among the newest 10,000 of the user: repeat it with `next_since` while"
        " there are more.",
        parameters=(ENDPOINT_ID,),
        scopes=SCOPES,
        problems=(*BODY_PROBLEMS, Code.WEBHOOK_NOT_FOUND, Code.WEBHOOK_DISABLED),
        body=Body(RecoverBody, examples.recovers),
        tag=TAG,
    )
    async def recover(self, request: Request, caller: Caller) -> Response:
        """Have a webhook told what it has missed."""
        endpoint_id = _endpoint_id(request)
        body = read_recover(await self._read(request))
        return json_response(await self._service.recover(endpoint_id, body, caller, origin_of(request, caller)), 202)

    async def _read(self, request: Request) -> bytes:
        return await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)


def _secret(shown: WebhookSecret, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_response(shown, status, {"cache-control": "no-store", **(headers or {})})


def _endpoint_id(request: Request) -> UUID:
    """Read the id in the path, and note what the request is about: a failure from here on names its address."""
    endpoint_id = id_in_path(request, "endpoint_id", "a webhook's id", Code.WEBHOOK_NOT_FOUND)
    request.state.instance = address(endpoint_id)
    return endpoint_id


def _read_page(request: Request) -> tuple[DeliveryState | None, Place | None, int]:
    status, broken = once(request, "status", ""), list[BrokenRule]()
    if status and status not in set(DeliveryState):
        broken.append(BrokenRule("status", f"must be one of {', '.join(DeliveryState)}", status))
    after, limit = read_page(request, Place, ("status", "limit", "cursor"), *broken)
    return (DeliveryState(status) if status else None), after, limit
