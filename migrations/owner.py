"""A transaction as the database's owner, who alone may change its schema, roles and logins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool


@asynccontextmanager
async def transaction(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Connect and begin; commit at the end, or roll back when it is left by an error."""
    engine = create_async_engine(
        _address(database_url), poolclass=NullPool, connect_args={"server_settings": {"application_name": "migrations"}}
    )
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


def _address(database_url: str) -> URL:
    """Read `postgresql://...`, with or without a driver; raises SQLAlchemy's `ArgumentError` for what is no URL."""
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    if mode := url.query.get("sslmode"):  # libpq's word for what asyncpg calls ssl
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url
