"""What the calls on mass cancels and cancel timers take and answer. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from contracts.vocabulary import NAME_RULE, AssetId, Count, Instant, OrderType, Side, UserId
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule, invalid
from order_api.orders.mass_cancels.store import Filter, MassCancel, Timer

TIMEOUT_MAX_S: Final = 86_400
TimeoutS = Annotated[int, Meta(ge=0, le=TIMEOUT_MAX_S, description="Seconds; 0 switches the timer off.")]

_USER_ID_RULE: Final = {"user_id": NAME_RULE}


class CancelAllBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which of a user's open orders to cancel; a filter that is left out lets everything through."""

    MEANINGS: ClassVar = {
        "asset_id": "Only orders in this asset.",
        "side": "Only buys, or only sells.",
        "order_type": "Only this type.",
        "user_id": "Whose orders; left out: the caller's own.",
    }
    asset_id: AssetId | None = None
    side: Side | None = None
    order_type: OrderType | None = None
    user_id: UserId | None = None


class CancelTimerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """After how many seconds without another call all of a user's open orders are cancelled."""

    MEANINGS: ClassVar = {
        "timeout_s": f"How many seconds until the orders are cancelled, at most {TIMEOUT_MAX_S}; 0 switches it off.",
        "user_id": "Whose timer; left out: the caller's own.",
    }
    timeout_s: TimeoutS
    user_id: UserId | None = None


class CancelAllAnswer(msgspec.Struct, frozen=True):
    """A cancel of all open orders, and how far it is."""

    MEANINGS: ClassVar = {
        "mass_cancel_id": "The id of this cancel of all orders.",
        "user_id": "Whose orders.",
        "asset_id": "Only orders in this asset; null: in every one.",
        "side": "Only this side; null: both, or the side of `order_type`.",
        "order_type": "Only this type; null: every one.",
        "orders": "How many cancels it has asked for so far.",
        "created_at": "When it was accepted: it leaves orders alone that were accepted later.",
        "completed_at": "When the last of the orders had been looked at; null: more are to come.",
    }
    mass_cancel_id: UUID
    user_id: UserId
    asset_id: AssetId | None
    side: Side | None
    order_type: OrderType | None
    orders: Count
    created_at: Instant
    completed_at: Instant | None


class CancelTimer(msgspec.Struct, frozen=True):
    """A user's cancel timer: when it fires, and what it did when it last fired. `now` is the service's time."""

    MEANINGS: ClassVar = {
        "user_id": "Whose timer.",
        "timeout_s": "What the last call asked for, in seconds; 0: it is off.",
        "set_at": "When the last call came; null: none ever did.",
        "fires_at": "When all open orders will be cancelled unless another call comes before; null: it is off, or has"
        " fired.",
        "fired_at": "When it fired last; null: it never has.",
        "orders": "How many cancels its last firing has asked for.",
        "completed_at": "When the last firing had looked at all orders; null: it never fired, or more are to come.",
        "now": "The time by which it is judged; null: it was never set.",
    }
    user_id: UserId
    timeout_s: TimeoutS
    set_at: Instant | None
    fires_at: Instant | None
    fired_at: Instant | None
    orders: Count | None
    completed_at: Instant | None
    now: Instant | None


CANCEL_ALL_RULES: Final = _USER_ID_RULE | {
    "asset_id": NAME_RULE,
    "side": "one of " + ", ".join(Side),
    "order_type": "one of " + ", ".join(OrderType),
}
CANCEL_TIMER_RULES: Final = _USER_ID_RULE | {"timeout_s": f"a whole number from 0 to {TIMEOUT_MAX_S}"}
_read_cancel_all: Final = BodyReader(CancelAllBody, CANCEL_ALL_RULES, "a cancel of all orders").read
read_cancel_timer: Final = BodyReader(CancelTimerBody, CANCEL_TIMER_RULES, "a cancel timer").read


def read_cancel_all(raw: bytes) -> CancelAllBody:
    """Read a body; raise the problem of one that breaks a rule, or whose filters let nothing through."""
    body = _read_cancel_all(raw)
    if body.side is not None and body.order_type is not None and body.order_type.side is not body.side:
        raise invalid(BrokenRule("side", f"must be left out, or be the side of {body.order_type}", body.side))
    return body


def filter_of(body: CancelAllBody) -> Filter:
    """Take the filter of a body. A side that its type says already is left out, so that equal wishes are equal."""
    return Filter(body.asset_id, None if body.order_type is not None else body.side, body.order_type)


def answer_of(one: MassCancel) -> CancelAllAnswer:
    """Show a mass cancel."""
    chosen = one.filter
    return CancelAllAnswer(
        *(one.mass_cancel_id, one.user_id, chosen.asset_id, chosen.side, chosen.order_type),
        *(one.orders, one.created_at, one.completed_at),
    )


def timer_of(user_id: str, timer: Timer | None) -> CancelTimer:
    """Show a user's timer; one that was never set is off."""
    if timer is None:
        return CancelTimer(user_id, 0, None, None, None, None, None, None)
    return CancelTimer(user_id, *msgspec.structs.astuple(timer))
