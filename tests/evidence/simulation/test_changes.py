"""Histories of orders that are amended, suspended and released, and that the judge sees a defect in each of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest
from msgspec import structs

from order_saga.core import changes, transition, weighing
from order_saga.core.commands import required_hold
from order_saga.core.phases import PHASES
from order_saga.core.saga import Phase, Rest
from order_saga.core.weighing import Judged
from order_saga.worker import resting_store
from order_saga.worker.process import ChangeHandler
from saga_kit.participant import barrier
from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.run import Outcome, quiet, run
from tests.evidence.simulation.scenario import (
    Cancel,
    Change,
    Expects,
    Fault,
    Kind,
    OrderPlan,
    Rates,
    Scenario,
    Terms,
    TickPlan,
    What,
)
from tests.evidence.simulation.shrink import shrink

HISTORIES: Final = 15
SEEDS_MAX: Final = 60
"""Within so many histories a planted defect must show."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


_BUY: Final = Terms("LIMIT", limit_price="90")
_STOP: Final = Terms("STOP_LOSS", trigger_price="90")
_TRAIL: Final = Terms("TRAILING_STOP", trail_amount="5")


def _amend(at: float, number: int = 1, *, by: str = "user", expects: Expects = Expects.ANY, **fields: Any) -> Change:
    return Change(at, What.AMEND, by, 1, f"amend-{number}", expects, **fields)


def _hold(at: float, by: str = "user") -> Change:
    return Change(at, What.HOLD, by)


def _release(at: float, by: str = "user") -> Change:
    return Change(at, What.RELEASE, by)


def _ticks(*prices: float, at: float = 20.0) -> tuple[TickPlan, ...]:
    return tuple(TickPlan(at + number, "WAVE", f"{price:g}") for number, price in enumerate(prices))


def _run(side: str, terms: Terms, wanted: tuple[Change, ...], ticks: tuple[TickPlan, ...], *faults: Fault) -> Outcome:
    plan = OrderPlan(UUID(int=7), "bob", "WAVE", side, "1", None, None, 0.0, terms=terms, changes=wanted)
    outcome = run(Scenario(1, (plan,), faults, Rates(batch_most=500), ticks=ticks))
    assert [] == outcome.faults
    return outcome


def test_histories_with_changes_are_sound() -> None:
    """In drawn histories with changes, money covers the terms in force, and every amend ends."""
    with_changes = [scenario for scenario in map(draw, range(HISTORIES * 9)) if _has_changes(scenario)][:HISTORIES]
    assert [] == [(scenario.seed, faults[0]) for scenario in with_changes if (faults := run(scenario).faults)]


def _has_changes(scenario: Scenario) -> bool:
    return any(plan.changes for plan in scenario.orders)


@pytest.mark.parametrize("fields", [{"quantity": "2"}, {"quantity": "0.5"}, {"limit_price": "95"}])
def test_an_amended_order_fires_by_its_new_terms(fields: dict[str, Any]) -> None:
    """An order whose hold is raised, or lowered, or whose limit moves, fills what it asks for now."""
    outcome = _run("BUY", _BUY, (_amend(5.0, **fields),), _ticks(96, 95, 90))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["amend APPLIED"])


@pytest.mark.parametrize("quantity", ["0.5", None, "2"])
def test_a_limit_that_is_moved_into_the_market_fills_at_it(quantity: str | None) -> None:
    """A limit order fills at the newest price when its new limit is met, whether it needs less money now or more."""
    outcome = _run("BUY", _BUY, (_amend(5.0, limit_price="101", quantity=quantity),), _ticks(100))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["order fires when amended"])


@pytest.mark.parametrize(
    ("terms", "fields", "code"),
    [
        (_STOP, {"trigger_price": "101"}, "WOULD_TRIGGER_IMMEDIATELY"),
        (_STOP, {"limit_price": "80"}, "NOT_AMENDABLE"),
        (_STOP, {"quantity": "15"}, "INSUFFICIENT_BALANCE"),
        (_STOP, {"quantity": "200"}, "NOTIONAL_OUT_OF_RANGE"),
        (_STOP, {"quantity": "0.0001"}, "QUANTITY_OUT_OF_RANGE"),
        (_STOP, {"trigger_price": "90.001"}, "INVALID_TICK"),
        (_STOP, {"time_in_force": "GTD", "expires_after_s": -1.0}, "EXPIRED"),
        (_STOP, {"quantity": "2", "expects": Expects.OLDER}, "VERSION_MISMATCH"),
        (_TRAIL, {"trail_amount": "120"}, "PRICE_OUT_OF_RANGE"),
    ],
)
def test_a_refused_amend_changes_nothing(terms: Terms, fields: dict[str, Any], code: str) -> None:
    """The order goes on by its old terms, and fires by them."""
    outcome = _run("SELL", terms, (_amend(5.0, **fields),), _ticks(95, 90))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen[f"amend REFUSED {code}"])


