"""An asset follows its sessions: opened and closed once each, whoever looks, and never against a halt."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.assets import AssetApproved, Trading
from contracts.decimals import Price
from contracts.vocabulary import OrderType
from participants.assets import session_store
from participants.assets.price_store import Source, set_price, set_source, set_trading
from participants.assets.rules import Asset, judge
from participants.assets.session_store import calendars, follow_sessions, remove_sessions, set_sessions
from participants.assets.sessions import DAY_MIN, Calendar, Hours, standing, write_calendar
from participants.assets.store import listings, put_asset
from saga_kit.runtime.transactions import begin
from tests.participants.assets.prices import newest, sent
from tests.participants.assets.test_resting_rules import STALE_AFTER, check

ALWAYS: Final = Calendar("UTC", ((Hours(0, DAY_MIN),),) * 7)
NEVER: Final = Calendar("UTC", ((),) * 7)


def opens_in(minutes: int) -> Calendar:
    """Make a calendar whose sessions begin so many minutes from now, every day, and last for an hour."""
    begins = (datetime.now(UTC) + timedelta(minutes=minutes)).time()
    minute = begins.hour * 60 + begins.minute
    return Calendar("UTC", ((Hours(minute, (minute + 60) % DAY_MIN),),) * 7)


async def make_due(engine: AsyncEngine, calendar: Calendar | str) -> None:
    """Let BTC have had this calendar for long, with something to do now."""
    text = calendar if isinstance(calendar, str) else write_calendar(calendar)
    async with begin(engine) as tx:
        await tx.execute("DELETE FROM assets.sessions WHERE asset_id = 'BTC'")
        sql = "INSERT INTO assets.sessions (asset_id, calendar, due_at) VALUES ('BTC', $1, now() - interval '1 s')"
        await tx.execute(sql, text)


async def state(engine: AsyncEngine) -> tuple[Trading, datetime | None, int]:
    """Read the state of BTC, when it reopens, and its sequence."""
    now = await newest(engine)
    return now.trading, now.reopens_at, now.sequence


async def due_at(engine: AsyncEngine) -> datetime:
    """Read when BTC's calendar is looked at next."""
    async with begin(engine) as tx:
        found: datetime = await tx.fetchval("SELECT due_at FROM assets.sessions WHERE asset_id = 'BTC'")
    return found


async def test_an_asset_closes_and_opens_with_its_sessions(engine: AsyncEngine) -> None:
    """Each change is a new sequence, published once; a closed asset says when it reopens, and a look is planned."""
    calendar = opens_in(120)
    await set_sessions(engine, "BTC", calendar)
    opens_at = standing(calendar, datetime.now(UTC)).opens_at
    assert (Trading.CLOSED, opens_at, 2) == await state(engine)
    assert opens_at == await due_at(engine)
    await make_due(engine, ALWAYS)
    async with begin(engine) as tx:
        await tx.execute("UPDATE assets.prices SET reopens_at = now() WHERE asset_id = 'BTC'")
    await follow_sessions(engine)
    assert (Trading.OPEN, None, 3) == await state(engine)
    assert datetime.now(UTC) < await due_at(engine)
    await follow_sessions(engine)
    assert [Trading.OPEN, Trading.CLOSED, Trading.OPEN] == [one.trading for one in await sent(engine, 3)]
    assert 3 == (await newest(engine)).sequence


async def test_several_instances_open_it_once(engine: AsyncEngine) -> None:
    """Whoever locks the row does it, the others find nothing to do."""
    await set_trading(engine, "BTC", Trading.CLOSED)
    await make_due(engine, ALWAYS)
    await asyncio.gather(*(follow_sessions(engine) for _ in range(8)))
    assert (Trading.OPEN, None, 3) == await state(engine)


