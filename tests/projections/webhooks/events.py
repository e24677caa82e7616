"""Events of orders for the tests of webhooks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from contracts.examples import example
from contracts.orders import OrderStatusChanged
from contracts.vocabulary import OrderStatus

BEGAN: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WAY: Final = (OrderStatus.PENDING, OrderStatus.CONFIRMED, OrderStatus.PROCESSING, OrderStatus.COMPLETED)
"""The versions 1 to 4 of an order that is filled."""


def event(number: int, version: int, user_id: str = "alice", way: tuple[OrderStatus, ...] = WAY) -> OrderStatusChanged:
    """Make one version of an order on its way."""
    shown = example("OrderStatusChanged")
    assert isinstance(shown, OrderStatusChanged)
    status = way[version - 1]
    at = BEGAN + timedelta(seconds=version)
    order = msgspec.structs.replace(
        shown.order, order_id=UUID(int=number), user_id=user_id, status=status, version=version, updated_at=at
    )
    previous = way[version - 2] if version > 1 else None
    return OrderStatusChanged(order.order_id, version, status, previous, None, at, order)
