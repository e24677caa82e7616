"""Which order a client order id belongs to does not depend on where batches begin and end."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest
from msgspec import structs

from order_saga.core.saga import Requested
from tests.order_saga.core.sample import requested
from tests.support.order_database import OrderDatabase

A, B = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize("cuts", [(0, 3), (0, 1, 3), (0, 2, 3), (0, 1, 2, 3)], ids=str)
async def test_a_request_that_moves_nothing_takes_no_name(db: OrderDatabase, cuts: tuple[int, ...]) -> None:
    """A request that repeats an order id with another client order id changes nothing, and that name stays free."""
    [now] = [row["now"] for row in await db.rows("SELECT clock_timestamp() AS now")]

    def asked(order_id: UUID, name: str) -> Requested:
        return structs.replace(requested(order_id=order_id, client_order_id=name), sent_at=now)

    messages = [asked(A, "x"), asked(A, "y"), asked(B, "y")]
    for begin, end in pairwise(cuts):
        await db.tell(*messages[begin:end])
    rows = await db.rows("SELECT order_id, client_order_id, reason_code FROM orders.orders ORDER BY 1")
    assert [(A, "x", None), (B, "y", None)] == [tuple(row.values()) for row in rows]
