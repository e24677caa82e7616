"""A hold as the API knows it, what a service may ask of it, and the messages that pass that on. Pure.

The API decides nothing about money: it keeps what it was asked for until `holds.events` answers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Money, Quantity, format_decimal, plain_text
from contracts.envelope import Envelope, Outgoing, format_time, write_headers
from contracts.holds import (
    HELD_AT_MOST,
    HoldCaptured,
    HoldCaptureRefused,
    HoldCaptureRequested,
    HoldEvent,
    HoldExpired,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    HoldReleaseRefused,
    HoldReleaseRequested,
    HoldRequest,
    HoldRequested,
    Owner,
    SystemAccount,
)
from contracts.topics import HOLDS_REQUESTS
from contracts.vocabulary import NAME_RULE, AssetId, Instant, Word
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule, Code, Problem, invalid

SOURCE: Final = "order-saga/api"
EXPIRES_AT_RULE: Final = (
    f"an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z, later than now and at most {HELD_AT_MOST.days}"
    " days away"
)
TO_RULE: Final = "an account of the house: @ and 1 to 63 of a-z 0-9 . _ -, such as @fees"


class HoldStatus(Word):
    """Where a hold stands, as far as the events have told."""

    PENDING = "PENDING"
    HELD = "HELD"
    REFUSED = "REFUSED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class Action(StrEnum):
    """What is asked of a hold."""

    PLACE = "place"
    CAPTURE = "capture"
    RELEASE = "release"


class HoldBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a service sends to hold money of a user."""

    user_id: Owner
    asset_id: AssetId
    amount: Quantity
    expires_at: Instant

    MEANINGS: ClassVar = {
        "user_id": "The user whose money it is. Only a service with the scope `holds:write` can name one.",
        "asset_id": "What is held.",
        "amount": "How much is held, more than 0; no more than is available.",
        "expires_at": "When the money returns, unless it was captured or released before: later than now and at most"
        f" {HELD_AT_MOST.days} days away. The ledger's clock decides.",
    }


class CaptureBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a service sends to capture a hold."""

    amount: Quantity
    to: SystemAccount

    MEANINGS: ClassVar = {
        "amount": "How much is paid, more than 0 and at most what is held. What is left returns to the user.",
        "to": "The account of the house that is paid. The reference ledger pays `@external`, out of the house, and"
        " `@fees`.",
    }


class ServiceHold(msgspec.Struct, frozen=True):
    """A hold as a service sees it."""

    hold_id: UUID
    user_id: Owner
    asset_id: AssetId
    amount: Quantity
    expires_at: Instant
    status: HoldStatus
    captured: Money | None
    captured_to: SystemAccount | None
    returned: Money | None
    reason_code: HoldRefusal | None
    reason: str | None
    capture_requested: bool
    release_requested: bool
    created_at: Instant
    updated_at: Instant

    MEANINGS: ClassVar = {
        "hold_id": "The hold's id, minted when it was accepted.",
        "user_id": "The user whose money it is.",
        "asset_id": "What is held.",
        "amount": "How much is held, or was.",
        "expires_at": "When the money returns, unless the hold has ended before.",
        "status": "Where the hold stands, as far as its events have told. All but PENDING and HELD are final.",
        "captured": "How much was paid; null until it is captured.",
        "captured_to": "The account of the house that was paid.",
        "returned": "How much went back to the user; null until it has ended.",
        "reason_code": "Why the hold was refused, or else why the last capture or release was; null otherwise.",
        "reason": "The same in words.",
        "capture_requested": "A capture is accepted and not answered yet.",
        "release_requested": "A release is accepted and not answered yet.",
        "created_at": "When it was accepted.",
        "updated_at": "When its status changed last.",
    }

    @property
    def address(self) -> str:
        """Where it is found."""
        return address(self.hold_id)

    @property
    def holds(self) -> bool:
        """Whether it holds money, or may yet."""
        return self.status in (HoldStatus.PENDING, HoldStatus.HELD)


class Asked(msgspec.Struct, frozen=True):
    """A request that is committed: its message's bytes, whose key it goes by, and when it was accepted."""

    hold_id: UUID
    action: Action
    user_id: str
    request: bytes
    traceparent: str | None
    created_at: datetime


class Answer(msgspec.Struct, frozen=True):
    """A request that an event has answered, of a hold of these terms; with `capture` and `to`, a capture of these."""

    hold_id: UUID
    user_id: str
    asset_id: str
    amount: Quantity
    action: Action
    reason_code: str | None = None
    reason: str | None = None
    capture: str | None = None
    to: str | None = None


class Change(msgspec.Struct, frozen=True):
    """What an event has told of a hold; the terms are compared, so that no other hold of the same id counts."""

    hold_id: UUID
    user_id: str
    asset_id: str
    amount: Quantity
    status: HoldStatus
    captured: Money | None = None
    captured_to: str | None = None
    returned: Money | None = None
    reason_code: str | None = None
    reason: str | None = None


class News(msgspec.Struct, frozen=True):
    """What events tell: the newest of each hold, and what they answer."""

    changes: list[Change]
    answers: list[Answer]


HOLD_RULES: Final = {
    "user_id": NAME_RULE,
    "asset_id": NAME_RULE,
    "amount": Quantity.rule,
    "expires_at": EXPIRES_AT_RULE,
}
CAPTURE_RULES: Final = {"amount": Quantity.rule, "to": TO_RULE}
read_hold: Final = BodyReader(HoldBody, HOLD_RULES, "a hold").read
read_capture: Final = BodyReader(CaptureBody, CAPTURE_RULES, "a capture").read
_MESSAGES: Final = {
    Action.PLACE: HoldRequested,
    Action.CAPTURE: HoldCaptureRequested,
    Action.RELEASE: HoldReleaseRequested,
}


