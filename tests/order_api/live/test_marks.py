"""The mark: it never runs ahead of an event that somebody has not been handed yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_api.live.feed import Feed
from order_api.live.mailbox import Mailbox
from order_api.live.marks import Marks, mark_of, time_of

START = datetime(2026, 3, 2, 12, tzinfo=UTC)


class World:
    """A database, a topic and a follower, each with its own idea of how far it is; one clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.unpublished: list[float] = []
        """When each event was committed that is in the outbox."""
        self.unheard: list[float] = []
        """When each event was committed that is in the topic and not heard yet."""
        self.complete_at = 0.0
        self.feed = Feed()
        self.feed.follow_user("alice", Mailbox(lambda: None))
        self.marks = Marks(self.feed, self, lambda: self.complete_at, clock=lambda: self.now)

    async def published_until(self) -> datetime:
        """Return it as the database does."""
        return START + timedelta(seconds=min([self.now, *self.unpublished]))

    async def step(self, what: str) -> None:
        """Let something happen, a second later."""
        self.now += 1.0
        if what == "commit":
            self.unpublished.append(self.now)
        elif what == "publish" and self.unpublished:
            self.unheard.append(self.unpublished.pop())  # in any order: here the newest first
        elif what == "hear":
            self.unheard.clear()
            self.complete_at = self.now
        elif what == "look":
            await self.marks.look()


@given(st.lists(st.sampled_from(["commit", "publish", "hear", "look", "look"]), max_size=60))
async def test_the_mark_is_never_ahead_of_an_event_that_was_not_handed_out(steps: list[str]) -> None:
    """However commits, publishes and reads of the topic interleave."""
    world = World()
    for step in steps:
        await world.step(step)
        for committed_at in (*world.unpublished, *world.unheard):
            assert world.feed.mark <= mark_of(START + timedelta(seconds=committed_at))


async def test_the_mark_moves_on_when_all_is_heard() -> None:
    """To the time that the database gave; while an event waits in the outbox, no further than that."""
    world = World()
    for step in ("look", "hear", "look"):
        await world.step(step)
    assert mark_of(START + timedelta(seconds=1)) == world.feed.mark
    for step in ("commit", "look", "hear", "look", "hear", "look"):
        await world.step(step)
    assert mark_of(START + timedelta(seconds=4)) == world.feed.mark


async def test_the_database_is_asked_only_while_somebody_follows() -> None:
    """An API without streams costs it nothing."""
    world = World()
    world.feed = Feed()
    marks = Marks(world.feed, world, lambda: world.complete_at)
    await marks.look()
    world.complete_at = 2.0**33
    await marks.look()
    assert 0 == world.feed.mark


@given(st.datetimes(datetime(1970, 1, 1), datetime(2299, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - as it asks
def test_a_mark_is_a_time(at: datetime) -> None:
    """To the microsecond."""
    assert at == time_of(mark_of(at))


def test_a_mark_that_no_calendar_has_is_an_error() -> None:
    """Whoever sends one is told so."""
    with pytest.raises(OverflowError):
        time_of(10**18)
