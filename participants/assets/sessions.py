"""When an asset trades: its sessions by weekday in a time zone, and the days that differ. Pure: time is an argument.

A time of a calendar is one of the local clock. It means the first instant at which that clock shows it or a later one:
so a time that comes twice, when the clock is set back, is its first one, and a time that is skipped is the skip.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from contracts.assets import Trading

DAY_MIN: Final = 24 * 60
LOOK_AHEAD: Final = timedelta(days=400)
"""How far away a session may be that is found."""
DAYS_MAX: Final = 5_000
HOURS_MAX: Final = 10
NAME_LENGTH_MAX: Final = 100
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")


class Hours(msgspec.Struct, frozen=True, array_like=True):
    """A session of a day, in minutes after midnight by the local clock.

    One that closes no later than it opens does so on the next day.
    """

    opens: Annotated[int, Meta(ge=0, lt=DAY_MIN)]
    closes: Annotated[int, Meta(ge=0, le=DAY_MIN)]

    @property
    def length(self) -> int:
        """How long it is by the clock."""
        return self.closes - self.opens + (DAY_MIN if self.closes <= self.opens else 0)

    def __str__(self) -> str:
        """Write it as a calendar has it."""
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.opens, self.closes))


class SpecialDay(msgspec.Struct, frozen=True, omit_defaults=True):
    """A day that is not as its weekday: a holiday, or one with other hours."""

    day: date
    hours: tuple[Hours, ...] = ()
    name: str = ""


class Calendar(msgspec.Struct, frozen=True):
    """The sessions of an asset. `week` begins with Monday."""

    time_zone: str
    week: tuple[tuple[Hours, ...], ...]
    special: tuple[SpecialDay, ...] = ()


class Session(NamedTuple):
    """One session: open from `opens` on, closed from `closes` on."""

    opens: datetime
    closes: datetime


class Standing(NamedTuple):
    """How an asset stands by its calendar at an instant; None: not within `LOOK_AHEAD`."""

    is_open: bool
    changes_at: datetime | None
    """When it opens or closes next."""
    opens_at: datetime | None
    """When the next session begins."""
    ends_at: datetime | None
    """When the session ends, or, if none runs, the next one."""


def standing(calendar: Calendar, now: datetime) -> Standing:
    """Say how an asset stands by its calendar."""
    coming = sessions(calendar, now)
    first = next(coming, None)
    if first is None:
        return Standing(is_open=False, changes_at=None, opens_at=None, ends_at=None)
    if first.opens > now:
        return Standing(is_open=False, changes_at=first.opens, opens_at=first.opens, ends_at=first.closes)
    second = next(coming, None)
    opens_at = None if second is None else second.opens
    return Standing(is_open=True, changes_at=first.closes, opens_at=opens_at, ends_at=first.closes)


def sessions(calendar: Calendar, since: datetime) -> Iterator[Session]:
    """List the sessions that end after an instant, in their order, as far as `LOOK_AHEAD`."""
    zone = ZoneInfo(calendar.time_zone)
    special = {day.day: day.hours for day in calendar.special}
    day = since.astimezone(zone).date() - timedelta(days=2)  # a session may have begun the day before
    while day <= since.date() + LOOK_AHEAD:
        for hours in special.get(day, calendar.week[day.weekday()]):
            midnight = datetime.combine(day, time())
            opens = _instant(midnight + timedelta(minutes=hours.opens), zone)
            closes = _instant(midnight + timedelta(minutes=hours.opens + hours.length), zone)
            if opens < closes and since < closes:
                yield Session(opens, closes)
        day += timedelta(days=1)


def followed(
    trading: Trading, reopens_at: datetime | None, stands: Standing, now: datetime
) -> tuple[Trading, datetime | None] | None:
    """Say what state an asset goes to when it is time to look at its calendar, and when it reopens; None: it stays.

    A halt stays, whatever the calendar says. So does a closing for longer than the calendar has it.
    """
    waits = reopens_at is not None and reopens_at > now
    if trading is Trading.HALTED or (trading is Trading.CLOSED and waits):
        return None
    if stands.is_open:
        return None if trading is Trading.OPEN else (Trading.OPEN, None)
    closed = (Trading.CLOSED, stands.opens_at)
    return None if closed == (trading, reopens_at) else closed


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant at which the zone's clock shows this time or a later one."""
    after = wall.replace(tzinfo=zone).astimezone(UTC)
    if _wall(after, zone) == wall:
        return after
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while after - before > timedelta(seconds=1):  # the clock skips this time between the two
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if _wall(middle, zone) >= wall:
            after = middle
        else:
            before = middle
    return after


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


# From a file, and from the database -----------------------------------------------------------------------------------


