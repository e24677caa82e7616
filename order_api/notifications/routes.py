"""The routes of `/notifications`, from HTTP to the service and back, each with what the document says of it."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import Code
from order_api.http.tokens import Caller, Scope
from order_api.notifications import examples
from order_api.notifications.preferences import (
    ConfirmBody,
    NotificationLog,
    NotificationPreferences,
    NotificationsTested,
    PreferencesBody,
    read_confirmation,
    read_preferences,
)
from order_api.notifications.service import NotificationService, Place
from order_api.openapi.declarations import Body, Returns, operation
from order_api.orders.description.parts import USER_ID
from order_api.orders.pages import page_parameters, read_page, write_cursor
from order_api.orders.requests import json_response, origin_of, user_of

TAG: Final = "notifications"
SCOPES: Final = (Scope.MANAGE_WEBHOOKS,)
LIMIT, CURSOR = page_parameters("Notifications", examples.cursor)


class NotificationRoutes:
    """The endpoints of `/notifications`, for callers that are known."""

    def __init__(self, service: NotificationService, in_flight: InFlight, *, body_bytes_max: int) -> None:
        self._service = service
        self._in_flight = in_flight
        self._body_bytes_max = body_bytes_max

    @operation(
        "GET",
        "/notifications/preferences",
        "readNotificationPreferences",
        {200: Returns("All channels, and what is set up here.", NotificationPreferences, examples.preferences)},
        parameters=(USER_ID,),
        scopes=SCOPES,
        problems=(Code.INVALID_REQUEST, Code.OTHER_USER),
        tag=TAG,
    )
    async def preferences(self, request: Request, caller: Caller) -> Response:
        """Read how a user is told."""
        return json_response(await self._service.preferences(user_of(request, caller), caller))

    @operation(
        "PUT",
        "/notifications/preferences",
        "setNotificationPreferences",
        {200: Returns("The preferences as they are now.", NotificationPreferences, examples.preferences)},
        description="The whole of them: a channel that is left out is switched off. A new e-mail address gets a code,"
        " and nothing else until `POST /notifications/confirm` brings it. A mailbox gets three codes a day at most, and"
        " a user asks for ten. In quiet hours nothing is told; when they end, what is still true is. Setting a channel"
        " that was given up enables it again.",
        scopes=SCOPES,
        problems=(
            *(*BODY_PROBLEMS, Code.OTHER_USER, Code.TOO_MANY_WEBHOOKS, Code.WEBHOOKS_OFF),
        ),
        body=Body(PreferencesBody, examples.bodies),
        tag=TAG,
    )  # fmt: skip
    async def change(self, request: Request, caller: Caller) -> Response:
        """Set how a user is told."""
        body = read_preferences(await self._read(request))
        return json_response(await self._service.change(body, caller, origin_of(request, caller)))

    @operation(
        "POST",
        "/notifications/confirm",
        "confirmNotificationAddress",
        {200: Returns("The address is confirmed.", NotificationPreferences, examples.preferences)},
        scopes=SCOPES,
        problems=(*BODY_PROBLEMS, Code.OTHER_USER, Code.WEBHOOKS_OFF),
        body=Body(ConfirmBody, examples.confirmations),
        tag=TAG,
    )
    async def confirm(self, request: Request, caller: Caller) -> Response:
        """Confirm an e-mail address by its code."""
        body = read_confirmation(await self._read(request))
        return json_response(await self._service.confirm(body, caller, origin_of(request, caller)))

    @operation(
        "POST",
        "/notifications/test",
        "testNotifications",
        {202: Returns("They are to be sent.", NotificationsTested, examples.tested)},
        description="To each channel of a person that is on and confirmed. While a test waits, there is no other one.",
        parameters=(USER_ID,),
        scopes=SCOPES,
        problems=(Code.INVALID_REQUEST, Code.OTHER_USER),
        tag=TAG,
    )
    async def test(self, request: Request, caller: Caller) -> Response:
        """Have a test sent."""
        return json_response(
            await self._service.test(user_of(request, caller), caller, origin_of(request, caller)), 202
        )

    @operation(
        "GET",
        "/notifications",
        "listNotifications",
        {200: Returns("A page of the log, newest first.", NotificationLog, examples.log)},
        description="What was told by every channel of the user, and what was not, with the reason.",
        parameters=(USER_ID, LIMIT, CURSOR),
        scopes=SCOPES,
        problems=(Code.INVALID_REQUEST, Code.OTHER_USER),
        tag=TAG,
    )
    async def log(self, request: Request, caller: Caller) -> Response:
        """List what was told, and why not."""
        user_id = user_of(request, caller)
        after, limit = read_page(request, Place, ("user_id", "limit", "cursor"))
        found = await self._service.log(user_id, caller, after, limit + 1)
        page, last = found[:limit], found[limit - 1] if len(found) > limit else None
        more = None if last is None else write_cursor(last.created_at, last.endpoint_id, last.event_id)
        return json_response(NotificationLog(page, more))

    async def _read(self, request: Request) -> bytes:
        return await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)
