"""What is stored of a request, for the processes that publish and show it."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
import pytest

from contracts.codec import decode
from contracts.orders import OrderRequested
from order_api.orders.submission import make_claim, read_body

ORDER: Final = UUID("0190a0a0-0000-7000-8000-000000000001")
MARKET: Final = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}


def _stored(body: dict[str, Any]) -> Any:
    claim = make_claim(ORDER, "alice", None, read_body(msgspec.json.encode(body)), None)
    assert isinstance(decode("OrderRequested", claim.request), OrderRequested)  # the orchestrator can read it
    return msgspec.json.decode(claim.request)


@pytest.mark.parametrize(
    ("more", "slippage_bps"), [({}, 100), ({"slippage_bps": 7}, 7), ({"price": "50000"}, 100)], ids=str
)
def test_a_market_order_has_each_field(more: dict[str, Any], slippage_bps: int) -> None:
    """An API of version 0.2.0 shows it until the orchestrator has read it; it looks for each of these."""
    expected = {"order_id": str(ORDER), "user_id": "alice", **MARKET, "price": None, "client_order_id": None}
    assert {**expected, **more, "slippage_bps": slippage_bps} == _stored(MARKET | more)


def test_terms_are_stored_as_they_were_given() -> None:
    """An order that waits, and one that may: they are of no older version."""
    limit = {**MARKET, "order_type": "LIMIT_BUY", "limit_price": "48000"}
    for body in (limit, MARKET | {"queue_when_closed": True, "price": "50000"}):
        assert {"order_id": str(ORDER), "user_id": "alice", **body} == _stored(body)
