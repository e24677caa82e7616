"""Orders that rest, on PostgreSQL: their rows, their gates, and who wins against a tick."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from msgspec import structs
from prometheus_client import Gauge

from contracts.assets import Trading
from contracts.decimals import Money, Price
from contracts.vocabulary import OrderType, TimeInForce
from order_saga.core.gate import GATE, gate_key
from order_saga.core.saga import ExpiryDue, Phase, TimerDue
from order_saga.worker import market, resting_store, store
from order_saga.worker.metrics import SagaMetrics, refresh_gauges
from order_saga.worker.process import MAX_OPEN_ORDERS
from saga_kit.messaging.batch import Received
from saga_kit.runtime.errors import Contention
from saga_kit.runtime.transactions import Transaction, begin
from tests.operations.retention.archiving import orchestrator
from tests.order_saga.core.sample import approved, cancel, park, request, requested, reserved, resume
from tests.order_saga.core.test_fold import of
from tests.participants.support import somebody_waits
from tests.support.order_database import OrderDatabase

ONE: Final = UUID(int=1)
TERMS: Final[dict[OrderType, dict[str, Any]]] = {
    OrderType.LIMIT_SELL: {"limit_price": Price("51000")},
    OrderType.LIMIT_BUY: {"limit_price": Price("49000")},
    OrderType.STOP_LOSS_SELL: {"trigger_price": Price("48000"), "limit_price": Price("48500")},
    OrderType.TRAILING_STOP_SELL: {"trail_bps": 100},
    OrderType.TRAILING_STOP_BUY: {"trail_amount": Price("500")},
    OrderType.BRACKET_SELL: {"limit_price": Price("51000"), "trigger_price": Price("48000")},
    OrderType.BRACKET_BUY: {"limit_price": Price("48000"), "trigger_price": Price("51000")},
}
MARK: Final = """
    INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
    VALUES ('BTC', $1, $2::text::numeric, now(), now(), now() - make_interval(secs => $3), 'OPEN', true)"""
FIRE: Final = """
    UPDATE orders.resting SET fired_sequence = 9, fired_price = $2::text::numeric, fired_as_of = now(),
        fired_at = now(), fired_rank = 0 WHERE order_id = $1"""


async def rests(db: OrderDatabase, order_type: OrderType, number: int = 1, **changes: Any) -> UUID:
    """Lay an order to rest at the quote 50,000 of sequence 7."""
    order_id = UUID(int=number)
    asked = structs.replace(request(), order_type=order_type, price=None, **(TERMS[order_type] | changes))
    now = await clock(db)
    await db.tell(of(structs.replace(requested(), request=asked, sent_at=now), order_id))
    await db.tell(of(approved(quoted_at=now), order_id))
    amount = await db.rows("SELECT (progress::jsonb -> 'hold' ->> 'amount') AS amount FROM orders.orders")
    held = structs.replace(reserved(), amount=type(reserved().amount)(amount[-1]["amount"]))
    await db.tell(of(held, order_id))
    return order_id


async def clock(db: OrderDatabase) -> datetime:
    """Read the database's clock."""
    [row] = await db.rows("SELECT clock_timestamp() AS now")
    now: datetime = row["now"]
    return now


async def resting_row(db: OrderDatabase) -> dict[str, Any]:
    """Return the only row of `orders.resting`."""
    [row] = await db.rows("SELECT * FROM orders.resting")
    return row


async def phase(db: OrderDatabase) -> str:
    """Return the phase of the only order."""
    [row] = await db.rows("SELECT phase FROM orders.orders")
    return str(row["phase"])


@asynccontextmanager
async def gate(db: OrderDatabase) -> AsyncIterator[asyncpg.Connection]:
    """Hold the asset's gate as a batch of ticks does."""
    connection = await asyncpg.connect(db.url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", GATE, gate_key("BTC"))
            yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("order_type", "up", "down", "limit"),
    [
        (OrderType.LIMIT_SELL, 51000, None, None),
        (OrderType.LIMIT_BUY, None, 49000, None),
        (OrderType.STOP_LOSS_SELL, None, 48000, 48500),
        (OrderType.TRAILING_STOP_SELL, None, None, None),
        (OrderType.BRACKET_SELL, 51000, 48000, None),
        (OrderType.BRACKET_BUY, 51000, 48000, None),
    ],
)
async def test_an_order_rests_by_its_row(
    db: OrderDatabase, order_type: OrderType, up: int | None, down: int | None, limit: int | None
) -> None:
    """The row has the order's level, counts ticks after the quote that it was judged by, and may fire."""
    order_id = await rests(db, order_type)
    row = await resting_row(db)
    assert await phase(db) == "WORKING"
    assert (order_id, "BTC", True, 7, 1) == (
        row["order_id"], row["asset_id"], row["live"], row["from_sequence"], row["revision"],
    )  # fmt: skip
    assert (up, down, limit) == (row["up_price"], row["down_price"], row["limit_price"])


