"""Find what does not move, and why. One query, read row by row: any number of orders needs little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from operations.access.database import rows, stream
from operations.diagnosis.why import cause, why

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

CAUSES_MAX: Final = 40
"""Causes that are told apart; further ones (each parked for a reason of its own) are counted together."""
EVENT_AGE_S: Final = 30.0
"""The relay's own time for an event; an older one is not on its way."""

_STUCK: Final = """
    SELECT 'order' AS kind, o.order_id, o.user_id, o.asset_id, o.phase, o.status, o.updated_at AS since, o.due_at,
        o.overdue_since, o.parked_reason, CAST(NULL AS integer) AS version,
        (SELECT jsonb_agg(jsonb_build_object('step', q.step, 'participant', q.participant, 'asked_at', q.asked_at,
                    'due_at', q.due_at, 'attempts', q.attempts, 'sent', q.sent, 'held_back', q.held_back))
            FROM audit.questions AS q WHERE q.order_id = o.order_id AND q.answer = 'OPEN') AS questions
    FROM audit.orders AS o
    WHERE o.parked_reason IS NOT NULL OR o.overdue_since IS NOT NULL
        OR (o.due_at IS NOT NULL AND o.updated_at < clock_timestamp() - make_interval(secs => :older_than_s))
        OR (o.due_at IS NOT NULL AND EXISTS (SELECT FROM audit.pauses) AND EXISTS (
            SELECT FROM audit.questions AS q WHERE q.order_id = o.order_id AND q.answer = 'OPEN' AND q.held_back))
    UNION ALL
    SELECT 'claim', c.order_id, c.user_id, NULL, NULL, NULL, c.created_at, NULL, NULL, NULL, NULL, NULL
    FROM audit.claims AS c
    WHERE NOT c.settled AND c.created_at < clock_timestamp() - make_interval(secs => :older_than_s)
        AND NOT EXISTS (SELECT FROM audit.orders AS o WHERE o.order_id = c.order_id)
    UNION ALL
    SELECT 'event', e.order_id, NULL, NULL, NULL, NULL, e.created_at, NULL, NULL, NULL, e.version, NULL
    FROM audit.events_unsent AS e
    WHERE e.created_at < clock_timestamp() - make_interval(secs => greatest(:older_than_s, :event_age_s))
    ORDER BY since"""


# By the index of open orders.
_RESTING: Final = """
    SELECT count(*) AS number FROM audit.orders
    WHERE status = 'CONFIRMED' AND phase = 'WORKING' AND parked_reason IS NULL"""


class Item(NamedTuple):
    """One order, claim or event that does not move. `row` has its `cause` and `why` in words, too."""

    row: dict[str, Any]
    cause: str
    advice: str


class Group(NamedTuple):
    """How many items one cause keeps from moving, and the oldest of them."""

    advice: str
    orders: int
    overdue: int
    oldest: datetime
    oldest_id: str


async def find(engine: AsyncEngine, older_than_s: float, pauses: Mapping[str, Any]) -> AsyncIterator[Item]:
    """Find what does not move, the oldest first. `pauses`: those of `pauses.current`.

    These are orders that are parked, overdue, held back by a pause, or without a move for `older_than_s`; claims that
    the orchestrator has not seen; events that were not sent.
    """
    async for row in stream(engine, _STUCK, older_than_s=older_than_s, event_age_s=EVENT_AGE_S):
        found = cause(row, pauses)
        row["cause"], row["why"] = found.name, why(row, pauses)
        yield Item(row, found.name, found.advice)


async def count_resting(engine: AsyncEngine) -> int:
    """Count the orders that wait for a price: they may do so for long, and nothing is the matter with them."""
    [row] = await rows(engine, _RESTING)
    return int(row["number"])


def count(groups: dict[str, Group], item: Item) -> None:
    """Count an item among those with the same cause; items must come with the oldest first."""
    name = item.cause if item.cause in groups or len(groups) < CAUSES_MAX else "parked: further reasons"
    overdue = item.row["overdue_since"] is not None
    known = groups.get(name)
    if known is None:
        groups[name] = Group(item.advice, 1, overdue, item.row["since"], str(item.row["order_id"]))
    else:
        groups[name] = known._replace(orders=known.orders + 1, overdue=known.overdue + overdue)
