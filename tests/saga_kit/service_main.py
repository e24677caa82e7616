"""A small service for the process tests: it reads `Item`s, writes rows and publishes to `out`. Run as a module."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from saga_kit.messaging.batch import BatchProcess, Effects, Received
from saga_kit.runtime.settings import KitSettings, load
from saga_kit.runtime.transactions import Transaction
from saga_kit.service import Kit, run_service
from tests.saga_kit.support import Item, Worker, received


async def timer(kit: Kit, process: BatchProcess[Item]) -> None:
    """Run one message of the service itself as a batch, then wait for the end."""
    await process.run(received(Item("timer", 1)))
    if os.environ.get("TEST_TASK_FAILS"):
        raise RuntimeError("the task broke")
    await kit.stopping.wait()


def main() -> int:
    """Run the service."""
    schema = os.environ["TEST_SCHEMA"]
    hold = Path(os.environ.get("TEST_HOLD", "/nowhere"))

    class Slow(Worker):
        async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
            """Announce the transaction, and hold it open while there is a file."""
            effects = await super().handle(tx, messages)
            sys.stderr.write("handling\n")
            while hold.exists():  # noqa: ASYNC240 - a look at a file of this machine
                await asyncio.sleep(0.02)
            return effects

    return run_service(
        load(KitSettings), name="svc", schema=schema, handler=lambda _: Slow(schema, topics=("t",)), tasks=[timer]
    )


if __name__ == "__main__":
    sys.exit(main())
