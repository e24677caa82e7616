"""A pause of a participant: its questions are not sent, nothing times out because of it, its end wakes orders."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contracts.codec import decoder, encode
from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core.phases import LOOK_AGAIN_S, MAX_QUOTE_AGE_S, QUESTIONS, needed
from order_saga.core.saga import Answer, Decision, Incoming, Participant, Phase, Progress, Question, Step, Why
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    ask_again,
    cancel,
    not_approved,
    park,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
    with_question,
)

ASSETS, BALANCE = Participant.ASSETS, Participant.BALANCE
DAY_S = 86_400
UNSENT: list[tuple[Side, tuple[Incoming, ...], list[str]]] = [
    (Side.BUY, (), ["CheckAsset"]),
    (Side.SELL, (), ["CheckAsset", "ReserveBalance"]),
]
"""An order that came during the pause, and the commands that it sends after it."""
SENT: list[tuple[Side, tuple[Incoming, ...], list[str]]] = [
    (Side.BUY, (), ["CheckAsset"]),
    (Side.BUY, (approved(),), ["ReserveBalance"]),
    (Side.SELL, (), ["CheckAsset", "ReserveBalance"]),
    (Side.SELL, (approved(),), ["ReserveBalance"]),
    (Side.SELL, (reserved(),), ["CheckAsset"]),
    (Side.BUY, (approved(), reserved()), ["SettleBalance"]),
    (Side.BUY, (approved(), cancel()), ["RefundBalance"]),
]
"""An order from before the pause, and the question that it waits for."""


def waits(story: Story) -> list[tuple[str, str, str]]:
    """List the history's lines that say what an order waits for."""
    entries = [entry for told in story.told if isinstance(told, Decision) for entry in told.entries]
    return [(entry.kind, entry.name, entry.detail["why"]) for entry in entries if entry.kind == "waits"]


def test_whom_an_order_needs_from_each_phase_on() -> None:
    """An order needs each participant that it asks before it ends well; an answered question no longer counts."""
    both = {ASSETS, BALANCE}
    assert all(needed(Phase.VALIDATING, side) == both for side in Side)
    assert needed(Phase.VALIDATING, Side.SELL, [Step.CHECK]) == {BALANCE}
    assert needed(Phase.VALIDATING, Side.SELL, [Step.RESERVE]) == both, "the settlement is still to come"
    for phase in (Phase.RESERVING, Phase.SETTLING, Phase.REFUNDING):
        assert needed(phase, Side.BUY) == {BALANCE}
    assert needed(Phase.COMPLETED, Side.BUY) == frozenset()


