"""Clients that follow a user's orders for ever, by one stream after the other, whatever ends each of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any, ClassVar, Final

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

COME_BACK_S: Final = 0.2
"""The server asks for seconds; here everybody comes back at once."""
SILENCE_S: Final = 40.0
"""A heartbeat comes every 15 s: a connection without any event for so long is dead."""


class Follower:
    """Keeps the highest version of each order, by server-sent events. It comes back to the next of `urls`."""

    by: ClassVar[str] = "SSE"

    def __init__(self, user_id: str, token: str, urls: Sequence[str]) -> None:
        self.user_id = user_id
        self.versions: dict[str, int] = {}
        self.gaps = 0
        self.streams = 0
        """Connections that came to be live."""
        self.last_id = ""
        self.url = ""
        """Where it is connected."""
        self.token = token
        self.headers = {"Authorization": f"Bearer {token}"}
        self._urls = urls

    async def follow(self) -> None:
        """Follow for ever: come back whenever a stream ends, however it does."""
        for url in cycle(self._urls):
            self.url = url
            with suppress(httpx2.HTTPError, WebSocketException, TimeoutError, OSError):
                await self.read_one()
            await asyncio.sleep(COME_BACK_S)

    async def read_one(self) -> None:
        """Read one stream to its end."""
        headers = self.headers | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with (
            httpx2.AsyncClient(base_url=self.url, timeout=SILENCE_S) as http,
            http.stream("GET", "/events", headers=headers) as answer,
        ):
            if answer.status_code == httpx2.codes.OK:
                async for event in httpx2.EventSource(answer):
                    await self.take(event.event, event.id, json.loads(event.data or "null"))  # none with `retry`

    async def take(self, kind: str, event_id: str | None, data: Any) -> None:
        """Take an event of a stream."""
        self.last_id = event_id or self.last_id
        if kind == "order":
            self.versions[data["order_id"]] = max(data["version"], self.versions.get(data["order_id"], 0))
            assert self.user_id == data["order"]["user_id"]
        self.gaps += kind == "gap"
        self.streams += kind == "snapshot-end"


class SocketFollower(Follower):
    """The same by the channel of a WebSocket."""

    by = "WebSocket"

    async def read_one(self) -> None:
        """Read one connection to its end."""
        address = f"ws{self.url.removeprefix('http')}/ws"
        options: dict[str, Any] = {"subprotocols": ["order-saga.v1"], "compression": None}
        async with connect(address, additional_headers=self.headers, **options) as connection:
            since = {"since": self.last_id} if self.last_id else {}
            await connection.send(json.dumps({"op": "subscribe", "channel": "orders", **since}))
            while True:
                async with asyncio.timeout(SILENCE_S):  # in Python 3.11 `wait_for` may lose that it is called off
                    said = json.loads(await connection.recv())
                await self.take(said["type"], said.get("id"), said.get("data"))
