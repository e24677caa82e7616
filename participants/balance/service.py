"""The balance service's composition root."""

from __future__ import annotations

from typing import Final

from contracts.balance import BalanceCommand
from participants.balance.store import StoredLedger
from participants.balance.tables import SCHEMA
from saga_kit.participant.balance import BalanceAdapter
from saga_kit.participant.handler import ParticipantHandler
from saga_kit.runtime.settings import KitSettings, load
from saga_kit.service import run_service

NAME: Final = "balance"


class BalanceSettings(KitSettings):
    """Settings of the balance service."""

    http_port: int = 8002


def participant() -> ParticipantHandler[BalanceCommand]:
    """Make the handler of the service's batches."""
    return ParticipantHandler(SCHEMA, BalanceAdapter(), StoredLedger)


def run() -> int:
    """Run the service until it is told to stop; return the exit status."""
    return run_service(load(BalanceSettings), name=NAME, schema=SCHEMA, handler=lambda _kit: participant())
