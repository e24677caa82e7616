"""The messages that this room publishes: requests, cancels, changes of orders that rest. Made from stored values alone.

So every process that publishes one, however often, sends the same bytes under the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.amends import OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.decimals import Price, Quantity
from contracts.envelope import Envelope, Outgoing, format_time, write_headers
from contracts.orders import OrderCancelRequested, OrderRequested
from contracts.topics import ORDERS_CHANGES, ORDERS_REQUESTS
from contracts.vocabulary import OrderType, TimeInForce

SOURCE: Final = "order-saga/api"


class Claim(msgspec.Struct, frozen=True):
    """An order that was accepted here: its keys, its intent, and the request without its time."""

    order_id: UUID
    user_id: str
    idempotency_key: str | None
    client_order_id: str | None
    intent: str
    request: bytes
    traceparent: str | None


class Claimed(msgspec.Struct, frozen=True):
    """A claim that is committed. `created_at` is the database's time, and becomes the order's."""

    claim: Claim
    created_at: datetime


class Cancel(msgspec.Struct, frozen=True):
    """A cancel that is committed. `user_id` is the order's user."""

    order_id: UUID
    user_id: str
    requested_by: str
    created_at: datetime


class Amend(msgspec.Struct, frozen=True):
    """An amend that is committed. `changes` are the new terms as they were accepted, by the names of the wire."""

    order_id: UUID
    amend_id: str
    user_id: str
    requested_by: str
    expected_versions: Sequence[int] | None
    changes: str
    created_at: datetime


class Wish(StrEnum):
    """Whether an order shall be on hold."""

    HOLD = "hold"
    RELEASE = "release"


class Suspension(msgspec.Struct, frozen=True):
    """A hold or a release that is committed."""

    order_id: UUID
    user_id: str
    requested_by: str
    wish: Wish
    created_at: datetime


def request_message(claimed: Claimed) -> Outgoing:
    """Make the `OrderRequested` of a claim. Its fields pass as they were stored: no later rule can stop them here."""
    claim = claimed.claim
    body = {**msgspec.json.decode(claim.request), "requested_at": format_time(claimed.created_at)}
    message_id = f"{claim.order_id}:request"
    envelope = Envelope(message_id, OrderRequested.__name__, SOURCE, claimed.created_at, claim.traceparent)
    topic = ORDERS_REQUESTS.name
    return Outgoing(topic, str(claim.order_id), message_id, msgspec.json.encode(body), write_headers(envelope))


def asked_for(claim: Claim) -> OrderRequested:
    """Read what a claim asks for. Its fields pass as they were stored, too: a rule may have become narrower since."""
    fields = msgspec.json.decode(claim.request)
    kinds = {name: kind for name, kind in _KINDS.items() if fields.get(name) is not None}
    return OrderRequested(**(fields | {name: kind(fields[name]) for name, kind in kinds.items()}))


_KINDS: Final[dict[str, Callable[[str], Any]]] = {
    "order_id": UUID,
    "order_type": OrderType,
    "quantity": Quantity,
    **dict.fromkeys(("price", "limit_price", "trigger_price", "trail_amount"), Price),
    "time_in_force": TimeInForce,
    "expires_at": datetime.fromisoformat,
}


def expires_at(claim: Claim) -> str | None:
    """Return the time at which a claimed order ends, as text; None if it has none."""
    return _read_expiry(claim.request).expires_at


class _Expiry(msgspec.Struct):
    expires_at: str | None = None


_read_expiry: Final = msgspec.json.Decoder(_Expiry).decode


def cancel_message(cancel: Cancel) -> Outgoing:
    """Make the `OrderCancelRequested` of a cancel."""
    return codec.outgoing(
        OrderCancelRequested(cancel.order_id, cancel.user_id, cancel.requested_by, cancel.created_at),
        message_id=f"{cancel.order_id}:cancel:{cancel.requested_by}",
        source=SOURCE,
        time=cancel.created_at,
    )


def amend_message(amend: Amend) -> Outgoing:
    """Make the `OrderAmendRequested` of an amend. What changes passes as it was stored, like a request's fields."""
    asked = OrderAmendRequested(
        *(amend.order_id, amend.user_id, amend.requested_by, amend.amend_id),
        expected_versions=None if amend.expected_versions is None else tuple(amend.expected_versions),
        requested_at=amend.created_at,
    )
    body = msgspec.json.decode(codec.encode(asked)) | msgspec.json.decode(amend.changes)
    message_id = f"{amend.order_id}:amend:{amend.amend_id}"
    envelope = Envelope(message_id, OrderAmendRequested.__name__, SOURCE, amend.created_at)
    topic = ORDERS_CHANGES.name
    return Outgoing(topic, str(amend.order_id), message_id, msgspec.json.encode(body), write_headers(envelope))


def suspension_message(one: Suspension) -> Outgoing:
    """Make the `OrderHoldRequested` or `OrderReleaseRequested` of a wish. An order may be held and released often."""
    kind = OrderHoldRequested if one.wish is Wish.HOLD else OrderReleaseRequested
    return codec.outgoing(
        kind(one.order_id, one.user_id, one.requested_by, one.created_at),
        message_id=f"{one.order_id}:{one.wish}:{one.requested_by}:{format_time(one.created_at)}",
        source=SOURCE,
        time=one.created_at,
    )
