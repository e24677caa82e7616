"""An order's story in words: spans of text with a tone, from the rows that the views show."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from contracts.vocabulary import Side
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
        ("resumed", "operator", {"requested_by": "ann"}, "resumed operator requested by ann"),
    ],
)
def test_a_sentence_for_each_kind_of_entry(kind: str, name: str, detail: dict[str, Any], words: str) -> None:
    """Also for a kind that a later version adds."""
    assert words == text(sentence({"kind": kind, "name": name, "detail": detail, "version": 2}))
