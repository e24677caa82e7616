"""Asking again: when, how often, for how long, and what happens when no answer comes."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from msgspec import structs

from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core.phases import JITTER, QUESTIONS
from order_saga.core.saga import Answer, Decision, Incoming, Participant, Phase, Step, Why
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    blank,
    cancel,
    not_approved,
    not_reserved,
    park,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
)

FAILED = OrderStatus.FAILED
TIMED_OUT = (FAILED, ReasonCode.TIMED_OUT)
FOREVER = [(Side.BUY, (approved(), reserved()), Step.SETTLE), (Side.SELL, (cancel(),), Step.REFUND)]


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
@pytest.mark.parametrize(("told", "step"), [((), Step.CHECK), ((approved(),), Step.RESERVE)], ids=["check", "reserve"])
def test_a_question_is_asked_again_after_2_4_8_8_seconds_and_given_up_at_30(
    told: tuple[Incoming, ...], step: Step, time_scale: float
) -> None:
    """Attempts come at 0, 2, 6, 14 and 22 s and patience ends at 30 s, each multiplied by the time scale."""
    story = Story(requested(), *told, time_scale=time_scale)
    waits, attempts, phase = [], [1], story.saga.phase
    while True:
        waits.append(story.wait_until_due() / time_scale)
        story.tell(timer())
        if story.saga.phase is not phase:
            break
        assert [ask.step for ask in story.decision.asks] == [step]
        attempts += [ask.attempt for ask in story.decision.asks]
    assert waits == pytest.approx([2, 4, 8, 8, 8])
    assert attempts == [1, 2, 3, 4, 5]
    assert story.now - NOW == timedelta(seconds=30 * time_scale)
    story.tell(refunded())
    assert story.ending == TIMED_OUT
    assert story.saga.reason == f"no answer to {step} after 5 attempts"


def test_the_last_wait_is_cut_to_the_end_of_patience() -> None:
    """With the most jitter the waits are a fifth longer, but patience ends at 30 s all the same."""
    story = Story(saga=structs.replace(blank(), order_id=UUID(int=996)))
    request = requested()
    story.tell(structs.replace(request, request=structs.replace(request.request, order_id=UUID(int=996))))
    told = structs.replace(timer(), order_id=UUID(int=996))
    waits = []
    while story.saga.phase is Phase.VALIDATING:
        waits.append(story.wait_until_due())
        story.tell(told)
    longer = 1 + JITTER * 996 / 997
    assert waits == pytest.approx([2 * longer, 4 * longer, 8 * longer, 8 * longer, 30 - 22 * longer])


@pytest.mark.parametrize(("side", "told", "step"), FOREVER, ids=["settle", "refund"])
def test_what_must_be_done_is_asked_for_ever(side: Side, told: tuple[Incoming, ...], step: Step) -> None:
    """A question that must succeed is asked after 2, 4, 8, 16 and 32 s, then every 60 s without end."""
    story = Story(requested(side), *told)
    waits = []
    for _ in range(60):
        waits.append(story.wait_until_due())
        story.tell(timer())
        assert [ask.step for ask in story.decision.asks] == [step]
    assert waits == [2, 4, 8, 16, 32, *[60] * 55]
    assert story.question(step).attempts == 61


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
@pytest.mark.parametrize(("side", "told", "step"), FOREVER, ids=["settle", "refund"])
def test_a_person_is_paged_once_after_five_minutes_and_the_saga_keeps_asking(
    side: Side, told: tuple[Incoming, ...], step: Step, time_scale: float
) -> None:
    """Being overdue only pages a person; an answer clears it."""
    story = Story(requested(side), *told, time_scale=time_scale).wait(300 * time_scale - 0.001).tell(timer())
    assert story.saga.overdue_since is None
    story.wait_until_due()
    story.tell(timer())
    assert story.saga.overdue_since == story.now
    assert [entry.kind for entry in story.decision.entries] == ["asked", "overdue"]
    assert story.decision.entries[1].name == step
    paged_at = story.saga.overdue_since
    story.wait_until_due()
    story.tell(timer())
    assert [entry.kind for entry in story.decision.entries] == ["asked"], "once"
    assert story.saga.overdue_since == paged_at
    story.tell(settled(), refunded())
    assert story.saga.overdue_since is None
    assert story.saga.status in {OrderStatus.COMPLETED, OrderStatus.CANCELLED}


def test_at_exactly_five_minutes_it_is_overdue() -> None:
    """An order is overdue from exactly five minutes on, not only after them."""
    story = Story(requested(), approved(), reserved()).wait(300).tell(timer())
    assert story.saga.overdue_since == story.now


def test_a_check_that_stays_silent_ends_a_buy_at_once() -> None:
    """A buy that gets no answer to its check ends at once, because nothing was reserved."""
    story = Story(requested()).wait(30).tell(timer())
    assert story.ending == TIMED_OUT
    assert [entry.kind for entry in story.decision.entries] == ["timed_out", "status"]


@pytest.mark.parametrize(("side", "told"), [(Side.BUY, (approved(),)), (Side.SELL, ()), (Side.SELL, (reserved(),))])
def test_a_time_out_refunds_what_may_be_held(side: Side, told: tuple[Incoming, ...]) -> None:
    """After a time-out a refund precedes the end, because nobody knows whether the hold exists."""
    story = Story(requested(side), *told).wait(30).tell(timer())
    assert story.asked == ["RefundBalance"]
    assert story.ending == (OrderStatus.PENDING, None)
    assert story.tell(refunded(HoldState.TOMBSTONE)).ending == TIMED_OUT


def test_a_moment_before_patience_is_over_the_question_is_asked_once_more() -> None:
    """Just before patience ends a question is still asked; at exactly that moment it is given up."""
    story = Story(requested()).wait(29.999).tell(timer())
    assert story.asked == ["CheckAsset"]
    assert story.wait_until_due() == pytest.approx(0.001), "and patience keeps its own instant"


def test_a_balance_refusal_that_waited_is_the_reason_when_the_check_stays_silent() -> None:
    """When the check gets no answer, an earlier balance refusal is the reason: it proves that nothing is held."""
    story = Story(requested(Side.SELL), not_reserved()).wait(30).tell(timer())
    assert story.ending == (FAILED, ReasonCode.INSUFFICIENT_BALANCE)
    assert story.asked == []


def test_only_what_is_due_is_asked_again() -> None:
    """A timer asks again neither an answered question nor one to a silent participant."""
    assert Story(requested(Side.SELL), approved()).wait(2).tell(timer()).asked == ["ReserveBalance"]
    silent = Story(requested(Side.SELL)).make_silent(Participant.BALANCE).wait(2).tell(timer())
    assert silent.asked == ["CheckAsset"]


@pytest.mark.parametrize(
    "told",
    [(), (cancel(),), (not_approved(),), (approved(), reserved(), settled()), (park(),)],
    ids=["not yet", "cancelled", "refused", "completed", "parked"],
)
def test_a_timer_that_no_longer_fits_is_ignored(told: tuple[Incoming, ...]) -> None:
    """A timer is ignored when it is early, or when the order has ended or is parked."""
    story = Story(requested(), *told).wait(1.999)
    assert story.tell(timer()).why is Why.NOT_DUE


def test_a_timer_for_a_stub_is_ignored() -> None:
    """A timer is ignored for a stub, because a cancel that came before its request waits for nothing."""
    assert Story(cancel(), timer()).why is Why.NOT_DUE


def test_a_silent_participant_is_not_asked_but_its_question_stays() -> None:
    """A question to a silent participant is held back: no attempt, no history, a longer wait; patience continues."""
    story = Story(requested()).make_silent(Participant.ASSETS).wait(2).tell(timer())
    assert (story.asked, story.decision.entries) == ([], ())
    assert story.question(Step.CHECK).attempts == 1
    assert story.wait_until_due() == 4
    assert story.tell(timer(probe=True)).asked == ["CheckAsset"]
    assert story.wait(30).tell(timer()).ending == TIMED_OUT


def test_a_silent_participant_makes_an_order_overdue_all_the_same() -> None:
    """An order becomes overdue also while its participant is silent and is not asked."""
    story = Story(requested(), approved(), reserved()).make_silent(Participant.BALANCE).wait(300).tell(timer())
    assert story.asked == []
    assert [entry.kind for entry in story.decision.entries] == ["overdue"]


@pytest.mark.parametrize("side", Side)
def test_an_order_that_the_worker_woke_early_asks_all_open_questions(side: Side) -> None:
    """The scanner moves `due_at` to now when a participant answers again; the order then asks all open questions."""
    story = Story(requested(side)).wait(1)
    assert story.tell(timer()).why is Why.NOT_DUE
    story.saga = structs.replace(story.saga, due_at=story.now)
    assert story.tell(timer()).asked == (["CheckAsset"] if side is Side.BUY else ["CheckAsset", "ReserveBalance"])
    assert story.wait_until_due() == 4


def test_with_its_attempts_used_up_a_question_only_waits() -> None:
    """An order that was woken often has no attempt left: it asks no more, and patience ends it."""
    story = Story(requested())
    for _ in range(8):
        story.wait(1)
        story.saga = structs.replace(story.saga, due_at=story.now)
        story.tell(timer())
    asked = [ask.attempt for told in story.told if isinstance(told, Decision) for ask in told.asks]
    assert asked == [1, 2, 3, 4, 5]
    assert story.question(Step.CHECK).attempts == QUESTIONS[Step.CHECK].attempts_max
    assert (story.asked, story.saga.phase) == ([], Phase.VALIDATING)
    assert story.wait(22).tell(timer()).ending == TIMED_OUT


# Parked ---------------------------------------------------------------------------------------------------------------


def test_a_parked_order_is_skipped_until_it_is_resumed() -> None:
    """A parked order has no `due_at`; its reason is stored and published; parking it again changes nothing."""
    story = Story(requested(), park("a row that could not be written"))
    assert (story.saga.due_at, story.saga.parked_reason) == (None, "a row that could not be written")
    (entry,) = story.decision.entries
    assert (entry.kind, entry.detail) == ("parked", {"reason": "a row that could not be written"})
    assert story.tell(park("another")).why is Why.PARKED
    assert story.saga.parked_reason == "a row that could not be written"


@pytest.mark.parametrize(
    ("side", "told", "asked"),
    [
        (Side.BUY, (), ["CheckAsset"]),
        (Side.BUY, (approved(),), ["ReserveBalance"]),
        (Side.SELL, (), ["CheckAsset", "ReserveBalance"]),
        (Side.BUY, (approved(), reserved()), ["SettleBalance"]),
        (Side.BUY, (approved(), cancel()), ["RefundBalance"]),
    ],
    ids=["check", "reserve", "both", "settle", "refund"],
)
def test_resume_asks_the_open_questions_again(side: Side, told: tuple[Incoming, ...], asked: list[str]) -> None:
    """A resumed order asks at once, with full patience and all attempts, however long it was parked."""
    story = Story(requested(side), *told, park()).wait(86_400).tell(resume())
    (entry,) = story.decision.entries
    assert (entry.kind, entry.detail["parked_reason"]) == ("resumed", "a message could not be stored")
    assert (story.saga.parked_reason, story.saga.due_at) == (None, story.now)
    story.wait(29)
    assert story.tell(timer()).asked == asked
    assert {ask.attempt for ask in story.decision.asks} == {1}
    assert all(question.answer is Answer.OPEN for question in story.saga.progress.open())


def test_an_order_that_was_parked_again_and_again_still_asks() -> None:
    """Each resume restores the attempts."""
    story = Story(requested())
    for _ in range(10):
        story.tell(park(), resume(), timer())
        assert story.asked == ["CheckAsset"]


def test_an_order_that_is_not_parked_cannot_be_resumed() -> None:
    """Resuming an order that is not parked is recorded and has no effect."""
    assert Story(requested(), resume()).why is Why.DUPLICATE


def test_a_held_back_question_is_looked_at_less_and_less_often() -> None:
    """The waits double up to the table's longest, so that a hundred thousand waiting orders cost little."""
    story = Story(requested(), approved(), reserved()).make_silent(Participant.BALANCE)
    pauses = []
    for _ in range(9):
        pauses.append(round(story.wait_until_due()))
        story.tell(timer())
        assert [] == story.asked
    assert [2, 4, 8, 16, 32, 60, 60, 60, 60] == pauses
    assert 1 == story.question(Step.SETTLE).attempts
