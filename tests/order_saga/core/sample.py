"""What the tests of the core are made of: one order, everything that can be said to it, and a story to say it in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from msgspec import structs

from contracts.assets import AssetApproved, AssetRefusal, AssetRefused
from contracts.balance import (
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
from contracts.decimals import Money, Price, Quantity
from contracts.orders import InvalidOrder, OrderCancelRequested, OrderRequested
from contracts.vocabulary import HoldState, OrderStatus, OrderType, Side
from order_saga.core.advance import advance
from order_saga.core.commands import command
from order_saga.core.phases import STEP_OF
from order_saga.core.saga import (
    AskAgainRequested,
    Command,
    Decision,
    Ignored,
    Incoming,
    ParkRequested,
    Participant,
    Phase,
    Question,
    Quote,
    Requested,
    ResumeRequested,
    Saga,
    Step,
    TimerDue,
    Why,
)
from tests.order_saga.core.invariants import NOBODY, availability, check

if TYPE_CHECKING:
    from order_saga.core.saga import Question

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ORDER_ID: Final = UUID(int=997 * 10**30)
"""A multiple of 997: this order's waits have no jitter."""
HOLD: Final = Money("500.50")
"""What a buy of 0.01 BTC at 50,000 holds, with its fee."""
USER, STRANGER, OPERATOR = "alice", "mallory", "@operator:olga"

_TYPES: Final = {Side.BUY: OrderType.MARKET_BUY, Side.SELL: OrderType.MARKET_SELL}


# What comes in --------------------------------------------------------------------------------------------------------


def request(side: Side = Side.BUY, **changes: Any) -> OrderRequested:
    """Ask for 0.01 BTC at 50,000 or a little worse."""
    order = OrderRequested(ORDER_ID, USER, "BTC", _TYPES[side], Quantity("0.01"), price=Price(50_000))
    return structs.replace(order, **changes)


def requested(side: Side = Side.BUY, **changes: Any) -> Requested:
    """Have a request arrive as soon as it was made."""
    return Requested(request(side, **changes), sent_at=NOW)


def invalid(**changes: Any) -> Requested:
    """Have a request arrive whose quantity broke a rule."""
    order = InvalidOrder(ORDER_ID, USER, "quantity: must be a decimal as a string", asset_id="BTC")
    return Requested(structs.replace(order, **changes), sent_at=NOW)


def cancel(by: str = USER, user: str = USER) -> OrderCancelRequested:
    """Ask to cancel `user`'s order."""
    return OrderCancelRequested(ORDER_ID, user, by)


def approved(price: str = "50000", **changes: Any) -> AssetApproved:
    """Approve at a quote, with a fee of 10 bps."""
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
    """Say no for the asset."""
    return AssetRefused(_id("check"), ORDER_ID, "BTC", code, "trading in BTC is halted")


def reserved(state: HoldState = HoldState.HELD) -> BalanceReserved:
    """Say that the amount is held."""
    return BalanceReserved(_id("reserve"), ORDER_ID, _id("reserve"), state, HOLD)


def not_reserved(
    code: BalanceRefusal = BalanceRefusal.INSUFFICIENT_BALANCE, state: HoldState = HoldState.REFUSED
) -> BalanceRefused:
    """Say that the amount is not held."""
    return BalanceRefused(_id("reserve"), ORDER_ID, _id("reserve"), state, code, "500.50 USD needed, 5 available")


def settled(state: HoldState = HoldState.SETTLED) -> BalanceSettled:
    """Say that both legs are booked."""
    return BalanceSettled(_id("settle"), ORDER_ID, _id("reserve"), state, HOLD, Money(0))


def not_settled(
    code: BalanceRefusal = BalanceRefusal.EXCEEDS_HOLD, state: HoldState = HoldState.REFUNDED
) -> SettlementRefused:
    """Say that the settlement will never happen."""
    return SettlementRefused(_id("settle"), ORDER_ID, _id("reserve"), state, code, "the capture exceeds the hold")


def refunded(state: HoldState = HoldState.REFUNDED) -> BalanceRefunded:
    """Say that nothing is held any more."""
    amount = HOLD if state is HoldState.REFUNDED else Money(0)
    return BalanceRefunded(_id("refund"), ORDER_ID, _id("reserve"), state, amount)


def not_refunded(code: BalanceRefusal = BalanceRefusal.CLOSED, state: HoldState = HoldState.SETTLED) -> RefundRefused:
    """Say that nothing was refunded."""
    return RefundRefused(_id("refund"), ORDER_ID, _id("reserve"), state, code, "the hold is settled")


