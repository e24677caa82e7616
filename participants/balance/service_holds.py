"""What a request does to a service's hold, and the event that answers it. Pure: the barrier, and what it does not know.

The barrier (`saga_kit.participant.barrier`) keeps its promise: each effect at most once, whatever comes first, and a
tombstone for what ends before it begins. Here stand the rules that services have besides: a hold expires, a capture
names where the money goes, and a capture that is refused leaves the hold as it is.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from contracts.decimals import Money, Quantity, plain_text
from contracts.envelope import format_time
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
)
from contracts.vocabulary import HoldState, id_text
from participants.balance.ledger import EXTERNAL, FEES
from saga_kit.participant.barrier import CommandKind, Hold, HoldCommand, Ledger, Refusal, apply

PREFIX: Final = "hold:"
"""Begins the barrier's id of such a hold, so that no order's hold can have the same."""
DESTINATIONS: Final = (EXTERNAL, FEES)
"""Where a capture may go: out of the house, or to its fees. It pays no user, since that would be a transfer."""


class End(StrEnum):
    """How a hold ended. BURIED: before it was placed, so it never will be."""

    REFUSED = "REFUSED"
    BURIED = "BURIED"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class Expiry(msgspec.Struct, frozen=True):
    """The scanner's word that a hold's time has come. Whether it has, is judged again when its rows are locked."""

    hold_id: str
    """With the prefix."""
    user_id: str
    asset_id: str
    amount: Decimal


Asked = HoldRequest | Expiry


class ServiceHold(msgspec.Struct, frozen=True):
    """A stored hold: the barrier's row, and what services need besides. `ended` is None while it is held."""

    hold: Hold
    expires_at: datetime | None
    ended: End | None = None
    captured_to: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """A hold after a request (None: it stays unknown), and the events to publish; the answer is the last."""

    hold: ServiceHold | None
    events: list[HoldEvent]


_KINDS: Final[dict[type[Asked], CommandKind]] = {
    HoldRequested: CommandKind.RESERVE,
    HoldCaptureRequested: CommandKind.SETTLE,
    HoldReleaseRequested: CommandKind.REFUND,
    Expiry: CommandKind.REFUND,
}


def stored_id(asked: Asked) -> str:
    """Return the barrier's id of the hold that is asked about."""
    return asked.hold_id if isinstance(asked, Expiry) else PREFIX + id_text(asked.hold_id)


def command_of(asked: Asked) -> HoldCommand[Asked]:
    """Make the barrier's command."""
    hold_id = stored_id(asked)
    command: HoldCommand[Asked] = HoldCommand(
        kind=_KINDS[type(asked)],
        hold_id=hold_id,
        saga_id=hold_id.removeprefix(PREFIX),
        owner=asked.user_id,
        unit=asked.asset_id,
        amount=asked.amount,
        message=asked,
    )
    if isinstance(asked, HoldCaptureRequested):
        command = msgspec.structs.replace(command, capture=asked.capture)
    return command


def judge(asked: Asked, known: ServiceHold | None, ledger: Ledger[Asked], now: datetime) -> Verdict:
    """Do what is asked of a hold (None: it is unknown). `now`: the database's time, taken when its rows were locked.

    The ledger's `settle` pays the account that a `HoldCaptureRequested` names, and refuses nothing.
    """
    match asked:
        case HoldRequested():
            return _place(asked, known, ledger, now)
        case HoldCaptureRequested():
            return _capture(asked, known, ledger, now)
        case HoldReleaseRequested():
            return _release(asked, known, ledger)
        case Expiry():
            return _expire(known, ledger) if is_over(known, now) else Verdict(known, [])


def is_over(known: ServiceHold | None, now: datetime) -> bool:
    """Return whether a hold is still held although its time has come."""
    return known is not None and known.ended is None and known.expires_at is not None and known.expires_at <= now


