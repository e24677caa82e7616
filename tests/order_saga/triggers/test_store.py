"""The engine on PostgreSQL: every type at its level, rounds, gates, plans, and the oracle once more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from contracts.vocabulary import Side
from order_saga.core.gate import GATE, gate_key
from order_saga.triggers import store
from order_saga.triggers.book import Hit, Span
from order_saga.triggers.feed import Point
from order_saga.triggers.path import Trail
from order_saga.triggers.process import TriggerPoint
from saga_kit.runtime import crash_points
from saga_kit.runtime.errors import Contention
from saga_kit.runtime.transactions import Transaction, begin
from tests.order_saga.triggers.market import SHARE, StoredMarket, level, numbers, tick, trailing
from tests.order_saga.triggers.oracle import Order, Outcome

BUY, SELL = Side.BUY, Side.SELL
NEVER = Outcome(None, None, None)
BRACKET_SELL, BRACKET_BUY = (level(side, up="55", down="45") for side in (SELL, BUY))


class Crash(Exception):  # noqa: N818 - it is what happens
    """The process dies here."""


def _fired(sequence: int, price: str, triggered: int | None = None) -> Outcome:
    return Outcome(sequence, Decimal(price), triggered)


@pytest.mark.parametrize(
    ("order", "prices", "fires"),
    [
        pytest.param(level(BUY, down="50"), ("50.01", "50.00", "49.99"), (False, True, True), id="LIMIT_BUY"),
        pytest.param(level(SELL, up="50"), ("49.99", "50.00", "50.01"), (False, True, True), id="LIMIT_SELL"),
        pytest.param(level(BUY, up="50"), ("49.99", "50.00", "50.01"), (False, True, True), id="STOP_LOSS_BUY"),
        pytest.param(level(SELL, down="50"), ("50.01", "50.00", "49.99"), (False, True, True), id="STOP_LOSS_SELL"),
        pytest.param(level(BUY, down="50"), ("50.01", "50.00", "49.99"), (False, True, True), id="TAKE_PROFIT_BUY"),
        pytest.param(level(SELL, up="50"), ("49.99", "50.00", "50.01"), (False, True, True), id="TAKE_PROFIT_SELL"),
        pytest.param(BRACKET_SELL, ("54.99", "55", "55.01"), (False, True, True), id="BRACKET_SELL at its limit"),
        pytest.param(BRACKET_SELL, ("45.01", "45", "44.99"), (False, True, True), id="BRACKET_SELL at its stop"),
        pytest.param(BRACKET_BUY, ("45.01", "45", "44.99"), (False, True, True), id="BRACKET_BUY at its limit"),
        pytest.param(BRACKET_BUY, ("54.99", "55", "55.01"), (False, True, True), id="BRACKET_BUY at its stop"),
        pytest.param(trailing(SELL, 1, amount="5"), ("45.01", "45", "44.99"), (False, True, True), id="TRAILING_SELL"),
        pytest.param(trailing(BUY, 1, amount="5"), ("54.99", "55", "55.01"), (False, True, True), id="TRAILING_BUY"),
        pytest.param(trailing(SELL, 1, bps=250), ("48.76", "48.75", "48.74"), (False, True, True), id="BPS_SELL"),
        pytest.param(trailing(BUY, 1, bps=250), ("51.24", "51.25", "51.26"), (False, True, True), id="BPS_BUY"),
    ],
)
async def test_each_type_at_its_level(
    market: StoredMarket, order: Order, prices: Sequence[str], fires: Sequence[bool]
) -> None:
    """One tick before the level nothing fires; at it and beyond it the order fires, at the tick's price."""
    for number, (price, expected) in enumerate(zip(prices, fires, strict=True)):
        asset_id = f"A{number}"
        await market.tick(1, "50", asset_id=asset_id)
        order.start = 1
        order_id = await market.rest(number, order, asset_id=asset_id)
        await market.tick(2, price, asset_id=asset_id)
        watermark = None if order.amount is None and order.bps is None else Decimal(50)
        outcome = _fired(2, price)._replace(watermark=watermark) if expected else NEVER
        assert {number: outcome} == await market.outcomes(asset_id)
        assert expected == (order_id in market.fired)


