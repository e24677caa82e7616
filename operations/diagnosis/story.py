"""Gather all that is known of one order: what was asked and answered when, what money moved, and what it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operations.access.database import rows
from operations.access.errors import Trouble
from operations.audit.ledger import find_ledger
from operations.repair import pauses

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

_MARK = """
    SELECT mark.*, extract(epoch FROM clock_timestamp() - mark.as_of)::float AS age_s,
        extract(epoch FROM clock_timestamp() - greatest(mark.as_of, mark.confirmed_at))::float AS confirmed_age_s
    FROM audit.marks AS mark JOIN audit.resting AS waits USING (asset_id) WHERE waits.order_id = $1"""

_TOLD = """
    SELECT d.event_id, d.endpoint_id, e.kind, e.host, d.event_type, d.state, d.reason, d.attempts, d.created_at,
        d.ended_at
    FROM audit.webhook_deliveries AS d JOIN audit.webhook_endpoints AS e USING (endpoint_id)
    WHERE d.order_id = $1 ORDER BY d.created_at, d.version, d.endpoint_id LIMIT 1000"""


async def story(engine: AsyncEngine, order_id: UUID, ledger_setting: str = "") -> dict[str, Any]:
    """Gather what the auditors' views show of an order, by the views' names; `explain` puts it into words.

    `order` is None while only its `claim` is known. `resting` and `mark`, the market as the orders know it, are given
    for an order that waits for a price. `ledger_setting`: as for `audit.ledger.find`; `ledger_unseen` says why there
    are no holds and no journal, if so. Raises `Trouble` for an order that no view shows.
    """
    ledger = await find_ledger(engine, ledger_setting)
    parts: dict[str, tuple[str, object]] = {
        "order": ("SELECT * FROM audit.orders WHERE order_id = $1", order_id),
        "claim": ("SELECT * FROM audit.claims WHERE order_id = $1", order_id),
        "requests": ("SELECT * FROM audit.requests WHERE order_id = $1 ORDER BY request_id", order_id),
        "history": ("SELECT * FROM audit.history WHERE order_id = $1 ORDER BY seq", order_id),
        "fills": ("SELECT * FROM audit.fills WHERE order_id = $1", order_id),
        "questions": ("SELECT * FROM audit.questions WHERE order_id = $1 AND answer = 'OPEN'", order_id),
        "resting": ("SELECT * FROM audit.resting WHERE order_id = $1", order_id),
        "mark": (_MARK, order_id),
        "told": (_TOLD, order_id),
        "events_unsent": ("SELECT * FROM audit.events_unsent WHERE order_id = $1 ORDER BY version", order_id),
    }
    if ledger.schema is not None:
        # By the ids that these rows have for an order: the ledger's tables are indexed by their own keys.
        holds, journal = f"SELECT * FROM {ledger.schema}.holds", f"SELECT * FROM {ledger.schema}.journal"  # noqa: S608
        parts["holds"] = f"{holds} WHERE hold_id = $1", f"{order_id}:reserve"
        parts["journal"] = f"{journal} WHERE entry_id = $1 ORDER BY asset_id, account", f"{order_id}:settle"
    unseen: dict[str, Any] = {"holds": [], "journal": [], "ledger_unseen": ledger.hidden or None}
    found = unseen | {name: await rows(engine, *query) for name, query in parts.items()}
    for one in ("order", "claim", "resting", "mark"):
        found[one] = found[one][0] if found[one] else None
    found["pauses"] = await pauses.current(engine)
    if not found["order"] and not found["claim"]:
        raise Trouble(f"there is no order {order_id}")
    return found
