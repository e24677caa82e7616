"""A transaction as the database's owner, who alone may change its schema, roles and logins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from alembic import op
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url

COMMAND_TIMEOUT_S: Final = 24 * 3600
"""Enough for a change of a large table."""

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

    Raises `ValueError` for a URL that can't be read. The session's settings do not depend on the owner's defaults, and
    statements have no time limit. Alembic's version table is in `public`, or in the schema `VERSIONS` for an owner who
    may not create tables in `public`.
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
    """Run the statements of a migration unchanged on alembic's connection: the driver knows no `:name` parameters."""
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


_RIGHTS: Final = """
    SELECT format('GRANT %s ON {name} TO %s', granted.privilege_type,
        CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END) AS statement
    FROM pg_class AS class CROSS JOIN aclexplode(class.relacl) AS granted
    WHERE class.oid = '{name}'::regclass AND granted.grantee <> class.relowner
    UNION ALL SELECT format('COMMENT ON VIEW {name} IS %L', comment) FROM obj_description('{name}'::regclass) AS comment
    WHERE comment IS NOT NULL"""


def replace_view(connection: Connection, name: str, query: str) -> None:
    """Give a view another query, by its name (`audit.orders`): the view keeps its comment and who may use it.

    Rights on single columns, grant options and the view's own options are lost: give them again where there are any.
    In a migration: `replace_view(op.get_bind(), "audit.orders", "SELECT ...")`. The new query may leave out columns, or
    order them anew, which `CREATE OR REPLACE VIEW` refuses; so `upgrade` and `downgrade` are written alike. Raises what
    the driver raises, such as for a view that another one is made from: replace both, the outer one last.
    """
    replace_views(connection, {name: query})


def replace_views(connection: Connection, queries: Mapping[str, str], between: Iterable[str] = ()) -> None:
    """Give views other queries, like `replace_view`; no view is there while the statements `between` run."""
    kept = [line for name in queries for line in connection.exec_driver_sql(_RIGHTS.format(name=name)).scalars()]
    drops = (f"DROP VIEW {name}" for name in queries)
    creates = (f"CREATE VIEW {name} AS {query}" for name, query in queries.items())
    for statement in (*drops, *between, *creates, *kept):
        connection.exec_driver_sql(statement)
