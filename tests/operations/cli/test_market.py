"""The market from the command line: prices, walks, scripts, halts, and the mark of resting orders; each is noted."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from contracts.assets import Trading
from contracts.decimals import Price
from participants.assets.price_store import Newest, Source, newest_prices, set_price
from participants.assets.rules import Asset
from participants.assets.simulator import Walk
from participants.assets.store import put_asset
from tests.operations.cli.support import Terminal

TRAIL = "SELECT action, item, done_by, result FROM audit.repairs ORDER BY at"


@pytest_asyncio.fixture
async def market(db: Terminal) -> Terminal:
    """Give a terminal at a database with the asset BTC at 100."""
    await put_asset(db.engine, Asset("BTC", Decimal("0.01")))
    await set_price(db.engine, "BTC", Price("100"))
    return db


async def price_of(db: Terminal) -> Newest:
    """Read the price of BTC."""
    [found] = await newest_prices(db.engine)
    return found


async def trail(db: Terminal) -> list[tuple[Any, ...]]:
    """Read what was noted."""
    return [tuple(row.values()) for row in await db.rows(TRAIL)]


@pytest.mark.parametrize("words", [("price", "BTC", "101.5"), ("price", "set", "BTC", "101.5")])
async def test_a_price_is_set_and_noted(market: Terminal, words: tuple[str, ...]) -> None:
    """The word `set` may be left out; the trail says who set which price."""
    said = await market.cli(*words, "--by", "ann")
    assert (0, "BTC 101.5, sequence 2\n") == (said.code, said.out)
    assert (Decimal("101.5"), Source.FIXED) == ((await price_of(market)).price, (await price_of(market)).source)
    assert [("price", "BTC", "ann", "101.5, fixed, sequence 2")] == await trail(market)


async def test_an_external_price_is_nobodys_to_confirm(market: Terminal) -> None:
    """`--external` leaves the price to whoever sets it again."""
    assert 0 == (await market.cli("price", "BTC", "101", "--external")).code
    assert Source.EXTERNAL is (await price_of(market)).source


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("price", "XYZ", "1"), "no asset XYZ is traded here; known are BTC"),
        (("price", "BTC", "100.001"), "100.001 is not a multiple of 0.01, the tick of BTC"),
        (("price", "BTC", "cheap"), "PRICE must be a decimal"),
        (("price", "B/C", "1"), "ASSET is 'B/C'"),
        (("price", "walk", "XYZ"), "XYZ has no price here; known are BTC"),
        (("price", "walk", "BTC", "--floor", "101"), "the walk begins at 100, which is not within"),
        (("price", "walk", "BTC", "--ceiling", "100.001"), "100.001 is not a multiple of 0.01, the tick of BTC"),
        (("price", "walk", "BTC", "--per-second", "0"), "--per-second must be more than 0"),
        (("price", "script", "BTC", "nowhere.txt"), "nowhere.txt can't be read"),
        (("market", "halt", "XYZ"), "XYZ has no price here; known are BTC"),
        (("market", "open", "BTC", "--price", "1.001"), "1.001 is not a multiple of 0.01, the tick of BTC"),
        (("market", "close", "BTC", "--reopens-at", "tomorrow"), "'tomorrow' is no time"),
        (("market", "close", "BTC", "--reopens-at", "2026-12-01T08:00"), "has no time zone"),
        (("market", "sessions", "XYZ"), "XYZ has no price here; known are BTC"),
        (("market", "sessions", "BTC"), "BTC has no sessions"),
        (("market", "sessions", "BTC", "--remove"), "BTC has no sessions"),
        (("market", "sessions", "BTC", "nowhere.txt"), "nowhere.txt can't be read"),
        (("market", "sessions", "BTC", "nowhere.toml", "--remove"), "--remove goes without a calendar"),
        (("feed", "reset", "XYZ", "--yes"), "XYZ has no price here"),
    ],
)
async def test_what_can_not_be_is_one_clear_line(market: Terminal, words: tuple[str, ...], said: str) -> None:
    """What is not there ends with status 1, what can't be with status 2; nothing is changed or noted."""
    output = await market.cli(*words)
    assert (1 if "XYZ" in words or "nowhere.txt" in words or "has no sessions" in said else 2) == output.code
    assert said in output.err
    assert 1 == (await price_of(market)).sequence
    assert [] == await trail(market)


