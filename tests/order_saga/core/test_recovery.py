"""An order that is brought forward after a restore: what it asks, what it shows, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from contracts.amends import AmendRefusal, AmendState
from contracts.assets import AssetApproved
from contracts.balance import AdjustBalance, BalanceCommand, RefundBalance, SettleBalance
from contracts.decimals import Money, Quantity
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side
from order_saga.core.behind import is_behind
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
    """The settlement was sent and the event was lost: the order is filled, at a price that has these sums."""
    asked = sample.requested(side, quantity=Quantity("0.07"))
    approved = sample.approved("49700.20" if side is Side.SELL else "49321.20")
    events, sent = lived(asked, approved, RESERVED)
    fill = events[-1].order
    story = sample.Story(sample.recovery(events[0], commands=sent, request=asked, approvals=(approved,)))
    assert (fill.average_price, fill.fee) == (story.saga.average_price, story.saga.fee)
    assert [sent[-1]] == story.commands
    other = sample.recovery(events[0], commands=sent, request=asked, approvals=(sample.approved("49990"),))
    story = sample.Story(other)
    assert fill.fee == story.saga.fee
    assert fill.average_price is not None
    assert story.saga.average_price is not None
    assert abs(fill.average_price - story.saga.average_price) < 1, "a cent of the whole"
    assert OrderStatus.COMPLETED is story.tell(SETTLED).saga.status


def test_a_settlement_that_fits_no_quote_is_asked_back() -> None:
    """If it was carried out, the refund is refused, and a person looks: its price is not guessed."""
    events, sent = lived(REQUESTED, APPROVED, RESERVED)
    dearer = recovery(REQUESTED, sample.approved(fee_bps=20))
    for known in (sample.recovery(events[0], commands=sent), structs.replace(dearer, commands=sent)):
        story = sample.Story(known)
        assert ["RefundBalance"] == story.asked
        assert story.tell(sample.not_refunded()).saga.parked_reason is not None
    unknown = sample.Story(sample.recovery(commands=sent))
    assert (Phase.REFUNDING, None) == (unknown.saga.phase, unknown.saga.order_type)


def test_terms_that_contradict_what_was_told_are_not_used() -> None:
    """A settlement with another fee, or a hold that does not cover the fill: it parks."""
    events, sent = lived(REQUESTED, APPROVED, RESERVED)
    reserve, settle = sent
    assert isinstance(settle, SettleBalance)
    dearer = structs.replace(settle, fee=Money("9.99"))
    smaller = structs.replace(reserve, amount=Money(1))
    for commands in ((reserve, dearer), (smaller,)):
        told = sample.recovery(*events, commands=commands, request=REQUESTED, approvals=(APPROVED,))
        assert NO_TERMS == sample.Story(told).saga.parked_reason


def test_an_adjustment_alone_names_the_hold() -> None:
    """Its reservation is older than what is read: the ledger has it, and the refund ends it as it is."""
    rests = (sample.conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000"), APPROVED, RESERVED)
    events, sent = lived(*rests, sample.amend(quantity="0.02"), sample.rechecked())
    assert isinstance(sent[-1], AdjustBalance)
    story = sample.Story(sample.recovery(*events, commands=sent[-1:]))
    [refund] = story.commands
    assert isinstance(refund, RefundBalance)
    assert (sent[-1].amount, 1) == (refund.amount, refund.revision)


def test_an_amend_that_was_open_comes_too_late() -> None:
    """Everybody sees that, in a version of its own, before the order is cancelled."""
    rests = (sample.conditional(OrderType.STOP_LOSS_SELL, trigger_price="49000"), APPROVED, RESERVED)
    told = recovery(*rests, sample.amend(quantity="0.005"))
    story = sample.Story(told, sample.refunded())
    assert ("first", AmendState.REFUSED, AmendRefusal.TOO_LATE) == story.verdict
    assert (OrderStatus.CANCELLED, told.told[-1].version + 2) == (story.saga.status, story.saga.version)


def test_it_is_behind_until_it_leads_where_was_told() -> None:
    """An order that is on its way there, or knows all, is not; an unknown one is."""
    for told in (recovery(REQUESTED, APPROVED, RESERVED, SETTLED), recovery(REQUESTED, APPROVED, sample.cancel())):
        assert is_behind(None, told)
        story = sample.Story(told)
        assert not is_behind(story.saga, told)
        assert story.tell(told).why is Why.DUPLICATE
    assert not is_behind(None, sample.recovery())
    refunding = recovery(REQUESTED, APPROVED, sample.cancel(), sample.refunded())
    story = sample.Story(REQUESTED, APPROVED, sample.cancel())
    assert not is_behind(story.saga, refunding), "it ends so by itself"
    assert is_behind(story.tell(sample.park()).saga, refunding), "it was resumed since"


def test_another_history_is_not_made_fit() -> None:
    """An order that has ended otherwise, another user's, and versions that no history has: nothing changes."""
    told = recovery(REQUESTED, APPROVED, RESERVED, SETTLED)
    ended = sample.Story(REQUESTED, sample.cancel())
    assert ended.tell(told).why is Why.CONFLICT
    others = structs.replace(told, told=tuple(_of_another(event) for event in told.told))
    assert sample.Story(REQUESTED).tell(others).why is Why.CONFLICT
    pending, last = OrderStatus.PENDING, told.told[3]
    impossible = structs.replace(told.told[0], version=9, status=pending, previous_status=pending)
    endless = structs.replace(told.told[0], version=20_000, status=pending, previous_status=pending)
    back = structs.replace(last, version=2, previous_status=OrderStatus.CONFIRMED)
    gap = structs.replace(last, version=9)
    for events in ((last, impossible), (endless,), (back,), (gap,)):
        resting = sample.Story(REQUESTED) if events != (gap,) else sample.Story(REQUESTED, APPROVED, RESERVED)
        assert resting.tell(sample.recovery(*events)).why is Why.CONFLICT
    busted = recovery(REQUESTED, APPROVED, RESERVED, sample.not_settled())
    unknown_fill = sample.recovery(busted.told[-1])
    assert sample.Story(unknown_fill).why is Why.CONFLICT, "nobody knows what it was filled with"
    unpriced = structs.replace(told.told[2], order=structs.replace(told.told[2].order, average_price=None))
    assert sample.Story(sample.recovery(unpriced)).why is Why.CONFLICT
    refunding = sample.Story(REQUESTED, APPROVED, sample.cancel())
    later = tuple(structs.replace(event, version=event.version + 1) for event in told.told[1:])
    assert refunding.tell(structs.replace(told, told=later)).why is Why.CONFLICT
    settling = sample.Story(REQUESTED, APPROVED, RESERVED)
    _, sent = lived(REQUESTED, APPROVED, sample.cancel())
    assert settling.tell(sample.recovery(commands=sent)).why is Why.CONFLICT


