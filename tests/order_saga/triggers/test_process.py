"""The handler around the engine: what it reads, counts, hands on, and does when a gate stays taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.assets import AssetPriceChanged, AssetRefusal, AssetRefused, Trading
from contracts.codec import outgoing
from contracts.decimals import Price
from contracts.envelope import UnreadableMessage, read_envelope
from contracts.vocabulary import Side
from order_saga.core.gate import GATE, gate_key
from order_saga.triggers import process, store
from order_saga.triggers.feed import Tick, admit
from order_saga.triggers.metrics import BACKWARDS_AFTER, BackwardFeeds, TriggerMetrics
from saga_kit.messaging.batch import Received
from saga_kit.runtime.errors import classify
from saga_kit.runtime.transactions import begin
from tests.order_saga.triggers.market import SHARE, StoredMarket, level, tick, trailing
from tests.order_saga.triggers.oracle import Order
from tests.saga_kit.support import FakeRecord

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def _record(message: AssetPriceChanged | AssetRefused, at: datetime) -> tuple[object, FakeRecord]:
    wire = outgoing(message, message_id="x", source="/tests", time=at, traceparent=None)
    record = FakeRecord(wire.topic, 0, 7, int(at.timestamp() * 1000), wire.key.encode(), wire.value, wire.headers)
    return read_envelope(wire.headers), record


def _sample(metrics: TriggerMetrics, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    metrics.register(registry)
    return registry.get_sample_value(name, labels)


async def test_a_message_of_the_feed_is_a_tick(market: StoredMarket) -> None:
    """The broker's time is when it was appended; a source that says no more has confirmed the price when it set it."""
    price = AssetPriceChanged("BTC", 7, Price("50000"), NOW)
    decoded = market.handler.decode(*_record(price, NOW + SECOND))  # type: ignore[arg-type]
    assert process.Price("BTC", Tick(7, Decimal(50_000), NOW, NOW, NOW + SECOND, Trading.OPEN)) == decoded
    again = AssetPriceChanged("BTC", 7, Price("50000"), NOW, confirmed_at=NOW + SECOND, trading=Trading.HALTED)
    _, one = market.handler.decode(*_record(again, NOW + SECOND))  # type: ignore[arg-type]
    assert (NOW + SECOND, Trading.HALTED) == (one.confirmed_at, one.trading)


async def test_another_message_on_the_topic_is_a_dead_letter(market: StoredMarket) -> None:
    """It is refused when it is read, and no tick is lost or parked for it."""
    refused = AssetRefused("x:check", UUID(int=1), "BTC", AssetRefusal.STALE_PRICE, "")
    with pytest.raises(UnreadableMessage, match="not for the trigger engine"):
        market.handler.decode(*_record(refused, NOW))  # type: ignore[arg-type]
    async with begin(market.engine) as tx:
        assert not await market.handler.park(tx, Received(tick(1, Decimal(1))), "a bug")


async def test_what_is_ignored_is_counted_once(market: StoredMarket) -> None:
    """Late, repeated, stale and closed ticks, and gaps, also when a batch takes several rounds."""
    for number in range(3):
        await market.rest(number, level(Side.SELL, up="100"))
    ticks = [
        tick(2, Decimal(90)),
        tick(1, Decimal(99)),
        tick(2, Decimal(90)),
        tick(4, Decimal(91), stale=True),
        tick(5, Decimal(92), trading=Trading.CLOSED),
        tick(6, Decimal(101)),
    ]
    await market.judge(*ticks, member=market.member(round_max=1))
    counted = {
        why: _sample(market.metrics, "price_ticks_ignored_total", why=why)
        for why in ("late", "duplicate", "stale", "closed")
    }
    assert {"late": 1, "duplicate": 1, "stale": 1, "closed": 1} == counted
    assert 1 == _sample(market.metrics, "price_gaps_total")
    assert 3 == _sample(market.metrics, "triggers_fired_total", kind="up")
    assert 3 == _sample(market.metrics, "trigger_lag_seconds_count")


async def test_a_feed_that_begins_anew_is_noticed() -> None:
    """A hundred late ticks in a row, each as of later, mean that no order of the asset fires; a newer tick ends that.

    Late ticks in no order are no such sign.
    """
    metrics = TriggerMetrics()
    feeds = BackwardFeeds(metrics)
    mark = Tick(10**6, Decimal(1), NOW, NOW, NOW, Trading.OPEN, live=True)

    def note(*ticks: Tick) -> float | None:
        feeds.note("A", ticks, admit(mark, ticks))
        return _sample(metrics, "price_feed_backwards")

    anew = [mark._replace(sequence=n, as_of=NOW + n * SECOND) for n in range(BACKWARDS_AFTER)]
    with capture_logs() as lines:
        assert 0 == note(*anew[:-1])
        assert 1 == note(anew[-1])
        assert 1 == note(anew[-1])
    assert ["error"] == [line["log_level"] for line in lines]
    assert 0 == note(mark._replace(sequence=mark.sequence + 1))
    old = Random(1).sample(anew, len(anew))  # noqa: S311 - the same order in every run
    assert 0 == note(*old)


async def test_a_gate_that_stays_taken_is_no_fault_of_a_tick(market: StoredMarket, engine: AsyncEngine) -> None:
    """The batch is tried again as after an outage; the kit would drop a single tick that a lock holds up."""
    await market.rest(1, level(Side.SELL, down="95"))
    async with begin(engine) as orders:
        await orders.fetch(SHARE, GATE, gate_key("A"))
        with pytest.raises(TimeoutError, match="gate of A") as raised:
            await market.judge(tick(1, Decimal(90)))
    assert "infrastructure" == classify(raised.value)
    await market.judge(tick(1, Decimal(90)))
    assert [1] == [one.int for one in market.fired]


async def test_ages_are_those_of_assets_with_resting_orders(market: StoredMarket) -> None:
    """An asset's age counts from its last confirmation, whatever kind of order rests on it; the others are left out."""
    orders = {
        "UP": level(Side.SELL, up="200"),
        "DOWN": level(Side.SELL, down="1"),
        "AMOUNT": trailing(Side.SELL, 1, amount="90"),
        "BPS": trailing(Side.BUY, 1, bps=5_000),
        "QUEUED": Order(Side.BUY, 1, queued=True),
    }
    await market.judge(*(tick(1, Decimal(100), asset_id=asset_id) for asset_id in ("NONE", "FIRED", *orders)))
    for number, (asset_id, order) in enumerate(orders.items()):
        await market.rest(number, order, asset_id=asset_id)
    await market.rest(9, level(Side.SELL, down="200"), asset_id="FIRED")
    await market.tick(2, "100", asset_id="FIRED")
    await market.execute("UPDATE orders.marks SET confirmed_at = now() - interval '1 h' WHERE asset_id = 'BPS'")
    async with begin(market.engine) as tx:
        ages = await store.feed_ages(tx)
    assert orders.keys() == ages.keys()
    assert 3_599 < ages.pop("BPS") < 3_700
    assert all(0 <= age_s < 60 for age_s in ages.values())
