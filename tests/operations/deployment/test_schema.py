"""Bringing the database to a revision: which way it goes, whatever the revision is called."""

from __future__ import annotations

import asyncio

import pytest

import migrations
from operations.access.errors import WrongRequest
from operations.deployment.schema import Moved, migrate
from tests.support.infrastructure import Database

NEWEST = migrations.known()[-1]
BEFORE, FIRST = migrations.known()[-2], migrations.known()[0]


async def _go(database: Database, revision: str) -> tuple[str | None, str | None]:
    moved: Moved = await asyncio.to_thread(migrate, database.url, revision, {}, "")
    assert moved.after == await asyncio.to_thread(migrations.current, database.url)
    return moved[:2]


async def test_every_name_of_a_revision_leads_to_it(database: Database) -> None:
    """Up and down, by name, by steps, to the end and to nothing; a second time it stays where it is."""
    assert (NEWEST, BEFORE) == await _go(database, "-1")
    assert (BEFORE, NEWEST) == await _go(database, "+1")
    assert (NEWEST, FIRST) == await _go(database, FIRST)
    assert (FIRST, FIRST) == await _go(database, FIRST)
    assert (FIRST, BEFORE) == await _go(database, BEFORE)
    assert (BEFORE, NEWEST) == await _go(database, "heads")
    assert (NEWEST, None) == await _go(database, "base")
    assert (None, None) == await _go(database, "base")
    assert (None, NEWEST) == await _go(database, "head")


@pytest.mark.parametrize("revision", ["9999", "x", "", "+1", "-99"])
async def test_what_is_no_revision_is_refused(database: Database, revision: str) -> None:
    """In words, and nothing changes."""
    with pytest.raises(WrongRequest, match="nothing was changed"):
        await _go(database, revision)
    assert NEWEST == await asyncio.to_thread(migrations.current, database.url)