def _of_another(event: OrderStatusChanged) -> OrderStatusChanged:
    return structs.replace(event, order=structs.replace(event.order, user_id=sample.OTHER_USER))


def test_missing_versions_are_filled_in_by_a_legal_way() -> None:
    """Events that never reached the broker leave no gap, and the order ends under the version that was told."""
    events, sent = lived(REQUESTED, APPROVED, RESERVED, SETTLED)
    told = sample.recovery(events[-1], commands=sent, request=REQUESTED)
    story = sample.Story(told, SETTLED)
    assert [OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, OrderStatus.COMPLETED] == story.statuses
    cancelled, _ = lived(REQUESTED, sample.cancel())
    late = structs.replace(cancelled[-1], version=6, previous_status=OrderStatus.CONFIRMED)
    story = sample.Story(sample.recovery(late))
    assert [OrderStatus.PENDING, *[OrderStatus.CONFIRMED] * 4, OrderStatus.CANCELLED] == story.statuses


@pytest.mark.parametrize("number", range(0, len(recoveries()), 7))
def test_the_request_that_is_read_again_is_known(number: int) -> None:
    """An order that was brought forward takes its own request for a repetition."""
    told = recoveries()[number]
    if told.request is None and told.told:
        for request in (sample.requested(), sample.requested(Side.SELL)):
            if request.request.order_type is told.told[-1].order.order_type:
                assert sample.Story(told).tell(request).why is Why.DUPLICATE
