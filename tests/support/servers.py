"""Real servers for tests: Apache Kafka and PostgreSQL in Docker, or the embedded ones where there is no Docker.

A `Server` can be killed and started again with the same data at the same address. A test does that only to servers of
its own (`own_broker`, `own_postgres` in `tests.support.infrastructure`). The embedded broker can't be restarted, since
its data is in memory.
"""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg
import dotenv
import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from docker.errors import DockerException, ImageNotFound
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer, Reaper
from testcontainers.core.docker_client import DockerClient

from local_stack.broker import MockCluster
from local_stack.ports import free_ports
from local_stack.postgres import Postgres
from local_stack.supervisor import Supervisor

T = TypeVar("T")
Probe = Callable[[], Awaitable[None]]

KAFKA_IMAGE = "apache/kafka:4.3.1"
POSTGRES_IMAGE = "postgres:18"
READY_WITHIN_S = 120.0
DEPLOY = Path(__file__).parents[2] / "deploy"

_KAFKA_DATA, _POSTGRES_DATA = "/var/lib/kafka/data", "/var/lib/postgresql"
_SHORT_LIVED_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_KAFKA_START = f"""
test -f {_KAFKA_DATA}/meta.properties || exec "$@"
exec java $KAFKA_HEAP_OPTS -cp '/opt/kafka/libs/*' kafka.Kafka /opt/kafka/config/server.properties
"""
"""Starts as the image does the first time; later it starts the broker on its data without formatting them again."""


class Server(Protocol):
    """A PostgreSQL or a broker that a test can use, kill and restart."""

    @property
    def address(self) -> str:
        """The address for clients: a URL, or `host:port`."""

    @property
    def description(self) -> str:
        """A description for people."""

    @property
    def container_id(self) -> str | None:
        """The container's full id, for Docker's own commands; None without Docker."""

    async def kill(self) -> None:
        """End it as `kill -9` does; return when it is dead."""

    async def start(self) -> None:
        """Start it again after `kill`; return when it answers."""

    async def restart(self) -> None:
        """Stop it in an orderly way and start it; return when it answers."""

    def close(self) -> None:
        """End it for good, with its data."""


@dataclass(frozen=True)
class KafkaSecurity:
    """The security of a broker: its settings, its files by their path, and librdkafka's options."""

    settings: Mapping[str, str] = field(default_factory=lambda: variables(DEPLOY / "broker-plain.env"))
    files: Mapping[str, Path] = field(default_factory=dict)
    client_options: Mapping[str, str] = field(default_factory=dict)


def variables(*files: Path) -> dict[str, str]:
    """Read files of variables one after the other, as compose does; a later one may use those of an earlier one."""
    text = "\n".join(file.read_text() for file in files)
    text = re.sub(r":\?[^}\n]*}", "}", text)  # compose writes `${NAME:?message}` for a variable that must be set
    return {name: value or "" for name, value in dotenv.dotenv_values(stream=StringIO(text)).items()}


class ExternalServer:
    """A server that somebody else runs: tests use it and never stop it."""

    container_id: str | None = None

    def __init__(self, address: str, description: str) -> None:
        self.address, self.description = address, description

    async def kill(self) -> None:
        """Refuse."""
        raise RuntimeError(f"{self.description} is not ours to stop")

    start = restart = kill

    def close(self) -> None:
        """Leave it alone."""


async def _at_once(call: Callable[..., Any], *words: Any, **more: Any) -> Any:
    """Call in a thread of its own: those of the loop may all wait for the very server that is to be started again."""
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, partial(call, *words, **more))


