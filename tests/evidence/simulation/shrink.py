"""Makes a failing scenario smaller while it still fails: fewer orders, changes, faults and ticks, lower rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from tests.evidence.simulation.run import run
from tests.evidence.simulation.scenario import ROUND_MOST, Kind, Rates, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS_MAX: Final = 400


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool] | None = None) -> Scenario:
    """Leave out everything that the failure does not need; the result still fails."""
    fails = fails or (lambda smaller: bool(run(smaller).faults))
    runs = 0
    going_on = True
    while going_on and runs < RUNS_MAX:
        going_on = False
        for smaller in _smaller(scenario):
            runs += 1
            if fails(smaller):
                scenario, going_on = smaller, True
                break
            if runs >= RUNS_MAX:
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Yield scenarios with one part left out, the largest parts first."""
    if scenario.rates != Rates(batch_most=scenario.rates.batch_most):
        yield structs.replace(scenario, rates=Rates(batch_most=scenario.rates.batch_most))
    poisoned = {int(fault.target) for fault in scenario.faults if fault.kind in {Kind.POISON, Kind.ASK_AGAIN}}
    for number in range(len(scenario.faults)):
        yield structs.replace(scenario, faults=_without(scenario.faults, number))
    for number in range(len(scenario.orders)):
        if len(scenario.orders) > 1 and (not poisoned or max(poisoned) < len(scenario.orders) - 1):
            yield structs.replace(scenario, orders=_without(scenario.orders, number))
    yield from _with_fewer_ticks(scenario)
    for name, rate in structs.asdict(scenario.rates).items():
        if rate and name not in {"batch_most", "late_s"}:
            yield structs.replace(scenario, rates=structs.replace(scenario.rates, **{name: 0.0}))
    for number, plan in enumerate(scenario.orders):
        fewer: list[dict[str, Any]] = [{"changes": _without(plan.changes, one)} for one in range(len(plan.changes))]
        for changes in (
            {"changes": ()}, *fewer, {"cancels": ()}, {"copies": 1}, {"sent_with_other_words": False},
            {"stamped_off_s": 0.0},
        ):  # fmt: skip
            plainer = structs.replace(plan, **changes)
            if plainer != plan:
                orders = (*scenario.orders[:number], plainer, *scenario.orders[number + 1 :])
                yield structs.replace(scenario, orders=orders)


def _with_fewer_ticks(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.round_most != ROUND_MOST:
        yield structs.replace(scenario, round_most=ROUND_MOST)
    half = len(scenario.ticks) // 2
    for ticks in (scenario.ticks[half:], scenario.ticks[:half]) if half else ():
        yield structs.replace(scenario, ticks=ticks)
    for number in range(len(scenario.ticks)):
        yield structs.replace(scenario, ticks=_without(scenario.ticks, number))


def _without(items: tuple, number: int) -> tuple:  # type: ignore[type-arg]
    return (*items[:number], *items[number + 1 :])
