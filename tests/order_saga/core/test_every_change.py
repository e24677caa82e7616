"""Every possible history of a resting order that is amended twice, suspended and released while anything else comes."""

from __future__ import annotations

import sys
from functools import cache
from typing import Final

import pytest

from contracts.amends import AmendState
from order_saga.core.phases import RESTING, TERMINAL
from order_saga.core.saga import Phase, Why
from tests.order_saga.core.changes import CHANGES, Case, ChangingWorld, State, walked_changes
from tests.order_saga.core.walker import Explored, explore

pytestmark = pytest.mark.no_cover  # other tests take every branch, and these take each a million times

EACH: Final = pytest.mark.parametrize("case", CHANGES, ids=str)
CHANGING: Final = {Phase.AMENDING, Phase.RAISING, Phase.LOWERING}
CHANGE_NAMES: Final = (
    "amend to more",
    "amend to less",
    "hold by the user",
    "release by the user, market meets neither",
)


@cache
def honest(case: Case) -> tuple[ChangingWorld, Explored[State]]:
    """Walk all states of an order among honest participants."""
    world = ChangingWorld(case)
    return world, explore(world.start, world.successors)


@EACH
def test_whatever_the_network_does_the_hold_pays_for_the_terms_in_force(case: Case) -> None:
    """In every state: more is held before terms count and less after, one end, and never a command in two wordings."""
    world, explored = honest(case)
    for state in explored.nodes:
        world.judge(state)
    sys.stdout.write(f"\n{case}, changed: {len(explored.nodes):,} states, {explored.moves:,} moves, complete")
    assert len(explored.nodes) >= {"LIMIT_BUY": 8_000, "STOP_LOSS_SELL": 15_000}[case.order_type]
    phases = {world.walk.states[state.saga].phase for state in explored.nodes}
    assert phases == {*RESTING, Phase.SETTLING, Phase.REFUNDING, *TERMINAL} - {Phase.QUEUED}


@EACH
def test_an_order_that_is_changed_ends_by_a_cancel_or_a_fire_with_one_more_answer(case: Case) -> None:
    """Whatever the hold is by then, the refund or the settlement of the confirmed terms ends it, and parks nothing."""
    world, explored = honest(case)
    for state in explored.nodes:
        saga = world.walk.states[state.saga]
        if saga.phase not in RESTING or saga.parked_reason is not None:
            continue
        assert world.ends(state, "cancel") == {Phase.CANCELLED}
        if saga.progress.suspended is None:
            assert world.ends(state, "fired") <= {Phase.COMPLETED, Phase.FAILED}


@EACH
def test_every_pending_amend_ends_by_its_timers_alone(case: Case) -> None:
    """Without any answer, when patience is over; the old terms are in force then, and the order goes on."""
    walk, explored = walked_changes(case)
    seen = 0
    for number in explored.nodes:
        saga = walk.states[number]
        if saga.progress.amending is None or saga.parked_reason is not None:
            continue
        seen += 1
        [question] = saga.progress.open()
        later = walk.passes(number).get(f"{question.step} was long ago", number)
        if question.held_back:  # its patience begins when the pause is over
            later = walk.edge(walk.passes(number).get(f"{question.step} is due", number), "timer").to
            later = walk.passes(later).get(f"{question.step} was long ago", later)
        edge = walk.edge(later, "timer")
        after = walk.states[edge.to]
        assert after.progress.amending is None
        assert after.progress.revision == saga.progress.revision
        assert edge.moves == ("CONFIRMED>CONFIRMED",)
        assert after.phase is (Phase.LOWERING if saga.phase is Phase.RAISING else Phase.WORKING)
    assert seen >= 100


@EACH
def test_an_order_can_be_fired_exactly_in_the_phases_in_which_it_rests(case: Case) -> None:
    """A fire takes it to the pivot from each of them by the terms in force; elsewhere it moves nothing."""
    walk, explored = walked_changes(case)
    for number in explored.nodes:
        saga, edge = walk.states[number], walk.edge(number, "fired")
        may_fire = saga.phase in RESTING and saga.progress.fire is None and saga.progress.outcome is None
        assert (edge.ignored is None) == may_fire
        after = walk.states[edge.to]
        if not may_fire:
            assert edge.ignored in {Why.DUPLICATE, Why.TOO_LATE}
        elif saga.parked_reason is None:
            assert after.phase is Phase.SETTLING
            assert (after.quantity, after.terms) == (saga.quantity, saga.terms)
            assert edge.moves == ("CONFIRMED>PROCESSING",)