def address(hold_id: UUID) -> str:
    """Return the address of a hold."""
    return f"/holds/{hold_id}"


def ask_for(hold_id: UUID, body: HoldBody) -> HoldRequested:
    """Make the request of a new hold."""
    return HoldRequested(hold_id, body.user_id, body.asset_id, body.amount, body.expires_at)


def ask_capture(hold: ServiceHold, body: CaptureBody) -> HoldCaptureRequested:
    """Make the request of a capture. Raises the problem of a hold that can't be captured, or not by so much."""
    if body.amount > hold.amount:
        rule = f"must be at most {plain_text(hold.amount)}, which is what is held"
        raise invalid(BrokenRule("amount", rule, plain_text(body.amount)))
    if not hold.holds:
        raise not_held(hold)
    return HoldCaptureRequested(*_terms(hold), body.amount, body.to, hold.created_at)


def ask_release(hold: ServiceHold) -> HoldReleaseRequested:
    """Make the request of a release. Raises the problem of a hold that is captured."""
    if hold.status is HoldStatus.CAPTURED:
        raise not_held(hold)
    return HoldReleaseRequested(*_terms(hold), hold.created_at)


def not_held(hold: ServiceHold) -> Problem:
    """Make the problem of a hold that has ended otherwise."""
    detail = f"the hold is {hold.status}"
    return Problem(Code.HOLD_NOT_HELD, detail, hold_id=hold.hold_id, hold_status=hold.status)


def is_captured_so(hold: ServiceHold, body: CaptureBody) -> bool:
    """Return whether a hold was captured just as is asked for."""
    if hold.status is not HoldStatus.CAPTURED or hold.captured is None:
        return False
    return hold.captured.compare(body.amount) == 0 and hold.captured_to == body.to


def encode(request: HoldRequest) -> bytes:
    """Write a request's message as it is stored and published."""
    return codec.encode(request)


def message_of(asked: Asked) -> Outgoing:
    """Make the message of a request: whoever publishes it, and however often, it is the same bytes and id.

    Its time is part of the id: after a refused capture another one may be asked for.
    """
    kind = _MESSAGES[asked.action]
    message_id = f"hold:{asked.hold_id}:{asked.action}:{format_time(asked.created_at)}"
    envelope = Envelope(message_id, kind.__name__, SOURCE, asked.created_at, asked.traceparent)
    return Outgoing(HOLDS_REQUESTS.name, asked.user_id, message_id, asked.request, write_headers(envelope))


def news_of(events: Iterable[HoldEvent]) -> News:
    """Fold events of one hold after the other, in their order: a hold that has ended stays as it has ended."""
    changes: dict[tuple[Any, ...], Change] = {}
    answers: list[Answer] = []
    for event in events:
        answers += _answers(event)
        change = _change(event)
        key = (event.hold_id, event.user_id, event.asset_id, event.amount)
        if change is not None and (key not in changes or _follows(change.status, changes[key].status)):
            changes[key] = change
    return News(list(changes.values()), answers)


_NO_END: Final = frozenset({HoldStatus.PENDING, HoldStatus.HELD, HoldStatus.REFUSED})


def _follows(status: HoldStatus, before: HoldStatus) -> bool:
    """Return whether one status comes after another, as the store's statement has it.

    REFUSED ends no hold that is held: it may be the answer to somebody else, who used the id for a hold of other terms.
    """
    return before in _NO_END and status not in _NO_END


def _change(event: HoldEvent) -> Change | None:  # noqa: PLR0911 - a table, with a line for each event
    terms = (event.hold_id, event.user_id, event.asset_id, event.amount)
    match event:
        case HoldPlaced():
            return Change(*terms, HoldStatus.HELD)
        case HoldRefused():
            refused = (event.reason_code, event.reason)
            return Change(*terms, HoldStatus.REFUSED, reason_code=refused[0], reason=refused[1])
        case HoldCaptured():
            return Change(*terms, HoldStatus.CAPTURED, event.captured, event.to, event.returned)
        case HoldReleased():
            return Change(*terms, HoldStatus.RELEASED, returned=event.returned)
        case HoldExpired():
            return Change(*terms, HoldStatus.EXPIRED, returned=event.returned)
        case HoldReleaseRefused() if event.reason_code is HoldRefusal.CLOSED:
            return Change(*terms, HoldStatus.CAPTURED)  # its own event was missed, which told how much
        case _:
            return None


def _answers(event: HoldEvent) -> Iterator[Answer]:
    """Tell which requests an event answers. A hold that has ended was placed, or never will be."""
    terms = (event.hold_id, event.user_id, event.asset_id, event.amount)
    match event:
        case HoldPlaced():
            yield Answer(*terms, Action.PLACE)
        case HoldCaptured():
            yield Answer(*terms, Action.PLACE)
            yield Answer(*terms, Action.CAPTURE, capture=format_decimal(event.captured), to=event.to)
        case HoldRefused() | HoldReleased() | HoldExpired():
            yield Answer(*terms, Action.PLACE)
            yield Answer(*terms, Action.RELEASE)
        case HoldCaptureRefused():
            why = (event.reason_code, event.reason)
            yield Answer(*terms, Action.CAPTURE, *why, capture=format_decimal(event.capture), to=event.to)
        case HoldReleaseRefused():
            yield Answer(*terms, Action.RELEASE, event.reason_code, event.reason)


def _terms(hold: ServiceHold) -> tuple[UUID, str, str, Quantity]:
    return hold.hold_id, hold.user_id, hold.asset_id, hold.amount
