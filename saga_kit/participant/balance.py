"""Translates the messages of `contracts.balance` to the barrier's commands, and its holds to replies.

The one module of the kit that knows a conversation: the same adapter serves each balance service (ADR 29).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from contracts.balance import (
    AdjustBalance,
    AdjustmentRefused,
    BalanceAdjusted,
    BalanceCommand,
    BalanceRefunded,
    BalanceRefusal,
    BalanceRefused,
    BalanceReply,
    BalanceReserved,
    BalanceSettled,
    RefundBalance,
    RefundRefused,
    ReserveBalance,
    SettleBalance,
    SettlementRefused,
)
from contracts.codec import decode, outgoing
from contracts.decimals import ZERO, Money
from contracts.envelope import Envelope, UnreadableMessage
from contracts.topics import BALANCE_COMMANDS
from contracts.vocabulary import HoldState, id_text
from saga_kit.messaging.batch import Received, Record
from saga_kit.messaging.outbox import OutboxMessage
from saga_kit.participant.barrier import CommandKind, Hold, HoldCommand, Refusal

_KINDS: Final = {
    ReserveBalance: CommandKind.RESERVE,
    SettleBalance: CommandKind.SETTLE,
    RefundBalance: CommandKind.REFUND,
    AdjustBalance: CommandKind.ADJUST,
}
_REFUSALS: Final[dict[CommandKind, type[BalanceRefused | SettlementRefused | RefundRefused]]] = {
    CommandKind.RESERVE: BalanceRefused,
    CommandKind.SETTLE: SettlementRefused,
    CommandKind.REFUND: RefundRefused,
}


class BalanceAdapter:
    """Translates between the messages and the barrier's commands and holds; `source` is the replies' `ce_source`."""

    topics: Sequence[str] = (BALANCE_COMMANDS.name,)

    def __init__(self, source: str = "/balance") -> None:
        self._source = source

    def command(self, envelope: Envelope, record: Record) -> HoldCommand[BalanceCommand]:
        """Read a command; raises `UnreadableMessage` for anything else."""
        message = decode(envelope.type, record.value)
        if not isinstance(message, BalanceCommand):
            raise UnreadableMessage(f"{envelope.type} is not a command for the balance service")
        if isinstance(message, (ReserveBalance, AdjustBalance)) and not message.amount:
            raise UnreadableMessage(f"{envelope.type}: amount must be more than 0")
        return HoldCommand(
            kind=_KINDS[type(message)],
            hold_id=message.hold_id,
            saga_id=id_text(message.order_id),
            owner=message.user_id,
            unit=message.asset_id,
            amount=message.amount,
            message=message,
            capture=message.capture if isinstance(message, SettleBalance) else ZERO,
            hold_asked_at=message.hold_asked_at,
            revision=message.revision,
        )

    def reply(
        self, received: Received[HoldCommand[BalanceCommand]], hold: Hold, refusal: Refusal | None, at: datetime
    ) -> OutboxMessage:
        """Make the reply to a command; a redelivered command gets a reply with the same id."""
        command = received.message
        reply = answer(command, hold, refusal)
        message = outgoing(
            reply,
            message_id=f"{reply.command_id}:{type(reply).__name__}",
            source=self._source,
            time=at,
            traceparent=received.envelope.traceparent if received.envelope is not None else None,
        )
        return OutboxMessage(reply.command_id, message)


def answer(command: HoldCommand[BalanceCommand], hold: Hold, refusal: Refusal | None) -> BalanceReply:
    """Choose the reply: `hold` is as the command left it, and `refusal` is why it was refused, if it was."""
    asked = command.message
    head = (asked.command_id, asked.order_id, asked.hold_id, hold.state)
    if isinstance(asked, AdjustBalance):
        return _adjustment(head, asked.revision, hold, refusal)
    if refusal is not None:
        return _REFUSALS[command.kind](*head, BalanceRefusal(refusal.code), refusal.reason)
    if command.kind is CommandKind.RESERVE:
        # An adjustment since has changed the amount; then the command is a repetition, and is told what it asked for.
        reserved = hold.amount if hold.revision == command.revision else command.amount
        return BalanceReserved(*head, Money(reserved), hold.owner, hold.unit)
    if command.kind is CommandKind.SETTLE:
        return BalanceSettled(*head, Money(hold.captured), Money(hold.refunded), hold.owner, hold.unit)
    return BalanceRefunded(*head, Money(hold.refunded), hold.owner, hold.unit)


def _adjustment(
    head: tuple[str, UUID, str, HoldState], revision: int, hold: Hold, refusal: Refusal | None
) -> BalanceAdjusted | AdjustmentRefused:
    if refusal is not None:
        return AdjustmentRefused(*head, BalanceRefusal(refusal.code), refusal.reason, revision)
    return BalanceAdjusted(*head, revision, Money(hold.amount), hold.owner, hold.unit)
