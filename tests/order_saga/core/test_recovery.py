"""An order that is brought forward after a restore: what it asks, what it shows, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from contracts.assets import AssetApproved
from contracts.balance import BalanceCommand, SettleBalance
from contracts.vocabulary import OrderStatus, ReasonCode, Side
from order_saga.core.recovery import NO_TERMS
from order_saga.core.saga import Decision, Phase, Requested, Why
from tests.order_saga.core import sample
from tests.order_saga.core.recoveries import recoveries

if TYPE_CHECKING:
    from contracts.orders import OrderStatusChanged
    from order_saga.core.saga import Incoming, RecoveryRequested

REQUESTED, APPROVED, RESERVED, SETTLED = sample.requested(), sample.approved(), sample.reserved(), sample.settled()


def lived(*messages: Incoming) -> tuple[list[OrderStatusChanged], tuple[BalanceCommand, ...]]:
    """Give the versions of an order that has lived through these messages, and its commands to the balance service."""
    decisions = [one for one in sample.Story(*messages).told if isinstance(one, Decision)]
    sent = tuple(ask.message for one in decisions for ask in one.asks if isinstance(ask.message, BalanceCommand))
    return [event for one in decisions for event in one.events], sent


def recovery(*messages: Incoming, commands: bool = True) -> RecoveryRequested:
    """Tell what Kafka has of such an order."""
    events, sent = lived(*messages)
    return sample.recovery(
        *events,
        commands=sent if commands else (),
        request=messages[0] if isinstance(messages[0], Requested) else None,
        approvals=tuple(one for one in messages if isinstance(one, AssetApproved)) if commands else (),
    )


def test_a_refused_settlement_of_what_was_told_as_filled_parks() -> None:
    """The world was told of the fill, so it is not taken back; resumed, it asks again."""
    for told in ((REQUESTED, APPROVED, RESERVED), (REQUESTED, APPROVED, RESERVED, SETTLED)):
        story = sample.Story(recovery(*told), sample.not_settled())
        assert (Phase.SETTLING, OrderStatus.PROCESSING) == (story.saga.phase, story.saga.status)
        assert "it was told that the order is" in (story.saga.parked_reason or "")
        story.tell(sample.resume(), sample.settled())
        assert OrderStatus.COMPLETED is story.saga.status


def test_a_settlement_of_what_was_told_as_busted_parks() -> None:
    """It was refused then, and can't have moved money."""
    story = sample.Story(recovery(REQUESTED, APPROVED, RESERVED, sample.not_settled()))
    assert OrderStatus.FAILED is story.saga.progress.told
    assert story.tell(SETTLED).saga.parked_reason is not None
    story = sample.Story(recovery(REQUESTED, APPROVED, RESERVED, sample.not_settled()), sample.not_settled())
    assert (OrderStatus.FAILED, ReasonCode.EXECUTION_FAILED) == story.ending


def test_without_the_terms_of_its_settlement_a_filled_order_parks() -> None:
    """Nothing is guessed: it asks for nothing, and no operator can have it ask, until the terms are known."""
    story = sample.Story(recovery(REQUESTED, APPROVED, RESERVED, SETTLED, commands=False))
    assert (NO_TERMS, []) == (story.saga.parked_reason, story.asked)
    assert story.tell(sample.resume()).why is Why.CONFLICT
    story.tell(recovery(REQUESTED, APPROVED, RESERVED, SETTLED))
    assert story.saga.parked_reason is None
    story.wait(1).tell(sample.timer())
    assert [SettleBalance.__name__] == story.asked


def test_terms_follow_from_the_quote_when_the_settlement_was_never_sent() -> None:
    """A crash between the event and the command: the hold and the quote are known, so the sums are the same."""
    events, sent = lived(REQUESTED, APPROVED, RESERVED)
    reserve, settle = sent
    told = sample.recovery(*events, commands=(reserve,), request=REQUESTED, approvals=(APPROVED,))
    assert [settle] == sample.Story(told).commands


def test_what_an_order_does_not_know_to_have_asked_is_asked_back() -> None:
    """It was told nothing new, and its hold was asked for: it would end without asking for the money back."""
    _, sent = lived(REQUESTED, APPROVED)
    story = sample.Story(REQUESTED, sample.recovery(commands=sent))
    assert (Phase.REFUNDING, ["RefundBalance"]) == (story.saga.phase, story.asked)
    story.tell(sample.refunded())
    assert (OrderStatus.CANCELLED, ReasonCode.OPERATOR) == story.ending
    assert "the database was restored" in (story.saga.reason or "")


@pytest.mark.parametrize("side", Side)
def test_a_fill_that_nobody_was_told_of_has_the_sums_of_its_settlement(side: Side) -> None:
    """The settlement was sent and the event was lost: the order is filled, at the price that the sums name."""
    asked, price = sample.requested(side), sample.approved("49321.07")
    events, sent = lived(asked, price, RESERVED)
    told = sample.recovery(events[0], commands=sent, request=asked, approvals=(price,))
    story = sample.Story(told)
    assert events[-1].order.average_price == story.saga.average_price
    assert sent[-1] == story.commands[0]
    other = sample.recovery(
        events[0],
        commands=sent,
        request=asked,
        approvals=(sample.approved("49000"),),
    )
    assert events[-1].order.fee == sample.Story(other).saga.fee


def test_another_history_is_not_made_fit() -> None:
    """An order that has ended otherwise, another user's, and versions that no history has: nothing changes."""
    told = recovery(REQUESTED, APPROVED, RESERVED, SETTLED)
    ended = sample.Story(REQUESTED, sample.cancel())
    assert ended.tell(told).why is Why.CONFLICT
    others = structs.replace(told, told=tuple(_of_another(event) for event in told.told))
    assert sample.Story(REQUESTED).tell(others).why is Why.CONFLICT
    impossible = structs.replace(
        told.told[0], version=9, status=OrderStatus.PENDING, previous_status=OrderStatus.PENDING
    )
    assert sample.Story(sample.cancel()).tell(sample.recovery(told.told[3], impossible)).why is Why.CONFLICT


def _of_another(event: OrderStatusChanged) -> OrderStatusChanged:
    return structs.replace(event, order=structs.replace(event.order, user_id=sample.OTHER_USER))


def test_missing_versions_are_filled_in_by_a_legal_way() -> None:
    """Events that never reached the broker leave no gap, and the order ends under the version that was told."""
    events, sent = lived(REQUESTED, APPROVED, RESERVED, SETTLED)
    told = sample.recovery(events[-1], commands=sent, request=REQUESTED)
    story = sample.Story(told, SETTLED)
    assert [OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, OrderStatus.COMPLETED] == story.statuses


@pytest.mark.parametrize("number", range(0, len(recoveries()), 7))
def test_the_request_that_is_read_again_is_known(number: int) -> None:
    """An order that was brought forward takes its own request for a repetition."""
    told = recoveries()[number]
    if told.request is None and told.told:
        for request in (sample.requested(), sample.requested(Side.SELL)):
            if request.request.order_type is told.told[-1].order.order_type:
                assert sample.Story(told).tell(request).why is Why.DUPLICATE
