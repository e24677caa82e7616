"""The reference price source: it stands by every live price, again and again, until the service stops.

When it fails (no database, say), prices grow stale and orders are refused; that is what confirming is for.
"""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.assets.store import confirm_prices
from saga_kit.backoff import pause
from saga_kit.errors import describe

log = structlog.get_logger(__name__)


async def confirm_forever(engine: AsyncEngine, stopping: asyncio.Event, every_s: float) -> None:
    """Confirm all live prices every `every_s` seconds; a failure is logged and tried again."""
    while not stopping.is_set():
        try:
            await confirm_prices(engine)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next round may succeed, and prices tell meanwhile
            log.warning("prices could not be confirmed, will try again", cause=describe(error))
        await pause(stopping, every_s)
