"""Endpoints, deliveries and senders on a migrated database, each with its production login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from prometheus_client import CollectorRegistry

from contracts.orders import OrderStatusChanged
from contracts.webhooks import EndpointKind, StoredSecret, secrets_to
from projections.webhooks.guard import Lookups
from projections.webhooks.handler import WebhookHandler
from projections.webhooks.metrics import WebhookMetrics
from projections.webhooks.posting import Poster
from projections.webhooks.sender import Courier, Sender
from projections.webhooks.signing import Signer
from saga_kit.messaging.batch import Received
from saga_kit.runtime.transactions import Transactions
from tests.e2e.system import eventually
from tests.projections.webhooks.receivers import SEAL

SECRET: Final = bytes(range(32))
LOOPBACK: Final = (ip_network("127.0.0.0/8"),)


@dataclass
class Webhooks:
    """The schema `webhooks`: the API's connection, the process's, and the owner's for what time does."""

    transactions: Transactions
    api: asyncpg.Connection
    owner: asyncpg.Connection
    senders: list[Sender] = field(default_factory=list)

    async def endpoint(
        self, url: str, user_id: str = "alice", *, types: Sequence[str] = (), every_version: bool = False
    ) -> UUID:
        """Make an endpoint, as the API does: with its secret sealed, and the change told."""
        endpoint_id = uuid4()
        async with self.api.transaction():
            await self.api.execute(
                """
                INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, event_types, every_version, secrets)
                VALUES ($1, $2, 'webhook', $3, $4, $5, $6)""",
                *(endpoint_id, user_id, url, list(types), every_version),
                secrets_to([StoredSecret(SEAL.seal(SECRET))]),
            )
            await self.changed()
        return endpoint_id

    async def notified(
        self, kind: EndpointKind, target: str, user_id: str = "alice", *, secrets: str = "[]", **preferences: Any
    ) -> UUID:
        """Make an endpoint of a person: an address that is confirmed unless told otherwise, or a browser."""
        values = {"confirmed_at": datetime.now(UTC), "event_types": []} | preferences
        endpoint_id = uuid4()
        names = ["endpoint_id", "user_id", "kind", "target", "secrets", *values]
        places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        async with self.api.transaction():
            await self.api.execute(
                f"INSERT INTO webhooks.endpoints ({', '.join(names)}) VALUES ({places})",
                *(endpoint_id, user_id, kind, target, secrets, *values.values()),
            )
            await self.changed()
        return endpoint_id

    async def changed(self) -> None:
        """Tell that endpoints have changed."""
        await self.api.execute("UPDATE webhooks.changes SET version = version + 1")

    def handler(self, stored: Callable[[Collection[UUID]], None] = lambda _ids: None) -> WebhookHandler:
        """Make a handler of events, for endpoints of every kind."""
        return WebhookHandler(list(EndpointKind), stored, WebhookMetrics(CollectorRegistry()))

    async def take(self, *events: OrderStatusChanged, handler: WebhookHandler | None = None) -> None:
        """Handle a batch of events, and commit it, as the kit does."""
        effects_of = handler or self.handler(self._notice)
        async with self.transactions.begin() as tx:
            effects = await effects_of.handle(tx, [Received(event) for event in events])
        if effects.after_commit is not None:
            effects.after_commit()

    def _notice(self, endpoint_ids: Collection[UUID]) -> None:
        for sender in self.senders:
            sender.notice(endpoint_ids)

    @asynccontextmanager
    async def sending(
        self,
        courier: Courier | None = None,
        *,
        kind: EndpointKind = EndpointKind.WEBHOOK,
        attempt_s: float = 15.0,
        in_flight_max: int = 100,
        tell: Callable[[str, str], None] = lambda _title, _text: None,
    ) -> AsyncIterator[Sender]:
        """Run a sender that may reach this machine; at the end it stops in an orderly way."""
        look_up = Lookups()
        poster = Poster(Signer(SEAL), look_up, networks=LOOPBACK, attempt_s=attempt_s)
        sender = Sender(
            self.transactions, {kind: courier or poster}, WebhookMetrics(CollectorRegistry()),
            in_flight_max=in_flight_max, keep_days=30, tell=tell,
        )  # fmt: skip
        stopping = asyncio.Event()
        running = asyncio.create_task(sender.run(stopping))
        self.senders.append(sender)
        try:
            yield sender
        finally:
            stopping.set()
            await running
            self.senders.remove(sender)
            await poster.close()
            look_up.close()

    async def states(self, endpoint_id: UUID | None = None) -> list[tuple[int, str, str | None]]:
        """Return version, state and reason of each delivery, by order and version."""
        rows = await self.owner.fetch(
            """
            SELECT version, state, reason FROM webhooks.deliveries
            WHERE $1::uuid IS NULL OR endpoint_id = $1 ORDER BY order_id, version""",
            endpoint_id,
        )
        return [tuple(row) for row in rows]

    async def value(self, sql: str, *args: Any) -> Any:
        """Query one value."""
        return await self.owner.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> None:
        """Do what time or an operator does."""
        await self.owner.execute(sql, *args)

    async def due_now(self) -> None:
        """Let all pauses be over."""
        await self.execute(
            "UPDATE webhooks.deliveries SET next_attempt_at = now() WHERE state = 'PENDING' AND leased_until IS NULL"
        )
        await self.execute("UPDATE webhooks.endpoints SET paused_until = NULL")

    async def until(self, sql: str, *args: Any, within_s: float = 60.0) -> None:
        """Wait until a query is true."""
        await eventually(lambda: self.value(sql, *args), sql, within_s=within_s)

    async def all_ended(self, within_s: float = 120.0) -> None:
        """Wait until nothing is to be sent."""
        await self.until(
            "SELECT NOT EXISTS (SELECT FROM webhooks.deliveries WHERE ended_at IS NULL)", within_s=within_s
        )
