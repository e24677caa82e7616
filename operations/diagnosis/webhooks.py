"""How the endpoints of all users do: which fail or are given up, and what an operator must do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.webhooks import SECRET_UNREADABLE
from operations.access.database import rows
from operations.access.words import time_of_day

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

WAITING_MAX: Final = 10_000
"""Deliveries that wait are counted up to this."""


async def list_failing(engine: AsyncEngine, limit: int) -> list[dict[str, Any]]:
    """Return endpoints that fail now, or that the process gave up, those that fail longest first."""
    return await rows(engine, _FAILING, limit)


class Telling(NamedTuple):
    """How users are told: what an operator must do, a line each; and what is the users' own to look at, in words."""

    trouble: list[str]
    failing: str | None


async def look(engine: AsyncEngine, older_than_s: float) -> Telling:
    """Look for deliveries that nobody sends, and for secrets that can't be opened. The auditor's login will do.

    A delivery is in time up to `older_than_s` after it was due. What waits for an endpoint that fails, pauses or sleeps
    waits as it should.
    """
    late = [_late(row) for row in await rows(engine, _LATE, older_than_s)]
    [sealed] = await rows(engine, _UNREADABLE, SECRET_UNREADABLE)
    if sealed["number"]:
        secrets = f"the secrets of {sealed['number']} endpoints, such as {sealed['example']}, can't be opened"
        late.append(f"{secrets}: is a key missing in WEBHOOKS_KEYS? order-saga check-deploy tries all of them")
    [found] = await rows(engine, _COUNTS)
    words = [f"{found[name]} {name.replace('_', ' ')}" for name in ("failing", "given_up") if found[name]]
    if not words:
        return Telling(late, None)
    since = f" since {time_of_day(found['since'])}" if found["since"] else ""
    return Telling(late, f"endpoints of users: {' and '.join(words)}{since}: order-saga webhooks failing")


def _late(row: dict[str, Any]) -> str:
    what = f"{row['kind']} deliveries to {row['number']} endpoints are due and not sent"
    oldest = f"the oldest since {time_of_day(row['since'])} (endpoint {row['example']})"
    return f"{what}, {oldest}: is 'order-saga webhooks' running, and set up for {row['kind']}?"


# For each endpoint the first of what waits, by the index of what is due.
_LATE: Final = """
    SELECT e.kind, count(*) AS number, min(d.next_attempt_at) AS since,
        (array_agg(e.endpoint_id ORDER BY d.next_attempt_at))[1] AS example
    FROM audit.webhook_endpoints AS e CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM audit.webhook_deliveries AS its
        WHERE its.endpoint_id = e.endpoint_id AND its.state = 'PENDING' ORDER BY next_attempt_at LIMIT 1
    ) AS d
    WHERE e.state = 'ACTIVE' AND e.failures_in_row = 0 AND NOT e.quiet
        AND greatest(d.next_attempt_at, e.paused_until) < clock_timestamp() - make_interval(secs => $1)
    GROUP BY e.kind ORDER BY e.kind"""

_UNREADABLE: Final = f"""
    SELECT count(*) AS number, min(e.endpoint_id::text) AS example
    FROM audit.webhook_endpoints AS e
    WHERE e.failures_in_row > 0 AND EXISTS (
        SELECT FROM (
            SELECT reason FROM audit.webhook_deliveries AS its
            WHERE its.endpoint_id = e.endpoint_id AND its.state = 'PENDING' LIMIT {WAITING_MAX}
        ) AS those
        WHERE reason = $1)"""  # noqa: S608 - a constant of ours

_COUNTS: Final = """
    SELECT count(*) FILTER (WHERE state = 'ACTIVE') AS failing,
        count(*) FILTER (WHERE disabled_at IS NOT NULL) AS given_up,
        min(coalesce(failing_since, disabled_at)) AS since
    FROM audit.webhook_endpoints WHERE failures_in_row > 0 OR disabled_at IS NOT NULL"""

_FAILING: Final = f"""
    SELECT e.endpoint_id, e.user_id, e.kind, e.host, e.state, e.failures_in_row,
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
