"""The holds of services in the database: the kit's rows, the table `service_holds` beside them, and the accounts.

Rows are locked in the balance service's order: accounts, then the kit's holds by id, and with each its row here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from contracts.holds import HoldCaptureRequested
from participants.balance.service_holds import End, Expiry, ServiceHold
from participants.balance.store import StoredLedger
from participants.balance.tables import SCHEMA
from saga_kit.participant.barrier import Hold, HoldCommand
from saga_kit.participant.holds import Holds
from saga_kit.runtime.transactions import Transaction

NOW: Final = "SELECT clock_timestamp()"

READ_DETAILS: Final = """
SELECT hold_id, expires_at, ended, captured_to FROM balances.service_holds WHERE hold_id = ANY ($1::text[])
"""

ADD_DETAILS: Final = """
INSERT INTO balances.service_holds (hold_id, expires_at, ended, captured_to)
SELECT hold_id, expires_at, ended, captured_to
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[]) AS new (hold_id, expires_at, ended, captured_to)
"""

END: Final = """
UPDATE balances.service_holds AS hold SET ended = new.ended, captured_to = new.captured_to
FROM unnest($1::text[], $2::text[], $3::text[]) AS new (hold_id, ended, captured_to)
WHERE hold.hold_id = new.hold_id
"""

DUE: Final = """
SELECT hold.hold_id, hold.owner, hold.unit, hold.amount
FROM (
    SELECT hold_id, expires_at FROM balances.service_holds
    WHERE ended IS NULL AND expires_at <= statement_timestamp() ORDER BY expires_at LIMIT $1
) AS due JOIN balances.holds AS hold USING (hold_id)
ORDER BY due.expires_at, hold.hold_id
"""


class ServiceLedger(StoredLedger):
    """The accounts of a batch of services' requests. A settlement is a capture: it pays an account of the house."""

    def settle(self, command: HoldCommand[Any], hold: Hold) -> None:
        """Pay the capture and return the rest; whether it may be paid was judged before."""
        if not isinstance(command.message, HoldCaptureRequested):
            raise TypeError(f"{type(command.message).__name__} does not capture")
        self.capture(hold, command.capture, command.message.to)


class ServiceHolds:
    """The holds of one batch."""

    def __init__(self) -> None:
        self._holds = Holds(SCHEMA)

    async def lock(self, tx: Transaction, hold_ids: Collection[str]) -> dict[str, ServiceHold]:
        """Lock and load the holds that exist, and load the archived ones."""
        holds = await self._holds.lock(tx, hold_ids)
        return {
            hold_id: ServiceHold(holds[hold_id], expires_at, None if ended is None else End(ended), captured_to)
            for hold_id, expires_at, ended, captured_to in await tx.fetch(READ_DETAILS, sorted(holds))
        }

    def save(self, tx: Transaction, known: Mapping[str, ServiceHold], holds: Mapping[str, ServiceHold]) -> None:
        """Have the new and changed holds written, each once. The flush raises `Contention` as the kit's holds do."""
        self._holds.save(
            tx, {key: one.hold for key, one in known.items()}, {key: one.hold for key, one in holds.items()}
        )
        changed = [(hold_id, one) for hold_id, one in sorted(holds.items()) if known.get(hold_id) is not one]
        if new := [(hold_id, one) for hold_id, one in changed if hold_id not in known]:
            tx.write(ADD_DETAILS, *_columns([(key, one.expires_at, one.ended, one.captured_to) for key, one in new]))
        if ended := [(hold_id, one.ended, one.captured_to) for hold_id, one in changed if hold_id in known]:
            tx.write(END, *_columns(ended), rows=len(ended))


async def read_now(tx: Transaction) -> datetime:
    """Read the database's time: not the transaction's, but this moment's."""
    now: datetime = await tx.fetchval(NOW)
    return now


async def due(tx: Transaction, most: int) -> list[Expiry]:
    """Find holds whose time has come, the oldest first; nothing is locked."""
    return [Expiry(*row) for row in await tx.fetch(DUE, most)]


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))