class DockerServer:
    """A container that was started; its ports are chosen by us, because Docker gives new ones at each start."""

    def __init__(
        self, container: DockerContainer, address: str, description: str, probe: Probe, *, inside: str = ""
    ) -> None:
        self._container, self._probe = container, probe
        self.address, self.description = address, description
        self.inside = inside or address
        """The address for tools inside the container."""

    @property
    def container_id(self) -> str | None:
        """The container's full id, for Docker's own commands."""
        return self._container.get_wrapped_container().id

    async def kill(self) -> None:
        """End it as `kill -9` does; return when it is dead."""
        await _at_once(self._container.get_wrapped_container().kill, "SIGKILL")
        await _at_once(self._container.wait)

    async def start(self) -> None:
        """Start it again after `kill`; return when it answers."""
        await _at_once(self._container.get_wrapped_container().start)
        await self.ready()

    async def restart(self) -> None:
        """Stop it in an orderly way and start it; return when it answers."""
        await _at_once(self._container.get_wrapped_container().restart, timeout=30)
        await self.ready()

    async def ready(self) -> None:
        """Return when it answers; raise with the end of its log when it ends or does not answer in time."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return await self._probe()
            except (OSError, asyncpg.PostgresError) as error:
                await _at_once(self._container.reload)
                if self._container.status == "exited" or time.monotonic() > give_up_at:
                    raise RuntimeError(f"{self.description} does not answer: {self._last_words()}") from error
                await asyncio.sleep(0.1)

    def close(self) -> None:
        """Remove the container with its volumes."""
        self._container.stop()

    def _last_words(self) -> str:
        output, errors = self._container.get_logs()
        return (output + errors).decode(errors="replace")[-2000:]


def docker_trouble() -> str | None:
    """Say in one line why Docker cannot be used here; None if it can."""
    with warnings.catch_warnings():  # its client leaves a socket open when no engine answers
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _docker_answers()
        gc.collect()
    return None if answers else "no Docker engine answers (what does 'docker info' say?)"


def prepare_docker() -> None:
    """Start testcontainers' reaper, which cleans up after a killed test run; go on without it where it can't start."""
    if not testcontainers_config.ryuk_disabled:
        try:
            Reaper.get_instance()
        except DockerException:
            testcontainers_config.ryuk_disabled = True


def listening(container: DockerContainer, *ports: int) -> dict[str, Any]:
    """Let clients reach servers that listen on these ports of a container; return more options for Docker.

    On Linux the container shares this machine's network: else Docker's proxy would copy each byte of the tests, which
    costs about a twelfth of the processor. Where containers live in a machine of their own, the ports are published.
    """
    container.ports.clear()
    if _shares_our_network(container.get_docker_client()):
        return {"network_mode": "host"}
    for port in ports:
        container.with_bind_ports(port, port)
    return {}


def _shares_our_network(client: DockerClient) -> bool:
    if sys.platform != "linux" or client.host() not in {"localhost", "127.0.0.1"}:
        return False
    engine = client.client.info()
    rootless = any("rootless" in option for option in engine["SecurityOptions"])
    return not rootless and "Docker Desktop" not in engine["OperatingSystem"]


def start_docker_kafka(
    security: KafkaSecurity | None = None,
    *,
    advertised: str | None = None,
    measured: bool = False,
) -> DockerServer:
    """Start Apache Kafka with one node, as broker and controller; tools inside the container use `inside`.

    `advertised`: the address that clients are told, where that is not its own: that of a proxy, say. `measured`: its
    Java machine is as it comes; else it compiles less, and is up sooner.
    """
    security = security or KafkaSecurity()
    container, (port, for_controller, for_tools) = DockerContainer(KAFKA_IMAGE), free_ports(3)
    host = container.get_docker_client().host()
    container.with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_CONTROLLER_QUORUM_VOTERS=f"1@localhost:{for_controller}",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_LISTENERS=f"HOST://:{port},CONTROLLER://localhost:{for_controller},INTERNAL://localhost:{for_tools}",
        KAFKA_ADVERTISED_LISTENERS=f"HOST://{advertised or f'{host}:{port}'},INTERNAL://localhost:{for_tools}",
        KAFKA_INTER_BROKER_LISTENER_NAME="INTERNAL",
        KAFKA_LOG_DIRS=_KAFKA_DATA,
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_LOG_MESSAGE_TIMESTAMP_TYPE="LogAppendTime",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR="1",
        # Below: many tests, each with topics of its own, on a small machine.
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
        KAFKA_LOG_INDEX_SIZE_MAX_BYTES="1048576",
        KAFKA_LOG_SEGMENT_DELETE_DELAY_MS="1000",
        KAFKA_HEAP_OPTS=" ".join(["-Xms256m -Xmx512m", *([] if measured else _SHORT_LIVED_JAVA)]),
        # And some kill it: a controller takes back a broker only when the session of the dead one is over (9 s).
        KAFKA_BROKER_HEARTBEAT_INTERVAL_MS="500",
        KAFKA_BROKER_SESSION_TIMEOUT_MS="2000",
        # Or members of a group, again and again: the dead one's partitions come back when its session is over.
        KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="1000",
        **security.settings,
    )
    for place, file in security.files.items():
        container.with_copy_into_container(file, place)
    container.with_kwargs(entrypoint=["bash", "-c", _KAFKA_START, "kafka"], **listening(container, port))
    container.with_command(_own_start(container))
    address, description = f"{host}:{port}", f"Apache Kafka ({KAFKA_IMAGE})"
    probe = _kafka_probe(address, security.client_options)
    return _started(DockerServer(container.start(), address, description, probe, inside=f"localhost:{for_tools}"))


def start_docker_postgres(*, in_memory: bool = False) -> DockerServer:
    """Start PostgreSQL; its owner is a superuser. `in_memory`: its data are lost when it stops, and no disk is slow."""
    [port] = free_ports(1)
    container = PostgresContainer(
        POSTGRES_IMAGE, username="owner", password="test-only", dbname="postgres", driver=None
    )
    container.with_env("PGPORT", str(port)).with_command("postgres -c max_connections=300")
    if in_memory:
        container.with_tmpfs_mount(_POSTGRES_DATA)
    stop = "SIGINT"  # PostgreSQL's fast shutdown: it does not wait for its clients
    container.with_kwargs(stop_signal=stop, **listening(container, port))
    container.start()
    address = f"postgresql://owner:test-only@{container.get_docker_client().host()}:{port}/postgres"
    return _started(DockerServer(container, address, f"PostgreSQL ({POSTGRES_IMAGE})", _postgres_probe(address)))


class EmbeddedBroker:
    """The embedded broker, in this process. It cannot be stopped: its memory is its data."""

    container_id: str | None = None
    description = "the EMBEDDED broker (librdkafka's mock, in memory)"

    def __init__(self) -> None:
        self._cluster = MockCluster()
        self.address = self._cluster.bootstrap_servers

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic: the broker does not answer the protocol's own request."""
        self._cluster.create_topic(name, partitions)

    async def kill(self) -> None:
        """Refuse."""
        raise RuntimeError(f"{self.description} cannot be stopped")

    start = restart = kill

    def close(self) -> None:
        """Leave it to the end of the process."""


