"""The demo's orders: one for every way in which a market order can end, with the end that is announced."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

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
    by_kafka: bool = False
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
