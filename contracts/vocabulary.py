"""The closed vocabularies of the wire: order types, statuses, reasons, hold states, and what an id may look like."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Final, NamedTuple
from uuid import UUID

from msgspec import Meta

NAME_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,64}\Z"
"""User, asset and client order ids (ASCII). System accounts and operators have an `@`."""
NAME_RULE: Final = "1 to 64 of A-Z a-z 0-9 . _ : -"
NAME_LENGTH_MAX: Final = 64
PATH_NAME_PATTERN: Final = r"^(\.*[A-Za-z0-9_:-][A-Za-z0-9._:-]*|\.{3,})\Z"
"""A name that may be part of a path; its length is checked apart. Clients resolve `.` and `..` (RFC 3986)."""
PATH_NAME_RULE: Final = NAME_RULE + ", and neither . nor .."

# The descriptions go into the generated schemas. No text may hold a NUL (PostgreSQL can't store it): the codec checks.
UserId = Annotated[str, Meta(pattern=NAME_PATTERN, description="The order's user.")]
AssetId = Annotated[str, Meta(pattern=NAME_PATTERN, description="An asset, cash included.")]
ClientOrderId = Annotated[
    str,
    Meta(
        pattern=PATH_NAME_PATTERN,
        max_length=NAME_LENGTH_MAX,
        description="The user's own name for the order, used once.",
    ),
]
Requester = Annotated[
    str,
    Meta(
        pattern=r"^(@operator:)?[A-Za-z0-9._:-]{1,64}\Z",
        description="Who asks: a user's id, or `@operator:<name>` (no user's id can contain `@`).",
    ),
]
OPERATOR_PREFIX: Final = "@operator:"

StepId = Annotated[str, Meta(max_length=80, description="`<order_id>:<step>`, the id of a command or a hold.")]
ReasonText = Annotated[str, Meta(max_length=500, description="Why, in words.")]
TrailBps = Annotated[int, Meta(ge=5, le=5_000, multiple_of=5, description="A distance in 1/10,000 of the best price.")]
BasisPoints = Annotated[int, Meta(ge=0, le=10_000, description="A rate in 1/10,000.")]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Revision = Annotated[int, Meta(ge=1, le=2**53 - 1, description="Which change it is, counted from 1.")]
Scale = Annotated[int, Meta(ge=0, le=18, description="Digits after the point.")]
Instant = Annotated[datetime, Meta(tz=True)]
YEAR_MIN: Final = 1970
YEAR_MAX: Final = 2999
"""The years of an `Instant`: far from the ends of the calendar, where a time zone or a delay would overflow."""


def id_text(order_id: UUID) -> str:
    """Write an id as text. The texts are cached, since an order's id is written a dozen times."""
    return _id_text(order_id.int)


@lru_cache(16_384)
def _id_text(number: int) -> str:  # keyed by the number: a UUID's own hash and comparison are slow Python
    return str(UUID(int=number))


def check_instant(time: datetime) -> None:
    """Raise `ValueError` for a time that is not from `YEAR_MIN` to `YEAR_MAX`."""
    if not YEAR_MIN <= time.year <= YEAR_MAX:
        raise ValueError(f"must be a time from {YEAR_MIN} to {YEAR_MAX}")


class Word(StrEnum):
    """A word of a closed vocabulary. It has the hash of a plain string, which is faster than that of an Enum."""

    __hash__ = str.__hash__


class Side(Word):
    """Which way the asset goes."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(Word):
    """What a trader may ask for."""

    MARKET_BUY = "MARKET_BUY"
    MARKET_SELL = "MARKET_SELL"
    LIMIT_BUY = "LIMIT_BUY"
    LIMIT_SELL = "LIMIT_SELL"
    STOP_LOSS_BUY = "STOP_LOSS_BUY"
    STOP_LOSS_SELL = "STOP_LOSS_SELL"
    TAKE_PROFIT_BUY = "TAKE_PROFIT_BUY"
    TAKE_PROFIT_SELL = "TAKE_PROFIT_SELL"
    TRAILING_STOP_BUY = "TRAILING_STOP_BUY"
    TRAILING_STOP_SELL = "TRAILING_STOP_SELL"
    BRACKET_BUY = "BRACKET_BUY"
    BRACKET_SELL = "BRACKET_SELL"

    @property
    def side(self) -> Side:
        """Buy or sell."""
        return _SIDES[self]

    @property
    def kind(self) -> OrderKind:
        """What it waits for, whichever the side."""
        return _KINDS[self]


class OrderKind(Word):
    """What an order waits for. A MARKET order waits for nothing; all others are conditional."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP_LOSS = "STOP_LOSS"
    TAKE_PROFIT = "TAKE_PROFIT"
    TRAILING_STOP = "TRAILING_STOP"
    BRACKET = "BRACKET"


_SIDES = {order_type: Side(order_type.rpartition("_")[2]) for order_type in OrderType}
_KINDS = {order_type: OrderKind(order_type.rpartition("_")[0]) for order_type in OrderType}


class TimeInForce(Word):
    """How long an order may wait: until cancelled, a time, or the end of the session, or not at all (IOC and FOK)."""

    GTC = "GTC"
    GTD = "GTD"
    DAY = "DAY"
    IOC = "IOC"
    FOK = "FOK"

    @property
    def rests(self) -> bool:
        """Whether an order that can't be filled on entry waits."""
        return self in _RESTING


_RESTING = frozenset({TimeInForce.GTC, TimeInForce.GTD, TimeInForce.DAY})


