"""Draws changes of orders: amends of every kind, suspensions and releases, at moments when something else happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from tests.evidence.simulation.scenario import BUSY_S, Change, Expects, Fault, Kind, OrderPlan, Rates, Scenario, What

if TYPE_CHECKING:
    from random import Random

_BY: Final = ("user",) * 8 + ("operator", "another user")
_UPS_AND_DOWNS: Final = ("0.2", "0.4", "0.5", "0.7", "1", "1.5", "2", "3.3")
_UNFIT: Final = (*("0.0001",) * 4, "15", "15", "200", "0.123456789")
"""Quantities below the least and above the largest, more than anybody has, and off the step."""
_AWAY: Final = (0.01, 0.5, 0.5, 1.0, 1.5, 3.0, 6.0)
_BESIDE: Final = ("49000", "49400", "49999.99", "50000", "50000.01", "50600")
"""Prices of BTC, which costs 50,000 and moves seldom."""


def with_changes(chance: Random, scenario: Scenario) -> Scenario:
    """Have most conditional orders of a history changed, and now and then a market order, which can't be.

    In some histories every message comes, so that more orders rest when they are changed.
    """
    orders = tuple(
        structs.replace(plan, changes=_changes(chance, plan, scenario))
        if (plan.terms is not None and chance.random() < 0.8) or chance.random() < 0.1
        else plan
        for plan in scenario.orders
    )
    if chance.random() < 0.6:
        scenario = structs.replace(scenario, rates=Rates(late_s=2.0, batch_most=scenario.rates.batch_most))
    faults = tuple(_fault(chance, orders) for _ in range(chance.choice((0, 0, 1, 1, 2))))
    return structs.replace(scenario, orders=orders, faults=scenario.faults + tuple(one for one in faults if one))


def _fault(chance: Random, orders: tuple[OrderPlan, ...]) -> Fault | None:
    """Have a participant be silent, slow or dead just when it is to consent to a change."""
    moments = [change.at for plan in orders for change in plan.changes]
    if not moments:
        return None
    at = max(0.0, chance.choice(moments) + chance.uniform(-1.0, 0.05))
    kind = chance.choice((Kind.SILENT, Kind.SILENT, Kind.FREEZE, Kind.KILL, Kind.PAUSE))
    services = chance.choice((("balance", "balance-0"), ("balance", "balance-1"), ("assets", "assets-0")))
    target = services[kind in {Kind.FREEZE, Kind.KILL}]
    return Fault(kind, target, at, chance.choice((1.0, 6.0, 35.0, 80.0)))


def _changes(chance: Random, plan: OrderPlan, scenario: Scenario) -> tuple[Change, ...]:
    changes: list[Change] = []
    for number in range(chance.choice((1, 2, 2, 3, 4, 5))):
        at = _moment(chance, plan, scenario, changes)
        what = chance.choice((What.AMEND, What.AMEND, What.AMEND, What.HOLD, What.RELEASE))
        changes.append(_change(chance, plan, scenario, at, what, number))
        if what is What.HOLD and chance.random() < 0.7:
            after = chance.choice((0.0, 0.01, chance.uniform(0, 3), chance.uniform(0, 40)))
            changes.append(_change(chance, plan, scenario, at + after, What.RELEASE, number))
    return tuple(sorted(changes, key=lambda change: change.at))


def _moment(chance: Random, plan: OrderPlan, scenario: Scenario, others: list[Change]) -> float:
    """Draw when: at rest, when a tick, a cancel or another change comes, before the order, or after its end."""
    near = chance.choice((0.0, 0.0, 0.002, 0.01, 0.05, chance.uniform(-0.02, 0.05)))
    later = [tick.at for tick in scenario.ticks if tick.at > plan.at]
    meets = chance.choice((*later, plan.at + chance.uniform(0.2, 30)))
    soon, later_on = (plan.at + chance.uniform(*between) for between in ((0.1, 3), (0, 40)))
    moments = [soon, soon, soon, soon, later_on, later_on, meets + near, meets - 0.1 + near]
    moments += [cancel.at + near for cancel in plan.cancels] + [other.at + near for other in others]
    if plan.terms is not None and plan.terms.expires_after_s is not None:
        moments.append(plan.at + plan.terms.expires_after_s + near)
    if chance.random() < 0.05:
        moments = [plan.at - chance.uniform(0, 1), BUSY_S]
    return min(max(0.0, chance.choice(moments)), BUSY_S)


def _change(chance: Random, plan: OrderPlan, scenario: Scenario, at: float, what: What, number: int) -> Change:
    by, copies = chance.choice(_BY), chance.choice((1, 1, 1, 1, 2, 3))
    if what is not What.AMEND:
        return Change(at, what, by, copies)
    repeats = number > 0 and chance.random() < 0.1
    expects = chance.choice((Expects.ANY,) * 7 + (Expects.NEWEST, Expects.NEWEST, Expects.OLDER))
    fields = _fields(chance, plan, scenario, at)
    return Change(at, what, by, copies, f"amend-{number - repeats}", expects, **fields)


def _fields(chance: Random, plan: OrderPlan, scenario: Scenario, at: float) -> dict[str, Any]:
    """Draw what an amend changes: one thing, or a few, and seldom something that its order does not have."""
    terms = plan.terms
    fields: dict[str, Any] = {}
    for _ in range(chance.choice((1, 1, 1, 2))):
        name = chance.choice(("quantity", "quantity", "quantity", "price", "price", "price", "slippage", "time"))
        if name == "quantity":
            fields["quantity"] = _quantity(chance, plan)
        elif name == "price":
            fields |= _price(chance, plan, scenario, at)
        elif name == "slippage":
            fields["slippage_bps"] = chance.choice((0, 30, 100, 500, 2_000))
        else:
            fields |= _time(chance, scenario, at)
    if terms is None or chance.random() < 0.02:
        fields |= chance.choice(({"trigger_price": "99"}, {"trail_bps": 50}, {"limit_price": "101"}, {}))
    return fields


def _quantity(chance: Random, plan: OrderPlan) -> str:
    if chance.random() < 0.3:
        return chance.choice(_UNFIT)
    if plan.asset_id == "BTC":
        return chance.choice(("0.005", "0.01", "0.015", "0.02", "0.029"))
    return chance.choice(_UPS_AND_DOWNS)


def _price(chance: Random, plan: OrderPlan, scenario: Scenario, at: float) -> dict[str, Any]:
    """Draw another limit, trigger or trail, beside the market on either side, or into it."""
    now = next((float(tick.price) for tick in reversed(scenario.ticks) if tick.at < at), 100.0)

    def beside() -> str:
        if plan.asset_id == "BTC":
            return chance.choice(_BESIDE)
        if chance.random() < 0.03:
            return "100.001"
        return f"{round(now + chance.choice((-1, 1)) * chance.choice(_AWAY), 2):g}"

    terms = plan.terms
    if terms is not None and terms.trail_amount is not None:
        return {"trail_amount": chance.choice(("0.5", "1", "2.5", "3", "120"))}
    if terms is not None and terms.trail_bps is not None:
        return {"trail_bps": chance.choice((5, 50, 100, 135, 300, 4_000))}
    names = [name for name in ("limit_price", "trigger_price") if terms is None or getattr(terms, name) is not None]
    return {name: beside() for name in names if len(names) == 1 or chance.random() < 0.6}


def _time(chance: Random, scenario: Scenario, at: float) -> dict[str, Any]:
    force = chance.choice(("GTC", "GTD", "GTD", "GTD", "IOC"))
    if force != "GTD":
        return {"time_in_force": force}
    meets = chance.choice(scenario.ticks).at - at + chance.choice((-0.01, 0.0, 0.005, 0.02))
    ends = chance.choice((chance.uniform(0, 60), meets if meets > 0 else chance.uniform(0, 20), -1.0))
    return {"time_in_force": chance.choice(("GTD", None)), "expires_after_s": ends}
