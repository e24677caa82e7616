"""Every possible history of a conditional order of each kind and side, wherever the market stands on its way to it."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from order_saga.core.phases import PASSED, TERMINAL
from order_saga.core.saga import Phase, Why
from tests.order_saga.core.conditional import CASES, DURING_PAUSES, IOC, LIMIT, MARKET, Case, walked_conditional
from tests.order_saga.core.invariants import NOBODY
from tests.order_saga.core.retold import retold
from tests.order_saga.core.sample import NOW, blank
from tests.order_saga.core.walker import PAUSES

pytestmark = pytest.mark.no_cover  # other tests take every branch, and these take each a million times

EACH: Final = pytest.mark.parametrize("case", CASES, ids=str)
WAITS: Final = (2.0, 30.0, 30.000001, 300.0, 86_400.0)
AFTER_A_FIRE: Final = {ReasonCode.SLIPPAGE_EXCEEDED, ReasonCode.EXECUTION_FAILED}
ENDINGS: Final = {
    ReasonCode.USER_REQUESTED,
    ReasonCode.OPERATOR,
    ReasonCode.INVALID_ORDER,
    ReasonCode.TOO_MANY_OPEN_ORDERS,
    ReasonCode.ASSET_NOT_TRADABLE,
    ReasonCode.INSUFFICIENT_BALANCE,
    ReasonCode.TIMED_OUT,
    ReasonCode.EXECUTION_FAILED,
}
"""The reasons that can end an order of any kind here."""


@EACH
def test_whatever_comes_no_step_breaks_an_order(case: Case) -> None:
    """Every invariant holds in every history, and the walk sees each phase and each ending that the order can have."""
    walk, explored = walked_conditional(case)
    sagas = [walk.states[number] for number in explored.nodes]
    side, rests = case.order_type.side, case.rests_in is not None
    unreached = {*PASSED, Phase.AMENDING, Phase.RAISING, Phase.LOWERING}  # amends: `test_every_change`
    unreached |= {Phase.RESERVING} if side is Side.SELL else set()
    unreached |= {Phase.QUEUED, Phase.WORKING} - {case.rests_in}
    assert {saga.phase for saga in sagas} == set(Phase) - unreached
    reasons = set(ENDINGS)
    if rests and (case.has_limit or side is Side.BUY or case.order_type.kind is MARKET):
        reasons.add(ReasonCode.SLIPPAGE_EXCEEDED)
    if case.time_in_force in {TimeInForce.GTD, TimeInForce.DAY} or case.order_type.kind is MARKET:
        reasons.add(ReasonCode.EXPIRED)
    if case.time_in_force is TimeInForce.DAY:
        reasons.add(ReasonCode.NO_SESSION)
    if case.order_type.kind is MARKET:
        reasons.add(ReasonCode.STALE_PRICE)  # of one whose asset is open
    elif case.order_type.kind is LIMIT:
        reasons |= set() if rests else {ReasonCode.UNFILLED, ReasonCode.STALE_PRICE}
    elif "trigger_price" in case.terms():
        reasons.add(ReasonCode.WOULD_TRIGGER_IMMEDIATELY)
    assert {saga.reason_code for saga in sagas} - {None} == reasons
    assert len(explored.nodes) >= (360 if not rests else 1_300 if case.order_type.kind is MARKET else 1_400)


@EACH
def test_a_fire_is_binding(case: Case) -> None:
    """No cancel, expiry or second tick changes a fired order; it fills at its tick, or fails with its money back."""
    walk, explored = walked_conditional(case)
    fired = [number for number in explored.nodes if walk.states[number].progress.fire is not None]
    for number in fired:
        saga = walk.states[number]
        assert walk.edge(number, "cancel by the user").ignored is Why.TOO_LATE
        assert walk.edge(number, "expiry due").ignored is Why.NOT_DUE
        assert walk.edge(number, "fired at fires").ignored is Why.DUPLICATE
        assert walk.edge(number, "triggered").ignored is Why.DUPLICATE
        if saga.phase in TERMINAL and saga.status is not OrderStatus.COMPLETED:
            assert saga.status is OrderStatus.FAILED
            assert saga.reason_code in AFTER_A_FIRE
    assert (len(fired) > 0) == (case.time_in_force is not IOC)


@EACH
def test_what_rests_can_be_cancelled_until_a_tick_fires_it(case: Case) -> None:
    """A resting order takes its user's cancel, parked or not; one that is not parked ends by it with its money back."""
    walk, explored = walked_conditional(case)
    for number in explored.nodes:
        saga = walk.states[number]
        if saga.phase is not case.rests_in or saga.progress.fire is not None:
            continue
        edge = walk.edge(number, "cancel by the user")
        if saga.cancel_requested:
            assert edge.ignored is Why.DUPLICATE
            assert walk.edge(number, "fired at fires").ignored is Why.TOO_LATE, "it came while the order was parked"
            continue
        assert edge.moves == ("CONFIRMED>CONFIRMED",)
        to = walk.states[edge.to]
        assert to.phase is (Phase.REFUNDING if saga.parked_reason is None else case.rests_in)


