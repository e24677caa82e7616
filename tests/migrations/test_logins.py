"""Roles belong to a whole cluster: what happens to them is tried on one of its own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

import migrations
from migrations.logins import scram_verifier
from tests.infrastructure import LOGINS, Database, login_passwords, own_postgres
from tests.migrations.support import connected

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def cluster_url() -> AsyncIterator[str]:
    """Give the administrator's address of a PostgreSQL that has never been migrated."""
    async with own_postgres() as server:
        yield server.address


async def _database(cluster_url: str, name: str, owner: str = "owner") -> Database:
    async with connected(cluster_url) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER {owner}")
    return Database(cluster_url.rpartition("/")[0] + f"/{name}")


async def _who(url: str) -> str:
    async with connected(url) as connection:
        return str(await connection.fetchval("SELECT current_user"))


def _set_up(url: str) -> None:
    migrations.upgrade(url)
    migrations.create_logins(url, login_passwords(url))


async def _in_a_process_of_its_own(url: str) -> int:
    statement = f"from tests.migrations.test_logins import _set_up; _set_up({url!r})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", statement, cwd=ROOT)
    return await process.wait()


async def test_databases_of_one_cluster_are_set_up_at_the_same_instant(cluster_url: str) -> None:
    """Whoever makes a role first, all get it, every login works in every database, and the last password counts."""
    databases = [await _database(cluster_url, f"system_{number}") for number in range(4)]

    assert [0] * 4 == await asyncio.gather(*(_in_a_process_of_its_own(one.url) for one in databases))
    assert [login for _ in databases for login in LOGINS] == [
        await _who(one.url_of(login)) for one in databases for login in LOGINS
    ]

    await asyncio.gather(*(asyncio.to_thread(_set_up, one.url) for one in databases for _ in range(2)))
    await asyncio.to_thread(migrations.create_logins, databases[0].url, {"api": "späße ½"})
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _who(databases[1].url_of("api"))
    connection = await asyncpg.connect(databases[1].url, user="api", password="späße ½")
    await connection.close()


async def test_an_owner_who_is_no_superuser_sets_up_a_cluster(cluster_url: str) -> None:
    """CREATEROLE and a database of one's own are enough for schema, groups and logins."""
    [password] = login_passwords(cluster_url, "tenant").values()
    async with connected(cluster_url) as administrator:
        await administrator.execute(f"CREATE ROLE tenant LOGIN CREATEROLE PASSWORD '{password}'")
    database = await _database(cluster_url, "system", owner="tenant")
    url = database.url_of("tenant")

    await asyncio.to_thread(_set_up, url)
    await asyncio.to_thread(_set_up, url)

    assert list(LOGINS) == [await _who(Database(url).url_of(login)) for login in LOGINS]


async def test_an_administrators_role_is_never_made_a_service_login(cluster_url: str) -> None:
    """When the cluster has an administrator by a service's name, nothing is changed and the error names it."""
    async with connected(cluster_url) as administrator:
        await administrator.execute("CREATE ROLE api SUPERUSER LOGIN PASSWORD 'theirs'")
    database = await _database(cluster_url, "system")
    await asyncio.to_thread(migrations.upgrade, database.url)

    with pytest.raises(ValueError, match="'api' exists"):
        await asyncio.to_thread(migrations.create_logins, database.url, dict.fromkeys(LOGINS, "ours"))

    connection = await asyncpg.connect(cluster_url, user="api", password="theirs")
    assert 0 == await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = 'orchestrator'")
    await connection.close()


@pytest.mark.parametrize(
    ("passwords", "words"), [({"root": "x"}, "'root' is no service's login"), ({"api": ""}, "'api' needs a password")]
)
def test_wrong_logins_are_refused_before_anything_is_done(passwords: dict[str, str], words: str) -> None:
    """Names and passwords are judged before a connection is made."""
    with pytest.raises(ValueError, match=words):
        migrations.create_logins("postgresql://nobody@127.0.0.1:1/nowhere", passwords)


def test_a_verifier_proves_the_password_and_hides_it() -> None:
    """What is sent to the server is what RFC 5803 says, with a salt of its own each time."""
    verifier = scram_verifier("pencil")
    scheme, rest, keys = verifier.split("$")
    rounds, salt = rest.split(":")
    stored_key, _ = keys.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(salted, b"Client Key", "sha256")

    assert ("SCRAM-SHA-256", "4096") == (scheme, rounds)
    assert hashlib.sha256(client_key).digest() == base64.b64decode(stored_key)
    assert verifier != scram_verifier("pencil")
