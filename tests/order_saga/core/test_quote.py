"""The quote is the price: what a bound allows, how old a quote may get, and that every sum uses the same one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from contracts.assets import AssetApproved
from contracts.balance import RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import Money, Price, Quantity
from contracts.vocabulary import OrderStatus, ReasonCode, Side
from order_saga.core.saga import Decision, Ignored, Participant, Phase, Saga, Step, Why, snapshot
from tests.order_saga.core.sample import (
    NOW,
    ORDER_ID,
    USER,
    Story,
    approved,
    cancel,
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

FAILED = OrderStatus.FAILED
SLIPPED = (FAILED, ReasonCode.SLIPPAGE_EXCEEDED)
STALE = (FAILED, ReasonCode.STALE_PRICE)


@pytest.mark.parametrize(
    ("side", "slippage_bps", "quote", "allowed"),
    [
        (Side.BUY, 100, "50500", True),
        (Side.BUY, 100, "50500.000000000000000001", False),
        (Side.BUY, 0, "50000", True),
        (Side.BUY, 0, "50000.000000000000000001", False),
        (Side.BUY, 10_000, "100000", True),
        (Side.BUY, 10_000, "100000.01", False),
        (Side.BUY, 100, "0.01", True),
        (Side.SELL, 100, "49500", True),
        (Side.SELL, 100, "49499.999999999999999999", False),
        (Side.SELL, 0, "50000", True),
        (Side.SELL, 0, "49999.999999999999999999", False),
        (Side.SELL, 10_000, "10", True),
        (Side.SELL, 100, "1000000", True),
    ],
)
def test_the_quote_may_be_worse_than_the_price_by_exactly_the_slippage(
    side: Side,
    slippage_bps: int,
    quote: str,
    allowed: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """A buy needs quote <= price * (1 + s), a sell quote >= price * (1 - s), compared unrounded; better is welcome."""
    story = Story(requested(side, slippage_bps=slippage_bps), approved(quote))
    if allowed:
        assert story.saga.progress.outcome is None
        assert story.question(Step.CHECK).answer == "YES"
    else:
        story.tell(refunded())
        assert story.ending == SLIPPED
        assert story.saga.reason is not None
        assert quote in story.saga.reason
        assert ("above" if side is Side.BUY else "below") in story.saga.reason


@pytest.mark.parametrize("side", Side)
def test_an_order_without_a_price_takes_any_quote(side: Side) -> None:
    """There is nothing to compare it with."""
    assert Story(requested(side, price=None), approved("1000")).saga.progress.outcome is None


def test_a_slipped_buy_ends_at_once_and_a_slipped_sell_when_its_hold_is_back() -> None:
    """The quote's no is the asset's no: it does not wait for balance."""
    assert Story(requested(), approved("60000")).ending == SLIPPED
    sell = Story(requested(Side.SELL), approved("40000"))
    assert sell.asked == ["RefundBalance"]
    assert sell.tell(refunded()).ending == SLIPPED


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
@pytest.mark.parametrize("side", Side)
def test_a_quote_is_stale_at_the_fill_when_it_is_older_than_thirty_seconds(side: Side, time_scale: float) -> None:
    """Measured from when it was made, scaled; at thirty seconds exactly it still counts."""
    quote = approved(quoted_at=NOW - timedelta(seconds=10 * time_scale))
    exactly = Story(requested(side), quote, time_scale=time_scale).wait(20 * time_scale).tell(reserved())
    assert exactly.saga.phase is Phase.SETTLING
    late = Story(requested(side), quote, time_scale=time_scale).wait(20 * time_scale + 0.001).tell(reserved())
    assert late.asked == ["RefundBalance"]
    assert late.tell(refunded()).ending == STALE
    assert late.saga.reason == f"the quote was older than {30 * time_scale:g} s at the fill"


@pytest.mark.parametrize(
    ("quoted_s_ago", "made_s_ago"),
    [(None, 0.0), (0.0, 0.0), (12.5, 12.5), (-5.0, 0.0)],
    ids=["untold", "now", "before", "ahead"],
)
def test_a_quote_is_as_old_as_it_was_made(quoted_s_ago: float | None, made_s_ago: float) -> None:
    """Handling it late does not make it younger. A clock that is ahead counts as now."""
    quoted_at = None if quoted_s_ago is None else NOW - timedelta(seconds=quoted_s_ago)
    kept = Story(requested(), approved(quoted_at=quoted_at)).saga.progress.quote
    assert kept is not None
    assert NOW - timedelta(seconds=made_s_ago) == kept.made_at


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("time_scale", [1.0, 0.1])
def test_an_answer_that_is_handled_after_its_patience_is_silence(side: Side, time_scale: float) -> None:
    """As if the timer had come first; a moment before, it counts. What it says is written down, as late."""
    early = Story(requested(side), time_scale=time_scale).wait(30 * time_scale - 0.001).tell(approved())
    assert early.question(Step.CHECK).answer == "YES"
    story = Story(requested(side), time_scale=time_scale).wait(30 * time_scale).tell(approved())
    kinds = [(entry.kind, entry.name) for entry in story.decision.entries[:2]]
    assert kinds == [("ignored", "AssetApproved"), ("timed_out", "check")]
    assert story.decision.entries[0].detail["why"] == "late"
    assert story.saga.progress.quote is None
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.TIMED_OUT)


def test_a_hold_that_is_told_after_its_patience_is_refunded() -> None:
    """It is there, and nobody waits for it any more."""
    story = Story(requested(), approved()).wait(30).tell(reserved())
    assert story.asked == ["RefundBalance"]
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.TIMED_OUT)


def test_a_pause_ends_no_patience_for_who_answers_meanwhile() -> None:
    """Nothing times out against a pause; the quote's own age still decides at the fill."""
    story = Story(requested()).wait(1).pause(Participant.BALANCE).wait(60).tell(timer())
    story.wait(60).tell(approved())
    assert story.question(Step.CHECK).answer == "YES"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("time_scale", [1.0, 0.1])
