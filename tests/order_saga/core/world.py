"""A model of what surrounds one order: honest participants, and a network that may repeat, reorder and lose messages.

The network stores every message that was ever sent: each may arrive at any time, again, out of order, or never. This
covers every fault of an at-least-once transport, and also loss. Repeats of a command are equal, so a set is enough. The
balance service follows the protocol's table; where it may say yes or no, the walk tries both. The asset service judges
each question anew. In every state the participants' true state is compared with what the saga shows.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from msgspec import structs

from contracts.assets import CheckAsset
from contracts.balance import BalanceRefusal, RefundBalance, ReserveBalance, SettleBalance
from contracts.decimals import Quantity
from contracts.vocabulary import HoldState, Side
from order_saga.core.phases import TERMINAL
from order_saga.core.saga import Command, Incoming, Participant, Phase, Step
from tests.order_saga.core import sample
from tests.order_saga.core.invariants import NOBODY
from tests.order_saga.core.walker import DECIDING, PAUSES, Clock, Edge, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

HELD, SETTLED, REFUNDED, REFUSED, TOMBSTONE = (
    HoldState.HELD,
    HoldState.SETTLED,
    HoldState.REFUNDED,
    HoldState.REFUSED,
    HoldState.TOMBSTONE,
)


def always(side: Side) -> dict[str, Incoming]:
    """List the messages that may come at any time, whatever the participants do."""
    long_ago = sample.NOW - timedelta(seconds=61)
    return {
        "request": sample.requested(side),
        "request made long ago": sample.requested(side, requested_at=long_ago),
        "request under a client id that is taken": structs.replace(sample.requested(side), duplicate_of=UUID(int=1)),
        "request that breaks a rule": sample.invalid(),
        "request with other content": sample.requested(side, quantity=Quantity("0.02")),
        "cancel by the user": sample.cancel(),
        "cancel by an operator": sample.cancel(sample.OPERATOR),
        "cancel by another user": sample.cancel(sample.OTHER_USER),
        "cancel of another user's order": sample.cancel(sample.OTHER_USER, sample.OTHER_USER),
        "timer": sample.timer(),
        "timer, assets silent": sample.timer(),
        "timer, balance silent": sample.timer(),
        "timer, a probe": sample.timer(probe=True),
        "park": sample.park(),
        "resume": sample.resume(),
        "ask again": sample.ask_again(),
        "recovery of what is known": sample.recovery(),
    }


def replies(side: Side) -> dict[str, Incoming]:
    """List the replies that honest participants may send."""
    too_far = "50500.01" if side is Side.BUY else "49499.99"
    return {
        "approved": sample.approved(),
        "approved at another price": sample.approved("50100"),
        "approved at a price too far off": sample.approved(too_far),
        "approved long ago": sample.approved(quoted_at=sample.NOW - timedelta(days=1)),
        "asset refused": sample.not_approved(),
        "reserved": sample.reserved(),
        "reserved, and settled since": sample.reserved(SETTLED),
        "not reserved": sample.not_reserved(),
        "not reserved: tombstone": sample.not_reserved(BalanceRefusal.CLOSED, TOMBSTONE),
        "not reserved: refunded": sample.not_reserved(BalanceRefusal.CLOSED, REFUNDED),
        "settled": sample.settled(),
        "not settled": sample.not_settled(),
        "not settled: never held": sample.not_settled(BalanceRefusal.NOT_HELD, TOMBSTONE),
        "not settled: refused": sample.not_settled(BalanceRefusal.NOT_HELD, REFUSED),
        "refunded": sample.refunded(),
        "refunded: tombstone": sample.refunded(TOMBSTONE),
        "refunded: refused": sample.refunded(REFUSED),
        "not refunded": sample.not_refunded(),
    }


STEP_OF: Final[dict[type[Command], Step]] = {
    CheckAsset: Step.CHECK,
    ReserveBalance: Step.RESERVE,
    SettleBalance: Step.SETTLE,
    RefundBalance: Step.REFUND,
}

BARRIER: Final[dict[tuple[Step, HoldState | None], tuple[tuple[HoldState | None, str], ...]]] = {
    (Step.RESERVE, None): ((HELD, "reserved"), (REFUSED, "not reserved")),
    (Step.RESERVE, HELD): ((HELD, "reserved"),),
    (Step.RESERVE, REFUSED): ((REFUSED, "not reserved"),),
    (Step.RESERVE, TOMBSTONE): ((TOMBSTONE, "not reserved: tombstone"),),
    (Step.RESERVE, REFUNDED): ((REFUNDED, "not reserved: refunded"),),
    (Step.RESERVE, SETTLED): ((SETTLED, "reserved, and settled since"),),
    (Step.REFUND, None): ((TOMBSTONE, "refunded: tombstone"),),
    (Step.REFUND, HELD): ((REFUNDED, "refunded"),),
    (Step.REFUND, REFUSED): ((REFUSED, "refunded: refused"),),
    (Step.REFUND, TOMBSTONE): ((TOMBSTONE, "refunded: tombstone"),),
    (Step.REFUND, REFUNDED): ((REFUNDED, "refunded"),),
    (Step.REFUND, SETTLED): ((SETTLED, "not refunded"),),
    (Step.SETTLE, None): ((TOMBSTONE, "not settled: never held"),),
    (Step.SETTLE, HELD): ((SETTLED, "settled"), (REFUNDED, "not settled")),
    (Step.SETTLE, REFUSED): ((REFUSED, "not settled: refused"),),
    (Step.SETTLE, TOMBSTONE): ((TOMBSTONE, "not settled: never held"),),
    (Step.SETTLE, REFUNDED): ((REFUNDED, "not settled"),),
    (Step.SETTLE, SETTLED): ((SETTLED, "settled"),),
}
"""The participants' barrier as the protocol states it: the effect of a command on a hold, and the reply."""

