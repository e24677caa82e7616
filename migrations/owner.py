"""A transaction as the database's owner, who alone may change its schema, roles and logins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from alembic import op
from sqlalchemy.ext.asyncio import AsyncConnection

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url

COMMAND_TIMEOUT_S: Final = 24 * 3600
"""For a change of a large table."""

VERSIONS: Final = "order_saga_migrations"
_VERSION_SCHEMA: Final = """
    SELECT CASE WHEN EXISTS (
        SELECT FROM pg_namespace AS public WHERE nspname = 'public' AND (
            has_schema_privilege(public.oid, 'CREATE')
            OR EXISTS (SELECT FROM pg_class WHERE relnamespace = public.oid AND relname = 'alembic_version')
        )) THEN 'public' ELSE $1 END"""


@asynccontextmanager
async def transaction(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Connect and begin; commit at the end, or roll back when it is left by an error.

    Raises `ValueError` for a URL that can't be read. What a migration makes does not depend on the owner's defaults,
    and a statement may take its time. The version is kept in `public`, or in `VERSIONS` by an owner who may not create
    anything there.
    """
    engine = create_engine(
        parse_database_url(database_url),
        application_name="migrations",
        pool_size=0,
        command_timeout_s=COMMAND_TIMEOUT_S,
        settings={"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"},
    )
    try:
        async with engine.begin() as connection:
            schema = (await connection.exec_driver_sql(_VERSION_SCHEMA, (VERSIONS,))).scalar_one()
            await connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")
            yield connection
    finally:
        await engine.dispose()


def run(statements: Iterable[str]) -> None:
    """Run the statements of a migration, as they stand, on the connection that alembic works on."""
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)
