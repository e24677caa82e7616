"""The table of phases is complete and obeyed, for every phase, every message and every field value."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetApproved, AssetRefusal, AssetRefused
from contracts.balance import (
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReserved,
    BalanceSettled,
    RefundRefused,
    SettlementRefused,
)
from contracts.codec import decoder, encode
from contracts.decimals import Money, Price, Quantity
from contracts.orders import InvalidOrder, OrderCancelRequested, OrderRequested
from contracts.vocabulary import HoldState, OrderKind, OrderStatus, OrderType, Side, TimeInForce
from order_saga.core.advance import NO_MARKS, advance
from order_saga.core.phases import (
    ANSWERS,
    IDLE,
    MOVES,
    PASSED,
    PHASES,
    QUESTIONS,
    RESTING,
    TERMINAL,
    Change,
    Entry,
    PhaseRow,
    Way,
    entered,
    needed,
    steps,
    target,
)
from order_saga.core.saga import (
    UNMOVED,
    Answer,
    AskAgainRequested,
    Decision,
    ExpiryDue,
    Fire,
    Fired,
    Ignored,
    Incoming,
    Mark,
    ParkRequested,
    Participant,
    Phase,
    Progress,
    Question,
    RecoveryRequested,
    Requested,
    ResumeRequested,
    Saga,
    Step,
    TimerDue,
    Triggered,
    Why,
    snapshot,
)
from tests.order_saga.core import sample
from tests.order_saga.core.changes import CHANGES, QUEUED, walked_changes
from tests.order_saga.core.conditional import Case, walked_conditional
from tests.order_saga.core.hostile import walked
from tests.order_saga.core.invariants import NOBODY, availability, check
from tests.order_saga.core.recoveries import recoveries
from tests.order_saga.core.sample import NOW, ORDER_ID, Story, blank
from tests.order_saga.core.walker import PAUSES, SILENT, Walk

STOP_LIMIT: Final = Case(OrderType.STOP_LOSS_BUY, has_limit=True, time_in_force=TimeInForce.GTD)
QUEUES: Final = Case(OrderType.MARKET_SELL, has_limit=False, time_in_force=TimeInForce.GTD)
PATIENT: Final = {step for step, row in QUESTIONS.items() if row.patience_s is not None}


def _walks() -> list[Walk]:
    """Return the walks of market orders, of a stop that may be triggered and expires, of a queue, and of changes."""
    changed = [walked_changes(case)[0] for case in (CHANGES[0], QUEUED)]
    waits = [walked_conditional(case)[0] for case in (STOP_LIMIT, QUEUES)]
    return [*(walked(side)[0] for side in Side), *waits, *changed]


# The table is whole ---------------------------------------------------------------------------------------------------


def test_what_rests_or_is_refunded_shows_its_hold() -> None:
    """The core of the saga names these phases without the table, which stands above it."""
    assert UNMOVED == RESTING | {Phase.REFUNDING}


def test_every_name_stands_in_its_table() -> None:
    """Each phase, question and status has a row in its table."""
    assert list(PHASES) == list(Phase)
    assert list(QUESTIONS) == list(Step)
    assert set(MOVES) == {None, *OrderStatus}


def test_every_reply_answers_one_question_by_the_id_of_its_command() -> None:
    """A reply type may answer several questions; those have other ids, so its type and its command's id must agree."""
    replies = {reply for row in QUESTIONS.values() for reply in (row.yes, row.no)}
    assert replies == set(ANSWERS) < set(get_args(Incoming))
    for reply, answered in ANSWERS.items():
        assert answered == tuple(step for step, row in QUESTIONS.items() if reply in (row.yes, row.no))
    several = {answered for answered in ANSWERS.values() if len(answered) > 1}
    assert several == {(Step.CHECK, Step.RECHECK), (Step.RAISE, Step.LOWER)}
    asked = tuple(Question(step, NOW, NOW, number=number) for number, step in enumerate(Step, 1))
    saga = structs.replace(blank(), progress=Progress(questions=asked))
    ids = [saga.command_id(step) for step in Step]
    assert len(set(ids)) == len(ids)
    assert ids[2:5] == [f"{ORDER_ID}:check.3", f"{ORDER_ID}:adjust.4", f"{ORDER_ID}:adjust.5"]
    assert not any(blank().command_id(step) for step in (Step.RECHECK, Step.RAISE, Step.LOWER)), "none before the first"


