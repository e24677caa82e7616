"""An endpoint as its user sees it, what may be asked for, and the secrets of one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from contracts.vocabulary import NAME_RULE, Instant, UserId
from contracts.webhooks import (
    URL_LENGTH_MAX,
    DeliveryState,
    Description,
    EndpointState,
    EndpointUrl,
    EventType,
    StoredSecret,
    url_fault,
)
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule, invalid

ROTATED_FOR: Final = timedelta(hours=24)
"""A secret that is replaced signs for so long, beside the new one."""
SECRETS_MAX: Final = 4
"""Secrets of an endpoint that sign. One that is replaced too often loses the oldest before its time."""
RECOVERED_WITHIN: Final = timedelta(days=7)
EventTypes = Annotated[list[EventType], Meta(max_length=len(EventType))]


class WebhookBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user sends to have an endpoint told."""

    url: EndpointUrl
    description: Description = ""
    event_types: EventTypes = []
    every_version: bool = False
    user_id: UserId | None = None

    MEANINGS: ClassVar = {
        "url": "Where webhooks go: `https`, on port 443 or 8443, to an address of the internet.",
        "description": "Your own words.",
        "event_types": "What it is told; empty: all.",
        "every_version": "Whether it gets each version of an order. Else one that was not sent yet is left out when a"
        " newer one is there, but for the last of an order.",
        "user_id": "Whose orders it is about; only with the scope `orders:act-for-users` another user's than the"
        " token's.",
    }


class WebhookChangeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user changes of an endpoint; what is left out stays."""

    url: EndpointUrl | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    event_types: EventTypes | UnsetType = UNSET
    every_version: bool | UnsetType = UNSET
    state: EndpointState | UnsetType = UNSET

    MEANINGS: ClassVar = {
        **{name: WebhookBody.MEANINGS[name] for name in ("url", "description", "event_types", "every_version")},
        "state": "ACTIVE has it told again, and forgets its failures: what waits and is younger than 7 days is sent."
        " DISABLED has it told nothing.",
    }


class RecoverBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From when on a user has missed webhooks."""

    since: Instant

    MEANINGS: ClassVar = {"since": f"When it began: at most {RECOVERED_WITHIN.days} days ago."}


class WebhookEndpoint(msgspec.Struct, frozen=True):
    """An endpoint as its user sees it."""

    endpoint_id: UUID
    user_id: str
    url: str
    description: str
    event_types: list[EventType]
    every_version: bool
    state: EndpointState
    disabled_reason: str | None
    failing_since: Instant | None
    failures_in_row: int
    waiting: int
    created_at: Instant
    updated_at: Instant
    revision: int

    MEANINGS: ClassVar = {
        "endpoint_id": "The endpoint's id.",
        "user_id": "Whose orders it is about.",
        **{name: WebhookBody.MEANINGS[name] for name in ("url", "description", "event_types", "every_version")},
        "state": "DISABLED: it is told nothing.",
        "disabled_reason": "Why it is DISABLED; null otherwise.",
        "failing_since": "When its first failure since the last success was, once there were several; null otherwise.",
        "failures_in_row": "Attempts that have failed since the last success.",
        "waiting": "Deliveries that are to be sent; counted up to 1000.",
        "created_at": "When it was made.",
        "updated_at": "When its user last changed it.",
        "revision": "Rises by one with each change by its user.",
    }

    @property
    def address(self) -> str:
        """Where it is found."""
        return address(self.endpoint_id)


class WebhookSecret(msgspec.Struct, frozen=True):
    """The secret of an endpoint. This is the only answer that shows it."""

    webhook: WebhookEndpoint
    secret: str | None
    previous_valid_until: Instant | None

    MEANINGS: ClassVar = {
        "webhook": "The endpoint.",
        "secret": "What its webhooks are signed with: `whsec_` and base64. Keep it: it is not shown again. Null when a"
        f" request is repeated more than {ROTATED_FOR.total_seconds() / 3600:.0f} hours after the first, or the secret"
        " was replaced since.",
        "previous_valid_until": "Until when webhooks are signed with the secret before, too; null: there is none.",
    }


class WebhookList(msgspec.Struct, frozen=True):
    """All endpoints of a user, oldest first."""

    webhooks: list[WebhookEndpoint]

    MEANINGS: ClassVar = {"webhooks": "Oldest first."}


