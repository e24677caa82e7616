"""Each login can do what its service needs, and is refused everything else: every verb on every table is tried."""

from __future__ import annotations

import secrets
from typing import Final

import asyncpg
import pytest

from tests.migrations.support import SCHEMAS, connected
from tests.support.infrastructure import LOGINS, Database

ALL_SCHEMAS: Final = (*SCHEMAS, "audit", "public")
_RELATIONS = """
    SELECT nspname || '.' || relname AS name, (SELECT attname FROM pg_attribute
        WHERE attrelid = pg_class.oid AND attnum > 0 AND attidentity = '' ORDER BY attnum LIMIT 1) AS attribute
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = ANY ($1) AND relkind IN ('r', 'v') ORDER BY 1"""
_SEQUENCES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'S' AND relnamespace::regnamespace::text = ANY ($1) ORDER BY 1"""

VERBS: Final = {
    "SELECT": "SELECT FROM {name} LIMIT 1",
    "INSERT": "INSERT INTO {name} DEFAULT VALUES",
    "UPDATE": "UPDATE {name} SET {attribute} = {attribute} WHERE false",
    "DELETE": "DELETE FROM {name} WHERE false",
    "TRUNCATE": "TRUNCATE {name}",
    "LOCK": "LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE",
    "ALTER": "ALTER TABLE {name} ADD COLUMN more text",
    "DROP": "DROP TABLE {name}",
}

AUDIT_VIEWS: Final = (
    *("orders", "holds", "accounts", "journal", "history", "versions", "fills", "events_unsent", "claims", "requests"),
    *("questions", "pauses", "repairs", "ledger", "marks", "resting", "fires", "mass_cancels", "cancel_timers"),
    *("service_holds", "webhook_endpoints", "webhook_deliveries", "trouble"),
)
THE_OWNERS: Final = {"public.alembic_version", "orders.repairs"}
"""What no login reaches: operators repair as the database's owner."""
KEEP: Final = {"SELECT", "INSERT"}
CHANGE: Final = {*KEEP, "UPDATE", "LOCK"}  # who may change all rows may lock the table as well
QUEUE: Final = {*CHANGE, "DELETE"}
MAY: Final[dict[str, dict[str, set[str]]]] = {
    "orchestrator": {
        "orders.orders": CHANGE,
        "orders.fills": CHANGE,
        "orders.history": KEEP,
        "orders.pauses": {"SELECT"},
        "orders.archive": {"SELECT"},
        "orders.marks": CHANGE,
        "orders.peaks": QUEUE,
        "orders.trails": QUEUE,
        "orders.resting": QUEUE,
        "orders.dead_letters": CHANGE,
        "orders.outbox": QUEUE,
    },
    "balance": {
        "balances.accounts": CHANGE,
        "balances.holds": CHANGE,
        "balances.holds_archive": {"SELECT"},
        "balances.service_holds": CHANGE,
        "balances.ledger_start": {"SELECT"},
        "balances.journal": KEEP,
        "balances.journal_lines": {"SELECT"},
        "balances.new_lines": {*KEEP, "DELETE", "LOCK"},
        "balances.deposits": KEEP,
        "balances.dead_letters": CHANGE,
        "balances.outbox": QUEUE,
    },
    "assets": {
        "assets.assets": {*KEEP, "LOCK"},
        "assets.prices": CHANGE,
        "assets.sessions": QUEUE,
        "assets.dead_letters": CHANGE,
        "assets.outbox": QUEUE,
    },
    "api": {
        "api.claims": CHANGE,
        "api.cancels": CHANGE,
        "api.amends": CHANGE,
        "api.suspensions": CHANGE,
        "api.requests": KEEP,
        "api.mass_cancels": CHANGE,
        "api.cancel_timers": CHANGE,
        "api.holds": CHANGE,
        "api.hold_requests": CHANGE,
        "api.orders": {"SELECT"},
        "api.history": {"SELECT"},
        "api.versions": {"SELECT"},
        "api.unsent": {"SELECT"},
        "api.prices": {"SELECT"},
        "api.assets": {"SELECT"},
        "api.accounts": {"SELECT"},
        "webhooks.endpoints": QUEUE,
        "webhooks.deliveries": QUEUE,
        "webhooks.requests": KEEP,
        "webhooks.codes": CHANGE,
        "webhooks.attempts": {"SELECT"},
        "webhooks.changes": {"SELECT", "UPDATE", "LOCK"},
    },
    "webhooks": {
        "webhooks.endpoints": {"SELECT", "UPDATE", "LOCK"},
        "webhooks.deliveries": QUEUE,
        "webhooks.attempts": {*KEEP, "DELETE", "LOCK"},
        "webhooks.codes": {"SELECT", "DELETE", "LOCK"},
        "webhooks.changes": {"SELECT", "UPDATE", "LOCK"},
        "webhooks.alarms": CHANGE,
        "webhooks.dead_letters": CHANGE,
        "webhooks.outbox": QUEUE,
        "audit.trouble": {"SELECT"},
    },
    "auditor": {f"audit.{view}": {"SELECT"} for view in AUDIT_VIEWS},
}