def refuse(request: HoldRequest, code: HoldRefusal, reason: str) -> HoldEvent:
    """Make the event that refuses a request."""
    match request:
        case HoldRequested():
            return HoldRefused(*_terms(request), code, reason)
        case HoldCaptureRequested():
            return HoldCaptureRefused(*_terms(request), request.capture, request.to, code, reason)
        case HoldReleaseRequested():
            return HoldReleaseRefused(*_terms(request), code, reason)


def event_of(known: ServiceHold) -> HoldEvent | None:
    """Say what became of a hold last, as its newest event has told; None of one that ended before it was placed."""
    hold = known.hold
    terms = (UUID(hold.hold_id.removeprefix(PREFIX)), hold.owner, hold.unit, Quantity(hold.amount))
    match known.ended:
        case None:
            return None if known.expires_at is None else HoldPlaced(*terms, known.expires_at)
        case End.CAPTURED:
            return HoldCaptured(*terms, Money(hold.captured), known.captured_to or EXTERNAL, Money(hold.refunded))
        case End.RELEASED:
            return HoldReleased(*terms, Money(hold.refunded))
        case End.EXPIRED:
            return HoldExpired(*terms, Money(hold.refunded))
        case End.REFUSED if hold.refusal is not None:
            return HoldRefused(*terms, HoldRefusal(hold.refusal.code), hold.refusal.reason)
        case _:
            return None


def _place(request: HoldRequested, known: ServiceHold | None, ledger: Ledger[Asked], now: datetime) -> Verdict:
    command = command_of(request)
    if known is None:
        hold, refusal = _first(command, request, ledger, now)
        ended = None if refusal is None else End.REFUSED
        placed = ServiceHold(hold, request.expires_at, ended)
        return Verdict(placed, [_placed(request) if refusal is None else _refused(request, refusal)])
    _, refusal = apply(command, known.hold, ledger)
    if refusal is None or refusal.code != HoldRefusal.HOLD_CONFLICT:
        if known.expires_at not in (None, request.expires_at):
            return Verdict(known, [refuse(request, HoldRefusal.HOLD_CONFLICT, "it is known with another expires_at")])
        if known.hold.state is HoldState.REFUNDED:  # it was held, and that is what a repetition is told
            refusal = None
    return Verdict(known, [_placed(request) if refusal is None else _refused(request, refusal)])


def _first(
    command: HoldCommand[Asked], request: HoldRequested, ledger: Ledger[Asked], now: datetime
) -> tuple[Hold, Refusal | None]:
    if now < request.expires_at <= now + HELD_AT_MOST:
        return apply(command, None, ledger)
    reason = f"expires_at must be later than {format_time(now)}, and at most {HELD_AT_MOST.days} days away"
    refusal = Refusal(HoldRefusal.EXPIRY_OUT_OF_RANGE, reason)
    terms = (command.hold_id, command.saga_id, command.owner, command.unit, command.amount)
    return Hold(*terms, HoldState.REFUSED, reason_code=refusal.code, reason=refusal.reason), refusal