class WebhookAttempt(msgspec.Struct, frozen=True):
    """One attempt to send."""

    number: int
    at: Instant
    duration_ms: int
    status: int | None
    error: str | None
    answer: str | None


class WebhookDelivery(msgspec.Struct, frozen=True):
    """One event for one endpoint, and its last attempts."""

    event_id: str
    order_id: UUID | None
    version: int | None
    event_type: EventType
    status: DeliveryState
    reason: str | None
    created_at: Instant
    next_attempt_at: Instant | None
    ended_at: Instant | None
    attempts: int
    last_attempts: list[WebhookAttempt]

    MEANINGS: ClassVar = {
        "event_id": "The `webhook-id` of every attempt.",
        "order_id": "The order that it is about; null: about none.",
        "version": "The order's version.",
        "event_type": "What happened.",
        "status": "PENDING: it is to be sent. SUPERSEDED: a newer version of the order was to be sent before this one"
        " was. FAILED: given up. SKIPPED: held back by its user's preferences.",
        "reason": "Why it was not delivered, or not yet.",
        "created_at": "When it was to be sent first.",
        "next_attempt_at": "When it is tried next, if nothing else keeps its endpoint; null unless PENDING.",
        "ended_at": "When it was no longer PENDING.",
        "attempts": "How often it was tried.",
        "last_attempts": "The newest 20 of them, newest first.",
    }


class WebhookDeliveries(msgspec.Struct, frozen=True):
    """A page of what was sent to an endpoint, newest first."""

    deliveries: list[WebhookDelivery]
    next_cursor: str | None

    MEANINGS: ClassVar = {"deliveries": "Newest first."}


class WebhookRecovery(msgspec.Struct, frozen=True):
    """What a recovery has made due."""

    deliveries: int
    has_more: bool
    next_since: Instant | None

    MEANINGS: ClassVar = {
        "deliveries": "How many deliveries are to be sent because of it.",
        "has_more": "Whether more orders have changed since then.",
        "next_since": "The `since` of the next call, when there are more; null otherwise.",
    }


_FLAG: Final = "true or false"
_RULES: Final = {
    "url": f"a URL that begins with https://, of at most {URL_LENGTH_MAX} characters",
    "description": "a text of at most 200 characters",
    "event_types": f"a list of these: {', '.join(EventType)}",
    "every_version": _FLAG,
    "user_id": NAME_RULE,
    "state": " or ".join(EndpointState),
    "since": "an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z",
}
read_webhook: Final = BodyReader(WebhookBody, _RULES, "a webhook").read
read_change: Final = BodyReader(WebhookChangeBody, _RULES, "a change of a webhook").read
read_recover: Final = BodyReader(RecoverBody, _RULES, "a recovery").read


def address(endpoint_id: UUID) -> str:
    """Return the address of an endpoint."""
    return f"/webhooks/{endpoint_id}"


def check_url(url: str, *, anywhere: bool) -> None:
    """Refuse a URL that webhooks are never sent to."""
    if (fault := url_fault(url, anywhere=anywhere)) is not None:
        raise invalid(BrokenRule("url", fault, url))


def check_since(since: datetime, now: datetime) -> None:
    """Refuse a recovery of what is not there any more, or not yet."""
    if not now - RECOVERED_WITHIN <= since <= now:
        raise invalid(BrokenRule("since", f"must be in the last {RECOVERED_WITHIN.days} days", since.isoformat()))


def plain(event_types: Sequence[EventType]) -> list[EventType]:
    """List each type once, in their own order."""
    return [one for one in EventType if one in event_types]


def asked_text(body: WebhookBody) -> str:
    """Write what was asked for, so that a repeated request is known: the same wishes give the same text."""
    wishes = (body.url, body.description, plain(body.event_types), body.every_version)
    return msgspec.json.encode(wishes).decode()


def rotated(secrets: Sequence[StoredSecret], new: str, now: datetime) -> list[StoredSecret]:
    """Put a new secret first. The one before signs for `ROTATED_FOR` more; those whose time is over are dropped."""
    until = now + ROTATED_FOR
    kept = [
        StoredSecret(one.sealed, until if one.valid_until is None else one.valid_until)
        for one in secrets
        if one.valid_until is None or one.valid_until > now
    ]
    return [StoredSecret(new), *kept][:SECRETS_MAX]
