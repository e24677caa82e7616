"""The order as it would be under the terms that an amend asks for. Pure."""

from __future__ import annotations

from typing import Any, Final

from msgspec import structs

from contracts.amends import changes_of
from contracts.orders import OrderRequested
from contracts.terms import Terms, terms_of
from contracts.vocabulary import OrderKind, TimeInForce
from order_saga.core.saga import Amending, AsRequested, Saga

TIMES: Final = frozenset({"time_in_force", "expires_at"})
"""What an amend says about how long an order may wait; it takes the place of a session's end too."""


def revised(saga: Saga, amending: Amending) -> Saga:
    """Return the order as it would be under the new terms. The hold is what it is."""
    changes = changes_of(amending.asked)
    request = as_request(saga, changes)
    progress = structs.replace(
        saga.progress,
        quote=amending.quote or saga.progress.quote,
        trails_from=amending.trails_from or saga.progress.trails_from,
        revision=saga.progress.revision + 1,
        as_requested=saga.progress.as_requested or _as_requested(saga),
        ends_at=None if TIMES & changes.keys() else saga.progress.ends_at,
    )
    return structs.replace(
        saga,
        quantity=request.quantity,
        slippage_bps=request.slippage_bps,
        terms=terms_of(request) or saga.terms,
        progress=progress,
    )


def _as_requested(saga: Saga) -> AsRequested:
    assert saga.quantity is not None and saga.terms is not None  # noqa: S101, PT018 - a resting order has both
    return AsRequested(saga.quantity, saga.terms, saga.slippage_bps)


def as_request(saga: Saga, changes: dict[str, Any]) -> OrderRequested:
    """Write the order with its changes as a new request for it. GTC drops what GTD had.

    A market order that queues has no time in force of its own.
    """
    terms = saga.terms
    assert terms is not None and saga.asset_id is not None  # noqa: S101, PT018 - a resting order has both
    assert saga.order_type is not None and saga.quantity is not None  # noqa: S101, PT018 - the same
    fields = {name: getattr(terms, name) for name in Terms.__struct_fields__}
    fields |= {"quantity": saga.quantity, "slippage_bps": saga.slippage_bps, **changes}
    if changes.get("time_in_force") is TimeInForce.GTC and "expires_at" not in changes:
        fields["expires_at"] = None
    if saga.order_type.kind is OrderKind.MARKET:
        del fields["time_in_force"]
    return OrderRequested(saga.order_id, saga.user_id, saga.asset_id, saga.order_type, price=saga.price, **fields)
