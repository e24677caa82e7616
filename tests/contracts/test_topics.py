"""Topics: the topic and the key of each message."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from contracts import amends, assets, balance, holds, orders
from contracts.codec import MESSAGES
from contracts.topics import TOPICS, Topic

IDS = [topic.name for topic in TOPICS]


def test_the_topics_of_the_protocol() -> None:
    """Names, keys and messages of the topics are a promise to other teams, so this list changes only on purpose."""
    assert {
        "orders.requests": ("order_id", {"OrderRequested"}),
        "orders.cancels": ("order_id", {"OrderCancelRequested"}),
        "orders.changes": ("order_id", {"OrderAmendRequested", "OrderHoldRequested", "OrderReleaseRequested"}),
        "orders.events": ("order_id", {"OrderStatusChanged"}),
        "balance.commands": ("user_id", {"ReserveBalance", "SettleBalance", "RefundBalance", "AdjustBalance"}),
        "balance.replies": (
            "order_id",
            {
                *("BalanceReserved", "BalanceRefused", "BalanceSettled"),
                *("SettlementRefused", "BalanceRefunded", "RefundRefused"),
                *("BalanceAdjusted", "AdjustmentRefused"),
            },
        ),
        "assets.commands": ("asset_id", {"CheckAsset"}),
        "assets.replies": ("order_id", {"AssetApproved", "AssetRefused"}),
        "assets.prices": ("asset_id", {"AssetPriceChanged"}),
        "holds.requests": ("user_id", {"HoldRequested", "HoldCaptureRequested", "HoldReleaseRequested"}),
        "holds.events": (
            "user_id",
            {
                *("HoldPlaced", "HoldRefused", "HoldCaptured", "HoldReleased", "HoldExpired"),
                *("HoldCaptureRefused", "HoldReleaseRefused"),
            },
        ),
    } == {topic.name: (topic.key, {message.__name__ for message in topic.messages}) for topic in TOPICS}


def test_every_message_lives_in_exactly_one_topic() -> None:
    """A message's type decides its topic: each Struct of a conversation is in exactly one topic."""
    not_messages = {orders.Order, orders.InvalidOrder, amends.OrderAmendment}
    defined = {
        value
        for module in (amends, orders, balance, assets, holds)
        for name, value in vars(module).items()
        if not name.startswith("_")  # shared base classes
        and isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value not in not_messages
    }
    homes = Counter(message for topic in TOPICS for message in topic.messages)
    assert dict.fromkeys(defined, 1) == dict(homes)


def test_names_of_types_are_unique() -> None:
    """The CloudEvents type alone decides how to decode."""
    assert sum(len(topic.messages) for topic in TOPICS) == len(MESSAGES)


@pytest.mark.parametrize("topic", TOPICS, ids=IDS)
def test_every_message_of_a_topic_has_the_key(topic: Topic) -> None:
    """Each message of a topic has the topic's key field, and requires it."""
    required = [{f.name for f in msgspec.structs.fields(message) if f.required} for message in topic.messages]
    assert all(topic.key in names for names in required)


def test_all_topics_have_the_same_partitions() -> None:
    """All topics have the same number of partitions, so one member of a group gets all records of an order."""
    assert {12} == {topic.partitions for topic in TOPICS}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_messages_are_values(message: type[msgspec.Struct]) -> None:
    """A message cannot be changed, has no tag, and accepts the new fields of later versions."""
    config = message.__struct_config__
    expected = (True, None, False, False)
    assert expected == (config.frozen, config.tag, config.forbid_unknown_fields, config.array_like)
