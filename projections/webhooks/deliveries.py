"""The values of this room: endpoints, deliveries, and what became of attempts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from contracts.webhooks import DeliveryState, EndpointKind, EventType
from projections.webhooks.rules import Answer


class Subscription(msgspec.Struct, frozen=True):
    """What an endpoint wants to be told. No event types: all of them. `given_up_at`: when this process disabled it.

    `notional_min`: orders that are worth less are not told, in units of their currency.
    """

    endpoint_id: UUID
    user_id: str
    kind: EndpointKind
    event_types: frozenset[str]
    every_version: bool
    given_up_at: datetime | None = None
    notional_min: Decimal | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """Where deliveries go: its URL, its sealed secrets, and how many attempts in a row have failed there."""

    endpoint_id: UUID
    user_id: str
    kind: EndpointKind
    target: str
    secrets: str
    failures_in_row: int = 0


class NewDelivery(msgspec.Struct, frozen=True):
    """A delivery to be stored; one that a newer version has overtaken already is stored as SUPERSEDED.

    `overtakes`: older versions of the order that wait are not sent any more. `final`: none overtakes this one.
    `skipped`: why it is not sent at all. `settle_s`: so long a newer version may still overtake it.
    """

    endpoint_id: UUID
    event_id: str
    order_id: UUID
    version: int
    event_type: EventType
    body: bytes
    overtaken_by: int | None
    overtakes: bool
    final: bool
    skipped: str | None = None
    settle_s: float = 0.0


class Delivery(msgspec.Struct, frozen=True):
    """A delivery that this process has leased. `attempts` are those before; `leased_until` says whose lease it is."""

    endpoint_id: UUID
    event_id: str
    body: bytes
    attempts: int
    due_at: datetime
    leased_until: datetime


class Posting(msgspec.Struct, frozen=True):
    """What is sent by HTTP for a delivery."""

    url: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Attempt(msgspec.Struct, frozen=True):
    """An attempt that has ended; `ended_s` by the loop's clock, as the answer's duration."""

    delivery: Delivery
    answer: Answer
    ended_s: float


class Marked(msgspec.Struct, frozen=True):
    """What an attempt has led to, as it is stored."""

    attempt: Attempt
    state: DeliveryState
    delay_s: float
    reason: str | None
