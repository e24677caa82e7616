"""Behind PgBouncer, session pooling works, and transaction pooling is refused in one line."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from local_stack.ports import free_ports
from saga_kit.runtime.database import check_sessions, create_engine, final_cause, ping
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.session import SETTINGS
from tests.support.infrastructure import Infrastructure

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


def _configured(url: str, pool_mode: str, port: int) -> Path:
    """Write PgBouncer's configuration where its own account can read it, because it refuses to run as root."""
    there, folder = urlsplit(url), Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "users").write_text(f'"{there.username}" "{there.password}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={there.hostname} port={there.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = plain\n"
        f"auth_file = {folder}/users\npool_mode = {pool_mode}\nunix_socket_dir =\n"
    )
    return folder


@asynccontextmanager
async def pooled(url: str, pool_mode: str) -> AsyncIterator[str]:
    """Run PgBouncer with its defaults before a server; return the address of the same database through it."""
    if PGBOUNCER is None:
        pytest.skip("needs PgBouncer (Debian: pgbouncer)")
    there, [port] = urlsplit(url), free_ports(1)
    folder = _configured(url, pool_mode, port)
    account = {"user": "nobody"} if os.geteuid() == 0 else {}
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER, "-q", str(folder / "ini"), stderr=asyncio.subprocess.DEVNULL, **account  # type: ignore[arg-type]  # asyncio's stub knows no user
    )  # fmt: skip
    address = there._replace(netloc=f"{there.username}:{there.password}@127.0.0.1:{port}").geturl()
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    await (await asyncpg.connect(address, statement_cache_size=0)).close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield address
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(folder)


async def test_a_pooler_with_a_session_for_each_client_works(infrastructure: Infrastructure) -> None:
    """PgBouncer refuses or ignores settings at the connection's start, so the engine sets them afterwards."""
    async with pooled(infrastructure.database_url_admin, "session") as address:
        engine = create_engine(parse_database_url(address), application_name="pooled", pool_size=3)
        await check_sessions(engine)
        await ping(engine)
        async with engine.connect() as connection:
            shown = {
                name: (await connection.exec_driver_sql(f"SHOW {name}")).scalar_one()
                for name in ("application_name", *SETTINGS)
            }
        await engine.dispose()

    assert {"application_name": "pooled", **SETTINGS} == shown


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_sessions_is_refused_in_one_line(
    infrastructure: Infrastructure, pool_mode: str
) -> None:
    """The line names the setting that makes it work, and the cause is one that waiting does not change."""
    async with pooled(infrastructure.database_url_admin, pool_mode) as address:
        engine = create_engine(parse_database_url(address), application_name="pooled", pool_size=3)
        with pytest.raises(Exception, match=r"pool|prepared|transaction") as refused:
            await check_sessions(engine)
        await engine.dispose()

    assert "set pool_mode = session" in (final_cause(refused.value) or "")
