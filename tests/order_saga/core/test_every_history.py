"""Every possible history of an order: with honest participants on a bad network, and with participants that lie.

Run with `-s` to read how far each walk went. `CORE_WALK_DEPTH=15` walks deeper by the real clock (some minutes).
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.vocabulary import OrderStatus, ReasonCode, Side
from order_saga.core.phases import MOVES, PASSED, RESTING
from order_saga.core.saga import Phase, Requested, Saga, Step, Why
from tests.order_saga.core.hostile import walked
from tests.order_saga.core.invariants import NOBODY
from tests.order_saga.core.retold import retold
from tests.order_saga.core.sample import NOW, REPLIES, blank
from tests.order_saga.core.walker import PAUSES, Clock, Explored, explore, histories
from tests.order_saga.core.world import State, World, always

if TYPE_CHECKING:
    from datetime import datetime

pytestmark = pytest.mark.no_cover  # other tests take every branch, and these take each a million times

DEPTH: Final = int(os.environ.get("CORE_WALK_DEPTH", "8"))
BOTH: Final = pytest.mark.parametrize("side", Side)
NEVER_SEEN: Final = {"CONFIRMED>CANCELLED", "CONFIRMED>FAILED"}
"""Moves of orders that rest in CONFIRMED (`test_every_conditional_history`); a market order only passes through it."""


@cache
def honest(side: Side) -> tuple[World, Explored[State]]:
    """Walk all states of an order among honest participants."""
    world = World(side)
    return world, explore(world.start, world.successors)


@pytest.mark.parametrize(("side", "states", "moves"), [(Side.BUY, 24_000, 352_000), (Side.SELL, 58_900, 859_000)])
def test_whatever_the_network_does_the_order_and_the_money_agree(side: Side, states: int, moves: int) -> None:
    """I2 to I8 hold in every state of an order among honest participants; its commands never contradict each other."""
    world, explored = honest(side)
    for state in explored.nodes:
        world.judge(state)
    _say(f"market {side.lower()}, honest participants: {_told(explored)}")
    _say(f"  {histories(world.start, world.successors, 10):,} distinct histories of 10 moves")
    assert len(explored.nodes) >= states
    assert explored.moves >= moves


@pytest.mark.parametrize(
    "silent",
    [(), (Step.CHECK,), (Step.RESERVE,), (Step.CHECK, Step.RESERVE)],
    ids=lambda silent: "+".join(silent) or "nobody",
)
@BOTH
def test_every_order_ends_once_the_others_answer(side: Side, silent: tuple[Step, ...]) -> None:
    """From every state an order ends within three rounds, even when some questions are never answered."""
    world, explored = honest(side)
    begun = [state for state in explored.nodes if world.walk.states[state.saga].phase is not Phase.NEW]
    rounds = [world.rounds_to_end(state, frozenset(silent)) for state in begun]
    _say(f"market {side.lower()}, silent: {'+'.join(silent) or 'nobody'}: ended after {max(rounds)} rounds at most")
    assert len(begun) >= 23_900
    assert max(rounds) <= 3


@pytest.mark.parametrize(("side", "states", "moves"), [(Side.BUY, 1_110, 123_000), (Side.SELL, 2_890, 322_000)])
def test_no_lie_breaks_an_order(side: Side, states: int, moves: int) -> None:
    """Whatever the participants say, no step breaks an invariant, and no claim about a hold ends it without proof."""
    walk, explored = walked(side)
    _say(f"market {side.lower()}, {len(walk.messages)} messages, true or not: {_told(explored)}")
    _say(f"  {histories(0, walk.successors, 10):,} distinct histories of 10 moves")
    assert len(explored.nodes) >= states
    assert explored.moves >= moves


@BOTH
def test_the_real_clock_shows_the_same(side: Side) -> None:
    """With real times the invariants hold in all histories of `DEPTH` moves, with the table's retries and patience."""
    world = World(side, Clock.REAL)
    nodes, layer = {world.start}, {world.start}
    for _ in range(DEPTH):
        layer = {to for state in layer for to in world.successors(state)} - nodes
        nodes |= layer
    for state in nodes:
        world.judge(state)
    _say(f"market {side.lower()} by the real clock: {len(nodes):,} states within {DEPTH} moves")
    _say(f"  {histories(world.start, world.successors, DEPTH):,} distinct histories of {DEPTH} moves")
    assert DEPTH < 8 or len(nodes) >= 14_000