class EmbeddedPostgres:
    """The embedded PostgreSQL in a temporary folder, under a supervisor that has a thread to itself."""

    container_id: str | None = None
    description = "PostgreSQL 18 (embedded)"

    def __init__(self, installation: str = "pginstall18") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="order-saga-tests-")
        self._postgres = Postgres(Path(self._folder.name, "postgres"), free_ports(1)[0], installation)
        self._thread = _LoopThread()
        self._supervisor = Supervisor(Path(self._folder.name), say=lambda _: None)
        try:
            self._thread.run(self._postgres.prepare(Path(self._folder.name)))
            self._thread.run(self._launch())
        except BaseException:
            self.close()
            raise
        self.address = self._postgres.database_url

    async def kill(self) -> None:
        """End it as `kill -9` does, with its children; return when it is dead."""
        await self._end(signal.SIGKILL)

    async def start(self) -> None:
        """Start it again after `kill`; return when it answers."""
        await _at_once(self._thread.run, self._launch())

    async def restart(self) -> None:
        """Stop it in an orderly way and start it; return when it answers."""
        await self._end(signal.SIGINT)
        await self.start()

    def close(self) -> None:
        """End it and remove its data."""
        self._thread.run(self._supervisor.stop())
        self._thread.close()
        self._folder.cleanup()

    async def _launch(self) -> None:
        await self._supervisor.start(
            replace(self._postgres.spec(), vital=True)
        )  # vital: the supervisor must not restart it

    async def _end(self, how: signal.Signals) -> None:
        [pid] = self._supervisor.pids["postgres"]
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(pid)
            family = [server, *server.children()]
            server.send_signal(how)
            await _at_once(psutil.wait_procs, family, 30)


class _LoopThread:
    """A thread with an event loop, alive until `close`: what it starts ends with it (see `local_stack`)."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedded servers", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _started(server: DockerServer) -> DockerServer:
    """Wait for the server from a thread of its own; a container that does not answer is removed."""
    try:
        asyncio.run(server.ready())
    except BaseException:
        server.close()
        raise
    return server


def _docker_answers() -> bool:
    try:
        client = DockerClient(timeout=30).client
        client.ping()
        client.close()
    except DockerException:
        return False
    return True


def _own_start(container: DockerContainer) -> list[str]:
    """Return the image's own start command; pull the image if necessary."""
    images = container.get_docker_client().client.images
    try:
        image = images.get(container.image)
    except ImageNotFound:
        image = images.pull(container.image)
    configuration = image.attrs["Config"]
    return [*(configuration["Entrypoint"] or ()), *(configuration["Cmd"] or ())]


def _kafka_probe(address: str, options: Mapping[str, str]) -> Probe:
    """Probe with librdkafka: when a starting broker drops a connection, it leaves neither a socket nor a log line."""
    client = AdminClient({"bootstrap.servers": address, "reconnect.backoff.max.ms": 200, "log_level": 0, **options})

    async def probe() -> None:
        try:
            await _at_once(client.list_topics, timeout=2)
        except KafkaException as error:
            raise ConnectionError(str(error)) from error

    return probe


def _postgres_probe(address: str) -> Probe:
    async def probe() -> None:
        connection = await asyncpg.connect(address, timeout=2)
        await connection.close()

    return probe
