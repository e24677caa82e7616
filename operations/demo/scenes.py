"""The demo's orders: one for every way in which an order can end, with the end that is announced."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Scene:
    """One order of the demo and how it must end: `COMPLETED`, or a status with its reason."""

    title: str
    user: str
    body: Mapping[str, Any]
    ends: str
    cancel_by: str | None = None
    """Who cancels it: a market order at once, a conditional one when it rests."""
    rests: bool = False
    """It waits for a price before it ends."""
    by_kafka: bool = False
    amend: Mapping[str, Any] | None = None
    """How its user amends it when it rests."""
    held: bool = False
    """Its user puts it on hold when it rests, so that no price fires it, and cancels it in the end."""
    order_id: str = field(default_factory=lambda: str(uuid.uuid4()))


def buy(asset: str, quantity: str, **more: object) -> dict[str, Any]:
    """Describe a market buy."""
    return {"order_type": "MARKET_BUY", "asset_id": asset, "quantity": quantity, **more}


def sell(asset: str, quantity: str, **more: object) -> dict[str, Any]:
    """Describe a market sell."""
    return {**buy(asset, quantity, **more), "order_type": "MARKET_SELL"}


def scenes() -> list[Scene]:
    """List every outcome that a market order can have."""
    old = buy("BTC", "0.01", requested_at=(datetime.now(UTC) - timedelta(minutes=5)).isoformat())
    name = f"demo-{uuid.uuid4()}"
    twin = buy("BTC", "0.02", client_order_id=name)
    return [
        Scene("a buy", "alice", buy("BTC", "0.01"), "COMPLETED"),
        Scene("a sell", "bob", sell("ACME", "10"), "COMPLETED"),
        Scene("a buy by a plain Kafka producer", "bob", buy("ETH", "0.5"), "COMPLETED", by_kafka=True),
        Scene("a buy within its slippage", "alice", buy("BTC", "0.01", price="49900.00"), "COMPLETED"),
        Scene("too little cash", "carol", buy("BTC", "0.01"), "FAILED INSUFFICIENT_BALANCE"),
        Scene("a sell of what one does not have", "carol", sell("BTC", "0.01"), "FAILED INSUFFICIENT_BALANCE"),
        Scene("a user without any account", "dave", buy("BTC", "0.01"), "FAILED ACCOUNT_NOT_FOUND"),
        Scene("an unknown asset", "alice", buy("NOPE", "1"), "FAILED ASSET_NOT_FOUND"),
        Scene("a halted asset", "alice", buy("HALT", "5"), "FAILED ASSET_NOT_TRADABLE"),
        Scene("more than is available", "alice", buy("RARE", "1"), "FAILED ASSET_UNAVAILABLE"),
        Scene("a dead price source", "alice", buy("OLD", "5"), "FAILED STALE_PRICE"),
        Scene("a price that ran away", "alice", buy("BTC", "0.01", price="45000.00"), "FAILED SLIPPAGE_EXCEEDED"),
        Scene("a quantity off its step", "alice", sell("ACME", "1.5"), "FAILED INVALID_STEP"),
        Scene("a price off its tick", "alice", buy("BTC", "0.01", price="50000.001"), "FAILED INVALID_TICK"),
        Scene("too small a quantity", "alice", buy("BTC", "0.0005"), "FAILED QUANTITY_OUT_OF_RANGE"),
        Scene("too large a value", "alice", buy("BTC", "1"), "FAILED NOTIONAL_OUT_OF_RANGE"),
        Scene("an answer that comes too late", "alice", buy("SLOW", "5"), "FAILED TIMED_OUT"),
        Scene("the same, with a hold to refund", "bob", sell("SLOW", "5"), "FAILED TIMED_OUT"),
        Scene("cancelled by its user", "alice", buy("SLOW", "6"), "CANCELLED USER_REQUESTED", cancel_by="alice"),
        Scene("cancelled by an operator", "bob", sell("SLOW", "6"), "CANCELLED OPERATOR", cancel_by="@ops"),
        Scene("a request that breaks a rule", "bob", buy("BTC", "1e3"), "FAILED INVALID_ORDER", by_kafka=True),
        Scene("a request that is five minutes old", "bob", old, "CANCELLED EXPIRED", by_kafka=True),
        Scene("a client order id", "bob", buy("BTC", "0.01", client_order_id=name), "COMPLETED"),
        Scene("the same id on another order", "bob", twin, "FAILED DUPLICATE_CLIENT_ORDER_ID", by_kafka=True),
    ]  # fmt: skip


MARKET: Final = "ACME"
PATH: Final = ("20.50", "21.00", "20.90", "19.70", "19.00", "20.10", "20.00")
"""How the price of `MARKET` moves while the conditional orders rest, from 20.00 and back."""
CLOSED: Final = "NIGHT"
OPENING: Final = "10.05"
"""The price at which `CLOSED` opens, from 10.00."""


def conditional(order_type: str, **terms: object) -> dict[str, Any]:
    """Describe a conditional order for five of `MARKET`."""
    return {"order_type": order_type, "asset_id": MARKET, "quantity": "5", **terms}


def conditional_scenes() -> list[Scene]:
    """List a conditional order of each kind, and what else can become of one; the price is 20.00 when they come."""
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    far = {"limit_price": "10.00"}
    return [
        Scene("a limit that the market meets", "bob", conditional("LIMIT_BUY", limit_price="20.05"), "COMPLETED"),
        Scene("a limit that waits", "bob", conditional("LIMIT_BUY", limit_price="19.50"), "COMPLETED", rests=True),
        Scene("the same to sell", "alice", conditional("LIMIT_SELL", limit_price="20.95"), "COMPLETED", rests=True),
        Scene("a stop loss, through a gap", "alice", conditional("STOP_LOSS_SELL", trigger_price="19.80"), "COMPLETED",
              rests=True),
        Scene("a stop with a limit, past it and back", "alice",
              conditional("STOP_LOSS_SELL", trigger_price="19.50", limit_price="19.90"), "COMPLETED", rests=True),
        Scene("a take profit", "alice", conditional("TAKE_PROFIT_SELL", trigger_price="21.00"), "COMPLETED",
              rests=True),
        Scene("a gain or a stop, whichever comes first", "alice",
              conditional("BRACKET_SELL", limit_price="20.95", trigger_price="19.10"), "COMPLETED", rests=True),
        Scene("a trailing stop", "alice", conditional("TRAILING_STOP_SELL", trail_bps=200), "COMPLETED", rests=True),
        Scene("the same to buy", "bob", conditional("TRAILING_STOP_BUY", trail_amount="1.05"), "COMPLETED",
              rests=True),
        Scene("a stop that the price jumped over", "bob",
              conditional("STOP_LOSS_BUY", trigger_price="20.80", slippage_bps=10), "FAILED SLIPPAGE_EXCEEDED",
              rests=True),
        Scene("a limit that does not wait", "bob",
              conditional("LIMIT_BUY", limit_price="19.00", time_in_force="IOC"), "CANCELLED UNFILLED"),
        Scene("a stop that is met already", "alice", conditional("STOP_LOSS_SELL", trigger_price="20.40"),
              "FAILED WOULD_TRIGGER_IMMEDIATELY"),
        Scene("a trail beyond the price", "alice", conditional("TRAILING_STOP_SELL", trail_amount="25.00"),
              "FAILED PRICE_OUT_OF_RANGE"),
        Scene("a limit until a time", "bob",
              conditional("LIMIT_BUY", **far, time_in_force="GTD", expires_at=soon), "CANCELLED EXPIRED", rests=True),
        Scene("cancelled while it waits", "bob", conditional("LIMIT_BUY", **far), "CANCELLED USER_REQUESTED",
              cancel_by="bob", rests=True),
        Scene("a market order that waits for the opening", "alice",
              buy(CLOSED, "5", price="10.00", queue_when_closed=True), "COMPLETED", rests=True),
        Scene("one that the opening jumped over", "bob",
              buy(CLOSED, "5", price="9.90", slippage_bps=50, queue_when_closed=True), "FAILED SLIPPAGE_EXCEEDED",
              rests=True),
        Scene("the session's end, without sessions", "bob", conditional("LIMIT_BUY", **far, time_in_force="DAY"),
              "FAILED NO_SESSION"),
        Scene("a limit that is amended, and then met", "bob", conditional("LIMIT_BUY", **far), "COMPLETED",
              rests=True, amend={"limit_price": "19.40", "quantity": "6"}),
        Scene("on hold while its price comes by", "alice", conditional("LIMIT_SELL", limit_price="20.60"),
              "CANCELLED USER_REQUESTED", rests=True, held=True),
    ]  # fmt: skip
