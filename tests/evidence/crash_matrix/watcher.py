"""The watcher that kills its own process at the crash point, and with the type of message, that a file names.

The file arms one death only: before the process dies, it writes a marker that says what was hit, and the marker disarms
its successor. A crash point that a healthy system never passes needs a planted fault first: a message that can't be
handled, or a publish that fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Collection
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from contracts.envelope import Outgoing
from contracts.orders import OrderRequested
from contracts.vocabulary import OrderKind
from order_saga.core.saga import Requested, TimerDue
from order_saga.triggers.process import Price, TriggerPoint
from order_saga.worker.market import RestingPoint
from participants.assets.feed import FeedPoint
from projections.webhooks.sender import SendPoint
from saga_kit.messaging.batch import Received
from saga_kit.runtime.crash_points import CrashPoint
from tests.evidence.crash_matrix.cells import EXPIRY, FIRE, POINTS, PRICE, RELAY, RESTING, RISING, SET_ASIDE, Cell

PLANTED: Final = "planted by the crash matrix"
_FIRES: ContextVar[bool] = ContextVar("fires", default=False)
"""Set in the task that executes fired orders, and in no other."""
_BATCH: ContextVar[frozenset[str]] = ContextVar("batch", default=frozenset())
"""The types of the messages of the task's batch."""


class Armoury:
    """The files between the runner and the processes: which service shall die where, and which one did."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, cell: Cell) -> None:
        """Let the service of this cell die in it, once."""
        self._marker(cell).unlink(missing_ok=True)
        new = self._folder / f"{cell.service}.new"
        new.write_text(cell.name)
        new.replace(self._folder / f"{cell.service}.armed")

    def disarm(self, service: str) -> None:
        """Cancel the death of a service."""
        (self._folder / f"{service}.armed").unlink(missing_ok=True)

    def armed(self, service: str) -> Cell | None:
        """Return the cell in which a service shall die; None when it did, or is not armed."""
        try:
            cell = Cell.parse((self._folder / f"{service}.armed").read_text())
        except FileNotFoundError:
            return None
        return None if self._marker(cell).exists() else cell

    def hit(self, cell: Cell) -> dict[str, Any] | None:
        """Return what the process that died in this cell wrote."""
        try:
            return dict(json.loads(self._marker(cell).read_text()))
        except FileNotFoundError:
            return None

    def mark(self, cell: Cell, messages: Collection[str]) -> None:
        """Write the marker, and sync it to disk, before the process dies."""
        marker = {"cell": cell.name, "pid": os.getpid(), "at": time.time(), "messages": sorted(messages)}
        new = self._folder / f"{cell.name}.new"
        with new.open("w") as file:
            json.dump(marker, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._marker(cell))
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _marker(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.hit"


class PlantedFault(Exception):  # noqa: N818 - it is what happened
    """A fault of one message, which must become a dead letter."""


class Watcher:
    """Watches one service's process: see `saga_kit.runtime.crash_points.Watcher`."""

    def __init__(self, service: str, armoury: Armoury, database_url: str) -> None:
        self._service = service
        self._armoury = armoury
        self._database_url = database_url
        self._relayed = False

    def __call__(self, point: StrEnum, work: Collection[object]) -> None:
        """Die here, or plant the fault that leads to the crash point, or do nothing."""
        if point is RestingPoint.FIRES_FOUND:
            _FIRES.set(True)
        if point is CrashPoint.BATCH_TAKEN:
            _BATCH.set(frozenset(map(_type, work)))
        cell = self._armoury.armed(self._service)
        if cell is None or point not in POINTS or cell.message not in (held := self._held(point, work, cell)):
            return
        if point is cell.point:
            self._armoury.mark(cell, held)
            os.kill(os.getpid(), signal.SIGKILL)
        self._plant(cell, point)

    def _plant(self, cell: Cell, point: StrEnum) -> None:
        if point is CrashPoint.RELAY_CLAIMED:
            self._relayed = True
        if cell.point in SET_ASIDE and point is CrashPoint.BATCH_HANDLED:
            raise PlantedFault(PLANTED)
        if cell.point in RELAY and point is CrashPoint.PUBLISH_BEGUN and not self._relayed:
            raise ConnectionError(PLANTED)

    def _held(self, point: StrEnum, work: Collection[object], cell: Cell) -> Collection[str]:
        if isinstance(point, RestingPoint):
            own = {RestingPoint.FIRES_FOUND: {FIRE}, RestingPoint.EXPIRIES_FOUND: {EXPIRY}}
            return own.get(point, _BATCH.get())
        if isinstance(point, TriggerPoint):
            of_matrix = work if point is not TriggerPoint.TICKS_TAKEN else [one for one in work if one == RISING]
            return {PRICE} if of_matrix else set()
        if isinstance(point, FeedPoint):
            return {PRICE} if work else set()
        if isinstance(point, SendPoint):
            return {cell.message} if work else set()  # it sends nothing but what became of orders
        if point is not CrashPoint.SWEPT:
            return {_type(one) for one in work}
        return self._types_of_rows(work) if cell.point is point else set()

    def _types_of_rows(self, ids: Collection[object]) -> set[str]:
        """Read outbox rows from another session, which still sees them while their deletion is not committed."""
        found: set[str] = set()
        looking = threading.Thread(target=lambda: found.update(asyncio.run(self._look(ids))))
        looking.start()
        looking.join()
        return found

    async def _look(self, ids: Collection[object]) -> set[str]:
        connection = await asyncpg.connect(self._database_url)
        try:
            statement = f"SELECT payload FROM {_SCHEMAS[self._service]}.outbox WHERE outbox_id = ANY($1::bigint[])"
            rows = await connection.fetch(statement, list(ids))
        finally:
            await connection.close()
        return {_type(one) for row in rows for one in msgspec.msgpack.decode(row["payload"], type=list[Outgoing])}


_SCHEMAS: Final = {"orchestrator": "orders", "balance": "balances", "assets": "assets", "webhooks": "webhooks"}


def _type(work: Any) -> str:
    """Name the type of a message, on its way in or out."""
    if not isinstance(work, Received):
        return (dict(work.headers)["ce_type"] or b"").decode()
    message = work.message
    if isinstance(message, Price) and message.asset_id != RISING:
        return "another asset's price"
    if isinstance(message, TimerDue) and _FIRES.get():
        return FIRE
    if isinstance(message, Requested) and isinstance(message.request, OrderRequested):
        return "OrderRequested" if message.request.order_type.kind is OrderKind.MARKET else RESTING
    return work.envelope.type if work.envelope is not None else type(work.message).__name__
