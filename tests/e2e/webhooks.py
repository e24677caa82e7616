"""Endpoints of users in a running system, and what their receivers were told."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import asyncpg
from standardwebhooks import Webhook

from contracts.webhooks import StoredSecret, secret_text, secrets_to
from local_stack.stack import LocalStack
from saga_kit.runtime.sealing import Seal
from tests.projections.webhooks.receivers import Receiver

SECRET: Final = bytes(range(32))


async def tell(stack: LocalStack, user_id: str, url: str, *, every_version: bool, secret: bytes = SECRET) -> None:
    """Make an endpoint of a user."""
    connection = await asyncpg.connect(stack.logins["api"])
    try:
        async with connection.transaction():
            await connection.execute(
                """
                INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, event_types, every_version, secrets)
                VALUES ($1, $2, 'webhook', $3, '{}', $4, $5)""",
                *(uuid4(), user_id, url, every_version),
                secrets_to([StoredSecret(Seal(stack.webhooks_keys).seal(secret))]),
            )
            await connection.execute("UPDATE webhooks.changes SET version = version + 1")
    finally:
        await connection.close()


def told(receiver: Receiver) -> dict[str, list[dict[str, Any]]]:
    """Return what came about each order, each once, by version; all must verify."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for got in receiver.received:
        order = Webhook(secret_text(SECRET)).verify(got.body, got.headers)["data"]
        found.setdefault(order["order_id"], {})[order["version"]] = order
    return {order_id: [orders[version] for version in sorted(orders)] for order_id, orders in found.items()}
