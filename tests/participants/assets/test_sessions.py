"""Calendars: what a file may say, and when an asset is open, compared with a clock that is read every minute."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.assets import Trading
from participants.assets.sessions import (
    DAY_MIN,
    Calendar,
    Hours,
    Session,
    SpecialDay,
    Standing,
    check_calendar,
    followed,
    read_calendar,
    read_holidays,
    sessions,
    standing,
    standing_at,
    stored_calendar,
    write_calendar,
)

BERLIN: Final = """
time_zone = "Europe/Berlin"
holidays = "holidays.txt"

[sessions]
monday = "09:00-17:30"
tuesday = ["09:00-12:00", "13:00-17:30"]
friday = "22:00-02:00"
"""
HOLIDAYS: Final = """# what differs
2026-12-24 09:00-14:00 Christmas Eve
2026-12-25 Christmas Day

2026-12-28 08:00-10:00,11:00-12:00
"""
MINUTE: Final = timedelta(minutes=1)
DAY: Final = timedelta(days=1)
WEEK: Final = 9
"""Days of a window: one more than a week on each side of the day that is asked about."""
CHANGES: Final = {
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),
    "America/Sao_Paulo": (date(2018, 11, 4), date(2018, 2, 18)),
    "Pacific/Apia": (date(2011, 12, 30),),
    "Asia/Kolkata": (date(2026, 6, 1),),
    "UTC": (date(2028, 2, 29),),
}
"""Days on which a clock is set forward or back: by an hour, by half of one, at midnight, by a whole day, and never."""


def utc(text: str) -> datetime:
    """Read a time of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The oracle -----------------------------------------------------------------------------------------------------------


