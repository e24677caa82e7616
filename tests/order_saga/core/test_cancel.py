"""A cancel: who may send it, until when it counts, and its effect when it arrives before the request."""

from __future__ import annotations

import pytest

from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core.phases import EARLY_CANCELS_MAX
from order_saga.core.saga import Decision, Incoming, Phase, Why
from tests.order_saga.core.sample import (
    OPERATOR,
    OTHER_USER,
    USER,
    Story,
    approved,
    cancel,
    invalid,
    not_approved,
    not_reserved,
    not_settled,
    park,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
)

FAILED, CANCELLED, PENDING = OrderStatus.FAILED, OrderStatus.CANCELLED, OrderStatus.PENDING
BY_USER = (CANCELLED, ReasonCode.USER_REQUESTED)
BY_OPERATOR = (CANCELLED, ReasonCode.OPERATOR)


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ((requested(),), []),
        ((requested(), approved()), ["RefundBalance"]),
        ((requested(Side.SELL),), ["RefundBalance"]),
        ((requested(Side.SELL), approved()), ["RefundBalance"]),
        ((requested(Side.SELL), reserved()), ["RefundBalance"]),
        ((requested(Side.SELL), not_reserved()), []),
    ],
    ids=["buy asks", "buy reserves", "sell asks both", "sell checked", "sell reserved", "sell refused, check open"],
)
def test_a_cancel_gives_back_what_is_held_or_may_be_held(told: tuple[Incoming, ...], asked: list[str]) -> None:
    """A cancel refunds when a hold exists or may exist; without any hold, the order ends at once."""
    story = Story(*told, cancel())
    assert story.asked == asked
    assert story.saga.cancel_requested
    if asked:
        assert story.ending == (PENDING, None), "terminal means money at rest"
        story.tell(refunded())
    assert story.ending == BY_USER


def test_an_accepted_cancel_is_a_version_of_its_own_while_the_money_comes_back() -> None:
    """A client sees `cancel_requested` before the refund; an order that ends at once shows both in one version."""
    waiting = Story(requested(), approved(), cancel())
    (event,) = waiting.decision.events
    assert (event.version, event.status, event.previous_status) == (2, PENDING, PENDING)
    assert event.order.cancel_requested
    at_once = Story(requested(), cancel())
    (event,) = at_once.decision.events
    assert (event.version, event.status, event.order.cancel_requested) == (2, CANCELLED, True)


@pytest.mark.parametrize("told", [(), (settled(),), (not_settled(),)], ids=["settling", "completed", "busted"])
def test_after_the_fill_it_is_too_late(told: tuple[Incoming, ...]) -> None:
    """After the fill, which is the pivot, a cancel changes nothing, not even `cancel_requested`."""
    story = Story(requested(), approved(), reserved(), *told, cancel())
    assert story.why is Why.TOO_LATE
    assert not story.saga.cancel_requested


def test_a_cancel_of_an_order_that_is_failing_is_recorded_and_changes_nothing() -> None:
    """The outcome is fixed on entry to REFUNDING, so a later cancel does not change it."""
    story = Story(requested(Side.SELL), not_approved(), cancel())
    assert story.why is Why.TOO_LATE
    assert not story.saga.cancel_requested
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.ASSET_NOT_TRADABLE)


def test_a_refusal_that_comes_after_the_cancel_does_not_change_the_outcome() -> None:
    """When the cancel commits first, a later refusal is ignored, and the user's cancel stays the reason."""
    story = Story(requested(Side.SELL), cancel(), not_approved(), not_reserved())
    assert story.why is Why.LATE
    assert story.tell(refunded(HoldState.REFUSED)).ending == BY_USER


@pytest.mark.parametrize("first", [cancel(), cancel(OPERATOR)], ids=["user", "operator"])
@pytest.mark.parametrize("second", [cancel(), cancel(OPERATOR)], ids=["user", "operator"])
def test_the_first_cancel_counts(first: Incoming, second: Incoming) -> None:
    """A second cancel is a duplicate, by the user or an operator, while the refund runs and after the end."""
    story = Story(requested(), approved(), first, second)
    assert story.why is Why.DUPLICATE
    story.tell(refunded(), second)
    assert story.why is Why.DUPLICATE
    assert story.ending == (BY_USER if first == cancel() else BY_OPERATOR)


def test_a_cancel_by_an_operator_names_the_operator() -> None:
    """The reason of a cancel by an operator names the operator."""
    story = Story(requested(), cancel(OPERATOR))
    assert story.ending == BY_OPERATOR
    assert story.saga.reason == f"cancelled by {OPERATOR}"


