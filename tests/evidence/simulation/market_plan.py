"""Draws the part of a scenario that is about a market: a path of prices, conditional orders, and what meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import structs

from order_saga.triggers.process import TriggerPoint
from order_saga.worker.market import RestingPoint
from tests.evidence.simulation.scenario import (
    BUSY_S,
    Cancel,
    Fault,
    How,
    Kind,
    OrderPlan,
    Scenario,
    Terms,
    TickPlan,
)

if TYPE_CHECKING:
    from random import Random

_START: Final = 100.0
_STEPS: Final = (-0.5, -0.5, 0.5, 0.5, -1.0, 1.0, -2.5, 2.5, 0.0, -0.01, 0.01)
_GAPS: Final = (-8.0, 8.0)
_ABOVE: Final = ("50000", "50000.01", "50400", "50600")
_BELOW: Final = ("50000", "49999.99", "49400", "49000")
"""Prices of BTC, which costs 50,000 and moves seldom."""
_KINDS: Final = (
    *("LIMIT", "LIMIT", "STOP_LOSS", "STOP_LOSS", "TAKE_PROFIT", "TRAILING_STOP", "TRAILING_STOP", "BRACKET"),
)
_HOWS: Final = (How.WELL,) * 8 + tuple(How)


def with_market(chance: Random, scenario: Scenario) -> Scenario:
    """Add a market to a history; in half of them, fewer messages are lost, so that more orders rest."""
    ticks = tuple(_path(chance))
    orders = tuple(_order(chance, ticks) for _ in range(chance.choice((1, 2, 4, 6, 9))))
    faults = tuple(_crash(chance) for _ in range(chance.choice((0, 0, 1, 1, 2))))
    if _one_in(chance, 4):
        faults += (Fault(Kind.REBALANCE, "orchestrator", chance.choice(ticks).at + chance.uniform(0, 0.05)),)
    if _one_in(chance, 5):
        faults += (_on_an_order(chance, len(scenario.orders), orders, ticks),)
    if _one_in(chance, 2):
        rates = structs.replace(scenario.rates, lost=0.0, late=min(scenario.rates.late, 0.05), connection_lost=0.0)
        scenario = structs.replace(scenario, rates=rates)
    return structs.replace(
        scenario,
        orders=scenario.orders + orders,
        faults=scenario.faults + faults,
        ticks=ticks,
        round_most=chance.choice((1, 1, 2, 2_000)),
    )


def _on_an_order(chance: Random, before: int, orders: tuple[OrderPlan, ...], ticks: tuple[TickPlan, ...]) -> Fault:
    """Have something go wrong with a conditional order, when it begins or when a tick meets it."""
    number = chance.randrange(len(orders))
    at = max(0.0, chance.choice((orders[number].at, chance.choice(ticks).at)) + chance.uniform(-0.5, 0.5))
    kind = chance.choice((Kind.POISON, Kind.POISON, Kind.LOCKED_ROW, Kind.ASK_AGAIN))
    return Fault(kind, str(before + number), at, chance.choice((0.3, 5.0, chance.uniform(5, 60))))


def _one_in(chance: Random, number: int) -> bool:
    return chance.randrange(number) == 0


def _path(chance: Random) -> list[TickPlan]:
    """Draw a walk with gaps and halts, in bursts and calmly."""
    ticks: list[TickPlan] = []
    price, at = _START, chance.uniform(0, 5)
    crowded = _one_in(chance, 2)
    for _ in range(chance.choice((3, 8, 15, 25, 40))):
        at += chance.choice((0.0, 0.001, 0.01, chance.uniform(0, 1))) if crowded else chance.uniform(0, 9)
        if _one_in(chance, 6):
            at += chance.uniform(0, 25)  # a pause between bursts
        if at > BUSY_S and ticks:
            break
        price = round(max(60.0, price + chance.choice(_STEPS * 4 + _GAPS)), 2)
        trading = chance.choice(("OPEN",) * 15 + ("HALTED", "CLOSED"))
        ticks.append(TickPlan(at, "WAVE", f"{price:g}", trading, chance.choice(_HOWS)))
    return [*ticks, *_swings(chance, max(ticks[-1].at, chance.uniform(30, BUSY_S)), price)]


def _swings(chance: Random, at: float, price: float) -> list[TickPlan]:
    """Draw wide swings at the end, for whoever still waits."""
    moves = [chance.choice((-7.0, -3.0, 0.5, 3.0, 7.0)) for _ in range(chance.choice((0, 2, 5)))]
    waits = [chance.choice((0.0, 0.002, 3.0)) for _ in moves]
    return [
        TickPlan(at + 1 + sum(waits[: number + 1]), "WAVE", f"{round(price + move, 2):g}")
        for number, move in enumerate(moves)
    ]


def _order(chance: Random, ticks: tuple[TickPlan, ...]) -> OrderPlan:
    at = chance.choice((0.0, chance.uniform(0, 5), chance.uniform(0, BUSY_S * 0.6), chance.choice(ticks).at))
    on_wave = not _one_in(chance, 8)
    side, kind = chance.choice(("BUY", "SELL")), chance.choice(_KINDS)
    price = next((float(tick.price) for tick in reversed(ticks) if tick.at < at), _START)
    terms = _terms(chance, kind, side, price if on_wave else None)
    seen: str | None = None
    if on_wave and _one_in(chance, 6):
        at, seen, terms = _queues(chance, ticks, at)
    elif _one_in(chance, 3):
        terms = structs.replace(terms, queue_when_closed=True)
    if terms.time_in_force == "GTD":
        meets = chance.choice(ticks).at - at + chance.choice((-0.01, 0.0, 0.005, 0.02))
        ends = chance.choice((chance.uniform(0, 90), meets if meets > 0 else chance.uniform(0, 20)))
        terms = structs.replace(terms, expires_after_s=ends)
    return OrderPlan(
        order_id=UUID(int=chance.getrandbits(128)),
        user_id=chance.choice(("alice", "bob", "bob", "carol" if side == "BUY" else "bob")),
        asset_id="WAVE" if on_wave else "BTC",
        side=side,
        quantity=chance.choice(("0.5", "0.5", "1", "0.37", "1.23456789")) if on_wave else "0.01",
        price=seen,
        client_order_id=None,
        at=at,
        copies=chance.choice((1, 1, 2)),
        trusting=_one_in(chance, 2),
        cancels=tuple(_cancel(chance, at, ticks) for _ in range(chance.choice((0, 0, 0, 1, 2)))),
        terms=terms,
    )


def _queues(chance: Random, ticks: tuple[TickPlan, ...], at: float) -> tuple[float, str, Terms]:
    """Draw a market order that waits for the opening: when it comes, the price that it names, and its end.

    It comes soon after its asset was halted or closed, if that ever happens; else it is filled at once.
    """
    shut = [number for number, tick in enumerate(ticks) if tick.trading != "OPEN"]
    number = chance.choice(shut) if shut else 0
    at = ticks[number].at + chance.choice((0.0, 0.01, 0.5)) if shut else at
    near = chance.choice(ticks[number : number + 3])
    seen = f"{round(float(near.price) + chance.choice((0.0, 0.0, 0.01, 1.0, -1.0)), 2):g}"
    ends = chance.choice((None, None, None, chance.uniform(0, 60)))
    slippage = chance.choice((None, 0, 30, 500, 2_000))
    return at, seen, Terms("MARKET", slippage_bps=slippage, expires_after_s=ends, queue_when_closed=True)


def _terms(chance: Random, kind: str, side: str, price: float | None) -> Terms:
    """Draw terms; `price`: what the asset costs then, None for the one that is dear."""
    up = kind in ("LIMIT", "TAKE_PROFIT") if side == "SELL" else kind == "STOP_LOSS"
    slippage = None if side == "SELL" and not _one_in(chance, 30) else chance.choice((None, 0, 30, 500))
    waits = chance.choice(("GTC", "GTC", "GTD", None))

    def near(*, above: bool) -> str:
        if price is None:
            return chance.choice(_ABOVE if above else _BELOW)
        away = chance.choice((0.0, 0.01, 0.5, 0.5, 1.0, 1.5, 3.0, 6.0))
        return f"{round(price + (away if above else -away), 2):g}"

    above = up is not _one_in(chance, 8)
    if kind == "LIMIT":
        force = chance.choice(("GTC", "GTC", "GTD", None, "GTC", "GTD", "IOC", "FOK"))
        return Terms(kind, limit_price=near(above=above), time_in_force=force)
    if kind == "TRAILING_STOP":
        if _one_in(chance, 2):
            amount = chance.choice(("0.5", "1", "1", "2.5", "120")) if price is not None else "400"
            return Terms(kind, trail_amount=amount, slippage_bps=slippage, time_in_force=waits)
        bps = chance.choice((5, 50, 100, 135, 5_000))
        return Terms(kind, trail_bps=bps, slippage_bps=slippage, time_in_force=waits)
    if kind == "BRACKET":  # now and then one that has no room between its levels, or stands on one side of the market
        gain, stop = near(above=side == "SELL"), near(above=side == "BUY")
        return Terms(kind, trigger_price=stop, limit_price=gain, slippage_bps=slippage, time_in_force=waits)
    limit = None if _one_in(chance, 2) else near(above=_one_in(chance, 2))
    slippage = None if limit is not None else slippage
    return Terms(kind, trigger_price=near(above=above), limit_price=limit, slippage_bps=slippage, time_in_force=waits)


def _cancel(chance: Random, at: float, ticks: tuple[TickPlan, ...]) -> Cancel:
    meets = chance.choice(ticks).at + chance.choice((0.0, 0.002, 0.01, chance.uniform(-0.02, 0.05)))
    when = chance.choice((max(at, meets), max(at, meets), at + chance.uniform(0, 90)))
    return Cancel(when, chance.choice(("user", "user", "user", "operator", "another user")))


def _crash(chance: Random) -> Fault:
    node = chance.choice(("orchestrator-0", "orchestrator-1"))
    for_s = chance.choice((0.0, 0.3, chance.uniform(0, 12), chance.uniform(0, 60)))
    rare = TriggerPoint.ROUND_COMMITTED, TriggerPoint.FIRED_HANDED
    point = chance.choice((*TriggerPoint, *rare, *RestingPoint))
    often = point not in {*rare, RestingPoint.EXPIRIES_FOUND}
    return Fault(Kind.CRASH, node, 0.0, for_s, point, chance.choice((1, 2, 3, 5, 8, 13)) if often else 1)
