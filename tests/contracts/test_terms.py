"""Which fields each order type takes: the whole table, and the words of every refusal."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any, Final
from uuid import UUID

import pytest
from msgspec import structs

from contracts.assets import is_for_preview, preview_id
from contracts.decimals import Price, Quantity
from contracts.orders import OrderRequested
from contracts.terms import FIELDS, Terms, faults, slippage_of, terms_of
from contracts.vocabulary import OrderKind, OrderType, Side, TimeInForce

LATER: Final = datetime(2026, 2, 1, tzinfo=UTC)
GIVEN: Final[dict[str, Any]] = {
    "price": Price("50000"),
    "slippage_bps": 50,
    "limit_price": Price("49000"),
    "trigger_price": Price("48000"),
    "trail_amount": Price("100"),
    "trail_bps": 100,
}


def asked(order_type: OrderType, **fields: Any) -> OrderRequested:
    """Build a request with these fields."""
    return OrderRequested(UUID(int=1), "alice", "BTC", order_type, Quantity("1"), **fields)


def is_allowed(order_type: OrderType, given: set[str]) -> bool:
    """Judge a set of fields as section A2 of the design does, apart from the code."""
    buy = order_type.side is Side.BUY
    match order_type.kind:
        case OrderKind.MARKET:
            return given <= {"price", "slippage_bps"}
        case OrderKind.LIMIT:
            return given == {"limit_price"}
        case OrderKind.STOP_LOSS | OrderKind.TAKE_PROFIT:
            plain = {"trigger_price"}
            return given in (plain, plain | {"limit_price"}) or (buy and given == plain | {"slippage_bps"})
        case OrderKind.BRACKET:
            both = {"limit_price", "trigger_price"}
            return given == both or (buy and given == both | {"slippage_bps"})
        case OrderKind.TRAILING_STOP:
            return len(given & {"trail_amount", "trail_bps"}) == 1 and not given & {
                *("price", "limit_price", "trigger_price"),
                *(() if buy else ("slippage_bps",)),
            }


@pytest.mark.parametrize("order_type", OrderType)
def test_every_set_of_fields_is_judged_as_the_table_says(order_type: OrderType) -> None:
    """Of all 64 sets of price fields, those of the table have no fault; every other one names a field."""
    for chosen in product((False, True), repeat=len(GIVEN)):
        fields = {name: value for (name, value), taken in zip(GIVEN.items(), chosen, strict=True) if taken}
        if order_type is OrderType.BRACKET_BUY and "trigger_price" in fields:
            fields["trigger_price"] = Price("49000.01")  # above its limit
        found = faults(asked(order_type, **fields))
        assert (not found) == is_allowed(order_type, set(fields)), fields
        assert all(fault.field in OrderRequested.__struct_fields__ for fault in found)


_GOOD: Final[dict[OrderKind, dict[str, Any]]] = {
    OrderKind.MARKET: {},
    OrderKind.LIMIT: {"limit_price": Price("49000")},
    OrderKind.STOP_LOSS: {"trigger_price": Price("48000")},
    OrderKind.TAKE_PROFIT: {"trigger_price": Price("52000")},
    OrderKind.TRAILING_STOP: {"trail_bps": 100},
    OrderKind.BRACKET: {"limit_price": Price("52000"), "trigger_price": Price("48000")},
}


@pytest.mark.parametrize("order_type", OrderType)
@pytest.mark.parametrize("force", [None, *TimeInForce])
@pytest.mark.parametrize("expires_at", [None, LATER])
def test_times_in_force(order_type: OrderType, force: TimeInForce | None, expires_at: datetime | None) -> None:
    """GTD needs `expires_at`, nothing else takes it; only a limit order may be IOC or FOK; a market order has none."""
    allowed = FIELDS[order_type.kind].times_in_force
    good = force is None if not allowed else (force or TimeInForce.GTC) in allowed
    good = good and (expires_at is not None) == (force is TimeInForce.GTD)
    fields = _GOOD[order_type.kind]
    if order_type is OrderType.BRACKET_BUY:
        fields = {"limit_price": fields["trigger_price"], "trigger_price": fields["limit_price"]}
    found = faults(asked(order_type, **fields, time_in_force=force, expires_at=expires_at))
    assert (not found) == good


def test_a_refusal_says_what_would_be_right() -> None:
    """Each fault names its field and what the type takes instead."""
    limit = asked(OrderType.LIMIT_BUY, price=Price("1"), queue_when_closed=True)
    assert [tuple(fault) for fault in faults(limit)] == [
        ("limit_price", "is required for LIMIT_BUY"),
        ("price", "is not a field of LIMIT_BUY: give limit_price"),
    ]
    stop = asked(OrderType.STOP_LOSS_SELL, trigger_price=Price("1"), slippage_bps=1)
    assert "a sell exits at any price" in faults(stop)[0].rule
    stop_limit = asked(OrderType.STOP_LOSS_BUY, trigger_price=Price("1"), limit_price=Price("2"), slippage_bps=1)
    assert "beside limit_price" in faults(stop_limit)[0].rule
    trailing = asked(OrderType.TRAILING_STOP_SELL, time_in_force=TimeInForce.FOK, trail_bps=5)
    assert faults(trailing)[0].rule == "must be one of GTC, GTD, DAY for TRAILING_STOP_SELL"


@pytest.mark.parametrize("order_type", [OrderType.MARKET_BUY, OrderType.MARKET_SELL])
def test_a_market_order_queues_only_for_a_price_and_names_its_end_only_then(order_type: OrderType) -> None:
    """All sixteen sets of what a market order may say of its wait; `false` is as if nothing was said."""
    for priced, queues, ends, timed in product((False, True), repeat=4):
        fields: dict[str, Any] = {"price": Price("1")} if priced else {}
        fields |= {"expires_at": LATER} if ends else {}
        fields |= {"time_in_force": TimeInForce.GTD} if timed else {}
        found = faults(asked(order_type, queue_when_closed=queues, **fields))
        wrong = {"price"} if queues and not priced else {"expires_at"} if ends and not queues else set()
        assert {fault.field for fault in found} == wrong | ({"time_in_force"} if timed else set()), fields


@pytest.mark.parametrize(
    ("order_type", "trigger", "rule"),
    [
        (OrderType.BRACKET_SELL, "48999.99", None),
        (OrderType.BRACKET_SELL, "49000", "must be below limit_price for BRACKET_SELL"),
        (OrderType.BRACKET_SELL, "49000.01", "must be below limit_price for BRACKET_SELL"),
        (OrderType.BRACKET_BUY, "49000.01", None),
        (OrderType.BRACKET_BUY, "49000", "must be above limit_price for BRACKET_BUY"),
        (OrderType.BRACKET_BUY, "48999.99", "must be above limit_price for BRACKET_BUY"),
    ],
)
def test_the_levels_of_a_bracket_leave_room_for_the_market(
    order_type: OrderType, trigger: str, rule: str | None
) -> None:
    """A sell takes its gain above its stop, a buy gets in below its breakout; one price for both is refused too."""
    found = faults(asked(order_type, limit_price=Price("49000"), trigger_price=Price(trigger)))
    assert found == (() if rule is None else (("trigger_price", rule),))


@pytest.mark.parametrize(
    ("order_type", "fields", "expected"),
    [
        (OrderType.MARKET_SELL, {}, 100),
        (OrderType.MARKET_BUY, {"slippage_bps": 0}, 0),
        (OrderType.LIMIT_BUY, {"limit_price": Price("1")}, None),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": Price("1")}, 100),
        (OrderType.STOP_LOSS_BUY, {"trigger_price": Price("1"), "limit_price": Price("2")}, None),
        (OrderType.STOP_LOSS_SELL, {"trigger_price": Price("1")}, None),
        (OrderType.TRAILING_STOP_BUY, {"trail_bps": 5, "slippage_bps": 7}, 7),
        (OrderType.TRAILING_STOP_SELL, {"trail_bps": 5}, None),
        (OrderType.BRACKET_BUY, {"limit_price": Price("1"), "trigger_price": Price("2")}, 100),
        (OrderType.BRACKET_BUY, {"limit_price": Price("1"), "trigger_price": Price("2"), "slippage_bps": 0}, 0),
        (OrderType.BRACKET_SELL, {"limit_price": Price("2"), "trigger_price": Price("1")}, None),
    ],
)
def test_slippage_is_resolved_by_the_type(order_type: OrderType, fields: dict[str, Any], expected: int | None) -> None:
    """100 where slippage applies and was not given; nothing where it does not apply."""
    assert slippage_of(asked(order_type, **fields)) == expected


def test_a_market_order_has_no_terms_and_every_other_keeps_all_of_them() -> None:
    """Terms are what the request says; GTC unless it says otherwise. One that may queue waits until a time."""
    market = asked(OrderType.MARKET_BUY, price=Price("1"), queue_when_closed=False)
    assert terms_of(market) is None
    queues = structs.replace(market, queue_when_closed=True, expires_at=LATER)
    assert terms_of(queues) == Terms(queue_when_closed=True, time_in_force=TimeInForce.GTD, expires_at=LATER)
    request = asked(OrderType.TRAILING_STOP_SELL, trail_bps=100, queue_when_closed=True)
    assert terms_of(request) == Terms(trail_bps=100, queue_when_closed=True)
    gtd = structs.replace(request, time_in_force=TimeInForce.GTD, expires_at=LATER)
    assert terms_of(gtd) == Terms(
        trail_bps=100, queue_when_closed=True, time_in_force=TimeInForce.GTD, expires_at=LATER
    )


def test_only_what_may_wait_for_a_time_takes_a_time_in_force() -> None:
    """A market order waits for the opening at most, and only until a time."""
    assert FIELDS[OrderKind.MARKET].of_time == ("expires_at", "queue_when_closed")
    others = [rules.of_time for kind, rules in FIELDS.items() if kind is not OrderKind.MARKET]
    assert set(others) == {("time_in_force", "expires_at", "queue_when_closed")}


def test_the_check_of_a_preview_is_told_by_its_id() -> None:
    """No order's check has such an id."""
    number = UUID(int=7)
    assert is_for_preview(preview_id(number))
    assert not is_for_preview(f"{number}:check")
    assert not is_for_preview(f"{number}:check.2")