def test_a_price_of_before_a_pause_or_a_resume_is_waited_for_anew(side: Side, time_scale: float) -> None:
    """It would be stale at the fill for sure, and the check is asked again: the next answer may be traded on."""
    old = approved("40", quoted_at=NOW)
    parked = Story(requested(side, price=None), park(), time_scale=time_scale).wait(40 * time_scale).tell(resume(), old)
    paused = Story(requested(side, price=None), time_scale=time_scale).wait(time_scale).pause(Participant.BALANCE)
    paused.wait(29 * time_scale).tell(timer()).wait(10 * time_scale).tell(old).pause().wait(60 * time_scale)
    for story in (parked, paused):
        assert story.question(Step.CHECK).answer == "OPEN"
        assert "CheckAsset" in story.tell(timer()).asked
        story.tell(approved(quoted_at=story.now), reserved(), settled())
        assert story.ending == (OrderStatus.COMPLETED, None)
        assert story.saga.average_price == Price(50_000)
    assert Why.STALE in [told.why for told in parked.told if isinstance(told, Ignored)]


def test_a_stale_order_has_no_fill() -> None:
    """It never passed the pivot."""
    story = Story(requested(), approved(quoted_at=NOW - timedelta(seconds=5))).wait(26).tell(reserved(), refunded())
    assert all(told.fill is None for told in story.told if isinstance(told, Decision))
    assert story.statuses == [OrderStatus.PENDING, FAILED]


def test_a_sell_whose_fee_takes_everything_is_refused() -> None:
    """A credit must be positive: at zero it is not."""
    fee_takes_all = approved("50000", fee_bps=10_000)
    story = Story(requested(Side.SELL), fee_takes_all, refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)
    assert story.saga.reason == "the fee takes all that the sale would bring"
    tiny = Story(requested(Side.SELL, quantity=Quantity("0.0000002")), approved("50000", fee_bps=1), refunded())
    assert tiny.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE), "proceeds 0.01, fee 0.01"
    least = Story(requested(Side.SELL, quantity=Quantity("0.0000004")), approved("50000", fee_bps=1), refunded())
    assert least.saga.phase is Phase.VALIDATING, "proceeds 0.02, fee 0.01"


