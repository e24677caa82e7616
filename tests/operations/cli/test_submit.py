"""The commands `submit` and `orders`, with an API that answers as it is told."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from operations.access.errors import WrongRequest
from tests.operations.cli.support import Answering
from tests.support.shown_order import ORDER

LIMIT_ORDER = ORDER | {"order_type": "LIMIT_BUY", "limit_price": "48000", "time_in_force": "GTC"}
RESTS = LIMIT_ORDER | {"status": "CONFIRMED", "revision": 1, "held_amount": "4804.8", "held_asset_id": "USD"}
ID = ORDER["order_id"]
LIMIT = ("LIMIT_BUY", "BTC", "0.1", "--limit-price", "48000")


def test_an_order_that_rests_is_an_answer(api: Answering) -> None:
    """It says at which price it fires and what it holds, and exits 0; in JSON it is the order."""
    api.answer(LIMIT_ORDER, RESTS, LIMIT_ORDER, RESTS)
    result = api.typed("submit", *LIMIT)
    assert (0, True) == (result.exit_code, f"order {ID} rests: fires at a price <= 48,000\n" in result.stdout)
    assert "it holds 4,804.8 USD" in result.stdout
    assert {"order_type": "LIMIT_BUY", "asset_id": "BTC", "quantity": "0.1", "limit_price": "48000"} == api.bodies[0]
    assert '"revision": 1' in api.typed("submit", *LIMIT, "--json").stdout


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_an_order_that_ends_meanwhile_says_how(api: Answering, status: str, code: int) -> None:
    """As one of a market order does."""
    api.answer(LIMIT_ORDER, LIMIT_ORDER | {"status": status, "reason_code": "UNFILLED", "reason": "no"})
    result = api.typed("submit", *LIMIT, "--time-in-force", "IOC")
    assert (code, True) == (result.exit_code, f"order {ID}: {status}" in result.stdout)


def test_every_term_is_sent_and_stands_in_the_command_to_type_again(api: Answering) -> None:
    """A time from now on stands there as what it was, so that it is the same order."""
    api.answer(RESTS)
    result = api.typed(
        *("submit", "TRAILING_STOP_BUY", "BTC", "0.1", "--trail-bps", "300", "--slippage-bps", "5", "--key", "k"),
        *("--trail-amount", "2", "--trigger-price", "3", "--expires-at", "+2h", "--queue-when-closed"),
    )
    [body] = api.bodies
    ends = datetime.fromisoformat(body.pop("expires_at"))
    assert timedelta(hours=1, minutes=59) < ends - datetime.now(UTC) <= timedelta(hours=2)
    assert {
        "order_type": "TRAILING_STOP_BUY",
        "asset_id": "BTC",
        "quantity": "0.1",
        "trail_bps": 300,
        "slippage_bps": 5,
        "trail_amount": "2",
        "trigger_price": "3",
        "time_in_force": "GTD",
        "queue_when_closed": True,
    } == body
    again = re.search("no second order: order-saga (.*)", result.stderr)
    assert again is not None
    api.answer(RESTS)
    assert 0 == api.typed(*again[1].split()).exit_code
    assert body == {name: value for name, value in api.bodies[1].items() if name != "expires_at"}
    assert ends == datetime.fromisoformat(api.bodies[1]["expires_at"])


@pytest.mark.parametrize("time", ["+", "+2", "+2w", "+-2h", "+1.5h", "+\u0663h", "+9999999d"])
def test_a_time_that_is_none_is_wrong_usage(api: Answering, time: str) -> None:
    """It says how one is written, and nothing is sent."""
    result = api.typed("submit", *LIMIT, f"--expires-at={time}")
    assert isinstance(result.exception, WrongRequest)
    assert "from now on is written +90s, +30m, +2h or +7d" in str(result.exception)
    assert [] == api.bodies


def test_a_list_shows_each_type_with_its_level(api: Answering) -> None:
    """A market order has none."""
    api.answer({"orders": [RESTS, ORDER], "has_more": False, "next_cursor": None})
    lines = api.typed("orders").stdout.splitlines()
    [limit] = [line for line in lines if "LIMIT_BUY" in line]
    assert "<= 48,000" in limit
    assert not any("=" in line for line in lines if "MARKET_BUY" in line)
