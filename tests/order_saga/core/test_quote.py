"""The quote is the price: what slippage allows, how old a quote may become, and that all sums use the same quote."""

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
    """A buy needs quote <= price * (1 + s), a sell quote >= price * (1 - s), unrounded; a better quote is accepted."""
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
    """An order without a price has no bound, so it accepts any quote."""
    assert Story(requested(side, price=None), approved("1000")).saga.progress.outcome is None


def test_a_slipped_buy_ends_at_once_and_a_slipped_sell_when_its_hold_is_back() -> None:
    """A slipped quote refuses the order as the asset service does: the end does not wait for the reserve's answer."""
    assert Story(requested(), approved("60000")).ending == SLIPPED
    sell = Story(requested(Side.SELL), approved("40000"))
    assert sell.asked == ["RefundBalance"]
    assert sell.tell(refunded()).ending == SLIPPED


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
@pytest.mark.parametrize("side", Side)
def test_a_quote_is_stale_at_the_fill_when_it_is_older_than_thirty_seconds(side: Side, time_scale: float) -> None:
    """A quote's age counts from when it was made, scaled; at exactly thirty seconds it is still accepted."""
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
def test_the_age_of_a_quote_counts_from_when_it_was_made(quoted_s_ago: float | None, made_s_ago: float) -> None:
    """A quote's age counts from when it was made, not handled; a time in the future counts as now."""
    quoted_at = None if quoted_s_ago is None else NOW - timedelta(seconds=quoted_s_ago)
    stored = Story(requested(), approved(quoted_at=quoted_at)).saga.progress.quote
    assert stored is not None
    assert NOW - timedelta(seconds=made_s_ago) == stored.made_at


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("time_scale", [1.0, 0.1])
def test_an_answer_that_is_handled_after_its_patience_counts_as_none(side: Side, time_scale: float) -> None:
    """An answer after the end of patience is recorded as late, and the order times out; just before it, it counts."""
    early = Story(requested(side), time_scale=time_scale).wait(30 * time_scale - 0.001).tell(approved())
    assert early.question(Step.CHECK).answer == "YES"
    story = Story(requested(side), time_scale=time_scale).wait(30 * time_scale).tell(approved())
    kinds = [(entry.kind, entry.name) for entry in story.decision.entries[:2]]
    assert kinds == [("ignored", "AssetApproved"), ("timed_out", "check")]
    assert story.decision.entries[0].detail["why"] == "late"
    assert story.saga.progress.quote is None
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.TIMED_OUT)


def test_a_hold_that_is_reported_after_its_patience_is_refunded() -> None:
    """A hold that is reported after the end of patience is refunded."""
    story = Story(requested(), approved()).wait(30).tell(reserved())
    assert story.asked == ["RefundBalance"]
    assert story.tell(refunded()).ending == (FAILED, ReasonCode.TIMED_OUT)


def test_a_pause_extends_the_patience() -> None:
    """A pause extends patience, but the quote's age still decides at the fill."""
    story = Story(requested()).wait(1).pause(Participant.BALANCE).wait(60).tell(timer())
    story.wait(60).tell(approved())
    assert story.question(Step.CHECK).answer == "YES"


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("time_scale", [1.0, 0.1])
def test_a_price_of_before_a_pause_or_a_resume_is_waited_for_anew(side: Side, time_scale: float) -> None:
    """A quote from before a pause or a resume would be stale at the fill, so the check is asked again."""
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
    """An order that fails with STALE_PRICE never passed the pivot, so it has no fill."""
    story = Story(requested(), approved(quoted_at=NOW - timedelta(seconds=5))).wait(26).tell(reserved(), refunded())
    assert all(told.fill is None for told in story.told if isinstance(told, Decision))
    assert story.statuses == [OrderStatus.PENDING, FAILED]


def test_a_sell_whose_fee_takes_everything_is_refused() -> None:
    """A sell with a credit of zero is refused, because a credit must be positive."""
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
    """A sum with nineteen digits before the point cannot be sent, so the order is refused."""
    huge = requested(side, quantity=Quantity("900000000000000000"), price=None)
    story = Story(huge, approved("2"), refunded())
    assert story.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


def test_the_largest_sum_that_the_wire_can_carry_is_accepted() -> None:
    """A sum one unit below 10**18 is accepted."""
    quantity = Quantity("999999999999999999")
    story = Story(requested(quantity=quantity, price=None), approved("1", fee_bps=0))
    assert story.asked == ["ReserveBalance"]
    over = Story(requested(quantity=quantity, price=None), approved("1", fee_bps=1))
    assert over.ending == (FAILED, ReasonCode.NOTIONAL_OUT_OF_RANGE)


