"""Sample data for the tests of the core: one order, every message that it can get, and `Story`, which tells them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

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
    RefundBalance,
    RefundRefused,
    ReserveBalance,
    SettleBalance,
    SettlementRefused,
)
from contracts.decimals import Money, Price, Quantity, subtract
from contracts.orders import InvalidOrder, OrderCancelRequested, OrderRequested
from contracts.vocabulary import HoldState, OrderStatus, OrderType, Side
from order_saga.core.advance import advance
from order_saga.core.commands import command
from order_saga.core.phases import ANSWERS
from order_saga.core.saga import (
    AskAgainRequested,
    Command,
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
    Question,
    Quote,
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
from tests.order_saga.core.invariants import NOBODY, availability, check

if TYPE_CHECKING:
    from contracts.amends import AmendRefusal, AmendState
    from contracts.balance import BalanceCommand
    from contracts.orders import Order, OrderStatusChanged
    from order_saga.core.saga import Question

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORDER_ID: Final = UUID(int=997 * 10**30)
"""A multiple of 997, so the waits of this order have no jitter."""
HOLD: Final = Money("500.50")
"""The amount that a buy of 0.01 BTC at 50,000 holds, fee included."""
USER, OTHER_USER, OPERATOR = "alice", "mallory", "@operator:olga"

_TYPES: Final = {Side.BUY: OrderType.MARKET_BUY, Side.SELL: OrderType.MARKET_SELL}


# What comes in --------------------------------------------------------------------------------------------------------


def request(side: Side = Side.BUY, **changes: Any) -> OrderRequested:
    """Request 0.01 BTC at 50,000, within the default slippage."""
    order = OrderRequested(ORDER_ID, USER, "BTC", _TYPES[side], Quantity("0.01"), price=Price(50_000))
    return structs.replace(order, **changes)


def conditional(order_type: OrderType, **terms: Any) -> Requested:
    """Wrap a request for a conditional order of 0.01 BTC; prices are given as text."""
    prices = ("price", "limit_price", "trigger_price", "trail_amount")
    given = {name: Price(value) if name in prices else value for name, value in terms.items()}
    fields: dict[str, Any] = {"quantity": Quantity("0.01"), **given}
    return Requested(OrderRequested(ORDER_ID, USER, "BTC", order_type, **fields), sent_at=NOW)


def requested(side: Side = Side.BUY, **changes: Any) -> Requested:
    """Wrap a request that arrives at the instant when it was made."""
    return Requested(request(side, **changes), sent_at=NOW)


def invalid(**changes: Any) -> Requested:
    """Wrap a request whose quantity broke a rule."""
    order = InvalidOrder(ORDER_ID, USER, "quantity: must be a decimal as a string", asset_id="BTC")
    return Requested(structs.replace(order, **changes), sent_at=NOW)


def cancel(by: str = USER, user: str = USER) -> OrderCancelRequested:
    """Request the cancel of `user`'s order, sent by `by`."""
    return OrderCancelRequested(ORDER_ID, user, by)


def amend(amend_id: str = "first", by: str = USER, user: str = USER, **changes: Any) -> OrderAmendRequested:
    """Request an amend of `user`'s order, sent by `by`; decimals are given as text."""
    kinds = {"quantity": Quantity, "limit_price": Price, "trigger_price": Price, "trail_amount": Price}
    given: dict[str, Any] = {name: kinds[name](value) if name in kinds else value for name, value in changes.items()}
    return OrderAmendRequested(ORDER_ID, user, by, amend_id, **given)


def suspend(by: str = USER, reason: str | None = None, user: str = USER) -> OrderHoldRequested:
    """Request that `user`'s order is suspended."""
    return OrderHoldRequested(ORDER_ID, user, by, reason=reason)


def release(by: str = USER, user: str = USER) -> OrderReleaseRequested:
    """Request that `user`'s order is released."""
    return OrderReleaseRequested(ORDER_ID, user, by)


