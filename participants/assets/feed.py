"""The reference price source: it stands by every live price, again and again, until the service stops.

When it fails (no database, say), prices grow stale and orders are refused; that is what confirming is for.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from participants.assets.store import confirm_prices
from saga_kit.backoff import keep_doing


async def confirm_forever(engine: AsyncEngine, stopping: asyncio.Event, every_s: float) -> None:
    """Confirm all live prices every `every_s` seconds; a failure is logged and tried again."""

    async def confirm() -> None:
        await confirm_prices(engine)

    await keep_doing("confirming prices", confirm, stopping, every_s=every_s)
