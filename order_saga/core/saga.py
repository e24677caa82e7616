"""The values that the core works on: a saga, its questions, what comes in, what is decided. Data, never decisions."""

from __future__ import annotations

from datetime import datetime
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from contracts.amends import OrderAmendment, OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import AssetApproved, AssetRefused, CheckAsset
from contracts.balance import BalanceCommand, BalanceReply
from contracts.decimals import Exact, Money, Price, Quantity
from contracts.orders import InvalidOrder, Order, OrderCancelRequested, OrderRequested, OrderStatusChanged
from contracts.terms import Terms
from contracts.vocabulary import HoldState, OrderStatus, OrderType, ReasonCode, Side, Word, id_text
from order_saga.core.trail import trail_level

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(Word):
    """Where a saga stands; finer than the public status. What each means stands in `phases.PHASES`."""

    NEW = "NEW"
    VALIDATING = "VALIDATING"
    RESERVING = "RESERVING"
    ENTRY = "ENTRY"
    QUEUED = "QUEUED"
    WORKING = "WORKING"
    AMENDING = "AMENDING"
    REVISING = "REVISING"
    RAISING = "RAISING"
    LOWERING = "LOWERING"
    SETTLING = "SETTLING"
    REFUNDING = "REFUNDING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


class Step(Word):
    """A question that a saga can ask; its command's id is `<order_id>:<step>`, see `Saga.command_id`."""

    CHECK = "check"
    RESERVE = "reserve"
    RECHECK = "recheck"
    """May the terms be changed? Asked for each amend, as `<order_id>:check.<n>`."""
    RAISE = "raise"
    """More money for new terms, as `<order_id>:adjust.<n>`."""
    LOWER = "lower"
    """What is held beyond the terms in force goes back; `<order_id>:adjust.<n>` too."""
    SETTLE = "settle"
    REFUND = "refund"


class Participant(Word):
    """Who answers questions; an operator may pause one."""

    ASSETS = "assets"
    BALANCE = "balance"


class Availability(Word):
    """Whether a participant may be asked at present."""

    AVAILABLE = "AVAILABLE"
    SILENT = "SILENT"
    """It has not answered for a while: the circuit breaker is open, and only probes repeat their questions."""
    PAUSED = "PAUSED"
    """An operator has paused it: nobody asks it, and no time counts against that."""


class Answer(Word):
    """What became of a question."""

    OPEN = "OPEN"
    YES = "YES"
    NO = "NO"
    ABANDONED = "ABANDONED"


class Why(Word):
    """Why a message moved nothing."""

    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN = "unknown"
    CONFLICT = "conflict"
    TOO_EARLY = "too_early"
    """A change of an order that does not rest yet."""
    NOT_ALLOWED = "not_allowed"
    TOO_LATE = "too_late"
    PARKED = "parked"
    NOT_DUE = "not_due"
    TOO_MANY = "too_many"
    STALE = "stale"
    """An approval whose price is too old to trade on; its question waits for another one."""


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question of the saga. While it is open, `due_at` says when it needs attention again.

    Patience counts from `asked_at`, and so do `attempts`: 0 when the question is about to be asked anew. That does not
    say that it never was: `sent` does, and what an older version stored counts as sent.
    """

    step: Step
    asked_at: datetime
    due_at: datetime
    answer: Answer = Answer.OPEN
    attempts: int = 1
    sent: bool = True
    """False as long as no decision has sent its command: then nobody can have acted on it."""
    sent_at: datetime | None = None
    """When the command for the hold was sent the first time; noted of that question only, not by older versions."""
    held_back: bool = False
    """It waits, unasked and without a timeout, for a participant that is paused."""
    reason_code: ReasonCode | None = None
    reason: str | None = None
    number: int | None = None
    """Which one of its kind it is, from 1; None for a question that an order asks once."""


class Quote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The price and the rules that every later sum uses; as old as `made_at` says, see `AssetApproved.quoted_at`."""

    price: Price
    sequence: int
    as_of: datetime
    tick: Price
    step: Quantity
    fee_bps: int
    cash_asset_id: str
    cash_scale: int
    rules_version: int
    made_at: datetime = msgspec.field(name="received_at")  # as it is stored since the first version
    is_open: bool = True
    """Whether the asset was traded then."""
    session_ends_at: datetime | None = None
    """When the asset's session ended then, or its next one; None for an asset without sessions."""


class Mark(msgspec.Struct, frozen=True):
    """What the orders know of an asset's market: the last tick that was judged, as of the reading."""

    sequence: int
    price: Price
    as_of: datetime
    live: bool
    """Whether it could fire an order now: fresh, and the asset is traded."""


