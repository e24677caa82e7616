"""What every service on Kafka and PostgreSQL needs: batches, outbox, dead letters, the barrier, health, settings.

`__all__` is the public surface: a service of another team imports these names from here, and messages from `contracts`.
All modules below are internal and may change in any release.

    run a service     run_service, Service, Kit, FurtherConsumer, KitSettings, KafkaSettings, load, parse_database_url
    handle batches    Handler, Received, Record, Effects, OutboxMessage, RejectedRecord, Intake, BatchProcess
    answer on holds   ParticipantHandler, HoldCommand, CommandKind, Hold, Refusal, Adapter, BalanceAdapter
    keep a ledger     Ledger, Adjusts
    store, publish    Transaction, Transactions, Begins, Outbox, DeadLetters, DeadLetter, Holds, Publisher, RawMessage
    describe tables   outbox_table, dead_letters_table, holds_table, holds_archive_table, ledger_start_table
    repeat            keep_doing, pause, Backoff
    fail              KitError and the errors below it

A name is loaded when it is first used: a program that needs the settings alone imports no Kafka client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from saga_kit.messaging.batch import BatchProcess, Effects, Handler, Intake, Received, Record, RejectedRecord
    from saga_kit.messaging.dead_letters import DeadLetter, DeadLetters, dead_letters_table
    from saga_kit.messaging.outbox import Outbox, OutboxMessage, outbox_table
    from saga_kit.messaging.publisher import Publisher, RawMessage
    from saga_kit.participant.balance import BalanceAdapter
    from saga_kit.participant.barrier import Adjusts, CommandKind, Hold, HoldCommand, Ledger, Refusal
    from saga_kit.participant.handler import Adapter, ParticipantHandler
    from saga_kit.participant.holds import Holds, holds_archive_table, holds_table
    from saga_kit.participant.ledger_start import ledger_start_table
    from saga_kit.runtime.backoff import Backoff, keep_doing, pause
    from saga_kit.runtime.dsn import parse_database_url
    from saga_kit.runtime.errors import (
        CannotStart,
        Contention,
        KitError,
        OversizeMessage,
        ReadOnlyDatabase,
        Stalled,
        Stopped,
    )
    from saga_kit.runtime.settings import KafkaSettings, KitSettings, load
    from saga_kit.runtime.transactions import Begins, Transaction, Transactions
    from saga_kit.service import FurtherConsumer, Kit, Service, run_service

__all__ = [
    "Adapter",
    "Adjusts",
    "Backoff",
    "BalanceAdapter",
    "BatchProcess",
    "Begins",
    "CannotStart",
    "CommandKind",
    "Contention",
    "DeadLetter",
    "DeadLetters",
    "Effects",
    "FurtherConsumer",
    "Handler",
    "Hold",
    "HoldCommand",
    "Holds",
    "Intake",
    "KafkaSettings",
    "Kit",
    "KitError",
    "KitSettings",
    "Ledger",
    "Outbox",
    "OutboxMessage",
    "OversizeMessage",
    "ParticipantHandler",
    "Publisher",
    "RawMessage",
    "ReadOnlyDatabase",
    "Received",
    "Record",
    "Refusal",
    "RejectedRecord",
    "Service",
    "Stalled",
    "Stopped",
    "Transaction",
    "Transactions",
    "dead_letters_table",
    "holds_archive_table",
    "holds_table",
    "keep_doing",
    "ledger_start_table",
    "load",
    "outbox_table",
    "parse_database_url",
    "pause",
    "run_service",
]

_MODULES: Final = {
    "saga_kit.messaging.batch": (
        "BatchProcess",
        "Effects",
        "Handler",
        "Intake",
        "Received",
        "Record",
        "RejectedRecord",
    ),
    "saga_kit.messaging.dead_letters": ("DeadLetter", "DeadLetters", "dead_letters_table"),
    "saga_kit.messaging.outbox": ("Outbox", "OutboxMessage", "outbox_table"),
    "saga_kit.messaging.publisher": ("Publisher", "RawMessage"),
    "saga_kit.participant.balance": ("BalanceAdapter",),
    "saga_kit.participant.barrier": ("Adjusts", "CommandKind", "Hold", "HoldCommand", "Ledger", "Refusal"),
    "saga_kit.participant.handler": ("Adapter", "ParticipantHandler"),
    "saga_kit.participant.holds": ("Holds", "holds_archive_table", "holds_table"),
    "saga_kit.participant.ledger_start": ("ledger_start_table",),
    "saga_kit.runtime.backoff": ("Backoff", "keep_doing", "pause"),
    "saga_kit.runtime.dsn": ("parse_database_url",),
    "saga_kit.runtime.errors": (
        "CannotStart",
        "Contention",
        "KitError",
        "OversizeMessage",
        "ReadOnlyDatabase",
        "Stalled",
        "Stopped",
    ),
    "saga_kit.runtime.settings": ("KafkaSettings", "KitSettings", "load"),
    "saga_kit.runtime.transactions": ("Begins", "Transaction", "Transactions"),
    "saga_kit.service": ("FurtherConsumer", "Kit", "Service", "run_service"),
}
_HOME: Final = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker must refuse a name that is not there

    def __getattr__(name: str) -> Any:
        """Load a public name at its first use (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
