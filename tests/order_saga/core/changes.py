"""A resting order that is amended, suspended and released: its messages, honest participants, and a bad network.

As in `world`, each message that was ever sent may arrive at any time, again, out of order, or never. The balance
service follows the table of adjustments; some of its instances adjust no hold, so any attempt may be answered by one
that does or by one that doesn't. In every state the true hold is compared with what the order may cost.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from contracts.assets import CheckAsset, Trading
from contracts.balance import (
    AdjustBalance,
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceRefunded,
    BalanceRefusal,
    BalanceSettled,
    RefundBalance,
    SettleBalance,
    SettlementRefused,
)
from contracts.decimals import Money, subtract
from contracts.vocabulary import HoldState, OrderKind, OrderType
from order_saga.core.phases import RESTING, TERMINAL
from order_saga.core.saga import Command, Incoming, Mark, Phase, Reply, Saga, Step
from tests.order_saga.core import sample
from tests.order_saga.core.invariants import most_that_it_costs
from tests.order_saga.core.walker import Edge, Explored, Walk, explore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from order_saga.core.saga import Requested

_LONG_AGO: Final = sample.NOW.replace(year=2025)
_NO: Final = (BalanceRefusal.INSUFFICIENT_BALANCE, BalanceRefusal.NOT_SUPPORTED, BalanceRefusal.HOLD_CONFLICT)
"""A no to an adjustment, one that is a yes to a lowering, and one that parks the order, as every other one does."""
LESS: Final = {"quantity": "0.005"}


class Case(NamedTuple):
    """A resting order, an amend of it that needs more money, and the market's prices that tell their terms apart."""

    order_type: OrderType
    terms: tuple[tuple[str, Any], ...]
    more: tuple[tuple[str, str], ...]
    met_by_neither: str
    met_by_more: str
    met_by_both: str

    def __str__(self) -> str:
        """Name the case in a report of tests."""
        return self.order_type

    def requested(self) -> Requested:
        """Wrap the request for the order."""
        return sample.conditional(self.order_type, **dict(self.terms))

    def resting(self) -> Saga:
        """Give the order as it rests at first; the asset of a market order is closed."""
        trading = Trading.CLOSED if self.order_type.kind is OrderKind.MARKET else Trading.OPEN
        return sample.Story(self.requested(), sample.approved(trading=trading), sample.reserved()).saga

    def marks(self) -> dict[str, Mark]:
        """List the stands of the market, all newer than any quote."""
        stands = {"neither": self.met_by_neither, "more": self.met_by_more, "both": self.met_by_both}
        return {f"market meets {name}": sample.mark(price) for name, price in stands.items()}


CHANGES: Final = (
    Case(OrderType.LIMIT_BUY, (("limit_price", "49000"),), (("limit_price", "49500"),), "50000", "49200", "48000"),
    Case(
        OrderType.STOP_LOSS_SELL,
        (("trigger_price", "48000"),),
        (("trigger_price", "49500"), ("quantity", "0.02")),
        "50000",
        "49200",
        "47000",
    ),
)


QUEUED: Final = Case(
    OrderType.MARKET_SELL,
    (("price", "50000"), ("queue_when_closed", True)),
    (("quantity", "0.02"),),
    "50000",
    "50000",
    "50000",
)
"""One that waits for the opening: no amend changes it but in its time, and every live price fires it."""


def at_any_time(case: Case) -> dict[str, Incoming]:
    """List what may come whatever the participants do, where the market doesn't matter; each amend counts once."""
    told: dict[str, Incoming] = {
        "amend to more": sample.amend("more", **dict(case.more)),
        "amend to less": sample.amend("less", **LESS),
        "hold by the user": sample.suspend(),
        "hold by an operator": sample.suspend(sample.OPERATOR),
        "cancel": sample.cancel(),
        "fired": sample.fired(case.met_by_both),
        "timer": sample.timer(),
        "park": sample.park(),
    }
    return told


def in_a_market(case: Case) -> dict[str, tuple[Incoming, Mark]]:
    """List what else may come, at each stand of the market."""
    told: dict[str, Incoming] = {
        "release by the user": sample.release(),
        "release by an operator": sample.release(sample.OPERATOR),
        "resume": sample.resume(),
    }
    return {f"{name}, {stand}": (told[name], mark) for name, (stand, mark) in product(told, case.marks().items())}


