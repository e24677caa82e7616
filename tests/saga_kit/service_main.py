"""A small service for the process tests: it reads `Item`s, writes rows and publishes to `out`. Run as a module."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

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
    delay_s = float(os.environ.get("TEST_DELAY_S", "0"))

    class Slow(Worker):
        async def handle(self, tx: Transaction, messages: Sequence[Received[Item]]) -> Effects:
            """Announce the transaction, and hold it open for a while."""
            effects = await super().handle(tx, messages)
            sys.stderr.write("handling\n")
            await asyncio.sleep(delay_s)
            return effects

    return run_service(
        load(KitSettings), name="svc", schema=schema, handler=lambda _: Slow(schema, topics=("t",)), tasks=[timer]
    )


if __name__ == "__main__":
    sys.exit(main())