def test_a_terminal_phase_asks_nothing_and_has_no_exit() -> None:
    """A terminal phase asks nothing and has no exit, because terminal means that no money is held."""
    for phase in TERMINAL:
        row = PHASES[phase]
        assert (row.asks, row.yes, row.no, row.timeout, row.cancel) == ((), (), None, None, None)
        assert (row.fired, row.expiry, row.entry) == (None, None, ())
        assert row.status is not None
        assert MOVES[row.status] == ()
    assert {PHASES[phase].status for phase in TERMINAL} == {status for status in OrderStatus if status.terminal}


@pytest.mark.parametrize("side", Side)
def test_a_phase_that_asks_can_be_left_by_every_answer(side: Side) -> None:
    """Yes leads on, and so does a no that proves what is held; a phase with a time-out exit has patience."""
    for phase in set(Phase) - TERMINAL - {Phase.NEW}:
        asks = steps(phase, side)
        if not asks:
            continue
        assert target(phase, side) in {*PHASES, Way.BY_OUTCOME}
        unchanged = {Step.RAISE: True, Step.LOWER: False}  # too little for the new terms, or too much for ever
        proven = all(
            unchanged.get(step, all(state.nothing_held for state in QUESTIONS[step].no_proof)) for step in asks
        )
        assert PHASES[phase].no in (PHASES if proven else {Way.PARKED}), "no target while money may be held"
        assert (PHASES[phase].timeout is not None) == bool(PATIENT & set(asks))
        assert set(asks) <= PATIENT or not PATIENT & set(asks), "all of a phase's questions are patient, or none"
        waits = {QUESTIONS[step].no_waits_for for step in asks} - {None}
        assert waits <= {Step.CHECK}


def test_only_what_is_before_the_pivot_can_be_cancelled() -> None:
    """Cancel is allowed in PENDING and CONFIRMED, until the fill."""
    cancelable = {phase for phase, row in PHASES.items() if row.cancel is not None}
    assert cancelable == {Phase.VALIDATING, Phase.RESERVING} | RESTING
    assert {PHASES[phase].cancel for phase in cancelable} == {Phase.REFUNDING}


def test_only_a_resting_order_is_fired_or_expires() -> None:
    """In each of its phases a tick takes a resting order to the pivot, its time or a cancel back; it needs nobody."""
    assert IDLE | {Phase.AMENDING, Phase.RAISING, Phase.LOWERING} == RESTING
    assert {phase for phase, row in PHASES.items() if row.expiry is not None} == RESTING
    for row in (PHASES[phase] for phase in RESTING):
        assert row.status is OrderStatus.CONFIRMED
        assert (row.fired, row.cancel, row.expiry) == (Phase.SETTLING, Phase.REFUNDING, Phase.REFUNDING)
        assert (row.on_entry, row.via, row.stale) == ((), (), None)
    assert {Phase.QUEUED, Phase.WORKING} == IDLE
    for phase in IDLE:
        row = PHASES[phase]
        assert (row.asks, row.yes, row.no, row.timeout) == ((), (), None, None)
        assert all(not needed(phase, side) for side in Side)


