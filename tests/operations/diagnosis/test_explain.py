"""An order's story in words: spans of text with a tone, from the rows that the views show."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from contracts.decimals import Money, Price
from contracts.vocabulary import OrderType, Side
from operations.access.errors import Trouble
from operations.diagnosis.explain import Line, Span, Tone, explain, sentence
from operations.diagnosis.story import story
from tests.order_saga.core.sample import approved, park, reserved, settled
from tests.support.order_database import CLAIM, OrderDatabase


def text(line: Line) -> str:
    """Join a line's words."""
    return "".join(span.text for span in line)


async def test_a_completed_order_is_told_from_its_begin_to_its_end(db: OrderDatabase) -> None:
    """Header, timeline, and what was not yet sent."""
    order_id = await db.begin(1, Side.BUY, approved(), reserved(), settled())
    told = explain(await story(db.engine, order_id))
    assert [f"order {order_id}  MARKET_BUY BTC of alice", "COMPLETED in phase COMPLETED, version 4"] == [
        text(line).partition(", filled")[0] for line in told.header
    ]
    assert told.timeline is not None
    assert 0.0 == told.timeline[0].after_s
    assert "COMPLETED version 4" == text(told.timeline[-1].what)
    assert ["events not yet acknowledged by the broker: versions 1, 2, 3, 4"] == [text(line) for line in told.unsent]


async def test_an_order_that_waits_says_for_what(db: OrderDatabase) -> None:
    """As a warning."""
    order_id = await db.begin(1, Side.BUY, park("a lie"))
    *_, waits = explain(await story(db.engine, order_id)).header
    assert (Span(f"parked: a lie; 'order-saga resume {order_id}' lets it go on", Tone.WARNING),) == waits


HELD = structs.replace(reserved(), amount=Money("0.01"))
SELLS: dict[str, Any] = {"order_type": OrderType.TRAILING_STOP_SELL, "price": None, "trail_bps": 300}


async def test_an_order_that_rests_says_at_which_price_it_fires(db: OrderDatabase) -> None:
    """And how far away the market is, as far as the orders know it."""
    order_id = await db.begin(1, Side.SELL, approved(), HELD, **SELLS)
    assert "rests: fires at a price <= 48,500 (3 % below 50,000 of sequence 7); no tick has come yet" == await _rests(
        db, order_id
    )
    await db.execute(
        """
        INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
        VALUES ('BTC', 8301, 49120, now() - interval '100 s', now(), now(), 'OPEN', true)"""
    )
    await db.execute(
        "INSERT INTO orders.peaks (asset_id, side, upto, price, set_by) VALUES ('BTC', 'SELL', 8301, 49120, 8301)"
    )
    await db.execute("UPDATE orders.peaks SET price = 51000, set_by = 8123 WHERE upto = 7")
    said = await _rests(db, order_id)
    assert "fires at a price <= 49,470 (3 % below 51,000 of sequence 8,123)" in said
    # A hundred seconds, and what the test has taken since then.
    assert re.search(r"last tick 49,120, sequence 8,301, 1[0-5]\d\.\d* s ago, confirmed ", said)
    assert said.endswith("0.71 % away")
    for change, words in (("trading = 'HALTED'", "trading is HALTED"), ("live = false", "too old to fire")):
        await db.execute(f"UPDATE orders.marks SET trading = 'OPEN', {change}".replace("'OPEN', trading =", ""))
        assert words in await _rests(db, order_id)


async def test_a_bracket_that_rests_says_both_prices(db: OrderDatabase) -> None:
    """And how far away the nearer one is."""
    both = {"limit_price": Price("55000"), "trigger_price": Price("49000")}
    order_id = await db.begin(1, Side.SELL, approved(), HELD, order_type=OrderType.BRACKET_SELL, price=None, **both)
    await db.execute(
        """
        INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
        VALUES ('BTC', 8, 50000, now(), now(), now(), 'OPEN', true)"""
    )
    said = await _rests(db, order_id)
    assert said.startswith("rests: fires at a price >= 55,000 or <= 49,000; last tick 50,000, sequence 8, ")
    assert said.endswith(", 2.00 % away")


async def test_an_order_that_is_fired_and_not_filled_yet_says_so(db: OrderDatabase) -> None:
    """The tick that fired it stands in its row before the order shows it."""
    order_id = await db.begin(1, Side.SELL, approved(), HELD, **SELLS)
    await db.execute(
        """
        UPDATE orders.resting SET fired_sequence = 8302, fired_price = 48400, fired_as_of = now(), fired_at = now(),
            fired_rank = 1"""
    )
    assert "fired by 48,400 of sequence 8,302, about to be filled" == await _rests(db, order_id)


