"""The orders of these tests: single ones, and a random mix of every outcome. No I/O."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COMPLETED = "COMPLETED"
CANCELLED = "CANCELLED USER_REQUESTED"
RETRYABLE = frozenset({"FAILED TIMED_OUT", "FAILED STALE_PRICE"})
"""How a good order may end when services are away for long."""


@dataclass(frozen=True)
class Wanted:
    """An order to submit. `ends`: its expected final status and reason; an order to be cancelled may also complete."""

    user_id: str
    order_type: str
    asset_id: str
    quantity: str
    price: str | None = None
    ends: str = COMPLETED
    cancel: bool = False
    terms: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a conditional order."""
    order_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """For orders by Kafka; the API mints its own."""

    @property
    def body(self) -> dict[str, Any]:
        """The body of `POST /orders`."""
        asked = {"order_type": self.order_type, "asset_id": self.asset_id, "quantity": self.quantity}
        return {**asked, **self.terms, **({} if self.price is None else {"price": self.price})}

    @property
    def announced(self) -> set[str]:
        """The final statuses, with reasons, that are correct for it."""
        return {self.ends, CANCELLED} if self.cancel else {self.ends}


def buy(user_id: str, asset_id: str, quantity: str, **more: Any) -> Wanted:
    """Make a market buy."""
    return Wanted(user_id, "MARKET_BUY", asset_id, quantity, **more)


def sell(user_id: str, asset_id: str, quantity: str, **more: Any) -> Wanted:
    """Make a market sell."""
    return Wanted(user_id, "MARKET_SELL", asset_id, quantity, **more)


def mixed(users: Sequence[str], seed: int) -> Iterator[Wanted]:
    """Make a mix of buys, sells, refusals and cancels for users who have `HOLDINGS`; the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - a test's dice must fall alike each time
    while True:
        yield _any_order(rng, users)


HOLDINGS = {"USD": "100000.00", "BTC": "5", "ACME": "1000"}
"""What each user needs in order to trade a mix of some hundred orders."""


def _any_order(rng: random.Random, users: Sequence[str]) -> Wanted:
    user, dice = rng.choice(users), rng.random()
    if dice < 0.15:
        return _refused(rng, user)
    good = _good(rng, user)
    return Wanted(user, good.order_type, good.asset_id, good.quantity, cancel=dice < 0.30)


def _good(rng: random.Random, user: str) -> Wanted:
    fraction = f"0.{rng.randrange(100_000, 2_000_000):08d}"  # 0.001 to 0.02, all eight places
    return rng.choice(
        (
            buy(user, "BTC", fraction),
            buy(user, "ETH", f"0.{rng.randrange(1_000_000, 50_000_000):08d}"),
            buy(user, "ACME", str(rng.randrange(1, 20))),
            sell(user, "BTC", fraction),
            sell(user, "ACME", str(rng.randrange(1, 20))),
        )
    )


def _refused(rng: random.Random, user: str) -> Wanted:
    return rng.choice(
        (
            buy("carol", "BTC", "0.01", ends="FAILED INSUFFICIENT_BALANCE"),
            sell("carol", "BTC", "0.01", ends="FAILED INSUFFICIENT_BALANCE"),
            buy("nobody", "BTC", "0.01", ends="FAILED ACCOUNT_NOT_FOUND"),
            buy(user, "NOPE", "1", ends="FAILED ASSET_NOT_FOUND"),
            sell(user, "ACME", "1.5", ends="FAILED INVALID_STEP"),
            buy(user, "HALT", "5", ends="FAILED ASSET_NOT_TRADABLE"),
            buy(user, "BTC", "0.01", price="45000.00", ends="FAILED SLIPPAGE_EXCEEDED"),
        )
    )
