"""Which fields each order type takes, and what they say together. One table serves the API, the saga and the docs.

Sources: FIX OrdType 2, 3, 4, J and P with TimeInForce 1, 3, 4 and 6, whose fields these are.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from contracts.decimals import Price
from contracts.orders import OrderRequested
from contracts.vocabulary import Instant, OrderKind, Side, TimeInForce, TrailBps

SLIPPAGE_BPS_DEFAULT: Final = 100
"""Where slippage applies and the request does not say how much, in 1/10,000."""
EXPIRES_WITHIN: Final = timedelta(days=30)
"""How far away `expires_at` may be."""


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a conditional order waits for, as its request says it. A market order has none, unless it may queue.

    A market order that may queue waits for the opening, and at most for so long as any order may: it is GTD.
    """

    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_at: Instant | None = None
    queue_when_closed: bool = False


class Fault(NamedTuple):
    """A field that does not fit the order's type or its other fields, and what would."""

    field: str
    rule: str


class FieldRules(NamedTuple):
    """What a kind of order takes besides `quantity`."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    times_in_force: tuple[TimeInForce, ...] = ()
    """None: `time_in_force` is refused, and `expires_at` without `queue_when_closed`. The first one is the default."""

    @property
    def of_time(self) -> tuple[str, ...]:
        """Name the fields that say when the order may wait, and for how long."""
        return ("time_in_force", *_QUEUES) if self.times_in_force else _QUEUES


_QUEUES: Final = ("expires_at", "queue_when_closed")
WAITS: Final = (TimeInForce.GTC, TimeInForce.GTD, TimeInForce.DAY)
"""An order with one of these may wait for the market; any other one ends as soon as it has its answers."""

FIELDS: Final = {
    OrderKind.MARKET: FieldRules(optional=("price", "slippage_bps")),
    OrderKind.LIMIT: FieldRules(("limit_price",), (), (*WAITS, TimeInForce.IOC, TimeInForce.FOK)),
    OrderKind.STOP_LOSS: FieldRules(("trigger_price",), ("limit_price", "slippage_bps"), WAITS),
    OrderKind.TAKE_PROFIT: FieldRules(("trigger_price",), ("limit_price", "slippage_bps"), WAITS),
    OrderKind.TRAILING_STOP: FieldRules((), ("trail_amount", "trail_bps", "slippage_bps"), WAITS),
    OrderKind.BRACKET: FieldRules(("limit_price", "trigger_price"), ("slippage_bps",), WAITS),
}
"""Every other field of these is refused by name, so that no term of an order is silently dropped."""

_JUDGED: Final = ("price", "slippage_bps", "limit_price", "trigger_price", "trail_amount", "trail_bps")
_INSTEAD: Final = {"price": ": give limit_price"}


def faults(asked: OrderRequested) -> tuple[Fault, ...]:
    """List what is wrong with a request's fields as a whole; each is good by itself."""
    kind, rules = asked.order_type.kind, FIELDS[asked.order_type.kind]
    found = [Fault(name, f"is required for {asked.order_type}") for name in rules.required if _absent(asked, name)]
    takes = rules.required + rules.optional
    strange = [name for name in _JUDGED if name not in takes and not _absent(asked, name)]
    found += [Fault(name, f"is not a field of {asked.order_type}{_INSTEAD.get(name, '')}") for name in strange]
    if kind is OrderKind.TRAILING_STOP and (asked.trail_amount is None) == (asked.trail_bps is None):
        found.append(Fault("trail_amount", "exactly one of trail_amount and trail_bps is required"))
    if kind is OrderKind.BRACKET and (why := _wrong_side(asked)):
        found.append(Fault("trigger_price", why))
    if "slippage_bps" in rules.optional and asked.slippage_bps is not None and (why := _no_slippage(asked)):
        found.append(Fault("slippage_bps", why))
    return (*found, *_faults_of_time(asked, rules.times_in_force))


def terms_of(asked: OrderRequested) -> Terms | None:
    """Take the terms of a request without faults; a market order that does not queue has none."""
    if asked.order_type.kind is OrderKind.MARKET:
        queues = Terms(time_in_force=TimeInForce.GTD, expires_at=asked.expires_at, queue_when_closed=True)
        return queues if asked.queue_when_closed else None
    return Terms(
        limit_price=asked.limit_price,
        trigger_price=asked.trigger_price,
        trail_amount=asked.trail_amount,
        trail_bps=asked.trail_bps,
        time_in_force=asked.time_in_force or TimeInForce.GTC,
        expires_at=asked.expires_at,
        queue_when_closed=bool(asked.queue_when_closed),
    )


def slippage_of(asked: OrderRequested) -> int | None:
    """Resolve the slippage of a request in 1/10,000: what it says, or the default where slippage applies."""
    if asked.slippage_bps is not None:
        return asked.slippage_bps
    if asked.order_type.kind is OrderKind.MARKET:
        return SLIPPAGE_BPS_DEFAULT
    applies = "slippage_bps" in FIELDS[asked.order_type.kind].optional and not _no_slippage(asked)
    return SLIPPAGE_BPS_DEFAULT if applies else None


def _absent(asked: OrderRequested, name: str) -> bool:
    return getattr(asked, name) is None


def _wrong_side(asked: OrderRequested) -> str:
    """Say why a bracket's trigger does not stand on the other side of the market than its limit, or nothing."""
    limit, trigger = asked.limit_price, asked.trigger_price
    if limit is None or trigger is None:
        return ""
    buy = asked.order_type.side is Side.BUY
    if trigger > limit if buy else trigger < limit:
        return ""
    return f"must be {'above' if buy else 'below'} limit_price for {asked.order_type}"


def _no_slippage(asked: OrderRequested) -> str:
    """Say why slippage has no meaning for a request, or nothing."""
    if asked.order_type.kind is OrderKind.MARKET:
        return ""
    bracket = asked.order_type.kind is OrderKind.BRACKET
    if asked.order_type.side is Side.SELL:
        bound = "" if bracket else "; give limit_price to bound it"
        return f"is not a field of {asked.order_type}: a sell exits at any price{bound}"
    if bracket:
        return ""  # its limit is a level of its own, and bounds nothing
    return "has no meaning beside limit_price, which bounds the price" if asked.limit_price is not None else ""


def _faults_of_time(asked: OrderRequested, allowed: tuple[TimeInForce, ...]) -> list[Fault]:
    found: list[Fault] = []
    if not allowed:
        return _faults_of_queue(asked)
    force = asked.time_in_force or allowed[0]
    if force not in allowed:
        found.append(Fault("time_in_force", f"must be one of {', '.join(allowed)} for {asked.order_type}"))
    if force is TimeInForce.GTD and asked.expires_at is None:
        found.append(Fault("expires_at", "is required with time_in_force GTD"))
    if force is not TimeInForce.GTD and asked.expires_at is not None:
        found.append(Fault("expires_at", "is a field of time_in_force GTD only"))
    return found


def _faults_of_queue(asked: OrderRequested) -> list[Fault]:
    """List what is wrong with when a market order may wait: only for an opening, and for a price that is bounded."""
    found: list[Fault] = []
    if not _absent(asked, "time_in_force"):
        found.append(Fault("time_in_force", f"is not a field of {asked.order_type}"))
    if not asked.queue_when_closed and not _absent(asked, "expires_at"):
        found.append(Fault("expires_at", f"is a field of {asked.order_type} with queue_when_closed only"))
    if asked.queue_when_closed and _absent(asked, "price"):
        found.append(Fault("price", f"is required for {asked.order_type} with queue_when_closed"))
    return found
