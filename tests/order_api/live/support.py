"""Shared by the tests of streams: a client that reads one, and events as the orchestrator publishes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx2

from contracts import codec
from contracts.orders import OrderStatusChanged
from order_api.orders.store import ORDER_COLUMNS, read_order
from saga_kit.messaging.publisher import Publisher
from tests.order_api.support import Api, Orchestrator, token, until

SOON_S = 30.0
STOPS_WITHIN_S = 20.0
"""A process ends at once: nobody is waited for until their time is over, however busy the machine is."""


class Reader:
    """Reads a stream, and keeps what has come."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.got: list[httpx2.ServerSentEvent] = []
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Read to the end of the stream."""
        try:
            async for event in httpx2.EventSource(self.answer):
                self.got.append(event)
                self._news.set()
        finally:
            self.ended.set()

    async def until(self, event: str, **members: object) -> httpx2.ServerSentEvent:
        """Wait for an event whose data has these members; return the first."""
        async with asyncio.timeout(SOON_S):
            while True:
                for one in self.got:
                    if one.event == event and members.items() <= json.loads(one.data).items():
                        return one
                self._news.clear()
                await self._news.wait()

    def of(self, event: str) -> list[Any]:
        """Return the data of all events of a name."""
        return [json.loads(one.data) for one in self.got if one.event == event]

    @property
    def versions(self) -> dict[str, int]:
        """The highest version of each order."""
        found: dict[str, int] = {}
        for data in self.of("order"):
            found[data["order_id"]] = max(data["version"], found.get(data["order_id"], 0))
        return found

    @property
    def last_id(self) -> str:
        """The id that a client would come back with."""
        return next((one.id for one in reversed(self.got) if one.id), "")


@asynccontextmanager
async def streaming(
    api: Api, path: str = "/events", *, user: str = "alice", last_id: str = "", **more: Any
) -> AsyncIterator[Reader]:
    """Open a stream as a user, and read it as long as the context lasts."""
    bearer = token(user, more.pop("scope", "orders:read"), **more.pop("claims", {}))
    headers = {"Authorization": f"Bearer {bearer}", **({"Last-Event-ID": last_id} if last_id else {})}
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as client,
        client.stream("GET", path, headers=headers) as answer,
    ):
        assert 200 == answer.status_code, await answer.aread()
        reader = Reader(answer)
        reading = asyncio.create_task(reader.read())
        try:
            yield reader
        finally:
            reading.cancel()
            await asyncio.wait([reading])


class Events:
    """Commits versions of orders and publishes them, as the orchestrator does."""

    def __init__(self, publisher: Publisher, orchestrator: Orchestrator) -> None:
        self._publisher = publisher
        self._orchestrator = orchestrator

    async def commit(self, order_id: str, phase: str, version: int, *, user: str = "alice", **columns: Any) -> None:
        """Commit a version of an order, with its row of history; nobody hears of it yet."""
        await self._orchestrator.shows(order_id, user, phase, version=version, **columns)
        [row] = await self._orchestrator.run(
            """
            INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
            SELECT order_id, $2::integer, clock_timestamp(), $2 - 1, $2, ARRAY[CASE status
                WHEN 'PENDING' THEN CASE $2 WHEN 1 THEN '' ELSE 'PENDING' END WHEN 'PROCESSING' THEN 'CONFIRMED'
                WHEN 'COMPLETED' THEN 'PROCESSING' ELSE 'PENDING' END || '>' || status], '[]'
            FROM orders.orders WHERE order_id = $1 RETURNING order_id""",
            *(UUID(order_id), version),
        )
        assert UUID(order_id) == row[0]

    async def publish(self, *order_ids: str) -> None:
        """Publish the versions that these orders have."""
        rows = await self._orchestrator.run(
            f"SELECT {', '.join(ORDER_COLUMNS)} FROM api.orders WHERE order_id = ANY($1::uuid[])",
            [UUID(order_id) for order_id in order_ids],
        )
        messages = []
        for order in (read_order(*row) for row in rows):
            event = OrderStatusChanged(
                *(order.order_id, order.version, order.status, None, order.reason_code, order.updated_at, order)
            )
            message_id = f"{order.order_id}:v{order.version}"
            messages.append(codec.outgoing(event, message_id=message_id, source="test", time=order.updated_at))
        assert await self._publisher.publish(messages)

    async def tell(self, order_id: str, phase: str, version: int, **more: Any) -> None:
        """Commit a version and publish it."""
        await self.commit(order_id, phase, version, **more)
        await self.publish(order_id)


async def followed(api: Api) -> None:
    """Wait until the API follows events."""
    follower = api.app.state.follower
    await until(lambda: follower.following, within_s=60)


async def no_streams(api: Api) -> None:
    """Wait until no stream is open."""
    await until(lambda: len(api.app.state.streams) == 0)


def expires(api: Api) -> None:
    """Let so much time pass that the token of the one stream has expired, and no more."""
    [one] = api.app.state.streams._streams  # noqa: SLF001 - to wait for it is long, and one that is due soon may be late
    api.app.state.streams.tick(one.due)


def new_order() -> str:
    """Make an order's id."""
    return str(uuid4())


def members(data: Mapping[str, Any], *names: str) -> list[Any]:
    """Return some members of a JSON object."""
    return [data[name] for name in names]