@pytest.mark.parametrize("side", Side)
def test_an_amend_holds_more_before_its_terms_count_and_less_after(side: Side) -> None:
    """Only REVISING puts terms in force; a raise leads there, a lowering from there; no answer ends the rest."""
    assert [phase for phase in Phase if target(phase, side) is Phase.REVISING] == [Phase.AMENDING, Phase.RAISING]
    assert (steps(Phase.AMENDING, side), steps(Phase.RAISING, side)) == ((Step.RECHECK,), (Step.RAISE,))
    assert (steps(Phase.LOWERING, side), target(Phase.LOWERING, side)) == ((Step.LOWER,), Phase.WORKING)
    assert (PHASES[Phase.AMENDING].no, PHASES[Phase.AMENDING].timeout) == (Phase.WORKING, Phase.WORKING)
    assert (PHASES[Phase.RAISING].no, PHASES[Phase.RAISING].timeout) == (Phase.WORKING, Phase.LOWERING)
    assert (PHASES[Phase.LOWERING].no, PHASES[Phase.LOWERING].timeout) == (Way.PARKED, None)
    both = {Participant.ASSETS, Participant.BALANCE}
    balance = {Participant.BALANCE}
    assert [needed(phase, side) for phase in (Phase.AMENDING, Phase.RAISING, Phase.LOWERING)] == [
        both,
        balance,
        balance,
    ]


def test_a_phase_that_is_passed_asks_nothing_and_has_a_way_out_for_everything_that_it_can_find() -> None:
    """ENTRY and REVISING are left in the decision that reaches them: they show nothing and have only their ways out."""
    assert {Phase.ENTRY, Phase.REVISING} == PASSED == {phase for phase in Phase if PHASES[phase].entry}
    for phase, finds in ((Phase.ENTRY, Entry), (Phase.REVISING, Change)):
        assert PHASES[phase] == PhaseRow(None, entry=PHASES[phase].entry)
        assert [entry for entry, _ in PHASES[phase].entry] == list(finds)
    ways: dict[Entry | Change, Phase] = {Entry.FILLS: Phase.SETTLING, Entry.RESTS: Phase.WORKING}
    ways |= {Entry.QUEUES: Phase.QUEUED, Entry.ENDS: Phase.REFUNDING}
    assert {entry: entered(Phase.ENTRY, entry) for entry in Entry} == ways
    ways = {Change.LOWERS: Phase.LOWERING, Change.RAISES: Phase.RAISING, Change.RESTS: Phase.WORKING}
    ways[Change.FILLS] = Phase.SETTLING
    assert {change: entered(Phase.REVISING, change) for change in Change} == ways
    for side in Side:  # nobody is asked for a quote while the money could not move
        assert needed(Phase.VALIDATING, side) == {Participant.ASSETS, Participant.BALANCE}


@pytest.mark.parametrize("step", Step)
def test_a_yes_and_a_no_never_report_the_same_hold(step: Step) -> None:
    """A hold state proves the same in each reply, and a no is accepted only if it proves that nothing is held."""
    row = QUESTIONS[step]
    if step in {Step.RAISE, Step.LOWER}:
        assert row.proof == row.no_proof == (HoldState.HELD,), "an adjustment ends no hold, whatever the answer"
        return
    assert not set(row.proof) & set(row.no_proof)
    assert all(state.nothing_held for state in row.no_proof) or step is Step.REFUND, "its no parks the order"
    assert step is not Step.REFUND or all(state.nothing_held for state in row.proof)


@pytest.mark.parametrize("step", sorted(PATIENT))
def test_the_attempts_of_the_table_are_those_that_fit_its_patience(step: Step) -> None:
    """Each question can use all attempts of its table row before its patience ends."""
    row = QUESTIONS[step]
    asked_at, attempts = 0.0, 0
    while row.patience_s is not None and asked_at < row.patience_s:
        attempts += 1
        asked_at += min(row.retry_s * 2 ** (attempts - 1), row.retry_max_s)
    assert row.attempts_max == attempts


