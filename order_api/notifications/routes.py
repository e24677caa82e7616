"""The routes of `/notifications`, from HTTP to the service and back, each with what the document says of it."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts.vocabulary import check_instant
from order_api.http.bodies import BODY_PROBLEMS, read_json_body
from order_api.http.limits import InFlight
from order_api.http.problems import BrokenRule, Code, invalid
from order_api.http.tokens import Caller, Scope
from order_api.notifications import examples
from order_api.notifications.preferences import (
    ConfirmBody,
    Notification,
    NotificationLog,
    NotificationPreferences,
    NotificationsTested,
    PreferencesBody,
    read_confirmation,
    read_preferences,
)
from order_api.notifications.service import NotificationService, Place
from order_api.openapi.declarations import Body, Parameter, Returns, operation
from order_api.orders.description.parts import USER_ID
from order_api.orders.requests import json_response, once, origin_of, user_of

TAG: Final = "notifications"
SCOPES: Final = (Scope.MANAGE_WEBHOOKS,)
LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 100
_CURSOR_LENGTH_MAX: Final = 400
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}")
LIMIT: Final = Parameter(
    "limit",
    "query",
    "Notifications on a page.",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    LIMIT_DEFAULT,
)
CURSOR: Final = Parameter(
    "cursor", "query", "The `next_cursor` of the page before, as it came.", {"type": "string"}, examples.cursor
)


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
        " and nothing else until `POST /notifications/confirm` brings it. A mailbox gets three codes a day at most, and a"
        " user asks for ten. In quiet hours nothing is told; when they end, what is still true is. Setting a channel that was given up enables it again.",
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
        after, limit = _read_page(request)
        found = await self._service.log(user_id, caller, after, limit + 1)
        more = write_cursor(found[limit - 1]) if len(found) > limit else None
        return json_response(NotificationLog(found[:limit], more))

    async def _read(self, request: Request) -> bytes:
        return await read_json_body(request, self._in_flight, bytes_max=self._body_bytes_max)


def write_cursor(last: Notification) -> str:
    """Name the place of a notification, for the page behind it."""
    place = msgspec.json.encode((last.created_at, last.endpoint_id, last.event_id))
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def _read_page(request: Request) -> tuple[Place | None, int]:
    allowed = ("user_id", "limit", "cursor")
    broken = [
        BrokenRule(name, f"is not a parameter of this list; these are: {', '.join(allowed)}")
        for name in request.query_params
        if name not in allowed
    ]
    limit, cursor = once(request, "limit", str(LIMIT_DEFAULT)), once(request, "cursor", "")
    if _LIMIT.fullmatch(limit) is None or int(limit) > LIMIT_MAX:
        broken.append(BrokenRule("limit", f"must be a whole number from 1 to {LIMIT_MAX}", limit))
    after = _read_cursor(cursor)
    if cursor and after is None:
        broken.append(BrokenRule("cursor", "must be the `next_cursor` of the page before", cursor))
    if broken:
        raise invalid(*broken)
    return after, int(limit)


def _read_cursor(text: str) -> Place | None:
    """Read a cursor; None for what is none."""
    if not text or len(text) > _CURSOR_LENGTH_MAX:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        at, endpoint_id, event_id = msgspec.json.decode(raw, type=tuple[datetime, UUID, str])
        if at.tzinfo is None or "\0" in event_id:
            return None
        check_instant(at)
    except (binascii.Error, UnicodeError, ValueError, msgspec.MsgspecError):
        return None
    return at, endpoint_id, event_id
