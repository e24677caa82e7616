"""The services' logins: each is a member of one group role, and a group's rights are granted by the migrations.

Roles belong to the whole cluster, so several databases of it may create the same login at the same instant.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from migrations.owner import transaction

GROUPS: Final = {
    "orchestrator": "saga_orders",
    "api": "saga_api",
    "balance": "saga_balances",
    "assets": "saga_assets",
    "auditor": "saga_auditor",
}
"""The logins that there are, and the group of each."""

ATTEMPTS: Final = 20
_SCRAM_ROUNDS: Final = 4096
# Another transaction made or changed the same role meanwhile: duplicate_object, unique_violation, and for "tuple
# concurrently updated", which is all that ALTER ROLE says, internal_error.
_RACED: Final = frozenset({"42710", "23505", "XX000"})

_TAKEN = """
SELECT rolname FROM pg_roles
WHERE rolname = ANY ($1::text[]) AND (rolsuper OR rolcreaterole OR rolname = current_user)"""
_MISSING = """
SELECT name FROM unnest($1::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)"""


def create_logins(database_url: str, passwords: Mapping[str, str]) -> None:
    """Make these logins, or give those that exist these passwords, each in its group; the migrations must have run.

    Raises `ValueError` for a name that is not in `GROUPS`, an empty password, and a login that is not a service's:
    the owner's own, or one with an administrator's rights.
    """
    if wrong := sorted(passwords.keys() - GROUPS.keys()):
        raise ValueError(f"{wrong[0]!r} is no service's login: they are {', '.join(GROUPS)}")
    if empty := [name for name, password in passwords.items() if not password]:
        raise ValueError(f"the login {empty[0]!r} needs a password")
    asyncio.run(_until_alone(database_url, passwords))


async def _until_alone(database_url: str, passwords: Mapping[str, str]) -> None:
    """Repeat what another transaction disturbed: advisory locks do not reach beyond one database."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with transaction(database_url) as connection:
                await _create(connection, passwords)
        except DBAPIError as error:
            if attempt == ATTEMPTS or getattr(error.orig, "sqlstate", None) not in _RACED:
                raise
            await asyncio.sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311 - it only spreads the attempts
        else:
            return


async def _create(connection: AsyncConnection, passwords: Mapping[str, str]) -> None:
    names = sorted(passwords)  # in one order, so that two can't wait for each other
    if taken := (await connection.exec_driver_sql(_TAKEN, (names,))).scalars().first():
        raise ValueError(f"the login {taken!r} exists and is an administrator's, not a service's")
    missing = set((await connection.exec_driver_sql(_MISSING, (names,))).scalars())
    for name in names:
        verb = "CREATE" if name in missing else "ALTER"
        await connection.exec_driver_sql(f"{verb} ROLE {name} LOGIN PASSWORD '{scram_verifier(passwords[name])}'")
        await connection.exec_driver_sql(f"GRANT {GROUPS[name]} TO {name} WITH INHERIT TRUE, SET FALSE")


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores for a password (RFC 5803): so the password itself is in no statement and no log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, _SCRAM_ROUNDS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored = [base64.b64encode(part).decode() for part in (salt, hashlib.sha256(client_key).digest(), server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{stored[0]}${stored[1]}:{stored[2]}"
