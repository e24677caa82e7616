"""The topics: their keys, partition counts and the messages that each carries."""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

import msgspec

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetApproved, AssetPriceChanged, AssetRefused, CheckAsset
from contracts.balance import BalanceCommand, BalanceReply
from contracts.holds import HoldEvent, HoldRequest
from contracts.orders import OrderCancelRequested, OrderRequested, OrderStatusChanged


class Topic(NamedTuple):
    """One topic. `key` names the field that is the record's key: messages that must stay in order share a partition."""

    name: str
    key: str
    messages: tuple[type[msgspec.Struct], ...]
    meaning: str
    partitions: int = 12
    """Enough for twelve members of a group. All topics have as many, so one member gets all records of an order."""
    compacted: bool = False
    """The broker keeps the newest message of each key: of a value that changes, and of which only the last counts."""
    also: tuple[type[msgspec.Struct], ...] = ()
    """Messages of another topic that it takes too, from producers of older versions."""


ORDERS_REQUESTS: Final = Topic(
    "orders.requests",
    "order_id",
    (OrderRequested,),
    "New orders that users and services ask for. It takes cancels too, behind the orders that wait there.",
    also=(OrderCancelRequested,),
)
ORDERS_CANCELS: Final = Topic(
    "orders.cancels", "order_id", (OrderCancelRequested,), "Cancels, which no new order holds up."
)
ORDERS_CHANGES: Final = Topic(
    "orders.changes",
    "order_id",
    (OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested),
    "What changes an order that rests: amends, suspensions, releases.",
)
ORDERS_EVENTS: Final = Topic("orders.events", "order_id", (OrderStatusChanged,), "Every version of every order.")
BALANCE_COMMANDS: Final = Topic(
    "balance.commands",
    "user_id",
    get_args(BalanceCommand),
    "What the saga asks the balance service; keyed by the account's owner.",
)
BALANCE_REPLIES: Final = Topic(
    "balance.replies",
    "order_id",
    get_args(BalanceReply),
    "What the balance service answers.",
)
ASSETS_COMMANDS: Final = Topic("assets.commands", "asset_id", (CheckAsset,), "What the saga asks the asset service.")
ASSETS_REPLIES: Final = Topic(
    "assets.replies", "order_id", (AssetApproved, AssetRefused), "What the asset service answers."
)
ASSETS_PRICES: Final = Topic(
    "assets.prices", "asset_id", (AssetPriceChanged,), "Prices as they change.", compacted=True
)
HOLDS_REQUESTS: Final = Topic(
    "holds.requests",
    "user_id",
    get_args(HoldRequest),
    "What services ask of holds beside the saga; keyed by the account's owner.",
)
HOLDS_EVENTS: Final = Topic(
    "holds.events", "user_id", get_args(HoldEvent), "What became of each request, and holds that expire."
)

TOPICS: Final = (
    ORDERS_REQUESTS,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    ASSETS_COMMANDS,
    ASSETS_REPLIES,
    ASSETS_PRICES,
    HOLDS_REQUESTS,
    HOLDS_EVENTS,
)