class Fire(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tick that an order is bound to: it fills at this price, however late that is carried out."""

    sequence: int
    price: Price
    as_of: datetime
    watermark: Price | None = None
    """Of a trailing stop: its best price up to this tick, this tick included."""


class Rest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Since when an order waits for ticks: only those after `from_sequence` count."""

    from_sequence: int
    entered_at: datetime
    watermark: Price | None = None
    """Of a trailing stop: the price that it started from."""


class HoldTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """The terms of the order's hold, as RESERVE asked for them, or as the last adjustment that was confirmed left them.

    REFUND and SETTLE name the same ones.
    """

    asset_id: str
    amount: Money
    revision: int = 0
    """The number of that adjustment."""


class SettlementTerms(msgspec.Struct, frozen=True):
    """The terms of the settlement, as the fill made them: what is captured of the hold, credited and charged."""

    capture: Money
    """Of the hold's asset."""
    credit_asset_id: str
    credit: Money
    fee_asset_id: str
    fee: Money


class Amending(msgspec.Struct, frozen=True, omit_defaults=True):
    """An amend that is not done yet. The terms in force are the old ones."""

    asked: OrderAmendment
    quote: Quote | None = None
    """As it was approved: the rules that the new terms go by."""
    trails_from: Price | None = None
    """Of a trailing stop: its watermark when the new terms were weighed."""


class AsRequested(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an amended order was asked with, by which a repeated request is known."""

    quantity: Quantity
    terms: Terms
    slippage_bps: int | None = None


class Suspension(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who keeps a resting order from being fired."""

    requested_by: str
    reason: str | None = None


class LastWish(msgspec.Struct, frozen=True):
    """The last hold or release that was acted on. One that its requester asked for before it comes too late."""

    requested_by: str
    requested_at: datetime


class Outcome(msgspec.Struct, frozen=True):
    """How a saga that is refunding will end; shown only at the end."""

    status: OrderStatus
    reason_code: ReasonCode
    reason: str | None = None


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the saga knows beyond the public order; stored as one document."""

    questions: tuple[Question, ...] = ()
    quote: Quote | None = None
    hold: HoldTerms | None = None
    """Fixed when RESERVE is asked for the first time; an order of version 0.2 or older has none."""
    settlement: SettlementTerms | None = None
    """Fixed with the fill; the same."""
    hold_state: HoldState | None = None
    outcome: Outcome | None = None
    rest: Rest | None = None
    """Fixed when the order begins to wait for a price."""
    ends_at: datetime | None = None
    """Fixed with the first rest of an order that may not wait for ever and names no time itself."""
    fire: Fire | None = None
    """Fixed when a tick fires it."""
    triggered: bool = False
    """A stop with a limit whose trigger was met: it waits for its limit, and the trigger is never tested again."""
    early_cancels: tuple[str, ...] = ()
    """Who asked to cancel before the request came (see `advance`)."""
    revision: int = 1
    """The number of the terms in force."""
    amend: OrderAmendment | None = None
    """The amend that the order shows: the last one that was asked for or that ended."""
    amending: Amending | None = None
    """The amend that is open."""
    amend_ids: tuple[str, ...] = ()
    """Every amend that was acted on, so that none counts twice."""
    as_requested: AsRequested | None = None
    """Kept when the first amend is put in force."""
    trails_from: Price | None = None
    """Of an amended trailing stop: the price that its worst price is reckoned from, instead of its quote."""
    checks: int = 0
    """Amends that the asset service was asked about."""
    adjustments: int = 0
    """Adjustments of the hold that were asked for; each number is used once, whatever the answer."""
    adjusting: Money | None = None
    """The amount that the last of them asked for."""
    unconfirmed: tuple[Money, ...] = ()
    """What the hold may be besides its known amount: what was asked for since, and not refused."""
    suspended: Suspension | None = None
    suspensions: int = 0
    """How often the order was suspended."""
    wish: LastWish | None = None
    release_refused: ReasonCode | None = None
    """Why the last release was not possible."""
    told: OrderStatus | None = None
    """Of an order that was brought forward after a restore (`recovery`) and is settling: what everybody was told last.
    Its settlement can't turn out otherwise any more."""

    def question(self, step: Step) -> Question | None:
        """Find a question that was asked."""
        for question in self.questions:
            if question.step is step:
                return question
        return None

    def open(self) -> tuple[Question, ...]:
        """List the questions that wait for an answer."""
        return tuple([question for question in self.questions if question.answer is Answer.OPEN])


class Saga(msgspec.Struct, frozen=True):
    """One order and how far it has come. `status` is None and `version` 0 until its request has been seen."""

    order_id: UUID
    user_id: str
    phase: Phase
    created_at: datetime
    updated_at: datetime
    asset_id: str | None = None
    order_type: OrderType | None = None
    quantity: Quantity | None = None
    price: Price | None = None
    slippage_bps: int | None = None
    client_order_id: str | None = None
    terms: Terms | None = None
    """What a conditional order waits for; a market order has none, unless it may queue."""
    traceparent: str | None = None
    status: OrderStatus | None = None
    version: int = 0
    reason_code: ReasonCode | None = None
    reason: str | None = None
    cancel_requested: bool = False
    filled_quantity: Money = Money(0)
    average_price: Exact | None = None
    fee: Money = Money(0)
    progress: Progress = Progress()
    due_at: datetime | None = None
    overdue_since: datetime | None = None
    parked_reason: str | None = None
    history_seq: int = 0

    @property
    def side(self) -> Side:
        """Buy or sell; an order without a type never gets far enough to ask."""
        return self.order_type.side if self.order_type is not None else Side.BUY

    @property
    def expires_at(self) -> datetime | None:
        """When the order ends if nothing has fired it: as it asks for, or as was fixed when it began to rest."""
        return None if self.terms is None else self.terms.expires_at or self.progress.ends_at

    def command_id(self, step: Step) -> str:
        """Name a question's command; also the id of what it makes (`<order_id>:reserve` is the hold).

        A question that may be asked several times has its number in the name; before the first time it has none.
        """
        if step in _NUMBERED:
            question = self.progress.question(step)
            return "" if question is None else f"{id_text(self.order_id)}:{_NUMBERED[step]}.{question.number}"
        return id_text(self.order_id) + _ID_ENDS[step]


_ID_ENDS = {step: f":{step}" for step in Step}
_NUMBERED: Final = {Step.RECHECK: "check", Step.RAISE: "adjust", Step.LOWER: "adjust"}


class Requested(msgspec.Struct, frozen=True):
    """A request with what the worker knows of it: when it was sent, and an older order with its client id.

    `sent_at` is the earliest that the broker or the envelope tells: publishing it again makes no record younger.
    """

    request: OrderRequested | InvalidOrder
    sent_at: datetime
    traceparent: str | None = None
    duplicate_of: UUID | None = None
    too_many_open: int | None = None
    """How many open conditional orders the user has in the asset already, if no further one is allowed."""


class TimerDue(msgspec.Struct, frozen=True):
    """An order's `due_at` has come. A probe asks a silent participant all the same (the breaker is half open)."""

    order_id: UUID
    probe: bool = False


class Fired(msgspec.Struct, frozen=True):
    """A tick has fired a resting order. Binding: it was committed before anything that comes after it."""

    order_id: UUID
    fire: Fire


class Triggered(msgspec.Struct, frozen=True):
    """A tick has met the trigger of a resting stop whose limit it does not satisfy."""

    order_id: UUID
    sequence: int
    price: Price


class ExpiryDue(msgspec.Struct, frozen=True):
    """A resting order's `expires_at` has come."""

    order_id: UUID


class ParkRequested(msgspec.Struct, frozen=True):
    """A message for this order can't be handled: leave the order alone until an operator resumes it."""

    order_id: UUID
    reason: str


class ResumeRequested(msgspec.Struct, frozen=True):
    """An operator says that a parked order may go on."""

    order_id: UUID
    requested_by: str


class AskAgainRequested(msgspec.Struct, frozen=True):
    """An operator wants the open questions of an order asked again now, without waiting for their time."""

    order_id: UUID
    requested_by: str


class RecoveryRequested(msgspec.Struct, frozen=True):
    """An operator has restored the database to an earlier state, and tells an order what Kafka has of it.

    A restored order may know all of it, or less. `told`: its versions, in ascending order; `commands`: what it has sent
    to the balance service, in that order; `approvals`: what the asset service answered.
    """

    order_id: UUID
    user_id: str
    requested_by: str
    told: tuple[OrderStatusChanged, ...] = ()
    commands: tuple[BalanceCommand, ...] = ()
    request: Requested | None = None
    approvals: tuple[AssetApproved, ...] = ()


Reply = AssetApproved | AssetRefused | BalanceReply
Command = CheckAsset | BalanceCommand
FromMarket = Fired | Triggered
ChangeRequested = OrderAmendRequested | OrderHoldRequested | OrderReleaseRequested
Incoming = (
    Requested
    | OrderCancelRequested
    | ChangeRequested
    | Reply
    | TimerDue
    | FromMarket
    | ExpiryDue
    | ParkRequested
    | ResumeRequested
    | AskAgainRequested
    | RecoveryRequested
)


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an order's history.

    `kind` is received, asked, answered, waits, rests, amended, amend_refused, held, released, triggered, fired,
    expired, timed_out, ignored, status, overdue, parked, resumed, woken or recovered.
    """

    kind: str
    name: str
    status: OrderStatus | None = None
    version: int | None = None
    detail: Mapping[str, Any] = {}


class Ask(msgspec.Struct, frozen=True):
    """A command to send. It is not stored: its open question stands for it, and a lost one is sent again."""

    step: Step
    message: Command
    command_id: str
    attempt: int
    traceparent: str | None


class Fill(msgspec.Struct, frozen=True):
    """An execution; busted when its settlement was refused. `fill_id` is `<order_id>:fill`."""

    fill_id: str
    order_id: UUID
    quantity: Quantity
    price: Price
    fee: Money
    busted: bool = False


class Decision(msgspec.Struct, frozen=True):
    """What a message changed: the saga as it is now, and everything that must be stored or sent for it."""

    saga: Saga
    entries: tuple[HistoryEntry, ...] = ()
    asks: tuple[Ask, ...] = ()
    events: tuple[OrderStatusChanged, ...] = ()
    fill: Fill | None = None


class Ignored(msgspec.Struct, frozen=True):
    """A message that moved nothing, and why; it is counted and written to the history all the same."""

    why: Why
    name: str
    detail: Mapping[str, Any] = {}


def snapshot(saga: Saga) -> Order:
    """Show the order as its users see it; call it only once the saga has a status."""
    if saga.status is None:
        raise ValueError(f"order {saga.order_id} has no status yet")
    quote = saga.progress.quote
    # A quote is learned between two versions, and one version always looks the same (`api.orders` has the same rule).
    cash_asset_id = None if quote is None or saga.status is OrderStatus.PENDING else quote.cash_asset_id
    shown = _as_order((*_shown(saga), cash_asset_id))
    return Order(*shown) if saga.terms is None else Order(*shown, **_conditional(saga, saga.terms))


def _conditional(saga: Saga, terms: Terms) -> dict[str, Any]:
    """Show the fields of a conditional order. What it holds is shown from its rest on until the money has moved."""
    shown = {name: getattr(terms, name) for name in Terms.__struct_fields__} | {"expires_at": saga.expires_at}
    progress = saga.progress
    shown |= {"triggered": progress.triggered, "amend": progress.amend, "release_refused": progress.release_refused}
    shown |= {"revision": progress.revision if progress.rest is not None else None}
    shown |= {"on_hold": progress.suspended is not None and saga.phase in UNMOVED}
    if saga.phase in UNMOVED and progress.rest is not None and progress.hold is not None:
        shown |= {"held_asset_id": progress.hold.asset_id, "held_amount": progress.hold.amount}
    if (watermark := _watermark(saga)) is not None and progress.quote is not None:
        shown["watermark"] = watermark
        tick = progress.quote.tick
        stands_at = trail_level(saga.side, watermark, terms.trail_amount, terms.trail_bps, tick)
        if 0 < stands_at <= Price.maximum:  # where the market has moved since the quote; no price there can fire it
            shown["trigger_price"] = stands_at
    return shown


def _watermark(saga: Saga) -> Price | None:
    """Give the watermark as of the last version: where a trailing stop began, or, once fired, the last that counted."""
    fire, rest = saga.progress.fire, saga.progress.rest
    if rest is None or rest.watermark is None:  # it trails nothing
        return None
    return rest.watermark if fire is None or saga.phase in UNMOVED else fire.watermark or rest.watermark


UNMOVED: Final = frozenset(
    {Phase.QUEUED, Phase.WORKING, Phase.AMENDING, Phase.RAISING, Phase.LOWERING, Phase.REFUNDING}
)
"""The phases of an order whose money is held as it rests: a fire or an expiry in them shows nothing yet, since it makes
no version."""
REQUESTED_FIELDS: Final = ("user_id", "asset_id", "order_type", "quantity", "price", "client_order_id")
"""What a request says of its order by the same names as the saga; `slippage_bps` and `terms` are resolved first."""
requested_fields: Final = attrgetter(*REQUESTED_FIELDS)
"""Reads them from a request or from a saga."""
_FLAT_FIELDS: Final = Order.__struct_fields__[: Order.__struct_fields__.index("fee_asset_id") + 1]
_SHOWN_FIELDS: Final = tuple(name for name in _FLAT_FIELDS if name in Saga.__struct_fields__)
"""All fields of every order but its currencies are the saga's own, by the same names."""
_shown: Final = attrgetter(*_SHOWN_FIELDS)
_CURRENCIES: Final = frozenset({"cash_asset_id", "fee_asset_id"})
_as_order: Final = itemgetter(*(-1 if name in _CURRENCIES else _SHOWN_FIELDS.index(name) for name in _FLAT_FIELDS))
"""Sorts them by the fields of an order; the currency, which stands last, is no field of the saga."""
