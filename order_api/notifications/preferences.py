"""What a user sets for each channel, and what the log of notifications shows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, ClassVar, Final, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from contracts.codec import encode
from contracts.decimals import Money
from contracts.vocabulary import NAME_RULE, Instant, UserId
from contracts.webhooks import (
    ADDRESS_LENGTH_MAX,
    DeliveryState,
    EndpointKind,
    EndpointState,
    EventType,
    PushSubscription,
    address_fault,
    url_fault,
)
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule

BROWSERS_MAX: Final = 5
TimeOfDay = Annotated[str, Meta(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
EventTypes = Annotated[list[EventType], Meta(max_length=len(EventType))]
_EVENT_TYPES: Final = "What is told; empty: all."
_QUIET: Final = "When nothing is told; null: never. What waits is told when they end, if it is still true then."
_NOTIONAL: Final = (
    "Orders that are worth less, in their own currency, are not told; null: all are. An order is worth what is filled"
    " at its average price, else its quantity at the price that it names; one that names none is always told."
)


class QuietHours(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hours of each day in which nothing is told. Those that end before they begin are a night's."""

    begin: TimeOfDay
    end: TimeOfDay
    time_zone: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_+/-]+$")]

    MEANINGS: ClassVar = {
        "begin": "Such as 22:00.",
        "end": "Such as 07:00.",
        "time_zone": "The name of a zone in the IANA database, such as Europe/Zurich.",
    }


class EmailBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is told by e-mail."""

    address: Annotated[str, Meta(min_length=3, max_length=ADDRESS_LENGTH_MAX)]
    event_types: EventTypes = []
    quiet_hours: QuietHours | None = None
    notional_min: Money | None = None

    MEANINGS: ClassVar = {
        "address": "Where e-mails go. A new one gets a code first, and nothing else before that was confirmed.",
        "event_types": _EVENT_TYPES,
        "quiet_hours": _QUIET,
        "notional_min": _NOTIONAL,
    }


class PushBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is told to browsers."""

    subscriptions: Annotated[list[PushSubscription], Meta(min_length=1, max_length=BROWSERS_MAX)]
    event_types: EventTypes = []
    quiet_hours: QuietHours | None = None
    notional_min: Money | None = None

    MEANINGS: ClassVar = {
        "subscriptions": f"1 to {BROWSERS_MAX} browsers, each as its `PushSubscription.toJSON()` says.",
        "event_types": _EVENT_TYPES,
        "quiet_hours": _QUIET,
        "notional_min": _NOTIONAL,
    }


class OfWebhooksBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for all webhooks that the user has now; their event types are set at `/webhooks`."""

    quiet_hours: QuietHours | None = None
    notional_min: Money | None = None

    MEANINGS: ClassVar = {"quiet_hours": _QUIET, "notional_min": _NOTIONAL}


class PreferencesBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All preferences of a user. A channel that is left out is switched off; webhooks then have none."""

    email: EmailBody | None = None
    push: PushBody | None = None
    webhook: OfWebhooksBody | None = None
    user_id: UserId | None = None

    MEANINGS: ClassVar = {
        "email": "By e-mail; null: not.",
        "push": "By push messages to browsers; null: not.",
        "webhook": "For the user's webhooks; null: no quiet hours, and all orders.",
        "user_id": "Whose they are; only with the scope `orders:act-for-users` another user's than the token's.",
    }


class NotificationChannel(msgspec.Struct, frozen=True):
    """One address, browser or webhook, and how it does."""

    endpoint_id: UUID
    channel: EndpointKind
    target: str
    confirmed: bool
    event_types: list[EventType]
    quiet_hours: QuietHours | None
    notional_min: Money | None
    state: EndpointState
    disabled_reason: str | None

    MEANINGS: ClassVar = {
        "endpoint_id": "Its id in the log.",
        "channel": "How it is told.",
        "target": "The e-mail address, or the URL of the webhook or of the browser's push service.",
        "confirmed": "Whether it is told of orders: an e-mail address is only once its code has come back.",
        "event_types": _EVENT_TYPES,
        "quiet_hours": _QUIET,
        "notional_min": _NOTIONAL,
        "state": "DISABLED: it is told nothing.",
        "disabled_reason": "Why it is DISABLED; null otherwise.",
    }


class NotificationPreferences(msgspec.Struct, frozen=True):
    """How a user is told."""

    channels: list[NotificationChannel]
    email_available: bool
    push_key: str | None

    MEANINGS: ClassVar = {
        "channels": "In the order in which they were made.",
        "email_available": "Whether e-mails are set up here.",
        "push_key": "The `applicationServerKey` for a browser's subscription; null: push is not set up here.",
    }


class ConfirmBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code out of an e-mail."""

    code: Annotated[str, Meta(min_length=1, max_length=40)]
    user_id: UserId | None = None

    MEANINGS: ClassVar = {
        "code": "The code of the newest e-mail; it counts for a day.",
        "user_id": PreferencesBody.MEANINGS["user_id"],
    }


class NotificationsTested(msgspec.Struct, frozen=True):
    """How many channels get a test."""

    channels: int

    MEANINGS: ClassVar = {"channels": "Those that are on and confirmed; webhooks are tested by their ping."}


class Notification(msgspec.Struct, frozen=True):
    """One event for one channel: what was told, or why it was not."""

    endpoint_id: UUID
    channel: EndpointKind
    event_id: str
    order_id: UUID | None
    version: int | None
    event_type: EventType
    status: DeliveryState
    reason: str | None
    attempts: int
    created_at: Instant
    ended_at: Instant | None

    MEANINGS: ClassVar = {
        "endpoint_id": "The channel's id in the preferences.",
        "channel": "How it is told.",
        "event_id": "The event's id.",
        "order_id": "The order that it is about; null: about none.",
        "version": "The order's version.",
        "event_type": "What happened.",
        "status": "PENDING: it is to be told, in quiet hours when they end. SUPERSEDED: a newer version of the order"
        " was there before this one was told. SKIPPED: the order is worth too little. FAILED: given up.",
        "reason": "Why it was not told, or not yet.",
        "attempts": "How often it was tried.",
        "created_at": "When it was to be told first.",
        "ended_at": "When it was no longer PENDING.",
    }


class NotificationLog(msgspec.Struct, frozen=True):
    """A page of the log, newest first."""

    notifications: list[Notification]
    next_cursor: str | None

    MEANINGS: ClassVar = {"notifications": "Newest first."}


class Wanted(NamedTuple):
    """A channel as it is stored; quiet hours as their three columns."""

    kind: EndpointKind
    target: str
    event_types: list[str]
    quiet: QuietHours | None
    notional_min: Decimal | None


_USER: Final = {"user_id": NAME_RULE}
_RULES: Final = {
    "email": "an object with `address`, and maybe `event_types`, `quiet_hours` (`begin` and `end` such as 22:00,"
    " `time_zone`) and `notional_min`, or null",
    "push": f"an object with 1 to {BROWSERS_MAX} `subscriptions` (`endpoint` and `keys`), and maybe `event_types`,"
    " `quiet_hours` and `notional_min`, or null",
    "webhook": "an object with `quiet_hours` and `notional_min`, or null",
    **_USER,
}
read_preferences: Final = BodyReader(PreferencesBody, _RULES, "preferences").read
read_confirmation: Final = BodyReader(ConfirmBody, {"code": "the code of an e-mail", **_USER}, "a confirmation").read


def wanted(body: PreferencesBody) -> list[Wanted]:
    """List the channels of people that are to be there, each once."""
    return list({(one.kind, one.target): one for one in _wanted(body)}.values())


def _wanted(body: PreferencesBody) -> Iterator[Wanted]:
    if (mail := body.email) is not None:
        types = list(map(str, mail.event_types))
        yield Wanted(EndpointKind.EMAIL, mail.address, types, mail.quiet_hours, mail.notional_min)
    if (push := body.push) is not None:
        types = list(map(str, push.event_types))
        for one in push.subscriptions:
            yield Wanted(EndpointKind.PUSH, encode(one).decode(), types, push.quiet_hours, push.notional_min)


def faults(body: PreferencesBody, *, anywhere: bool) -> list[BrokenRule]:
    """Say what no schema says: of the address, of the browsers' URLs, and of hours that begin when they end."""
    broken = []
    if body.email is not None and (fault := address_fault(body.email.address)) is not None:
        broken.append(BrokenRule("email", f"its address {fault}", body.email.address))
    broken += [
        BrokenRule("push", f"its endpoint {fault}", one.endpoint)
        for one in (body.push.subscriptions if body.push is not None else ())
        if (fault := url_fault(one.endpoint, anywhere=anywhere)) is not None
    ]
    for name in ("email", "push", "webhook"):
        hours = getattr(getattr(body, name), "quiet_hours", None)
        if hours is not None and hours.begin == hours.end:
            broken.append(BrokenRule(name, "its quiet hours must not end when they begin", hours.begin))
    return broken


def zones(body: PreferencesBody) -> dict[str, str]:
    """Return the time zones that a body names, by channel."""
    channels = {"email": body.email, "push": body.push, "webhook": body.webhook}
    return {
        name: one.quiet_hours.time_zone
        for name, one in channels.items()
        if one is not None and one.quiet_hours is not None
    }
