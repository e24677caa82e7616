"""What a process waits for at its start, and that it need not have come for the process to end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from saga_kit.runtime.backoff import LEAVES_WITHIN_S
from saga_kit.runtime.errors import CannotStart
from saga_kit.runtime.startup import wait_for


async def test_it_asks_until_there_is_no_trouble() -> None:
    """A cause that is told, and one that is raised, are tried again."""
    answers: list[str | Exception | None] = ["not yet", OSError("away"), None]

    async def trouble() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    await wait_for("a server", trouble, asyncio.Event())

    assert [] == answers


async def test_a_cause_that_stays_ends_it() -> None:
    """It is raised as it is."""

    async def trouble() -> str | None:
        raise CannotStart("a wrong password")

    stopping = asyncio.Event()
    with pytest.raises(CannotStart, match="a wrong password"):
        await wait_for("a server", trouble, stopping)


@pytest.mark.parametrize("clings", [False, True], ids=["leaves", "clings"])
async def test_a_check_that_hangs_does_not_hold_up_the_end(clings: bool) -> None:  # noqa: FBT001 - a case
    """Neither one that ends when it is cancelled, nor one whose library waits for a server that does not answer."""
    begun, released, left, stopping = (asyncio.Event() for _ in range(4))

    async def trouble() -> str | None:
        begun.set()
        try:
            with suppress(asyncio.CancelledError):
                await released.wait()
            if clings:
                await released.wait()
        finally:
            left.set()
        return "still away"

    waiting = asyncio.create_task(wait_for("a server", trouble, stopping))
    await begun.wait()
    stopping.set()
    try:
        async with asyncio.timeout(LEAVES_WITHIN_S + 20):  # a busy machine may stand still for seconds
            await waiting
    finally:
        released.set()
        await left.wait()
