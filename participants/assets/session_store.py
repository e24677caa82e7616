"""The sessions of assets in the database, and how assets follow them.

Whoever follows an asset's calendar locks its row, so of several instances one does. What the row says is due is made
known with the change that was due, in one transaction: a crash loses nothing, and nothing is done twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import Trading
from participants.assets.price_store import change_price
from participants.assets.sessions import Calendar, Standing, check_calendar, followed, standing, stored_calendar
from participants.assets.sessions import write_calendar as write
from saga_kit.runtime.transactions import Begins, Transaction, begin

LOOK_AGAIN: Final = timedelta(days=1)
"""When to look again at a calendar that says nothing of the near future ..."""
RETRY: Final = timedelta(minutes=1)
"""... and at one that can't be followed here."""
FOLLOW_MAX: Final = 100
"""Assets of one transaction."""
REASON: Final = "by its sessions"

_SET: Final = """
    INSERT INTO assets.sessions (asset_id, calendar, due_at) VALUES ($1, $2, clock_timestamp())
    ON CONFLICT (asset_id) DO UPDATE SET calendar = excluded.calendar, set_at = now()
    RETURNING clock_timestamp()"""
_REMOVE: Final = "DELETE FROM assets.sessions WHERE asset_id = $1"
_LATER: Final = "UPDATE assets.sessions SET due_at = $2 WHERE asset_id = $1"
_CALENDARS: Final = "SELECT asset_id, calendar, clock_timestamp() FROM assets.sessions ORDER BY asset_id"
_LOCK_PRICE: Final = "SELECT trading FROM assets.prices WHERE asset_id = $1 FOR UPDATE"
# SKIP LOCKED: another instance follows it now, or somebody changes its price; the next round comes soon.
_DUE: Final = """
    SELECT asset_id, calendar, due_at <= clock_timestamp() AS due, price.trading, price.reopens_at, clock_timestamp()
    FROM assets.sessions AS session JOIN assets.prices AS price USING (asset_id)
    WHERE asset_id > $2
        AND (due_at <= clock_timestamp() OR (price.trading = 'CLOSED' AND price.reopens_at <= clock_timestamp()))
    ORDER BY asset_id LIMIT $1 FOR UPDATE OF session, price SKIP LOCKED"""

log = structlog.get_logger(__name__)


class Followed(NamedTuple):
    """An asset's calendar, and how the asset stands by it now; None for one that can't be followed here."""

    calendar: Calendar | None
    stands: Standing | None


async def set_sessions(engine: AsyncEngine, asset_id: str, calendar: Calendar) -> None:
    """Give an asset a calendar, and make it stand as that says at once, unless it is halted.

    Raises `ValueError` for an asset without a price, and for a calendar that can't be.
    """
    check_calendar(calendar)
    async with begin(engine) as tx:
        row = await tx.fetchrow(_LOCK_PRICE, asset_id)
        if row is None:
            raise ValueError(f"{asset_id} has no price yet")
        now = await tx.fetchval(_SET, asset_id, write(calendar))
        stands = standing(calendar, now)
        await tx.execute(_LATER, asset_id, stands.changes_at or now + LOOK_AGAIN)
        # Whoever sets a calendar wants it followed, however long the asset was to be closed.
        if (goes_to := followed(Trading(row[0]), None, stands, now)) is not None:
            await _goes(tx, asset_id, *goes_to)


async def remove_sessions(engine: AsyncEngine, asset_id: str) -> bool:
    """Take an asset's calendar away: it stays open or closed, as it is. Return whether there was one."""
    async with begin(engine) as tx:
        return await tx.execute(_REMOVE, asset_id) > 0


async def calendars(source: AsyncEngine | Begins) -> dict[str, Followed]:
    """List the calendars of all assets that have one."""
    async with begin(source) as tx:
        rows = await tx.fetch(_CALENDARS)
    known = ((asset_id, stored_calendar(text), now) for asset_id, text, now in rows)
    return {
        asset_id: Followed(calendar, None if calendar is None else standing(calendar, now))
        for asset_id, calendar, now in known
    }


async def follow_sessions(source: AsyncEngine | Begins) -> None:
    """Open and close the assets whose time has come, each looked at once.

    Assets that nothing can be done about, since their calendars can't be followed here, take no other's place.
    """
    last = ""
    while (last_of_page := await _follow_page(source, last)) is not None:
        last = last_of_page


async def _follow_page(source: AsyncEngine | Begins, after: str) -> str | None:
    """Follow the sessions of some assets after that one; return the last of them if there may be more."""
    async with begin(source) as tx:
        rows = await tx.fetch(_DUE, FOLLOW_MAX, after)
        for asset_id, text, due, trading, reopens_at, now in rows:
            calendar = stored_calendar(text)
            if calendar is None:
                if due:
                    log.error("the sessions of an asset can't be followed here: is tzdata there?", asset_id=asset_id)
                    await tx.execute(_LATER, asset_id, now + RETRY)
                continue
            stands = standing(calendar, now)
            await tx.execute(_LATER, asset_id, stands.changes_at or now + LOOK_AGAIN)
            if (goes_to := followed(Trading(trading), reopens_at, stands, now)) is not None:
                await _goes(tx, asset_id, *goes_to)
                log.info("an asset follows its sessions", asset_id=asset_id, trading=goes_to[0].value)
    return rows[-1][0] if len(rows) == FOLLOW_MAX else None


async def _goes(tx: Transaction, asset_id: str, trading: Trading, reopens_at: datetime | None) -> None:
    await change_price(tx, asset_id, trading=trading, reopens_at=reopens_at, reason=REASON)