def test_every_legal_move_is_made_and_no_other() -> None:
    """`MOVES` is exactly the set of moves that the walks made (except for orders that stay in CONFIRMED)."""
    walks = [honest(side)[0].walk for side in Side] + [walked(side)[0] for side in Side]
    made = {move for walk in walks for edge in walk.edges.values() for move in edge.moves}
    legal = {f"{before or ''}>{after}" for before, afters in MOVES.items() for after in afters}
    assert made - {"PENDING>PENDING"} == legal - NEVER_SEEN


@BOTH
def test_the_walk_sees_every_phase_every_ending_and_every_reason_to_ignore(side: Side) -> None:
    """The walk meets everything that the vocabulary offers to a market order."""
    walk, explored = walked(side)
    sagas = [walk.states[number] for number in explored.nodes]
    phases = set(Phase) - RESTING - PASSED - ({Phase.RESERVING} if side is Side.SELL else set())
    assert {saga.phase for saga in sagas} == phases
    others = {ReasonCode.ORDER_ID_TAKEN, ReasonCode.WOULD_TRIGGER_IMMEDIATELY, ReasonCode.HOLD_CONFLICT}
    others |= {ReasonCode.ACCOUNT_NOT_FOUND}  # as INSUFFICIENT_BALANCE
    others |= {ReasonCode.UNFILLED, ReasonCode.TOO_MANY_OPEN_ORDERS, ReasonCode.NO_SESSION}  # conditional ones
    assert {saga.reason_code for saga in sagas} - {None} == set(ReasonCode) - others
    cancelled = {saga.reason_code for saga in sagas if saga.status is OrderStatus.CANCELLED}
    assert cancelled == {ReasonCode.USER_REQUESTED, ReasonCode.OPERATOR, ReasonCode.EXPIRED}
    assert {edge.ignored for edge in walk.edges.values()} - {None} == set(Why) - {Why.TOO_MANY}


@BOTH
def test_what_must_never_move_an_order_never_does(side: Side) -> None:
    """Another user's cancel, another command's reply, a second request, or any reply while parked moves no order."""
    walk, explored = walked(side)
    for state, saga in ((number, walk.states[number]) for number in explored.nodes):
        assert walk.edge(state, "cancel by another user").ignored is Why.NOT_ALLOWED
        for name, message in walk.messages.items():
            if name.endswith("to another command"):
                assert walk.edge(state, name).ignored is Why.UNKNOWN
            elif isinstance(message, Requested) and saga.phase is not Phase.NEW:
                assert walk.edge(state, name).ignored in {Why.DUPLICATE, Why.CONFLICT}
            elif type(message) in REPLIES and saga.parked_reason is not None:
                assert walk.edge(state, name).ignored in {Why.PARKED, Why.UNKNOWN}
        if saga.phase is not Phase.NEW:
            assert walk.edge(state, "cancel of another user's order").ignored is Why.NOT_ALLOWED


# The walk itself ------------------------------------------------------------------------------------------------------


WAITS: Final = (2.0, 30.0, 30.000001, 300.0)


@BOTH
def test_short_histories_told_one_by_one_are_those_of_the_walk(side: Side) -> None:
    """Without any reduction: every history of a request and three more moves matches the walk."""
    walk, _ = walked(side)
    moves: list[str | float] = [*honest(side)[0].walk.messages, *WAITS]

    def told_from(saga: Saga, now: datetime, length: int) -> int:
        if not length:
            return 1
        return sum(told_from(*retold(walk, saga, now, move), length - 1) for move in moves)

    told = told_from(*retold(walk, blank(), NOW, "request"), 3)
    _say(f"market {side.lower()}: {told:,} histories told one by one")
    assert told >= 42_000


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_long_histories_are_those_of_the_walk(data: st.DataObject) -> None:
    """Long random histories, with their real versions, texts and times, match the walk."""
    side = data.draw(st.sampled_from(Side))
    walk, _ = walked(side)
    probable = st.sampled_from(sorted(honest(side)[0].walk.messages))
    anything = st.sampled_from(sorted(walk.messages))
    waits = st.sampled_from(WAITS) | st.floats(0, 400)
    saga, now = blank(), NOW
    for move in data.draw(st.lists(probable | probable | waits | anything, max_size=60)):
        paused = data.draw(st.sampled_from(PAUSES)) if move in always(side) else NOBODY
        saga, now = retold(walk, saga, now, move, paused)


def _told(explored: Explored[State] | Explored[int]) -> str:
    counts = f"{len(explored.nodes):,} states, {explored.moves:,} moves"
    return f"{counts}, complete (the farthest state is {len(explored.layers) - 1} moves away)"


def _say(line: str) -> None:
    sys.stdout.write(f"\n{line}")
