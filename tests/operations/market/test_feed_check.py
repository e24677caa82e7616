"""What `feed check` says of a feed: each fault by itself, and none of a good feed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from contracts.assets import AssetPriceChanged
from contracts.decimals import Price
from operations.market.feed_check import AssetFeed

T0 = datetime(2026, 3, 2, tzinfo=UTC)
TICK = Decimal("0.01")


def seen(*messages: tuple[float, int, str, float, str]) -> AssetFeed:
    """Show messages to a check: append time in s, sequence, price, time of the source in s, producer."""
    feed = AssetFeed("BTC")
    for at_s, sequence, price, said_s, source in messages:
        event = AssetPriceChanged("BTC", sequence, Price(price), T0, T0 + timedelta(seconds=said_s))
        feed.see(event, source, T0 + timedelta(seconds=at_s), TICK)
    return feed


def test_a_good_feed_has_no_faults() -> None:
    """Rising numbers with gaps, repetitions, prices on the tick, one producer: nothing to say."""
    feed = seen((0, 1, "100", 0, "/a"), (1, 2, "100.01", 1, "/a"), (9, 2, "100.01", 9, "/a"), (10, 7, "99", 9.5, "/a"))
    assert [] == feed.faults(20)
    row = feed.row(20)
    assert (0.2, 3, 1, 0.5) == (row["messages_per_second"], row["changes"], row["gaps"], row["age_max_s"])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ((1, 4, "100", 1, "/a"), "1 messages had a lower sequence"),
        ((1, 6, "100.001", 1, "/a"), "1 prices are off the tick"),
        ((1, 6, "100", 1, "/b"), "several producers: /a, /b"),
        ((11, 6, "100", 11, "/a"), "silent for 11.0 s"),
        ((1, 6, "100", 3, "/a"), "the source's clock is 2.0 s ahead"),
    ],
)
def test_each_fault_is_named(message: tuple[float, int, str, float, str], words: str) -> None:
    """One wrong message is one fault."""
    [fault] = seen((0, 5, "100", 0, "/a"), message).faults(20)
    assert words in fault


def test_a_feed_that_is_too_fast_is_told_to_conflate() -> None:
    """More than 50 messages a second of one asset are a fault."""
    [fault] = seen(*((n / 100, n + 1, "100", n / 100, "/a") for n in range(101))).faults(1)
    assert "101 messages a second, conflate to 50" == fault


def test_a_wrong_key_is_a_fault() -> None:
    """Records of an asset with another key may be in another partition, out of order."""
    feed = seen((0, 1, "100", 0, "/a"))
    feed.wrong_key += 1
    assert ["1 records have another key than the asset"] == feed.faults(20)
