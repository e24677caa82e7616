"""Histories of one market: what ticks, cancels and expiries do to resting orders, and that the judge sees a defect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from order_saga.triggers import feed
from order_saga.triggers import process as triggers
from order_saga.worker import resting_store
from saga_kit.messaging.batch import Received
from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.run import Outcome, quiet, run
from tests.evidence.simulation.scenario import Cancel, Fault, How, Kind, OrderPlan, Rates, Scenario, Terms, TickPlan
from tests.evidence.simulation.shrink import shrink

HISTORIES: Final = 60
SEEDS_MAX: Final = 800
"""Within so many histories a planted defect must show."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


_STOP: Final = Terms("STOP_LOSS", trigger_price="99")


def _order(number: int, side: str, terms: Terms, *, at: float = 0.0, cancels: tuple[Cancel, ...] = ()) -> OrderPlan:
    return OrderPlan(UUID(int=number), "bob", "WAVE", side, "1", None, None, at, cancels=cancels, terms=terms)


def _ticks(*prices: float, at: float = 10.0, every_s: float = 1.0) -> tuple[TickPlan, ...]:
    return tuple(TickPlan(at + number * every_s, "WAVE", f"{price:g}") for number, price in enumerate(prices))


def _run(
    orders: list[OrderPlan], ticks: tuple[TickPlan, ...], faults: tuple[Fault, ...] = (), round_most: int = 2_000
) -> Outcome:
    outcome = run(Scenario(1, tuple(orders), faults, Rates(batch_most=500), ticks=ticks, round_most=round_most))
    assert [] == outcome.faults
    return outcome


def test_histories_with_a_market_are_the_oracles() -> None:
    """In drawn histories with a market, ticks do to every order what the oracle says, and nothing else is wrong."""
    with_market = [scenario for scenario in map(draw, range(SEEDS_MAX)) if scenario.ticks][:HISTORIES]
    assert [] == [(scenario.seed, faults[0]) for scenario in with_market if (faults := run(scenario).faults)]


@pytest.mark.parametrize(("level", "fires"), [("101", True), ("101.01", False)])
@pytest.mark.parametrize("kind", ["STOP_LOSS_BUY", "LIMIT_SELL", "TAKE_PROFIT_SELL"])
def test_a_price_at_its_level_fires_an_order(kind: str, level: str, fires: bool) -> None:  # noqa: FBT001
    """A tick exactly at the level fires; one a cent before it does not."""
    kind, _, side = kind.rpartition("_")
    terms = Terms(kind, limit_price=level) if kind == "LIMIT" else Terms(kind, trigger_price=level)
    outcome = _run([_order(1, side, terms)], _ticks(100.5, 101, 100))
    assert {"COMPLETED" if fires else "CANCELLED USER_REQUESTED": 1} == dict(outcome.ends)


@pytest.mark.parametrize(
    ("kind", "end"), [("LIMIT_SELL", "COMPLETED"), ("STOP_LOSS_BUY", "FAILED WOULD_TRIGGER_IMMEDIATELY")]
)
def test_a_quote_at_its_level_counts(kind: str, end: str) -> None:
    """An order whose level is the very price that it is quoted does not rest: it fills, or is refused."""
    kind, _, side = kind.rpartition("_")
    terms = Terms(kind, limit_price="100") if kind == "LIMIT" else Terms(kind, trigger_price="100")
    assert {end: 1} == dict(_run([_order(1, side, terms)], _ticks(101)).ends)


@pytest.mark.parametrize(
    ("path", "leg"), [((101, 103, 96), "up"), ((99, 97, 104), "down"), ((101.99, 98.01, 100), None)]
)
@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_a_bracket_fires_by_the_level_that_is_reached_first(
    side: str, path: tuple[float, ...], leg: str | None
) -> None:
    """Both levels are reached in the end: the order fires once, and its money moves once."""
    prices = ("102", "98") if side == "SELL" else ("98", "102")
    terms = Terms(
        "BRACKET", limit_price=prices[0], trigger_price=prices[1], slippage_bps=None if side == "SELL" else 500
    )
    outcome = _run([_order(1, side, terms)], _ticks(*path, every_s=0.001))
    assert {"CANCELLED USER_REQUESTED" if leg is None else "COMPLETED": 1} == dict(outcome.ends)
    assert (leg is not None) == outcome.seen[f"order bracket fires {leg or 'up'}"]


def test_brackets_that_one_tick_fires_take_no_round_twice() -> None:
    """A batch that reaches both levels finds each row twice; every order fires once, however small a round is."""
    terms = Terms("BRACKET", limit_price="102", trigger_price="98")
    orders = [_order(number, "SELL", terms) for number in range(6)]
    for most in (1, 2, 3):
        assert {"COMPLETED": 6} == dict(_run(orders, _ticks(103, 96, 100, every_s=0.0), round_most=most).ends)


def test_an_order_that_enters_at_a_tick_waits_for_the_next_one() -> None:
    """A trailing stop begins at the price of its quote: the same tick that quoted it neither fires nor moves it."""
    terms = Terms("TRAILING_STOP", trail_amount="1")
    outcome = _run([_order(1, "SELL", terms, at=12.5)], _ticks(103, 102, 100.5, 101.5, 100.5))
    assert {"CANCELLED USER_REQUESTED": 1} != dict(outcome.ends)
    assert 1 == outcome.seen["order trailing stop fires"]


