"""Replies that are repeated, late or contradictory: one test for each row of the protocol's table."""

from __future__ import annotations

from typing import Final

import pytest
from msgspec import structs

from contracts.assets import AssetRefusal
from contracts.balance import (
    BalanceRefusal,
    BalanceRefused,
    BalanceReply,
    BalanceReserved,
)
from contracts.decimals import Money
from contracts.vocabulary import HoldState, OrderStatus, ReasonCode, Side
from order_saga.core.fold import fold
from order_saga.core.saga import Answer, Decision, Ignored, Incoming, Phase, Reply, Step, Why
from tests.order_saga.core.hostile import lies, one_of_each
from tests.order_saga.core.sample import (
    NOW,
    Story,
    approved,
    cancel,
    not_approved,
    not_refunded,
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

FAILED, CANCELLED, COMPLETED = OrderStatus.FAILED, OrderStatus.CANCELLED, OrderStatus.COMPLETED
P = OrderStatus.PENDING


def test_answers_to_open_questions_lead_a_buy_to_its_end() -> None:
    """A buy checks, then reserves the cost at the quote, fills and settles: four versions."""
    story = Story(requested())
    assert story.asked == ["CheckAsset"]
    assert story.tell(approved()).asked == ["ReserveBalance"]
    assert story.tell(reserved()).asked == ["SettleBalance"]
    assert story.tell(settled()).asked == []
    assert story.ending == (COMPLETED, None)
    assert story.statuses == [P, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, COMPLETED]


@pytest.mark.parametrize("answers", [(approved(), reserved()), (reserved(), approved())], ids=["check", "reserve"])
def test_answers_to_open_questions_lead_a_sell_to_its_end(answers: tuple[Incoming, ...]) -> None:
    """A sell asks both participants side by side, and accepts their answers in either order."""
    story = Story(requested(Side.SELL))
    assert story.asked == ["CheckAsset", "ReserveBalance"]
    assert story.tell(*answers).asked == ["SettleBalance"]
    assert story.tell(settled()).statuses == [P, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, COMPLETED]


def test_the_fill_makes_two_versions_in_one_decision() -> None:
    """One decision publishes CONFIRMED, without a fill, and PROCESSING, with the fill."""
    story = Story(requested(), approved(), reserved())
    confirmed, processing = story.decision.events
    assert (confirmed.version, confirmed.status) == (2, OrderStatus.CONFIRMED)
    assert confirmed.order.filled_quantity == 0
    assert (processing.version, processing.status) == (3, OrderStatus.PROCESSING)
    assert processing.order.filled_quantity == story.saga.quantity
    assert story.decision.fill is not None


@pytest.mark.parametrize(
    ("told", "again"),
    [
        ((approved(),), approved()),
        ((approved(), reserved()), reserved()),
        ((approved(), reserved(), settled()), settled()),
        ((approved(), reserved(), not_settled()), not_settled()),
        ((not_approved(),), not_approved()),
        ((approved(), not_reserved()), not_reserved()),
        ((approved(), cancel(), refunded()), refunded()),
    ],
    ids=lambda told: type(told).__name__,
)
def test_the_same_reply_again_is_a_duplicate(told: tuple[Incoming, ...], again: Incoming) -> None:
    """A repeated reply is a duplicate, at once and also long after the order's end."""
    assert Story(requested(), *told, again).why is Why.DUPLICATE


def test_the_first_answer_to_a_check_counts() -> None:
    """A second answer to a check is a duplicate even if it differs, because the quote is read once."""
    story = Story(requested(), approved("50000"), approved("50100"))
    assert story.why is Why.DUPLICATE
    assert story.saga.progress.quote is not None
    assert story.saga.progress.quote.price == 50_000
    assert story.tell(not_approved()).why is Why.DUPLICATE
    assert Story(requested(), not_approved(), approved()).why is Why.DUPLICATE


@pytest.mark.parametrize("late", [reserved(), not_reserved()], ids=["reserved", "refused"])
@pytest.mark.parametrize("ended", [False, True], ids=["refunding", "terminal"])
def test_a_verdict_on_the_hold_after_it_was_given_up_is_late(
    late: BalanceReserved | BalanceRefused,
    ended: bool,  # noqa: FBT001 - both ways of one test
) -> None:
    """A verdict on a hold that was given up is late: the refund that was asked covers both orders of arrival."""
    story = Story(requested(), approved(), cancel())
    assert story.asked == ["RefundBalance"]
    if ended:
        story.tell(refunded())
    assert story.tell(late).why is Why.LATE
    ignored = story.told[-1]
    assert isinstance(ignored, Ignored)
    assert ignored.detail["hold_state"] is late.hold_state
    assert story.saga.phase is (Phase.CANCELLED if ended else Phase.REFUNDING)


OTHER_TERMS: Final[list[tuple[str, tuple[Incoming, ...], Reply]]] = [
    ("approved for another asset", (), approved(asset_id="ETH")),
    ("approved at a price in itself", (), approved(cash_asset_id="BTC")),
    ("refused for another asset", (), structs.replace(not_approved(), asset_id="ETH")),
    ("reserved less", (approved(),), structs.replace(reserved(), amount=Money("500.49"))),
    ("reserved more", (approved(),), structs.replace(reserved(), amount=Money("500.51"))),
    ("reserved of another asset", (approved(),), structs.replace(reserved(), asset_id="EUR")),
    ("reserved from another user", (approved(),), structs.replace(reserved(), user_id="bob")),
    ("reserved under another id", (approved(),), structs.replace(reserved(), hold_id="another:reserve")),
    ("refused under another id", (approved(),), structs.replace(not_reserved(), hold_id="another:reserve")),
    ("captured less", (approved(), reserved()), structs.replace(settled(), captured=Money("500.49"))),
    ("returned what was captured", (approved(), reserved()), structs.replace(settled(), returned=Money("0.01"))),
    ("settled for another user", (approved(), reserved()), structs.replace(settled(), user_id="bob")),
    ("refunded less", (approved(), cancel()), structs.replace(refunded(), refunded=Money("500.49"))),
    (
        "refunded what was never held",
        (approved(), cancel()),
        structs.replace(refunded(HoldState.TOMBSTONE), refunded=Money(1)),
    ),
    ("refunded another asset", (approved(), cancel()), structs.replace(refunded(), asset_id="EUR")),
]


@pytest.mark.parametrize(
    ("told", "reply"), [(told, reply) for _, told, reply in OTHER_TERMS], ids=[case[0] for case in OTHER_TERMS]
)
def test_an_answer_to_other_terms_than_were_asked_parks(told: tuple[Incoming, ...], reply: Reply) -> None:
    """A reply whose amount, asset, user or hold differs from the command's is no answer, and parks the order."""
    story = Story(requested(), *told, reply)
    assert story.saga.parked_reason is not None
    assert story.saga.parked_reason.startswith(f"HOLD_CONFLICT: {type(reply).__name__} ")
    assert "bob" not in story.saga.parked_reason, "the order's user reads its history"
    assert [entry.kind for entry in story.decision.entries][-2:] == ["answered", "parked"]
    assert story.decision.fill is None


@pytest.mark.parametrize("side", Side)
def test_a_reply_may_repeat_the_terms_of_the_hold(side: Side) -> None:
    """A reply that repeats the command's hold terms is accepted; services may leave these fields out."""
    asset_id = "USD" if side is Side.BUY else "BTC"
    replies = [structs.replace(each, user_id="alice", asset_id=asset_id) for each in (reserved(), settled())]
    assert Story(requested(side), approved(), *replies).ending == (COMPLETED, None)
    back = structs.replace(refunded(), user_id="alice", asset_id=asset_id)
    assert Story(requested(side), approved(), cancel(), back).ending == (CANCELLED, ReasonCode.USER_REQUESTED)


def test_a_late_success_after_a_cancel_is_refunded_and_never_vanishes() -> None:
    """Named test 3: a hold that is reported after a cancel is refunded before the order shows its end."""
    story = Story(requested(Side.SELL), cancel(), reserved())
    assert story.why is Why.LATE
    assert story.ending == (P, None)
    assert story.tell(refunded()).ending == (CANCELLED, ReasonCode.USER_REQUESTED)


def test_a_late_answer_to_a_check_changes_nothing() -> None:
    """A buy that was cancelled during its check holds nothing and has ended, so a late answer changes nothing."""
    story = Story(requested(), cancel(), approved())
    assert story.why is Why.LATE
    assert story.saga.progress.quote is None


def test_a_refused_settlement_busts_the_fill() -> None:
    """The fill's row stays, marked as busted; the order shows no fill; nothing is asked, since the refusal refunds."""
    story = Story(requested(), approved(), reserved(), not_settled())
    assert story.ending == (FAILED, ReasonCode.EXECUTION_FAILED)
    assert story.asked == []
    fill = story.decision.fill
    assert fill is not None
    assert fill.busted
    (event,) = story.decision.events
    assert (event.order.filled_quantity, event.order.average_price, event.order.fee) == (Money(0), None, Money(0))
    assert story.saga.reason == "the capture exceeds the hold"


@pytest.mark.parametrize("state", [HoldState.TOMBSTONE, HoldState.REFUSED, HoldState.REFUNDED])
def test_a_settlement_is_refused_only_with_a_proof(state: HoldState) -> None:
    """A settlement counts as refused when the reported hold state proves that nothing is held."""
    story = Story(requested(), approved(), reserved(), not_settled(BalanceRefusal.NOT_HELD, state))
    assert story.ending == (FAILED, ReasonCode.EXECUTION_FAILED)


IMPOSSIBLE: Final[list[tuple[str, tuple[Incoming, ...], BalanceReply]]] = [
    ("refund refused because settled", (approved(), cancel()), not_refunded()),
    ("refund refused, whatever the hold", (approved(), cancel()), not_refunded(state=HoldState.REFUNDED)),
    ("reserved, the hold being no more", (approved(),), reserved(HoldState.TOMBSTONE)),
    ("reserved, the hold being settled", (approved(),), reserved(HoldState.SETTLED)),
    ("refused, yet held", (approved(),), not_reserved(state=HoldState.HELD)),
    ("refused, because it was closed before it was asked", (approved(),), not_reserved(state=HoldState.TOMBSTONE)),
    ("settled, yet held", (approved(), reserved()), settled(HoldState.HELD)),
    ("not settled, yet held", (approved(), reserved()), not_settled(state=HoldState.HELD)),
    ("not settled, yet settled", (approved(), reserved()), not_settled(state=HoldState.SETTLED)),
    ("refunded, yet held", (approved(), cancel()), refunded(HoldState.HELD)),
    ("refunded, yet settled", (approved(), cancel()), refunded(HoldState.SETTLED)),
]


@pytest.mark.parametrize(("told", "lie"), [row[1:] for row in IMPOSSIBLE], ids=[row[0] for row in IMPOSSIBLE])
def test_an_impossible_reply_parks_the_order(told: tuple[Incoming, ...], lie: BalanceReply) -> None:
    """An impossible reply is recorded in full, changes nothing else, and parks the order for an operator."""
    story = Story(requested(), *told)
    phase, open_before = story.saga.phase, story.saga.progress.open()
    story.tell(lie)
    assert story.saga.phase is phase
    assert story.saga.progress.open() == open_before, "the question stays open"
    assert story.saga.parked_reason is not None
    assert type(lie).__name__ in story.saga.parked_reason
    assert [entry.kind for entry in story.decision.entries] == ["answered", "parked"]
    assert story.decision.entries[0].detail["hold_state"] == lie.hold_state


@pytest.mark.parametrize("state", [HoldState.REFUSED, HoldState.TOMBSTONE])
@pytest.mark.parametrize("ended", [False, True], ids=["at once", "after the end"])
def test_reserved_after_a_state_that_excludes_it_parks_even_an_ended_order(state: HoldState, ended: bool) -> None:  # noqa: FBT001
    """A report of a hold that was proven never to exist parks the order, even an ended one, to alert an operator."""
    story = Story(requested(), approved(), cancel(), refunded(state))
    if ended:
        story.wait(3600)
    story.tell(reserved())
    assert story.ending == (CANCELLED, ReasonCode.USER_REQUESTED)
    assert story.saga.parked_reason == f"BalanceReserved with a hold that is HELD, although it was {state} before"
    assert story.tell(resume()).saga.parked_reason is None
    assert story.saga.due_at is None


def test_reserved_again_after_the_refund_is_no_contradiction() -> None:
    """Reserved after the refund is only a slow reply: the hold existed and was refunded since."""
    assert Story(requested(), approved(), cancel(), refunded(), reserved()).why is Why.LATE


CONFLICTS: Final[dict[str, tuple[tuple[Incoming, ...], BalanceReply]]] = {
    "reserve": ((approved(),), not_reserved(BalanceRefusal.HOLD_CONFLICT, HoldState.REFUSED)),
    "settle": ((approved(), reserved()), not_settled(BalanceRefusal.HOLD_CONFLICT, HoldState.REFUNDED)),
    "refund": ((approved(), cancel()), not_refunded(BalanceRefusal.HOLD_CONFLICT, HoldState.HELD)),
}


@pytest.mark.parametrize("step", CONFLICTS)
def test_a_hold_conflict_parks_the_order(step: str) -> None:
    """Other terms under a known hold id park the order, whatever the hold's state, and no answer is accepted."""
    told, conflict = CONFLICTS[step]
    story = Story(requested(), *told, conflict)
    assert story.saga.parked_reason is not None
    assert "HOLD_CONFLICT" in story.saga.parked_reason
    assert story.question(Step(step)).answer is Answer.OPEN


@pytest.mark.parametrize("reply", one_of_each(), ids=lambda reply: type(reply).__name__)
def test_a_reply_to_a_question_that_was_never_asked_is_unknown(reply: Reply) -> None:
    """A reply is unknown to an order that only a cancel created, and when it names another command."""
    assert Story(cancel(), reply).why is Why.UNKNOWN
    other = lies(Side.BUY)[f"{type(reply).__name__} to another command"]
    assert Story(requested(), approved(), reserved(), other).why is Why.UNKNOWN


@pytest.mark.parametrize("reply", one_of_each(), ids=lambda reply: type(reply).__name__)
def test_a_reply_for_an_unknown_order_is_unknown(reply: Incoming) -> None:
    """A reply for an order without a saga creates nothing; the worker stores its record as a dead letter."""
    folded = fold({}, [reply], NOW)
    assert folded.unknown == [reply]
    assert (folded.sagas, folded.history, folded.asks, folded.events) == ({}, {}, [], [])


def test_an_asset_refusal_does_not_wait() -> None:
    """An asset refusal refunds a sell at once, without the balance service's answer, because a hold may exist."""
    story = Story(requested(Side.SELL), not_approved())
    assert story.asked == ["RefundBalance"]
    assert story.tell(refunded(HoldState.TOMBSTONE)).ending == (FAILED, ReasonCode.ASSET_NOT_TRADABLE)


def test_a_balance_refusal_waits_for_the_check() -> None:
    """A balance refusal waits for the check; if both refuse, the asset's reason counts, in either order of arrival."""
    waiting = Story(requested(Side.SELL), not_reserved())
    assert waiting.saga.phase is Phase.VALIDATING
    assert waiting.asked == []
    assert waiting.tell(not_approved(AssetRefusal.INVALID_STEP)).ending == (FAILED, ReasonCode.INVALID_STEP)


def test_a_balance_refusal_that_waited_is_the_reason_when_the_check_says_yes() -> None:
    """If only the balance service refuses, its reason counts, and nothing is refunded because nothing is held."""
    story = Story(requested(Side.SELL), not_reserved(), approved())
    assert story.ending == (FAILED, ReasonCode.INSUFFICIENT_BALANCE)
    assert story.asked == []
    assert story.saga.reason == "500.50 USD needed, 5 available"


def test_a_buy_that_the_check_refuses_goes_straight_to_its_end() -> None:
    """A phase without a question to ask is passed in the same decision."""
    story = Story(requested(), not_approved(AssetRefusal.ASSET_NOT_FOUND))
    assert story.statuses == [P, FAILED]
    assert story.saga.reason_code is ReasonCode.ASSET_NOT_FOUND
    assert len(story.decision.events) == 1


@pytest.mark.parametrize("code", AssetRefusal)
def test_every_asset_refusal_is_a_reason_of_its_own(code: AssetRefusal) -> None:
    """Each refusal code of the asset service is the order's reason code."""
    assert Story(requested(), not_approved(code)).ending == (FAILED, code)


@pytest.mark.parametrize(
    ("code", "reason_code"),
    [
        (BalanceRefusal.ACCOUNT_NOT_FOUND, ReasonCode.ACCOUNT_NOT_FOUND),
        (BalanceRefusal.INSUFFICIENT_BALANCE, ReasonCode.INSUFFICIENT_BALANCE),
        (BalanceRefusal.CLOSED, ReasonCode.EXECUTION_FAILED),
    ],
)
def test_a_balance_refusal_is_its_own_reason_or_an_execution_that_failed(
    code: BalanceRefusal, reason_code: ReasonCode
) -> None:
    """A code that only the two services share is shown to users as EXECUTION_FAILED."""
    assert Story(requested(), approved(), not_reserved(code)).ending == (FAILED, reason_code)


def test_replies_to_a_parked_order_are_recorded_and_dropped() -> None:
    """A parked order records replies in full and ignores them; after `resume` participants repeat their verdicts."""
    story = Story(requested(), approved(), park(), reserved())
    dropped = story.told[-1]
    assert isinstance(dropped, Ignored)
    assert (dropped.why, dropped.detail["hold_state"]) == (Why.PARKED, HoldState.HELD)
    assert story.question(Step.RESERVE).answer is Answer.OPEN
    story.tell(resume(), timer())
    assert story.asked == ["ReserveBalance"]
    assert isinstance(story.tell(reserved()).told[-1], Decision)
    assert story.saga.phase is Phase.SETTLING
