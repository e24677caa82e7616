"""Find what does not move, and why. One query, read row by row: any number of orders needs little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from operations.access.database import rows, stream
from operations.diagnosis.why import cause, why
from order_saga.core.phases import RESTING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

CAUSES_MAX: Final = 40
"""Causes that are told apart; further ones (each parked for a reason of its own) are counted together."""
EVENT_AGE_S: Final = 30.0
"""The relay's own time for an event; an older one is not on its way."""

FEED_AGE_S: Final = 60.0
"""Six times the time between two confirmations of a price: a quiet market is no silent feed."""

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
    SELECT 'fire', r.order_id, o.user_id, r.asset_id, o.phase, o.status, r.fired_at, NULL, NULL, NULL, NULL, NULL
    FROM audit.resting AS r JOIN audit.orders AS o USING (order_id)
    WHERE (r.fired_sequence IS NOT NULL OR (r.triggered_sequence IS NOT NULL AND NOT r.told))
        AND r.fired_at < clock_timestamp() - make_interval(secs => :older_than_s) AND o.parked_reason IS NULL
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
    SELECT count(*) FILTER (WHERE NOT on_hold) AS number, count(*) FILTER (WHERE on_hold) AS on_hold FROM audit.orders
    WHERE status = 'CONFIRMED' AND phase = ANY ($1) AND parked_reason IS NULL"""


_SILENT: Final = """
    SELECT of_asset.asset_id, m.sequence, m.trading,
        extract(epoch FROM clock_timestamp() - least(m.confirmed_at, m.appended_at))::float8 AS age_s
    FROM (SELECT DISTINCT asset_id FROM audit.resting WHERE live) AS of_asset
    LEFT JOIN audit.marks AS m USING (asset_id)
    WHERE m.asset_id IS NULL OR least(m.confirmed_at, m.appended_at) < clock_timestamp() - make_interval(secs => $1)
    ORDER BY of_asset.asset_id"""


class Item(NamedTuple):
    """One order, claim, fire or event that does not move. `row` has its `cause` and `why` in words, too."""

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
    the orchestrator has not seen; orders that a tick fired and nobody carries out; events that were not sent.
    """
    async for row in stream(engine, _STUCK, older_than_s=older_than_s, event_age_s=EVENT_AGE_S):
        found = cause(row, pauses)
        row["cause"], row["why"] = found.name, why(row, pauses)
        yield Item(row, found.name, found.advice)


async def silent_feeds(engine: AsyncEngine) -> list[str]:
    """Say, a line each, of which assets with orders that rest nobody has confirmed a price for a minute.

    The price is as old as its confirmation, or as its arrival at the broker, whichever is older: so ticks that come
    late show as well as a feed that is silent.
    """
    return [_silent(row) for row in await rows(engine, _SILENT, FEED_AGE_S)]


def _silent(row: Mapping[str, Any]) -> str:
    if row["age_s"] is None:
        return f"{row['asset_id']}: orders rest, and no price of it has ever been judged: is its feed up?"
    last = f"the price of sequence {row['sequence']:,} was confirmed {row['age_s']:,.0f} s ago"
    return f"{row['asset_id']}: orders rest, and {last}: nothing fires until its feed is back"


async def count_resting(engine: AsyncEngine) -> tuple[int, int]:
    """Count the orders that rest, and those on hold: they may do so for long, and nothing is the matter with them."""
    [row] = await rows(engine, _RESTING, sorted(RESTING))
    return int(row["number"]), int(row["on_hold"])


def count(groups: dict[str, Group], item: Item) -> None:
    """Count an item among those with the same cause; items must come with the oldest first."""
    name = item.cause if item.cause in groups or len(groups) < CAUSES_MAX else "parked: further reasons"
    overdue = item.row["overdue_since"] is not None
    known = groups.get(name)
    if known is None:
        groups[name] = Group(item.advice, 1, overdue, item.row["since"], str(item.row["order_id"]))
    else:
        groups[name] = known._replace(orders=known.orders + 1, overdue=known.overdue + overdue)