def test_steps_and_targets_by_side() -> None:
    """A sell asks both participants side by side; a buy needs the quote to know the amount to hold."""
    assert steps(Phase.VALIDATING, Side.SELL) == (Step.CHECK, Step.RESERVE)
    assert steps(Phase.VALIDATING, Side.BUY) == (Step.CHECK,)
    assert steps(Phase.RESERVING, Side.BUY) == (Step.RESERVE,)
    assert target(Phase.VALIDATING, Side.SELL) is Phase.ENTRY
    assert target(Phase.VALIDATING, Side.BUY) is Phase.RESERVING
    assert target(Phase.RESERVING, Side.BUY) is Phase.ENTRY
    assert target(Phase.REFUNDING, Side.BUY) is Way.BY_OUTCOME


# The table is obeyed --------------------------------------------------------------------------------------------------


def test_every_message_is_handled_in_every_phase() -> None:
    """The walks try each message type in each phase that an order can stand in, and none raises."""
    tried = {
        (walk.states[state].phase, type(walk.messages[name])) for walk in _walks() for state, name, _ in walk.edges
    }
    stands = set(Phase) - PASSED
    assert tried == {(phase, kind) for phase in stands for kind in get_args(Incoming)}


def test_a_decision_depends_on_nothing_but_its_arguments_and_changes_none() -> None:
    """Same input, same output; the saga and the message stay unchanged."""
    for walk in _walks():
        for (state, name, paused), edge in walk.edges.items():
            if edge.ignored in {Why.UNKNOWN, Why.PARKED} or (edge.ignored and paused):
                continue  # the outcome must not depend on the order of calls
            saga, message = walk.states[state], walk.messages[name]
            before, away = hash((saga, message)), availability(paused, SILENT.get(name, NOBODY))
            first = advance(saga, message, NOW, availability=away, marks=walk.market(name))
            assert first == advance(saga, message, NOW, availability=away, marks=walk.market(name))
            assert hash((saga, message)) == before


def test_nothing_that_comes_in_is_changed() -> None:
    """Deep copies made before each step of a whole order equal the originals after it."""
    story = Story()
    for message in (sample.requested(), sample.approved(), sample.reserved(), sample.settled(), sample.cancel()):
        saga, copies = story.saga, deepcopy((story.saga, message))
        story.tell(message)
        assert (saga, message) == copies


def test_a_stored_saga_continues_unchanged() -> None:
    """Every reachable `Progress` survives JSON, with its decimals and times."""
    decode = decoder(Progress).decode
    for walk in _walks():
        for saga in walk.states:
            assert decode(encode(saga.progress)) == saga.progress


def test_an_order_without_a_status_has_no_snapshot() -> None:
    """A stub, made by a cancel before its request, has no public version."""
    with pytest.raises(ValueError, match="has no status yet"):
        snapshot(blank())


# Any wording ----------------------------------------------------------------------------------------------------------

NAMES: Final = st.text("AZaz09._:-", min_size=1, max_size=8) | st.just("x" * 64)
REASONS: Final = st.text(max_size=8) | st.just("\N{SNOWMAN}" * 500)
TIMES: Final = st.integers(86_400, 32_503_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
WHOLE: Final = st.integers(0, 10**18 - 1) | st.sampled_from((0, 1, 10**18 - 1))
FRACTION: Final = st.integers(0, 10**18 - 1).map(lambda digits: f"{digits:018}") | st.sampled_from(("0", "01"))
MONEY: Final = st.builds(lambda whole, fraction: Money(f"{whole}.{fraction}"), WHOLE, FRACTION)
QUANTITIES: Final = MONEY.filter(bool).map(Quantity)
PRICES: Final = st.builds(lambda whole, fraction: Price(f"{whole}.{fraction}"), st.integers(1, 999_999), FRACTION)
_STEPS: Final = [*Step, *(f"{kind}.{number}" for kind in ("check", "adjust") for number in (1, 2, 3))]
STEP_IDS: Final = st.sampled_from([f"{ORDER_ID}:{step}" for step in _STEPS]) | st.text(max_size=8)
FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "order_id": st.just(ORDER_ID),
    "command_id": STEP_IDS,
    "hold_id": STEP_IDS,
    "user_id": st.sampled_from((sample.USER, sample.OTHER_USER)) | NAMES,
    "requested_by": st.sampled_from((sample.USER, sample.OPERATOR)) | NAMES,
    "asset_id": NAMES,
    "cash_asset_id": NAMES,
    "client_order_id": st.none() | NAMES,
    "order_type": st.sampled_from(OrderType),
    "reason": REASONS,
    "requested_at": st.none() | TIMES,
    "quantity": QUANTITIES,
    "price": PRICES,
    "tick": PRICES,
    "step": QUANTITIES,
    "slippage_bps": st.integers(0, 10_000),
    "fee_bps": st.integers(0, 10_000),
    "cash_scale": st.integers(0, 18),
    "sequence": st.integers(0, 2**53 - 1),
    "rules_version": st.integers(0, 2**53 - 1),
    "as_of": TIMES,
    "hold_state": st.sampled_from(HoldState),
    "amount": MONEY,
    "captured": MONEY,
    "returned": MONEY,
    "refunded": MONEY,
    "probe": st.booleans(),
    "revision": st.integers(1, 4) | st.just(2**31 - 1),
}


