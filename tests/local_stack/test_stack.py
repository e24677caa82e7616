"""The whole stack starts, describes itself, restarts what ends, and leaves nothing behind."""

import asyncio
import io
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from rich.console import Console

from contracts.topics import TOPICS
from local_stack.errors import StackError
from local_stack.files import secret
from local_stack.ports import free_ports
from local_stack.stack import LOGINS, LOOPBACK, SEALING, SERVICES, LocalStack, StackOptions, up
from tests.local_stack.support import DUMMY_COMMAND, ENVIRONMENT, HERE, eventually, is_gone
from tests.support.signals import heed_ctrl_c

OPTIONS = StackOptions(command=DUMMY_COMMAND)
PROCESSES = ["postgres", "broker", *SERVICES]


async def environment_of(stack: LocalStack, service: str) -> Mapping[str, str]:
    """Ask a dummy service for its environment."""

    def get() -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports[service]}/environment", timeout=30) as answer:
            return json.load(answer)

    environment: Mapping[str, str] = await asyncio.to_thread(get)
    return environment


def recording() -> Console:
    """Make a console whose text can be read afterwards."""
    return Console(file=io.StringIO(), width=500)


def text_of(console: Console) -> str:
    """Return what was printed on it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_it_starts_describes_itself_and_goes(tmp_path: Path) -> None:
    """stack.json has the addresses of what runs, for its owner only; afterwards nothing runs and the file is gone."""
    loaded: list[Mapping[str, str]] = []

    async def load_samples(logins: Mapping[str, str]) -> None:
        loaded.append(logins)

    console = recording()
    async with LocalStack(tmp_path, replace(OPTIONS, load_samples=load_samples), console) as stack:
        state_file = tmp_path / "stack.json"
        state = json.loads(state_file.read_text())
        pids = [pid for [pid] in state["processes"].values()]
        assert state_file.stat().st_mode & 0o777 == 0o600
        assert [is_gone(pid) for pid in pids] == [False] * len(PROCESSES)
        connection = await asyncpg.connect(state["database_url"])
        await connection.close()
        assert loaded == [state["logins"]]
    assert list(state["processes"]) == PROCESSES
    assert (state["api"], state["kafka_bootstrap_servers"]) == (stack.api_url, stack.kafka_bootstrap_servers)
    assert secret(Path(state["jwt_secret_file"])) == stack.jwt_secret
    assert [is_gone(pid) for pid in pids] == [True] * len(PROCESSES)
    assert not state_file.exists()
    steps = ["PostgreSQL and broker", "database schema and topics", "sample data", "services"]
    assert [line.split(" ", 1)[1].rsplit(" ", 2)[0] for line in text_of(console).splitlines()] == steps


async def test_each_service_has_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login of its own for each, the token secret for the API alone, nothing of another Kafka or database."""
    for stray in ("KAFKA_SASL_USERNAME", "JWT_JWKS_URL", "PGSSLMODE"):
        monkeypatch.setenv(stray, "of another system")
    options = replace(OPTIONS, time_scale=0.1, environment={"LOG_LEVEL": "debug", "KAFKA_TOPIC_PREFIX": "mine."})
    async with LocalStack(tmp_path, options) as stack:
        environments = {service: await environment_of(stack, service) for service in SERVICES}
    for service, environment in environments.items():
        assert environment["DATABASE_URL"] == stack.logins[service]
        assert environment["DATABASE_URL"].startswith(f"postgresql://order_saga_{service}:")
        assert environment["KAFKA_BOOTSTRAP_SERVERS"] == stack.kafka_bootstrap_servers
        assert environment["KAFKA_SESSION_TIMEOUT_S"] == "6"
        assert (environment["ORDER_SAGA_TIME_SCALE"], environment["LOG_LEVEL"]) == ("0.1", "debug")
        assert environment.get("JWT_SECRET") == (stack.jwt_secret if service == "api" else None)
        assert {"KAFKA_SASL_USERNAME", "JWT_JWKS_URL", "PGSSLMODE"}.isdisjoint(environment)
        sealing = (stack.webhooks_keys, LOOPBACK) if service in SEALING else (None, None)
        assert sealing == (environment.get("WEBHOOKS_KEYS"), environment.get("WEBHOOKS_ALLOW_NETWORKS"))
        assert [] == [name for name in environment if "NOTIFY" in name]
    assert len(set(stack.logins.values())) == len(LOGINS)


