"""The only SQL of this room: what a stream shows first, which versions an order had, and what is not published yet.

It reads views in the schema `api`, and endpoints that are given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.orders import Order
from contracts.vocabulary import Instant, OrderStatus
from contracts.webhooks import DisabledEndpoint, DisabledWebhook, EndpointKind, EventType, place_of
from order_api.orders.store import ORDER_COLUMNS, read_order
from saga_kit.runtime.transactions import Begins, Transaction, alone

ORDERS_MAX: Final = 1_000
"""Orders that a stream begins with: as many of those that are open, and of those that have ended meanwhile."""
SCANNED_MAX: Final = 10_000
"""A user's newest orders, among which those are looked for that have ended meanwhile."""
PAGE: Final = 100
"""Orders that are read, or written down, in one go: a user who has thousands holds up nobody else in this process."""
VERSIONS_MAX: Final = 1_000
"""Versions of an order that are told after the fact."""


class Asked(msgspec.Struct, frozen=True):
    """Whose orders are to be shown: the open ones, and with `since` those that have ended from then on."""

    user_id: str
    since: datetime | None = None


class Shown(msgspec.Struct, frozen=True):
    """A user's orders, and the database's time before which nothing was committed that they do not show.

    `whole`: every order that was asked for is among them; else the newest are.
    """

    orders: list[Order]
    at: datetime
    whole: bool
    disabled: list[DisabledWebhook] = []
    """The user's endpoints that are given up."""


class Disabling(NamedTuple):
    """An endpoint that was given up, and when."""

    user_id: str
    endpoint_id: UUID
    at: datetime


class PastVersion(msgspec.Struct, frozen=True):
    """A version that an order had, without the order as it was."""

    order_id: UUID
    version: int
    status: OrderStatus
    previous_status: OrderStatus | None
    occurred_at: Instant


class LiveStore:
    """Reads what there is to show. Raises what the driver does, and `TimeoutError` when no connection is free."""

    def __init__(self, source: AsyncEngine | Begins) -> None:
        self._source = source

    async def show(self, asked: Sequence[Asked]) -> list[Shown]:
        """Return what each of these asks for, in their order."""
        users, since = [one.user_id for one in asked], [one.since for one in asked]
        async with alone(self._source) as tx:
            found = await tx.fetch(_SELECT_IDS, users, since, ORDERS_MAX + 1, SCANNED_MAX)
            wanted = [*{order_id for row in found for ids in row[:2] for order_id in ids[:ORDERS_MAX]}]
            orders: dict[UUID, Order] = {}
            for first in range(0, len(wanted), PAGE):
                rows = await tx.fetch(_SELECT_ORDERS, wanted[first : first + PAGE])
                orders.update((order.order_id, order) for order in (read_order(*row) for row in rows))
            disabled = await _disabled_of(tx, users)
        return [
            Shown(
                sorted(
                    (orders[one] for one in {*opened[:ORDERS_MAX], *ended[:ORDERS_MAX]} if one in orders),
                    key=lambda order: (order.updated_at, order.order_id),
                ),
                at,
                whole=not further and max(len(opened), len(ended)) <= ORDERS_MAX,
                disabled=disabled.get(user_id, []),
            )
            for user_id, (opened, ended, further, at) in zip(users, found, strict=True)
        ]

    async def disabled_within(self, seconds: float) -> list[Disabling]:
        """Return the endpoints that were given up in the last seconds, and are so still."""
        async with alone(self._source) as tx:
            return [Disabling(*row) for row in await tx.fetch(_SELECT_DISABLED_WITHIN, seconds)]

    async def versions(self, order_id: UUID, after: int, before: int) -> list[PastVersion]:
        """Return the versions of an order between two of them, oldest first; the newest `VERSIONS_MAX` of them."""
        async with alone(self._source) as tx:
            rows = await tx.fetch(_SELECT_VERSIONS, order_id, after, before, VERSIONS_MAX)
        return [
            PastVersion(order_id, version, OrderStatus(status), OrderStatus(previous) if previous else None, at)
            for version, status, previous, at in reversed(rows)
        ]

    async def published_until(self) -> datetime:
        """Return the database's time before which every event that was committed is published."""
        async with alone(self._source) as tx:
            [row] = await tx.fetch(_SELECT_UNSENT)
        at: datetime = row[0]
        return at


async def _disabled_of(tx: Transaction, user_ids: Sequence[str]) -> dict[str, list[DisabledWebhook]]:
    """Return what there is to be said of each user's endpoints: as their other endpoints are told it."""
    found: dict[str, list[DisabledWebhook]] = {}
    for user_id, endpoint_id, kind, target, reason, at in await tx.fetch(_SELECT_DISABLED, user_ids):
        data = DisabledEndpoint(endpoint_id, place_of(EndpointKind(kind), target), reason)
        found.setdefault(user_id, []).append(DisabledWebhook(EventType.WEBHOOK_DISABLED, at, data))
    return found


_OPEN: Final = "status IN ('PENDING', 'CONFIRMED', 'PROCESSING')"  # as the index of open orders has it
_NEWEST: Final = "ORDER BY created_at DESC, order_id DESC"

_SELECT_IDS: Final = f"""
    SELECT
        ARRAY(SELECT order_id FROM api.orders WHERE user_id = asked.user_id AND {_OPEN} {_NEWEST} LIMIT $3),
        ARRAY(
            SELECT order_id FROM (
                SELECT order_id, created_at, updated_at, status FROM api.orders
                WHERE user_id = asked.user_id AND asked.since IS NOT NULL {_NEWEST} LIMIT $4
            ) AS newest
            WHERE updated_at >= asked.since AND NOT ({_OPEN}) {_NEWEST} LIMIT $3
        ),
        EXISTS (
            SELECT FROM api.orders WHERE user_id = asked.user_id AND asked.since IS NOT NULL {_NEWEST} OFFSET $4
        ),
        statement_timestamp()
    FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS asked (user_id, since, place)
    ORDER BY place"""  # noqa: S608 - names are the program's own

_SELECT_ORDERS: Final = f"""
    SELECT {", ".join(ORDER_COLUMNS)} FROM api.orders WHERE order_id = ANY ($1::uuid[])"""  # noqa: S608 - the same

_SELECT_VERSIONS: Final = """
    SELECT version, status, previous_status, at FROM api.versions
    WHERE order_id = $1 AND version > $2 AND version < $3 ORDER BY version DESC LIMIT $4"""

_SELECT_DISABLED: Final = """
    SELECT user_id, endpoint_id, kind, target, disabled_reason, disabled_at FROM webhooks.endpoints
    WHERE user_id = ANY ($1::text[]) AND disabled_at IS NOT NULL ORDER BY disabled_at, endpoint_id"""

_SELECT_DISABLED_WITHIN: Final = """
    SELECT user_id, endpoint_id, disabled_at FROM webhooks.endpoints
    WHERE disabled_at > statement_timestamp() - make_interval(secs => $1)"""

_SELECT_UNSENT: Final = "SELECT least(statement_timestamp(), (SELECT created_at FROM api.unsent))"
