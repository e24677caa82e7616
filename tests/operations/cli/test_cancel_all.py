"""The commands `cancel-all`, `cancel-all-after` and `preview`, with an API that answers as it is told."""

from __future__ import annotations

from typing import Any

import pytest

from operations.access.errors import WrongRequest
from order_api.preview.examples import previews
from tests.operations.cli.support import Answering
from tests.support.shown_order import ORDER

T0, T1 = "2026-03-09T12:00:00Z", "2026-03-09T12:01:00Z"
DONE: dict[str, Any] = {
    "mass_cancel_id": ORDER["order_id"], "user_id": "alice", "asset_id": None, "side": None, "order_type": None,
    "orders": 3, "created_at": T0, "completed_at": T1,
}  # fmt: skip
TIMER: dict[str, Any] = {
    "user_id": "alice", "timeout_s": 60, "set_at": T0, "fires_at": None, "fired_at": None, "orders": None,
    "completed_at": None, "now": T0,
}  # fmt: skip


def _order(order_type: str, *, cancel_requested: bool = False) -> dict[str, Any]:
    return ORDER | {"order_type": order_type, "cancel_requested": cancel_requested}


def test_all_are_cancelled_with_a_key(api: Answering) -> None:
    """The filters are sent by their names, and nothing is asked at the terminal with --yes."""
    api.answer(DONE, DONE)
    result = api.typed("cancel-all", "--asset", "BTC", "--side", "buy", "--type", "LIMIT_BUY", "--key", "k", "--yes")
    assert (0, "3 cancels are asked for\n") == (result.exit_code, result.stdout)
    assert ["POST /orders/cancel-all"] == api.calls
    assert [{"asset_id": "BTC", "side": "BUY", "order_type": "LIMIT_BUY"}] == api.bodies
    assert ["k"] == api.keys
    assert '"orders": 3' in api.typed("cancel-all", "--yes", "--json").stdout
    assert api.keys[1] not in {None, "k"}


def test_a_dry_run_counts_page_by_page_and_cancels_none(api: Answering) -> None:
    """Orders of the side that are not being cancelled yet."""
    first = [_order("LIMIT_BUY"), _order("LIMIT_SELL"), _order("LIMIT_SELL", cancel_requested=True)]
    api.answer(
        {"orders": first, "has_more": True, "next_cursor": "next"},
        {"orders": [_order("MARKET_SELL")], "has_more": False, "next_cursor": None},
    )
    result = api.typed("cancel-all", "--side", "SELL", "--dry-run")
    assert (0, "2 orders would be cancelled\n") == (result.exit_code, result.stdout)
    assert [None, None] == api.bodies
    assert all(call.startswith("GET /orders?status=PENDING&status=CONFIRMED") for call in api.calls)
    assert "cursor=next" in api.calls[1]


def test_nobody_at_the_terminal_cancels_nothing(api: Answering) -> None:
    """Without --yes somebody must say yes; a program can't."""
    api.answer({"orders": [_order("LIMIT_BUY")], "has_more": False, "next_cursor": None})
    result = api.typed("cancel-all")
    assert isinstance(result.exception, WrongRequest)
    assert "cancel 1 orders of alice" in str(result.exception)
    assert 1 == len(api.calls)


def test_one_that_goes_on_says_so(api: Answering) -> None:
    """Exit 1, with the key that tells how far it is."""
    api.answer(DONE | {"completed_at": None})
    result = api.typed("cancel-all", "--yes", "--key", "k")
    assert (1, True) == (result.exit_code, "--key k" in result.stderr)


def test_a_timer_is_set_and_shown(api: Answering) -> None:
    """With seconds it is set, without it is read; that it has fired is told."""
    api.answer(TIMER | {"fires_at": T1}, TIMER | {"fired_at": T0, "orders": 2}, TIMER)
    assert f"all open orders of alice are cancelled at {T1}\n" == api.typed("cancel-all-after", "60").stdout
    shown = api.typed("cancel-all-after").stdout
    assert f"no timer of alice runs\nit fired at {T0} and has asked for 2 cancels\n" == shown
    assert '"fires_at": null' in api.typed("cancel-all-after", "0", "--json").stdout
    path = "/orders/cancel-all-after"
    assert [f"PUT {path}", f"GET {path}", f"PUT {path}"] == api.calls
    assert [{"timeout_s": 60}, None, {"timeout_s": 0}] == api.bodies


@pytest.mark.parametrize(
    ("name", "code", "line"),
    [
        ("fills", 0, "it would fill at once at 49998.5: it brings 0.01 BTC for a fee of 0.5 USD"),
        ("rests", 0, "it would rest; at 48000: it brings 0.1 BTC for a fee of 4.8 USD"),
        ("refused", 1, "refused: NOTIONAL_OUT_OF_RANGE: "),
        ("no answer", 0, "not checked: ASSET_NOT_FOUND, "),
    ],
)
def test_a_preview_is_told_in_lines(api: Answering, name: str, code: int, line: str) -> None:
    """What it would hold, cost and bring, what refuses it, and what was not checked."""
    api.answer(previews()[name].value)
    result = api.typed("preview", "LIMIT_BUY", "BTC", "0.1", "--limit-price", "48000")
    assert (code, True) == (result.exit_code, line in result.stdout), result.stdout
    assert "not checked: " in result.stdout
    assert ["POST /orders/preview"] == api.calls
    assert {"order_type": "LIMIT_BUY", "asset_id": "BTC", "quantity": "0.1", "limit_price": "48000"} == api.bodies[0]