class OrderStatus(Word):
    """The six public statuses."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def terminal(self) -> bool:
        """Whether the order has ended, and its money moves no more."""
        return self in _TERMINAL


_TERMINAL = frozenset({OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.FAILED})


class HoldState(Word):
    """The life of a hold at the balance service."""

    HELD = "HELD"
    SETTLED = "SETTLED"
    REFUNDED = "REFUNDED"
    REFUSED = "REFUSED"
    TOMBSTONE = "TOMBSTONE"

    @property
    def nothing_held(self) -> bool:
        """Whether this state proves that no money is held."""
        return self in _NOTHING_HELD


_NOTHING_HELD = frozenset({HoldState.REFUSED, HoldState.TOMBSTONE, HoldState.REFUNDED})


class ReasonCode(Word):
    """Why an order ended as CANCELLED or FAILED. Closed: a new one needs an ADR."""

    INVALID_ORDER = "INVALID_ORDER"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    ASSET_NOT_TRADABLE = "ASSET_NOT_TRADABLE"
    ASSET_UNAVAILABLE = "ASSET_UNAVAILABLE"
    STALE_PRICE = "STALE_PRICE"
    SLIPPAGE_EXCEEDED = "SLIPPAGE_EXCEEDED"
    INVALID_STEP = "INVALID_STEP"
    INVALID_TICK = "INVALID_TICK"
    QUANTITY_OUT_OF_RANGE = "QUANTITY_OUT_OF_RANGE"
    NOTIONAL_OUT_OF_RANGE = "NOTIONAL_OUT_OF_RANGE"
    DUPLICATE_CLIENT_ORDER_ID = "DUPLICATE_CLIENT_ORDER_ID"
    ORDER_ID_TAKEN = "ORDER_ID_TAKEN"
    HOLD_CONFLICT = "HOLD_CONFLICT"
    WOULD_TRIGGER_IMMEDIATELY = "WOULD_TRIGGER_IMMEDIATELY"
    UNFILLED = "UNFILLED"
    PRICE_OUT_OF_RANGE = "PRICE_OUT_OF_RANGE"
    TOO_MANY_OPEN_ORDERS = "TOO_MANY_OPEN_ORDERS"
    NO_SESSION = "NO_SESSION"
    TIMED_OUT = "TIMED_OUT"
    EXECUTION_FAILED = "EXECUTION_FAILED"
    USER_REQUESTED = "USER_REQUESTED"
    EXPIRED = "EXPIRED"
    OPERATOR = "OPERATOR"


class Reason(NamedTuple):
    """What a reason code means, and whether the same order sent again may succeed without any change."""

    meaning: str
    retryable: bool = False


REASONS: Final[dict[ReasonCode, Reason]] = {
    ReasonCode.INVALID_ORDER: Reason("The request breaks a rule of the wire; `reason` names the field and the rule."),
    ReasonCode.ACCOUNT_NOT_FOUND: Reason("The user has no account at all."),
    ReasonCode.INSUFFICIENT_BALANCE: Reason("The user's available balance does not cover the order."),
    ReasonCode.ASSET_NOT_FOUND: Reason("No such asset is traded here."),
    ReasonCode.ASSET_NOT_TRADABLE: Reason("Trading in the asset is halted or closed."),
    ReasonCode.ASSET_UNAVAILABLE: Reason("The asset is not available in this quantity now.", retryable=True),
    ReasonCode.STALE_PRICE: Reason("The asset's price was not confirmed lately enough to trade on.", retryable=True),
    ReasonCode.SLIPPAGE_EXCEEDED: Reason(
        "The price is worse than the one seen, or than the stop's level, by more than the allowed slippage."
    ),
    ReasonCode.INVALID_STEP: Reason("The quantity is not a multiple of the asset's step."),
    ReasonCode.INVALID_TICK: Reason("The price is not a multiple of the asset's tick."),
    ReasonCode.QUANTITY_OUT_OF_RANGE: Reason("The quantity is below the asset's minimum or above its maximum."),
    ReasonCode.NOTIONAL_OUT_OF_RANGE: Reason("Quantity times quote is outside the asset's notional limits."),
    ReasonCode.DUPLICATE_CLIENT_ORDER_ID: Reason("The user has another order with this client order id."),
    ReasonCode.ORDER_ID_TAKEN: Reason("Another producer used the order's id before the request arrived."),
    ReasonCode.HOLD_CONFLICT: Reason("The balance service knows the order's hold with other terms."),
    ReasonCode.WOULD_TRIGGER_IMMEDIATELY: Reason("The trigger's condition was already met on entry."),
    ReasonCode.UNFILLED: Reason("The market did not meet the limit of an order that does not wait (IOC, FOK)."),
    ReasonCode.PRICE_OUT_OF_RANGE: Reason(
        "A price of the order is too far from the market, or its trail is not below it."
    ),
    ReasonCode.TOO_MANY_OPEN_ORDERS: Reason(
        "The user has as many open conditional orders in the asset as are allowed.", retryable=True
    ),
    ReasonCode.NO_SESSION: Reason("The order is to end with the session (DAY), and the asset has no sessions."),
    ReasonCode.TIMED_OUT: Reason("A service did not answer within the saga's patience.", retryable=True),
    ReasonCode.EXECUTION_FAILED: Reason("The settlement was refused after the fill; the fill is busted."),
    ReasonCode.USER_REQUESTED: Reason("The order's user cancelled it."),
    ReasonCode.EXPIRED: Reason("The order was not handled before its time ran out."),
    ReasonCode.OPERATOR: Reason("An operator cancelled the order."),
}
