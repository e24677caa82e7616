"""A service that hangs on demand: run as a module in the place of `operations.cli`, with shorter timeouts.

It hangs once the file `SICK_FILE` exists, which it removes first. `SICKNESS` says how. `fetcher`: the client library's
fetcher gets no more answers, while the rest of it works. `batch`: a batch never ends. `loop`: a call blocks the loop.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from operations.cli import main
from saga_kit import service
from saga_kit.messaging import consumer
from saga_kit.runtime import crash_points

PATIENCE_S: Final = 4.0


def fall_ill(sickness: str) -> None:
    """Begin to hang; called where a batch is taken."""
    if sickness == "loop":
        time.sleep(3600)
    if sickness == "fetcher":
        for one in gc.get_objects():
            if isinstance(one, AIOKafkaConsumer):
                one._fetcher._proc_fetch_request = _never  # noqa: SLF001 - only its private method can hang


async def _never(*_: object) -> None:
    await asyncio.Event().wait()


def infect(sickness: str, file: Path) -> None:
    """Look for the file at each batch: where it is taken or, for the sickness `batch`, in the handler."""

    def is_time() -> bool:
        if file.exists():
            file.unlink()
            return True
        return False

    def watcher(point: object, _: object) -> None:
        if point is crash_points.CrashPoint.BATCH_TAKEN and sickness != "batch" and is_time():
            fall_ill(sickness)

    crash_points.watch(watcher)
    if sickness == "batch":
        _wrap_handlers(is_time)


def _wrap_handlers(is_time: Callable[[], bool]) -> None:
    made = service.Service.__init__

    def make(self: Any, *words: Any, handler: Any, **more: Any) -> None:
        def sick(kit: Any) -> Any:
            one = handler(kit)
            healthy = one.handle

            async def handle(tx: Any, messages: Any) -> Any:
                if is_time():
                    await _never()
                return await healthy(tx, messages)

            one.handle = handle
            return one

        made(self, *words, handler=sick, **more)

    service.Service.__init__ = make  # type: ignore[method-assign]


if __name__ == "__main__":
    consumer.WATCH_S, consumer.QUIET_MAX_S = 0.5, 2.0  # type: ignore[misc]
    impatient: Any = service
    impatient.DRAIN_TIMEOUT_S = PATIENCE_S
    if os.environ["SICKNESS"] == "loop":  # who stands still for a moment must not end for that before it is ill
        impatient.watchdog = functools.partial(impatient.watchdog, blocked_s=PATIENCE_S)
    else:
        impatient.Consumer = functools.partial(impatient.Consumer, stalled_s=PATIENCE_S)
    infect(os.environ["SICKNESS"], Path(os.environ["SICK_FILE"]))
    main()
