"""Waits at the start for what a process needs, and ends it at once for a cause that waiting does not cure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from saga_kit.runtime.backoff import Backoff, pause, unless_stopping
from saga_kit.runtime.database import final_cause, is_unknown_host
from saga_kit.runtime.errors import CannotStart, describe

UNKNOWN_HOST_S: Final = 60.0
"""While a system starts, a host's name may not be known yet; after so long it counts as wrong."""

log = structlog.get_logger(__name__)


async def wait_for(
    what: str,
    trouble: Callable[[], Awaitable[str | None]],
    stopping: asyncio.Event,
    *,
    unknown_host_s: float = UNKNOWN_HOST_S,
) -> None:
    """Wait until `trouble` returns None, and log each new cause. A check that is under way does not hold up the end.

    Raises `CannotStart` for a cause that stays: a wrong password, an unknown database, an unfit server.
    """
    backoff, said, unknown_since = Backoff(cap_s=2.0), None, None
    while not stopping.is_set():
        try:
            cause = await unless_stopping(trouble(), stopping)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not there yet
            cause = describe(error)
            if (final := final_cause(error)) is not None:
                raise CannotStart(f"{what}: {final}") from None
            unknown_since = (unknown_since or time.monotonic()) if is_unknown_host(error) else None
        if cause is None:
            return
        if unknown_since is not None and time.monotonic() - unknown_since > unknown_host_s:
            raise CannotStart(f"{what}: no such host is known ({cause})")
        if cause != said:
            log.warning("waiting", what=what, cause=cause)
            said = cause
        await pause(stopping, backoff.next_s())