def approved(price: str = "50000", **changes: Any) -> AssetApproved:
    """Approve the order at a quote, with a fee of 10 bps."""
    reply = AssetApproved(
        command_id=_id("check"),
        order_id=ORDER_ID,
        asset_id="BTC",
        price=Price(price),
        sequence=7,
        as_of=NOW,
        tick=Price("0.01"),
        step=Quantity("0.00000001"),
        fee_bps=10,
        cash_asset_id="USD",
        cash_scale=2,
        rules_version=3,
    )
    return structs.replace(reply, **changes)


def not_approved(code: AssetRefusal = AssetRefusal.ASSET_NOT_TRADABLE) -> AssetRefused:
    """Refuse the order for a reason of the asset."""
    return AssetRefused(_id("check"), ORDER_ID, "BTC", code, "trading in BTC is halted")


def rechecked(number: int = 1, price: str = "50000", **changes: Any) -> AssetApproved:
    """Approve the terms of the amend whose check has this number."""
    return approved(price, **{"command_id": _id(f"check.{number}"), "sequence": 8, **changes})


def not_rechecked(code: AssetRefusal = AssetRefusal.INVALID_TICK, number: int = 1) -> AssetRefused:
    """Refuse them."""
    return AssetRefused(_id(f"check.{number}"), ORDER_ID, "BTC", code, "a multiple of 0.01 is needed")


def adjusted(number: int = 1, state: HoldState = HoldState.HELD) -> BalanceAdjusted:
    """Report that the hold is what the adjustment of this number asked for (see `fitting`)."""
    return BalanceAdjusted(_id(f"adjust.{number}"), ORDER_ID, _id("reserve"), state, number, HOLD)


def not_adjusted(
    code: BalanceRefusal = BalanceRefusal.INSUFFICIENT_BALANCE, number: int = 1, state: HoldState = HoldState.HELD
) -> AdjustmentRefused:
    """Report that the adjustment of this number will never change the hold."""
    return AdjustmentRefused(_id(f"adjust.{number}"), ORDER_ID, _id("reserve"), state, code, "5 available", number)


def reserved(state: HoldState = HoldState.HELD) -> BalanceReserved:
    """Report that the amount is held."""
    return BalanceReserved(_id("reserve"), ORDER_ID, _id("reserve"), state, HOLD)


def not_reserved(
    code: BalanceRefusal = BalanceRefusal.INSUFFICIENT_BALANCE, state: HoldState = HoldState.REFUSED
) -> BalanceRefused:
    """Report that the amount is not held."""
    return BalanceRefused(_id("reserve"), ORDER_ID, _id("reserve"), state, code, "500.50 USD needed, 5 available")


def settled(state: HoldState = HoldState.SETTLED) -> BalanceSettled:
    """Report that both legs are booked."""
    return BalanceSettled(_id("settle"), ORDER_ID, _id("reserve"), state, HOLD, Money(0))


def not_settled(
    code: BalanceRefusal = BalanceRefusal.EXCEEDS_HOLD, state: HoldState = HoldState.REFUNDED
) -> SettlementRefused:
    """Report that the settlement will never happen."""
    return SettlementRefused(_id("settle"), ORDER_ID, _id("reserve"), state, code, "the capture exceeds the hold")


def refunded(state: HoldState = HoldState.REFUNDED) -> BalanceRefunded:
    """Report that nothing is held any more."""
    amount = HOLD if state is HoldState.REFUNDED else Money(0)
    return BalanceRefunded(_id("refund"), ORDER_ID, _id("reserve"), state, amount)


def not_refunded(code: BalanceRefusal = BalanceRefusal.CLOSED, state: HoldState = HoldState.SETTLED) -> RefundRefused:
    """Report that nothing was refunded."""
    return RefundRefused(_id("refund"), ORDER_ID, _id("reserve"), state, code, "the hold is settled")