@pytest.mark.parametrize("service", ["assets", "balance"])
def test_the_old_terms_fire_while_an_amend_is_asked_about(service: str) -> None:
    """A tick meets the old terms while nobody answers: the order fills by them, and the amend is too late."""
    silent = Fault(Kind.SILENT, service, 4.9, 25.0)
    outcome = _run("SELL", _STOP, (_amend(5.0, quantity="2"),), _ticks(90), silent)
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["amend REFUSED TOO_LATE"])


def test_a_raise_that_nobody_answers_is_undone() -> None:
    """The amend is refused in the end, and what was held more goes back, whenever the raise comes."""
    silent = Fault(Kind.SILENT, "balance", 4.9, 60.0)
    outcome = _run("SELL", _STOP, (_amend(5.0, quantity="2"),), _ticks(95, at=15.0), silent)
    assert 1 == outcome.seen["amend REFUSED TIMED_OUT"]
    assert outcome.seen["order is LOWERING"]


def test_a_suspended_order_does_not_fire_and_counts_no_tick_of_that_time() -> None:
    """Ticks below its trigger pass while it is suspended; released, it fires at the next one only."""
    outcome = _run("SELL", _STOP, (_hold(5.0), _release(23.5)), _ticks(85, 95, 95, 95, 89))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["order is released"])


def test_an_order_is_not_released_into_its_trigger() -> None:
    """While the market meets its trigger it stays suspended, and its user is told so."""
    outcome = _run("SELL", _STOP, (_hold(5.0), _release(20.5)), _ticks(85, 85))
    assert {"CANCELLED USER_REQUESTED": 1} == dict(outcome.ends)
    assert (0, 1) == (outcome.seen["order is released"], outcome.seen["change ignored conflict"])


def test_a_limit_that_the_market_meets_fills_when_it_is_released() -> None:
    """A released limit order is accepted anew: it fills at the newest price."""
    outcome = _run("BUY", _BUY, (_hold(5.0), _release(20.5)), _ticks(85))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["order fires when released"])


def test_a_user_does_not_release_what_an_operator_has_suspended() -> None:
    """The release is ignored, and no tick fires the order."""
    outcome = _run("SELL", _STOP, (_hold(5.0, "operator"), _release(6.0), _hold(7.0)), _ticks(85))
    assert ({"CANCELLED USER_REQUESTED": 1}, 0) == (dict(outcome.ends), outcome.seen["order is released"])


def test_a_suspended_order_expires() -> None:
    """Its time goes on while it is suspended."""
    terms = structs.replace(_STOP, time_in_force="GTD", expires_after_s=12.0)
    assert {"CANCELLED EXPIRED": 1} == dict(_run("SELL", terms, (_hold(5.0),), _ticks(95)).ends)


def test_a_looser_trail_keeps_its_watermark() -> None:
    """A trailing stop at 105 with a new trail of 8 fires at 97, though the market was at 100 when it was amended."""
    outcome = _run(
        "SELL", structs.replace(_TRAIL, trail_amount="6"), (_amend(22.5, trail_amount="8"),), _ticks(105, 100, 100, 97)
    )
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["order trailing stop fires"])


def test_of_two_amends_with_one_name_one_counts() -> None:
    """A repeated amend, or another one under its name, is a duplicate."""
    twice = (_amend(5.0, quantity="2"), _amend(5.0, quantity="2"), _amend(8.0, quantity="0.5"))
    outcome = _run("SELL", _STOP, twice, _ticks(90))
    assert ({"COMPLETED": 1}, 1) == (dict(outcome.ends), outcome.seen["amend APPLIED"])
    assert 2 == outcome.seen["change ignored duplicate"]


def test_a_smaller_history_has_fewer_changes() -> None:
    """`shrink` leaves out changes, too, as long as a history still fails."""
    wanted = (_amend(5.0, 1, quantity="2"), _amend(9.0, 2, quantity="0.5"), _hold(12.0))
    plan = OrderPlan(UUID(int=7), "bob", "WAVE", "SELL", "1", None, None, 0.0, terms=_STOP, changes=wanted)
    small = shrink(
        Scenario(1, (plan,), (), Rates(), ticks=_ticks(95)), lambda one: run(one).seen["order is suspended"] > 0
    )
    assert [What.HOLD] == [change.what for change in small.orders[0].changes]


# Defects --------------------------------------------------------------------------------------------------------------


def _raise_after_the_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "needs_more", lambda _new: False)


def _lower_before_the_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "needs_more", lambda new: required_hold(new).amount != new.progress.hold.amount)


def _leave_a_raise_that_nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PHASES, Phase.RAISING, PHASES[Phase.RAISING]._replace(timeout=Phase.WORKING))


def _compare_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    real = barrier._resize

    def resize(command: Any, hold: Any, ledger: Any) -> Any:
        return real(structs.replace(command, revision=hold.revision + 1), hold, ledger)

    monkeypatch.setattr(barrier, "_resize", resize)


def _release_from_the_old_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = weighing.judge_release

    def judge_release(saga: Any, mark: Any, now: Any) -> Any:
        found = real(saga, mark, now)
        anew = not isinstance(found, str) and found.rest is not saga.progress.rest
        return found._replace(rest=_from(saga.progress.rest, found.rest)) if anew else found

    monkeypatch.setattr(changes, "judge_release", judge_release)


