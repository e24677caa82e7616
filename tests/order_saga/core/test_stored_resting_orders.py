"""Orders that rest are stored for weeks: what is stored of them today must be read, and mean the same, in any version.

`golden/resting.jsonl` holds orders as they are stored while they wait for a price. A change of their form that this
version would not read again, or would write otherwise, fails here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from contracts.balance import SettleBalance
from contracts.codec import decoder, encode
from contracts.decimals import Money, Price
from contracts.orders import Order
from contracts.vocabulary import OrderStatus
from order_saga.core.saga import Phase, Saga, snapshot
from tests.order_saga.core.sample import Story, cancel, fired, refunded, resume, settled

GOLDEN: Final = {
    stored["name"]: stored["saga"]
    for stored in map(json.loads, (Path(__file__).parent / "golden" / "resting.jsonl").read_text().splitlines())
}
FIRED: Final = "trailing stop buy by basis points, fired while parked"
EACH: Final = pytest.mark.parametrize("name", GOLDEN)
SHOWN: Final[dict[str, dict[str, Any]]] = {
    "limit buy": {"held_asset_id": "USD", "held_amount": Money("490.49"), "limit_price": Price(49_000)},
    "limit sell until tomorrow": {"held_asset_id": "BTC", "held_amount": Money("0.01"), "time_in_force": "GTD"},
    "stop buy, triggered": {
        "held_amount": Money("512.52"),
        "triggered": True,
        "trigger_price": Price(51_000),
        "limit_price": Price(51_200),
    },
    "take profit sell, allowed to queue": {"trigger_price": Price(51_000), "queue_when_closed": True},
    "trailing stop sell by an amount": {"watermark": Price(50_000), "trigger_price": Price(49_500)},
    "bracket sell": {"held_amount": Money("0.01"), "limit_price": Price(51_000), "trigger_price": Price(49_000)},
    FIRED: {"watermark": Price(50_000), "trigger_price": Price(50_500), "held_amount": Money("510.57")},
}


def stored(name: str) -> Saga:
    """Read a stored order."""
    return decoder(Saga).decode(json.dumps(GOLDEN[name]))


@EACH
def test_a_resting_order_is_stored_as_it_always_was(name: str) -> None:
    """Read and written again, no field of its document differs."""
    assert json.loads(encode(stored(name))) == GOLDEN[name]
    assert stored(name).phase is Phase.WORKING


@EACH
def test_a_stored_order_shows_what_it_showed(name: str) -> None:
    """What it holds, what it waits for, whether it was triggered, and its terms' number; what it lacks is left out."""
    order = snapshot(stored(name))
    assert {field: getattr(order, field) for field in SHOWN[name]} == SHOWN[name]
    assert (order.status, order.revision) == (OrderStatus.CONFIRMED, 1)
    written = json.loads(encode(order))
    absent = [field for field in Order.__struct_fields__ if field not in written]
    assert all(getattr(order, field) in {None, False} for field in absent)
    assert {"held_amount", "held_asset_id", "revision", "time_in_force"} <= written.keys()


@EACH
def test_a_stored_order_goes_on(name: str) -> None:
    """A tick fires it, and it fills at that with the terms that it was stored with; or a cancel frees what it holds."""
    saga = stored(name)
    hold = saga.progress.hold
    assert hold is not None
    story = Story(saga=saga)
    story.tell(resume()) if name == FIRED else story.tell(fired("51500" if "sell" in name else "48800"))
    [settle] = story.commands
    assert isinstance(settle, SettleBalance)
    assert (settle.amount, settle.asset_id) == (hold.amount, hold.asset_id)
    assert story.saga.progress.fire is not None
    assert story.saga.average_price == story.saga.progress.fire.price
    assert story.tell(settled()).saga.status is OrderStatus.COMPLETED
    if name != FIRED:
        cancelled = Story(cancel(), refunded(), saga=saga)
        assert cancelled.saga.status is OrderStatus.CANCELLED
