"""A cluster as managed services set it up: three brokers and replicas, no automatic topics, timestamps by producers."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from testcontainers.core.container import DockerContainer

from contracts.envelope import Outgoing
from contracts.topics import ORDERS_REQUESTS, TOPICS
from local_stack.ports import free_ports
from saga_kit.messaging.publisher import Publisher
from saga_kit.runtime.settings import KafkaSettings
from tests.e2e.system import command, eventually
from tests.support.infrastructure import Infrastructure
from tests.support.servers import KAFKA_IMAGE

pytestmark = pytest.mark.apache_kafka
NODES = """
cd /tmp
run() { java -Xms128m -Xmx256m -XX:+UseSerialGC -cp '/opt/kafka/libs/*' "$@"; }
for node in 1 2 3; do
  port=$(echo $PORTS | cut -d' ' -f$node)
  roles=broker; extra=""; listeners="HOST://:$port"
  if [ $node = 1 ]; then roles=broker,controller; listeners="$listeners,CONTROLLER://:9193"; fi
  cat > $node.properties <<END
node.id=$node
process.roles=$roles
controller.quorum.voters=1@localhost:9193
controller.listener.names=CONTROLLER
listeners=$listeners
advertised.listeners=HOST://$HOST_NAME:$port
listener.security.protocol.map=HOST:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=HOST
log.dirs=/tmp/data-$node
auto.create.topics.enable=false
default.replication.factor=3
offsets.topic.replication.factor=3
offsets.topic.num.partitions=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.index.size.max.bytes=1048576
END
  run kafka.tools.StorageTool format --cluster-id 5L6g3nShT-eMCtK--X86sw --config $node.properties >/dev/null
  java -Xms128m -Xmx256m -XX:+UseSerialGC -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml \\
    -cp '/opt/kafka/libs/*' kafka.Kafka $node.properties >$node.log 2>&1 &
  echo $! >$node.pid
done
wait
"""
"""Three brokers in one container, so that they and their clients can use the same addresses."""


@dataclass
class Cluster:
    """Three brokers."""

    container: DockerContainer
    settings: KafkaSettings

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a command to it."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers, "KAFKA_TOPIC_PREFIX": ""}

    async def kill(self, node: int) -> None:
        """End one broker as `kill -9` does."""
        await asyncio.to_thread(self.container.exec, ["sh", "-c", f"kill -9 $(cat /tmp/{node}.pid)"])

    async def brokers(self) -> int:
        """Count the brokers that a client is told of; librdkafka, unlike aiokafka, closes all its connections."""
        client = AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "log_level": 0})
        try:
            return len((await asyncio.to_thread(client.list_topics, timeout=3)).brokers)
        except KafkaException:
            return 0


@pytest.fixture(scope="module")
def cluster(infrastructure: Infrastructure) -> Iterator[Cluster]:
    """Start three brokers."""
    assert "apache" == infrastructure.broker_kind
    ports = free_ports(3)
    container = DockerContainer(KAFKA_IMAGE)
    host = container.get_docker_client().host()
    container.with_kwargs(entrypoint=["bash", "-c", NODES], extra_hosts={host: "127.0.0.1"}).with_command([])
    container.with_envs(PORTS=" ".join(map(str, ports)), HOST_NAME=host)
    for port in ports:
        container.with_bind_ports(port, port)
    addresses = ",".join(f"{host}:{port}" for port in ports)
    with container:
        yield Cluster(container, KafkaSettings(kafka_bootstrap_servers=addresses))
    with warnings.catch_warnings():  # aiokafka leaves connections open to brokers that have died
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def _all_there(cluster: Cluster) -> None:
    async def three() -> bool:
        return await cluster.brokers() == 3

    try:
        await eventually(three, "three brokers are there", within_s=120)
    except AssertionError:
        out = cluster.container.exec(["sh", "-c", "tail -n 5 /tmp/*.log"]).output
        raise AssertionError(out) from None


async def test_topics_have_three_copies_and_outlive_a_broker(cluster: Cluster) -> None:
    """Each acknowledged message has two copies: one broker may die, and with two dead nothing is acknowledged."""
    await _all_there(cluster)
    assert 1 == (await command("topics", "--check", env=cluster.environment)).code
    made = await command("topics", "--replication", "3", env=cluster.environment)
    assert (0, "", len(TOPICS)) == (made.code, made.err, len(made.out.splitlines()))
    assert 0 == (await command("topics", "--check", env=cluster.environment)).code
    publisher = Publisher(cluster.settings, timeout_s=10)
    messages = [Outgoing(ORDERS_REQUESTS.name, f"k{number}", f"{number}", b"{}", []) for number in range(24)]

    async def stored() -> bool:
        return await publisher.publish(messages)

    async def refused() -> bool:
        return not await publisher.publish(messages)

    try:
        await eventually(stored, "three brokers store", within_s=60)
        await cluster.kill(3)
        await eventually(stored, "two brokers store", within_s=60)
        await cluster.kill(2)
        await eventually(refused, "with one copy left nothing is acknowledged", within_s=60)
    finally:
        await publisher.stop()