async def test_a_row_is_there_before_the_order_rests_but_may_not_fire(db: OrderDatabase) -> None:
    """It is written with the request, so that every later batch of the order takes the gate."""
    asked = structs.replace(request(), order_type=OrderType.LIMIT_BUY, price=None, limit_price=Price("49000"))
    await db.tell(of(structs.replace(requested(), request=asked, sent_at=await clock(db)), ONE))
    assert not (await resting_row(db))["live"]


async def test_a_market_order_has_no_row_and_takes_no_gate(db: OrderDatabase) -> None:
    """While a tick batch holds the gate, market orders of the asset go on."""
    await db.begin(1)
    async with asyncio.timeout(10), gate(db):
        await db.tell(of(approved(quoted_at=await clock(db)), ONE))
    assert await db.rows("SELECT * FROM orders.resting") == []
    assert await phase(db) == "RESERVING"


async def test_a_trailing_order_leaves_its_trail_and_its_start(db: OrderDatabase) -> None:
    """The trail is known as old as its oldest order; a quote newer than the mark is a step of its own."""
    await db.execute(MARK, 5, "49900", 0.0)
    await rests(db, OrderType.TRAILING_STOP_SELL, 1)
    await rests(db, OrderType.TRAILING_STOP_SELL, 2)
    await rests(db, OrderType.TRAILING_STOP_BUY, 3)
    trails = await db.rows("SELECT side, kind, trail, oldest FROM orders.trails ORDER BY side")
    assert [("BUY", "amount", 500, 7), ("SELL", "bps", 100, 7)] == [tuple(row.values()) for row in trails]
    peaks = await db.rows("SELECT side, upto, price, set_by FROM orders.peaks ORDER BY side")
    assert [("BUY", 7, 50000, 7), ("SELL", 7, 50000, 7)] == [tuple(row.values()) for row in peaks]


async def test_a_mark_newer_than_the_quote_fires_on_entry(db: OrderDatabase) -> None:
    """The price crossed on the way in: the order fills at the mark, and never rests."""
    await db.execute(MARK, 8, "51000.01", 0.0)
    await rests(db, OrderType.LIMIT_SELL)
    assert await phase(db) == "SETTLING"
    assert await db.rows("SELECT * FROM orders.resting") == []
    [fill] = await db.rows("SELECT price FROM orders.fills")
    assert float(fill["price"]) == 51000.01


async def test_a_stale_mark_fires_nothing_but_its_repetition_may(db: OrderDatabase) -> None:
    """The order rests, and the mark's own sequence counts for it once more."""
    await db.execute(MARK, 8, "51000", 31.0)
    await rests(db, OrderType.LIMIT_SELL)
    assert (await resting_row(db))["from_sequence"] == 7


async def test_what_a_tick_has_fired_is_executed_at_its_price(db: OrderDatabase) -> None:
    """The scanner finds the row, the order fills at the tick, and the row is gone."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.execute(FIRE, order_id, "51234")
    async with begin(db.engine) as tx:
        assert await resting_store.fired(tx, 10) == [order_id]
    assert await db.tell(TimerDue(order_id)) == [f"{order_id}:settle"]
    assert await phase(db) == "SETTLING"
    assert await db.rows("SELECT * FROM orders.resting") == []
    [fill] = await db.rows("SELECT price FROM orders.fills")
    assert fill["price"] == 51234


@pytest.mark.parametrize("loser", [cancel(), park()])
async def test_a_fire_that_was_committed_comes_first(db: OrderDatabase, loser: Any) -> None:
    """A cancel is too late, and a message that parks the order parks it in the settlement."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.execute(FIRE, order_id, "51000")
    await db.tell(of(loser, order_id))
    assert await phase(db) == "SETTLING"
    [order] = await db.rows("SELECT cancel_requested FROM orders.orders")
    assert not order["cancel_requested"]


