"""The local stack: what runs, in which order, with which settings.

PostgreSQL and the broker start first, then `migrate` and `topics` run, the sample data are loaded, and the services
start, each with a database login of its own. One folder has everything: data, secrets, logs, and `stack.json`, which
says what runs. Given the address of a Kafka or a PostgreSQL, the stack uses that one and starts only the rest. It must
never touch a process or a folder that is not its own; a lock prevents two stacks in one folder.
"""

import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import signal
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias
from urllib.parse import urlsplit

from rich.console import Console

from contracts.topics import TOPICS
from local_stack import broker
from local_stack.errors import StackError
from local_stack.files import secret, write_private
from local_stack.ports import free_ports, kept_ports, require_free
from local_stack.postgres import Postgres
from local_stack.probes import http_ready
from local_stack.processes import run_to_end, side_by_side
from local_stack.supervisor import ProcessSpec, Supervisor

SERVICES = ("balance", "assets", "orchestrator", "api", "webhooks")
REPLACEABLE = ("balance", "assets")
"""Services that another team may run in the place of ours."""
LOGINS = (*SERVICES, "auditor")
LOGIN_PREFIX = "order_saga_"
"""What the names of our logins begin with: a server has one set of logins for all its databases."""
FIXED_PORTS: Mapping[str, int] = {
    "api": 8000, "orchestrator": 8001, "balance": 8002, "assets": 8003, "webhooks": 8006, "broker": 9092,
}  # fmt: skip
SEALING = ("api", "webhooks")
"""The services that have the key of webhooks' secrets, and the networks that they may go to."""
LOOPBACK = "127.0.0.0/8,::1/128"
"""A receiver on this machine may be told."""
SESSION_TIMEOUT_S = 6
EMBEDDED_FETCH_WAIT_MS = "5"
"""An idle consumer waits ten times as long: `fetch_wait`."""

LoadSamples: TypeAlias = Callable[[Mapping[str, str]], Awaitable[None]]
"""Load sample data, given the database address of each login."""