async def _rests(db: OrderDatabase, order_id: UUID) -> str:
    """Say what stands behind the order's status."""
    _, status, rests, *_ = explain(await story(db.engine, order_id)).header
    assert "CONFIRMED in phase WORKING, version 2" == text(status)
    return text(rests)


async def test_a_claim_has_no_timeline(db: OrderDatabase) -> None:
    """It was accepted, and that is all that is known; of an order that nobody knows nothing is."""
    await db.execute(CLAIM, UUID(int=5))
    told = explain(await story(db.engine, UUID(int=5)))
    assert (None, True) == (told.timeline, text(told.header[0]).endswith("not yet seen by the orchestrator"))
    with pytest.raises(Trouble, match="there is no order "):
        await story(db.engine, UUID(int=6))


@pytest.mark.parametrize(
    ("kind", "name", "detail", "words"),
    [
        ("status", "FAILED", {"reason_code": "TIMED_OUT"}, "FAILED TIMED_OUT version 2"),
        ("status", "CONFIRMED", {}, "CONFIRMED version 2"),
        ("asked", "check", {}, "asks assets: is this order allowed, and at which quote?"),
        ("asked", "refund", {"attempt": 3}, "asks balance: refund whatever is held (attempt 3)"),
        ("answered", "BalanceReserved", {"hold_state": "HELD", "reason": None}, "BalanceReserved hold state HELD"),
        ("ignored", "AssetApproved", {"why": "late"}, "ignored AssetApproved: late"),
        ("waits", "balance", {"why": "paused"}, "waits: balance paused"),
        ("timed_out", "check", {"attempts": 4}, "gives up on check after 4 attempts"),
        ("parked", "parked", {"reason": "[red]"}, "PARKED [red]"),
        ("overdue", "settle", {"attempts": 9}, "OVERDUE settle, 9 attempts"),
        (
            *("rests", "Rests", {"from_sequence": 8123, "level": "48500"}),
            "rests: waits for the price 48,500; ticks after sequence 8,123 count",
        ),
        (
            *("rests", "Rests", {"from_sequence": 7, "level": "55000", "other_level": "47500.5"}),
            "rests: waits for the price 55,000 or 47,500.5; ticks after sequence 7 count",
        ),
        (
            *("rests", "Rests", {"from_sequence": 7, "watermark": "50000"}),
            "rests: follows the price from 50,000; ticks after sequence 7 count",
        ),
        (
            *("triggered", "Triggered", {"sequence": 9, "price": "46000.5"}),
            "triggered by the price 46,000.5 of sequence 9: from now on it waits for its limit",
        ),
        (
            *("fired", "Fired", {"sequence": 8301, "price": "48400", "as_of": "x", "watermark": "50000"}),
            "fired by the price 48,400 of sequence 8,301, its best price being 50,000",
        ),
        ("fired", "Entry", {"sequence": 9, "price": "1"}, "fired on its way in by the price 1 of sequence 9"),
        ("expired", "ExpiryDue", {}, "expires: its time has come"),
        ("asked", "recheck", {}, "asks assets: are the new terms allowed?"),
        ("asked", "raise", {}, "asks balance: hold more, for the new terms"),
        ("asked", "lower", {"attempt": 2}, "asks balance: hold no more than the terms need (attempt 2)"),
        (
            *("amended", "Amended", {"revision": 2, "limit_price": "48500"}),
            "amended: the terms 2 are in force: limit price 48500",
        ),
        (
            *("amend_refused", "AmendRefused", {"amend_id": "k", "reason_code": "TIMED_OUT", "reason": None}),
            "amend k is refused, TIMED_OUT",
        ),
        ("held", "OrderHoldRequested", {"requested_by": "alice"}, "put on hold by alice"),
        ("released", "OrderReleaseRequested", {"requested_by": "@operator:ann"}, "released by @operator:ann"),
        ("resumed", "operator", {"requested_by": "ann"}, "resumed operator requested by ann"),
    ],
)
def test_a_sentence_for_each_kind_of_entry(kind: str, name: str, detail: dict[str, Any], words: str) -> None:
    """Also for a kind that a later version adds."""
    assert words == text(sentence({"kind": kind, "name": name, "detail": detail, "version": 2}))
