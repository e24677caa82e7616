"""The batch handler of a participant: it locks the rows of a batch, applies the barrier, and stores the result.

Rows are locked in one order everywhere: the ledger's, then the holds by id. A batch is folded in memory in message
order, and each row is written once. Commands from before the ledger began (see `ledger_start`) are never executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Generic, Protocol, TypeVar

from contracts.envelope import Envelope
from saga_kit.messaging.batch import Effects, Received, Record
from saga_kit.messaging.outbox import OutboxMessage
from saga_kit.participant.barrier import (
    CommandKind,
    Hold,
    HoldCommand,
    Ledger,
    Refusal,
    apply,
    may_be_elsewhere,
    not_adjustable,
)
from saga_kit.participant.holds import Holds
from saga_kit.participant.ledger_start import LedgerStart, made_at
from saga_kit.runtime.transactions import Transaction

C = TypeVar("C")

BEFORE_START: Final = "before_start"
"""The reason for which a command is dropped: it was made before the ledger began."""


class Adapter(Protocol[C]):
    """Translates between messages and the barrier."""

    @property
    def topics(self) -> Sequence[str]:
        """The topics that commands come by, without the system's prefix."""

    def command(self, envelope: Envelope, record: Record) -> HoldCommand[C]:
        """Read one record; raises `UnreadableMessage`."""

    def reply(
        self, received: Received[HoldCommand[C]], hold: Hold, refusal: Refusal | None, at: datetime
    ) -> OutboxMessage:
        """Make the reply to a command. `hold` is as the command left it; `refusal` is None for a yes."""


class ParticipantHandler(Generic[C]):
    """A batch handler that answers commands on holds. `ledger` makes a new one for each try."""

    def __init__(self, schema: str, adapter: Adapter[C], ledger: Callable[[], Ledger[C]]) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._holds = Holds(schema)
        self._start = LedgerStart(schema)
        self._began_at: datetime | None = None
        self._adjustable = True

    @property
    def topics(self) -> Sequence[str]:
        """The adapter's."""
        return self._adapter.topics

    def decode(self, envelope: Envelope, record: Record) -> HoldCommand[C]:
        """Read one command."""
        return self._adapter.command(envelope, record)

    async def prepare(self, tx: Transaction) -> None:
        """Read when the ledger began, before the first batch. Raises `CannotStart` when it must not answer.

        Tables of before adjustments are worked with as they are: each adjustment is then NOT_SUPPORTED.
        """
        self._began_at = await self._start.read(tx)
        self._adjustable = await self._holds.prepare(tx)

    async def handle(self, tx: Transaction, messages: Sequence[Received[HoldCommand[C]]]) -> Effects:
        """Fold the batch in message order; every reply goes through the outbox.

        A command made before the ledger began is dropped without a reply. If anybody still waits for one, the command
        comes again, made anew.
        """
        everything, messages = messages, [received for received in messages if not self._is_older(received)]
        dropped = {BEFORE_START: len(everything) - len(messages)} if len(everything) > len(messages) else {}
        if not messages:
            return Effects(dropped=dropped)
        commands, at = [received.message for received in messages], datetime.now(UTC)
        ledger = self._ledger()
        await ledger.lock(tx, commands)
        known = await self._holds.lock(tx, {command.hold_id for command in commands})
        holds = dict(known)
        replies = []
        for received in messages:
            command = received.message
            if command.hold_id not in holds and self._is_earlier(command.hold_asked_at):
                replies.append(self._adapter.reply(received, *may_be_elsewhere(command), at))
                continue
            if command.kind is CommandKind.ADJUST and not self._adjustable:
                replies.append(self._adapter.reply(received, *not_adjustable(command, holds.get(command.hold_id)), at))
                continue
            hold, refusal = apply(command, holds.get(command.hold_id), ledger)
            holds[command.hold_id] = hold
            replies.append(self._adapter.reply(received, hold, refusal, at))
        self._holds.save(tx, known, holds)
        await ledger.save(tx)
        return Effects(outbox=replies, dropped=dropped)

    def _is_older(self, received: Received[HoldCommand[C]]) -> bool:
        return self._began_at is not None and self._is_earlier(made_at(received))

    def _is_earlier(self, at: datetime | None) -> bool:
        return self._began_at is not None and at is not None and at < self._began_at

    async def park(self, tx: Transaction, message: Received[HoldCommand[C]], reason: str) -> bool:  # noqa: ARG002
        """Park nothing: a participant has no saga. A command that can't be handled becomes a dead letter."""
        return False
