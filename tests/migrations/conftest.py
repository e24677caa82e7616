"""Fixtures of the migrations' tests: databases that were made empty and migrated by the test itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest_asyncio

from migrations import create_logins, upgrade
from tests.migrations.support import connected
from tests.support.infrastructure import Database, Infrastructure, drop_database, login_passwords


@pytest_asyncio.fixture
async def empty_url(infrastructure: Infrastructure) -> AsyncIterator[str]:
    """Give the owner's address of a database with nothing in it."""
    admin_url = infrastructure.database_url_admin
    name = f"test_{secrets.token_hex(6)}"
    async with connected(admin_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    yield urlsplit(admin_url)._replace(path=f"/{name}").geturl()
    await drop_database(admin_url, name)


@pytest_asyncio.fixture
async def migrated(empty_url: str) -> Database:
    """Give a database that was migrated, not copied: a copy lacks the rights to connect that a migration grants."""
    await asyncio.to_thread(upgrade, empty_url)
    await asyncio.to_thread(create_logins, empty_url, login_passwords(empty_url))
    return Database(empty_url)


@pytest_asyncio.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the owner to a migrated database."""
    async with connected(database.url) as connection:
        yield connection
