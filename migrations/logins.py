"""The services' logins: each is a member of one group role, and the migrations grant the rights of the groups.

Roles belong to the whole cluster, and other applications have roles in it. So a login's name begins with a prefix, and
an existing role gets a new password only if it is in its group already: any other role is not ours. Several databases
of a cluster may create the same login at the same time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import re
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from migrations.owner import transaction

GROUPS: Final = {
    "orchestrator": "saga_orders",
    "api": "saga_api",
    "balance": "saga_balances",
    "assets": "saga_assets",
    "webhooks": "saga_webhooks",
    "auditor": "saga_auditor",
}
"""The services that log in, and the group of each."""

PREFIX: Final = "order_saga_"
"""What the names of logins begin with by default."""
ATTEMPTS: Final = 20
_PREFIX_SHAPE: Final = re.compile(r"([a-z_][a-z0-9_]{0,39})?")
_SCRAM_ROUNDS: Final = 4096
# Another transaction made or changed the same role meanwhile: duplicate_object, unique_violation, and internal_error,
# by which ALTER ROLE says "tuple concurrently updated".
_RACED: Final = frozenset({"42710", "23505", "XX000"})

_ROLES = """
SELECT rolname::text AS name, rolcanlogin AS can_login,
    rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolname = current_user AS mighty,
    ARRAY(SELECT grouped.rolname::text FROM pg_auth_members JOIN pg_roles AS grouped ON grouped.oid = roleid
          WHERE member = role.oid) AS groups
FROM pg_roles AS role WHERE rolname = ANY ($1::text[])"""
_MAY_NOT_CONNECT = """
SELECT name FROM unnest($1::text[]) AS name
WHERE NOT has_database_privilege(name, current_database(), 'CONNECT')"""


def check_logins(passwords: Mapping[str, str], prefix: str = PREFIX) -> None:
    """Check names and passwords before anything is done; raises `ValueError`."""
    if _PREFIX_SHAPE.fullmatch(prefix) is None:
        raise ValueError(f"{prefix!r} is no prefix for logins: at most 40 of a-z, 0-9 and _, and no digit first")
    if wrong := sorted(passwords.keys() - GROUPS.keys()):
        raise ValueError(f"{wrong[0]!r} is no service's login: they are {', '.join(GROUPS)}")
    if empty := [name for name, password in passwords.items() if not password]:
        raise ValueError(f"the login {prefix}{empty[0]} needs a password")


def create_logins(database_url: str, passwords: Mapping[str, str], prefix: str = PREFIX) -> None:
    """Make the login of each service, or give the one that exists this password; the migrations must have run.

    A login's name is `prefix` and the service's. Raises `ValueError`, with nothing changed, for what `check_logins`
    refuses and for a role that is not ours.
    """
    check_logins(passwords, prefix)

    async def create() -> None:
        async with transaction(database_url) as connection:
            await put_logins(connection, passwords, prefix)

    asyncio.run(retry_races(create))


async def retry_races(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat a transaction that fails because another database's changed the same role: its lock is not ours."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await work()
        except DBAPIError as error:
            if attempt == ATTEMPTS or getattr(error.orig, "sqlstate", None) not in _RACED:
                raise
            await asyncio.sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311 - it only spreads the attempts
        else:
            return


async def put_logins(connection: AsyncConnection, passwords: Mapping[str, str], prefix: str) -> None:
    """Make or update the logins in a transaction. Raises `ValueError` for a role that is not ours."""
    services = sorted(passwords)  # in one order, so that two can't wait for each other
    names = [prefix + service for service in services]
    there = {row.name: row for row in await connection.exec_driver_sql(_ROLES, (names,))}
    for service in services:
        _check_ours(there.get(prefix + service), GROUPS[service])
    for service, name in zip(services, names, strict=True):
        verb = "ALTER" if name in there else "CREATE"
        await connection.exec_driver_sql(f"{verb} ROLE {name} LOGIN PASSWORD '{scram_verifier(passwords[service])}'")
        await connection.exec_driver_sql(f"GRANT {GROUPS[service]} TO {name} WITH INHERIT TRUE, SET FALSE")
    if may_not_connect := (await connection.exec_driver_sql(_MAY_NOT_CONNECT, (names,))).scalars().first():
        raise ValueError(
            f"the login {may_not_connect!r} may not connect to this database: its owner must"
            f" GRANT CONNECT ON DATABASE ... TO {', '.join(sorted(GROUPS.values()))}"
        )


async def check_groups(connection: AsyncConnection) -> None:
    """Make sure that roles by our groups' names are groups; raises `ValueError` for one that is not a group."""
    for role in await connection.exec_driver_sql(_ROLES, (sorted(GROUPS.values()),)):
        if role.can_login or role.mighty:
            raise ValueError(f"the role {role.name!r} exists and is not ours: it can log in or administrate")


def _check_ours(role: Any, group: str) -> None:
    if role is None:
        return
    if role.mighty:
        raise ValueError(f"the login {role.name!r} exists and is an administrator's, not a service's")
    if group not in role.groups:
        raise ValueError(
            f"the login {role.name!r} exists and is somebody else's: it is no member of {group}; choose other names"
            " by DB_LOGIN_PREFIX"
        )


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores for a password (RFC 5803): the password itself is in no statement and no log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, _SCRAM_ROUNDS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client_key).digest(), server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{stored[0]}${stored[1]}:{stored[2]}"
