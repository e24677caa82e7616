"""An order that rests, as the orchestrator's stand-in shows it, and what an API was asked to tell the saga of it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from contracts import codec
from contracts.amends import OrderAmendment
from contracts.codec import encode
from contracts.decimals import Price
from contracts.envelope import format_time
from contracts.terms import Terms
from tests.order_api.support import Api, Orchestrator

OPERATOR: dict[str, str] = {"user": "ops", "scope": "orders:operate"}


async def rests(
    orchestrator: Orchestrator, order_id: str | None = None, *, amend: OrderAmendment | None = None, **columns: Any
) -> str:
    """Show an order of alice that rests at 48,000; `progress` is added to."""
    order_id = order_id or str(uuid4())
    progress = {"rest": {"from_sequence": 7, "entered_at": "2026-01-02T00:00:00Z"}, **columns.pop("progress", {})}
    if amend is not None:
        progress["amend"] = json.loads(encode(amend))
    shown = {"phase": "WORKING", "order_type": "LIMIT_BUY", "version": 2, **columns}
    terms = encode(Terms(limit_price=Price(48_000))).decode()
    await orchestrator.shows(order_id, terms=terms, progress=json.dumps(progress), **shown)
    return order_id


async def patch(api: Api, order_id: str, changes: Any = None, key: str | None = None, **more: Any) -> Any:
    """PATCH an order; by default to a limit of 47,000."""
    headers = {**({"Idempotency-Key": key} if key is not None else {}), **more.pop("headers", {})}
    body = {"limit_price": "47000"} if changes is None else changes
    return await api.call("PATCH", f"/orders/{order_id}", json=body, headers=headers, **more)


async def put(api: Api, order_id: str, wish: str, **more: Any) -> Any:
    """PUT a hold or a release."""
    return await api.call("PUT", f"/orders/{order_id}/{wish}", **more)


def told(api: Api) -> list[Any]:
    """Read what it was asked to publish on the topic of changes."""
    changes = [message for message in api.wire.asked if message.topic == "orders.changes"]
    return [codec.decode(_TYPES[message.id.split(":")[1]], message.value) for message in changes]


async def reads(
    api: Api,
    orchestrator: Orchestrator,
    kind: str,
    number: int = -1,
    *,
    shows: dict[str, Any] | None = None,
    **detail: Any,
) -> None:
    """Let the orchestrator's history tell what became of a hold or a release that it was asked for, or of the last.

    With `shows`, the columns of its order change in the same decision.
    """
    message = told(api)[number]
    order_id = str(message.order_id)
    own = {"requested_by": message.requested_by, "requested_at": format_time(message.requested_at)}
    async with orchestrator.decision() as decision:
        if shows is not None:
            await rests(decision, order_id, **shows)
        await decision.says(order_id, kind, type(message).__name__, **own, **detail)
    api.app.state.waiters.notify_all()  # as an event does


_TYPES = {"amend": "OrderAmendRequested", "hold": "OrderHoldRequested", "release": "OrderReleaseRequested"}