def read_calendar(text: str, read_file: Callable[[str], str]) -> Calendar:
    """Read a calendar from TOML; `read_file` reads the file of holidays by the name that it gives.

    Raises `ValueError` that says where it is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is no TOML: {error}") from None
    if strange := sorted(document.keys() - {"time_zone", "sessions", "holidays"}):
        raise ValueError(f"{strange[0]}: is not known; known are time_zone, sessions and holidays")
    zone, week, holidays = (document.get(name) for name in ("time_zone", "sessions", "holidays"))
    if not isinstance(zone, str):
        raise ValueError("time_zone: is required, such as 'Europe/Berlin'")  # noqa: TRY004 - a person's file
    if not isinstance(week, dict) or not week:
        raise ValueError("sessions: is required, a table of weekdays such as monday = '09:00-17:30'")
    if strange := sorted(week.keys() - set(WEEKDAYS)):
        raise ValueError(f"sessions.{strange[0]}: is no weekday; these are: {', '.join(WEEKDAYS)}")
    days = tuple(_hours_of(f"sessions.{name}", week.get(name, [])) for name in WEEKDAYS)
    if holidays is not None and not isinstance(holidays, str):
        raise ValueError("holidays: must be the name of a file with a day a line")
    special = () if holidays is None else read_holidays(read_file(holidays).splitlines())
    calendar = Calendar(zone, days, special)
    check_calendar(calendar)
    return calendar


def read_holidays(lines: list[str]) -> tuple[SpecialDay, ...]:
    """Read days that differ: a line `DATE [HOURS[,HOURS...]] [NAME]` each; `#` begins a comment.

    2026-12-25 Christmas Day, or 2026-12-24 09:00-14:00 Christmas Eve. Raises `ValueError` that names the line.
    """
    found: dict[date, SpecialDay] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            day = date.fromisoformat(words[0])
        except ValueError:
            raise ValueError(f"holidays, line {number}: {words[0]!r} is no date such as 2026-12-25") from None
        if day in found:
            raise ValueError(f"holidays, line {number}: {day} comes twice")
        timed = len(words) > 1 and words[1][0].isdigit() and ":" in words[1]
        hours = _hours_of(f"holidays, line {number}", words[1].split(",")) if timed else ()
        found[day] = SpecialDay(day, hours, " ".join(words[1 + timed :])[:NAME_LENGTH_MAX])
    if len(found) > DAYS_MAX:
        raise ValueError(f"holidays: {len(found)} days, at most {DAYS_MAX} are allowed")
    return tuple(found[day] for day in sorted(found))


def check_calendar(calendar: Calendar) -> None:
    """Raise `ValueError` for a time zone that is not known here, and for sessions that overlap."""
    try:
        ZoneInfo(calendar.time_zone)
    except (ValueError, LookupError, OSError):
        unknown = f"time_zone: {calendar.time_zone!r} is not known on this machine"
        raise ValueError(f"{unknown}; an IANA name such as 'Europe/Berlin' needs its tzdata") from None
    special = {day.day: day.hours for day in calendar.special}
    monday = date(2024, 1, 1)
    week = [(monday + timedelta(days=number), WEEKDAYS[number % 7]) for number in range(8)]
    for day, name in week:
        _check_overlap(name, calendar.week[day.weekday()], calendar.week[(day.weekday() + 1) % 7])
    for day in special:
        for first in (day - timedelta(days=1), day):
            hours, after = (
                special.get(each, calendar.week[each.weekday()]) for each in (first, first + timedelta(days=1))
            )
            _check_overlap(str(first), hours, after)


def write_calendar(calendar: Calendar) -> str:
    """Write a calendar for the database."""
    return msgspec.json.encode(calendar).decode()


def standing_at(text: str, now: datetime) -> Standing | None:
    """Say how an asset stands by its stored calendar; None for one that can't be followed here.

    It is worked out once a second at most, since every check of an order asks for it.
    """
    return _standing(text, now.replace(microsecond=0))  # an asset opens and closes at whole seconds


@lru_cache(1_024)
def _standing(text: str, now: datetime) -> Standing | None:
    calendar = stored_calendar(text)
    return None if calendar is None else standing(calendar, now)


@lru_cache(256)
def stored_calendar(text: str) -> Calendar | None:
    """Read a calendar from the database; None for one that can't be followed here, such as without its time zone."""
    try:
        calendar = msgspec.json.decode(text, type=Calendar)
        check_calendar(calendar)
    except (msgspec.MsgspecError, ValueError):
        return None
    return calendar


def _hours_of(where: str, given: Any) -> tuple[Hours, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: must be hours such as '09:00-17:30', or a list of such")
    if len(texts) > HOURS_MAX:
        raise ValueError(f"{where}: at most {HOURS_MAX} sessions a day")
    return tuple(sorted((_hours(where, text) for text in texts), key=lambda hours: hours.opens))


def _hours(where: str, text: str) -> Hours:
    match = _HOURS.fullmatch(text)
    opens, closes = (
        (0, 0) if match is None else (60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4]))
    )
    if match is None or closes > DAY_MIN:
        raise ValueError(f"{where}: {text!r} is no session such as '09:00-17:30'; '22:00-06:00' ends on the next day")
    return Hours(opens, closes)


def _check_overlap(where: str, hours: tuple[Hours, ...], after: tuple[Hours, ...]) -> None:
    begin = [(each.opens, each) for each in hours] + [(each.opens + DAY_MIN, each) for each in after]
    for (opens, one), (later, other) in pairwise(begin):
        if opens + one.length > later:
            raise ValueError(f"{where}: {one} and {other} overlap")
