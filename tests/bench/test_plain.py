"""The lean and the naive loop follow the contract: they write all its fields, and read only fields that it has."""

from __future__ import annotations

import msgspec
import pytest
from pydantic import BaseModel

from contracts.codec import MESSAGES
from contracts.decimals import Money, Quantity
from contracts.orders import Order
from contracts.vocabulary import Side
from order_saga.core import money
from tests.bench import naive_messages, plain
from tests.order_saga.core import sample

PARTLY_READ = {
    plain.OrderRequested: "OrderRequested",
    plain.Approval: "AssetApproved",
    plain.Answer: "BalanceReserved",
    naive_messages.OrderRequested: "OrderRequested",
    naive_messages.AssetApproved: "AssetApproved",
    naive_messages.BalanceReserved: "BalanceReserved",
    naive_messages.BalanceSettled: "BalanceSettled",
}
"""What is read, and the message of the contract that it is read of."""
LEFT_OUT = {
    *("limit_price", "trigger_price", "trail_amount", "trail_bps", "time_in_force", "expires_at"),
    *("queue_when_closed", "purpose", "trading", "reopens_at", "revision", "triggered", "watermark"),
    *("held_asset_id", "held_amount", "session_ends_at", "on_hold", "release_refused", "amend"),
}
"""What the system does not write for a market order, as it is on the wire."""


def _fields(kind: type) -> list[str]:
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    assert issubclass(kind, msgspec.Struct)
    return [field.encode_name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    "written",
    [
        plain.CheckAsset,
        plain.ReserveBalance,
        plain.SettleBalance,
        plain.AssetApproved,
        plain.BalanceReserved,
        plain.BalanceSettled,
        plain.OrderStatusChanged,
        naive_messages.CheckAsset,
        naive_messages.ReserveBalance,
        naive_messages.SettleBalance,
        naive_messages.OrderStatusChanged,
    ],
    ids=lambda written: f"{written.__module__}.{written.__name__}",
)
def test_what_is_written_has_the_fields_of_the_contract(written: type) -> None:
    """A message has the fields that the system writes for a market order, so it is about as long."""
    wanted = [
        name for name in _fields(MESSAGES[written.__name__]) if name not in LEFT_OUT | {"quoted_at", "slippage_bps"}
    ]
    assert wanted == _fields(written)


@pytest.mark.parametrize("snapshot", [plain.Order, naive_messages.OrderSnapshot])
def test_events_show_the_whole_order(snapshot: type) -> None:
    """An event's snapshot leaves nothing out."""
    assert [name for name in _fields(Order) if name not in LEFT_OUT] == _fields(snapshot)


@pytest.mark.parametrize(("read", "of"), PARTLY_READ.items(), ids=str)
def test_what_is_read_is_part_of_the_contract(read: type, of: str) -> None:
    """Every field that a loop reads is in the contract."""
    assert set(_fields(read)) <= set(_fields(MESSAGES[of]))


@pytest.mark.parametrize("quantity", ["1", "0.00000001", "0.333", "12345.6789"])
def test_sums_are_those_of_the_system(quantity: str) -> None:
    """The loops hold and charge the same amounts as the system, to the cent."""
    quote = sample.quote()
    plain_quote = plain.Quote(str(quote.price), quote.fee_bps, quote.cash_asset_id, quote.cash_scale)
    expected = money.sums(Side.BUY, "BTC", Quantity(quantity), quote)
    hold, fee = plain.sums(quantity, plain_quote)
    assert (expected.hold, expected.fee) == (Money(hold), Money(fee))