async def test_a_stop_with_a_limit_is_a_limit_order_from_the_next_tick_on(market: StoredMarket) -> None:
    """A gap over stop and limit triggers it; it fires when the price comes back to the limit, at that price."""
    await market.rest(1, level(SELL, down="50", limit="49"))
    await market.rest(2, level(SELL, down="50", limit="49"))
    await market.judge(tick(1, Decimal(48)), tick(2, Decimal("48.5")))
    assert {1: Outcome(None, None, 1), 2: Outcome(None, None, 1)} == await market.outcomes()
    assert [1, 2] == numbers(market.fired)
    rows = await market.rows("SELECT up_price, down_price, limit_price, told FROM orders.resting")
    assert [(Decimal(49), None, None, False)] * 2 == rows
    await market.tick(3, "49.25")
    assert {1: _fired(3, "49.25", 1), 2: _fired(3, "49.25", 1)} == await market.outcomes()


@pytest.mark.parametrize(
    ("prices", "fires"),
    [
        pytest.param(("56", "44"), (1, "56"), id="the limit first"),
        pytest.param(("44", "56"), (1, "44"), id="the stop first"),
        pytest.param(("50", "46", "54", "45", "60", "40"), (4, "45"), id="the stop, after the price stayed between"),
        pytest.param(("54.99", "45.01", "90", "1"), (3, "90"), id="a gap over the limit"),
        pytest.param(("54.99", "45.01", "1", "90"), (3, "1"), id="a gap over the stop"),
    ],
)
@pytest.mark.parametrize("round_max", [1, 2, 2_000])
async def test_the_tick_that_comes_first_decides_which_level_of_a_bracket_fires(
    market: StoredMarket, prices: Sequence[str], fires: tuple[int, str], round_max: int
) -> None:
    """Ticks of one batch reach both levels: the order fires once, at the first of them; so do those it waits with.

    The row is found by both of its levels and still written once, in rounds of any size.
    """
    for number, side in enumerate((SELL, BUY, SELL)):
        await market.rest(number, level(side, up="55", down="45"))
    ticks = [tick(sequence, Decimal(price)) for sequence, price in enumerate(prices, 1)]
    await market.judge(*ticks, member=market.member(round_max=round_max))
    assert dict.fromkeys(range(3), _fired(*fires)) == await market.outcomes()
    assert [0, 1, 2] == sorted(numbers(market.fired))
    await market.judge(*ticks, tick(len(ticks) + 1, Decimal(60)))
    assert 3 == len(market.fired)


async def test_a_bracket_that_rests_amid_a_batch_sees_the_later_ticks_only(market: StoredMarket) -> None:
    """Its limit is reached before it rests, its stop after that: the stop fires it."""
    order = level(SELL, up="55", down="45")
    order.start = 2
    await market.rest(1, order)
    await market.judge(tick(1, Decimal(56)), tick(2, Decimal(57)), tick(3, Decimal(50)), tick(4, Decimal(44)))
    assert {1: _fired(4, "44")} == await market.outcomes()


async def test_prices_of_eighteen_places_and_of_a_million_fire_exactly(market: StoredMarket) -> None:
    """No digit is lost on the way to the database and back."""
    tiny = Decimal("1e-18")
    await market.rest(1, Order(SELL, 0, down=Decimal(1_000_000) - tiny))
    await market.rest(2, Order(SELL, 0, down=Decimal(1_000_000) - 2 * tiny))
    await market.judge(tick(1, Decimal("999999.999999999999999999")))
    assert {1: _fired(1, "999999.999999999999999999"), 2: NEVER} == await market.outcomes()


async def test_ticks_in_a_halt_fire_nothing_and_the_opening_does(market: StoredMarket) -> None:
    """A stop that the opening gaps over fires at the opening price; queued orders fire in order of time."""
    await market.rest(1, level(SELL, down="50"))
    for number in (3, 2):
        await market.rest(number, Order(BUY, 0, queued=True))
    await market.judge(tick(1, Decimal(40), trading=Trading.HALTED), tick(2, Decimal(41), trading=Trading.CLOSED))
    assert [] == market.fired
    await market.tick(3, "42")
    assert dict.fromkeys((1, 2, 3), _fired(3, "42")) == await market.outcomes()
    assert [1, 3, 2] == numbers(market.fired)


async def test_an_expired_order_does_not_fire(market: StoredMarket) -> None:
    """By the database's clock, although no scanner has ended it: one expires a moment ago, the other later."""
    now = datetime.now(UTC)
    for number, expires_at in enumerate((now - timedelta(microseconds=1), now + timedelta(minutes=5))):
        order = level(SELL, down="50")
        order.expires_at = expires_at
        await market.rest(number, order)
    await market.tick(1, "49")
    assert {0: NEVER, 1: _fired(1, "49")} == await market.outcomes()


