"""Amends of a resting order: what is refused and why, what is asked, and when new terms and their money count."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec import structs

from contracts.amends import AMEND_REFUSALS, AmendRefusal, AmendState
from contracts.assets import AssetRefusal, CheckAsset, Purpose
from contracts.balance import AdjustBalance, BalanceRefusal, RefundBalance, SettleBalance
from contracts.codec import decoder, encode
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import HoldState, OrderStatus, OrderType, ReasonCode, TimeInForce
from order_saga.core.phases import AMENDS_MAX
from order_saga.core.saga import Answer, Participant, Phase, Progress, Requested, Step, Why
from tests.order_saga.core.sample import (
    NOW,
    OPERATOR,
    OTHER_USER,
    Story,
    adjusted,
    amend,
    approved,
    cancel,
    conditional,
    expiry_due,
    fired,
    not_adjusted,
    not_rechecked,
    park,
    rechecked,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
    triggered,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from order_saga.core.saga import Incoming

PENDING, APPLIED, REFUSED = AmendState.PENDING, AmendState.APPLIED, AmendState.REFUSED
GTC, GTD, IOC = TimeInForce.GTC, TimeInForce.GTD, TimeInForce.IOC
LIMIT_BUY: Final = conditional(OrderType.LIMIT_BUY, limit_price="49000")
LIMIT_SELL: Final = conditional(OrderType.LIMIT_SELL, limit_price="51000")
STOP_SELL: Final = conditional(OrderType.STOP_LOSS_SELL, trigger_price="48000")
STOP_LIMIT: Final = conditional(OrderType.STOP_LOSS_BUY, trigger_price="51000", limit_price="51200")
STOP_BUY: Final = conditional(OrderType.STOP_LOSS_BUY, trigger_price="51000")
TRAIL_SELL: Final = conditional(OrderType.TRAILING_STOP_SELL, trail_amount="500")
TRAIL_BUY: Final = conditional(OrderType.TRAILING_STOP_BUY, trail_amount="500")
SOON: Final = NOW + timedelta(hours=1)
UNTIL: Final = conditional(OrderType.LIMIT_BUY, limit_price="49000", time_in_force=GTD, expires_at=SOON)
MORE: Final = amend(limit_price="49500")
LESS: Final = amend(quantity="0.005")


def resting(request: Requested = LIMIT_BUY) -> Story:
    """Let an order rest at a quote of 50,000 and sequence 7."""
    story = Story(request, approved(), reserved())
    assert story.saga.phase is Phase.WORKING
    return story


def amending(change: Any = MORE, request: Requested = LIMIT_BUY) -> Story:
    """Let an order ask about an amend."""
    return resting(request).tell(change)


def raising(request: Requested = LIMIT_BUY) -> Story:
    """Let an order ask for more money: 495.50 USD instead of 490.49."""
    return amending(request=request).tell(rechecked())


def lowering() -> Story:
    """Let an order give money back: it needs 245.25 USD of its 490.49."""
    return amending(LESS).tell(rechecked())


IN_DOUBT: Final[dict[Phase, Callable[[], Story]]] = {
    Phase.AMENDING: amending,
    Phase.RAISING: raising,
    Phase.LOWERING: lowering,
}


# From the question to the new terms -----------------------------------------------------------------------------------


def test_the_asset_service_is_asked_about_the_new_terms() -> None:
    """As purpose AMEND, under an id of its own, with every term as it would be; the amend is shown as PENDING."""
    story = amending()
    assert story.verdict == ("first", PENDING, None)
    [check] = story.commands
    assert isinstance(check, CheckAsset)
    assert (check.command_id, check.purpose) == (f"{story.saga.order_id}:check.1", Purpose.AMEND)
    assert (check.limit_price, check.quantity) == (Price(49_500), Quantity("0.01"))
    assert (story.saga.phase, story.shown.limit_price, story.shown.revision) == (Phase.AMENDING, Price(49_000), 1)
    assert story.wait(2).tell(timer()).commands == [check], "a repetition is the very same"


def test_more_money_is_held_before_the_new_terms_count() -> None:
    """RAISING asks for the new whole; the old terms are in force until that is held."""
    story = raising()
    [raise_] = story.commands
    assert isinstance(raise_, AdjustBalance)
    assert (raise_.command_id, raise_.revision) == (f"{story.saga.order_id}:adjust.1", 1)
    assert raise_.amount == Money("495.50")
    assert (story.shown.limit_price, story.shown.held_amount) == (Price(49_000), Money("490.49"))
    assert story.wait(2).tell(timer()).commands == [raise_]
    story.tell(adjusted())
    assert story.verdict == ("first", APPLIED, None)
    assert (story.shown.limit_price, story.shown.held_amount) == (Price(49_500), Money("495.50"))
    assert (story.shown.revision, story.saga.phase, story.asked) == (2, Phase.WORKING, [])


def test_less_money_is_held_after_the_new_terms_count() -> None:
    """The terms are in force with the approval; LOWERING gives the rest back, and that is a version."""
    story = lowering()
    assert story.verdict == ("first", APPLIED, None)
    assert (story.saga.phase, story.shown.quantity) == (Phase.LOWERING, Quantity("0.005"))
    assert story.shown.held_amount == Money("490.49")
    [lower] = story.commands
    assert isinstance(lower, AdjustBalance)
    assert (lower.amount, lower.revision) == (Money("245.25"), 1)
    story.tell(adjusted())
    assert (story.saga.phase, story.shown.held_amount) == (Phase.WORKING, Money("245.25"))
    [event] = story.decision.events
    assert event.order == story.shown, "who reads only events learns what is held"


def test_terms_that_need_as_much_are_in_force_at_once() -> None:
    """A sell holds what it sells, whatever its limit."""
    story = amending(amend(limit_price="52000"), LIMIT_SELL).tell(rechecked())
    assert (story.saga.phase, story.asked, story.verdict) == (Phase.WORKING, [], ("first", APPLIED, None))


def test_an_amended_order_goes_by_the_rules_that_approved_it() -> None:
    """Its fee rate is the new one, so more may be needed for the same limit."""
    story = amending(amend(quantity="0.01")).tell(rechecked(fee_bps=20))
    [raise_] = story.commands
    assert isinstance(raise_, AdjustBalance)
    assert raise_.amount == Money("490.98")
    story.tell(adjusted(), fired("49000"))
    assert story.saga.fee == Money("0.98")


@pytest.mark.parametrize(
    ("request_", "changes", "field", "value"),
    [
        (LIMIT_BUY, {"limit_price": "48000"}, "limit_price", Price(48_000)),
        (STOP_SELL, {"trigger_price": "47000"}, "trigger_price", Price(47_000)),
        (TRAIL_SELL, {"trail_amount": "600"}, "trail_amount", Price(600)),
        (STOP_BUY, {"slippage_bps": 50}, "slippage_bps", 50),
        (LIMIT_BUY, {"quantity": "0.004"}, "quantity", Quantity("0.004")),
    ],
)
def test_every_term_can_be_changed(request_: Requested, changes: dict[str, Any], field: str, value: object) -> None:
    """It is asked about and then shown; the order stays the same order."""
    story = amending(amend(**changes), request_).tell(rechecked())
    assert getattr(story.shown, field) == value
    assert (story.shown.revision, story.verdict) == (2, ("first", APPLIED, None))


@pytest.mark.parametrize(
    ("request_", "changes", "force", "expires_at"),
    [
        (LIMIT_BUY, {"time_in_force": GTD, "expires_at": SOON}, GTD, SOON),
        (UNTIL, {"expires_at": SOON + timedelta(days=1)}, GTD, SOON + timedelta(days=1)),
        (UNTIL, {"time_in_force": GTC}, GTC, None),
    ],
)
def test_a_change_of_the_time_is_in_force_at_once(
    request_: Requested, changes: dict[str, Any], force: TimeInForce, expires_at: object
) -> None:
    """Nobody is asked, it is one version, and the order keeps its place."""
    story = resting(request_).trade("49500", 30)
    rest = story.saga.progress.rest
    story.tell(amend(**changes))
    assert (story.asked, len(story.decision.events), story.verdict) == ([], 1, ("first", APPLIED, None))
    assert (story.shown.time_in_force, story.shown.expires_at) == (force, expires_at)
    assert (story.saga.progress.rest, story.saga.phase) == (rest, Phase.WORKING)


def test_an_amended_order_fills_with_its_new_terms() -> None:
    """The settlement names the confirmed revision and amount."""
    story = raising().tell(adjusted(), fired("49400"))
    [settle] = story.commands
    assert isinstance(settle, SettleBalance)
    assert (settle.amount, settle.revision, settle.capture) == (Money("495.50"), 1, Money("494.50"))
    assert story.tell(settled()).saga.status is OrderStatus.COMPLETED


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "changes", "code", "reason"),
    [
        (LIMIT_BUY, {}, "INVALID_ORDER", "nothing is to be changed"),
        (LIMIT_BUY, {"trigger_price": "51000"}, "NOT_AMENDABLE", "trigger_price: the order has none"),
        (STOP_SELL, {"limit_price": "47000"}, "NOT_AMENDABLE", "limit_price: the order has none"),
        (TRAIL_SELL, {"trail_bps": 100}, "NOT_AMENDABLE", "trail_bps: the order has none"),
        (LIMIT_BUY, {"time_in_force": IOC}, "NOT_AMENDABLE", "time_in_force: a resting order can't become IOC"),
        (LIMIT_BUY, {"slippage_bps": 5}, "INVALID_ORDER", "slippage_bps: "),
        (LIMIT_BUY, {"expires_at": SOON}, "INVALID_ORDER", "expires_at: "),
        (LIMIT_BUY, {"time_in_force": GTD}, "INVALID_ORDER", "expires_at: "),
        (UNTIL, {"expires_at": NOW}, "EXPIRED", "expires_at 2026-03-01T12:00:00+00:00 has come"),
        (UNTIL, {"expires_at": NOW + timedelta(days=31)}, "INVALID_ORDER", "expires_at: must be within 30 days"),
        (
            LIMIT_BUY,
            {"limit_price": "1", "expected_versions": (7,)},
            "VERSION_MISMATCH",
            "the order's version is 2, not 7",
        ),
        (
            LIMIT_BUY,
            {"limit_price": "1", "expected_versions": (1, 7)},
            "VERSION_MISMATCH",
            "the order's version is 2, none",
        ),
    ],
)
def test_what_can_not_be_changed_is_refused_at_once(
    request_: Requested, changes: dict[str, Any], code: str, reason: str
) -> None:
    """One version says why; nobody is asked, and nothing changes."""
    story = amending(amend(**changes), request_)
    assert (story.asked, story.saga.phase, story.shown.revision) == ([], Phase.WORKING, 1)
    assert story.verdict == ("first", REFUSED, AmendRefusal(code))
    assert story.shown.amend is not None
    assert story.shown.amend.reason is not None
    assert story.shown.amend.reason.startswith(reason)
    assert len(story.decision.events) == 1


@pytest.mark.parametrize("versions", [(2,), (1, 2), (2, 3)])
def test_an_amend_may_expect_the_version_that_the_order_has(versions: tuple[int, ...]) -> None:
    """Then it is asked about; of several any one will do."""
    assert amending(amend(limit_price="49500", expected_versions=versions)).saga.phase is Phase.AMENDING


@pytest.mark.parametrize("code", AssetRefusal)
def test_every_refusal_of_the_asset_service_is_one_of_the_amend(code: AssetRefusal) -> None:
    """Its reason is shown by the same name; the order rests on by its old terms."""
    story = amending().tell(not_rechecked(code))
    assert story.verdict == ("first", REFUSED, AmendRefusal(code))
    assert AmendRefusal(code) in AMEND_REFUSALS
    assert (story.saga.phase, story.shown.limit_price, story.asked) == (Phase.WORKING, Price(49_000), [])


@pytest.mark.parametrize("code", [BalanceRefusal.INSUFFICIENT_BALANCE, BalanceRefusal.NOT_SUPPORTED])
def test_a_refused_raise_refuses_the_amend(code: BalanceRefusal) -> None:
    """The hold is what it was, and so are the terms."""
    story = raising().tell(not_adjusted(code))
    assert story.verdict == ("first", REFUSED, AmendRefusal(code))
    assert (story.saga.phase, story.shown.held_amount, story.asked) == (Phase.WORKING, Money("490.49"), [])


def test_a_stop_is_not_amended_into_its_own_trigger() -> None:
    """The market is asked when the terms would be put in force, by the mark or the newer quote of the approval."""
    change = amend(trigger_price="49500")
    story = amending(change, STOP_SELL).trade("49400").tell(rechecked())
    assert story.verdict == ("first", REFUSED, AmendRefusal.WOULD_TRIGGER_IMMEDIATELY)
    by_quote = amending(change, STOP_SELL).trade("50000", 6).tell(rechecked(price="49400"))
    assert by_quote.verdict == ("first", REFUSED, AmendRefusal.WOULD_TRIGGER_IMMEDIATELY)
    assert amending(change, STOP_SELL).trade("49500.01").tell(rechecked()).verdict[1] is APPLIED


def test_money_that_was_raised_for_refused_terms_goes_back() -> None:
    """The market moved into the new trigger while more was held: the raise is undone."""
    story = amending(amend(trigger_price="49500", quantity="0.02"), STOP_SELL).trade("50000").tell(rechecked())
    story.trade("49400", 20).tell(adjusted())
    assert story.verdict == ("first", REFUSED, AmendRefusal.WOULD_TRIGGER_IMMEDIATELY)
    [lower] = story.commands
    assert isinstance(lower, AdjustBalance)
    assert (lower.revision, lower.amount) == (2, Money("0.01"))
    story.tell(adjusted(2))
    assert (story.saga.phase, story.shown.held_amount) == (Phase.WORKING, Money("0.01"))


@pytest.mark.parametrize("story", [amending, raising], ids=["check", "raise"])
def test_a_second_amend_is_refused_while_one_is_open_and_the_first_is_shown_when_it_ends(story: Any) -> None:
    """AMEND_IN_PROGRESS is a version; then the first one goes on."""
    told = story().tell(amend("second", quantity="0.001"))
    assert told.verdict == ("second", REFUSED, AmendRefusal.AMEND_IN_PROGRESS)
    told.tell(rechecked(), adjusted())
    assert told.verdict == ("first", APPLIED, None)
    assert told.tell(amend("second", quantity="0.001")).why is Why.DUPLICATE


def test_no_amend_is_asked_about_while_money_goes_back() -> None:
    """Or while an order waits for an operator."""
    assert lowering().tell(amend("second", quantity="0.001")).verdict[2] is AmendRefusal.AMEND_IN_PROGRESS
    assert resting().tell(park(), MORE).verdict[2] is AmendRefusal.NOT_AMENDABLE


def test_a_repeated_amend_is_a_duplicate_also_after_later_ones() -> None:
    """Whatever it says by then, and whatever became of it."""
    story = lowering().tell(adjusted(), LESS)
    assert story.why is Why.DUPLICATE
    story.tell(amend("second", limit_price="48000"), rechecked(2), adjusted(2), LESS)
    assert (story.why, story.shown.revision) == (Why.DUPLICATE, 3)


def test_an_order_is_amended_a_hundred_times() -> None:
    """The next is refused where everybody sees it, and whatever comes then is only noted."""
    story = resting()
    for number in range(AMENDS_MAX):
        story.tell(amend(f"amend-{number}", time_in_force=GTC))
    assert story.shown.revision == 101
    story.tell(amend("one more", time_in_force=GTC))
    assert story.verdict == ("one more", REFUSED, AmendRefusal.TOO_MANY_AMENDS)
    assert story.tell(amend("and more", time_in_force=GTC)).why is Why.TOO_MANY
    assert story.tell(amend("amend-7", time_in_force=GTC)).why is Why.DUPLICATE


def test_who_may_amend_and_when() -> None:
    """The user or an operator, while the order rests; others, and what is out of time, are only noted."""
    assert resting().tell(amend(by=OTHER_USER, quantity="0.1")).why is Why.NOT_ALLOWED
    assert resting().tell(amend(by=OTHER_USER, user=OTHER_USER, quantity="0.1")).why is Why.NOT_ALLOWED
    assert resting().tell(amend(by=OPERATOR, limit_price="1")).saga.phase is Phase.AMENDING
    assert Story(LIMIT_BUY, MORE).why is Why.TOO_EARLY
    assert Story(LIMIT_BUY, approved(), MORE).why is Why.TOO_EARLY
    assert resting().tell(fired("48900"), MORE).why is Why.TOO_LATE
    assert resting().tell(cancel(), MORE).why is Why.TOO_LATE
    assert resting().tell(park(), fired("48900"), MORE).why is Why.TOO_LATE
    assert resting().tell(park(), cancel(), MORE).why is Why.TOO_LATE
    assert Story(requested(), approved(), reserved(), MORE).why is Why.TOO_LATE


def test_an_order_whose_time_has_come_is_not_amended() -> None:
    """It only waits to be ended: no amend of its time keeps it, at once or when an approval comes."""
    late = resting(UNTIL).wait(3_600).tell(amend(expires_at=SOON + timedelta(days=1)))
    assert late.verdict == ("first", REFUSED, AmendRefusal.TOO_LATE)
    change = amend(expires_at=SOON + timedelta(days=1), limit_price="48000")
    story = resting(UNTIL).wait(3_590).tell(change).wait(10).tell(rechecked())
    assert story.verdict == ("first", REFUSED, AmendRefusal.TOO_LATE)
    assert story.tell(expiry_due(), refunded()).ending == (OrderStatus.CANCELLED, ReasonCode.EXPIRED)


def test_a_trigger_that_was_met_is_not_changed() -> None:
    """Neither afterwards nor while its change is being asked about."""
    change = amend(trigger_price="51100")
    assert resting(STOP_LIMIT).tell(triggered("51300"), change).verdict[2] is AmendRefusal.NOT_AMENDABLE
    meanwhile = resting(STOP_LIMIT).tell(change, triggered("51300"), rechecked())
    assert meanwhile.verdict == ("first", REFUSED, AmendRefusal.NOT_AMENDABLE)
    assert meanwhile.shown.trigger_price == Price(51_000)


# Silence, pauses, parking ---------------------------------------------------------------------------------------------


def test_a_check_that_nobody_answers_refuses_the_amend() -> None:
    """After the patience of the table; a late answer changes nothing, and neither does one that comes first then."""
    story = amending().wait(30).tell(timer())
    assert (story.verdict, story.saga.phase) == (("first", REFUSED, AmendRefusal.TIMED_OUT), Phase.WORKING)
    assert story.tell(rechecked()).why is Why.LATE
    overtaken = amending().wait(30).tell(rechecked())
    assert (overtaken.verdict[2], overtaken.saga.phase) == (AmendRefusal.TIMED_OUT, Phase.WORKING)


def test_a_raise_that_nobody_answers_is_undone() -> None:
    """The next revision asks for the old amount: it undoes the raise, or keeps it from ever counting."""
    story = raising().wait(30).tell(timer())
    assert (story.verdict, story.saga.phase) == (("first", REFUSED, AmendRefusal.TIMED_OUT), Phase.LOWERING)
    [undo] = story.commands
    assert isinstance(undo, AdjustBalance)
    assert (undo.command_id, undo.revision, undo.amount) == (f"{undo.order_id}:adjust.2", 2, Money("490.49"))
    assert story.tell(adjusted(1)).why is Why.LATE
    assert story.tell(not_adjusted(number=1)).why is Why.LATE
    story.tell(adjusted(2))
    assert (story.saga.phase, story.shown.held_amount) == (Phase.WORKING, Money("490.49"))
    assert story.tell(adjusted(2)).why is Why.DUPLICATE


def test_a_lowering_is_asked_for_ever_and_pages_somebody() -> None:
    """After five minutes; what it pages for ends with the rest, so that a settlement can page anew."""
    story = lowering().wait(301).tell(timer())
    assert (story.asked, story.saga.overdue_since) == (["AdjustBalance"], story.now)
    story.tell(fired("48900"))
    assert story.saga.overdue_since is None


def test_what_can_not_be_lowered_stays_larger() -> None:
    """NOT_SUPPORTED is a yes to less; the settlement returns the rest in the end, and names the hold as it was."""
    story = lowering().tell(not_adjusted(BalanceRefusal.NOT_SUPPORTED))
    assert (story.saga.phase, story.shown.held_amount) == (Phase.WORKING, Money("490.49"))
    story.tell(fired("48000"))
    [settle] = story.commands
    assert isinstance(settle, SettleBalance)
    assert (settle.amount, settle.revision, settle.capture) == (Money("490.49"), 0, Money("240.24"))


def test_money_that_may_have_gone_back_is_not_counted_on() -> None:
    """After a lowering that one instance may have made and another did not know, more is held first again."""
    story = lowering().tell(not_adjusted(BalanceRefusal.NOT_SUPPORTED), amend("second", quantity="0.008"))
    story.tell(rechecked(2))
    assert story.saga.phase is Phase.RAISING
    story.tell(not_adjusted(number=2))
    assert story.saga.progress.unconfirmed == (Money("245.25"),), (
        "a refusal proves only that its own amount is not held"
    )


@pytest.mark.parametrize("story", [raising, lowering], ids=["raise", "lower"])
@pytest.mark.parametrize(
    "lie",
    [
        not_adjusted(BalanceRefusal.HOLD_CONFLICT),
        not_adjusted(BalanceRefusal.SUPERSEDED),
        not_adjusted(BalanceRefusal.CLOSED, state=HoldState.REFUNDED),
        not_adjusted(BalanceRefusal.NOT_HELD, state=HoldState.TOMBSTONE),
        not_adjusted(BalanceRefusal.NOT_SUPPORTED, state=HoldState.SETTLED),
        structs.replace(not_adjusted(), revision=2),
        adjusted(state=HoldState.REFUNDED),
        structs.replace(adjusted(), amount=Money(1)),
        structs.replace(adjusted(), revision=2),
        structs.replace(adjusted(), user_id="bob"),
        structs.replace(adjusted(), asset_id="EUR"),
        structs.replace(adjusted(), hold_id="another:reserve"),
    ],
    ids=[
        "conflict",
        "superseded",
        "refunded",
        "never held",
        "settled",
        "refused by another revision",
        "made, yet refunded",
        "another amount",
        "another revision",
        "another user",
        "another asset",
        "another hold",
    ],
)
def test_an_impossible_answer_to_an_adjustment_parks(story: Any, lie: Any) -> None:
    """It is recorded, the question stays open, and a person looks at it."""
    told = story()
    phase = told.saga.phase
    told.tell(lie)
    assert (told.saga.parked_reason is not None, told.saga.phase, told.kinds) == (True, phase, ["answered", "parked"])
    assert told.saga.progress.open()


def test_a_refused_lowering_parks() -> None:
    """Nothing but NOT_SUPPORTED can be a no to less."""
    assert lowering().tell(not_adjusted(BalanceRefusal.INSUFFICIENT_BALANCE)).saga.parked_reason is not None


@pytest.mark.parametrize("phase", IN_DOUBT)
def test_a_parked_order_that_is_resumed_asks_again_and_rests_anew(phase: Phase) -> None:
    """The very same command; what the market was meanwhile does not count."""
    story = IN_DOUBT[phase]()
    commands = story.commands
    story.tell(park()).trade("50000", 40).wait(60).tell(resume(), timer())
    assert (story.commands, story.saga.phase) == (commands, phase)
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 40


@pytest.mark.parametrize("phase", IN_DOUBT)
def test_a_parked_order_that_the_market_meets_is_filled_when_it_is_resumed(phase: Phase) -> None:
    """By the terms in force; its amend is too late then."""
    story = IN_DOUBT[phase]().tell(park()).trade("48000", 40).tell(resume())
    assert (story.asked, story.saga.average_price) == (["SettleBalance"], Price(48_000))
    assert story.verdict[2] is (None if phase is Phase.LOWERING else AmendRefusal.TOO_LATE)


@pytest.mark.parametrize("phase", IN_DOUBT)
def test_a_pause_holds_the_questions_of_an_amend_back(phase: Phase) -> None:
    """Nothing times out against it, and a tick fires the order all the same."""
    story = IN_DOUBT[phase]().pause(Participant.BALANCE).wait(3_600).tell(timer())
    assert (story.asked, story.saga.phase, story.saga.progress.open()[0].held_back) == ([], phase, True)
    fills = story.tell(fired("48900"))
    assert fills.saga.status is OrderStatus.PROCESSING


def test_a_second_amend_is_not_asked_about_in_a_pause() -> None:
    """That the asset service has answered the first says nothing about the second."""
    story = amending().tell(not_rechecked()).pause(Participant.ASSETS).tell(amend("second", limit_price="49600"))
    assert (story.asked, story.question(Step.RECHECK).held_back) == ([], True)
    story.pause().wait(60).tell(timer())
    assert [command.command_id for command in story.commands] == [f"{story.saga.order_id}:check.2"]


@pytest.mark.parametrize("phase", IN_DOUBT)
def test_a_silent_participant_is_left_to_others_to_probe(phase: Phase) -> None:
    """The question is postponed, not asked; a probe asks it."""
    story = IN_DOUBT[phase]().make_silent(*Participant).wait(2).tell(timer())
    assert story.asked == []
    story.wait_until_due()
    assert len(story.tell(timer(probe=True)).asked) == 1


# Who wins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", IN_DOUBT)
@pytest.mark.parametrize("end", ["fired", "cancelled", "expired"])
def test_what_ends_the_rest_comes_before_an_open_amend(phase: Phase, end: str) -> None:
    """In that version the amend is TOO_LATE, its questions are abandoned, and the old terms and hold count."""
    story = resting(UNTIL).tell(LESS if phase is Phase.LOWERING else MORE)
    story.tell(*(() if phase is Phase.AMENDING else (rechecked(),)))
    assert story.saga.phase is phase
    terms = story.saga.terms
    if end == "expired":
        story.wait(3_600)
    ends: dict[str, Incoming] = {"fired": fired("48900"), "cancelled": cancel(), "expired": expiry_due()}
    story.tell(ends[end])
    is_open = phase is not Phase.LOWERING
    assert story.verdict == ("first", REFUSED if is_open else APPLIED, AmendRefusal.TOO_LATE if is_open else None)
    if is_open or end != "expired":
        [event] = story.decision.events
        assert event.order.amend == story.shown.amend
    assert story.saga.terms == terms
    [command] = story.commands
    assert isinstance(command, SettleBalance if end == "fired" else RefundBalance)
    assert (command.amount, command.revision) == (Money("490.49"), 0), "the last that was confirmed"
    asked = {Phase.AMENDING: Step.RECHECK, Phase.RAISING: Step.RAISE, Phase.LOWERING: Step.LOWER}[phase]
    assert story.question(asked).answer is Answer.ABANDONED
    late = rechecked() if phase is Phase.AMENDING else adjusted()
    assert story.tell(late).why is Why.LATE


def test_a_fire_that_can_not_be_filled_shows_that_the_amend_is_too_late() -> None:
    """It makes no other version, and a PENDING amend that never ends would be a lie."""
    story = amending(amend(trigger_price="51500"), STOP_BUY).tell(fired("60000"))
    assert (story.asked, len(story.decision.events)) == (["RefundBalance"], 1)
    assert story.verdict == ("first", REFUSED, AmendRefusal.TOO_LATE)


@pytest.mark.parametrize(("amount", "believed"), [("490.49", True), ("495.50", True), ("245.25", False)])
def test_while_a_raise_is_in_doubt_a_refund_may_tell_either_amount(amount: str, believed: bool) -> None:  # noqa: FBT001
    """The confirmed one or the one that was asked for; nothing else."""
    story = raising().tell(cancel(), structs.replace(refunded(), refunded=Money(amount)))
    assert (story.saga.parked_reason is None) == believed
    assert (story.saga.status is OrderStatus.CANCELLED) == believed


@pytest.mark.parametrize(("returned", "believed"), [("245.36", True), ("0.12", True), ("0", False), ("245.25", False)])
def test_while_a_lowering_is_in_doubt_a_settlement_may_return_of_either_amount(returned: str, believed: bool) -> None:  # noqa: FBT001
    """Of the confirmed hold, or of the lower one that was asked for; the capture is the same."""
    story = lowering().tell(fired("48976"))
    answer = structs.replace(settled(), captured=Money("245.13"), returned=Money(returned))
    story.tell(answer)
    assert (story.saga.parked_reason is None) == believed


def test_after_a_confirmed_adjustment_only_its_amount_is_believed() -> None:
    """The old amount is history."""
    story = raising().tell(adjusted(), cancel())
    assert story.tell(structs.replace(refunded(), refunded=Money("490.49"))).saga.parked_reason is not None


# The place in the queue -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "changes", "kept"),
    [
        (LIMIT_BUY, {"quantity": "0.005"}, True),
        (LIMIT_BUY, {"quantity": "0.02"}, False),
        (LIMIT_BUY, {"limit_price": "48500"}, False),
        (LIMIT_BUY, {"quantity": "0.005", "limit_price": "49100"}, False),
        (STOP_SELL, {"trigger_price": "47000"}, False),
        (TRAIL_SELL, {"trail_amount": "600"}, True),
        (TRAIL_SELL, {"quantity": "0.02"}, True),
    ],
)
def test_an_order_keeps_its_place_only_if_it_asks_no_more_of_the_market(
    request_: Requested,
    changes: dict[str, Any],
    kept: bool,  # noqa: FBT001
) -> None:
    """A smaller quantity, or a trailing stop, which keeps its watermark; all else begins to rest at the mark."""
    story = amending(amend(**changes), request_).wait(5).trade("49900", 30).tell(rechecked(), adjusted())
    assert story.verdict == ("first", APPLIED, None)
    rest = story.saga.progress.rest
    assert rest is not None
    assert (rest.from_sequence, rest.entered_at) == ((7, NOW) if kept else (30, story.now))
    assert ("rests" in [kind for told in story.told[-2:] for kind in _kinds(told)]) != kept


def _kinds(told: Any) -> list[str]:
    return [entry.kind for entry in getattr(told, "entries", ())]


def test_a_mark_that_could_not_fire_counts_once_more_when_it_is_repeated() -> None:
    """So does an amended order see it."""
    story = amending(amend(limit_price="48500")).trade("49900", 30, live=False).tell(rechecked(), adjusted())
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 29


def test_no_price_from_before_the_order_counts_for_its_amend() -> None:
    """A mark older than the quote neither fires the new terms nor begins the rest anew."""
    story = amending(amend(limit_price="48500")).trade("48000", 3).tell(rechecked(price="50000"))
    assert (story.verdict[1], story.saga.phase) == (APPLIED, Phase.LOWERING)
    assert story.saga.progress.rest is not None
    assert story.saga.progress.rest.from_sequence == 8, "the quote of the approval is newer"
    older = amending(amend(limit_price="48500")).trade("48000", 3).tell(rechecked(price="47000", sequence=2))
    assert (older.verdict[1], older.saga.progress.fire) == (APPLIED, None)
    assert older.saga.progress.rest is not None
    assert older.saga.progress.rest.from_sequence == 7


def test_a_limit_that_the_market_meets_fills_at_the_mark() -> None:
    """The new terms are in force in one version, and filled in the next."""
    story = amending(amend(limit_price="49500")).tell(rechecked()).trade("49400", 30).tell(adjusted())
    confirmed, processing = story.decision.events
    assert (confirmed.order.revision, confirmed.status) == (2, OrderStatus.CONFIRMED)
    assert (processing.status, processing.order.average_price) == (OrderStatus.PROCESSING, Price(49_400))
    assert story.saga.progress.fire is not None
    assert story.saga.progress.fire.sequence == 30


def test_a_limit_that_a_mark_meets_which_is_not_live_rests() -> None:
    """Only a live price fires."""
    story = raising().trade("49400", 30, live=False).tell(adjusted())
    assert (story.saga.phase, story.saga.progress.fire) == (Phase.WORKING, None)


def test_a_trailing_stop_is_weighed_from_its_watermark() -> None:
    """What it may cost follows from where its best price stands when the raise is asked; later ones only help."""
    story = amending(amend(trail_amount="600"), TRAIL_BUY).best_price("49990").tell(rechecked())
    [raise_] = story.commands
    assert isinstance(raise_, AdjustBalance)
    assert raise_.amount == Money("511.48"), "0.01 at 1 % above 49,990 + 600, with the fee of 0.1 %"
    story.best_price("49000").trade("49100", 30).tell(adjusted())
    assert story.verdict == ("first", APPLIED, None)
    assert story.saga.progress.trails_from == Price(49_990)


def test_a_trailing_stop_is_not_tightened_into_the_market() -> None:
    """Its best price counts, not where it began."""
    story = amending(amend(trail_amount="100"), TRAIL_SELL).trade("51000", 30).best_price("51200").tell(rechecked())
    assert story.verdict == ("first", REFUSED, AmendRefusal.WOULD_TRIGGER_IMMEDIATELY)
    beyond = amending(amend(trail_amount="50000"), TRAIL_SELL).tell(rechecked())
    assert beyond.verdict == ("first", REFUSED, AmendRefusal.PRICE_OUT_OF_RANGE)


# Known again ----------------------------------------------------------------------------------------------------------


def test_an_amended_order_knows_its_request_again() -> None:
    """The same request is a duplicate, and one that asks for what the order is now is another one."""
    story = lowering().tell(adjusted(), LIMIT_BUY)
    assert story.why is Why.DUPLICATE
    now = conditional(OrderType.LIMIT_BUY, limit_price="49000", quantity=Quantity("0.005"))
    assert story.tell(now).why is Why.CONFLICT


def test_what_is_stored_of_a_change_is_read_again() -> None:
    """And what an older version stored of an order has none of it, and means the same."""
    for story in (amending(), raising(), lowering(), raising().tell(adjusted())):
        stored = encode(story.saga.progress)
        assert decoder(Progress).decode(stored) == story.saga.progress
    fields = set(json.loads(encode(resting().saga.progress)))
    new = {"revision", "amend", "amending", "amend_ids", "as_requested", "trails_from", "checks", "adjustments"}
    new |= {"adjusting", "unconfirmed", "suspended", "suspensions", "release_refused"}
    assert not fields & new, "nothing is written that an older version would not know"


def test_a_new_end_that_comes_while_it_is_asked_about_is_refused() -> None:
    """The old one stays in force: no order ends by terms that were never put in force."""
    story = resting(UNTIL).tell(amend(limit_price="48000", expires_at=NOW + timedelta(seconds=5)))
    story.wait(6).tell(rechecked())
    assert story.verdict == ("first", REFUSED, AmendRefusal.EXPIRED)
    assert (story.saga.phase, story.shown.expires_at) == (Phase.WORKING, NOW + timedelta(hours=1))


def test_new_terms_whose_sums_no_message_can_carry_are_refused() -> None:
    """As on entry: what is held could not be written."""
    story = resting(LIMIT_BUY).tell(amend(quantity="999999999999999"), rechecked())
    assert story.verdict == ("first", REFUSED, AmendRefusal.NOTIONAL_OUT_OF_RANGE)
    assert story.asked == []