def fitting(saga: Saga, message: Incoming) -> Incoming:
    """Give the replies above, which tell the amounts of a buy at 50,000, those that this order asked about."""
    step = REPLIES.get(type(message))
    if step is None or step is Step.CHECK or saga.progress.question(step) is None:
        return message
    asked = command(saga, step)
    if isinstance(message, BalanceReserved) and message.amount == HOLD and isinstance(asked, ReserveBalance):
        return structs.replace(message, amount=asked.amount)
    if isinstance(message, BalanceSettled) and message.captured == HOLD and isinstance(asked, SettleBalance):
        return structs.replace(message, captured=asked.capture)
    if isinstance(message, BalanceRefunded) and message.refunded == HOLD and isinstance(asked, RefundBalance):
        return structs.replace(message, refunded=asked.amount)
    return message


def timer(*, probe: bool = False) -> TimerDue:
    """Say that the order's time has come."""
    return TimerDue(ORDER_ID, probe)


def park(reason: str = "a message could not be stored") -> ParkRequested:
    """Say that a message for the order can't be handled."""
    return ParkRequested(ORDER_ID, reason)


def resume() -> ResumeRequested:
    """Have an operator let the order go on."""
    return ResumeRequested(ORDER_ID, OPERATOR)


def ask_again() -> AskAgainRequested:
    """Have an operator want the order's questions asked again."""
    return AskAgainRequested(ORDER_ID, OPERATOR)


def _id(step: str) -> str:
    return f"{ORDER_ID}:{step}"


def quote(price: str = "50000", **changes: Any) -> Quote:
    """Make the quote that `approved` brings."""
    fields = {name: value for name, value in structs.asdict(approved(price)).items() if name in Quote.__struct_fields__}
    return Quote(**{**fields, "made_at": NOW, **changes})


def with_question(saga: Saga, question: Question) -> Saga:
    """Put a question in the place of the one for the same step, or at the end."""
    others = [known for known in saga.progress.questions if known.step is not question.step]
    return structs.replace(saga, progress=structs.replace(saga.progress, questions=(*others, question)))


def blank() -> Saga:
    """Begin a saga as `fold` does when an order is heard of for the first time."""
    return Saga(ORDER_ID, USER, Phase.NEW, NOW, NOW)


# A story --------------------------------------------------------------------------------------------------------------


class Story:
    """One order told message by message; every step is held against the invariants."""

    def __init__(self, *messages: Incoming, time_scale: float = 1.0, saga: Saga | None = None) -> None:
        """Begin at `NOW`, with these messages already told."""
        self.saga = saga or blank()
        self.now = NOW
        self.time_scale = time_scale
        self.paused = self.silent = NOBODY
        self.told: list[Decision | Ignored] = []
        self.tell(*messages)

    def tell(self, *messages: Incoming) -> Story:
        """Say these messages to the order, one after the other, at once."""
        for message in messages:
            away = availability(self.paused, self.silent)
            outcome = advance(self.saga, fitting(self.saga, message), self.now, self.time_scale, away)
            check(self.saga, self.now, outcome, self.paused)
            if isinstance(outcome, Decision):
                self.saga = outcome.saga
            self.told.append(outcome)
        return self

    def pause(self, *participants: Participant) -> Story:
        """Pause these participants, and nobody else."""
        self.paused = frozenset(participants)
        return self

    def silence(self, *participants: Participant) -> Story:
        """Let these participants be silent, and nobody else."""
        self.silent = frozenset(participants)
        return self

    def wait(self, seconds: float) -> Story:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
        return self

    def wait_until_due(self) -> float:
        """Let time pass until the order wants attention, and say how many seconds that took."""
        assert self.saga.due_at is not None
        waited, self.now = self.saga.due_at - self.now, self.saga.due_at
        return waited.total_seconds()

    @property
    def decision(self) -> Decision:
        """What the last message brought about."""
        assert isinstance(self.told[-1], Decision)
        return self.told[-1]

    @property
    def why(self) -> Why | None:
        """Why the last message moved nothing; None if it did."""
        last = self.told[-1]
        return last.why if isinstance(last, Ignored) else None

    @property
    def asked(self) -> list[str]:
        """The commands that the last message sent."""
        last = self.told[-1]
        return [type(ask.message).__name__ for ask in last.asks] if isinstance(last, Decision) else []

    @property
    def commands(self) -> list[Command]:
        """The same in full."""
        last = self.told[-1]
        return [ask.message for ask in last.asks] if isinstance(last, Decision) else []

    @property
    def statuses(self) -> list[OrderStatus]:
        """The status of every version that was published."""
        decisions = (told for told in self.told if isinstance(told, Decision))
        return [event.status for decision in decisions for event in decision.events]

    @property
    def ending(self) -> tuple[OrderStatus | None, str | None]:
        """What the public sees: status and reason code."""
        return self.saga.status, self.saga.reason_code

    def question(self, step: Step) -> Question:
        """Look at a question that was asked."""
        question = self.saga.progress.question(step)
        assert question is not None
        return question


REPLIES: Final = STEP_OF