def _any(kind: type[msgspec.Struct], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{**{name: FIELDS[name] for name in kind.__struct_fields__ if name in FIELDS}, **fields})


_OPTIONAL: Final = ("asset_id", "order_type", "quantity", "price", "slippage_bps", "client_order_id")
_INVALID: Final = {name: st.none() | FIELDS[name] for name in _OPTIONAL}
CONDITIONAL: Final = _any(
    OrderRequested,
    order_type=st.sampled_from([name for name in OrderType if name.kind is not OrderKind.MARKET]),
    price=st.none(),
    slippage_bps=st.none() | st.integers(0, 10_000),
    limit_price=st.none() | PRICES,
    trigger_price=st.none() | PRICES,
    trail_amount=st.none() | PRICES,
    trail_bps=st.none() | st.integers(1, 1_000).map(lambda fives: 5 * fives),
    time_in_force=st.none() | st.sampled_from(TimeInForce),
    expires_at=st.none() | st.sampled_from((NOW, NOW + timedelta(days=1), NOW + timedelta(days=31))),
    queue_when_closed=st.none() | st.booleans(),
)
MARKS: Final = st.builds(Mark, st.integers(0, 2**53 - 1), PRICES, st.just(NOW), st.booleans())
FIRES: Final = st.builds(Fire, st.integers(0, 2**53 - 1), PRICES, TIMES, st.none() | PRICES)
_BALANCE_NO: Final = st.sampled_from(BalanceRefusal)
MESSAGES: Final[dict[type[msgspec.Struct], st.SearchStrategy[Any]]] = {
    Requested: st.builds(
        Requested,
        _any(OrderRequested, price=st.none() | PRICES) | CONDITIONAL | _any(InvalidOrder, **_INVALID),
        st.sampled_from((NOW, NOW - timedelta(seconds=61), NOW + timedelta(days=1))) | TIMES,
        duplicate_of=st.none() | st.uuids(),
    ),
    OrderCancelRequested: _any(OrderCancelRequested),
    AssetApproved: _any(AssetApproved),
    AssetRefused: _any(AssetRefused, reason_code=st.sampled_from(AssetRefusal)),
    BalanceReserved: _any(BalanceReserved),
    BalanceRefused: _any(BalanceRefused, reason_code=_BALANCE_NO),
    BalanceSettled: _any(BalanceSettled),
    SettlementRefused: _any(SettlementRefused, reason_code=_BALANCE_NO),
    BalanceRefunded: _any(BalanceRefunded),
    RefundRefused: _any(RefundRefused, reason_code=_BALANCE_NO),
    BalanceAdjusted: _any(BalanceAdjusted),
    AdjustmentRefused: _any(AdjustmentRefused, reason_code=_BALANCE_NO),
    OrderAmendRequested: _any(
        OrderAmendRequested,
        amend_id=st.sampled_from("abc"),
        expected_versions=st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
        quantity=st.none() | QUANTITIES,
        limit_price=st.none() | PRICES,
        trigger_price=st.none() | PRICES,
        trail_amount=st.none() | PRICES,
        trail_bps=st.none() | st.integers(1, 1_000).map(lambda fives: 5 * fives),
        slippage_bps=st.none() | st.integers(0, 10_000),
        time_in_force=st.none() | st.sampled_from(TimeInForce),
        expires_at=st.none() | st.sampled_from((NOW, NOW + timedelta(days=1), NOW + timedelta(days=31))),
    ),
    OrderHoldRequested: _any(OrderHoldRequested, reason=st.none() | REASONS),
    OrderReleaseRequested: _any(OrderReleaseRequested),
    TimerDue: _any(TimerDue),
    Fired: st.builds(Fired, st.just(ORDER_ID), FIRES),
    Triggered: _any(Triggered),
    ExpiryDue: _any(ExpiryDue),
    ParkRequested: _any(ParkRequested),
    ResumeRequested: _any(ResumeRequested),
    AskAgainRequested: _any(AskAgainRequested),
    RecoveryRequested: st.sampled_from(recoveries()),
}


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_no_wording_of_any_message_raises_or_breaks_an_order(data: st.DataObject) -> None:
    """No message in any reachable state raises, even when the clock goes back, and every outcome can be stored."""
    assert set(MESSAGES) == set(get_args(Incoming))
    walk = data.draw(st.sampled_from(_walks()))
    saga: Saga = data.draw(st.sampled_from(walk.states))
    anything = st.one_of(*MESSAGES.values())
    now = NOW
    moves = st.tuples(anything, st.sampled_from((0, 2, 31, 301, -5)), st.sampled_from(PAUSES), st.sampled_from(PAUSES))
    for message, seconds, paused, silent in data.draw(st.lists(moves, max_size=8)):
        now += timedelta(seconds=seconds)
        marks = {"BTC": data.draw(MARKS)} if data.draw(st.booleans()) else NO_MARKS
        outcome = advance(saga, message, now, availability=availability(paused, silent), marks=marks)
        check(saga, now, outcome, paused)
        if isinstance(outcome, Decision):
            saga = outcome.saga
            assert decoder(Progress).decode(encode(saga.progress)) == saga.progress
            for ask in outcome.asks:
                assert decoder(type(ask.message)).decode(encode(ask.message)) == ask.message
            for event in outcome.events:
                assert decoder(type(event)).decode(encode(event)) == event
            assert encode(outcome.entries)
        else:
            assert encode(outcome.detail)


@given(_any(AssetApproved, command_id=st.just(f"{ORDER_ID}:check")), _any(OrderRequested), st.sampled_from(Side))
@settings(max_examples=300, deadline=None)
def test_any_quote_for_any_order_ends_well_or_is_refused(
    quote: AssetApproved, order: OrderRequested, side: Side
) -> None:
    """With any amounts, an order with only good answers completes or is refused for its quote; it never gets stuck."""
    order_type = OrderType.MARKET_BUY if side is Side.BUY else OrderType.MARKET_SELL
    request = structs.replace(order, user_id=sample.USER, order_type=order_type, requested_at=None)
    cash = "USD" if order.asset_id != "USD" else "EUR"
    quote = structs.replace(quote, asset_id=order.asset_id, cash_asset_id=cash, quoted_at=None)
    story = Story(Requested(request, NOW), quote, sample.reserved(), sample.settled(), sample.refunded())
    assert story.saga.status in {OrderStatus.COMPLETED, OrderStatus.FAILED}
    assert all(isinstance(told, (Decision, Ignored)) for told in story.told)
    assert all(question.answer is not Answer.OPEN for question in story.saga.progress.questions)
