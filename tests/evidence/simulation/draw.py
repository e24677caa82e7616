"""Draws the plan of a history from its seed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final
from uuid import UUID

from tests.evidence.simulation.change_plan import with_changes
from tests.evidence.simulation.market_plan import with_market
from tests.evidence.simulation.scenario import (
    BUSY_S,
    NODES,
    POINTS,
    REPLICAS,
    SETTING_ASIDE,
    USERS,
    Cancel,
    Fault,
    Kind,
    OrderPlan,
    Rates,
    Scenario,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_ONLY_CHANCE: Final = 0.15
LOCKED_ROW_CHANCE: Final = 0.3
MARKET_CHANCE: Final = 0.4
"""Of a history with a feed of prices and conditional orders."""
CHANGES_CHANCE: Final = 0.6
"""Of those, of one whose orders are changed."""


def draw(seed: int) -> Scenario:
    """Draw the plan of a history."""
    chance = Random(seed)  # noqa: S311 - repeatable on purpose
    orders = tuple(_order(chance, number) for number in range(chance.choice((1, 1, 2, 2, 3, 4, 6))))
    faults = tuple(_fault(chance, len(orders)) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4, 6, 9))))
    faults += tuple(_poison(chance, len(orders)) for fault in faults if fault.point in SETTING_ASIDE)
    rates, breaker_opens_after = _rates(chance), chance.choice((1, 3, 100))
    if chance.random() < READ_ONLY_CHANCE:
        faults += (Fault(Kind.DATABASE_READ_ONLY, "", chance.uniform(0, BUSY_S), chance.choice((0.3, 3.0, 20.0))),)
    if chance.random() < LOCKED_ROW_CHANCE:
        faults += tuple(_locked_row(chance, orders) for _ in range(chance.choice((1, 1, 2))))
    scenario = Scenario(seed, orders, faults, rates, breaker_opens_after)
    if chance.random() >= MARKET_CHANCE:
        return scenario
    scenario = with_market(chance, scenario)
    return with_changes(chance, scenario) if chance.random() < CHANGES_CHANCE else scenario


def _order(chance: Random, number: int) -> OrderPlan:
    at = chance.choice((0.0, chance.uniform(0, 1), chance.uniform(0, BUSY_S)))
    side = chance.choice(("BUY", "SELL"))
    slip = chance.choice((0, 0, 0, 1))
    return OrderPlan(
        order_id=UUID(int=chance.getrandbits(128)),
        user_id=chance.choice((*USERS, *USERS, *USERS, "nobody")),
        asset_id=chance.choice(("BTC",) * 8 + ("HALT", "NONE")),
        side=side,
        quantity=chance.choice(("0.01",) * 6 + ("0.01234567",) * 4 + ("0.02",) * 3 + ("0.012345678", "0.0001", "0.19")),
        price=chance.choice((None, "50000", "50000", "50000", "49000" if slip else "50100")),
        client_order_id=chance.choice((None, None, f"client-{number}", "client-same")),
        at=at,
        stamped_off_s=chance.choice((0.0,) * 6 + (-50.0, -59.5, -61.0, 90.0)),
        copies=chance.choice((1, 1, 1, 2, 3)),
        sent_with_other_words=chance.random() < 0.05,
        invalid=chance.random() < 0.03,
        trusting=chance.random() < 0.5,
        cancels=tuple(_cancel(chance, at) for _ in range(chance.choice((0, 0, 0, 1, 1, 2)))),
    )


def _cancel(chance: Random, at: float) -> Cancel:
    after = chance.choice((0.0, chance.uniform(-2, 2), chance.uniform(0, 0.1), chance.uniform(0, 90)))
    return Cancel(max(0.0, at + after), chance.choice(("user", "user", "user", "operator", "another user")))


_DRAWN: Final = tuple(kind for kind in Kind if kind not in {Kind.DATABASE_READ_ONLY, Kind.LOCKED_ROW})
"""Kinds that are drawn one by one; newer kinds are drawn last, so that the histories of known seeds do not change."""


def _fault(chance: Random, orders: int) -> Fault:  # noqa: PLR0911 - one for each kind
    kind = chance.choice((Kind.CRASH,) * 5 + (Kind.KILL,) * 2 + _DRAWN)
    at = chance.choice((chance.uniform(0, 2), chance.uniform(0, BUSY_S)))
    for_s = chance.choice((0.0, 0.3, chance.uniform(0, 12), chance.uniform(0, 100)))
    match kind:
        case Kind.CRASH:
            node = chance.choice(NODES)
            point = chance.choice(POINTS[node.partition("-")[0]])
            nth = 1 if point in SETTING_ASIDE else chance.choice((1, 1, 1, 2, 2, 3, 4, 6))
            return Fault(kind, node, 0.0, for_s, point, nth)
        case Kind.KILL | Kind.FREEZE:
            return Fault(kind, chance.choice(NODES), at, for_s)
        case Kind.SILENT | Kind.REBALANCE:
            return Fault(kind, chance.choice(tuple(REPLICAS)), at, for_s)
        case Kind.CLOCK_JUMP | Kind.BROKER_CLOCK:
            return Fault(kind, "", at, 0.0, amount=chance.choice((-40.0, -3.0, 2.5, 31.0, 400.0)))
        case Kind.PAUSE:
            return Fault(kind, chance.choice(("assets", "balance")), at, for_s)
        case Kind.PRICE:
            return Fault(kind, "BTC", at, 0.0, amount=chance.choice((49_000.0, 49_400.0, 50_400.0, 50_600.0)))
        case Kind.NO_PRICE:
            return Fault(kind, "BTC", at, for_s)
        case Kind.ASK_AGAIN:
            return Fault(kind, str(chance.randrange(orders)), at)
        case Kind.POISON:
            return _poison(chance, orders)
        case _:
            return Fault(kind, "", at, for_s)


def _poison(chance: Random, orders: int) -> Fault:
    at = chance.choice((0.0, chance.uniform(0, 2), chance.uniform(0, BUSY_S)))
    return Fault(Kind.POISON, str(chance.randrange(orders)), at, 5 + chance.choice((0.0, chance.uniform(0, 100))))


def _locked_row(chance: Random, orders: Sequence[OrderPlan]) -> Fault:
    number = chance.randrange(len(orders))
    if early := [plan for plan in orders if any(cancel.at < plan.at for cancel in plan.cancels)]:
        # The row exists before its request, which is sent only once: a message that must not be dropped meets a lock.
        plan = chance.choice(early)
        at = min(cancel.at for cancel in plan.cancels)
        return Fault(Kind.LOCKED_ROW, str(orders.index(plan)), at, chance.choice((1.0, 12.0, 50.0)))
    account = f"{orders[number].user_id}/{chance.choice(('USD', 'BTC'))}"
    at = max(0.0, orders[number].at + chance.choice((-1.0, 0.0, chance.uniform(0, 1), chance.uniform(0, 60))))
    return Fault(Kind.LOCKED_ROW, chance.choice((account, str(number))), at, chance.choice((1.0, 12.0, 100.0)))


def _rates(chance: Random) -> Rates:
    def sometimes(*values: float) -> float:
        return chance.choice((0.0, 0.0, *values))

    return Rates(
        lost=sometimes(0.02, 0.2, 0.5),
        doubled=sometimes(0.05, 0.5),
        late=sometimes(0.05, 0.3),
        late_s=chance.choice((0.5, 5.0, 40.0, 200.0)),
        not_acknowledged=sometimes(0.05, 0.3),
        commit_unknown=sometimes(0.02, 0.2),
        connection_lost=sometimes(0.005, 0.03),
        slow=sometimes(0.02, 0.1),
        batch_most=chance.choice((1, 2, 3, 500)),
    )
