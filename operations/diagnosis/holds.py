"""What services hold beside the saga, as the ledger has it: a list, and one hold with its journal entry.

Only the reference service's ledger shows them (`audit.service_holds`). The holds of orders are in the orders' stories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from operations.access.database import rows

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

STATES: Final = ("HELD", "CAPTURED", "RELEASED", "EXPIRED", "REFUSED", "BURIED")
"""How a hold stands, or how it ended. BURIED: it was released or captured before it was asked for."""

_COLUMNS: Final = """
    substr(hold_id, 6)::uuid AS hold_id, user_id, asset_id, trim_scale(amount) AS amount,
    coalesce(ended, 'HELD') AS state, expires_at, trim_scale(captured) AS captured, captured_to,
    trim_scale(refunded) AS returned, reason_code, reason, created_at, updated_at,
    ended IS NULL AND expires_at < clock_timestamp() AS overdue"""
_LIST: Final = f"""
    SELECT {_COLUMNS} FROM audit.service_holds
    WHERE ($1::text = '' OR user_id = $1) AND ($2::text = '' OR coalesce(ended, 'HELD') = $2)
    ORDER BY created_at DESC, hold_id LIMIT $3"""  # noqa: S608 - our own columns
_ONE: Final = f"SELECT {_COLUMNS} FROM audit.service_holds WHERE hold_id = 'hold:' || $1::uuid"  # noqa: S608
_ENTRY: Final = """
    SELECT entry_id, account, asset_id, trim_scale(amount) AS amount, created_at FROM audit.journal
    WHERE entry_id = 'hold:' || $1::uuid || ':capture' ORDER BY account"""


async def list_holds(engine: AsyncEngine, user: str, state: str, limit: int) -> list[dict[str, Any]]:
    """List holds, newest first; an empty text means any."""
    return await rows(engine, _LIST, user, state, limit)


async def find_hold(engine: AsyncEngine, hold_id: UUID) -> dict[str, Any] | None:
    """Return one hold with the lines of its journal entry, if it was captured."""
    found = await rows(engine, _ONE, hold_id)
    return {**found[0], "journal": await rows(engine, _ENTRY, hold_id)} if found else None
