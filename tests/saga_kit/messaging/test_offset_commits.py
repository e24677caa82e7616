"""Offsets are committed beside the work: one commit covers all finished batches, and a failed commit is repeated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from saga_kit.messaging import offset_commits
from saga_kit.messaging.offset_commits import OffsetCommits
from saga_kit.messaging.poller import Poller
from tests.saga_kit.support import FakeRecord


class Consumer:
    """A fake consumer that fails a number of commits and records the others."""

    def __init__(self, fails: int) -> None:
        self._fails = fails
        self.tries = 0
        self.tried, self.done = asyncio.Event(), asyncio.Event()
        self.committed: list[dict[Any, int]] = []

    def assignment(self) -> set[Any]:
        """Return the one partition."""
        return {("t", 0)}

    async def commit(self, offsets: dict[Any, int]) -> None:
        """Commit or fail."""
        self.tries += 1
        self.tried.set()
        if self.tries <= self._fails:
            raise OSError("away")
        self.committed.append(offsets)
        self.done.set()


def _moved(consumer: Consumer, records: int) -> OffsetCommits:
    poller = Poller()
    poller.handled([FakeRecord("t", 0, offset) for offset in range(records)])
    commits = OffsetCommits(poller)
    commits.request(consumer, [])
    return commits


async def test_a_commit_that_failed_is_tried_again_although_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed commit is repeated without new records; otherwise an idle topic would show a lag for ever."""
    monkeypatch.setattr(offset_commits, "COMMIT_AGAIN_S", 0.01)
    consumer = Consumer(fails=2)
    commits = _moved(consumer, 5)
    async with asyncio.timeout(30):
        await consumer.done.wait()
    assert [{("t", 0): 5}] == consumer.committed
    await commits.close()
    assert 3 == consumer.tries


async def test_closing_tries_once_more_and_no_longer() -> None:
    """Closing tries one last commit and then ends, also when the broker stays unavailable."""
    consumer = Consumer(fails=99)
    commits = _moved(consumer, 5)
    async with asyncio.timeout(30):
        await consumer.tried.wait()
        await commits.close()
    assert 2 == consumer.tries


async def test_closing_tries_again_when_the_commit_under_way_fails() -> None:
    """Closing tries again after the running commit fails at once, as in a rebalance."""
    consumer = Consumer(fails=1)
    real, closing = consumer.commit, asyncio.Event()

    async def commit(offsets: dict[Any, int]) -> None:
        consumer.tried.set()
        await closing.wait()
        await real(offsets)

    consumer.commit = commit  # type: ignore[method-assign]
    commits = _moved(consumer, 5)
    await consumer.tried.wait()
    asyncio.get_running_loop().call_later(0.05, closing.set)
    await commits.close()
    assert [{("t", 0): 5}] == consumer.committed


async def test_closing_does_not_wait_for_a_commit_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing ends in time although the broker is frozen and no commit gets an answer."""
    monkeypatch.setattr(offset_commits, "CLOSE_TIMEOUT_S", 0.1)
    consumer = Consumer(fails=0)

    async def commit(offsets: dict[Any, int]) -> None:  # noqa: ARG001 - required by its signature
        consumer.tried.set()
        await asyncio.Event().wait()

    consumer.commit = commit  # type: ignore[method-assign]
    commits = _moved(consumer, 5)
    async with asyncio.timeout(30):
        await consumer.tried.wait()
        commits.request(consumer, [])
        await commits.close()