def _amend_from_the_old_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = weighing.judge

    def judge(saga: Any, new: Any, *more: Any) -> Any:
        found = real(saga, new, *more)
        return found._replace(rest=_from(saga.progress.rest, found.rest)) if isinstance(found, Judged) else found

    monkeypatch.setattr(transition, "judge", judge)


def _from(old: Rest, new: Rest) -> Rest:
    return structs.replace(new, from_sequence=old.from_sequence)


_CHANGES: Final[ContextVar[bool]] = ContextVar("changes", default=False)


def _take_no_gate_for_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    share, handle = resting_store.share_gates, ChangeHandler.handle

    async def share_gates(tx: Any, assets: Any) -> None:
        if not _CHANGES.get():
            await share(tx, assets)

    async def of_changes(self: Any, tx: Any, received: Any) -> Any:
        token = _CHANGES.set(True)
        try:
            return await handle(self, tx, received)
        finally:
            _CHANGES.reset(token)

    monkeypatch.setattr(resting_store, "share_gates", share_gates)
    monkeypatch.setattr(ChangeHandler, "handle", of_changes)


def _fire_what_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resting_store._moving

    def moving(saga: Any) -> Any:
        *first, live, suspended, told, revision = real(saga)
        return *first, live or suspended, suspended, told, revision

    monkeypatch.setattr(resting_store, "_moving", moving)


def _let_anybody_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_is_operator", lambda _requested_by: False)


def _leave_an_amend_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "_stop_changing", lambda _draft: False)


def _count_each_amend_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    real = changes.amend

    def amend(draft: Any, message: Any) -> Any:
        number = len(draft.saga.progress.amend_ids)
        return real(draft, structs.replace(message, amend_id=f"{message.amend_id}{number or ''}"))

    from contracts.amends import OrderAmendRequested  # noqa: PLC0415
    from order_saga.core import advance  # noqa: PLC0415 - its table of handlers is what is changed

    monkeypatch.setitem(advance._HANDLERS, OrderAmendRequested, amend)


_SILENT: Final = Fault(Kind.SILENT, "balance", 4.9, 60.0)
_UNANSWERED: Final = Fault(Kind.SILENT, "assets", 4.9, 25.0)
_TWICE: Final = Rates(doubled=0.9, late=0.5, late_s=4.0)
_MORE, _LESS = _amend(5.0, 1, quantity="2"), _amend(9.0, 2, quantity="0.5")


class Shows(NamedTuple):
    """A defect, and a history that shows it; among a few seeds, which decide what comes a moment sooner or later."""

    defect: Callable[[pytest.MonkeyPatch], None]
    wanted: tuple[Change, ...]
    ticks: tuple[TickPlan, ...] = _ticks(95)
    faults: tuple[Fault, ...] = ()
    rates: Rates = Rates(batch_most=500)
    cancels: tuple[Cancel, ...] = ()
    copies: int = 1


_DEFECTS: Final = (
    Shows(_raise_after_the_swap, (_MORE,)),
    Shows(_lower_before_the_swap, (_LESS,)),
    Shows(_leave_a_raise_that_nobody_answered, (_MORE,), faults=(_SILENT,)),
    Shows(_compare_no_revision, (_MORE, _LESS), rates=_TWICE),
    Shows(_release_from_the_old_sequence, (_hold(5.0), _release(21.5)), _ticks(85, 95)),
    Shows(_amend_from_the_old_sequence, (_amend(21.5, trigger_price="89"),), _ticks(96, 95)),
    Shows(_take_no_gate_for_a_cancel, (), _ticks(85), cancels=(Cancel(20.0, "user"),), copies=8),
    Shows(_fire_what_is_suspended, (_hold(5.0),), _ticks(85)),
    Shows(_let_anybody_release, (_hold(5.0, "operator"), _release(7.0))),
    Shows(_leave_an_amend_open, (_MORE,), _ticks(85), (_UNANSWERED,)),
    Shows(_count_each_amend_anew, (_MORE, _MORE)),
)


@pytest.mark.parametrize("shows", _DEFECTS, ids=lambda shows: shows.defect.__name__)
def test_a_defect_of_a_change_shows(monkeypatch: pytest.MonkeyPatch, shows: Shows) -> None:
    """A planted defect in how resting orders change breaks a history that is sound without it."""
    order = OrderPlan(UUID(int=0), "bob", "WAVE", "SELL", "1", None, None, 0.0, terms=_STOP)
    order = structs.replace(order, changes=shows.wanted, cancels=shows.cancels)
    orders = tuple(structs.replace(order, order_id=UUID(int=7 + number)) for number in range(shows.copies))
    histories = [Scenario(seed, orders, shows.faults, shows.rates, ticks=shows.ticks) for seed in range(SEEDS_MAX)]
    assert [] == run(histories[0]).faults
    shows.defect(monkeypatch)
    assert any(run(history).faults for history in histories)