async def test_what_is_changed_by_hand_waits_for_nobody(engine: AsyncEngine) -> None:
    """While a person changes the price, the calendar leaves it alone, and comes back."""
    await set_trading(engine, "BTC", Trading.CLOSED)
    await make_due(engine, ALWAYS)
    async with begin(engine) as tx:
        await tx.execute("SELECT FROM assets.prices WHERE asset_id = 'BTC' FOR UPDATE")
        async with asyncio.timeout(5):
            await follow_sessions(engine)
    assert Trading.CLOSED is (await state(engine))[0]
    await follow_sessions(engine)
    assert Trading.OPEN is (await state(engine))[0]


async def test_a_halt_wins_over_the_calendar(engine: AsyncEngine) -> None:
    """It stays through openings and closings, and when sessions are set; closed by hand, the asset opens again."""
    await set_trading(engine, "BTC", Trading.HALTED, reason="fat finger")
    opens = opens_in(120)  # once: by a later minute it would be another calendar
    for calendar in (ALWAYS, opens):
        await make_due(engine, calendar)
        await follow_sessions(engine)
        await set_sessions(engine, "BTC", calendar)
        assert (Trading.HALTED, None, 2) == await state(engine)
    await set_trading(engine, "BTC", Trading.CLOSED)
    trading, reopens_at, _ = await state(engine)
    assert (Trading.CLOSED, standing(opens, datetime.now(UTC)).opens_at) == (trading, reopens_at)


async def test_opened_by_hand_it_stays_open_until_the_next_session_ends(engine: AsyncEngine) -> None:
    """Nothing is due before the calendar's next change; an opening then finds it open, a closing closes it."""
    await set_sessions(engine, "BTC", opens_in(120))
    await set_trading(engine, "BTC", Trading.OPEN, price=Price("101"))
    await follow_sessions(engine)
    assert (Trading.OPEN, None, 3) == await state(engine)
    await make_due(engine, ALWAYS)
    await follow_sessions(engine)
    assert (Trading.OPEN, None, 3) == await state(engine)
    await make_due(engine, opens_in(120))
    await follow_sessions(engine)
    assert Trading.CLOSED is (await state(engine))[0]


async def test_closed_by_hand_for_longer_it_opens_when_that_is_over(engine: AsyncEngine) -> None:
    """Sessions that begin before do not open it; a time within a session does, one between two waits for the next."""
    long = datetime.now(UTC) + timedelta(days=3)
    await set_trading(engine, "BTC", Trading.CLOSED, reopens_at=long)
    await make_due(engine, ALWAYS)
    await follow_sessions(engine)
    assert (Trading.CLOSED, long, 2) == await state(engine)
    async with begin(engine) as tx:
        await tx.execute("UPDATE assets.prices SET reopens_at = now() - interval '1 s' WHERE asset_id = 'BTC'")
    await follow_sessions(engine)
    assert (Trading.OPEN, None, 3) == await state(engine)
    opens = opens_in(120)  # once: by a later minute it would be another calendar
    await set_sessions(engine, "BTC", opens)
    async with begin(engine) as tx:
        await tx.execute("UPDATE assets.prices SET reopens_at = now() - interval '1 s' WHERE asset_id = 'BTC'")
    await follow_sessions(engine)
    assert (Trading.CLOSED, standing(opens, datetime.now(UTC)).opens_at) == (await state(engine))[:2]


@pytest.mark.parametrize("text", ["{}", '{"time_zone":"Mars/Base","week":[[],[],[],[],[],[],[]]}'])
async def test_a_calendar_that_can_not_be_followed_here_holds_up_no_other(engine: AsyncEngine, text: str) -> None:
    """Its asset stays as it is, checks of orders go on without sessions, and it is looked at again in a minute."""
    await put_asset(engine, Asset("ETH", Asset("BTC", Price("0.01")).tick))
    await set_price(engine, "ETH", Price("5"), trading=Trading.CLOSED)
    await set_sessions(engine, "ETH", ALWAYS)
    await set_trading(engine, "ETH", Trading.CLOSED)
    await make_due(engine, text)
    async with begin(engine) as tx:
        await tx.execute("UPDATE assets.sessions SET due_at = now() - interval '1 s'")
        await tx.execute("UPDATE assets.prices SET reopens_at = NULL WHERE asset_id = 'ETH'")
    await follow_sessions(engine)
    async with begin(engine) as tx:
        found = await listings(tx, ["BTC", "ETH"])
    assert [Trading.OPEN, Trading.OPEN] == [one.quote and one.quote.trading for one in found.values()]
    assert [None, False] == [one.stands and one.stands is None for one in found.values()]
    assert timedelta(seconds=30) < await due_at(engine) - datetime.now(UTC) < timedelta(seconds=90)
    assert (None, None) == (await calendars(engine))["BTC"]