def test_equal_peaks_leave_one_watermark() -> None:
    """Trailing stops of every age have the best price since they rest, when the path goes back to its old high."""
    terms = Terms("TRAILING_STOP", trail_amount="1")
    orders = [_order(number, "SELL", terms, at=10.5 + number * 2) for number in range(3)]
    path = (104, 103.5, 103, 103.5, 104, 103.5, 103.4, 103.0)
    assert {"COMPLETED": 3} == dict(_run(orders, _ticks(*path, every_s=2.0)).ends)


def test_a_full_round_is_followed_by_the_rest_of_its_ticks() -> None:
    """Ten orders that one tick fires all fire at it when a round takes one: the mark moves last."""
    orders = [_order(number, "SELL", _STOP) for number in range(8)]
    outcome = _run(orders, _ticks(98, 100), round_most=1)
    assert {"COMPLETED": 8} == dict(outcome.ends)
    assert outcome.seen["full round of ticks"] > 0


def test_a_gap_above_its_cap_costs_nobody_money() -> None:
    """A BUY stop that a gap carries over its cap fires and fails; its hold is refunded."""
    terms = Terms("STOP_LOSS", trigger_price="101", slippage_bps=50)
    assert {"FAILED SLIPPAGE_EXCEEDED": 1} == dict(_run([_order(1, "BUY", terms)], _ticks(103)).ends)


def test_a_stale_tick_fires_nothing() -> None:
    """A tick that its source confirmed a minute ago fires nothing, though it meets the level."""
    stale = (TickPlan(10.0, "WAVE", "98", how=How.STALE), *_ticks(100, at=10.5))
    outcome = _run([_order(1, "SELL", _STOP)], stale)
    assert {"CANCELLED USER_REQUESTED": 1} == dict(outcome.ends)


def test_a_tick_in_a_halt_fires_nothing() -> None:
    """A tick of an asset that is halted fires nothing; the opening tick is judged for itself."""
    halted = (TickPlan(10.0, "WAVE", "98", "HALTED"), *_ticks(100, at=12.0))
    assert {"CANCELLED USER_REQUESTED": 1} == dict(_run([_order(1, "SELL", _STOP)], halted).ends)


def test_the_repetition_of_a_stale_tick_fires() -> None:
    """A tick that came too late fires by its heartbeat, also an order that began to rest in between."""
    stale = (TickPlan(10.0, "WAVE", "98", how=How.STALE),)
    orders = [_order(1, "SELL", _STOP)]
    assert {"COMPLETED": 1} == dict(_run(orders, stale).ends)


def test_a_fire_of_an_order_that_is_parked_is_told() -> None:
    """An order that can't be written when it fires is parked after its fire: each version is told, and it ends well."""
    poison = Fault(Kind.POISON, "0", 9.5, 10.0)
    assert {"COMPLETED": 1} == dict(_run([_order(1, "SELL", _STOP)], _ticks(98), (poison,)).ends)


def test_nobody_fires_at_the_end_of_its_time() -> None:
    """A tick that comes when the time of an order is over does not fire it, though nobody has ended the order yet."""
    terms = Terms("STOP_LOSS", trigger_price="99", time_in_force="GTD", expires_after_s=10.0)
    silent = Fault(Kind.SILENT, "orchestrator", 9.0, 4.0)
    outcome = _run([_order(1, "SELL", terms)], _ticks(98, at=11.0, every_s=1.0), (silent,))
    assert {"CANCELLED EXPIRED": 1} == dict(outcome.ends)


def _take_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def share_gates(_tx: Any, _assets: Any) -> None:
        return None

    monkeypatch.setattr(resting_store, "share_gates", share_gates)


def _fire_at_any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    real = feed.judge_age
    monkeypatch.setattr(triggers, "judge_age", lambda tick, now, _age_max: real(tick, now, timedelta(days=1)))


def _hide_the_news(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resting_store.look

    async def look(tx: Any, order_ids: Any, assets: Any, now: Any) -> Any:
        return (await real(tx, order_ids, assets, now))._replace(news={})

    monkeypatch.setattr(resting_store, "look", look)


def _judge_one_tick_of_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    real = triggers.TriggerHandler.handle

    async def handle(self: Any, tx: Any, received: list[Received[triggers.Price]]) -> Any:
        newest = {each.message.asset_id: each for each in received}
        return await real(self, tx, list(newest.values()))

    monkeypatch.setattr(triggers.TriggerHandler, "handle", handle)


@pytest.mark.parametrize("defect", [_take_no_gate, _fire_at_any_age, _hide_the_news, _judge_one_tick_of_each_batch])
def test_a_defect_of_the_market_shows(
    monkeypatch: pytest.MonkeyPatch, defect: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A planted defect in what orders and ticks agree on breaks a history."""
    defect(monkeypatch)
    scenarios = (scenario for scenario in map(draw, range(SEEDS_MAX)) if scenario.ticks)
    seed = next((scenario.seed for scenario in scenarios if run(scenario).faults), None)
    assert seed is not None, "no history shows the defect"


def test_a_history_without_a_feed_fires_nothing() -> None:
    """Without ticks, conditional orders rest until their users cancel them."""
    assert {"CANCELLED USER_REQUESTED": 1} == dict(_run([_order(1, "SELL", _STOP)], ()).ends)


def test_a_smaller_history_has_fewer_ticks() -> None:
    """`shrink` leaves out ticks, too, as long as a history still fails."""
    scenario = Scenario(1, (_order(1, "SELL", _STOP),), (), Rates(), ticks=_ticks(101, 98, 100, 102))
    small = shrink(scenario, lambda one: run(one).ends["COMPLETED"] == 1)
    assert ["98"] == [tick.price for tick in small.ticks]
