"""The Python example and the commands of docs/kafka.md work as printed, on a broker without TLS."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.e2e.documented import ROOT, run_example, run_in_shell, shown
from tests.e2e.orders import buy
from tests.e2e.system import System, command
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure
from tests.support.servers import DockerServer

pytestmark = pytest.mark.asyncio(loop_scope="package")


def _environment(system: System) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": system.stack.kafka_bootstrap_servers, "KAFKA_TOPIC_PREFIX": system.prefix}


async def test_the_python_example_follows_an_order_to_its_end(system: System, trader: Trader) -> None:
    """The example sends one order and prints each version once, up to the fill."""
    told = await run_example("alice", "BTC", "MARKET_BUY", "0.01", environment=_environment(system))
    sent, *versions, end = told.out.splitlines()
    assert (0, "") == (told.code, told.err)
    assert [
        f"version {n}: {s}" for n, s in enumerate(("PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"), 1)
    ] == versions
    assert "0.01 BTC at 50000, fee 0.5" == end
    order_id = uuid.UUID(sent.removesuffix(" is sent"))
    trader.accepted[str(order_id)] = buy("alice", "BTC", "0.01")
    assert [("COMPLETED",)] == await system.rows("SELECT status FROM audit.orders WHERE order_id = $1", order_id)


async def test_the_python_example_tells_why_an_order_failed(system: System, trader: Trader) -> None:
    """For a request that breaks a rule it prints the rule, and its exit status says that there was no trade."""
    told = await run_example("alice", "BTC", "MARKET_BUY", "1e3", environment=_environment(system))
    trader.accepted[told.out.split()[0]] = buy("alice", "BTC", "1e3", ends="FAILED INVALID_ORDER")
    assert 1 == told.code
    assert "version 2: FAILED INVALID_ORDER quantity: must be a decimal as a string" in told.out


async def test_the_python_example_says_when_it_cannot_reach_a_broker() -> None:
    """Without a broker the example prints one line, no stack trace, and exits with 2."""
    told = await run_example(
        "alice",
        "BTC",
        "MARKET_BUY",
        "1",
        environment={"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "KAFKA_TOPIC_PREFIX": ""},
    )
    assert 2 == told.code
    assert "order_producer: localhost:1: KafkaConnectionError" in told.err
    assert "Traceback" not in told.err


@pytest.fixture
def broker(infrastructure: Infrastructure) -> DockerServer:
    """Return the broker; skip the test where it is not in a container."""
    if isinstance(infrastructure.broker, DockerServer):
        return infrastructure.broker
    pytest.skip("the broker is somebody else's, not in a container of ours")


@pytest.mark.apache_kafka
@pytest.mark.usefixtures("broker")
async def test_rights_cannot_be_given_where_nobody_checks_them(system: System) -> None:
    """The command that grants rights fails, with the broker's words, on a broker that checks no rights."""
    environment = {"KAFKA_BOOTSTRAP_SERVERS": system.stack.kafka_bootstrap_servers}
    told = await command("acls", str(ROOT / "deploy" / "acls.txt"), env=environment)
    assert 1 == told.code
    assert "order-saga: orchestrator read orders.requests: No Authorizer is configured." == told.err.strip()


@pytest.mark.apache_kafka
async def test_kafka_s_own_tools_send_an_order_and_show_its_events(
    system: System, trader: Trader, broker: DockerServer
) -> None:
    """The commands of the page work: the console producer sends an order, the console consumer shows its versions."""
    told = await run_in_shell(shown("console"), broker, topic_prefix=system.prefix)
    assert 0 == told.code, told.err
    events = [json.loads(line.partition("\t")[2]) for line in told.out.splitlines()]
    trader.accepted[events[0]["order_id"]] = buy("alice", "BTC", "0.01")
    assert ["PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"] == [event["status"] for event in events]