_SHORT_LIVED: Final = frozenset({Step.RECHECK, Step.RAISE, Step.LOWER})
_LEFT: Final[dict[str, Any]] = {
    "revision": 1,
    "as_requested": None,
    "amend_ids": (),
    "checks": 0,
    "adjustments": 0,
    "adjusting": None,
    "suspended": None,
    "release_refused": None,
}
"""What affects nothing any more once an order has left its rest: how it was changed before."""


class ChangeWalk(Walk):
    """The graph of an order that rests. Its quotes are older than any mark, so their age affects nothing."""

    def reduced(self, saga: Saga, now: datetime) -> Saga:
        """Leave the age of the quotes out, and of an order that has left its rest how it was changed."""
        saga = super().reduced(saga, now)
        if saga.phase not in RESTING:
            kept = tuple(one for one in saga.progress.questions if one.step not in _SHORT_LIVED)
            hold = {} if saga.phase not in TERMINAL else {"hold": None, "unconfirmed": ()}
            return structs.replace(saga, progress=structs.replace(saga.progress, questions=kept, **_LEFT, **hold))
        progress, amending = saga.progress, saga.progress.amending
        if amending is not None and amending.quote is not None:
            amending = structs.replace(amending, quote=structs.replace(amending.quote, made_at=_LONG_AGO))
        quote = None if progress.quote is None else structs.replace(progress.quote, made_at=_LONG_AGO)
        return structs.replace(saga, progress=structs.replace(progress, quote=quote, amending=amending))


# Whatever is said -----------------------------------------------------------------------------------------------------


def told(case: Case) -> tuple[dict[str, Incoming], dict[str, Mark]]:
    """List every message that such an order may get, also false ones, and the market of those for which it counts."""
    named: dict[str, tuple[Incoming, Mark | None]] = {
        name: (message, None) for name, message in at_any_time(case).items()
    }
    named |= in_a_market(case)
    for number, (stand, mark) in product((1, 2), case.marks().items()):
        named[f"approved {number}, {stand}"] = sample.rechecked(number), mark
        named[f"adjusted {number}, {stand}"] = sample.adjusted(number), mark
    others: dict[str, Incoming] = {
        "request": case.requested(),
        "triggered": sample.triggered(case.met_by_both),
        "expiry due": sample.expiry_due(),
        "ask again": sample.ask_again(),
        "recovery of what is known": sample.recovery(),
        "approved again": sample.approved(),
        "reserved again": sample.reserved(),
        "not reserved": sample.not_reserved(),
        "settled": sample.settled(),
        "not settled": sample.not_settled(),
        "refunded": sample.refunded(),
        "not refunded": sample.not_refunded(),
        "asset refused 1": sample.not_rechecked(),
        "approved for another asset": sample.rechecked(asset_id="ETH"),
        "adjusted to another amount": structs.replace(sample.adjusted(), amount=Money(7)),
        "adjusted for another user": structs.replace(sample.adjusted(), user_id="bob"),
        "adjusted by another revision": structs.replace(sample.adjusted(), revision=9),
        "refused by another revision": structs.replace(sample.not_adjusted(), revision=9),
        "adjusted 3": sample.adjusted(3),
    }
    for number, code in product((1, 2), _NO):
        others[f"not adjusted {number}: {code}"] = sample.not_adjusted(code, number)
    for state in (HoldState.REFUNDED, HoldState.SETTLED, HoldState.TOMBSTONE):
        others[f"adjusted {state}"] = sample.adjusted(1, state)
        others[f"not adjusted {state}"] = sample.not_adjusted(BalanceRefusal.CLOSED, 1, state)
    named |= {name: (message, None) for name, message in others.items()}
    messages = {name: message for name, (message, _) in named.items()}
    return messages, {name: mark for name, (_, mark) in named.items() if mark is not None}


@cache
def walked_changes(case: Case) -> tuple[Walk, Explored[int]]:
    """Walk all states of a resting order that gets any message."""
    messages, marks = told(case)
    walk = ChangeWalk(messages, during_pauses=("timer", "amend to more", "fired"), marks=marks, start=case.resting())
    return walk, explore(0, walk.successors)


# Honest participants on a bad network ---------------------------------------------------------------------------------


class Hold(NamedTuple):
    """The balance service's row: its state, its whole amount, and its newest adjustment with the answer to that."""

    state: HoldState
    amount: Money
    revision: int = 0
    refusal: BalanceRefusal | None = None


class State(NamedTuple):
    """The order, the real hold, and a bit for each message that was ever sent."""

    saga: int
    hold: Hold
    sent: int