async def test_a_price_walks_within_a_tenth_unless_it_is_told(market: Terminal) -> None:
    """The defaults are a tenth around the price, on the tick; another call begins another walk."""
    said = await market.cli("price", "walk", "BTC", "--per-second", "50", "--seed", "7")
    assert (0, "BTC walks 50 times a second from 90 to 110, seed 7\n") == (said.code, said.out)
    await market.cli("price", "walk", "BTC", "--step", "3", "--floor", "99", "--ceiling", "101.5")
    tick = Price("0.01")
    assert Walk(1, 1.0, 3, Price("99"), Price("101.5"), tick) == (await price_of(market)).terms
    assert ["price walk"] * 2 == [action for action, *_ in await trail(market)]


async def test_a_script_is_read_from_a_file(market: Terminal, tmp_path: Path) -> None:
    """A wrong line is named; a right file is stored and plays."""
    file = tmp_path / "crash.txt"
    file.write_text("100\nboo\n")
    assert "the script: line 2: must be a decimal" in (await market.cli("price", "script", "BTC", str(file))).err
    file.write_text("100\n110 @0.5\n90 @1\n")
    said = await market.cli("price", "script", "BTC", str(file))
    assert (0, "BTC plays 3 prices within 1 s\n") == (said.code, said.out)
    assert Source.SCRIPT is (await price_of(market)).source


async def test_an_asset_is_halted_closed_and_opened(market: Terminal) -> None:
    """Each is the next number of the price's sequence; a price in a halt is refused with the way out."""
    halted = await market.cli("market", "halt", "BTC", "--reason", "fat finger", "--by", "ann")
    assert (0, "BTC is HALTED at 100, sequence 2\n") == (halted.code, halted.out)
    refused = await market.cli("price", "BTC", "101")
    assert "its price stands still until it opens: 'order-saga market open BTC --price ...'" in refused.err
    await market.cli("market", "close", "BTC", "--reopens-at", "2026-12-01T08:00Z")
    listed = await market.cli("prices")
    assert "CLOSED until 2026-12-01 08:00 UTC" in listed.out
    opened = await market.cli("market", "open", "BTC", "--price", "95")
    assert (0, "BTC is OPEN at 95, sequence 4\n") == (opened.code, opened.out)
    assert (Trading.OPEN, None) == ((await price_of(market)).trading, (await price_of(market)).reopens_at)
    assert ("market halted", "BTC", "ann", "at 100, sequence 2: fat finger") == (await trail(market))[0]


CALENDAR = """
time_zone = "Asia/Tokyo"
holidays = "days.txt"
[sessions]
monday = "00:00-24:00"
tuesday = ["09:00-11:30", "12:30-15:00"]
"""


async def test_sessions_are_set_shown_and_removed(market: Terminal, tmp_path: Path) -> None:
    """An asset stands as its calendar says at once; its next sessions are shown by its own clock; all is noted."""
    (tmp_path / "days.txt").write_text("2026-01-01 New Year\n")
    (file := tmp_path / "tokyo.toml").write_text(CALENDAR)
    said = await market.cli("market", "sessions", "BTC", str(file), "--by", "ann")
    now = await price_of(market)
    assert 0 == said.code
    assert f"BTC is {now.trading}" in said.out
    assert "sessions, Asia/Tokyo, 1 special days" in said.out
    assert "Tue" in said.out
    shown = json.loads((await market.cli("market", "sessions", "BTC", "--json")).out)
    assert (now.trading, now.trading is Trading.OPEN) == (shown["trading"], shown["in_session"])
    assert 5 == len(shown["sessions"])
    assert shown["session_ends_at"] == shown["sessions"][0]["closes"]
    [row] = json.loads((await market.cli("prices", "--json")).out)
    assert shown["session_ends_at"] == row["session_ends_at"]
    assert 0 == (await market.cli("market", "sessions", "BTC", "--remove", "--by", "bob")).code
    assert now == (await price_of(market))._replace(now=now.now, confirmed_at=now.confirmed_at)
    expected = [
        ("market sessions", "BTC", "ann", "Asia/Tokyo, 1 special days"),
        ("market sessions", "BTC", "bob", "removed"),
    ]
    assert expected == await trail(market)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[", "bad.toml: is no TOML"), ("time_zone = 'UTC'\nholidays = 'none.txt'\n[sessions]\nmonday='1'", "'1' is no")],
)
async def test_a_wrong_calendar_is_one_clear_line(market: Terminal, tmp_path: Path, text: str, said: str) -> None:
    """Nothing changes."""
    (file := tmp_path / "bad.toml").write_text(text)
    found = await market.cli("market", "sessions", "BTC", str(file))
    assert found.code != 0
    assert said in found.err
    assert [] == await trail(market)