@pytest.mark.parametrize(
    "by_another",
    [cancel(OTHER_USER), cancel(OTHER_USER, OTHER_USER), cancel(USER, OTHER_USER), cancel(OPERATOR, OTHER_USER)],
    ids=["for the user", "for himself", "the user for another", "an operator for another"],
)
def test_a_cancel_by_anyone_else_is_recorded_and_ignored(by_another: Incoming) -> None:
    """A cancel counts only if it names the order's user and comes from that user or an operator."""
    story = Story(requested(), approved(), by_another)
    assert story.why is Why.NOT_ALLOWED
    assert not story.saga.cancel_requested


# Before its request ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "ending"), [(cancel(), BY_USER), (cancel(OPERATOR), BY_OPERATOR)])
@pytest.mark.parametrize("side", Side)
def test_a_request_that_meets_its_own_users_cancel_is_pending_and_then_cancelled(
    side: Side, wish: Incoming, ending: tuple[OrderStatus, ReasonCode]
) -> None:
    """The order gets two versions, PENDING and CANCELLED, and asks nothing."""
    stub = Story(wish)
    assert (stub.saga.phase, stub.saga.status, stub.saga.version, stub.saga.due_at) == (Phase.NEW, None, 0, None)
    story = stub.tell(requested(side))
    assert story.statuses == [PENDING, CANCELLED]
    assert story.ending == ending
    assert story.asked == []
    assert [event.order.cancel_requested for event in story.decision.events] == [False, True]


def test_a_request_that_meets_another_users_cancel_goes_on() -> None:
    """An early cancel that names another user does not cancel the order; the request says who the user is."""
    story = Story(cancel(OTHER_USER, OTHER_USER), requested())
    assert story.saga.phase is Phase.VALIDATING
    assert story.saga.user_id == USER
    assert not story.saga.cancel_requested


def test_the_users_cancel_counts_among_those_of_other_users() -> None:
    """An early cancel by the order's user counts although another user's cancel came first."""
    assert Story(cancel(OTHER_USER, OTHER_USER), cancel(), cancel(OPERATOR), requested()).ending == BY_USER


def test_a_cancel_that_could_never_count_is_not_stored() -> None:
    """An early cancel by neither the named user nor an operator is dropped, so it takes no place from a valid one."""
    story = Story(cancel(OTHER_USER))
    assert story.why is Why.NOT_ALLOWED
    assert story.saga.progress.early_cancels == ()


def test_a_repeated_early_cancel_is_a_duplicate_and_too_many_are_not_stored() -> None:
    """The number of stored early cancels is bounded, and each dropped one has a named reason."""
    story = Story(cancel())
    assert story.tell(cancel()).why is Why.DUPLICATE
    assert story.tell(*(cancel(f"@operator:{number}") for number in range(EARLY_CANCELS_MAX - 1))).why is None
    assert story.tell(cancel("@operator:one-more")).why is Why.TOO_MANY
    assert len(story.saga.progress.early_cancels) == EARLY_CANCELS_MAX
    assert story.tell(requested()).ending == BY_USER


def test_a_request_that_ends_for_its_own_fault_does_so_though_it_was_cancelled() -> None:
    """An invalid request fails with INVALID_ORDER in spite of an early cancel, and `cancel_requested` stays false."""
    story = Story(cancel(), invalid())
    assert story.ending == (FAILED, ReasonCode.INVALID_ORDER)
    assert not story.saga.cancel_requested


# Parked ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [(), (approved(),)], ids=["nothing asked of balance", "reserving"])
def test_a_cancel_of_a_parked_order_sets_its_flag_and_is_carried_out_on_resume(told: tuple[Incoming, ...]) -> None:
    """A parked order does nothing on a cancel, but a new version shows the cancel; resume carries it out."""
    story = Story(requested(), *told, park(), cancel())
    (event,) = story.decision.events
    assert (event.status, event.order.cancel_requested) == (PENDING, True)
    assert story.asked == []
    assert story.saga.due_at is None
    story.tell(resume())
    assert isinstance(story.told[-1], Decision)
    assert story.asked == (["RefundBalance"] if told else [])
    assert story.tell(refunded(HoldState.TOMBSTONE)).ending == BY_USER


def test_a_cancel_of_an_order_that_was_parked_after_the_fill_is_too_late() -> None:
    """A parked order that is past the pivot can no longer be cancelled."""
    assert Story(requested(), approved(), reserved(), park(), cancel()).why is Why.TOO_LATE


def test_a_cancel_and_the_end_of_patience_make_one_winner() -> None:
    """Named test 4, for the events that a market order has: only the outcome that commits first is published."""
    cancelled = Story(requested(), approved(), cancel()).wait(30).tell(timer())
    assert cancelled.tell(refunded()).statuses == [PENDING, PENDING, CANCELLED]
    timed_out = Story(requested(), approved()).wait(30).tell(timer(), cancel())
    assert timed_out.why is Why.TOO_LATE
    assert timed_out.tell(refunded()).statuses == [PENDING, FAILED]
    assert timed_out.saga.reason_code is ReasonCode.TIMED_OUT
