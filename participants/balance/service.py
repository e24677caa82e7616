"""The balance service's composition root: what orders hold, and beside it, in batches apart, what services hold."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from contracts.balance import BalanceCommand
from participants.balance.hold_handler import HoldHandler, run_expiries
from participants.balance.service_holds import Asked
from participants.balance.store import StoredLedger
from participants.balance.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess
from saga_kit.participant.balance import BalanceAdapter
from saga_kit.participant.handler import ParticipantHandler
from saga_kit.runtime.settings import KitSettings, load
from saga_kit.service import FurtherConsumer, Kit, run_service

NAME: Final = "balance"


class BalanceSettings(KitSettings):
    """Settings of the balance service."""

    http_port: int = 8002
    balance_hold_expiry_s: float = Field(1.0, gt=0)
    """How often the holds of services are looked through for those that have expired. A capture needs no look."""


def participant() -> ParticipantHandler[BalanceCommand]:
    """Make the handler of the service's batches."""
    return ParticipantHandler(SCHEMA, BalanceAdapter(), StoredLedger)


def holds(settings: BalanceSettings) -> FurtherConsumer:
    """Make the consumer of the holds of services, and what ends those that expire."""

    async def expiries(kit: Kit, process: BatchProcess[Asked]) -> None:
        await run_expiries(kit.transactions, process, kit.stopping, interval_s=settings.balance_hold_expiry_s)

    return FurtherConsumer("holds", lambda kit: HoldHandler(kit.registry), tasks=(expiries,))


def run() -> int:
    """Run the service until it is told to stop; return the exit status."""
    settings = load(BalanceSettings)
    return run_service(
        settings, name=NAME, schema=SCHEMA, handler=lambda _kit: participant(), further=[holds(settings)]
    )
