"""Endpoints that are given up: whose streams look again, and how far back each look goes."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from uuid import UUID

from order_api.live.disabled import OVERLAP_S, DisabledEndpoints
from order_api.live.feed import Feed
from order_api.live.mailbox import Mailbox
from order_api.live.store import Disabling

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Database:
    """Tells of what is put in, or is away."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.disabled: list[Disabling] = []
        self.away = False

    async def disabled_within(self, seconds: float) -> Collection[Disabling]:
        """Return what is there."""
        if self.away:
            raise TimeoutError
        self.asked.append(seconds)
        return self.disabled


async def test_the_streams_of_its_user_look_again_once() -> None:
    """Whoever follows another user, one order or all of them does not; nothing is asked while nobody follows."""
    feed, database, clock = Feed(), Database(), [100.0]
    looking = DisabledEndpoints(feed, database, clock=lambda: clock[0])
    alices, bobs, operators = (Mailbox(lambda: None) for _ in range(3))
    await looking.look()
    assert [] == database.asked
    feed.follow_user("alice", alices)
    feed.follow_user("bob", bobs)
    feed.follow_all(operators)
    database.disabled = [Disabling("alice", UUID(int=1), NOW)]
    for stale in (True, False):
        await looking.look()
        assert [stale, False, False] == [one.take().stale for one in (alices, bobs, operators)]
    database.disabled.append(Disabling("alice", UUID(int=1), NOW.replace(hour=13)))
    await looking.look()
    assert alices.take().stale, "enabled meanwhile, and given up again"


async def test_a_look_goes_back_to_the_last_one_and_a_little_further() -> None:
    """However long the database was away; from the beginning when somebody follows again."""
    feed, database, clock = Feed(), Database(), [100.0]
    looking, mailbox = DisabledEndpoints(feed, database, clock=lambda: clock[0]), Mailbox(lambda: None)
    feed.follow_user("alice", mailbox)
    await looking.look()
    database.away, clock[0] = True, 200.0
    try:
        await looking.look()
    except TimeoutError:
        database.away, clock[0] = False, 500.0
    await looking.look()
    feed.leave_user("alice", mailbox)
    await looking.look()
    feed.follow_user("alice", mailbox)
    await looking.look()
    assert [OVERLAP_S, 400 + OVERLAP_S, OVERLAP_S] == database.asked