async def test_rows_that_do_not_wait_do_not_fire(market: StoredMarket) -> None:
    """Not accepted yet, on hold, parked or fired before: no tick touches them."""
    for number in (1, 2):
        await market.rest(number, level(SELL, down="50"))
    await market.execute("UPDATE orders.resting SET live = false WHERE order_id = $1", UUID(int=1))
    await market.tick(1, "49")
    await market.tick(2, "48")
    assert {1: NEVER, 2: _fired(1, "49")} == await market.outcomes()


async def test_the_nearest_level_comes_first_then_time(market: StoredMarket) -> None:
    """Ids are handed on, and ranked in the table, by price, then by time."""
    for number, down in enumerate(("48", "50", "49", "50")):
        await market.rest(number, level(SELL, down=down))
    await market.rest(4, level(SELL, down="49.5", up="55"))  # a bracket takes its place by the level that is reached
    await market.tick(1, "47")
    assert [1, 3, 4, 2, 0] == numbers(market.fired)
    ranked = await market.rows("SELECT order_id FROM orders.resting ORDER BY fired_at, fired_rank")
    assert [1, 3, 4, 2, 0] == [row[0].int for row in ranked]


async def test_the_mark_moves_in_the_last_round_only(market: StoredMarket) -> None:
    """A crash between rounds loses nothing: the same ticks fire the rest, at the same tick; then the mark moves."""
    await market.tick(1, "100")
    for number in range(9):
        await market.rest(number, trailing(SELL, 1, amount="5") if number % 2 else level(SELL, down="95"))
    member = market.member(round_max=2)
    rounds: list[int] = []

    def die(point: object, ids: object) -> None:
        if point is TriggerPoint.ROUND_COMMITTED:
            rounds.append(len(ids))  # type: ignore[arg-type]
            raise Crash

    ticks = [tick(2, Decimal(95)), tick(3, Decimal(94))]
    crash_points.watch(die)
    try:
        with pytest.raises(Crash):
            await market.judge(*ticks, member=member)
        assert [(1,)] == await market.rows("SELECT sequence FROM orders.marks")
    finally:
        crash_points.watch(None)
    await market.judge(*ticks, member=member)
    assert [4] == rounds
    at_level, trailed = _fired(2, "95"), _fired(2, "95")._replace(watermark=Decimal(100))
    assert {number: trailed if number % 2 else at_level for number in range(9)} == await market.outcomes()
    assert [(3,)] == await market.rows("SELECT sequence FROM orders.marks")


@pytest.mark.parametrize("point", list(TriggerPoint))
async def test_a_crash_anywhere_fires_each_order_once(market: StoredMarket, point: TriggerPoint) -> None:
    """The batch comes again after a crash at each point; every order is bound to the first tick that fires it."""
    for number in range(5):
        await market.rest(number, level(SELL, down="95"))
    passed = 0

    def die(reached: object, _: object) -> None:
        nonlocal passed
        passed += reached is point
        if reached is point and passed == 1:
            raise Crash

    crash_points.watch(die)
    try:
        ticks = [tick(1, Decimal(95)), tick(2, Decimal(90))]
        with pytest.raises(Crash):
            await market.judge(*ticks, member=market.member(round_max=3))
        await market.judge(*ticks, member=market.member(round_max=3))
    finally:
        crash_points.watch(None)
    assert dict.fromkeys(range(5), _fired(1, "95")) == await market.outcomes()
    assert [(2,)] == await market.rows("SELECT sequence FROM orders.marks")


async def test_of_two_members_on_one_tick_the_second_finds_it_judged(market: StoredMarket) -> None:
    """Both get the same batch at the same time, as after a rebalance: each order fires once."""
    for number in range(200):
        await market.rest(number, level(SELL, down="95"))
    members = [market.member(round_max=30) for _ in range(2)]
    ticks = [tick(1, Decimal(95)), tick(2, Decimal(94))]
    await asyncio.gather(*(market.judge(*ticks, member=member) for member in members))
    assert dict.fromkeys(range(200), _fired(1, "95")) == await market.outcomes()
    assert sorted(market.fired) == sorted(UUID(int=number) for number in range(200))


