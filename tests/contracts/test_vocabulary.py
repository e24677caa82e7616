"""The vocabularies are closed: each code has a meaning, and each hold state says whether money is held."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contracts.assets import AssetRefusal
from contracts.balance import BalanceRefusal
from contracts.terms import SLIPPAGE_BPS_DEFAULT
from contracts.vocabulary import (
    REASONS,
    HoldState,
    OrderKind,
    OrderStatus,
    OrderType,
    ReasonCode,
    Side,
    TimeInForce,
    check_instant,
)


def test_reason_codes_are_those_of_the_specification() -> None:
    """A new code needs an ADR and an entry in this list."""
    assert {
        *("INVALID_ORDER", "ACCOUNT_NOT_FOUND", "INSUFFICIENT_BALANCE", "ASSET_NOT_FOUND", "ASSET_NOT_TRADABLE"),
        *("ASSET_UNAVAILABLE", "STALE_PRICE", "SLIPPAGE_EXCEEDED", "INVALID_STEP", "INVALID_TICK"),
        *("QUANTITY_OUT_OF_RANGE", "NOTIONAL_OUT_OF_RANGE", "DUPLICATE_CLIENT_ORDER_ID", "ORDER_ID_TAKEN"),
        *("HOLD_CONFLICT", "WOULD_TRIGGER_IMMEDIATELY", "TIMED_OUT", "EXECUTION_FAILED", "USER_REQUESTED", "EXPIRED"),
        *("OPERATOR", "UNFILLED", "PRICE_OUT_OF_RANGE", "TOO_MANY_OPEN_ORDERS", "NO_SESSION"),
    } == set(ReasonCode)


def test_every_reason_code_has_a_meaning_of_its_own() -> None:
    """Each reason code has its own explanation."""
    assert list(ReasonCode) == list(REASONS)
    assert len(REASONS) == len({reason.meaning for reason in REASONS.values()})
    assert all(reason.meaning.endswith(".") for reason in REASONS.values())


def test_what_is_retryable() -> None:
    """A stale price, a time-out, an unavailable asset or too many open orders may pass if the order is sent again."""
    assert {
        *(ReasonCode.STALE_PRICE, ReasonCode.TIMED_OUT, ReasonCode.ASSET_UNAVAILABLE, ReasonCode.TOO_MANY_OPEN_ORDERS)
    } == {code for code, reason in REASONS.items() if reason.retryable}


def test_asset_refusals_are_reason_codes() -> None:
    """Each refusal code of the asset service is a reason code of the order."""
    assert {ReasonCode(refusal) for refusal in AssetRefusal} <= set(ReasonCode)


def test_balance_refusals_that_end_an_order_are_reason_codes() -> None:
    """A balance refusal that can end an order has a reason code of its name; one about a hold's state has none."""
    about_the_hold = {"CLOSED", "NOT_HELD", "EXCEEDS_HOLD", "SUPERSEDED", "NOT_SUPPORTED"}
    assert about_the_hold == set(BalanceRefusal) - set(ReasonCode)


@pytest.mark.parametrize("names", [OrderType, OrderStatus, HoldState, ReasonCode, AssetRefusal, BalanceRefusal, Side])
def test_a_name_is_its_value(names: type[ReasonCode]) -> None:
    """The stored and sent form is the name, so reordering or renaming in the code can't change the wire."""
    assert [name.name for name in names] == [name.value for name in names]


def test_sides() -> None:
    """Each order is a buy or a sell."""
    assert [Side.BUY, Side.SELL] * 6 == [order_type.side for order_type in OrderType]
    kinds = [kind for kind in OrderKind for _ in Side]
    assert kinds == [order_type.kind for order_type in OrderType]


def test_which_orders_wait() -> None:
    """Good till cancelled, a date, or the session's end wait; the two others are filled on entry or not at all."""
    waits = {TimeInForce.GTC, TimeInForce.GTD, TimeInForce.DAY}
    assert waits == {force for force in TimeInForce if force.rests}


def test_terminal_statuses() -> None:
    """Three of the six statuses are terminal."""
    expected = [OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.FAILED]
    assert expected == [status for status in OrderStatus if status.terminal]


def test_which_hold_states_prove_that_nothing_is_held() -> None:
    """Refused, refunded and tombstone prove that nothing is held; settled proves that the money was spent."""
    expected = [HoldState.REFUNDED, HoldState.REFUSED, HoldState.TOMBSTONE]
    assert expected == [state for state in HoldState if state.nothing_held]


@pytest.mark.parametrize("year", [1970, 2999])
def test_instants_in_range(year: int) -> None:
    """The first and the last allowed year are accepted."""
    check_instant(datetime(year, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("year", [1, 1969, 3000, 9999])
def test_instants_out_of_range(year: int) -> None:
    """A time at the ends of the calendar is refused, because a zone or a delay would overflow it."""
    with pytest.raises(ValueError, match="from 1970 to 2999"):
        check_instant(datetime(year, 1, 1, tzinfo=UTC))


def test_default_slippage() -> None:
    """The default slippage is one percent."""
    assert SLIPPAGE_BPS_DEFAULT == 100
