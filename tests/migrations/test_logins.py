"""Roles belong to a whole cluster: what happens to them is tried on one of its own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

import migrations
from migrations.logins import GROUPS, scram_verifier
from tests.migrations.support import connected
from tests.support.infrastructure import LOGINS, Database, login_passwords, own_postgres

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
    assert [f"order_saga_{login}" for _ in databases for login in LOGINS] == [
        await _who(one.url_of(login)) for one in databases for login in LOGINS
    ]

    await asyncio.gather(*(asyncio.to_thread(_set_up, one.url) for one in databases for _ in range(2)))
    await asyncio.to_thread(migrations.create_logins, databases[0].url, {"api": "späße ½"})
    with pytest.raises(asyncpg.InvalidPasswordError):
        await _who(databases[1].url_of("api"))
    connection = await asyncpg.connect(databases[1].url, user="order_saga_api", password="späße ½")
    await connection.close()


async def _tenant(cluster_url: str, rights: str) -> str:
    """Make an owner without a superuser's rights; return the address of a database that it may use."""
    [password] = login_passwords(cluster_url, "tenant").values()
    async with connected(cluster_url) as administrator:
        await administrator.execute(f"CREATE ROLE tenant LOGIN CREATEROLE PASSWORD '{password}'")
    database = await _database(cluster_url, "system", owner="tenant" if rights == "owner" else "owner")
    if rights != "owner":
        async with connected(cluster_url) as administrator:
            await administrator.execute(f"GRANT {rights} ON DATABASE system TO tenant")
    server = database.url.rpartition("@")[2]
    return f"postgresql://tenant:{password}@{server}"


@pytest.mark.parametrize("rights", ["owner", "CREATE"])
async def test_an_owner_who_is_no_superuser_sets_up_a_cluster(cluster_url: str, rights: str) -> None:
    """CREATEROLE with an own database, or with CREATE on another, is enough: managed servers give no more."""
    url = await _tenant(cluster_url, rights)

    for _ in range(2):
        await asyncio.to_thread(migrations.upgrade, url, logins=login_passwords(url))

    assert migrations.known()[-1] == await asyncio.to_thread(migrations.current, url)
    assert [f"order_saga_{login}" for login in LOGINS] == [await _who(Database(url).url_of(login)) for login in LOGINS]
    async with connected(url) as owner:
        assert 0 == await owner.fetchval("SELECT count(*) FROM orders.orders")
    await asyncio.to_thread(migrations.downgrade, url, "base")


async def test_logins_that_could_not_connect_are_named(cluster_url: str) -> None:
    """Where the public may not connect and we can't grant it, the error says what the database's owner must do."""
    url = await _tenant(cluster_url, "CREATE, CONNECT")
    async with connected(cluster_url) as administrator:
        await administrator.execute("REVOKE CONNECT ON DATABASE system FROM PUBLIC")

    with pytest.raises(ValueError, match=r"'order_saga_api' may not connect .* GRANT CONNECT ON DATABASE"):
        await asyncio.to_thread(migrations.upgrade, url, logins=login_passwords(url))

    assert (None, []) == (await asyncio.to_thread(migrations.current, url), await _ours(cluster_url))


async def _ours(cluster_url: str) -> list[str]:
    async with connected(cluster_url) as administrator:
        rows = await administrator.fetch("SELECT rolname FROM pg_roles WHERE rolname ~ '^(order_)?saga_' ORDER BY 1")
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("order_saga_api LOGIN PASSWORD 'theirs'", "'order_saga_api' exists and is somebody else's"),
        ("order_saga_api SUPERUSER LOGIN PASSWORD 'theirs'", "'order_saga_api' exists and is an administrator's"),
        ("saga_api LOGIN PASSWORD 'theirs'", "'saga_api' exists and is not ours"),
    ],
)
async def test_nothing_is_done_when_a_role_is_somebody_elses(cluster_url: str, role: str, words: str) -> None:
    """No schema, group or login is made, the role keeps its password; the command ends with one line and exit 2."""
    async with connected(cluster_url) as administrator:
        await administrator.execute(f"CREATE ROLE {role}")
    database = await _database(cluster_url, "system")

    passwords = dict.fromkeys((f"{login.upper()}_DB_PASSWORD" for login in LOGINS), "ours")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "operations.cli", "migrate"),
        cwd=ROOT,
        env={**os.environ, **passwords, "DATABASE_URL": database.url},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()

    assert 2 == process.returncode
    [line] = said.decode().splitlines()
    assert "nothing was changed" in line
    assert words in line
    name = role.partition(" ")[0]
    assert ([name], None) == (await _ours(cluster_url), await asyncio.to_thread(migrations.current, database.url))
    connection = await asyncpg.connect(cluster_url, user=name, password="theirs")
    await connection.close()


async def test_a_login_of_another_application_is_left_alone(cluster_url: str) -> None:
    """Roles called `api` and `balance` are left alone; a prefix that gives our logins these names is refused."""
    async with connected(cluster_url) as administrator:
        await administrator.execute("CREATE ROLE api LOGIN PASSWORD 'theirs'")
    database = await _database(cluster_url, "system")

    await asyncio.to_thread(_set_up, database.url)
    with pytest.raises(ValueError, match=r"'api' exists and is somebody else's.*DB_LOGIN_PREFIX"):
        await asyncio.to_thread(migrations.upgrade, database.url, logins={"api": "ours"}, prefix="")

    connection = await asyncpg.connect(cluster_url, user="api", password="theirs")
    await connection.close()


async def test_an_installation_with_the_old_names_goes_on(cluster_url: str) -> None:
    """Its logins work while new ones are made, can be kept by an empty prefix, and dropped when nobody uses them."""
    database = await _database(cluster_url, "system")
    await asyncio.to_thread(migrations.upgrade, database.url)
    async with connected(cluster_url) as administrator:
        for login, group in GROUPS.items():  # as versions before made them
            await administrator.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'old'")
            await administrator.execute(f"GRANT {group} TO {login} WITH INHERIT TRUE, SET FALSE")

    await asyncio.to_thread(migrations.upgrade, database.url, logins=login_passwords(database.url))
    await asyncio.to_thread(migrations.upgrade, database.url, logins={"balance": "kept"}, prefix="")

    for user, password in (("api", "old"), ("balance", "kept")):
        connection = await asyncpg.connect(database.url, user=user, password=password)
        await connection.close()
    assert "order_saga_api" == await _who(database.url_of("api"))
    async with connected(database.url) as administrator:
        await administrator.execute("DROP ROLE orchestrator, api, balance, assets, auditor")


@pytest.mark.parametrize(
    ("passwords", "prefix", "words"),
    [
        ({"root": "x"}, "order_saga_", "'root' is no service's login"),
        ({"api": ""}, "order_saga_", "order_saga_api needs a password"),
        ({"api": "x"}, "Order-", "'Order-' is no prefix"),
    ],
)
def test_wrong_logins_are_refused_before_anything_is_done(passwords: dict[str, str], prefix: str, words: str) -> None:
    """Names and passwords are checked before a connection is made."""
    with pytest.raises(ValueError, match=words):
        migrations.create_logins("postgresql://nobody@127.0.0.1:1/nowhere", passwords, prefix)


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
