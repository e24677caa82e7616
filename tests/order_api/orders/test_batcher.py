"""The batcher: one round trip for those who wait together, each with their own result, and a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from order_api.orders.batcher import Batcher, Overloaded


class Work:
    """Doubles numbers when it is let through; raises for a batch with a negative one."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        """Work."""
        self.batches.append(list(numbers))
        await self.may_go_on.wait()
        if min(numbers) < 0:
            raise ValueError("negative")
        return [number * 2 for number in numbers]


async def test_those_who_wait_together_go_together() -> None:
    """The first goes alone and at once; the rest in batches up to the limit; each gets its own result."""
    work = Work()
    batcher = Batcher(work, batch_size_max=4)
    waiting = [asyncio.create_task(batcher.do(0))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [[0]] == work.batches
    waiting += [asyncio.create_task(batcher.do(n)) for n in range(1, 7)]
    await asyncio.sleep(0)
    work.may_go_on.set()
    assert [0, 2, 4, 6, 8, 10, 12] == await asyncio.gather(*waiting)
    assert [[0], [1, 2, 3, 4], [5, 6]] == work.batches


async def test_a_failed_batch_fails_for_its_own_and_the_next_goes_on() -> None:
    """An error reaches everybody of its batch, and nobody else."""
    work = Work()
    work.may_go_on.set()
    batcher = Batcher(work, batch_size_max=2)
    results = await asyncio.gather(*(batcher.do(n) for n in (-1, 1, 2, 3)), return_exceptions=True)
    assert ["negative", "negative", "4", "6"] == [str(result) for result in results]


async def test_who_waits_behind_a_batch_without_an_answer_is_told_at_once() -> None:
    """After a time-out those who wait get it too: they would wait as long again. Whoever comes later is tried."""
    began, all_wait, answers = asyncio.Event(), asyncio.Event(), False
    batches: list[list[int]] = []

    async def silent(numbers: Sequence[int]) -> list[int]:
        batches.append(list(numbers))
        if not answers:
            began.set()
            await all_wait.wait()
            raise TimeoutError
        return list(numbers)

    async def say_so() -> None:
        all_wait.set()

    batcher = Batcher(silent)
    first = asyncio.create_task(batcher.do(0))
    await began.wait()
    *others, _ = await asyncio.gather(*(batcher.do(n) for n in (1, 2, 3)), say_so(), return_exceptions=True)
    assert [TimeoutError] * 3 == [type(one) for one in others]
    with pytest.raises(TimeoutError):
        await first
    answers = True
    assert 5 == await batcher.do(5)
    assert [[0], [5]] == batches, "those who waited behind it were not tried"


async def test_who_hangs_up_does_not_disturb_the_others() -> None:
    """A cancelled caller loses its result; its batch goes on."""
    work = Work()
    batcher = Batcher(work)
    gone, stays = asyncio.create_task(batcher.do(1)), asyncio.create_task(batcher.do(2))
    await asyncio.sleep(0)
    gone.cancel()
    work.may_go_on.set()
    assert 4 == await stays


async def test_too_many_waiting_are_refused() -> None:
    """The queue is bounded: one more is told at once."""
    work = Work()
    batcher = Batcher(work, waiting_max=2)
    waiting = [asyncio.create_task(batcher.do(n)) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await asyncio.gather(*(batcher.do(n) for n in range(3)))
    work.may_go_on.set()
    await asyncio.gather(*waiting, return_exceptions=True)
