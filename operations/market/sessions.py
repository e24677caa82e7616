"""Give an asset sessions, show them, and take them away. Each change is noted in the trail of repairs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from operations.access.errors import Trouble, WrongRequest
from operations.market.prices import known_price, note
from participants.assets import session_store
from participants.assets.sessions import read_calendar, sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.repair.runs import Run
    from participants.assets.sessions import Calendar

SHOWN: Final = 5
"""Sessions that are shown of an asset: the running one and those to come."""


def read(name: str, text: str, read_file: Callable[[str], str]) -> Calendar:
    """Read a calendar. Raises `WrongRequest` that names the file and the place in it."""
    try:
        return read_calendar(text, read_file)
    except ValueError as error:
        raise WrongRequest(f"{name}: {error}") from None


async def put(engine: AsyncEngine, asset_id: str, calendar: Calendar, run: Run) -> None:
    """Make an asset follow a calendar from now on. Raises `Trouble` for an asset without a price."""
    await known_price(engine, asset_id)
    await session_store.set_sessions(engine, asset_id, calendar)
    words = f"{calendar.time_zone}, {len(calendar.special)} special days"
    await note(engine, run, "market sessions", asset_id, words)


async def remove(engine: AsyncEngine, asset_id: str, run: Run) -> None:
    """Let an asset stay as it is, open or closed, until a person changes that. Raises `Trouble` when it has none."""
    await known_price(engine, asset_id)
    if not await session_store.remove_sessions(engine, asset_id):
        raise Trouble(f"{asset_id} has no sessions")
    await note(engine, run, "market sessions", asset_id, "removed")


async def show(engine: AsyncEngine, asset_id: str) -> dict[str, Any]:
    """Say how an asset stands, and list its next sessions, by its own clock. Raises `Trouble` when it has none."""
    now = await known_price(engine, asset_id)
    found = (await session_store.calendars(engine)).get(asset_id)
    if found is None:
        raise Trouble(f"{asset_id} has no sessions: it is opened and closed by 'order-saga market' alone")
    if found.calendar is None or found.stands is None:
        raise Trouble(f"the sessions of {asset_id} can't be read here: is the time zone data (tzdata) there?")
    zone, names = ZoneInfo(found.calendar.time_zone), {day.day: day.name for day in found.calendar.special}
    return {
        "asset_id": asset_id,
        "trading": now.trading.value,
        "reopens_at": now.reopens_at,
        "in_session": found.stands.is_open,
        "session_ends_at": found.stands.ends_at,
        "time_zone": found.calendar.time_zone,
        "special_days": len(names),
        "sessions": [
            {"opens": one.opens.astimezone(zone), "closes": one.closes.astimezone(zone)}
            for one in islice(sessions(found.calendar, now.now), SHOWN)
        ],
    }
