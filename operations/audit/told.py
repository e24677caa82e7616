"""Compare with what was told: the database of an order that was told further was restored, and not recovered.

On a running system there is none: a version is committed before it is told, and read here after it was told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from contracts.orders import OrderStatusChanged
from contracts.topics import ORDERS_EVENTS
from operations.audit.look import FINDINGS_MAX, Finding
from operations.recovery import topics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from saga_kit.runtime.settings import KafkaSettings

MARGIN: Final = timedelta(hours=1)
_NEWEST: Final = "SELECT max(updated_at) FROM audit.orders"
_VERSIONS: Final = "SELECT order_id, version FROM audit.orders WHERE order_id = ANY($1::uuid[])"


async def told_ahead(
    connection: AsyncConnection, settings: KafkaSettings, since: datetime | None, progress: Callable[[int], None]
) -> list[Finding]:
    """Find orders that were told more than the database knows, from a time on, or an hour before what it knows last."""
    if since is None:
        newest: datetime | None = (await connection.exec_driver_sql(_NEWEST)).scalar()
        since = None if newest is None else newest - MARGIN
    ahead: dict[UUID, tuple[OrderStatusChanged, int]] = {}
    read = 0
    async with topics.connected(settings) as consumer:
        found = await topics.spans(consumer, [settings.kafka_topic_prefix + ORDERS_EVENTS.name], since)
        async for records in topics.read(consumer, found):
            events = [one.message for one in topics.readable(records)[0]]
            await _compare(connection, [one for one in events if isinstance(one, OrderStatusChanged)], ahead)
            read += len(records)
            progress(read)
    return [_finding(event, version) for event, version in ahead.values()]


async def _compare(
    connection: AsyncConnection, events: list[OrderStatusChanged], ahead: dict[UUID, tuple[OrderStatusChanged, int]]
) -> None:
    highest = {event.order_id: event for event in sorted(events, key=lambda event: event.version)}
    rows = await connection.exec_driver_sql(_VERSIONS, (list(highest),))
    known: Mapping[UUID, int] = {row.order_id: row.version for row in rows}
    for order_id, event in highest.items():
        version = known.get(order_id, 0)
        before = ahead.get(order_id)
        if event.version > version and (before[0].version < event.version if before else len(ahead) < FINDINGS_MAX):
            ahead[order_id] = (event, version)


def _finding(event: OrderStatusChanged, version: int) -> Finding:
    here = f"the database knows version {version}" if version else "the database does not know it"
    what = f"orders.events has told {event.status} as version {event.version}, and {here}"
    return Finding("I9", event.order_id, what, "told ahead")
