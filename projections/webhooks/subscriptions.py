"""Which deliveries a batch of events makes. Pure.

Versions of one order within a batch overtake each other here, as those of several batches do in the database: for each
endpoint only the newest that it wants is to be sent, and one that ends the order always is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from contracts.codec import encode
from contracts.decimals import plain_text
from contracts.orders import Order, OrderStatusChanged
from contracts.webhooks import EndpointKind, event_id_of, event_type_of, webhook_of
from projections.webhooks.deliveries import NewDelivery, Subscription
from projections.webhooks.rules import KEPT_MAX

SETTLE_S: Final = {EndpointKind.WEBHOOK: 0.0, EndpointKind.EMAIL: 10.0, EndpointKind.PUSH: 2.0}
"""A person is told where an order has come to, not each step on the way: steps that follow each other fast are one."""


def deliveries_of(
    events: Sequence[OrderStatusChanged],
    subscriptions: Mapping[str, Sequence[Subscription]],
    kinds: Collection[EndpointKind],
    now: datetime,
) -> list[NewDelivery]:
    """Make the deliveries of a batch, by endpoint and event, each once. `subscriptions` are by user.

    `kinds` are those that this process can send. An endpoint that it gave up gets events for `KEPT_MAX` more: they are
    sent when its user enables it in that time.
    """
    versions = {(event.order_id, event.version): event for event in events}
    wanted: dict[tuple[UUID, UUID], list[tuple[Subscription, OrderStatusChanged]]] = {}
    for event in versions.values():
        for one in subscriptions.get(event.order.user_id, ()):
            if one.kind in kinds and _wants(one, event, now):
                wanted.setdefault((one.endpoint_id, event.order_id), []).append((one, event))
    bodies: dict[tuple[UUID, int], bytes] = {}
    return [
        _delivery(one, event, _newest_told(those), bodies)
        for _, those in sorted(wanted.items(), key=lambda item: item[0])
        for one, event in sorted(those, key=lambda pair: pair[1].version)
    ]


def _newest_told(those: Sequence[tuple[Subscription, OrderStatusChanged]]) -> int:
    return max((event.version for one, event in those if not _too_small(one, event.order)), default=0)


def _too_small(one: Subscription, order: Order) -> bool:
    if one.notional_min is None:
        return False
    notional = notional_of(order)
    return notional is not None and notional < one.notional_min


def notional_of(order: Order) -> Decimal | None:
    """Return what an order is worth in its currency: what is filled, else its quantity at the price that it names.

    None when nobody knows: a market order that has no price yet. It is told, since it may be a big one.
    """
    if order.filled_quantity > 0 and order.average_price is not None:
        return order.filled_quantity * order.average_price
    price = next((one for one in (order.limit_price, order.trigger_price, order.price) if one is not None), None)
    return None if price is None or order.quantity is None else order.quantity * price


def _wants(one: Subscription, event: OrderStatusChanged, now: datetime) -> bool:
    if one.given_up_at is not None and now - one.given_up_at > KEPT_MAX:
        return False
    return not one.event_types or event_type_of(event) in one.event_types


def _delivery(
    one: Subscription, event: OrderStatusChanged, newest: int, bodies: dict[tuple[UUID, int], bytes]
) -> NewDelivery:
    final = event.status.terminal
    key = event.order_id, event.version
    if key not in bodies:
        bodies[key] = encode(webhook_of(event))
    kept = one.every_version or final
    small = one.notional_min if _too_small(one, event.order) else None
    return NewDelivery(
        endpoint_id=one.endpoint_id,
        event_id=event_id_of(*key),
        order_id=event.order_id,
        version=event.version,
        event_type=event_type_of(event),
        body=bodies[key],
        overtaken_by=newest if newest > event.version and not kept and small is None else None,
        overtakes=not one.every_version and small is None,
        final=kept,
        skipped=None if small is None else f"worth less than {plain_text(small)}",
        settle_s=SETTLE_S[one.kind],
    )