async def test_prices_are_listed(market: Terminal) -> None:
    """For people as a table, for programs as JSON; a price that was never confirmed says so."""
    await put_asset(market.engine, Asset("OLD", Decimal("0.01")))
    await set_price(market.engine, "OLD", Price("10"), Source.DEAD)
    assert "never confirmed" in (await market.cli("prices")).out
    btc, old = json.loads((await market.cli("prices", "--json")).out)
    assert ("BTC", "100", 1, "OPEN", "fixed") == tuple(
        btc[name] for name in ("asset_id", "price", "sequence", "trading", "source")
    )
    assert 0 <= btc["age_s"] < 60
    assert old["age_s"] is None


async def test_the_list_says_what_rests_on_an_asset(market: Terminal) -> None:
    """How many orders wait, and the nearest fixed levels, both of a bracket too; who has fired or is held waits not."""
    await put_asset(market.engine, Asset("OLD", Decimal("0.01")))
    await set_price(market.engine, "OLD", Price("10"))
    async with market.engine.begin() as connection:
        await connection.exec_driver_sql("""
            INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, from_sequence, entered_at,
                told, up_price, down_price, trail_bps)
            SELECT gen_random_uuid(), 'BTC', 'SELL', 0, live, false, 1, now(), false, up, down, bps
            FROM (VALUES (true, 101, NULL, NULL), (true, 120, NULL, NULL), (true, NULL, 99.5, NULL),
                (true, NULL, 50, NULL), (false, 100.5, NULL, NULL), (true, NULL, NULL, 100), (true, 100.9, 99.6, NULL))
                AS new (live, up, down, bps)""")
    btc, old = json.loads((await market.cli("prices", "--json")).out)
    names = ("resting", "trailing", "next_below", "next_above")
    assert (6, 1, "99.6", "100.9") == tuple(btc[name] for name in names)
    assert (0, 0, None, None) == tuple(old[name] for name in names)
    assert "6, 1 trailing │ ▼ 99.6 ▲ 100.9" in (await market.cli("prices")).out


async def test_a_feed_is_reset_with_its_resting_orders(market: Terminal) -> None:
    """The mark goes back to the price's sequence; orders that rest wait from there, and those that fired do not."""
    await market.execute(
        """
        INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
        VALUES ('BTC', 9000, 50, now(), now(), now(), 'OPEN', true)"""
    )
    await market.execute("INSERT INTO orders.peaks VALUES ('BTC', 'SELL', 8000, 70, 7000)")
    await market.execute("INSERT INTO orders.trails VALUES ('BTC', 'SELL', 'bps', 500, 8000)")
    for fired in (None, 9000):
        await market.execute(
            """
            INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, from_sequence, entered_at,
                told, up_price, fired_sequence, fired_price, fired_as_of, fired_at, fired_rank)
            VALUES (gen_random_uuid(), 'BTC', 'SELL', 1, true, false, 8000, now(), false, 200, $1::bigint,
                $1::bigint, CASE WHEN $1::bigint IS NOT NULL THEN now() END, now(), 1)""",
            fired,
        )
    said = await market.cli("feed", "reset", "BTC", "--yes", "--by", "ann")
    expected = "BTC: the mark is 100, sequence 1; 1 resting orders wait from there on\n"
    assert (0, expected) == (said.code, said.out)
    [mark] = await market.rows("SELECT sequence, price, live FROM orders.marks")
    assert {"sequence": 1, "price": Decimal(100), "live": False} == mark
    rested = await market.rows("SELECT from_sequence FROM orders.resting ORDER BY 1")
    assert [0, 8000] == [row["from_sequence"] for row in rested]
    assert [] == await market.rows("SELECT upto FROM orders.peaks")
    assert [{"oldest": 1}] == await market.rows("SELECT oldest FROM orders.trails")
    assert [("feed reset", "BTC", "ann", "mark 1, 1 orders rest anew")] == await trail(market)
