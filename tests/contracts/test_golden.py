"""Golden bytes: every encoding that was ever on the wire stays decodable, and a changed encoding fails a test.

`golden/<MessageType>.json` is a record's value to the byte, `.headers.json` its headers. Never change one: topics,
outbox rows and dead letters hold such bytes. When a message gets a new field, its old file stays under another name,
such as `<MessageType>.v1.json`, with the value that it means now, and decodes as before.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from msgspec import structs

from contracts.amends import (
    AmendRefusal,
    AmendState,
    OrderAmendment,
    OrderAmendRequested,
    OrderHoldRequested,
    OrderReleaseRequested,
)
from contracts.assets import (
    AssetApproved,
    AssetPriceChanged,
    AssetRefusal,
    AssetRefused,
    CheckAsset,
    Purpose,
    Trading,
)
from contracts.balance import (
    AdjustBalance,
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReserved,
    BalanceSettled,
    RefundBalance,
    RefundRefused,
    ReserveBalance,
    SettleBalance,
    SettlementRefused,
)
from contracts.codec import MESSAGES, Message, decode, encode, outgoing
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.envelope import Envelope, read_envelope
from contracts.holds import (
    HoldCaptured,
    HoldCaptureRefused,
    HoldCaptureRequested,
    HoldExpired,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    HoldReleaseRefused,
    HoldReleaseRequested,
    HoldRequested,
)
from contracts.orders import Order, OrderCancelRequested, OrderRequested, OrderStatusChanged
from contracts.vocabulary import HoldState, OrderStatus, OrderType, ReasonCode, TimeInForce

FOLDER: Final = Path(__file__).parent / "golden"
ORDER: Final = "0192f0c4-7a1e-7c3b-9d2f-4e5a6b7c8d9e"
ORDER_ID: Final = UUID(ORDER)
EARLIER: Final = datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)
LATER: Final = datetime(2026, 2, 1, tzinfo=UTC)
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RESERVE: Final[tuple[str, UUID, str]] = (f"{ORDER}:reserve", ORDER_ID, f"{ORDER}:reserve")
SETTLE: Final[tuple[str, UUID, str]] = (f"{ORDER}:settle", ORDER_ID, f"{ORDER}:reserve")
REFUND: Final[tuple[str, UUID, str]] = (f"{ORDER}:refund", ORDER_ID, f"{ORDER}:reserve")
ADJUST: Final[tuple[str, UUID, str]] = (f"{ORDER}:adjust.2", ORDER_ID, f"{ORDER}:reserve")

HOLD: Final[tuple[UUID, str, str, Quantity]] = (ORDER_ID, "alice", "USD", Quantity("250.000000000000000001"))

COMPLETED: Final = OrderStatusChanged(
    order_id=ORDER_ID,
    version=4,
    status=OrderStatus.COMPLETED,
    previous_status=OrderStatus.PROCESSING,
    reason_code=None,
    occurred_at=LATER,
    order=Order(
        order_id=ORDER_ID,
        client_order_id="my-order.1",
        user_id="alice",
        asset_id="BTC",
        order_type=OrderType.MARKET_BUY,
        status=OrderStatus.COMPLETED,
        quantity=Quantity("0.01"),
        price=Price("50000.5"),
        slippage_bps=100,
        filled_quantity=Money("0.01"),
        average_price=Exact("50000"),
        fee=Money("0.5"),
        reason_code=None,
        reason=None,
        cancel_requested=False,
        version=4,
        created_at=EARLIER,
        updated_at=LATER,
    ),
)
INVALID: Final = OrderStatusChanged(
    order_id=ORDER_ID,
    version=2,
    status=OrderStatus.FAILED,
    previous_status=OrderStatus.PENDING,
    reason_code=ReasonCode.INVALID_ORDER,
    occurred_at=LATER,
    order=Order(
        order_id=ORDER_ID,
        client_order_id=None,
        user_id="alice",
        asset_id=None,
        order_type=None,
        status=OrderStatus.FAILED,
        quantity=None,
        price=None,
        slippage_bps=None,
        filled_quantity=Money("0"),
        average_price=None,
        fee=Money("0"),
        reason_code=ReasonCode.INVALID_ORDER,
        reason='asset_id: must be 1 to 64 of A-Z a-z 0-9 . _ : - (got "\\u00fc \\"x\\"") ü\U0001f600',
        cancel_requested=True,
        version=2,
        created_at=EARLIER,
        updated_at=LATER,
    ),
)
APPROVED: Final = AssetApproved(
    command_id=f"{ORDER}:check",
    order_id=ORDER_ID,
    asset_id="BTC",
    price=Price("50000"),
    sequence=2**53 - 1,
    as_of=EARLIER,
    tick=Price("0.01"),
    step=Quantity("0.00000001"),
    fee_bps=10,
    cash_asset_id="USD",
    cash_scale=2,
    rules_version=3,
)
CONFIRMED: Final = structs.replace(
    COMPLETED,
    version=2,
    status=OrderStatus.CONFIRMED,
    previous_status=OrderStatus.PENDING,
    order=structs.replace(
        COMPLETED.order,
        status=OrderStatus.CONFIRMED,
        filled_quantity=Money("0"),
        average_price=None,
        fee=Money("0"),
        version=2,
        cash_asset_id="USD",
        fee_asset_id="EUR",
    ),
)

RESTING: Final = structs.replace(
    CONFIRMED,
    order=structs.replace(
        CONFIRMED.order,
        order_type=OrderType.TRAILING_STOP_SELL,
        slippage_bps=None,
        trigger_price=Price("49000"),
        trail_bps=200,
        time_in_force=TimeInForce.GTC,
        watermark=Price("50000"),
        revision=1,
        held_asset_id="BTC",
        held_amount=Money("0.01"),
    ),
)

AMENDED: Final = structs.replace(
    RESTING,
    version=5,
    previous_status=OrderStatus.CONFIRMED,
    order=structs.replace(
        RESTING.order,
        version=5,
        revision=2,
        on_hold=True,
        release_refused=ReasonCode.WOULD_TRIGGER_IMMEDIATELY,
        amend=OrderAmendment(
            "my-amend.2",
            AmendState.REFUSED,
            AmendRefusal.INSUFFICIENT_BALANCE,
            "5 USD available, 500.5 needed",
            quantity=Quantity("0.02"),
            time_in_force=TimeInForce.GTD,
            expires_at=LATER,
        ),
    ),
)

GOLDEN: Final[dict[str, Message]] = {
    "OrderRequested": OrderRequested(
        order_id=ORDER_ID,
        user_id="alice.b_c:d-1",
        asset_id="BTC",
        order_type=OrderType.MARKET_SELL,
        quantity=Quantity("0.000000000000000001"),
        price=Price("1000000"),
        slippage_bps=10_000,
        client_order_id="my-order.1",
        requested_at=EARLIER,
    ),
    "OrderRequested.minimal": OrderRequested(
        order_id=ORDER_ID, user_id="alice", asset_id="BTC", order_type=OrderType.MARKET_BUY, quantity=Quantity("0.01")
    ),
    "OrderRequested.conditional": OrderRequested(
        order_id=ORDER_ID,
        user_id="alice",
        asset_id="BTC",
        order_type=OrderType.STOP_LOSS_SELL,
        quantity=Quantity("0.01"),
        requested_at=EARLIER,
        limit_price=Price("47900"),
        trigger_price=Price("48000"),
        time_in_force=TimeInForce.GTD,
        expires_at=LATER,
        queue_when_closed=True,
    ),
    "OrderRequested.day": OrderRequested(
        order_id=ORDER_ID,
        user_id="alice",
        asset_id="BTC",
        order_type=OrderType.LIMIT_BUY,
        quantity=Quantity("0.01"),
        limit_price=Price("47900"),
        time_in_force=TimeInForce.DAY,
    ),
    "OrderRequested.queued": OrderRequested(
        order_id=ORDER_ID,
        user_id="alice",
        asset_id="BTC",
        order_type=OrderType.MARKET_BUY,
        quantity=Quantity("0.01"),
        price=Price("50000"),
        expires_at=LATER,
        queue_when_closed=True,
    ),
    "OrderCancelRequested": OrderCancelRequested(ORDER_ID, "alice", "@operator:ann", LATER),
    "OrderAmendRequested": OrderAmendRequested(
        order_id=ORDER_ID,
        user_id="alice",
        requested_by="@operator:ann",
        amend_id="my-amend.1",
        expected_versions=(3, 4),
        requested_at=EARLIER,
        quantity=Quantity("0.02"),
        limit_price=Price("47900"),
        trigger_price=Price("48000"),
        trail_amount=Price("0.01"),
        trail_bps=5,
        slippage_bps=0,
        time_in_force=TimeInForce.GTD,
        expires_at=LATER,
    ),
    "OrderAmendRequested.minimal": OrderAmendRequested(ORDER_ID, "alice", "alice", "!", quantity=Quantity("0.02")),
    "OrderHoldRequested": OrderHoldRequested(ORDER_ID, "alice", "@operator:ann", LATER, "an announcement is due"),
    "OrderReleaseRequested": OrderReleaseRequested(ORDER_ID, "alice", "alice", LATER),
    "OrderStatusChanged.amended": AMENDED,
    "OrderStatusChanged": COMPLETED,
    "OrderStatusChanged.invalid": INVALID,
    "OrderStatusChanged.told": CONFIRMED,
    "OrderStatusChanged.invalid_told": INVALID,
    "OrderStatusChanged.invalid_brief": INVALID,
    "OrderStatusChanged.conditional": RESTING,
    "ReserveBalance": ReserveBalance(*RESERVE, "alice", "USD", Money("500.5")),
    "ReserveBalance.told": ReserveBalance(*RESERVE, "alice", "USD", Money("500.5"), EARLIER),
    "BalanceReserved": BalanceReserved(*RESERVE, HoldState.HELD, Money("500.5")),
    "BalanceRefused": BalanceRefused(
        *RESERVE, HoldState.REFUSED, BalanceRefusal.INSUFFICIENT_BALANCE, "5 USD available, 500.5 needed"
    ),
    "SettleBalance": SettleBalance(
        *SETTLE, "alice", "USD", Money("500.5"), Money("500.49"), "BTC", Money("0.01"), "USD", Money("0.5")
    ),
    "SettleBalance.told": SettleBalance(
        *SETTLE, "alice", "USD", Money("500.5"), Money("500.49"), "BTC", Money("0.01"), "USD", Money("0.5"), EARLIER
    ),
    "BalanceSettled": BalanceSettled(*SETTLE, HoldState.SETTLED, Money("500.49"), Money("0.01")),
    "SettlementRefused": SettlementRefused(*SETTLE, HoldState.TOMBSTONE, BalanceRefusal.NOT_HELD, "no such hold"),
    "RefundBalance": RefundBalance(*REFUND, "alice", "USD", Money("500.5")),
    "RefundBalance.told": RefundBalance(*REFUND, "alice", "USD", Money("500.5"), EARLIER),
    "BalanceRefunded": BalanceRefunded(*REFUND, HoldState.REFUNDED, Money("500.5")),
    "RefundRefused": RefundRefused(*REFUND, HoldState.SETTLED, BalanceRefusal.CLOSED, "the hold is settled"),
    "SettleBalance.adjusted": SettleBalance(
        *SETTLE, "alice", "USD", Money("520.52"), Money("500.49"), "BTC", Money("0.01"), "USD", Money("0.5"), EARLIER, 2
    ),
    "RefundBalance.adjusted": RefundBalance(*REFUND, "alice", "USD", Money("520.52"), EARLIER, 2),
    "AdjustBalance": AdjustBalance(*ADJUST, "alice", "USD", Money("520.52"), 2, EARLIER),
    "BalanceAdjusted": BalanceAdjusted(*ADJUST, HoldState.HELD, 2, Money("520.52"), "alice", "USD"),
    "AdjustmentRefused": AdjustmentRefused(
        *ADJUST, HoldState.HELD, BalanceRefusal.INSUFFICIENT_BALANCE, "20.02 USD more needed, 5 available", 2
    ),
    "CheckAsset": CheckAsset(
        f"{ORDER}:check", ORDER_ID, "BTC", OrderType.MARKET_BUY, Quantity("999999999999999999.999999999999999999"), None
    ),
    "CheckAsset.terms": CheckAsset(
        command_id=f"{ORDER}:check.2",
        order_id=ORDER_ID,
        asset_id="BTC",
        order_type=OrderType.MARKET_BUY,
        quantity=Quantity("0.01"),
        limit_price=Price("48500"),
        trigger_price=Price("49000.5"),
        trail_amount=Price("0.01"),
        trail_bps=5,
        slippage_bps=100,
        purpose=Purpose.AMEND,
        queue_when_closed=True,
    ),
    "AssetApproved": APPROVED,
    "AssetApproved.closed": structs.replace(APPROVED, sequence=1209, quoted_at=LATER, trading=Trading.CLOSED),
    "AssetApproved.session": structs.replace(APPROVED, sequence=1209, session_ends_at=LATER),
    "AssetRefused": AssetRefused(
        f"{ORDER}:check", ORDER_ID, "OLD", AssetRefusal.STALE_PRICE, "the price of OLD is 95 s old"
    ),
    "AssetPriceChanged": AssetPriceChanged("BTC", 1208, Price("50000.01"), LATER),
    "AssetPriceChanged.closed": AssetPriceChanged(
        "BTC", 1209, Price("50000.01"), EARLIER, confirmed_at=LATER, trading=Trading.CLOSED, reopens_at=LATER
    ),
    "HoldRequested": HoldRequested(*HOLD, LATER),
    "HoldCaptureRequested": HoldCaptureRequested(*HOLD, Quantity("240"), "@external"),
    "HoldCaptureRequested.told": HoldCaptureRequested(*HOLD, Quantity("240"), "@external", EARLIER),
    "HoldReleaseRequested": HoldReleaseRequested(*HOLD),
    "HoldReleaseRequested.told": HoldReleaseRequested(*HOLD, EARLIER),
    "HoldPlaced": HoldPlaced(*HOLD, LATER),
    "HoldRefused": HoldRefused(*HOLD, HoldRefusal.INSUFFICIENT_BALANCE, "250 USD needed, 5 available"),
    "HoldCaptured": HoldCaptured(*HOLD, Money("240"), "@fees", Money("10.000000000000000001")),
    "HoldReleased": HoldReleased(*HOLD, Money("0")),
    "HoldExpired": HoldExpired(*HOLD, Money("250.000000000000000001")),
    "HoldCaptureRefused": HoldCaptureRefused(
        *HOLD, Quantity("240"), "@external", HoldRefusal.NOT_HELD, "it was released"
    ),
    "HoldReleaseRefused": HoldReleaseRefused(*HOLD, HoldRefusal.CLOSED, "the hold is captured"),
}

NOT_WRITTEN: Final = {
    "OrderRequested.minimal",
    "OrderStatusChanged",
    "OrderStatusChanged.invalid",
    "OrderStatusChanged.invalid_told",
}
"""Files that must be readable but are not written any more: with blanks, or with nulls that are left out now."""


def golden_bytes(name: str) -> bytes:
    """Read a golden value."""
    return (FOLDER / f"{name}.json").read_bytes()


def golden_headers(name: str) -> list[tuple[str, bytes]]:
    """Read the golden headers of a record, which are stored as text."""
    pairs: list[list[str]] = json.loads((FOLDER / f"{name}.headers.json").read_text("utf-8"))
    return [(header, text.encode()) for header, text in pairs]


def type_of(name: str) -> str:
    """Return the message type in a file's name."""
    return name.partition(".")[0]