@pytest.mark.parametrize(("said", "allowed"), [(None, "true"), ("", "true"), ("false", "false")])
async def test_with_a_relay_the_api_takes_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, allowed: str
) -> None:
    """Who sets a relay for the process that sends need not tell the API, but may; keys for push go as they are."""
    relay = {"NOTIFY_SMTP_URL": "smtp://localhost:2525?plain", "NOTIFY_FROM": "orders@example.com"}
    of_api = {"API_NOTIFY_PUSH_KEY": "public"} | ({} if said is None else {"API_NOTIFY_EMAIL": said})
    for name, value in (relay | of_api).items():
        monkeypatch.setenv(name, value)
    async with LocalStack(tmp_path, OPTIONS) as stack:
        api, webhooks = [await environment_of(stack, service) for service in SEALING]
    assert (allowed, "public") == (api["API_NOTIFY_EMAIL"], api["API_NOTIFY_PUSH_KEY"])
    assert relay == {name: webhooks[name] for name in relay}


async def test_a_service_of_somebody_elses_is_not_started(tmp_path: Path) -> None:
    """The other services run, the service's port is free, and stack.json names the schema of the ledger's views."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    with socket.create_server(("127.0.0.1", ports["balance"])):
        options = replace(OPTIONS, ports=ports, without=frozenset({"balance"}), ledger_views="wallet_audit")
        async with LocalStack(tmp_path, options) as stack:
            state = stack.describe()
            assert {*PROCESSES} - {"balance"} == {*state["processes"]}
            assert {*SERVICES} - {"balance"} == {*SERVICES} & {*state["ports"]}
            assert "wallet_audit" == state["ledger_views"]


async def test_a_killed_service_is_replaced_in_the_description(tmp_path: Path) -> None:
    """After kill -9 of a service another one answers on the same port, and stack.json knows its process id."""
    console = recording()
    async with LocalStack(tmp_path, OPTIONS, console) as stack:
        [before] = stack.pids["api"]
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: json.loads((tmp_path / "stack.json").read_text())["processes"]["api"] != [before])
        assert (await environment_of(stack, "api"))["HTTP_PORT"] == str(stack.ports["api"])
    assert "api died (Killed); it is started again" in text_of(console)


async def test_a_killed_broker_starts_the_whole_stack_again_and_says_what_that_means(tmp_path: Path) -> None:
    """The broker loses its memory, so all services restart; the database keeps its data."""
    console = recording()
    async with LocalStack(tmp_path, OPTIONS, console) as stack:
        before, address = stack.pids, stack.kafka_bootstrap_servers
        connection = await asyncpg.connect(stack.database_url)
        await connection.execute("create table kept as select 42 as answer")
        await connection.close()
        os.kill(before["broker"][0], signal.SIGKILL)
        await eventually(lambda: list(stack.pids) == PROCESSES and stack.pids["api"] != before["api"])
        await eventually(
            lambda: json.loads((tmp_path / "stack.json").read_text())["processes"].get("api") == stack.pids["api"]
        )
        assert all(stack.pids[name] != before[name] for name in PROCESSES)
        assert (await environment_of(stack, "assets"))["KAFKA_BOOTSTRAP_SERVERS"] == address
        connection = await asyncpg.connect(stack.database_url)
        assert await connection.fetchval("select answer from kept") == 42
        await connection.close()
    assert "Kafka messages that nobody had read are lost" in text_of(console)


async def test_external_kafka_and_postgres_are_used_and_not_started(tmp_path: Path) -> None:
    """Given both addresses, only our services run; stacks that share a server agree on the logins' passwords."""
    options = replace(OPTIONS, database_url="postgresql://me:pw@db:5432/app?x=y", kafka_bootstrap_servers="kafka:9092")
    async with LocalStack(tmp_path / "one", options) as one, LocalStack(tmp_path / "two", options) as two:
        assert list(one.pids) == list(SERVICES)
        assert one.logins == two.logins
        assert one.jwt_secret != two.jwt_secret
        environment = await environment_of(one, "balance")
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    assert environment["DATABASE_URL"].startswith("postgresql://order_saga_balance:")
    assert environment["DATABASE_URL"].endswith("@db:5432/app?x=y")