@EACH
def test_an_amend_changes_nothing_until_it_is_applied(case: Case) -> None:
    """Terms and revision change only by an approval, a raise, or a change of the time; each amend counts once."""
    walk, explored = walked_changes(case)
    for (number, name, _), edge in walk.edges.items():
        before, after = walk.states[number], walk.states[edge.to]
        if after.phase in RESTING and after.progress.revision != before.progress.revision:
            assert name.startswith(("approved", "adjusted"))
            assert before.phase in {Phase.AMENDING, Phase.RAISING}
            assert after.progress.revision == before.progress.revision + 1
            assert before.phase is Phase.RAISING or name.startswith("approved")
    revisions = {walk.states[number].progress.revision for number in explored.nodes}
    assert revisions == {1, 2, 3}
    known = [number for number in explored.nodes if walk.states[number].phase in RESTING]
    for number in known:
        saga = walk.states[number]
        for name in ("more", "less"):
            ignored = walk.edge(number, f"amend to {name}").ignored
            if name in saga.progress.amend_ids:
                assert ignored is Why.DUPLICATE
            elif saga.progress.fire is not None or saga.cancel_requested:
                assert ignored is Why.TOO_LATE
            else:
                assert ignored is None, "it is applied, refused or asked about where everybody sees it"


@EACH
def test_nothing_changes_an_order_that_has_left_its_rest(case: Case) -> None:
    """An amend, a hold or a release that comes later is too late."""
    walk, explored = walked_changes(case)
    for number in explored.nodes:
        if walk.states[number].phase not in RESTING:
            assert {walk.edge(number, name).ignored for name in CHANGE_NAMES} == {Why.TOO_LATE}


@EACH
def test_what_comes_for_a_closed_question_changes_nothing(case: Case) -> None:
    """A reply to another question than an open one moves no order; this is what lets `ChangingWorld` forget it."""
    walk, explored = walked_changes(case)
    replies = {name: message for name, message in walk.messages.items() if hasattr(message, "command_id")}
    for number in explored.nodes:
        saga = walk.states[number]
        ids = {saga.command_id(question.step) for question in saga.progress.open()}
        for name, message in replies.items():
            if message.command_id not in ids:
                assert walk.edge(number, name).to == number, name
                assert walk.edge(number, name).ignored in {Why.UNKNOWN, Why.DUPLICATE, Why.LATE, Why.PARKED}


@EACH
def test_every_lie_about_an_adjustment_parks_an_order_that_waits_for_it(case: Case) -> None:
    """Another amount, user or revision, a conflict, or a hold that is no more: a person looks at it."""
    walk, explored = walked_changes(case)
    lies = [
        name for name in walk.messages if "HOLD_CONFLICT" in name or name.startswith(("adjusted to", "adjusted for"))
    ]
    lies += [
        name for name in walk.messages if name.endswith(("REFUNDED", "SETTLED", "TOMBSTONE", "by another revision"))
    ]
    waiting = 0
    for number in explored.nodes:
        saga = walk.states[number]
        ids = {saga.command_id(question.step) for question in saga.progress.open()}
        if saga.phase not in CHANGING or saga.parked_reason is not None:
            continue
        for name in lies:
            if walk.messages[name].command_id in ids and not walk.states[number].progress.open()[0].held_back:  # type: ignore[union-attr]
                waiting += 1
                after = walk.states[walk.edge(number, name).to]
                assert after.parked_reason is not None
                assert after.phase is saga.phase
    assert waiting > 100


@EACH
def test_no_state_is_a_dead_end(case: Case) -> None:
    """From every state an order can come to an end, and what waits for no answer and no person waits for the market."""
    walk, explored = walked_changes(case)
    assert walk.ending(explored.nodes) == explored.nodes


@EACH
def test_a_parked_order_is_moved_by_nobody_but_who_resumes_it(case: Case) -> None:
    """No reply, timer, release or amend takes it to another phase; what everybody may ask for is kept."""
    walk, _ = walked_changes(case)
    for (number, name, _), edge in walk.edges.items():
        before = walk.states[number]
        if before.parked_reason is not None and not name.startswith("resume"):
            after = walk.states[edge.to]
            assert (after.phase, after.parked_reason) == (before.phase, before.parked_reason), name
            assert not edge.asks


def test_the_walks_see_what_becomes_of_amends() -> None:
    """Applied, refused and pending ones, at once and in doubt."""
    pending = {
        walk.states[number].progress.amending.asked.state  # type: ignore[union-attr]
        for walk, explored in map(walked_changes, CHANGES)
        for number in explored.nodes
        if walk.states[number].progress.amending is not None
    }
    assert pending == {AmendState.PENDING}
    doubt = {
        len(walk.states[number].progress.unconfirmed)
        for walk, explored in map(walked_changes, CHANGES)
        for number in explored.nodes
    }
    assert doubt >= {0, 1, 2}