async def test_assets_that_nobody_can_reopen_take_no_others_place(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed until a time that is over, by calendars that can't be followed: they stay closed, and the round ends."""
    monkeypatch.setattr(session_store, "FOLLOW_MAX", 1)
    await set_trading(engine, "BTC", Trading.CLOSED)
    await make_due(engine, "{}")
    await put_asset(engine, Asset("ETH", Asset("BTC", Price("0.01")).tick))
    await set_price(engine, "ETH", Price("5"))
    await set_sessions(engine, "ETH", ALWAYS)
    await set_trading(engine, "ETH", Trading.CLOSED)
    async with begin(engine) as tx:
        await tx.execute("UPDATE assets.prices SET reopens_at = now() - interval '1 s'")
        await tx.execute("UPDATE assets.sessions SET due_at = now() + interval '1 minute'")
    async with asyncio.timeout(60):
        await follow_sessions(engine)
    async with begin(engine) as tx:
        found = await listings(tx, ["BTC", "ETH"])
    assert [Trading.CLOSED, Trading.OPEN] == [one.quote and one.quote.trading for one in found.values()]


async def test_a_calendar_without_a_session_is_looked_at_once_a_day(engine: AsyncEngine) -> None:
    """Such an asset is closed, and nobody knows until when."""
    await set_sessions(engine, "BTC", NEVER)
    assert (Trading.CLOSED, None, 2) == await state(engine)
    assert timedelta(hours=23) < await due_at(engine) - datetime.now(UTC) < timedelta(hours=25)


async def test_sessions_are_taken_away(engine: AsyncEngine) -> None:
    """The asset stays as it is."""
    await set_sessions(engine, "BTC", NEVER)
    assert await remove_sessions(engine, "BTC")
    assert not await remove_sessions(engine, "BTC")
    await follow_sessions(engine)
    assert (Trading.CLOSED, None, 2) == await state(engine)


async def test_only_an_asset_with_a_price_has_sessions(engine: AsyncEngine) -> None:
    """There is nothing to open or to close of another one."""
    with pytest.raises(ValueError, match="XYZ has no price yet"):
        await set_sessions(engine, "XYZ", ALWAYS)


async def test_an_approval_says_when_the_session_ends(engine: AsyncEngine) -> None:
    """At midnight of UTC here, and nothing without sessions."""
    assert None is await session_ends_at(engine)
    await set_sessions(engine, "BTC", ALWAYS)
    midnight = datetime.combine(datetime.now(UTC).date() + timedelta(days=1), time(), UTC)
    assert await session_ends_at(engine) in {midnight, midnight + timedelta(days=1)}


async def session_ends_at(engine: AsyncEngine) -> datetime | None:
    """Have an order checked."""
    async with begin(engine) as tx:
        listing = (await listings(tx, ["BTC"]))["BTC"]
    reply: Any = judge(check(OrderType.MARKET_BUY), listing.asset, listing.quote, listing.read_at, STALE_AFTER)
    assert isinstance(reply, AssetApproved)
    return reply.session_ends_at


async def test_a_dead_price_closes_without_a_word(engine: AsyncEngine) -> None:
    """Its source stands by nothing, so nothing is published."""
    await set_source(engine, "BTC", Source.DEAD)
    await set_sessions(engine, "BTC", NEVER)
    assert (Trading.CLOSED, None, 2) == await state(engine)
    assert [1] == [one.sequence for one in await sent(engine, 1)]
