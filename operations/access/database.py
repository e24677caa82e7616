"""Connections to the system's database for one operation, and single queries on them."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from operations.access.errors import Trouble, WrongRequest
from saga_kit.runtime.database import FEW_AT_A_TIME, PATIENT_COMMAND_TIMEOUT_S, create_engine
from saga_kit.runtime.dsn import parse_database_url, place
from saga_kit.runtime.errors import DATABASE_ERRORS, KitError, message_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[AsyncEngine]:
    """Connect to a database by its address; raise `Trouble` that names the server when it can't be reached."""
    url = _parse(address)
    engine = create_engine(
        url, application_name="order-saga cli", pool_size=2, command_timeout_s=PATIENT_COMMAND_TIMEOUT_S
    )
    try:
        with naming(url):
            async with engine.connect():
                pass  # the connection goes back to the pool
        yield engine
    finally:
        await engine.dispose()


@contextmanager
def naming(address: URL | str) -> Iterator[None]:
    """Raise `Trouble` that names the database for whatever the database refuses, and when it can't be reached."""
    where = place(_parse(address) if isinstance(address, str) else address)
    try:
        yield
    except DATABASE_ERRORS as error:
        raise Trouble(f"the database at {where} says: {message_of(error)}") from error
    except (OSError, KitError) as error:
        raise Trouble(f"the database at {where} can't be reached: {str(error) or 'no answer'}") from error


def _parse(address: str) -> URL:
    try:
        return parse_database_url(address)
    except ValueError as error:
        raise WrongRequest(f"DATABASE_URL {error}") from None


async def rows(engine: AsyncEngine, statement: str, *arguments: object) -> list[dict[str, Any]]:
    """Run one query with `$1` arguments; a row is a dict by column name."""
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(statement, arguments)
        return [dict(row) for row in result.mappings()]


async def stream(engine: AsyncEngine, statement: str, **arguments: object) -> AsyncIterator[dict[str, Any]]:
    """Run one query with `:named` arguments and read it row by row, however many rows there are."""
    async with engine.connect() as connection:
        result = await connection.stream(text(statement), arguments, execution_options=FEW_AT_A_TIME)
        async for row in result.mappings():
            yield dict(row)