@pytest.mark.parametrize(("side", "told", "asked"), UNSENT)
def test_an_order_that_comes_during_a_pause_asks_nothing_until_it_is_over(
    side: Side, told: tuple[Incoming, ...], asked: list[str]
) -> None:
    """An order that comes in a pause asks nothing, not even for a quote, which would be stale; it never gives up."""
    story = Story().pause(BALANCE).tell(requested(side), *told)
    for _ in range(DAY_S // 60):
        assert (story.asked, story.saga.phase) == ([], Phase.VALIDATING)
        assert LOOK_AGAIN_S == story.wait_until_due()
        story.tell(timer())
    assert [("waits", "balance", "paused")] == waits(story)
    assert all((0, False, True) == (q.attempts, q.sent, q.held_back) for q in story.saga.progress.open())
    assert 3 == story.saga.history_seq, "a line for the request, the status and the wait"

    story.pause().wait_until_due()
    assert asked == story.tell(timer()).asked
    assert {1} == {ask.attempt for ask in story.decision.asks}
    assert 2 == story.wait_until_due(), "from here on by the table"


@pytest.mark.parametrize(("side", "told", "asked"), SENT)
def test_what_was_asked_before_a_pause_is_not_asked_during_it(
    side: Side, told: tuple[Incoming, ...], asked: list[str]
) -> None:
    """A question from before a pause is neither given up nor overdue in it; patience and attempts restart after it."""
    story = Story(requested(side), *told).wait(1.9).pause(BALANCE)
    phase = story.saga.phase
    for _ in range(10):
        story.wait_until_due()
        assert (phase, []) == (story.tell(timer()).saga.phase, story.asked)
        story.wait(DAY_S)
    assert [("waits", "balance", "paused")] == waits(story)
    assert all(question.sent and question.attempts == 1 for question in story.saga.progress.open())
    assert asked == story.pause().tell(timer()).asked
    assert {1} == {ask.attempt for ask in story.decision.asks}
    assert phase is story.wait(29.9).tell(timer()).saga.phase, "with all of its patience again"


def test_attempts_that_were_used_up_before_a_pause_are_given_back() -> None:
    """Attempts used up before a pause are restored; otherwise patience would run out without a single question."""
    story = Story(requested())
    for _ in range(4):
        story.wait_until_due()
        story.tell(timer())
    assert QUESTIONS[Step.CHECK].attempts_max == story.question(Step.CHECK).attempts
    story.pause(BALANCE).wait_until_due()
    story.tell(timer()).pause().wait_until_due()
    assert ["CheckAsset"] == story.tell(timer()).asked


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
def test_a_wait_scales(time_scale: float) -> None:
    """The time scale multiplies the wait in a pause, as all times of the table."""
    story = Story(time_scale=time_scale).pause(ASSETS).tell(requested())
    assert LOOK_AGAIN_S * time_scale == pytest.approx(story.wait_until_due())


def test_an_order_that_does_not_need_the_paused_participant_continues() -> None:
    """While the asset service is paused, an order that it has judged is settled or refunded; any other order waits."""
    checked = Story(requested(Side.SELL), approved()).pause(ASSETS).wait(2).tell(timer())
    assert ["ReserveBalance"] == checked.asked
    assert ["SettleBalance"] == checked.tell(reserved()).asked
    bought = Story(requested(), approved()).pause(ASSETS).wait(2).tell(timer())
    assert ["ReserveBalance"] == bought.asked
    new = Story().pause(ASSETS).tell(requested(Side.SELL))
    assert ([], [("waits", "assets", "paused")]) == (new.asked, waits(new))


def test_both_participants_may_be_paused() -> None:
    """History names both paused participants; the end of one pause does not release an order that needs the other."""
    story = Story().pause(ASSETS, BALANCE).tell(requested())
    assert [("waits", "assets and balance", "paused")] == waits(story)
    story.pause(BALANCE).wait_until_due()
    assert [] == story.tell(timer()).asked
    assert 1 == len(waits(story))


def test_a_second_pause_is_recorded_again() -> None:
    """Each new wait gets its own history line, also for a question that an answer opened during the pause."""
    story = Story().pause(BALANCE).tell(requested()).pause().wait(60).tell(timer())
    story.pause(BALANCE).wait(2).tell(timer())
    assert 2 == len(waits(story))
    story.tell(approved())
    assert (Phase.RESERVING, [], 3) == (story.saga.phase, story.asked, len(waits(story)))


@pytest.mark.parametrize(
    ("side", "told", "phase"),
    [
        (Side.BUY, (approved(),), Phase.RESERVING),
        (Side.BUY, (approved(), reserved()), Phase.SETTLING),
        (Side.BUY, (approved(), reserved(), settled()), Phase.COMPLETED),
        (Side.SELL, (approved(), reserved()), Phase.SETTLING),
        (Side.BUY, (not_approved(),), Phase.FAILED),
        (Side.BUY, (approved(), cancel(), refunded()), Phase.CANCELLED),
    ],
)
def test_answers_that_come_during_a_pause_count(side: Side, told: tuple[Incoming, ...], phase: Phase) -> None:
    """A reply that arrives during a pause counts; the question that follows from it waits."""
    *before, last = told
    story = Story(requested(side), *before).pause(BALANCE).tell(last)
    assert (phase, []) == (story.saga.phase, story.asked)


# How it may end meanwhile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", Side)
def test_a_cancel_before_any_reserve_was_sent_ends_at_once(side: Side) -> None:
    """An order whose reserve was never sent holds nothing, so a cancel ends it at once without a refund."""
    story = Story().pause(BALANCE).tell(requested(side), cancel())
    assert (OrderStatus.CANCELLED, ReasonCode.USER_REQUESTED) == story.ending
    assert [] == story.asked


def test_a_check_that_says_no_ends_a_sell_whose_reserve_was_never_sent() -> None:
    """An order whose reserve was never sent needs no refund, even if a check that nobody sent is refused."""
    story = Story().pause(BALANCE).tell(requested(Side.SELL), not_approved())
    assert ((OrderStatus.FAILED, ReasonCode.ASSET_NOT_TRADABLE), []) == (story.ending, story.asked)


def test_a_cancel_of_what_was_sent_refunds_when_the_pause_is_over() -> None:
    """A reserve that was sent may have arrived, so a cancel refunds after the pause."""
    story = Story(requested(), approved()).pause(BALANCE).wait(2).tell(timer())
    story.tell(cancel())
    assert (Phase.REFUNDING, []) == (story.saga.phase, story.asked)
    assert story.question(Step.REFUND).held_back
    story.pause().wait_until_due()
    assert ["RefundBalance"] == story.tell(timer()).asked
    ended = story.tell(refunded(HoldState.TOMBSTONE))
    assert (OrderStatus.CANCELLED, ReasonCode.USER_REQUESTED) == ended.ending


def test_an_answer_counts_as_proof_that_the_question_was_sent() -> None:
    """An answer to a question that was not sent (a lie, or a restored backup) makes the order refund its hold."""
    story = Story().pause(BALANCE).tell(requested(Side.SELL), reserved(), cancel())
    assert Phase.REFUNDING is story.saga.phase
    impossible = Story().pause(BALANCE).tell(requested(Side.SELL), reserved(HoldState.SETTLED))
    assert impossible.saga.parked_reason is not None
    assert Phase.REFUNDING is impossible.tell(cancel(), resume()).saga.phase


def test_what_an_older_version_stored_counts_as_sent() -> None:
    """An older version stored attempts 0 for a question that it would repeat, so a cancel must refund its hold."""
    story = Story(requested(), approved())
    stored = b'{"step": "reserve", "asked_at": "2026-03-01T12:00:00Z", "due_at": "2026-03-01T12:00:00Z", "attempts": 0}'
    question = decoder(Question).decode(stored)
    story.saga = with_question(story.saga, question)
    assert Phase.REFUNDING is story.tell(cancel()).saga.phase


def test_a_quote_that_grew_too_old_during_a_pause_fails_the_order() -> None:
    """A buy whose quote becomes too old in a pause before the reserve is refunded and fails with STALE_PRICE."""
    story = Story(requested(), approved()).pause(BALANCE).wait(2).tell(timer()).wait(MAX_QUOTE_AGE_S)
    story.pause().wait_until_due()
    assert ["ReserveBalance"] == story.tell(timer()).asked
    assert ["RefundBalance"] == story.tell(reserved()).asked
    assert (OrderStatus.FAILED, ReasonCode.STALE_PRICE) == story.tell(refunded()).ending


def test_a_pause_ends_overdue() -> None:
    """An order that waits for a pause is not overdue; it is overdue again five minutes after the pause."""
    story = Story(requested(), approved(), reserved()).wait(300).tell(timer())
    assert story.saga.overdue_since is not None
    story.pause(BALANCE).wait_until_due()
    assert story.tell(timer()).saga.overdue_since is None
    story.pause().wait_until_due()
    assert story.tell(timer()).saga.overdue_since is None
    assert story.wait(300).tell(timer()).saga.overdue_since == story.now


def test_an_order_that_is_parked_during_a_pause_waits_again_when_it_is_resumed() -> None:
    """A resume during a pause makes the order look at once, and it waits for the pause again."""
    story = Story().pause(BALANCE).tell(requested(), park(), resume(), timer())
    assert ([], 2) == (story.asked, len(waits(story)))
    assert not story.question(Step.CHECK).sent
    assert ["CheckAsset"] == story.pause().wait(60).tell(timer()).asked


def test_a_silent_participant_is_not_asked_after_its_pause_either() -> None:
    """A silent participant is not asked after its pause either, and a question that was never sent stays unsent."""
    story = Story().pause(BALANCE).tell(requested(Side.SELL)).pause().wait(60)
    story.make_silent(Participant.BALANCE).tell(timer())
    assert ["CheckAsset"] == story.asked
    assert (0, False, False) == tuple(
        getattr(story.question(Step.RESERVE), n) for n in ("attempts", "sent", "held_back")
    )
    assert ["ReserveBalance"] == story.tell(approved()).wait(2).tell(timer(probe=True)).asked


def test_a_question_that_waits_survives_storage() -> None:
    """A waiting question is stored and loaded with all its fields."""
    progress = Story().pause(BALANCE).tell(requested(Side.SELL)).saga.progress
    assert progress == decoder(Progress).decode(encode(progress))


# Asking again by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "told", "asked"), SENT)
def test_an_operator_may_have_an_order_ask_again_at_once(
    side: Side, told: tuple[Incoming, ...], asked: list[str]
) -> None:
    """The open questions become due at once, and the history names the operator."""
    story = Story(requested(side), *told).wait(1).tell(ask_again())
    (entry,) = story.decision.entries
    assert ("woken", "AskAgainRequested", {"requested_by": "@operator:olga"}) == (entry.kind, entry.name, entry.detail)
    assert story.saga.due_at == story.now
    assert asked == story.tell(timer()).asked


def test_asking_again_does_not_give_patience_back() -> None:
    """Asking again by hand does not extend the deadline."""
    story = Story(requested()).wait(29).tell(ask_again(), timer()).wait(1).tell(timer())
    assert (OrderStatus.FAILED, ReasonCode.TIMED_OUT) == story.ending
    assert NOW + timedelta(seconds=30) == story.now


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ((cancel(),), Why.TOO_LATE),
        ((requested(), cancel()), Why.TOO_LATE),
        ((requested(), park()), Why.PARKED),
    ],
    ids=["not begun", "ended", "parked"],
)
def test_what_waits_for_no_answer_is_not_asked_again(told: tuple[Incoming, ...], why: Why) -> None:
    """Asking again an order that waits for no answer is recorded and has no effect."""
    story = Story(*told, ask_again())
    assert why is story.why
    assert Answer.OPEN not in {question.answer for question in story.saga.progress.questions} or why is Why.PARKED