@pytest.mark.parametrize("side", Side)
def test_a_sum_that_the_wire_cannot_carry_is_refused(side: Side) -> None:
    """Nineteen digits before the point are no wire decimal; so the order is refused instead of never being sent."""
    huge = requested(side, quantity=Quantity("900000000000000000"), price=None)
    story = Story(huge, approved("2"), refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


def test_the_largest_sum_that_the_wire_can_carry_is_accepted() -> None:
    """One unit less than 10**18."""
    quantity = Quantity("999999999999999999")
    story = Story(requested(quantity=quantity, price=None), approved("1", fee_bps=0))
    assert story.asked == ["ReserveBalance"]
    over = Story(requested(quantity=quantity, price=None), approved("1", fee_bps=1))
    assert over.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


def test_a_buy_holds_settles_and_shows_what_the_quote_costs() -> None:
    """Cost 500.00 and fee 0.50: held, captured; the asset is credited, the fee is part of the capture."""
    story = Story(requested(), approved())
    reserve, hold = f"{ORDER_ID}:reserve", Money("500.50")
    assert story.commands == [ReserveBalance(reserve, ORDER_ID, reserve, USER, "USD", hold, NOW)]
    story.tell(reserved())
    assert story.commands == [
        SettleBalance(
            f"{ORDER_ID}:settle",
            ORDER_ID,
            reserve,
            USER,
            "USD",
            hold,
            hold,
            "BTC",
            Money("0.01"),
            "USD",
            Money("0.50"),
            NOW,
        )
    ]
    assert story.decision.fill is not None
    assert story.decision.fill.fill_id == f"{ORDER_ID}:fill"
    order = story.tell(settled()).decision.events[0].order
    assert (order.filled_quantity, order.average_price, order.fee) == (Money("0.01"), Price(50_000), Money("0.50"))


@pytest.mark.parametrize("side", Side)
def test_an_order_names_its_currencies_from_the_first_version_after_its_quote(side: Side) -> None:
    """Version 1 knows no quote; each later one names the quote's currency, of the price and of the fee."""
    story = Story(requested(side), approved(), reserved(), settled())
    told = [event.order for one in story.told if isinstance(one, Decision) for event in one.events]
    expected = [
        ("PENDING", None, None),
        *((status, "USD", "USD") for status in ("CONFIRMED", "PROCESSING", "COMPLETED")),
    ]
    assert expected == [(order.status, order.cash_asset_id, order.fee_asset_id) for order in told]


def test_learning_a_quote_shows_nothing_before_the_next_version() -> None:
    """A version looks the same for as long as it stands: PENDING names no currency, whatever is known inside."""
    story = Story(requested(), approved())
    assert story.saga.progress.quote is not None
    assert (OrderStatus.PENDING, None, None) == _currencies(story.saga)
    story.tell(not_reserved())
    assert (FAILED, "USD", "USD") == _currencies(story.saga)


def test_an_order_that_ended_without_a_quote_names_no_currency() -> None:
    """Nothing was quoted, so there is nothing to name."""
    story = Story(requested(), not_approved())
    assert (FAILED, None, None) == _currencies(story.saga)


def _currencies(saga: Saga) -> tuple[OrderStatus, str | None, str | None]:
    order = snapshot(saga)
    return order.status, order.cash_asset_id, order.fee_asset_id


def test_a_sell_holds_the_asset_and_is_credited_what_is_left_of_the_proceeds() -> None:
    """Proceeds 500.00, fee 0.50: the quantity is held and captured, 499.50 are credited."""
    story = Story(requested(Side.SELL))
    reserve, hold = f"{ORDER_ID}:reserve", Money("0.01")
    assert story.commands[1:] == [ReserveBalance(reserve, ORDER_ID, reserve, USER, "BTC", hold, NOW)]
    story.tell(approved(), reserved())
    assert story.commands == [
        SettleBalance(
            f"{ORDER_ID}:settle",
            ORDER_ID,
            reserve,
            USER,
            "BTC",
            hold,
            hold,
            "USD",
            Money("499.50"),
            "USD",
            Money("0.50"),
            NOW,
        )
    ]


@pytest.mark.parametrize(("side", "asset_id", "amount"), [(Side.BUY, "USD", "500.50"), (Side.SELL, "BTC", "0.01")])
def test_a_refund_names_the_very_hold_that_was_asked(side: Side, asset_id: str, amount: str) -> None:
    """Another amount under a known hold id would be a conflict."""
    story = Story(requested(side), approved(), cancel())
    reserve = f"{ORDER_ID}:reserve"
    terms = (ORDER_ID, reserve, USER, asset_id, Money(amount), NOW)
    assert story.commands == [RefundBalance(f"{ORDER_ID}:refund", *terms)]


def reserves(story: Story) -> list[ReserveBalance]:
    """List the reservations that the last message sent."""
    return [one for one in story.commands if isinstance(one, ReserveBalance)]


def test_every_command_tells_when_the_hold_was_first_asked_for() -> None:
    """Whatever was asked again, held back and begun anew since: the ledger of that moment may have the hold."""
    story = Story(requested(), approved())
    story.wait_until_due()
    assert [NOW] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    story.wait_until_due()
    story.pause(Participant.BALANCE).tell(timer()).pause().wait_until_due()
    assert [NOW] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    story.tell(cancel())
    assert [NOW] == [one.hold_asked_at for one in story.commands if isinstance(one, RefundBalance)]


def test_a_hold_that_waited_unasked_is_asked_for_when_it_is() -> None:
    """An order that came while the balance service was paused is the business of whoever answers after the pause."""
    story = Story().pause(Participant.BALANCE).tell(requested(Side.SELL)).pause()
    story.wait_until_due()
    assert [story.now] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    assert story.now > NOW


def test_an_order_of_an_older_version_asked_for_its_hold_when_it_was_made() -> None:
    """Before that moment it can't have been asked for."""
    story = Story(requested(), approved())
    reserve = structs.replace(story.saga.progress.questions[-1], sent_at=None)
    questions = (*story.saga.progress.questions[:-1], reserve)
    story.saga = structs.replace(story.saga, progress=structs.replace(story.saga.progress, questions=questions))
    story.wait_until_due()
    assert [story.saga.created_at] == [one.hold_asked_at for one in reserves(story.tell(timer()))]


def test_every_sum_uses_the_quote_that_was_stored() -> None:
    """A repeated settlement is word for word the first one, whatever the asset service says meanwhile."""
    story = Story(requested(), approved(), reserved())
    first = story.commands
    story.tell(approved("51000"))
    story.wait(2).tell(timer())
    assert story.commands == first


def test_the_quote_and_its_rules_are_kept_on_the_order() -> None:
    """Later changes of the asset's rules do not judge it again."""
    story = Story(requested()).wait(1)
    told: AssetApproved = approved()
    kept = story.tell(told).saga.progress.quote
    assert kept is not None
    names = ("price", "sequence", "as_of", "tick", "step", "fee_bps", "cash_asset_id", "cash_scale", "rules_version")
    assert [getattr(kept, name) for name in names] == [getattr(told, name) for name in names]
    assert kept.made_at == story.now


def test_a_busted_fill_keeps_its_terms() -> None:
    """The row stays as it was, marked."""
    story = Story(requested(), approved(), reserved())
    made = story.decision.fill
    busted = story.tell(not_settled()).decision.fill
    assert made is not None
    assert busted is not None
    assert (busted.fill_id, busted.quantity, busted.price, busted.fee) == (
        made.fill_id, made.quantity, made.price, made.fee
    )  # fmt: skip
    assert (made.busted, busted.busted) == (False, True)
