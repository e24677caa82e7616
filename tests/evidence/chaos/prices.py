"""Reads `assets.prices` from the beginning, and looks at the marks in the database. It judges nothing."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

import asyncpg

from saga_kit.runtime.errors import DATABASE_ERRORS
from tests.evidence.chaos.oracle import Look, Tick
from tests.evidence.chaos.reader import Reader

LOOK_EVERY_S: Final = 0.25
_MARKS: Final = "SELECT asset_id, sequence, statement_timestamp(), clock_timestamp() FROM orders.marks"
Raw = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""A record's key, value and headers, as they were."""


class Prices(Reader):
    """Knows the ticks of every asset, in order of arrival."""

    def __init__(self, kafka: str, topic: str, partitions: int) -> None:
        super().__init__(kafka, topic, partitions)
        self.ticks: dict[str, list[Tick]] = defaultdict(list)
        self.raw: dict[str, list[Raw]] = defaultdict(list)
        """The records themselves, by asset."""

    def take(self, record: Any) -> None:
        """Take note of a tick."""
        value = record.value() or b""
        body = json.loads(value)
        appended_at = datetime.fromtimestamp(record.timestamp()[1] / 1000, UTC)
        confirmed_at = datetime.fromisoformat(body.get("confirmed_at") or body["as_of"])
        price, trading = Fraction(body["price"]), body.get("trading", "OPEN")
        tick = Tick(int(body["sequence"]), price, trading, confirmed_at, appended_at)
        self.ticks[body["asset_id"]].append(tick)
        self.raw[body["asset_id"]].append((record.key() or b"", value, list(record.headers() or ())))

    def newest(self, asset_id: str) -> Fraction | None:
        """Return the last price that was read of an asset."""
        ticks = self.ticks.get(asset_id)
        return ticks[-1].price if ticks else None


class Marks:
    """Looks at the marks again and again, as the database's owner."""

    def __init__(self, owner_url: str) -> None:
        self.looks: dict[str, list[Look]] = defaultdict(list)
        self._owner_url = owner_url

    async def watch(self) -> None:
        """Look until cancelled; while the database is away there is nothing to see, for nothing is judged."""
        while True:
            with suppress(*DATABASE_ERRORS, OSError):
                await self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        connection = await asyncpg.connect(self._owner_url, timeout=5)
        try:
            while True:
                for asset_id, sequence, since, until in await connection.fetch(_MARKS, timeout=5):
                    self.looks[asset_id].append(Look(sequence, since, until))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            connection.terminate()