def fitting(saga: Saga, message: Incoming) -> Incoming:
    """Give a reply made above, with the amounts of this order's command in place of those of a buy at 50,000."""
    known = saga.progress
    if isinstance(message, BalanceAdjusted) and message.command_id == _id(f"adjust.{known.adjustments}"):
        fits = known.adjusting is not None and message.amount == HOLD
        return structs.replace(message, amount=known.adjusting) if fits else message
    steps = ANSWERS[type(message)] if isinstance(message, (BalanceReserved, BalanceSettled, BalanceRefunded)) else ()
    if not steps or saga.progress.question(steps[0]) is None:
        return message
    asked = command(saga, steps[0])
    if isinstance(message, BalanceReserved) and message.amount == HOLD and isinstance(asked, ReserveBalance):
        return structs.replace(message, amount=asked.amount)
    if isinstance(message, BalanceSettled) and message.captured == HOLD and isinstance(asked, SettleBalance):
        returned = message.returned or Money(subtract(asked.amount, asked.capture))
        return structs.replace(message, captured=asked.capture, returned=returned)
    if isinstance(message, BalanceRefunded) and message.refunded == HOLD and isinstance(asked, RefundBalance):
        return structs.replace(message, refunded=asked.amount)
    return message


def timer(*, probe: bool = False) -> TimerDue:
    """Report that the order's `due_at` has come."""
    return TimerDue(ORDER_ID, probe)


def park(reason: str = "a message could not be stored") -> ParkRequested:
    """Report that a message for the order can't be handled."""
    return ParkRequested(ORDER_ID, reason)


def resume() -> ResumeRequested:
    """Ask, as an operator, that the order continues."""
    return ResumeRequested(ORDER_ID, OPERATOR)


def ask_again() -> AskAgainRequested:
    """Ask, as an operator, that the order's questions are sent again."""
    return AskAgainRequested(ORDER_ID, OPERATOR)


def recovery(*told: OrderStatusChanged, commands: tuple[BalanceCommand, ...] = (), **known: Any) -> RecoveryRequested:
    """Tell the order, after a restore, what Kafka has of it."""
    return RecoveryRequested(ORDER_ID, USER, OPERATOR, told, commands, **known)


def fired(price: str, sequence: int = 12, watermark: str | None = None) -> Fired:
    """Report that a tick has fired the order."""
    best = None if watermark is None else Price(watermark)
    return Fired(ORDER_ID, Fire(sequence, Price(price), NOW, best))


def triggered(price: str, sequence: int = 11) -> Triggered:
    """Report that a tick has met the order's trigger, but not its limit."""
    return Triggered(ORDER_ID, sequence, Price(price))


def expiry_due() -> ExpiryDue:
    """Report that the order's `expires_at` has come."""
    return ExpiryDue(ORDER_ID)


def mark(price: str, sequence: int = 9, *, live: bool = True) -> Mark:
    """Make what is known of the market: by default newer than the quote of `approved`."""
    return Mark(sequence, Price(price), NOW, live)


def _id(step: str) -> str:
    return f"{ORDER_ID}:{step}"


def quote(price: str = "50000", **changes: Any) -> Quote:
    """Make the quote that `approved` carries."""
    fields = {name: value for name, value in structs.asdict(approved(price)).items() if name in Quote.__struct_fields__}
    return Quote(**{**fields, "made_at": NOW, **changes})


def with_question(saga: Saga, question: Question) -> Saga:
    """Replace the question of the same step, or append this one."""
    others = [known for known in saga.progress.questions if known.step is not question.step]
    return structs.replace(saga, progress=structs.replace(saga.progress, questions=(*others, question)))


def blank() -> Saga:
    """Make a new saga as `fold` does for the first message of an order."""
    return Saga(ORDER_ID, USER, Phase.NEW, NOW, NOW)


# A story --------------------------------------------------------------------------------------------------------------


