"""The load's conditional orders are good ones, of every type, near the market and far from it."""

from __future__ import annotations

import random
import uuid
from datetime import datetime
from fractions import Fraction
from typing import Any

import msgspec

from contracts.codec import decoder
from contracts.orders import OrderRequested
from contracts.terms import faults
from tests.evidence.chaos.bodies import FAR, FEED, NEAR, START, TYPES, conditional_body, conditional_ends

RNG = random.Random(1)  # noqa: S311 - chance that can be repeated is the point
BODIES = [conditional_body(RNG, FEED[0], START) for _ in range(2_000)]


def test_every_body_is_a_request_without_faults() -> None:
    """No body breaks a rule of its type, so an order that is refused for its shape is a fault of the system."""
    read = decoder(OrderRequested)
    for body in BODIES:
        named = body | {"order_id": str(uuid.UUID(int=1)), "user_id": "alice"}
        assert () == faults(read.decode(msgspec.json.encode(named))), body


def test_there_is_something_of_everything() -> None:
    """All types, all times in force, both kinds of trail and stops with a limit occur; levels are near or far."""
    assert set(TYPES) == {body["order_type"] for body in BODIES}
    assert {None, "GTC", "GTD", "IOC", "FOK"} == {body.get("time_in_force") for body in BODIES}
    assert all(any(name in body for body in BODIES) for name in ("trail_amount", "trail_bps", "slippage_bps"))
    assert any({"limit_price", "trigger_price"} <= body.keys() for body in BODIES)
    away = [abs(Fraction(body["trigger_price"]) - START) for body in BODIES if "trigger_price" in body]
    near = [one for one in away if one <= Fraction(NEAR[1]) + Fraction(1, 100)]
    assert near
    assert all(one >= Fraction(FAR[0]) - Fraction(1, 100) for one in away if one not in near)
    assert len(near) < len(away)


def test_a_body_says_how_it_may_end() -> None:
    """Only a stop that buys without a limit may fail by its slippage, and only an order with a trigger at its quote."""

    def may(end: str, body: dict[str, Any]) -> bool:
        return end in conditional_ends(body)

    for body in BODIES:
        capped = body["order_type"] in {"STOP_LOSS_BUY", "TRAILING_STOP_BUY"} and "limit_price" not in body
        capped = capped or body["order_type"] == "BRACKET_BUY"
        assert capped == may("FAILED SLIPPAGE_EXCEEDED", body)
        assert ("trigger_price" in body) == may("FAILED WOULD_TRIGGER_IMMEDIATELY", body)
        assert (body.get("time_in_force") in {"IOC", "FOK"}) == may("CANCELLED UNFILLED", body)
        assert may("COMPLETED", body)
    assert all(datetime.fromisoformat(body["expires_at"]).tzinfo for body in BODIES if "expires_at" in body)
