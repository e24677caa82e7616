"""The decisions of the lean loop, without I/O: the phase that follows an answer, and the messages of each phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from contracts.topics import ASSETS_COMMANDS, BALANCE_COMMANDS, ORDERS_EVENTS
from tests.bench.bare import Message, partition_of, type_of
from tests.bench.plain import (
    Answer,
    Approval,
    CheckAsset,
    Order,
    OrderRequested,
    OrderStatusChanged,
    Quote,
    ReserveBalance,
    SettleBalance,
    sums,
)

MOVES = {
    "AssetApproved": ("VALIDATING", "RESERVING"),
    "BalanceReserved": ("RESERVING", "SETTLING"),
    "BalanceSettled": ("SETTLING", "COMPLETED"),
}
"""The phase that an answer ends, and the next one. In any other phase the answer is a repeat and changes nothing."""
VERSIONS = {
    "VALIDATING": ((1, "PENDING", None),),
    "SETTLING": ((2, "CONFIRMED", "PENDING"), (3, "PROCESSING", "CONFIRMED")),
    "COMPLETED": ((4, "COMPLETED", "PROCESSING"),),
}
"""The versions that are published on entry to a phase: number, status, previous status."""
QUOTED = 2
"""The first version with the quote's currency."""
FILLED = 3
"""The first version with the fill."""
LAST = "COMPLETED"

_write = msgspec.json.Encoder().encode
_read_request = msgspec.json.Decoder(OrderRequested).decode
_read_approval = msgspec.json.Decoder(Approval).decode
_read_answer = msgspec.json.Decoder(Answer).decode
_read_quote = msgspec.json.Decoder(Quote).decode


class Saga(NamedTuple):
    """The columns of an order's row that messages need."""

    order_id: Any
    """Text, or the driver's UUID."""
    user_id: str
    asset_id: str
    order_type: str
    quantity: str
    price: str | None
    slippage_bps: int
    client_order_id: str | None
    phase: str
    quote: str | None
    created_at: datetime


class Move(NamedTuple):
    """The change that an answer makes."""

    order_id: str
    phase: str
    """The only phase in which it applies."""
    following: str
    quote: str | None
    """The quote that it brings, if any."""


class Batch(NamedTuple):
    """The content of a batch. An order has the same partition number in every topic, so no key needs to be hashed."""

    requests: list[OrderRequested]
    moves: list[Move]
    partitions: dict[str, int]


def read(records: Iterable[Any]) -> Batch:
    """Decode the needed fields of a batch."""
    batch = Batch([], [], {})
    for record in records:
        kind = type_of(record)
        quote = None
        message: OrderRequested | Approval | Answer
        if kind == "OrderRequested":
            message = _read_request(record.value)
            batch.requests.append(message)
        else:
            if kind == "AssetApproved":
                message = _read_approval(record.value)
                quote = _write(message.quote()).decode()
            else:
                message = _read_answer(record.value)
            batch.moves.append(Move(message.order_id, *MOVES[kind], quote))
        batch.partitions[message.order_id] = record.partition
    return batch


def question(saga: Saga) -> Message:
    """Make the question of an order's phase; a repeat is the same message."""
    order_id, hold_id = str(saga.order_id), f"{saga.order_id}:reserve"
    if saga.phase == "VALIDATING":
        check_id = f"{order_id}:check"
        check = CheckAsset(check_id, order_id, saga.asset_id, saga.order_type, saga.quantity, saga.price)
        return _command(ASSETS_COMMANDS.name, saga.asset_id, check_id, check)
    _, cash, hold, fee = _fill(order_id, saga.quantity, saga.quote or "")
    if saga.phase == "RESERVING":
        reserve = ReserveBalance(hold_id, order_id, hold_id, saga.user_id, cash, hold, saga.created_at)
        return _command(BALANCE_COMMANDS.name, saga.user_id, hold_id, reserve)
    settle_id = f"{order_id}:settle"
    settle = SettleBalance(
        settle_id, order_id, hold_id, saga.user_id, cash, hold, hold, saga.asset_id, saga.quantity, cash, fee,
        saga.created_at,
    )  # fmt: skip
    return _command(BALANCE_COMMANDS.name, saga.user_id, settle_id, settle)


def _command(topic: str, key: str, command_id: str, command: msgspec.Struct) -> Message:
    return Message(topic, partition_of(key), key, command_id, type(command).__name__, _write(command))


def versions(saga: Saga, partition: int, at: datetime) -> Iterator[Message]:
    """Make the events of the versions that an order got by entering its phase."""
    order_id = str(saga.order_id)
    for version, status, before in VERSIONS.get(saga.phase, ()):
        filled, price, cash, fee = "0", None, None, "0"
        if version >= QUOTED:
            told = _fill(order_id, saga.quantity, saga.quote or "")
            cash = told.cash_asset_id
            if version >= FILLED:
                filled, price, fee = saga.quantity, told.price, told.fee
        order = Order(
            order_id, saga.client_order_id, saga.user_id, saga.asset_id, saga.order_type, status, saga.quantity,
            saga.price, saga.slippage_bps, filled, price, fee, None, None,
            cancel_requested=False, version=version, created_at=saga.created_at, updated_at=at,
            cash_asset_id=cash, fee_asset_id=cash,
        )  # fmt: skip
        event = OrderStatusChanged(order_id, version, status, before, None, at, order)
        event_id = f"{order_id}:v{version}"
        yield Message(ORDERS_EVENTS.name, partition, order_id, event_id, "OrderStatusChanged", _write(event))


class Fill(NamedTuple):
    """The sums of a buy: price, currency, the amount to hold, and the fee within it."""

    price: str
    cash_asset_id: str
    hold: str
    fee: str


@lru_cache(maxsize=65_536)
def _fill(_order_id: str, quantity: str, quote_text: str) -> Fill:
    """Compute an order's sums; they are cached, since several of its messages need them within a short time."""
    quote = _read_quote(quote_text)
    hold, fee = sums(quantity, quote)
    return Fill(quote.price, quote.cash_asset_id, hold, fee)