async def test_a_poisonous_message_parks_a_fired_order_after_its_fire(db: OrderDatabase) -> None:
    """Whoever sets a message aside opens the batch like everybody, and so learns of the fire first."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.execute(FIRE, order_id, "51000")
    async with begin(db.engine) as tx:
        assert await orchestrator().park(tx, Received(of(cancel(), order_id)), "a reason")
    assert await phase(db) == "SETTLING"
    [stored] = await db.rows("SELECT refs FROM orders.outbox WHERE refs[1] LIKE '%:v3'")
    assert [f"{order_id}:v3"] == stored["refs"], "what the fire shows is told, though nobody publishes it from memory"


async def test_a_triggered_stop_is_told_once(db: OrderDatabase) -> None:
    """The order shows that it is triggered, its row waits for the limit, and the scanner does not find it again."""
    order_id = await rests(db, OrderType.STOP_LOSS_SELL)
    await db.execute(
        """
        UPDATE orders.resting SET triggered_sequence = 8, triggered_price = 47000, down_price = NULL,
            up_price = limit_price, limit_price = NULL, told = false, from_sequence = 0 WHERE order_id = $1""",
        order_id,
    )
    await db.tell(TimerDue(order_id))
    row = await resting_row(db)
    assert (True, 48500, None, None, 8) == (
        row["told"], row["up_price"], row["down_price"], row["limit_price"], row["triggered_sequence"],
    )  # fmt: skip
    assert row["from_sequence"] == 0, "the feed was reset meanwhile, and that stays"
    async with begin(db.engine) as tx:
        assert await resting_store.fired(tx, 10) == []
    [told] = await db.history(order_id, "triggered")
    assert told["detail"]["sequence"] == 8


async def test_a_cancel_waits_for_the_gate_and_takes_the_row_away(db: OrderDatabase) -> None:
    """While a batch of ticks is at work, no order of the asset moves; then the cancel wins, or sees the fire."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    async with asyncio.TaskGroup() as group:
        async with gate(db) as ticks:
            cancelled = group.create_task(db.tell(of(cancel(), order_id)))
            await somebody_waits(db.engine)
            await ticks.execute(FIRE, order_id, "51000")
        await cancelled
    assert await phase(db) == "SETTLING"
    other = await rests(db, OrderType.LIMIT_BUY, 2)
    assert await db.tell(of(cancel(), other)) == [f"{other}:refund"]
    assert await db.rows("SELECT * FROM orders.resting WHERE order_id = $1", other) == []


async def test_no_order_is_locked_before_its_gate_is_held(db: OrderDatabase) -> None:
    """A batch that waits for a gate has locked none of its orders, those included that rest nowhere."""
    order_id = await rests(db, OrderType.LIMIT_SELL, 2)
    await db.tell(of(structs.replace(requested(), sent_at=await clock(db)), ONE))
    async with asyncio.TaskGroup() as group:
        async with gate(db) as ticks:
            batch = group.create_task(db.tell(of(cancel(), order_id), of(approved(), ONE)))
            await somebody_waits(db.engine)
            free = await ticks.fetch("SELECT order_id FROM orders.orders FOR UPDATE SKIP LOCKED")
            assert {order_id, ONE} == {row[0] for row in free}
        await batch


