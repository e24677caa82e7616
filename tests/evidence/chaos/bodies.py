"""What the load asks for: market orders that are good or hopeless, and conditional orders near and far."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

FEED: Final = ("WAVE", "SWELL")
"""The assets whose prices walk; conditional orders are for these."""
START: Final = Fraction(100)
NEAR: Final = (0.02, 0.6)
FAR: Final = (4.0, 30.0)
"""How far from the newest price a level is. A walk at 50 a second moves by about 0.4 in a second, and by 3 in 60."""
NEAR_SHARE: Final = 0.75
AMOUNTS: Final = ((0.05, 0.10, 0.20, 0.30, 0.50), (5.0, 10.0, 20.0))
TRAILS_BPS: Final = ((5, 10, 20, 30, 50), (500, 1_000, 2_000))
"""Trails, near and far: few different ones, as users choose them."""
LIFE_S: Final = (3.0, 60.0)
TYPES: Final = tuple(
    f"{kind}_{side}"
    for kind in ("LIMIT", "STOP_LOSS", "TAKE_PROFIT", "TRAILING_STOP", "BRACKET")
    for side in ("BUY", "SELL")
)

HOPELESS: Final = (
    ({"order_type": "MARKET_BUY", "asset_id": "BTC", "quantity": "0.01"}, "FAILED INSUFFICIENT_BALANCE", "carol"),
    ({"order_type": "MARKET_SELL", "asset_id": "BTC", "quantity": "0.01"}, "FAILED INSUFFICIENT_BALANCE", "carol"),
    ({"order_type": "MARKET_BUY", "asset_id": "BTC", "quantity": "0.01"}, "FAILED ACCOUNT_NOT_FOUND", "nobody"),
    ({"order_type": "MARKET_BUY", "asset_id": "NOPE", "quantity": "1"}, "FAILED ASSET_NOT_FOUND", None),
    ({"order_type": "MARKET_SELL", "asset_id": "ACME", "quantity": "1.5"}, "FAILED INVALID_STEP", None),
    ({"order_type": "MARKET_BUY", "asset_id": "HALT", "quantity": "5"}, "FAILED ASSET_NOT_TRADABLE", None),
    (
        {"order_type": "MARKET_BUY", "asset_id": "BTC", "quantity": "0.01", "price": "45000.00"},
        "FAILED SLIPPAGE_EXCEEDED",
        None,
    ),
)
"""Orders that must be refused: content, expected end, and the user where that matters."""


def good_body(rng: random.Random) -> dict[str, Any]:
    """Make a market order that nothing but a fault stops."""
    side, asset, quantity = rng.choice(
        (
            ("MARKET_BUY", "BTC", f"0.{rng.randrange(100_000, 2_000_000):08d}"),
            ("MARKET_BUY", "ETH", f"0.{rng.randrange(1_000_000, 50_000_000):08d}"),
            ("MARKET_BUY", "ACME", str(rng.randrange(1, 20))),
            ("MARKET_SELL", "BTC", f"0.{rng.randrange(100_000, 2_000_000):08d}"),
            ("MARKET_SELL", "ACME", str(rng.randrange(1, 20))),
        )
    )
    return {"order_type": side, "asset_id": asset, "quantity": quantity}


def conditional_body(rng: random.Random, asset_id: str, price: Fraction, *, far: bool | None = None) -> dict[str, Any]:
    """Make a conditional order; `price`: the newest that is known. `far`: whether its level is; by chance if None."""
    order_type = rng.choice(TYPES)
    waits_long = rng.random() > NEAR_SHARE if far is None else far
    body: dict[str, Any] = {"order_type": order_type, "asset_id": asset_id, "quantity": f"{rng.uniform(0.5, 2.0):.4f}"}
    kind, _, side = order_type.rpartition("_")
    if kind == "TRAILING_STOP":
        body |= _trail(rng, waits_long)
    else:
        above = (side == "SELL") is (kind != "STOP_LOSS")
        distance = rng.uniform(*(FAR if waits_long else NEAR))
        if not waits_long and rng.random() < 0.1:  # its condition is met already
            distance = -distance
        level = float(price) + (distance if above else -distance)
        if kind == "LIMIT":
            body["limit_price"] = f"{level:.2f}"
        elif kind == "BRACKET":
            body |= _bracket(float(price), level, rng.uniform(*(FAR if waits_long else NEAR)), sells=side == "SELL")
        else:
            body |= _trigger(rng, level)
    slips = kind != "LIMIT" and (kind == "BRACKET" or "limit_price" not in body)
    if side == "BUY" and slips and rng.random() < 0.5:
        body["slippage_bps"] = rng.choice((1, 5, 20, 300))
    return body | _time(rng, kind, waits_long)


def amend_of(rng: random.Random, body: dict[str, Any]) -> dict[str, Any]:
    """Make what an amend changes: the quantity, and perhaps what the order waits for. None is like another."""
    changed = {"quantity": f"{rng.uniform(0.5, 2.0):.8f}"}
    if rng.random() < 0.5:
        return changed
    if "trail_amount" in body:
        return changed | {"trail_amount": f"{rng.choice(AMOUNTS[rng.random() < 0.5]):.2f}"}
    if "trail_bps" in body:
        return changed | {"trail_bps": rng.choice(TRAILS_BPS[rng.random() < 0.5])}
    name = "trigger_price" if "trigger_price" in body else "limit_price"
    return changed | {name: f"{float(body[name]) + rng.choice((-1, 1)) * rng.uniform(*NEAR):.2f}"}


def conditional_ends(body: dict[str, Any]) -> list[str]:
    """List how a conditional order may end, as "STATUS REASON", whatever its price does."""
    kind, _, side = body["order_type"].rpartition("_")
    ends = ["COMPLETED", "CANCELLED USER_REQUESTED", "FAILED ASSET_NOT_TRADABLE"]
    ends += ["FAILED WOULD_TRIGGER_IMMEDIATELY"] if "trigger_price" in body else []
    ends += ["CANCELLED UNFILLED"] if body.get("time_in_force") in {"IOC", "FOK"} else []
    stops = kind == "BRACKET" or (kind in {"STOP_LOSS", "TRAILING_STOP"} and "limit_price" not in body)
    capped = side == "BUY" and stops
    return ends + (["FAILED SLIPPAGE_EXCEEDED"] if capped else [])


def _trail(rng: random.Random, far: bool) -> dict[str, Any]:  # noqa: FBT001 - a local
    if rng.random() < 0.5:
        return {"trail_amount": f"{rng.choice(AMOUNTS[far]):.2f}"}
    return {"trail_bps": rng.choice(TRAILS_BPS[far])}


def _bracket(price: float, limit: float, away: float, *, sells: bool) -> dict[str, Any]:
    """Put the stop on the other side of the market, so far away; a limit that is there itself stays a tick before."""
    if sells:
        trigger = round(min(limit, price - away), 2)
        return {"limit_price": f"{max(limit, trigger + 0.01):.2f}", "trigger_price": f"{trigger:.2f}"}
    trigger = round(max(limit, price + away), 2)
    return {"limit_price": f"{min(limit, trigger - 0.01):.2f}", "trigger_price": f"{trigger:.2f}"}


def _trigger(rng: random.Random, level: float) -> dict[str, Any]:
    body = {"trigger_price": f"{level:.2f}"}
    if rng.random() < 0.35:
        body["limit_price"] = f"{level + rng.choice((-1, 1)) * rng.uniform(0.01, 0.3):.2f}"
        if body["limit_price"] == body["trigger_price"]:
            del body["limit_price"]
    return body


def _time(rng: random.Random, kind: str, far: bool) -> dict[str, Any]:  # noqa: FBT001 - a local
    chance = rng.random()
    if kind == "LIMIT" and not far and chance < 0.15:
        return {"time_in_force": rng.choice(("IOC", "FOK"))}
    if chance < 0.3:
        expires_at = datetime.now(UTC) + timedelta(seconds=rng.uniform(*LIFE_S) * (10 if far else 1))
        return {"time_in_force": "GTD", "expires_at": expires_at.isoformat()}
    return {"time_in_force": "GTC"} if chance < 0.6 else {}