class Story:
    """One order and its messages, one after the other; every step is checked against the invariants."""

    def __init__(self, *messages: Incoming, time_scale: float = 1.0, saga: Saga | None = None) -> None:
        """Start at `NOW` and tell these messages."""
        self.saga = saga or blank()
        self.now = NOW
        self.time_scale = time_scale
        self.paused = self.silent = NOBODY
        self.marks: dict[str, Mark] = {}
        self.watermarks: dict[UUID, Price] = {}
        self.told: list[Decision | Ignored] = []
        self.tell(*messages)

    def tell(self, *messages: Incoming) -> Story:
        """Give these messages to the order, one after the other, at the present time."""
        for message in messages:
            away = availability(self.paused, self.silent)
            fits = fitting(self.saga, message)
            outcome = advance(self.saga, fits, self.now, self.time_scale, away, self.marks, self.watermarks)
            check(self.saga, self.now, outcome, self.paused)
            if isinstance(outcome, Decision):
                self.saga = outcome.saga
            self.told.append(outcome)
        return self

    def pause(self, *participants: Participant) -> Story:
        """Pause these participants and resume all others."""
        self.paused = frozenset(participants)
        return self

    def make_silent(self, *participants: Participant) -> Story:
        """Make these participants silent and all others available."""
        self.silent = frozenset(participants)
        return self

    def trade(self, price: str, sequence: int = 9, *, live: bool = True) -> Story:
        """Let the market stand at this price."""
        self.marks = {"BTC": mark(price, sequence, live=live)}
        return self

    def best_price(self, price: str) -> Story:
        """Let this be the best price since the order, a trailing stop, rests."""
        self.watermarks = {ORDER_ID: Price(price)}
        return self

    def wait(self, seconds: float) -> Story:
        """Advance the time."""
        self.now += timedelta(seconds=seconds)
        return self

    def wait_until_due(self) -> float:
        """Advance the time to the order's `due_at`; return how many seconds that took."""
        assert self.saga.due_at is not None
        waited, self.now = self.saga.due_at - self.now, self.saga.due_at
        return waited.total_seconds()

    @property
    def decision(self) -> Decision:
        """The decision on the last message."""
        assert isinstance(self.told[-1], Decision)
        return self.told[-1]

    @property
    def why(self) -> Why | None:
        """The reason why the last message changed nothing; None if it did."""
        last = self.told[-1]
        return last.why if isinstance(last, Ignored) else None

    @property
    def asked(self) -> list[str]:
        """The types of the commands that the last message caused."""
        last = self.told[-1]
        return [type(ask.message).__name__ for ask in last.asks] if isinstance(last, Decision) else []

    @property
    def commands(self) -> list[Command]:
        """The commands that the last message caused."""
        last = self.told[-1]
        return [ask.message for ask in last.asks] if isinstance(last, Decision) else []

    @property
    def shown(self) -> Order:
        """The order as users see it."""
        return snapshot(self.saga)

    @property
    def verdict(self) -> tuple[str, AmendState, AmendRefusal | None]:
        """What the order shows of its last amend: its id, how far it has come, and why it was refused."""
        amend = self.shown.amend
        assert amend is not None
        return amend.amend_id, amend.state, amend.reason_code

    @property
    def kinds(self) -> list[str]:
        """The kinds of the lines that the last message added to the history."""
        return [entry.kind for entry in self.decision.entries]

    @property
    def statuses(self) -> list[OrderStatus]:
        """The status in each published version."""
        decisions = (told for told in self.told if isinstance(told, Decision))
        return [event.status for decision in decisions for event in decision.events]

    @property
    def ending(self) -> tuple[OrderStatus | None, str | None]:
        """The final status and reason code, as users see them."""
        return self.saga.status, self.saga.reason_code

    def question(self, step: Step) -> Question:
        """Return the question of a step, which must have been asked."""
        question = self.saga.progress.question(step)
        assert question is not None
        return question


REPLIES: Final = ANSWERS
