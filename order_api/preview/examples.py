"""Previews as they are answered: the examples of the documentation, made by the functions that make the answers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.assets import AssetApproved, AssetRefusal, AssetRefused, preview_id
from contracts.decimals import Price, Quantity
from contracts.examples import ORDER_ID, TIME
from order_api.openapi.declarations import Example
from order_api.orders.description.examples import BODY, CONDITIONAL_BODIES, USER_ID
from order_api.orders.publication.messages import Claimed, asked_for
from order_api.orders.submission import make_claim, read_body
from order_api.orders.views import pending, written
from order_api.preview.dry_run import DryRun
from order_api.preview.views import make_preview, preview_of_existing

_NOW: Final = datetime.fromisoformat(TIME)
_ID: Final = UUID(ORDER_ID)


def previews() -> dict[str, Example]:
    """Give orders that would fill, rest and be refused, one that exists, and one of which little is known."""
    limit, trail = (CONDITIONAL_BODIES[name][1] for name in ("limit", "trailing stop"))
    reason = "quantity times quote is 499.985, allowed are 1000 to 10000 USD"
    refused = AssetRefused(preview_id(_ID), _ID, "BTC", AssetRefusal.NOTIONAL_OUT_OF_RANGE, reason)
    return {
        "fills": Example("It would fill at once", _preview(BODY, _approved())),
        "rests": Example("It would rest", _preview(limit, _approved())),
        "trails": Example("A trailing stop, with its first trigger", _preview(trail, _approved())),
        "refused": Example("The asset's rules refuse it", _preview(BODY, refused)),
        "exists": Example("It was submitted before, and is shown as it stands", _existing(limit)),
        "no answer": Example("The asset service does not answer", _preview(BODY, None)),
    }


def _preview(body: dict[str, Any], answer: AssetApproved | AssetRefused | None) -> Any:
    request = asked_for(make_claim(_ID, USER_ID, None, read_body(msgspec.json.encode(body)), None))
    run = DryRun(request, _NOW)
    if answer is not None:
        run.answered(answer, _NOW)
    return msgspec.json.decode(written(make_preview(request, run, answer, _NOW, duplicate_of=None)))


def _existing(body: dict[str, Any]) -> Any:
    claim = make_claim(_ID, USER_ID, None, read_body(msgspec.json.encode(body)), None)
    return msgspec.json.decode(written(preview_of_existing(asked_for(claim), pending(Claimed(claim, _NOW)))))


def _approved() -> AssetApproved:
    return AssetApproved(
        *(preview_id(_ID), _ID, "BTC", Price("49998.5"), 1207, _NOW - timedelta(seconds=0.8)),
        *(Price("0.01"), Quantity("0.00000001"), 10, "USD", 2, 1),
    )
