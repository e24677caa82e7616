"""What a conditional order waits for, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from operations.access.conditions import condition, is_resting, level_or_trail, levels

NOTHING: dict[str, Any] = {
    **dict.fromkeys(("limit_price", "trigger_price", "trail_amount", "trail_bps", "watermark", "expires_at")),
    "triggered": False,
}
STOP_LIMIT: dict[str, Any] = {"order_type": "STOP_LOSS_BUY", "trigger_price": "52000", "limit_price": "52300.50"}
BRACKET: dict[str, Any] = {"order_type": "BRACKET_SELL", "limit_price": "55000.00", "trigger_price": "47500"}
BOUGHT: dict[str, Any] = {"order_type": "BRACKET_BUY", "limit_price": "47500", "trigger_price": "55000"}
TRAIL: dict[str, Any] = {"trail_bps": 300, "watermark": Decimal("50000.00"), "trigger_price": Decimal(48_500)}


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"order_type": "LIMIT_BUY", "limit_price": "48000"}, "fires at a price <= 48,000"),
        ({"order_type": "LIMIT_SELL", "limit_price": "0.00000001"}, "fires at a price >= 0.00000001"),
        ({"order_type": "STOP_LOSS_BUY", "trigger_price": "52000"}, "fires at a price >= 52,000"),
        ({"order_type": "STOP_LOSS_SELL", "trigger_price": "100.00"}, "fires at a price <= 100"),
        ({"order_type": "TAKE_PROFIT_BUY", "trigger_price": "52000"}, "fires at a price <= 52,000"),
        ({"order_type": "TAKE_PROFIT_SELL", "trigger_price": "52000"}, "fires at a price >= 52,000"),
        (BRACKET, "fires at a price >= 55,000 or <= 47,500"),
        (BRACKET | BOUGHT, "fires at a price <= 47,500 or >= 55,000"),
        (STOP_LIMIT, "is triggered at a price >= 52,000, and then fills at a price <= 52,300.5"),
        (STOP_LIMIT | {"triggered": True}, "fires at a price <= 52,300.5"),
        (TRAIL | {"order_type": "TRAILING_STOP_SELL"}, "fires at a price <= 48,500 (3 % below 50,000)"),
        (
            TRAIL | {"order_type": "TRAILING_STOP_BUY", "trail_bps": None, "trail_amount": "1500.00"},
            "fires at a price >= 48,500 (1,500 above 50,000)",
        ),
        ({"order_type": "TRAILING_STOP_SELL", "trail_bps": 305}, "waits for a price"),
        (
            {"order_type": "MARKET_BUY", "asset_id": "NIGHT", "expires_at": "2026-03-09T12:00:00Z"},
            "waits for the opening of NIGHT, until 2026-03-09 12:00:00 UTC",
        ),
        (
            {"order_type": "LIMIT_BUY", "limit_price": "48000", "expires_at": "2026-03-09T14:00:00+02:00"},
            "fires at a price <= 48,000, until 2026-03-09 12:00:00 UTC",
        ),
        (
            {"order_type": "LIMIT_BUY", "limit_price": "1", "expires_at": datetime(2026, 3, 9, tzinfo=UTC)},
            "fires at a price <= 1, until 2026-03-09 00:00:00 UTC",
        ),
    ],
)
def test_a_condition_is_a_sentence(order: dict[str, Any], words: str) -> None:
    """For each type, of an order by REST or from the database."""
    assert words == condition(NOTHING | order)


def test_the_tick_that_set_the_watermark_is_named() -> None:
    """Where it is known."""
    order = NOTHING | TRAIL | {"order_type": "TRAILING_STOP_SELL"}
    assert "fires at a price <= 48,500 (3 % below 50,000 of sequence 8,123)" == condition(order, 8123)


@pytest.mark.parametrize(
    ("order", "short"),
    [
        ({"order_type": "MARKET_BUY"}, ""),
        ({"order_type": None}, ""),
        ({"order_type": "ICEBERG_SELL", "limit_price": "48000"}, ""),
        (BRACKET, ">= 55,000 or <= 47,500"),
        ({"order_type": "LIMIT_BUY", "limit_price": "48000"}, "<= 48,000"),
        ({"order_type": "TRAILING_STOP_BUY", "trail_bps": 305}, "3.05 %"),
        ({"order_type": "TRAILING_STOP_BUY", "trail_amount": "100"}, "100"),
    ],
)
def test_a_list_shows_the_level_or_the_trail(order: dict[str, Any], short: str) -> None:
    """Nothing for an order that waits for no price, or of a type that this version does not know."""
    assert short == level_or_trail(NOTHING | order)
    assert bool(levels(NOTHING | order)) == short.startswith(("<", ">"))


def test_an_order_rests_from_its_acceptance_until_its_cancel() -> None:
    """A market order that is CONFIRMED does not."""
    order = {"status": "CONFIRMED", "revision": 1, "cancel_requested": False}
    assert is_resting(order)
    for other in ({"revision": None}, {"status": "PROCESSING"}, {"cancel_requested": True}):
        assert not is_resting(order | other)