async def _refused(connection: asyncpg.Connection, statement: str) -> bool:
    """Try a statement and roll it back; any other error means that it was allowed."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    except (asyncpg.WrongObjectTypeError, asyncpg.ObjectNotInPrerequisiteStateError):
        return True  # a view is no table, and most can't be written
    except asyncpg.IntegrityConstraintViolationError:
        return False
    finally:
        await attempt.rollback()
    return False


@pytest.mark.parametrize("login", LOGINS)
async def test_a_login_may_do_what_its_service_needs_and_no_more(database: Database, login: str) -> None:
    """Every verb is tried on every table and view of every schema."""
    async with connected(database.url) as owner:
        relations = [tuple(row) for row in await owner.fetch(_RELATIONS, ALL_SCHEMAS)]
    known = {name for rights in MAY.values() for name in rights}
    assert known | THE_OWNERS == {name for name, _ in relations}

    allowed: dict[str, set[str]] = {}
    async with connected(database.url_of(login)) as connection:
        for name, attribute in relations:
            for verb, statement in VERBS.items():
                if not await _refused(connection, statement.format(name=name, attribute=attribute)):
                    allowed.setdefault(name, set()).add(verb)

    assert MAY[login] == allowed


@pytest.mark.parametrize("login", LOGINS)
async def test_a_login_has_no_other_way_in(database: Database, login: str) -> None:
    """No login can make things, see passwords, use a sequence, or take another role, not even its group's."""
    async with connected(database.url) as owner:
        sequences = [row[0] for row in await owner.fetch(_SEQUENCES, SCHEMAS)]
    statements = [
        *(f"CREATE TABLE {schema}.mine (x int)" for schema in ALL_SCHEMAS),
        *(f"SELECT nextval('{sequence}')" for sequence in sequences),
        *(f"SET ROLE {role}" for role in ("saga_orders", "saga_api", "saga_balances", "saga_assets", "saga_auditor")),
        *(f"SET ROLE order_saga_{other}" for other in LOGINS if other != login),
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ]
    async with connected(database.url_of(login)) as connection:
        assert [] == [statement for statement in statements if not await _refused(connection, statement)]


async def test_the_public_has_nothing(migrated: Database) -> None:
    """A login that is in no group can't connect, and a member of one can't make temporary tables."""
    stranger = f"stranger_{secrets.token_hex(4)}"
    async with connected(migrated.url) as owner:
        await owner.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD 'test-only'")
        try:
            may_connect = "SELECT has_database_privilege($1, current_database(), 'CONNECT')"
            assert not await owner.fetchval(may_connect, stranger)
            assert not await owner.fetchval("SELECT has_schema_privilege($1, 'public', 'USAGE')", stranger)
        finally:
            await owner.execute(f"DROP ROLE {stranger}")
    async with connected(migrated.url_of("api")) as connection:
        assert await _refused(connection, "CREATE TEMPORARY TABLE mine (x int)")


async def test_groups_cannot_log_in_and_logins_are_ordinary(owner: asyncpg.Connection) -> None:
    """A group is NOLOGIN; a login is in its one group and has no attribute of an administrator."""
    groups = await owner.fetch("SELECT rolcanlogin FROM pg_roles WHERE rolname LIKE 'saga\\_%'")
    assert [(False,)] * 6 == [tuple(row) for row in groups]
    logins = await owner.fetch(
        """
        SELECT rolname::text, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls,
            ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = pg_roles.oid)
        FROM pg_roles WHERE rolname = ANY ($1) ORDER BY 1""",
        [f"order_saga_{login}" for login in LOGINS],
    )
    expected = [
        ("order_saga_api", False, ["saga_api"]),
        ("order_saga_assets", False, ["saga_assets"]),
        ("order_saga_auditor", False, ["saga_auditor"]),
        ("order_saga_balance", False, ["saga_balances"]),
        ("order_saga_orchestrator", False, ["saga_orders"]),
        ("order_saga_webhooks", False, ["saga_webhooks"]),
    ]
    assert expected == [tuple(row) for row in logins]


@pytest.mark.parametrize(
    ("login", "schema"),
    [("orchestrator", "orders"), ("balance", "balances"), ("assets", "assets"), ("webhooks", "webhooks")],
)
async def test_a_service_writes_its_queues(database: Database, login: str, schema: str) -> None:
    """A service's own login can store and delete what it has to send: ids come without a right to their sequence."""
    async with connected(database.url_of(login)) as connection:
        row = await connection.fetchval(
            f"INSERT INTO {schema}.outbox (due_at, available_at, refs, payload) "
            "VALUES (now(), now(), ARRAY['x'], '') RETURNING outbox_id"
        )
        await connection.execute(f"DELETE FROM {schema}.outbox WHERE outbox_id = $1", row)
