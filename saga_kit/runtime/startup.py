"""Wait at the start for what a process needs; end at once for what waiting would not bring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from saga_kit.runtime.backoff import Backoff, pause
from saga_kit.runtime.database import final_cause, is_unknown_host
from saga_kit.runtime.errors import CannotStart, describe

UNKNOWN_HOST_S: Final = 60.0
"""A host's name may become known while a system starts; one that is not known for so long is a wrong one."""

log = structlog.get_logger(__name__)


async def wait_for(
    what: str,
    trouble: Callable[[], Awaitable[str | None]],
    stopping: asyncio.Event,
    *,
    unknown_host_s: float = UNKNOWN_HOST_S,
) -> None:
    """Wait until there is no trouble any more, with a line for each new cause.

    Raises `CannotStart` for a trouble that stays: a wrong password, an unknown database, a server that is not fit.
    """
    backoff, said, unknown_since = Backoff(cap_s=2.0), None, None
    while not stopping.is_set():
        try:
            cause = await trouble()
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