class Watched:
    """A clock on a wall, looked at every minute of a window."""

    def __init__(self, calendar: Calendar, middle: date) -> None:
        """Note what the clock shows, and go through the sessions of every day as the calendar names them."""
        zone = ZoneInfo(calendar.time_zone)
        self.begin = datetime.combine(middle - WEEK * DAY, time(), UTC)
        self.end = self.begin + 2 * WEEK * DAY
        minutes = (self.end - self.begin) // MINUTE
        self._shown = [(self.begin + n * MINUTE).astimezone(zone).replace(tzinfo=None) for n in range(minutes)]
        special = {day.day: day.hours for day in calendar.special}
        self.sessions: list[Session] = []
        for number in range(1, 2 * WEEK - 2):
            day = middle + (number - WEEK) * DAY
            for hours in special.get(day, calendar.week[day.weekday()]):
                opens = self._reached(day, hours.opens)
                closes = self._reached(day + (hours.closes <= hours.opens) * DAY, hours.closes)
                if opens < closes:
                    self.sessions.append(Session(opens, closes))

    def _reached(self, day: date, minute: int) -> datetime:
        """Find the first minute at which the clock shows this time or a later one."""
        wanted = datetime.combine(day, time()) + minute * MINUTE
        earliest = max(0, (wanted.replace(tzinfo=UTC) - 2 * DAY - self.begin) // MINUTE)  # no clock is so far ahead
        return self.begin + next(n for n in count(earliest) if self._shown[n] >= wanted) * MINUTE

    def standing(self, now: datetime) -> Standing:
        """Say what is open, by looking at every session."""
        running = [one for one in self.sessions if one.opens <= now < one.closes]
        opens_at = min((one.opens for one in self.sessions if one.opens > now), default=None)
        ends_at = min((one.closes for one in self.sessions if one.closes > now), default=None)
        return Standing(bool(running), running[0].closes if running else opens_at, opens_at, ends_at)


@st.composite
def hours(draw: st.DrawFn) -> Hours:
    """Draw a session; times about a change of the clock come often."""
    at = st.sampled_from((0, 30, 60, 90, 120, 150, 180)) | st.integers(0, DAY_MIN - 1)
    return Hours(draw(at), draw(at | st.just(DAY_MIN)))


@st.composite
def calendars(draw: st.DrawFn, zone: str, middle: date) -> Calendar:
    """Draw a calendar with special days about the middle of the window; what would overlap is left out."""
    calendar = Calendar(zone, ((),) * 7)
    for number in range(7):
        week = list(calendar.week)
        week[number] = draw(day_hours())
        calendar = _if_possible(calendar, Calendar(zone, tuple(week)))
    for number in sorted(draw(st.lists(st.integers(-3, 3), unique=True, max_size=3))):
        special = SpecialDay(middle + number * DAY, draw(day_hours()))
        calendar = _if_possible(calendar, Calendar(zone, calendar.week, (*calendar.special, special)))
    return calendar


def day_hours() -> st.SearchStrategy[tuple[Hours, ...]]:
    """Draw the sessions of a day."""
    return st.lists(hours(), max_size=2).map(lambda some: tuple(sorted(some, key=lambda one: one.opens)))


def _if_possible(before: Calendar, after: Calendar) -> Calendar:
    try:
        check_calendar(after)
    except ValueError:
        return before
    return after


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_an_asset_is_open_when_the_clock_on_the_wall_says_so(data: st.DataObject) -> None:
    """About changes of the clock and special days, every answer is that of somebody who looks every minute."""
    zone = data.draw(st.sampled_from(sorted(CHANGES)))
    middle = data.draw(st.sampled_from(CHANGES[zone]))
    calendar = data.draw(calendars(zone, middle))
    watched = Watched(calendar, middle)
    about = {each + shift for one in watched.sessions for each in one for shift in (-MINUTE, timedelta(), MINUTE)}
    near = [now for now in sorted(about) if abs(now - datetime.combine(middle, time(12), UTC)) < 3 * DAY]
    minutes = data.draw(st.lists(st.integers(-3 * DAY_MIN, 3 * DAY_MIN), max_size=20))
    for now in [*near, *(datetime.combine(middle, time(12), UTC) + minute * MINUTE for minute in minutes)]:
        expected, found = watched.standing(now), standing(calendar, now)
        far = watched.end - 4 * DAY
        for one, other in zip(expected[1:], found[1:], strict=True):
            assert isinstance(other, datetime | None)
            assert one == other or (one is None and (other is None or other > far)), now
        assert expected.is_open == found.is_open, now


def test_a_time_that_is_skipped_is_the_skip_and_one_that_comes_twice_its_first() -> None:
    """In Berlin 02:30 is not there on 2026-03-29, and comes twice on 2026-10-25."""
    calendar = Calendar("Europe/Berlin", ((),) * 6 + ((Hours(150, 240),),))
    spring = next(sessions(calendar, utc("2026-03-28T12:00")))
    assert spring == (utc("2026-03-29T01:00"), utc("2026-03-29T02:00"))
    autumn = next(sessions(calendar, utc("2026-10-24T12:00")))
    assert autumn == (utc("2026-10-25T00:30"), utc("2026-10-25T03:00"))


def test_the_same_hours_are_other_instants_after_a_change_of_the_clock() -> None:
    """New York opens at 14:30 UTC until 2026-03-08, and at 13:30 from then on."""
    week = ((Hours(570, 960),),) * 5 + ((), ())
    calendar = Calendar("America/New_York", week)
    assert standing(calendar, utc("2026-03-06T22:00")).opens_at == utc("2026-03-09T13:30")
    assert standing(calendar, utc("2026-03-05T22:00")).opens_at == utc("2026-03-06T14:30")


def test_sessions_that_touch_never_close_but_end() -> None:
    """Around the clock, a DAY order ends at midnight, and the asset stays open."""
    always = Calendar("UTC", ((Hours(0, DAY_MIN),),) * 7)
    stands = standing(always, utc("2026-05-05T12:00"))
    assert stands == (True, utc("2026-05-06T00:00"), utc("2026-05-06T00:00"), utc("2026-05-06T00:00"))
    assert standing(always, utc("2026-05-06T00:00")).is_open


def test_without_any_session_nothing_is_known() -> None:
    """A calendar of nothing but holidays is closed, and says not until when."""
    assert standing(Calendar("UTC", ((),) * 7), utc("2026-05-05T12:00")) == (False, None, None, None)


NOW: Final = utc("2026-05-05T12:00")
LATER, BEFORE, NEXT = NOW + DAY, NOW - DAY, NOW + 2 * DAY
OPENED: Final = Standing(is_open=True, changes_at=LATER, opens_at=NEXT, ends_at=LATER)
OVER: Final = Standing(is_open=False, changes_at=NEXT, opens_at=NEXT, ends_at=NEXT + DAY)


@pytest.mark.parametrize(
    ("trading", "reopens_at", "stands", "expected"),
    [
        (Trading.OPEN, None, OPENED, None),
        (Trading.OPEN, None, OVER, (Trading.CLOSED, NEXT)),
        (Trading.CLOSED, None, OPENED, (Trading.OPEN, None)),
        (Trading.CLOSED, NOW, OPENED, (Trading.OPEN, None)),
        (Trading.CLOSED, LATER, OPENED, None),
        (Trading.CLOSED, None, OVER, (Trading.CLOSED, NEXT)),
        (Trading.CLOSED, BEFORE, OVER, (Trading.CLOSED, NEXT)),
        (Trading.CLOSED, NEXT, OVER, None),
        (Trading.CLOSED, LATER, OVER, None),
        (Trading.HALTED, None, OPENED, None),
        (Trading.HALTED, None, OVER, None),
        (Trading.HALTED, BEFORE, OPENED, None),
    ],
)
def test_whose_word_counts(
    trading: Trading,
    reopens_at: datetime | None,
    stands: Standing,
    expected: tuple[Trading, datetime | None] | None,
) -> None:
    """A halt and a closing for longer are a person's; everything else follows the calendar when it changes."""
    assert followed(trading, reopens_at, stands, NOW) == expected


# From a file ----------------------------------------------------------------------------------------------------------


def test_a_calendar_is_read_from_a_file_and_its_holidays_from_another() -> None:
    """Weekdays that are left out have no session; a day of the other file is not as its weekday."""
    calendar = read_calendar(BERLIN, {"holidays.txt": HOLIDAYS}.__getitem__)
    evening = Hours(22 * 60, 120)
    assert calendar.week == (
        (Hours(540, 1050),), (Hours(540, 720), Hours(780, 1050)), (), (), (evening,), (), (),
    )  # fmt: skip
    assert [(day.day.day, day.name, list(map(str, day.hours))) for day in calendar.special] == [
        (24, "Christmas Eve", ["09:00-14:00"]),
        (25, "Christmas Day", []),
        (28, "", ["08:00-10:00", "11:00-12:00"]),
    ]
    assert stored_calendar(write_calendar(calendar)) == calendar
    assert standing_at(write_calendar(calendar), utc("2026-12-24T12:59:59.5")) == standing(
        calendar, utc("2026-12-24T12:59:59")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time_zone = ", "is no TOML"),
        ("[sessions]\nmonday = '09:00-10:00'", "time_zone: is required"),
        ("time_zone = 'UTC'", "sessions: is required"),
        ("time_zone = 'UTC'\nopen = 1\n[sessions]\nmonday = '09:00-10:00'", "open: is not known"),
        ("time_zone = 'UTC'\n[sessions]\nmontag = '09:00-10:00'", "sessions.montag: is no weekday"),
        ("time_zone = 'UTC'\n[sessions]\nmonday = '9-10'", "sessions.monday: '9-10' is no session"),
        ("time_zone = 'UTC'\n[sessions]\nmonday = '09:00-24:30'", "'09:00-24:30' is no session"),
        ("time_zone = 'UTC'\n[sessions]\nmonday = 9", "sessions.monday: must be hours"),
        ("time_zone = 'UTC'\n[sessions]\nmonday = [9]", "sessions.monday: must be hours"),
        ("time_zone = 'UTC'\nholidays = 1\n[sessions]\nmonday = '09:00-10:00'", "holidays: must be the name"),
        ("time_zone = 'Mars/Base'\n[sessions]\nmonday = '09:00-10:00'", "'Mars/Base' is not known on this machine"),
        ("time_zone = '../etc'\n[sessions]\nmonday = '09:00-10:00'", "'../etc' is not known"),
        ("time_zone = 'UTC'\n[sessions]\nmonday = ['09:00-10:00', '09:30-11:00']", "and 09:30-11:00 overlap"),
        ("time_zone = 'UTC'\n[sessions]\nsunday = '22:00-02:00'\nmonday = '01:00-03:00'", "sunday: 22:00-02:00 and"),
        (f"time_zone = 'UTC'\n[sessions]\nmonday = {['00:00-00:01'] * 11}", "at most 10 sessions"),
    ],
)  # fmt: skip
def test_a_calendar_that_can_not_be_says_why(text: str, words: str) -> None:
    """Each fault is named with its place."""
    with pytest.raises(ValueError, match=re.escape(words)):
        read_calendar(text, lambda _: "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("25.12.2026", "line 2: '25.12.2026' is no date"),
        ("2026-12-24 again", "line 2: 2026-12-24 comes twice"),
        ("2026-12-26 09:00-25:00", "line 2: '09:00-25:00' is no session"),
    ],
)
def test_a_holiday_that_can_not_be_names_its_line(line: str, words: str) -> None:
    """The first line is good."""
    with pytest.raises(ValueError, match=re.escape(words)):
        read_holidays(["2026-12-24", line])


def test_hours_of_a_special_day_may_not_overlap_those_of_the_night_before() -> None:
    """A session that ends after midnight is still running."""
    week = ((Hours(22 * 60, 120),), *((),) * 6)
    special = SpecialDay(date(2026, 5, 5), (Hours(60, 180),))
    with pytest.raises(ValueError, match="2026-05-04: 22:00-02:00 and 01:00-03:00 overlap"):
        check_calendar(Calendar("UTC", week, (special,)))


@pytest.mark.parametrize("text", ["{", "{}", '{"time_zone":"Mars/Base","week":[[],[],[],[],[],[],[]]}'])
def test_a_stored_calendar_that_can_not_be_read_is_none(text: str) -> None:
    """Such as one whose time zone this machine does not know: its asset stays as it is."""
    assert stored_calendar(text) is None
    assert standing_at(text, NOW) is None


def test_the_examples_of_the_documentation_can_be_read() -> None:
    """The calendar and the holidays that the page on sessions shows."""
    page = (Path(__file__).parents[3] / "docs" / "orders" / "sessions.md").read_text()
    toml, holidays = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("toml", "text"))
    assert read_calendar(toml, lambda _: holidays).special