def test_a_buy_holds_settles_and_shows_what_the_quote_costs() -> None:
    """A buy holds and captures cost 500.00 and fee 0.50; the asset is credited, the fee is part of the capture."""
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
    """Version 1 names no currency; each later version names the quote's currency, for the price and the fee."""
    story = Story(requested(side), approved(), reserved(), settled())
    told = [event.order for one in story.told if isinstance(one, Decision) for event in one.events]
    expected = [
        ("PENDING", None, None),
        *((status, "USD", "USD") for status in ("CONFIRMED", "PROCESSING", "COMPLETED")),
    ]
    assert expected == [(order.status, order.cash_asset_id, order.fee_asset_id) for order in told]


def test_learning_a_quote_shows_nothing_before_the_next_version() -> None:
    """A published version never changes: PENDING names no currency, though the saga already knows the quote."""
    story = Story(requested(), approved())
    assert story.saga.progress.quote is not None
    assert (OrderStatus.PENDING, None, None) == _currencies(story.saga)
    story.tell(not_reserved())
    assert (FAILED, "USD", "USD") == _currencies(story.saga)


def test_an_order_that_ended_without_a_quote_names_no_currency() -> None:
    """An order without a quote has no currency to name."""
    story = Story(requested(), not_approved())
    assert (FAILED, None, None) == _currencies(story.saga)


def _currencies(saga: Saga) -> tuple[OrderStatus, str | None, str | None]:
    order = snapshot(saga)
    return order.status, order.cash_asset_id, order.fee_asset_id


def test_a_sell_holds_the_asset_and_is_credited_what_is_left_of_the_proceeds() -> None:
    """A sell holds and captures the quantity; of the proceeds 500.00, minus fee 0.50, 499.50 are credited."""
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
    """A refund repeats the hold's asset and amount, because other terms under a known hold id are a conflict."""
    story = Story(requested(side), approved(), cancel())
    reserve = f"{ORDER_ID}:reserve"
    terms = (ORDER_ID, reserve, USER, asset_id, Money(amount), NOW)
    assert story.commands == [RefundBalance(f"{ORDER_ID}:refund", *terms)]


def reserves(story: Story) -> list[ReserveBalance]:
    """List the reservations that the last message caused."""
    return [one for one in story.commands if isinstance(one, ReserveBalance)]


def test_every_command_tells_when_the_hold_was_first_asked_for() -> None:
    """Every command carries the first time that the hold was asked for: the ledger of that time may have the hold."""
    story = Story(requested(), approved())
    story.wait_until_due()
    assert [NOW] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    story.wait_until_due()
    story.pause(Participant.BALANCE).tell(timer()).pause().wait_until_due()
    assert [NOW] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    story.tell(cancel())
    assert [NOW] == [one.hold_asked_at for one in story.commands if isinstance(one, RefundBalance)]


def test_a_reserve_that_waited_carries_the_time_when_it_was_sent() -> None:
    """A reserve that waited for a pause carries the time when it was sent, so the ledger then in service has it."""
    story = Story().pause(Participant.BALANCE).tell(requested(Side.SELL)).pause()
    story.wait_until_due()
    assert [story.now] == [one.hold_asked_at for one in reserves(story.tell(timer()))]
    assert story.now > NOW


def test_an_order_of_an_older_version_asked_for_its_hold_when_it_was_made() -> None:
    """For an order of an older version, the time of its creation stands for the time when the hold was asked for."""
    story = Story(requested(), approved())
    reserve = structs.replace(story.saga.progress.questions[-1], sent_at=None)
    questions = (*story.saga.progress.questions[:-1], reserve)
    story.saga = structs.replace(story.saga, progress=structs.replace(story.saga.progress, questions=questions))
    story.wait_until_due()
    assert [story.saga.created_at] == [one.hold_asked_at for one in reserves(story.tell(timer()))]


def test_every_sum_uses_the_quote_that_was_stored() -> None:
    """A repeated settlement equals the first one, even after a different quote arrives."""
    story = Story(requested(), approved(), reserved())
    first = story.commands
    story.tell(approved("51000"))
    story.wait(2).tell(timer())
    assert story.commands == first


def test_the_quote_and_its_rules_are_stored_on_the_order() -> None:
    """The order stores its quote with the asset's rules, so later rules do not affect it."""
    story = Story(requested()).wait(1)
    told: AssetApproved = approved()
    stored = story.tell(told).saga.progress.quote
    assert stored is not None
    names = ("price", "sequence", "as_of", "tick", "step", "fee_bps", "cash_asset_id", "cash_scale", "rules_version")
    assert [getattr(stored, name) for name in names] == [getattr(told, name) for name in names]
    assert stored.made_at == story.now


def test_a_busted_fill_keeps_its_terms() -> None:
    """A busted fill's row keeps its values and is marked."""
    story = Story(requested(), approved(), reserved())
    made = story.decision.fill
    busted = story.tell(not_settled()).decision.fill
    assert made is not None
    assert busted is not None
    assert (busted.fill_id, busted.quantity, busted.price, busted.fee) == (
        made.fill_id, made.quantity, made.price, made.fee
    )  # fmt: skip
    assert (made.busted, busted.busted) == (False, True)