def _capture(request: HoldCaptureRequested, known: ServiceHold | None, ledger: Ledger[Asked], now: datetime) -> Verdict:
    # What the request alone tells is told first, so that it is refused alike whenever it comes.
    if request.capture > request.amount:
        reason = f"can't capture {plain_text(request.capture)} of {plain_text(request.amount)}"
        return Verdict(known, [refuse(request, HoldRefusal.EXCEEDS_HOLD, reason)])
    if request.to not in DESTINATIONS:
        reason = f"a capture may pay to {' or '.join(DESTINATIONS)}, not to {request.to}"
        return Verdict(known, [refuse(request, HoldRefusal.DESTINATION_NOT_ALLOWED, reason)])
    command = command_of(request)
    before: list[HoldEvent] = []
    if known is not None and is_over(known, now) and _same_terms(command, known.hold):
        known, before = _ended(known, ledger)
    hold, refusal = apply(command, None if known is None else known.hold, ledger)
    if known is None:
        known = ServiceHold(hold, None, End.BURIED)
    elif hold.state is HoldState.SETTLED and known.ended is None:
        known = ServiceHold(hold, known.expires_at, End.CAPTURED, request.to)
    if refusal is not None:
        reason = refusal.reason if refusal.code == HoldRefusal.HOLD_CONFLICT else _why_not_held(known)
        return Verdict(known, [*before, refuse(request, HoldRefusal(refusal.code), reason)])
    if (hold.captured, known.captured_to) != (request.capture, request.to):
        reason = f"it has captured {plain_text(hold.captured)} to {known.captured_to}"
        return Verdict(known, [refuse(request, HoldRefusal.HOLD_CONFLICT, reason)])
    paid = HoldCaptured(*_terms(request), Money(hold.captured), request.to, Money(hold.refunded))
    return Verdict(known, [*before, paid])


def _release(request: HoldReleaseRequested, known: ServiceHold | None, ledger: Ledger[Asked]) -> Verdict:
    hold, refusal = apply(command_of(request), None if known is None else known.hold, ledger)
    if refusal is not None:
        reason = refusal.reason if refusal.code == HoldRefusal.HOLD_CONFLICT else "the hold is captured"
        return Verdict(known, [refuse(request, HoldRefusal(refusal.code), reason)])
    if known is None:
        known = ServiceHold(hold, None, End.BURIED)
    elif known.ended is None:
        known = ServiceHold(hold, known.expires_at, End.RELEASED)
    return Verdict(known, [_how_it_ended(request, known)])


def _how_it_ended(request: HoldReleaseRequested, known: ServiceHold) -> HoldEvent:
    """Answer a release of a hold that is held no more: with its end, which never changes."""
    hold = known.hold
    if known.ended is End.EXPIRED:
        return HoldExpired(*_terms(request), Money(hold.refunded))
    if known.ended is End.REFUSED and hold.refusal is not None:
        return HoldRefused(*_terms(request), HoldRefusal(hold.refusal.code), hold.refusal.reason)
    return HoldReleased(*_terms(request), Money(hold.refunded))


def _expire(known: ServiceHold | None, ledger: Ledger[Asked]) -> Verdict:
    return Verdict(known, []) if known is None else Verdict(*_ended(known, ledger))


def _ended(known: ServiceHold, ledger: Ledger[Asked]) -> tuple[ServiceHold, list[HoldEvent]]:
    """Return a hold whose time has come."""
    before = known.hold
    hold, _ = apply(command_of(Expiry(before.hold_id, before.owner, before.unit, before.amount)), before, ledger)
    number = UUID(hold.hold_id.removeprefix(PREFIX))
    event = HoldExpired(number, hold.owner, hold.unit, Quantity(hold.amount), Money(hold.refunded))
    return ServiceHold(hold, known.expires_at, End.EXPIRED), [event]


def _why_not_held(known: ServiceHold) -> str:
    match known.ended:
        case End.BURIED:
            return "it ended before it was placed"
        case End.REFUSED:
            return "it was refused"
        case End.EXPIRED if known.expires_at is not None:
            return f"it has expired at {format_time(known.expires_at)}"
        case _:
            return "it was released"


def _terms(request: HoldRequest) -> tuple[UUID, str, str, Quantity]:
    return request.hold_id, request.user_id, request.asset_id, request.amount


def _same_terms(command: HoldCommand[Asked], hold: Hold) -> bool:
    return (command.owner, command.unit, command.amount) == (hold.owner, hold.unit, hold.amount)


def _placed(request: HoldRequested) -> HoldEvent:
    return HoldPlaced(*_terms(request), request.expires_at)


def _refused(request: HoldRequested, refusal: Refusal) -> HoldEvent:
    return refuse(request, HoldRefusal(refusal.code), refusal.reason)