class ChangingWorld:
    """The graph of a resting order with its participants and its network."""

    def __init__(self, case: Case) -> None:
        """Start with an order that rests and holds what it asked for, and an empty network."""
        saga = case.resting()
        assert saga.progress.hold is not None
        self._always, self._stands = at_any_time(case), case.marks()
        self._in_market = in_a_market(case)
        messages = self._always | {name: message for name, (message, _) in self._in_market.items()}
        self.walk = ChangeWalk(messages, marks={name: mark for name, (_, mark) in self._in_market.items()}, start=saga)
        self.start = State(0, Hold(HoldState.HELD, saga.progress.hold.amount), 0)
        self._bits: dict[Reply | Command, int] = {}
        self._sent: dict[int, tuple[Reply | Command, ...]] = {}
        self._names: dict[Reply, tuple[str, ...]] = {}

    def successors(self, state: State) -> Iterator[State]:
        """List the target of each move: what may always come, time that passes, and each arrival of a message."""
        for name in (*self._always, *self._in_market):
            if name != "fired" or self.walk.states[state.saga].progress.suspended is None:  # no tick fires it then
                yield self.tell(state, name)
        for to in self.walk.passes(state.saga).values():
            yield state._replace(saga=to)
        for message in self.network(state.sent):
            if isinstance(message, Command):
                yield from self.serve(state, message)
            else:
                yield from self.hear(state, message)

    def tell(self, state: State, name: str) -> State:
        """Let a message arrive at the order."""
        return self._moved(state, self.walk.edge(state.saga, name))

    def hear(self, state: State, reply: Reply) -> Iterator[State]:
        """Let a reply arrive at the order, wherever the market stands."""
        parked = self.walk.states[state.saga].parked_reason
        for name in self._named(reply):
            to = self.tell(state, name)
            assert self.walk.states[to.saga].parked_reason == parked, f"honest replies park nothing: {reply}"
            yield to

    def serve(self, state: State, command: Command) -> Iterator[State]:
        """Let a command arrive at its participant, once for each verdict that it may give."""
        for hold, reply in verdicts(state.hold, command):
            yield self._that_counts(State(state.saga, hold, state.sent | self._bit(reply)))

    def network(self, sent: int) -> tuple[Reply | Command, ...]:
        """Decode the bits. All commands of one id are one command."""
        known = self._sent.get(sent)
        if known is None:
            known = self._sent[sent] = tuple(message for message, bit in self._bits.items() if sent & bit)
            ids = [message.command_id for message in known if isinstance(message, Command)]
            assert len(ids) == len(set(ids)), "a repeated command is the very same"
            assert not {RefundBalance, SettleBalance} <= {type(message) for message in known}, "forward or back"
        return known

    def judge(self, state: State) -> None:
        """Fail unless what the order shows and may cost agrees with the true hold."""
        saga, hold = self.walk.states[state.saga], state.hold
        if hold.state is HoldState.HELD:
            known = saga.progress.hold
            assert known is not None
            assert hold.amount in {known.amount, *saga.progress.unconfirmed}, "the order knows what may be held"
            assert hold.revision >= known.revision
        if saga.phase in RESTING:
            assert hold.state is HoldState.HELD
        if saga.phase in {*RESTING, Phase.SETTLING} and hold.state is HoldState.HELD:
            assert hold.amount >= most_that_it_costs(saga), "more is held before terms count, and less after"
        if saga.phase in {Phase.CANCELLED, Phase.FAILED}:
            assert hold.state is HoldState.REFUNDED, "I3: no terminal status while a hold is active"
        if saga.phase is Phase.COMPLETED:
            assert hold.state is HoldState.SETTLED, "I4: completed means settled"
        if hold.state is HoldState.SETTLED:
            assert saga.phase in {Phase.SETTLING, Phase.COMPLETED}, "I5: settled is never refunded"

    def ends(self, state: State, name: str) -> set[Phase]:
        """Give how an order ends by a cancel or a fire, with no more than the one answer that it then needs."""
        state = self.tell(state, name)
        command = next(c for c in self.network(state.sent) if isinstance(c, (RefundBalance, SettleBalance)))
        answered = [
            self.tell(served, self._named(reply)[0])
            for (_, reply), served in zip(verdicts(state.hold, command), self.serve(state, command), strict=True)
        ]
        return {self.walk.states[to.saga].phase for to in answered}

    def _moved(self, state: State, edge: Edge) -> State:
        sent = state.sent
        for ask in edge.asks:
            sent |= self._bit(ask.message)
        return self._that_counts(State(edge.to, state.hold, sent))

    def _that_counts(self, state: State) -> State:
        """Forget what was sent for a question that is closed; of an adjustment once the hold has passed it, too.

        Such a reply changes no order any more (`test_what_comes_for_a_closed_question_changes_nothing`).
        """
        saga = self.walk.states[state.saga]
        ids = {saga.command_id(question.step) for question in saga.progress.open()}
        kept = 0
        for message in self.network(state.sent):
            open_hold = state.hold.state is HoldState.HELD
            may_come = isinstance(message, AdjustBalance) and open_hold and message.revision > state.hold.revision
            if message.command_id in ids or may_come:
                kept |= self._bits[message]
        return state._replace(sent=kept)

    def _bit(self, message: Reply | Command) -> int:
        return self._bits.setdefault(message, 1 << len(self._bits))

    def _named(self, reply: Reply) -> tuple[str, ...]:
        """Name a reply for the walk: once, or for each stand of the market if it can put terms in force."""
        names = self._names.get(reply)
        if names is None:
            counts = reply == sample.rechecked(1) or reply == sample.rechecked(2) or isinstance(reply, BalanceAdjusted)
            number = len(self._names)
            stands = self._stands if counts else {}
            names = tuple(f"reply {number}, {stand}" for stand in stands) or (f"reply {number}",)
            self._names[reply] = names
            self.walk.messages = {**self.walk.messages, **dict.fromkeys(names, reply)}
            self.walk.marks = {**self.walk.marks, **dict(zip(names, stands.values(), strict=False))}
        return names


