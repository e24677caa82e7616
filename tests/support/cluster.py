"""Brokers of Apache Kafka in one container: each may be killed or frozen, or get data back that it had before."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from testcontainers.core.container import DockerContainer

from local_stack.ports import free_ports
from saga_kit.runtime.settings import KafkaSettings
from tests.e2e.system import eventually
from tests.support.servers import KAFKA_IMAGE, listening

READY_WITHIN_S = 120
NODES = """
cd /tmp
cat > start <<'END'
cd /tmp
java -Xms128m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
  -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml \\
  -cp '/opt/kafka/libs/*' kafka.Kafka $1.properties >>$1.log 2>&1 &
echo $! >$1.pid
END
run() { java -Xms128m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' "$@"; }
for node in $(seq $COUNT); do
  port=$(echo $PORTS | cut -d' ' -f$node)
  roles=broker; extra=""; listeners="HOST://:$port"
  if [ $node = 1 ]; then roles=broker,controller; listeners="$listeners,CONTROLLER://localhost:$CONTROLLER"; fi
  cat > $node.properties <<END
node.id=$node
process.roles=$roles
controller.quorum.voters=1@localhost:$CONTROLLER
controller.listener.names=CONTROLLER
listeners=$listeners
advertised.listeners=HOST://$HOST_NAME:$port
listener.security.protocol.map=HOST:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=HOST
log.dirs=/tmp/data-$node
auto.create.topics.enable=false
default.replication.factor=$COUNT
offsets.topic.replication.factor=$COUNT
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.index.size.max.bytes=1048576
END
  run kafka.tools.StorageTool format --cluster-id 5L6g3nShT-eMCtK--X86sw --config $node.properties >/dev/null
  sh /tmp/start $node
done
sleep infinity
"""
"""All in one container, so that they and their clients can use the same addresses."""


@dataclass
class Cluster:
    """Some brokers, numbered from 1."""

    container: DockerContainer
    settings: KafkaSettings
    count: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a command to it."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers, "KAFKA_TOPIC_PREFIX": ""}

    async def kill(self, node: int) -> None:
        """End one broker as `kill -9` does; return when it is dead."""
        await self._signal("KILL", node)
        await self._run(f"while grep -q . /proc/$(cat /tmp/{node}.pid)/cmdline 2>/dev/null; do sleep 0.05; done")

    async def start(self, node: int) -> None:
        """Start a broker that was killed, with the data that it had."""
        await self._run(f"sh /tmp/start {node}")

    async def keep(self, node: int, name: str) -> None:
        """Copy the data of a broker that was killed, with the offsets of the groups, under a name."""
        await self._copy(f"data-{node}", name)

    async def put_back(self, node: int, name: str) -> None:
        """Replace the data of a broker that was killed by those that were kept under this name."""
        await self._copy(name, f"data-{node}")

    async def _copy(self, data: str, to: str) -> None:
        await self._run(f"cd /tmp && rm -rf {to} && cp -a {data} {to}")

    async def freeze(self, node: int) -> None:
        """Have one broker do nothing; its connections stay open."""
        await self._signal("STOP", node)

    async def thaw(self, node: int) -> None:
        """Let a broker that was frozen go on."""
        await self._signal("CONT", node)

    async def _signal(self, name: str, node: int) -> None:
        await self._run(f"kill -{name} $(cat /tmp/{node}.pid)")

    async def _run(self, commands: str) -> None:
        code, out = await asyncio.to_thread(self.container.exec, ["sh", "-c", commands])
        assert code == 0, (commands, out)

    async def brokers(self) -> int:
        """Count the brokers that a client is told of; librdkafka, unlike aiokafka, closes all its connections."""
        client = AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "log_level": 0})
        try:
            return len((await asyncio.to_thread(client.list_topics, timeout=3)).brokers)
        except KafkaException:
            return 0

    async def ready(self) -> None:
        """Return when all of them are there."""

        async def all_of_them() -> bool:
            return await self.brokers() == self.count

        try:
            await eventually(all_of_them, f"{self.count} brokers are there", within_s=READY_WITHIN_S)
        except AssertionError:
            out = self.container.exec(["sh", "-c", "tail -n 5 /tmp/*.log"]).output
            raise AssertionError(out) from None


@contextmanager
def brokers(count: int) -> Iterator[Cluster]:
    """Start some brokers, 3 at most; they need some time until all of them are there."""
    for_controller, *ports = free_ports(1 + count)
    container = DockerContainer(KAFKA_IMAGE)
    host = container.get_docker_client().host()
    options = {"extra_hosts": {host: "127.0.0.1"}} | listening(container, *ports)
    container.with_kwargs(entrypoint=["bash", "-c", NODES], **options).with_command([])
    variables = {"PORTS": " ".join(map(str, ports)), "CONTROLLER": str(for_controller)}
    container.with_envs(HOST_NAME=host, COUNT=str(count), **variables)
    addresses = ",".join(f"{host}:{port}" for port in ports)
    with container:
        yield Cluster(container, KafkaSettings(kafka_bootstrap_servers=addresses), count)
    with warnings.catch_warnings():  # aiokafka leaves connections open to brokers that have died
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
