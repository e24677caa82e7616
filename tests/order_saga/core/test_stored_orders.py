"""Orders in flight from an older version go on as that version would have gone on, command for command.

`golden/in-flight-0.2.jsonl` holds orders in every phase that waits, as version 0.2 stored them, without any terms of
hold or settlement. And it holds how that version ended each of them: its commands, and what users saw at the end.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import structs

from contracts.balance import RefundBalance, ReserveBalance
from contracts.codec import decoder, encode
from contracts.decimals import Money
from contracts.vocabulary import Side
from order_saga.core.saga import Decision, HoldTerms, Incoming, Saga
from tests.order_saga.core.sample import (
    HOLD,
    Story,
    approved,
    cancel,
    not_settled,
    quote,
    refunded,
    requested,
    reserved,
    resume,
    settled,
    timer,
)

GOLDEN: Final = [
    json.loads(line) for line in (Path(__file__).parent / "golden" / "in-flight-0.2.jsonl").read_text().splitlines()
]
ENDINGS: Final[dict[str, tuple[Incoming | None, ...]]] = {
    "every answer is yes": (None, resume(), timer(), approved(), reserved(), settled(), refunded()),
    "cancelled": (resume(), cancel(), None, timer(), refunded()),
    "settlement refused": (None, resume(), timer(), approved(), reserved(), not_settled(), refunded()),
}
"""The next messages; None: two seconds pass, so that questions are due."""


def told_on(saga: Saga, now: datetime, messages: tuple[Incoming | None, ...]) -> dict[str, Any]:
    """Give an order its next messages; return its commands and its end in the golden file's form."""
    story, asked = Story(saga=saga), []
    story.now = now
    for message in messages:
        if message is None:
            story.wait(2)
            continue
        last = story.tell(message).told[-1]
        if isinstance(last, Decision):
            asked += [[type(ask.message).__name__, json.loads(encode(ask.message))] for ask in last.asks]
    end = story.saga
    amounts = [f"{amount.normalize():f}" for amount in (end.filled_quantity, end.fee)]
    return {"asked": asked, "ended": [end.phase, end.status, end.reason_code, *amounts]}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stored", GOLDEN, ids=lambda stored: stored["name"])
def test_an_order_of_the_last_version_ends_as_it_would_have(stored: dict[str, Any], ending: str) -> None:
    """An order stored by version 0.2 sends the same commands with the same terms, byte for byte, and ends the same."""
    saga = decoder(Saga).decode(json.dumps(stored["saga"]))
    now = datetime.fromisoformat(stored["now"])
    assert told_on(saga, now, ENDINGS[ending]) == stored["endings"][ending]


def test_the_golden_orders_have_no_terms_and_stand_in_every_phase_that_waits() -> None:
    """The golden file covers what the test above claims: no stored terms, and every phase that waits."""
    assert {"VALIDATING", "RESERVING", "SETTLING", "REFUNDING"} == {stored["saga"]["phase"] for stored in GOLDEN}
    assert not [stored["name"] for stored in GOLDEN if {"hold", "settlement"} & stored["saga"]["progress"].keys()]


def with_another_quote(saga: Saga) -> Saga:
    """Replace the order's quote by a dearer one."""
    return structs.replace(saga, progress=structs.replace(saga.progress, quote=quote("60000", fee_bps=90)))


@pytest.mark.parametrize("side", Side)
def test_terms_are_fixed_when_they_are_first_sent_and_never_computed_again(side: Side) -> None:
    """Reserve, settle and refund use the stored terms, even when the quote changes later."""
    story = Story(requested(side))
    assert (story.saga.progress.hold is None) == (side is Side.BUY), "a buy knows from the quote what to hold"
    story.tell(approved())
    hold = story.saga.progress.hold
    assert hold == (HoldTerms("USD", HOLD) if side is Side.BUY else HoldTerms("BTC", Money("0.01")))
    undone = Story(saga=with_another_quote(story.saga)).tell(cancel())
    [refund] = undone.commands
    assert isinstance(refund, RefundBalance)
    assert (refund.asset_id, refund.amount) == (hold.asset_id, hold.amount)
    story.saga = with_another_quote(story.saga)
    [again] = story.wait(2).tell(timer()).commands
    assert isinstance(again, ReserveBalance)
    assert (again.asset_id, again.amount) == (hold.asset_id, hold.amount)
    story = Story(requested(side), approved(), reserved())
    [first], terms = story.commands, story.saga.progress.settlement
    assert terms is not None
    assert (terms.capture, terms.fee) == (hold.amount, story.saga.fee)
    story.saga = with_another_quote(story.saga)
    assert story.wait(2).tell(timer()).commands == [first]