async def test_the_broker_has_every_topic_of_the_contracts(tmp_path: Path) -> None:
    """With its partitions, and with the prefix that the services put before it."""
    async with LocalStack(tmp_path, replace(OPTIONS, environment={"KAFKA_TOPIC_PREFIX": "mine."})) as stack:
        command = psutil.Process(stack.pids["broker"][0]).cmdline()
    assert command[command.index("--topics") + 1 :] == [f"mine.{topic.name}={topic.partitions}" for topic in TOPICS]


async def test_a_busy_port_is_one_clear_line_before_anything_starts(tmp_path: Path) -> None:
    """The error names the port, its purpose, and the program that uses it."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    with socket.create_server(("127.0.0.1", ports["orchestrator"])):
        stack = LocalStack(tmp_path, replace(OPTIONS, ports=ports))
        with pytest.raises(StackError) as error:
            await stack.__aenter__()
    me = psutil.Process()
    assert str(error.value) == (
        f"port {ports['orchestrator']}, needed for orchestrator, is in use by {me.name()} (process {me.pid}): "
        "stop that, or take other ports with 'make run ARGS=--free-ports' ('order-saga up --free-ports')"
    )
    assert stack.pids == {}


async def test_ports_stay_and_a_busy_one_is_replaced(tmp_path: Path) -> None:
    """The addresses of the broker and the API are the same after the next start, if their ports are free."""
    async with LocalStack(tmp_path, OPTIONS) as stack:
        first, address = stack.ports, stack.kafka_bootstrap_servers
    assert sorted([*SERVICES, "broker", "postgres"]) == sorted(first)
    with socket.create_server(("127.0.0.1", first["assets"])):
        async with LocalStack(tmp_path, OPTIONS) as stack:
            second = stack.ports
            assert address == stack.kafka_bootstrap_servers == f"127.0.0.1:{first['broker']}"
    assert {"assets"} == {name for name, port in first.items() if second[name] != port}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"api": 80, "broker": "x", "assets": null}'])
def test_a_file_of_ports_that_says_nonsense_is_as_none(tmp_path: Path, text: str) -> None:
    """Whatever `ports.json` contains, a stack has ports."""
    (tmp_path / "ports.json").write_text(text)
    chosen = LocalStack(tmp_path, OPTIONS).ports
    assert len(PROCESSES) == len({port for port in chosen.values() if 20_000 <= port < 32_000})


async def test_a_folder_has_one_stack(tmp_path: Path) -> None:
    """A second stack in the folder is refused and does the first no harm."""
    async with LocalStack(tmp_path, OPTIONS) as first:
        with pytest.raises(StackError, match="another local stack runs in"):
            await LocalStack(tmp_path, OPTIONS).__aenter__()
        assert json.loads((tmp_path / "stack.json").read_text())["processes"] == first.pids


def test_a_failed_start_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """Whatever fails, `up` prints one line, leaves nothing behind and returns 1."""
    console = recording()
    options = replace(OPTIONS, environment={"DUMMY_FAILS": "migrate"})
    assert up(tmp_path, options, lambda _: None, console) == 1
    assert text_of(console).splitlines()[-1] == (
        f"migrate failed: migrate: it does not work today (log: {tmp_path / 'logs' / 'migrate.log'})"
    )
    assert [child.name() for child in psutil.Process().children() if str(tmp_path) in child.cmdline()] == []


@pytest.mark.parametrize(("wish", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
async def test_whatever_ends_it_nothing_stays(tmp_path: Path, wish: signal.Signals, exit_code: int) -> None:
    """Ctrl-C, SIGTERM and kill -9 of the stack itself: no process of it is left, and the folder can be used again."""
    for _ in range(2):
        stack = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "run_stack.py"), str(tmp_path)),
            env=ENVIRONMENT,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=heed_ctrl_c,
        )
        assert stack.stdout is not None
        assert await stack.stdout.readline() == b"ready\n"
        processes = json.loads((tmp_path / "stack.json").read_text())["processes"]
        stack.send_signal(wish)
        assert await stack.wait() == exit_code
        await stack.communicate()
        pids = [pid for [pid] in processes.values()]
        if wish is not signal.SIGKILL:
            assert [is_gone(pid) for pid in pids] == [True] * len(PROCESSES)
    await eventually(lambda: all(is_gone(pid) for pid in pids))