async def test_a_busy_asset_holds_up_no_other(market: StoredMarket, engine: AsyncEngine) -> None:
    """While a batch of orders has one asset's gate, the other asset's ticks fire; then the first one's do."""
    await market.rest(1, level(SELL, down="95"))
    await market.rest(2, level(SELL, down="95"), asset_id="B")
    async with begin(engine) as orders:
        await orders.fetch(SHARE, GATE, gate_key("A"))
        judging = asyncio.create_task(market.judge(tick(1, Decimal(90)), tick(1, Decimal(91), asset_id="B")))
        async with asyncio.timeout(30):
            while not market.fired:
                await asyncio.sleep(0.01)
        assert [2] == numbers(market.fired)
        assert not judging.done()
    await judging
    assert [2, 1] == numbers(market.fired)


async def test_one_asset_in_many_rounds_holds_up_no_other(market: StoredMarket) -> None:
    """After a full round the calm asset is judged before the one with many orders."""
    for number in range(6):
        await market.rest(number, level(SELL, down="95"))
    await market.rest(9, level(SELL, down="80"), asset_id="B")
    prices = [tick(1, Decimal(90)), tick(1, Decimal(80), asset_id="B")]
    await market.judge(*prices, member=market.member(round_max=2))
    assert 9 in numbers(market.fired)[:3]
    assert 7 == len(market.fired)


async def test_a_row_that_changed_in_spite_of_the_gate_is_not_overwritten(market: StoredMarket) -> None:
    """The update is guarded: a member that read old rows writes nothing, and its batch runs again."""
    await market.rest(1, level(SELL, down="95"))
    async with begin(market.engine) as tx:
        _, now = await store.read_market(tx, ["A"])
        spans = {"A": Span(Decimal(90), Decimal(90), 1, 1)}
        [row] = await store.levels(tx, spans, {"A": [Point(1, Decimal(90), fires=True)]}, now, 10)
    await market.execute("UPDATE orders.resting SET revision = 2")
    async with begin(market.engine) as tx:
        hit = Hit(row, "down", Point(1, Decimal(90), fires=True))
        store.write_hits(tx, [hit], {("A", 1): now}, now)
        with pytest.raises(Contention):
            await tx.flush()
    assert {1: NEVER} == await market.outcomes()


async def test_postgres_queues_shared_and_exclusive_gates_fairly(engine: AsyncEngine) -> None:
    """A waiting tick is not overtaken by later batches of orders, however many there are."""
    order: list[str] = []

    async def take(name: str, sql: str) -> None:
        async with begin(engine) as tx:
            await tx.fetch(sql, GATE, 7)
            order.append(name)

    async with begin(engine) as tx:
        await tx.fetch(SHARE, GATE, 7)
        tasks = []
        waiting = """
            SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
            WHERE NOT granted AND locktype = 'advisory' AND datname = current_database()"""
        for name, sql in (("tick", "SELECT pg_advisory_xact_lock($1, $2)"), ("late", SHARE), ("later", SHARE)):
            tasks.append(asyncio.create_task(take(name, sql)))
            async with asyncio.timeout(30):
                while await tx.fetchval(waiting) < len(tasks):
                    await asyncio.sleep(0.01)
        assert [] == order
    await asyncio.gather(*tasks)
    assert "tick" == order[0]


@pytest.mark.parametrize("custom", [True, False])
async def test_queries_use_the_partial_indexes(market: StoredMarket, *, custom: bool) -> None:
    """With 30,000 resting orders no query of a batch reads the table from end to end, whatever the kind of plan."""
    await market.execute(
        """
        INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, up_price, down_price,
            trail_amount, trail_bps, from_sequence, entered_at, told)
        SELECT gen_random_uuid(), 'A' || n % 3, 'SELL', 1, true, n % 5 = 4,
            CASE WHEN n % 5 = 0 OR n % 10 = 1 THEN 100 + n END, CASE n % 5 WHEN 1 THEN 90.0 / n END,
            CASE n % 5 WHEN 2 THEN n END, CASE n % 5 WHEN 3 THEN 5 * (n % 100 + 1) END, n, now(), true
        FROM generate_series(1, 30000) AS n"""
    )
    async with begin(market.engine) as tx:
        await tx.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        now = await tx.fetchval("SELECT clock_timestamp()")
        spans = {"A1": Span(Decimal(99), Decimal(101), 40_000, 40_001)}
        points = {"A1": [Point(40_000, Decimal(99), fires=True), Point(40_001, Decimal(101), fires=True)]}
        plan = await _plan(tx, lambda explain: store.levels(explain, spans, points, now, 100), custom=custom)
        for index in ("resting_up", "resting_down", "resting_queued"):
            assert f"using {index} " in plan
        assert "Seq Scan on resting" not in plan
        probes = [("A1", Trail(SELL, Decimal(7), None), 9), ("A1", Trail(SELL, None, 50), 9)]
        plan = await _plan(tx, lambda explain: store.queues(explain, probes, now, 100), custom=custom)
        for index in ("resting_amount", "resting_bps"):
            assert f"using {index} " in plan
        assert "Seq Scan on resting" not in plan


