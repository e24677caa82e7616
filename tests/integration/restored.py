"""Orders, their ledger and Kafka in memory, of which the first two can be restored to an earlier moment.

The sagas are moved by the core, the ledger is the reference service's with the kit's barrier, and topics are lists.
Whatever is drawn at random comes from one generator, so that a seed is a history. `run` lives through a history and
saves a copy after every step; `Shop.restored` cuts it, brings the orders forward as an operator would, reads the
commands again, and lets everything come to its end.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from msgspec import structs

from contracts.assets import AssetApproved, CheckAsset, Trading
from contracts.balance import BalanceCommand, BalanceReply, SettleBalance
from contracts.decimals import ZERO, Price, Quantity
from contracts.vocabulary import OrderKind, OrderType, id_text
from order_saga.core.fold import fold, order_of
from order_saga.core.levels import levels
from order_saga.core.phases import RESTING, TERMINAL
from order_saga.core.saga import ExpiryDue, Fire, Fired, Phase, RecoveryRequested, Requested, Saga, TimerDue
from participants.balance.ledger import Account, AccountLedger
from saga_kit.participant.balance import answer
from saga_kit.participant.barrier import CommandKind, Hold, HoldCommand, apply
from tests.order_saga.core import sample
from tests.order_saga.core.conditional import CASES, PRICES, QUOTE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from contracts.orders import OrderStatusChanged
    from order_saga.core.fold import Folded
    from order_saga.core.saga import Incoming

KINDS: Final = {
    "ReserveBalance": CommandKind.RESERVE,
    "SettleBalance": CommandKind.SETTLE,
    "RefundBalance": CommandKind.REFUND,
    "AdjustBalance": CommandKind.ADJUST,
}
USD, BTC = (sample.USER, "USD"), (sample.USER, "BTC")
LOST: Final = 0.1
"""So many commands are lost on their way, and of the last decision before the cut so many messages of either kind."""


class Saved(NamedTuple):
    """What a backup has, and where in the topics its services stood."""

    sagas: dict[UUID, Saga]
    ledger: ReferenceLedger
    now: datetime
    requests: int
    changes: int
    commands: int
    deposits: int


@dataclass
class ReferenceLedger:
    """The reference balance service: accounts, journal and holds."""

    accounts: AccountLedger = field(
        default_factory=lambda: AccountLedger(
            {USD: Account(Decimal(1_300)), BTC: Account(Decimal("0.025"))}, {sample.USER}
        )
    )
    holds: dict[str, Hold] = field(default_factory=dict)

    def serve(self, message: BalanceCommand) -> BalanceReply:
        """Execute a command, or repeat what became of it."""
        capture = message.capture if isinstance(message, SettleBalance) else ZERO
        command = HoldCommand(
            KINDS[type(message).__name__], message.hold_id, id_text(message.order_id), message.user_id,
            message.asset_id, message.amount, message, capture, message.hold_asked_at, message.revision,
        )  # fmt: skip
        ledger: Any = self.accounts  # which has all but the two members that need a database
        hold, refusal = apply(command, self.holds.get(message.hold_id), ledger)
        self.holds[message.hold_id] = hold
        return answer(command, hold, refusal)

    def sums(self) -> dict[tuple[str, str], tuple[Decimal, Decimal]]:
        """Give what is available and held."""
        return {key: (one.available, one.held) for key, one in self.accounts.accounts.items()}


class Shop:
    """Orders of one user, the services that they need, and the topics between them."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = sample.NOW
        self.sagas: dict[UUID, Saga] = {}
        self.ledger = ReferenceLedger()
        self.requests: list[Requested] = []
        self.changes: list[Any] = []
        self.commands: list[BalanceCommand] = []
        self.events: list[OrderStatusChanged] = []
        self.approvals: list[AssetApproved] = []
        self.deposits: list[Decimal] = []
        self.conditional = rng.choice((0.1, 0.5, 0.9))
        self.replies: list[Any] = []
        self.checks: list[CheckAsset] = []
        self.moves: dict[UUID, list[tuple[int, str]]] = defaultdict(list)
        self.handled = self.changed = self.served = 0
        self.last: tuple[int, int] = (0, 0)

    # One step --------------------------------------------------------------------------------------------------------

    def tell(self, *messages: Incoming, published: bool = True) -> Folded:
        """Have orders decide on messages, and publish what follows."""
        self.last = (len(self.commands), len(self.events))
        folded = fold(self.sagas, messages, self.now)
        self.sagas |= folded.sagas
        for order_id, row in folded.history.items():
            self.moves[order_id] += zip(range(row.version_from + 1, row.version_to + 1), row.moves, strict=True)
        self.events += folded.events
        for ask in folded.asks if published else ():
            if self.rng.random() < LOST:
                continue
            (self.checks if isinstance(ask.message, CheckAsset) else self.commands).append(ask.message)  # type: ignore[arg-type]
        return folded

    def ask_for(self, number: int) -> None:
        """Have a request published."""
        request = self._request()
        order_id = UUID(int=number)
        client_id = self.rng.choice((None, None, "mine"))
        request = structs.replace(request, order_id=order_id, client_order_id=client_id, requested_at=self.now)
        self.requests.append(Requested(request, self.now))

    def _request(self) -> Any:
        if self.rng.random() > self.conditional:
            side = self.rng.choice((OrderType.MARKET_BUY, OrderType.MARKET_SELL))
            quantity = Quantity(self.rng.choice(("0.01", "0.008", "1")))
            return structs.replace(sample.request(), order_type=side, quantity=quantity)
        return self.rng.choice(CASES).requested(quantity=Quantity(self.rng.choice(("0.01", "0.005")))).request

    def handle(self) -> None:
        """Have the orchestrator read its next request."""
        if self.handled < len(self.requests):
            message = self.requests[self.handled]
            self.handled += 1
            request = message.request
            named = [
                saga.order_id
                for saga in self.sagas.values()
                if request.client_order_id is not None and saga.client_order_id == request.client_order_id
                and saga.phase is not Phase.NEW and saga.reason_code != "DUPLICATE_CLIENT_ORDER_ID"
            ]  # fmt: skip
            known = request.order_id in self.sagas and self.sagas[request.order_id].phase is not Phase.NEW
            if named and not known:
                message = structs.replace(message, duplicate_of=named[0])
            self.tell(message)

    def change(self) -> None:
        """Have the orchestrator read the next cancel or change."""
        if self.changed < len(self.changes):
            self.changed += 1
            self.tell(self.changes[self.changed - 1])

    def serve(self) -> None:
        """Have the balance service read its next command."""
        if self.served < len(self.commands):
            self.served += 1
            self.replies.append(self.ledger.serve(self.commands[self.served - 1]))

    def judge(self) -> None:
        """Have the asset service answer a check."""
        if not self.checks:
            return
        check = self.checks.pop(self.rng.randrange(len(self.checks)))
        saga = self.sagas[check.order_id]
        closed = saga.terms is not None and check.order_type.kind is OrderKind.MARKET
        reply = structs.replace(
            sample.approved(self.rng.choice(("50000", "50000", "50000", "50100"))),
            command_id=check.command_id,
            order_id=check.order_id,
            trading=Trading.CLOSED if closed else Trading.OPEN,
            session_ends_at=self.now + timedelta(days=1),
            as_of=self.now,
            quoted_at=self.now,
        )
        if self.rng.random() < 0.1:
            refusal = structs.replace(sample.not_approved(), command_id=check.command_id, order_id=check.order_id)
            self.replies.append(refusal)
            return
        self.approvals.append(reply)
        self.replies.append(reply)

    def hear(self) -> None:
        """Have the orchestrator read an answer, in any order, now and then twice."""
        if self.replies:
            number = self.rng.randrange(len(self.replies))
            reply = self.replies[number]
            if self.rng.random() < 0.9:
                del self.replies[number]
            self.tell(reply)

    def wait(self, seconds: float = 0.0) -> None:
        """Let time pass, and what is due happen."""
        self.now += timedelta(seconds=seconds or self.rng.choice((0.1, 1.0, 3.0, 12.0)))
        for order_id, saga in list(self.sagas.items()):
            if saga.due_at is not None and saga.due_at <= self.now:
                self.tell(TimerDue(order_id))
            if saga.phase in RESTING and saga.expires_at is not None and saga.expires_at <= self.now:
                self.tell(ExpiryDue(order_id))

    def tick(self) -> None:
        """Have a tick fire an order that rests."""
        resting = [saga for saga in self.sagas.values() if saga.phase in RESTING and saga.parked_reason is None]
        if not resting:
            return
        saga = self.rng.choice(resting)
        assert saga.terms is not None
        assert saga.order_type is not None
        assert saga.progress.rest is not None
        waits_for = levels(saga.order_type, saga.terms, triggered=saga.progress.triggered)
        away = PRICES[saga.order_type.kind]["fires"]
        price = Price(waits_for[0].price if waits_for else QUOTE - away if saga.side == "SELL" else QUOTE + away)
        watermark = None if waits_for or saga.order_type.kind is OrderKind.MARKET else Price(QUOTE)
        sequence = saga.progress.rest.from_sequence + 1
        self.tell(Fired(saga.order_id, Fire(sequence, price, self.now, watermark)))

    def user(self) -> None:
        """Have the user cancel or change one of the orders."""
        if not self.sagas:
            return
        order_id = self.rng.choice(list(self.sagas))
        amend = sample.amend(f"a{len(self.changes)}", quantity=self.rng.choice(("0.004", "0.006", "0.012")))
        wishes = (sample.cancel(), amend, amend, sample.suspend(), sample.release())
        self.changes.append(structs.replace(self.rng.choice(wishes), order_id=order_id))

    def deposit(self, amount: Decimal | None = None) -> None:
        """Have money come in."""
        given = amount or Decimal(self.rng.choice((100, 700)))
        self.deposits.append(given)
        self.ledger.accounts.deposit(f"d{len(self.deposits)}", *USD, given)

    # A life ----------------------------------------------------------------------------------------------------------

    def save(self) -> Saved:
        """Make a backup."""
        ledger = copy.deepcopy(self.ledger)
        return Saved(dict(self.sagas), ledger, self.now, self.handled, self.changed, self.served, len(self.deposits))

    def lose_the_last(self) -> None:
        """Crash: of what the last decision wanted published some is not."""
        commands, events = self.last
        self.commands[commands:] = [one for one in self.commands[commands:] if self.rng.random() > 0.5]
        self.events[events:] = [one for one in self.events[events:] if self.rng.random() > 0.5]

    def recovery(self, order_id: UUID, commands: Iterable[BalanceCommand]) -> RecoveryRequested:
        """Tell an order what Kafka has of it."""
        told = {one.version: one for one in self.events if one.order_id == order_id}
        mine = [one for one in self.requests if order_of(one) == order_id]
        return RecoveryRequested(
            order_id,
            sample.USER,
            sample.OPERATOR,
            tuple(told[version] for version in sorted(told)),
            tuple(one for one in commands if one.order_id == order_id),
            mine[0] if mine else None,
            tuple(one for one in self.approvals if one.order_id == order_id),
        )

    def restore(self, saved: Saved, *, forward: bool = True, sure: int | None = None) -> list[UUID]:
        """Go on with a backup, as an operator does; return the orders that were behind.

        Without `forward` it is forgotten. Commands are read again from `sure` on, which the backup has at least.
        """
        sure = self.rng.randrange(saved.commands + 1) if sure is None else sure
        self.sagas, self.ledger = dict(saved.sagas), copy.deepcopy(saved.ledger)
        self.replies, self.checks = [], []
        self.now += timedelta(minutes=10)
        self.moves = defaultdict(list)
        forgotten, self.deposits = self.deposits[saved.deposits :], self.deposits[: saved.deposits]
        for amount in forgotten:
            self.deposit(amount)
        commands = self.commands[sure:]
        named = {one.order_id for one in self.events} | {one.order_id for one in commands}
        before = dict(self.sagas)
        for order_id in sorted(named) if forward else ():
            self.tell(self.recovery(order_id, commands), published=False)
        self.handled, self.changed, self.served = (
            self.rng.randrange(saved.requests + 1), self.rng.randrange(saved.changes + 1), sure,
        )  # fmt: skip
        moved = ("phase", "version", "progress", "parked_reason")
        return [
            order_id
            for order_id in named
            if order_id not in before
            or [getattr(before[order_id], name) for name in moved]
            != [getattr(self.sagas[order_id], name) for name in moved]
        ]

    def come_to_an_end(self) -> None:
        """Let everything happen that can; what rests is cancelled then."""
        for _ in range(400):
            while self.handled < len(self.requests):
                self.handle()
            while self.changed < len(self.changes):
                self.change()
            while self.served < len(self.commands):
                self.serve()
            while self.checks:
                self.judge()
            while self.replies:
                self.hear()
            alive = [saga for saga in self.sagas.values() if saga.phase not in TERMINAL and saga.parked_reason is None]
            if not alive:
                return
            if all(saga.phase in RESTING and saga.due_at is None for saga in alive):
                self.changes += [structs.replace(sample.cancel(), order_id=saga.order_id) for saga in alive]
            self.wait(30.0)
        raise AssertionError(f"it does not end: {[saga.phase for saga in self.sagas.values()]}")

    def told(self) -> dict[UUID, OrderStatusChanged]:
        """Give the highest version that was told of each order."""
        highest: dict[UUID, OrderStatusChanged] = {}
        for event in self.events:
            if event.order_id not in highest or highest[event.order_id].version < event.version:
                highest[event.order_id] = event
        return highest


def run(rng: Random, steps: int) -> tuple[Shop, list[Saved]]:
    """Live through a history, and make a backup after each step."""
    shop, saved = Shop(rng), []
    number = 0
    for _ in range(steps):
        saved.append(shop.save())
        step = rng.choices(("ask", "handle", "change", "serve", "judge", "hear", "wait", "tick", "user", "deposit"),
                           (2, 4, 3, 6, 4, 8, 1, 2, 2, 0.2))[0]  # fmt: skip
        if step == "ask":
            number += 1
            shop.ask_for(number)
        else:
            getattr(shop, step)()
    return shop, saved
