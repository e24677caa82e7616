"""A client of `/ws`, for its tests: it keeps what has come, by channel and type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from order_api.live.messages import PROTOCOL
from tests.order_api.support import Api, token

SOON_S = 30.0


class Socket:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.got: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Read to the end."""
        try:
            async for message in self.connection:
                self.got.append(json.loads(message))
                self._news.set()
        except ConnectionClosed:
            pass
        finally:
            self.ended.set()
            self._news.set()

    async def says(self, op: str, **members: Any) -> None:
        """Send an op."""
        await self.connection.send(json.dumps({"op": op, **members}))

    async def until(self, kind: str, channel: str | None = None, **data: object) -> dict[str, Any]:
        """Wait for a message of a type, of a channel, whose data has these members; return the first."""
        async with asyncio.timeout(SOON_S):
            while True:
                for one in self.got:
                    fits = one["type"] == kind and (channel is None or one.get("channel") == channel)
                    if fits and data.items() <= (one.get("data") or {}).items():
                        return one
                assert not self.ended.is_set(), self.closed
                self._news.clear()
                await self._news.wait()

    async def subscribe(self, channel: str, **members: Any) -> None:
        """Subscribe, and wait until the channel is live."""
        await self.says("subscribe", channel=channel, **members)
        await self.until("snapshot-end", channel)

    @property
    def closed(self) -> tuple[int | None, str | None]:
        """The code and the reason with which the server has closed."""
        return self.connection.close_code, self.connection.close_reason

    async def end(self) -> tuple[int | None, str | None]:
        """Wait for the end; return its code and reason."""
        async with asyncio.timeout(SOON_S):
            await self.ended.wait()
        return self.closed

    def versions(self, channel: str = "orders") -> dict[str, int]:
        """Return the highest version of each order in a channel."""
        found: dict[str, int] = {}
        for one in self.got:
            if one["type"] == "order" and one["channel"] == channel:
                data = one["data"]
                found[data["order_id"]] = max(data["version"], found.get(data["order_id"], 0))
        return found


@asynccontextmanager
async def socket(
    api: Api,
    user: str | None = "alice",
    *,
    scope: str = "orders:read",
    claims: Mapping[str, Any] | None = None,
    path: str = "/ws",
    **more: Any,
) -> AsyncIterator[Socket]:
    """Connect as a user, None: without a token; read as long as the context lasts."""
    headers = {} if user is None else {"Authorization": f"Bearer {token(user, scope, **(claims or {}))}"}
    options = {"subprotocols": [PROTOCOL], "compression": None, **more}
    headers |= options.pop("headers", {})
    async with connect(f"ws://127.0.0.1:{api.port}{path}", additional_headers=headers, **options) as connection:
        client = Socket(connection)
        reading = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            reading.cancel()
            await asyncio.wait([reading])
