"""Which endpoints of all users fail or are given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from operations.access.database import rows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

WAITING_MAX: Final = 10_000
"""Deliveries that wait are counted up to this."""


async def list_failing(engine: AsyncEngine, limit: int) -> list[dict[str, Any]]:
    """Return endpoints that fail now, or that the process gave up, those that fail longest first."""
    return await rows(engine, _FAILING, limit)


_FAILING: Final = f"""
    SELECT e.endpoint_id, e.user_id, e.kind, e.target, e.state, e.failures_in_row,
        coalesce(e.failing_since, e.disabled_at) AS since,
        coalesce(e.disabled_reason, (
            SELECT d.reason FROM audit.webhook_deliveries AS d
            WHERE d.endpoint_id = e.endpoint_id AND d.state = 'PENDING' AND d.reason IS NOT NULL LIMIT 1)) AS why,
        (SELECT count(*) FROM (
            SELECT FROM audit.webhook_deliveries AS d
            WHERE d.endpoint_id = e.endpoint_id AND d.state = 'PENDING' LIMIT {WAITING_MAX}) AS those) AS waiting
    FROM audit.webhook_endpoints AS e
    WHERE e.failures_in_row > 0 OR e.disabled_at IS NOT NULL
    ORDER BY since NULLS LAST, e.endpoint_id LIMIT $1"""  # noqa: S608 - a constant of ours