class _Explain:
    """Takes the place of a transaction, and gives the plan of the statement instead of its rows."""

    def __init__(self, tx: Transaction, *, custom: bool) -> None:
        self.plan = ""
        self._tx = tx
        self._custom = custom

    async def fetch(self, sql: str, *args: object) -> list[object]:
        """Plan the statement for these arguments, or for any."""
        if self._custom:
            rows = await self._tx.fetch(f"EXPLAIN {sql}", *args)
        else:
            await self._tx.execute(f"PREPARE planned AS {sql}")
            rows = await self._tx.fetch(f"EXPLAIN EXECUTE planned({', '.join(['NULL'] * len(args))})")
            await self._tx.execute("DEALLOCATE planned")
        self.plan = "\n".join(row[0] for row in rows)
        return []


async def _plan(tx: Transaction, query: Callable[[Any], Awaitable[object]], *, custom: bool) -> str:
    explain = _Explain(tx, custom=custom)
    await query(explain)
    return explain.plan


async def test_tidying_changes_no_outcome(market: StoredMarket) -> None:
    """Trails without orders go, and steps in whose interval none begins; what rests fires as it would have."""
    prices = (100, 120, 90, 110, 95, 105, 99)
    for sequence, price in enumerate(prices, 1):
        await market.tick(sequence, str(price))
        await market.rest(sequence, trailing(SELL, sequence, amount="60" if sequence % 3 == 2 else "31"))
    await market.execute("UPDATE orders.resting SET live = false WHERE order_id = $1", UUID(int=4))
    before = await market.rows("SELECT upto, price FROM orders.peaks ORDER BY upto")
    assert [(2, Decimal(120)), (4, Decimal(110)), (6, Decimal(105))] == before
    await market.rest(9, trailing(BUY, 7, bps=500))
    await market.execute("UPDATE orders.resting SET live = false WHERE order_id = $1", UUID(int=9))
    async with begin(market.engine) as tx:
        assert {"A"} == await store.try_gates(tx, await store.with_trails(tx))
        assert 1 == await store.tidy(tx, ["A"])
    assert [(Decimal(31),), (Decimal(60),)] == await market.rows("SELECT trail FROM orders.trails ORDER BY 1")
    await market.execute("UPDATE orders.resting SET live = false WHERE order_id IN ($1, $2)", UUID(int=3), UUID(int=5))
    async with begin(market.engine) as tx:
        assert {"A"} == await store.try_gates(tx, ["A"])
        assert 1 == await store.tidy(tx, ["A"])
    assert [2, 6] == [row[0] for row in await market.rows("SELECT upto FROM orders.peaks ORDER BY upto")]
    await market.tick(8, "68")
    outcomes = await market.outcomes()
    assert [1, 6, 7] == sorted(number for number, outcome in outcomes.items() if outcome.fired == 8)


async def test_a_moving_watermark_writes_nothing_to_the_orders(market: StoredMarket) -> None:
    """Over a rising and falling path no row of a resting order is written, and the steps of its watermark stay few."""
    await market.tick(1, "100")
    for number in range(50):
        await market.rest(number, trailing(SELL, 1, bps=4_000 + 5 * number))
    versions = "SELECT order_id, ctid::text, xmin::text FROM orders.resting ORDER BY 1"
    before = await market.rows(versions)
    for sequence in range(2, 50):
        await market.tick(sequence, str(100 + sequence % 30))
    assert before == await market.rows(versions)
    assert [(29, Decimal(129), 29)] == await market.rows("SELECT upto, price, set_by FROM orders.peaks")
    await market.tick(60, "77.4")
    fired = {number: outcome for number, outcome in (await market.outcomes()).items() if outcome.fired}
    assert {0: Outcome(60, Decimal("77.4"), None, Decimal(129))} == fired