def envelope_of(name: str) -> Envelope:
    """Return the envelope that the golden headers stand for."""
    attempt = 2 if name == "ReserveBalance" else 1
    return Envelope(f"golden-{name}", type_of(name), "order-saga", LATER, TRACEPARENT, attempt)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_decodable_for_ever(name: str) -> None:
    """Each golden value decodes to the same value as before, with the same types."""
    actual = decode(type_of(name), golden_bytes(name))
    assert GOLDEN[name] == actual
    assert repr(GOLDEN[name]) == repr(actual)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_headers_are_readable_for_ever(name: str) -> None:
    """Each file of golden headers reads as the same envelope as before."""
    assert envelope_of(name) == read_envelope(golden_headers(name))


@pytest.mark.parametrize("name", [name for name in GOLDEN if name not in NOT_WRITTEN])
def test_a_changed_encoding_is_noticed(name: str) -> None:
    """Names, order, spelling and escapes change only on purpose: each message encodes to its golden bytes."""
    assert golden_bytes(name) == encode(GOLDEN[name])


@pytest.mark.parametrize("name", GOLDEN)
def test_a_changed_envelope_is_noticed(name: str) -> None:
    """Each envelope writes its golden headers."""
    envelope: dict[str, Any] = {"time": LATER, "traceparent": TRACEPARENT, "attempt": envelope_of(name).attempt}
    sent = outgoing(GOLDEN[name], message_id=f"golden-{name}", source="order-saga", **envelope)
    assert golden_headers(name) == sent.headers


def test_every_message_has_golden_bytes_and_every_file_a_value() -> None:
    """Each message type has golden bytes, and each golden file has an expected value."""
    assert set(MESSAGES) <= GOLDEN.keys()
    expected = {f"{name}{ending}" for name in GOLDEN for ending in (".json", ".headers.json")}
    assert expected == {path.name for path in FOLDER.glob("*.json")}