def verdicts(hold: Hold, command: Command) -> tuple[tuple[Hold, Reply], ...]:
    """Give what a participant may do with a command, and its reply: the table of adjustments."""
    if isinstance(command, CheckAsset):
        number = int(command.command_id.rpartition(".")[2])
        return (hold, sample.rechecked(number)), (hold, sample.not_rechecked(number=number))
    if isinstance(command, AdjustBalance):
        return tuple(_adjusted(hold, command))
    ids = command.command_id, command.order_id, command.hold_id
    if isinstance(command, SettleBalance):
        return tuple(_settled(hold, command))
    assert isinstance(command, RefundBalance)
    assert hold.state is not HoldState.SETTLED
    assert hold.revision >= command.revision, "no HOLD_CONFLICT"
    return ((hold._replace(state=HoldState.REFUNDED), BalanceRefunded(*ids, HoldState.REFUNDED, hold.amount)),)


def _adjusted(hold: Hold, command: AdjustBalance) -> Iterator[tuple[Hold, Reply]]:
    ids = command.command_id, command.order_id, command.hold_id
    number = command.revision

    def refused(row: Hold, code: BalanceRefusal) -> tuple[Hold, Reply]:
        return row, AdjustmentRefused(*ids, row.state, code, "no", number)

    if hold.state is not HoldState.HELD:
        yield refused(hold, BalanceRefusal.CLOSED)
        return
    yield refused(hold, BalanceRefusal.NOT_SUPPORTED)
    if number < hold.revision:
        yield refused(hold, BalanceRefusal.SUPERSEDED)
    elif number == hold.revision and hold.refusal is not None:
        yield refused(hold, hold.refusal)
    else:
        yield (
            Hold(HoldState.HELD, command.amount, number),
            BalanceAdjusted(*ids, HoldState.HELD, number, command.amount),
        )
        if number > hold.revision and command.amount > hold.amount:
            broke = BalanceRefusal.INSUFFICIENT_BALANCE
            yield refused(hold._replace(revision=number, refusal=broke), broke)


def _settled(hold: Hold, command: SettleBalance) -> Iterator[tuple[Hold, Reply]]:
    ids = command.command_id, command.order_id, command.hold_id
    returned = Money(subtract(hold.amount, command.capture))
    if hold.state is not HoldState.REFUNDED:
        assert hold.revision >= command.revision, "no HOLD_CONFLICT"
        yield (
            hold._replace(state=HoldState.SETTLED),
            BalanceSettled(*ids, HoldState.SETTLED, command.capture, returned),
        )
    if hold.state is not HoldState.SETTLED:
        code = BalanceRefusal.EXCEEDS_HOLD
        yield hold._replace(state=HoldState.REFUNDED), SettlementRefused(*ids, HoldState.REFUNDED, code, "no")