@EACH
def test_an_order_whose_time_has_come_only_ends(case: Case) -> None:
    """Once `expires_at` has come an order never begins to rest, nor fires on entry; resumed, it ends."""
    walk, explored = walked_conditional(case)
    for number in explored.nodes:
        saga = walk.states[number]
        if saga.expires_at != NOW or saga.parked_reason is None:
            continue
        to = walk.states[walk.edge(number, "resume, the market fires").to]
        fired, cancelled = saga.progress.fire is not None, saga.cancel_requested
        if saga.phase is case.rests_in:
            assert to.phase is (Phase.SETTLING if fired and to.progress.outcome is None else Phase.REFUNDING)
            assert fired or cancelled or to.progress.outcome is not None


@EACH
def test_no_state_is_a_dead_end(case: Case) -> None:
    """From every state an order can come to an end."""
    walk, explored = walked_conditional(case)
    assert walk.ending(explored.nodes) == explored.nodes


def test_the_moves_that_no_market_order_makes() -> None:
    """Orders that rest in CONFIRMED end from there, and show a cancel, a trigger and a new start as versions of it."""
    made = {move for case in CASES for edge in walked_conditional(case)[0].edges.values() for move in edge.moves}
    assert {"CONFIRMED>CANCELLED", "CONFIRMED>FAILED", "CONFIRMED>CONFIRMED", "CONFIRMED>PROCESSING"} <= made


def test_a_stop_with_a_limit_is_triggered_once_and_others_never() -> None:
    """Only a stop or a take profit with a limit can be triggered, by a tick or on entry."""
    for case in CASES:
        walk, explored = walked_conditional(case)
        triggered = [number for number in explored.nodes if walk.states[number].progress.triggered]
        can_be = case.has_limit and case.order_type.kind is not LIMIT
        assert bool(triggered) == can_be, case
        for number in triggered:
            assert walk.edge(number, "triggered").ignored is Why.DUPLICATE
        working = [number for number in explored.nodes if walk.states[number].phase is Phase.WORKING]
        if not can_be:
            ignored = {walk.edge(number, "triggered").ignored for number in working}
            assert ignored <= {Why.CONFLICT, Why.DUPLICATE}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_long_histories_are_those_of_the_walk(data: st.DataObject) -> None:
    """Long random histories, with their real versions, texts and times, match the walk."""
    few = (CASES[1], Case(OrderType.STOP_LOSS_SELL, has_limit=True, time_in_force=TimeInForce.GTC), *CASES[-2:])
    case = data.draw(st.sampled_from(few))
    walk, _ = walked_conditional(case)
    moves = st.sampled_from(sorted(walk.messages))
    waits = st.sampled_from(WAITS) | st.floats(0, 400)
    saga, now = blank(), NOW
    for move in data.draw(st.lists(moves | moves | waits, max_size=40)):
        paused = data.draw(st.sampled_from(PAUSES)) if move in DURING_PAUSES else NOBODY
        saga, now = retold(walk, saga, now, move, paused)