VERDICTS: Final = ("approved", "approved at another price", "approved at a price too far off", "asset refused")
"""The possible answers of the asset service, each time that it is asked."""

AGES: Final = {"approved": "approved long ago"}
"""A reply that was on its way for long may carry a state that is no longer true."""

NEVER: Final = 1_000_000
"""A number of rounds larger than any real one; it marks a history that returns to an earlier state."""


class State(NamedTuple):
    """The order, the real state of the hold, and a bit for each message that was ever sent."""

    saga: int
    hold: HoldState | None
    sent: int


class Network(NamedTuple):
    """The messages that the bits of `State.sent` stand for."""

    replies: tuple[str, ...]
    commands: tuple[Command, ...]


class World:
    """The graph of an order with its participants and its network."""

    def __init__(self, side: Side, clock: Clock = Clock.REGIONS) -> None:
        """Start with an order without any message, no hold, and an empty network."""
        self.start = State(0, None, 0)
        self._replies = {name: 1 << bit for bit, name in enumerate(replies(side))}
        self._commands: dict[Command, int] = {}
        self._networks: dict[int, Network] = {}
        self._always: dict[int, tuple[tuple[int, int], ...]] = {}
        self._rounds: dict[tuple[State, frozenset[Step]], int] = {}
        self._external = always(side)
        self.walk = Walk({**self._external, **replies(side)}, clock)

    def successors(self, state: State) -> Iterator[State]:
        """List the target of each move: each message that may always come, and each arrival of a sent message."""
        saga, hold, sent = state
        for to, asked in self._at_any_time(saga):
            yield State(to, hold, sent | asked)
        network = self.network(sent)
        for name in network.replies:
            for told in {name, AGES.get(name, name)}:
                yield from {self.hear(state, told, paused) for paused in PAUSES}
        for command in network.commands:
            yield from self.serve(state, command)

    def hear(self, state: State, reply: str, paused: frozenset[Participant] = NOBODY) -> State:
        """Let a reply arrive at the order."""
        edge = self.walk.edge(state.saga, reply, paused)
        assert edge.to == state.saga or self.walk.states[edge.to].parked_reason is None, "honest replies park nothing"
        return State(edge.to, state.hold, state.sent | self._bits(edge))

    def tell(self, state: State, name: str) -> State:
        """Let one of the messages of `always` arrive."""
        edge = self.walk.edge(state.saga, name)
        return State(edge.to, state.hold, state.sent | self._bits(edge))

    def serve(self, state: State, command: Command) -> Iterator[State]:
        """Let a command arrive at its participant, once for each verdict that it may give."""
        for hold, reply in self._verdicts(state, STEP_OF[type(command)]):
            yield State(state.saga, hold, state.sent | self._replies[reply])

    def _verdicts(self, state: State, step: Step) -> tuple[tuple[HoldState | None, str], ...]:
        if step is Step.CHECK:
            return tuple((state.hold, verdict) for verdict in VERDICTS)
        return BARRIER[step, state.hold]

    def judge(self, state: State) -> None:
        """Fail unless what the order shows agrees with the true state of the participants."""
        saga, hold = self.walk.states[state.saga], state.hold
        asked = {STEP_OF[type(command)] for command in self.network(state.sent).commands}
        if saga.phase in {Phase.CANCELLED, Phase.FAILED}:
            assert hold not in {HELD, SETTLED}, "I3: no terminal status while a hold is active"
            assert hold is not None or Step.RESERVE not in asked, "and none can become active any more"
        if saga.phase is Phase.COMPLETED:
            assert hold is SETTLED, "I4: completed means settled"
        if hold is SETTLED:
            assert saga.phase in {Phase.SETTLING, Phase.COMPLETED}, "I5: settled is never refunded"
        if hold is REFUNDED:
            assert saga.phase in {Phase.SETTLING, Phase.REFUNDING, Phase.CANCELLED, Phase.FAILED}
            assert saga.phase is not Phase.SETTLING or Step.REFUND not in asked, "here only a settlement can refund"
        if hold is HELD:
            assert saga.phase in {*DECIDING, Phase.SETTLING, Phase.REFUNDING}, "I8: an active hold has a live saga"
        if saga.phase is Phase.SETTLING:
            assert hold in {HELD, SETTLED, REFUNDED}, "the pivot is passed only when the money is held"
        told = saga.progress.hold_state
        assert told in {None, HELD} or told is hold, "what ends a hold is told once and stays true"
        assert told is not HELD or hold in {HELD, SETTLED, REFUNDED}

    def rounds_to_end(self, state: State, silent: frozenset[Step] = frozenset()) -> int:
        """Count the rounds until the order has ended, at most, if all questions but those of `silent` are answered.

        In a round, an operator resumes the order if it is parked. Its questions become due, those of `silent` steps as
        if asked long ago, and the timer fires. Each command arrives, and then its reply. Of all possible answers the
        worst counts.
        """
        state = state._replace(sent=state.sent >> len(self._replies) << len(self._replies))  # old replies are lost
        known = self._rounds.get((state, silent))
        if known is None:
            self._rounds[state, silent] = NEVER
            ended = self.walk.states[state.saga].phase in TERMINAL
            known = 0 if ended else 1 + max(self.rounds_to_end(to, silent) for to in self._round(state, silent))
            self._rounds[state, silent] = known
        return known

    def _round(self, state: State, silent: frozenset[Step]) -> set[State]:
        if self.walk.states[state.saga].parked_reason is not None:
            state = self.tell(state, "resume")
        for question in self.walk.states[state.saga].progress.open():
            passed = "was long ago" if question.step in silent else "is due"
            to = self.walk.passes(state.saga).get(f"{question.step} {passed}", state.saga)
            state = state._replace(saga=to)
        states = {self.tell(state, "timer")}
        for step in reversed(Step):  # reversed, so that the question that follows an answer waits for the next round
            if step not in silent:
                states = {to for one in states for to in self._answered(one, step)}
        return states

    def _answered(self, state: State, step: Step) -> Iterator[State]:
        """Let the command of an open question arrive, and then its reply."""
        if all(question.step is not step for question in self.walk.states[state.saga].progress.open()):
            yield state
            return
        command = next(c for c in self.network(state.sent).commands if STEP_OF[type(c)] is step)
        for served, (_, reply) in zip(self.serve(state, command), self._verdicts(state, step), strict=True):
            yield self.hear(served, reply)

    def network(self, sent: int) -> Network:
        """Decode the bits; each set of sent messages is checked once."""
        network = self._networks.get(sent)
        if network is None:
            commands = tuple(command for command, bit in self._commands.items() if sent & bit)
            names = tuple(name for name, bit in self._replies.items() if sent & bit)
            network = self._networks[sent] = Network(names, commands)
            _one_voice(commands)
        return network

    def _at_any_time(self, saga: int) -> tuple[tuple[int, int], ...]:
        moves = self._always.get(saga)
        if moves is None:
            edges = [self.walk.edge(saga, name, paused) for name, paused in product(self._external, PAUSES)]
            told = [(edge.to, self._bits(edge)) for edge in edges]
            passed = [(to, 0) for to in self.walk.passes(saga).values()]
            moves = self._always[saga] = tuple(dict.fromkeys((*told, *passed)))
        return moves

    def _bits(self, edge: Edge) -> int:
        bits = 0
        for ask in edge.asks:
            bits |= self._commands.setdefault(ask.message, 1 << (len(self._replies) + len(self._commands)))
        return bits


def _one_voice(commands: tuple[Command, ...]) -> None:
    """Expect that a repeated command is equal, and that all commands on a hold name one user, asset and amount."""
    assert len({command.command_id for command in commands}) == len(commands)
    on_hold = [c for c in commands if isinstance(c, (ReserveBalance, SettleBalance, RefundBalance))]
    assert len({(c.hold_id, c.user_id, c.asset_id, c.amount) for c in on_hold}) <= 1
    assert not {Step.SETTLE, Step.REFUND} <= {STEP_OF[type(command)] for command in commands}, (
        "forward or back, not both"
    )