async def test_an_order_that_begins_to_wait_meanwhile_is_contention(
    db: OrderDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that looked for gates before the order was stored must not decide about it without its gate."""
    asked = structs.replace(request(), order_type=OrderType.LIMIT_BUY, price=None, limit_price=Price("49000"))
    message = of(structs.replace(requested(), request=asked, sent_at=await clock(db)), ONE)
    take = store.take

    async def looks_too_early(tx: Transaction, order_ids: Any, names: Any) -> store.Taken:
        monkeypatch.undo()
        await db.tell(message)
        return (await take(tx, order_ids, names, gates_held=True))._replace(rests_on=frozenset())

    monkeypatch.setattr(store, "take", looks_too_early)
    async with begin(db.engine) as tx:
        with pytest.raises(Contention):
            await market.open_batch(tx, [ONE])


async def expire(db: OrderDatabase, expires_at: datetime) -> None:
    """Let the time of all orders come that end then: they have ended a moment ago."""
    passed = await clock(db) - timedelta(milliseconds=1)
    await db.execute("UPDATE orders.resting SET expires_at = $1 WHERE expires_at = $2", passed, expires_at)
    await db.execute(
        "UPDATE orders.orders SET terms = jsonb_set(terms::jsonb, '{expires_at}', to_jsonb($1::text))::text",
        passed.isoformat(),
    )


async def test_expiry_ends_a_resting_order_and_no_fired_one(db: OrderDatabase) -> None:
    """`expires_at` is compared with the database's clock; whatever was fired before is not found."""
    later = await clock(db) + timedelta(hours=1)
    times = {"time_in_force": TimeInForce.GTD, "expires_at": later}
    order_id = await rests(db, OrderType.LIMIT_SELL, 1, **times)
    fired = await rests(db, OrderType.LIMIT_SELL, 2, **times)
    await db.execute(FIRE, fired, "51000")
    await db.tell(ExpiryDue(order_id))  # too early
    async with begin(db.engine) as tx:
        assert await resting_store.expired(tx, 10) == []
    await expire(db, later)
    async with begin(db.engine) as tx:
        assert await resting_store.expired(tx, 10) == [order_id]
    await db.tell(ExpiryDue(order_id), ExpiryDue(fired))
    rows = await db.rows("SELECT phase FROM orders.orders ORDER BY order_id")
    assert [{"phase": "REFUNDING"}, {"phase": "SETTLING"}] == rows


async def test_a_parked_order_does_not_fire_and_enters_anew_when_it_is_resumed(db: OrderDatabase) -> None:
    """Its row may not fire; when it is resumed it is judged by the mark of that moment."""
    order_id = await rests(db, OrderType.LIMIT_SELL)
    await db.tell(of(park(), order_id))
    assert not (await resting_row(db))["live"]
    await db.execute(MARK, 20, "50500", 0.0)
    await db.tell(of(resume(), order_id))
    row = await resting_row(db)
    assert (True, 20) == (row["live"], row["from_sequence"])


async def test_the_gauges_tell_resting_orders_from_fired_ones(db: OrderDatabase) -> None:
    """An order is counted as resting until a tick fires it, and as fired until that is carried out."""
    await rests(db, OrderType.LIMIT_SELL, 1)
    await db.execute(FIRE, await rests(db, OrderType.LIMIT_SELL, 2), "51000")
    metrics, stopping = SagaMetrics(), asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(refresh_gauges(db.engine, metrics, stopping))
        while (1.0, 1.0) != (_value(metrics.resting), _value(metrics.unexecuted)):
            await asyncio.sleep(0.01)
        stopping.set()
    assert _value(metrics.phases.labels("WORKING")) == 1.0


def _value(gauge: Gauge) -> float:
    [sample] = [sample for metric in gauge.collect() for sample in metric.samples]
    return sample.value


async def test_a_user_has_only_so_many_open_orders_in_an_asset(db: OrderDatabase) -> None:
    """One more is refused as TOO_MANY_OPEN_ORDERS, in one batch as in several; other types are not counted."""
    now = await clock(db)
    await db.begin(10_000)
    asked = structs.replace(request(), order_type=OrderType.LIMIT_BUY, price=None, limit_price=Price("49000"))
    message = structs.replace(requested(), request=asked, sent_at=now)
    await db.tell(*(of(message, UUID(int=number)) for number in range(1, MAX_OPEN_ORDERS + 2)))
    rows = await db.rows("SELECT reason_code, count(*) AS number FROM orders.orders WHERE terms IS NOT NULL GROUP BY 1")
    assert {None: MAX_OPEN_ORDERS, "TOO_MANY_OPEN_ORDERS": 1} == {row["reason_code"]: row["number"] for row in rows}


# The queue ------------------------------------------------------------------------------------------------------------

OPENING: Final = """
    UPDATE orders.resting SET fired_sequence = 9, fired_price = 50100, fired_as_of = now(), fired_at = now(),
        fired_rank = (SELECT count(*) FROM orders.resting AS ahead
            WHERE (ahead.entered_at, ahead.order_id) < (resting.entered_at, resting.order_id)) WHERE queued AND live"""


async def queues(db: OrderDatabase, number: int = 1, **changes: Any) -> UUID:
    """Let a market buy wait for the opening of a closed asset."""
    order_id = UUID(int=number)
    now = await clock(db)
    asked = structs.replace(request(), queue_when_closed=True, **changes)
    await db.tell(of(structs.replace(requested(), request=asked, sent_at=now), order_id))
    await db.tell(of(approved(quoted_at=now, trading=Trading.CLOSED), order_id))
    await db.tell(of(structs.replace(reserved(), amount=Money("505.51")), order_id))
    return order_id


async def test_a_market_order_queues_by_its_row(db: OrderDatabase) -> None:
    """The row says that it is queued, waits for no level, and ends in thirty days: shown as the order's end."""
    order_id = await queues(db)
    row = await resting_row(db)
    assert ("QUEUED", order_id, True, True, 6) == (
        await phase(db), row["order_id"], row["live"], row["queued"], row["from_sequence"],
    )  # fmt: skip
    assert (None, None, None) == (row["up_price"], row["down_price"], row["trail_bps"])
    [shown] = await db.rows("SELECT expires_at, time_in_force FROM audit.orders")
    assert (row["entered_at"] + timedelta(days=30), "GTD") == tuple(shown.values())
    assert row["expires_at"] == shown["expires_at"]


async def test_a_live_mark_of_the_opening_fills_it_on_its_way_in(db: OrderDatabase) -> None:
    """The opening's tick was judged before the order could rest."""
    await db.execute(MARK, 8, "50200", 0.0)
    await queues(db)
    assert await phase(db) == "SETTLING"
    assert await db.rows("SELECT * FROM orders.resting") == []


async def test_the_opening_is_carried_out_in_the_order_of_entry(db: OrderDatabase) -> None:
    """Whoever entered first is filled first, whatever its id; all at the price of the same tick."""
    order_ids = [await queues(db, number) for number in (3, 1, 2)]
    await db.execute(OPENING)
    async with begin(db.engine) as tx:
        assert await resting_store.fired(tx, 10) == order_ids
    for order_id in order_ids:
        assert await db.tell(TimerDue(order_id)) == [f"{order_id}:settle"]
    assert {50100} == {row["price"] for row in await db.rows("SELECT price FROM orders.fills")}
    assert await db.rows("SELECT * FROM orders.resting") == []


async def test_parked_it_is_in_no_queue_and_resumed_it_is_at_its_end(db: OrderDatabase) -> None:
    """Its place is lost; its end is not."""
    order_id, other = await queues(db, 1), await queues(db, 2)
    await db.tell(of(park(), order_id))
    [before] = await db.rows("SELECT live, expires_at FROM orders.resting WHERE order_id = $1", order_id)
    assert not before["live"]
    await db.tell(of(resume(), order_id))
    rows = await db.rows("SELECT order_id, expires_at FROM orders.resting WHERE live ORDER BY entered_at")
    assert [other, order_id] == [row["order_id"] for row in rows]
    assert before["expires_at"] == rows[1]["expires_at"]


async def test_it_expires_and_is_counted_among_the_open_ones(db: OrderDatabase) -> None:
    """Its end comes by the clock that ends every resting order; until then it takes one of its user's places."""
    later = await clock(db) + timedelta(hours=1)
    order_id = await queues(db, expires_at=later)
    async with begin(db.engine) as tx:
        assert [1] == await resting_store.open_orders(tx, [("alice", "BTC")])
        assert (1, {Phase.WORKING: 0, Phase.QUEUED: 1}) == await resting_store.count_resting(tx)
        assert [] == await resting_store.expired(tx, 10)
    await expire(db, later)
    async with begin(db.engine) as tx:
        assert [order_id] == await resting_store.expired(tx, 10)
    await db.tell(ExpiryDue(order_id))
    assert await phase(db) == "REFUNDING"


async def test_a_day_order_has_the_end_of_its_session_in_its_row(db: OrderDatabase) -> None:
    """The row has no end before the session is known."""
    now = await clock(db)
    asked = structs.replace(
        request(),
        order_type=OrderType.LIMIT_BUY,
        price=None,
        time_in_force=TimeInForce.DAY,
        **TERMS[OrderType.LIMIT_BUY],
    )
    await db.tell(of(structs.replace(requested(), request=asked, sent_at=now), ONE))
    assert (await resting_row(db))["expires_at"] is None
    ends_at = now + timedelta(hours=3)
    await db.tell(of(approved(quoted_at=now, session_ends_at=ends_at), ONE))
    await db.tell(of(structs.replace(reserved(), amount=Money("490.49")), ONE))
    assert (await resting_row(db))["expires_at"] == ends_at
    [shown] = await db.rows("SELECT expires_at, time_in_force FROM audit.orders")
    assert (ends_at, "DAY") == tuple(shown.values())
