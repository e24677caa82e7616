"""Fixtures of the local stack's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.local_stack.support import Supervised


@pytest_asyncio.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[Supervised]:
    """Give a supervisor with its logs in a folder of its own, stopped at the end of the test."""
    one = Supervised(tmp_path / "logs")
    yield one
    await one.supervisor.stop()