_BROKER_LOST = (
    "the embedded broker keeps everything in memory, so the whole stack starts again: "
    "orders placed by REST survive and go on, Kafka messages that nobody had read are lost"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What differs between `make run`, the demo and tests.

    `ports`: a port for each service, for `broker` and for `postgres`; one that is not named is chosen among the free
    ones, once, and kept in the folder. `time_scale` multiplies the saga's patience. `environment`: further settings for
    all services; `environment_of`: for one process, by its name (`api`, `api-2`). `replicas`: how many of a service,
    where not one (Apache Kafka only: the embedded broker has one member a group). `without`: services of `REPLACEABLE`
    that the user runs; `ledger_views`: the schema of such a ledger's views. The services' names are appended to
    `command`. `pause_max_s`: the longest pause before a service that keeps ending is restarted.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    time_scale: float = 1.0
    load_samples: LoadSamples | None = None
    database_url: str | None = None
    kafka_bootstrap_servers: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    ledger_views: str = ""
    command: Sequence[str] = (sys.executable, "-m", "operations.cli")
    pause_max_s: float = 5.0


def login_password(owner_password: str, login: str) -> str:
    """Derive a login's password from the owner's: stacks that share a server share its logins, and need the same."""
    return hmac.new(owner_password.encode(), login.encode(), hashlib.sha256).hexdigest()


class LocalStack:
    """The whole system in `folder`, running inside `async with`; entering raises `StackError` when it cannot run."""

    def __init__(self, folder: Path, options: StackOptions | None = None, console: Console | None = None) -> None:
        self.folder = folder.absolute()
        self.options = options or StackOptions()
        self._chosen_ports = kept_ports(self.folder / "ports.json", (*SERVICES, "broker", "postgres"))
        ports = self._chosen_ports | dict(self.options.ports)
        self.ports = {name: port for name, port in ports.items() if name not in self.options.without}
        self.database_url = self.options.database_url or ""
        self.kafka_bootstrap_servers = self.options.kafka_bootstrap_servers or ""
        self._console = console or Console(quiet=True)
        self._postgres = Postgres(self.folder / "postgres", self.ports["postgres"])
        self._supervisor = self._new_supervisor()
        self._guard: asyncio.Task[None] | None = None
        self._lock: IO[str] | None = None

    @property
    def api_url(self) -> str:
        """Where the API listens."""
        return f"http://127.0.0.1:{self.ports['api']}"

    @property
    def jwt_secret(self) -> str:
        """The secret that tokens for this stack are signed with (HS256)."""
        return secret(self._jwt_secret_file)

    @property
    def webhooks_keys(self) -> str:
        """The key that seals the secrets of webhooks (Fernet)."""
        return urlsafe_b64encode(hashlib.sha256(secret(self.folder / "webhooks_secret").encode()).digest()).decode()

    @property
    def pids(self) -> dict[str, list[int]]:
        """The process ids by process name, at this moment; the first replica first."""
        found: dict[str, list[int]] = {}
        for name, pids in self._supervisor.pids.items():
            found.setdefault(name.partition("-")[0], []).extend(pids)
        return found

    @property
    def logins(self) -> dict[str, str]:
        """The database address of each service and of the auditor, each with its own login."""
        return {login: self._login_url(login) for login in LOGINS}

    @property
    def logs(self) -> Path:
        """The folder with a log file for each process."""
        return self.folder / "logs"

    async def __aenter__(self) -> Self:
        try:
            self._take_folder()
            for purpose, port in self.options.ports.items():
                if purpose in self.ports and not (purpose == "broker" and self.options.kafka_bootstrap_servers):
                    require_free(port, purpose)
            write_private(self.folder / "ports.json", json.dumps(self._chosen_ports) + "\n")
            await self._bring_up()
        except BaseException:
            await self._bring_down()
            raise
        self._guard = asyncio.create_task(self._start_again_without_broker(), name="guard of the broker")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)  # `run` has raised its error
        await self._bring_down()

    async def remove(self) -> None:
        """Remove the folder of a stack that has ended, and what lies outside of it."""
        await self._postgres.remove(self.logs)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def run(self) -> None:
        """Wait for ever; raise `StackError` if the whole stack had to restart and could not."""
        if self._guard is not None:
            await asyncio.shield(self._guard)

    def describe(self) -> dict[str, Any]:
        """Return what `stack.json` says. It holds secrets, as the file does (0600)."""
        return {
            "api": self.api_url,
            "database_url": self.database_url,
            "kafka_bootstrap_servers": self.kafka_bootstrap_servers,
            "processes": self.pids,
            "supervisor": os.getpid(),
            "ports": self.ports,
            "logins": self.logins,
            "jwt_secret_file": str(self._jwt_secret_file),
            "webhooks_secret_file": str(self.folder / "webhooks_secret"),
            "logs": str(self.logs),
            "time_scale": self.options.time_scale,
            "ledger_views": self.options.ledger_views,
            "environment": dict(self.options.environment),
        }

    def service(self, name: str, number: int) -> ProcessSpec:
        """Say how to run a process of a service: the first one (0) on the service's port, others on a free one."""
        port = free_ports(1)[0] if number else self.ports[name]
        shared = self._environment()
        own = {"DATABASE_URL": self._login_url(name), "HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(port)}
        if name == "api":
            own["JWT_SECRET"] = self.jwt_secret
            if shared.get("NOTIFY_SMTP_URL"):  # a setting of `webhooks`, which says whether there is a relay
                own["API_NOTIFY_EMAIL"] = shared.get("API_NOTIFY_EMAIL") or "true"
        if name in SEALING:
            own["WEBHOOKS_KEYS"] = self.webhooks_keys
            own["WEBHOOKS_ALLOW_NETWORKS"] = LOOPBACK
        process = f"{name}-{number + 1}" if number else name
        return ProcessSpec(
            name=process,
            argv=[*self.options.command, name],
            ready=http_ready(port),
            env=shared | own | dict(self.options.environment_of.get(process, {})),
        )

    @property
    def _jwt_secret_file(self) -> Path:
        return self.folder / "jwt_secret"

    @property
    def _state_file(self) -> Path:
        return self.folder / "stack.json"

    def _new_supervisor(self) -> Supervisor:
        return Supervisor(self.logs, say=self._warn, changed=self._write_state, pause_max_s=self.options.pause_max_s)

    def _take_folder(self) -> None:
        """Lock the folder for this process; the system releases the lock when the process ends."""
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StackError(f"another local stack runs in {self.folder}: stop it, or choose another folder") from None
        self._lock = lock
        self._state_file.unlink(missing_ok=True)  # it is of a stack that was killed

    async def _bring_up(self) -> None:
        with self._step("PostgreSQL and broker"):
            await self._start_backends()
        with self._step("database schema and topics"):
            await side_by_side(*(self._run_command(name) for name in ("migrate", "topics")))
        if self.options.load_samples is not None:
            with self._step("sample data"):
                await self.options.load_samples(self.logins)
        with self._step("services"):
            replicas = {name: range(self.options.replicas.get(name, 1)) for name in SERVICES if name in self.ports}
            specs = [self.service(name, number) for name, numbers in replicas.items() for number in numbers]
            await self._supervisor.start(*specs)
        self._write_state()

    async def _bring_down(self) -> None:
        await self._supervisor.stop()
        if self._lock is not None:  # else the folder is another stack's
            self._state_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    async def _start_again_without_broker(self) -> None:
        while True:
            await self._supervisor.lost()
            self._warn(_BROKER_LOST)
            await self._supervisor.stop()
            self._supervisor = self._new_supervisor()
            await self._bring_up()

    async def _start_backends(self) -> None:
        embedded: list[ProcessSpec] = []
        if not self.options.database_url:
            await self._postgres.prepare(self.logs)
            if place := self._postgres.outside:
                self._warn(
                    f"PostgreSQL's user can't reach {self.folder}, and this root can't let it: its data are in {place}"
                )
            self.database_url = self._postgres.database_url
            embedded.append(self._postgres.spec())
        if not self.options.kafka_bootstrap_servers:
            prefix = self._environment().get("KAFKA_TOPIC_PREFIX", "")
            topics = {f"{prefix}{topic.name}": topic.partitions for topic in TOPICS}
            embedded.append(broker.process_spec(self.ports["broker"], topics))
        await self._supervisor.start(*embedded)
        if not self.options.kafka_bootstrap_servers:
            self.kafka_bootstrap_servers = f"127.0.0.1:{self.ports['broker']}"

    async def _run_command(self, name: str) -> None:
        """Run `migrate` or `topics` as the owner of the database; `migrate` also sets the passwords of the logins."""
        passwords = {f"{login.upper()}_DB_PASSWORD": self._login_password(login) for login in LOGINS}
        environment = self._environment() | {"DATABASE_URL": self.database_url, "DB_LOGIN_PREFIX": LOGIN_PREFIX}
        await run_to_end(name, [*self.options.command, name], self.logs, env=environment | passwords)

    def _environment(self) -> dict[str, str]:
        """Return what all services share: our environment, less settings for another Kafka or database."""
        foreign = ["JWT_"]
        foreign += [] if self.options.kafka_bootstrap_servers else ["KAFKA_"]
        foreign += [] if self.options.database_url else ["PG"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(tuple(foreign))}
        stack = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers,
            "KAFKA_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
            "ORDER_SAGA_TIME_SCALE": f"{self.options.time_scale:g}",
        }
        if not self.options.kafka_bootstrap_servers:
            # The embedded broker holds an empty fetch for its whole time, even when a record comes meanwhile.
            stack["KAFKA_FETCH_MAX_WAIT_MS"] = EMBEDDED_FETCH_WAIT_MS
        return inherited | stack | dict(self.options.environment)

    def _login_url(self, login: str) -> str:
        parts = urlsplit(self.database_url)
        server = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{LOGIN_PREFIX}{login}:{self._login_password(login)}@{server}").geturl()

    def _login_password(self, login: str) -> str:
        return login_password(urlsplit(self.database_url).password or secret(self.folder / "login_secret"), login)

    def _write_state(self) -> None:
        write_private(self._state_file, json.dumps(self.describe(), indent=2) + "\n")

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(f"{what} ..."):
            yield
        self._console.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)

    def _warn(self, text: str) -> None:
        self._console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def up(folder: Path, options: StackOptions, on_ready: Callable[[LocalStack], None], console: Console) -> int:
    """Run the stack until Ctrl-C or SIGTERM; return the exit code: 0, or 1 after one line that says what is wrong."""

    async def serve() -> None:
        async with LocalStack(folder, options, console) as stack:
            on_ready(stack)
            await stack.run()

    async def serve_until_signal() -> None:
        serving = asyncio.create_task(serve())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        await serving

    try:
        asyncio.run(serve_until_signal())
    except (StackError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped")
    return 0
