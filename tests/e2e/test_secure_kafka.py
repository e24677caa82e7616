"""The system over TLS with logins and ACLs: the broker's settings and the rights are those of the compose profile."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, TopicAuthorizationFailedError
from confluent_kafka import admin

from contracts.topics import TOPICS
from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.supervisor import ProcessSpec, Supervisor
from operations.access.tokens import Signer
from operations.demo.samples import load_samples
from operations.deployment.acls import Right, read
from saga_kit.runtime.settings import KafkaSettings
from tests.e2e.documented import run_example, run_in_shell, shown
from tests.e2e.system import Output, command
from tests.support.infrastructure import Database
from tests.support.servers import DEPLOY, DockerServer, KafkaSecurity, docker_trouble, start_docker_kafka, variables

pytestmark = pytest.mark.apache_kafka

ACLS = DEPLOY / "acls.txt"
RIGHTS = read(ACLS.read_text())
LOGINS = sorted({right.login for right in RIGHTS})
TIME_SCALE = 0.1
librdkafka: Any = admin  # the library documents more names than its types export
SERVICES = ("balance", "assets", "orchestrator", "api", "webhooks")


class SecureKafka(NamedTuple):
    """A broker of the profile `secure`, with its topics and rights."""

    server: DockerServer
    cafile: Path
    compose: Mapping[str, str]
    """The variables of deploy/secure.env."""

    def environment(self, login: str) -> dict[str, str]:
        """Return the variables that let any of our programs use this broker with this login."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.server.address,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SSL_CAFILE": str(self.cafile),
            "KAFKA_SASL_USERNAME": login,
            "KAFKA_SASL_PASSWORD": self.compose[f"KAFKA_{login.upper()}_PASSWORD"],
        }

    def settings(self, login: str) -> KafkaSettings:
        """Return the same as settings."""
        return KafkaSettings.model_validate({name.lower(): value for name, value in self.environment(login).items()})


@pytest.fixture(scope="module")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """Run a broker with the files of deploy/, and prepare it with our own commands, as the compose file does."""
    if trouble := docker_trouble():
        pytest.skip(f"needs an Apache Kafka of its own: {trouble}")
    folder = tmp_path_factory.mktemp("certificates")
    _run(str(DEPLOY / "certificates.py"), str(folder), str(folder), "localhost")
    (folder / "broker.pem").chmod(0o644)  # the container's user, another one, must be able to read it
    broker = DEPLOY / "broker-secure.env"
    _run(str(DEPLOY / "make_secrets.py"), str(folder / "secrets.env"))
    both = variables(folder / "secrets.env", DEPLOY / "secure.env", broker)
    security = KafkaSecurity(
        settings={name: both[name] for name in variables(broker)},
        files={
            "/trust/ca.pem": folder / "ca.pem",
            "/broker-key/broker.pem": folder / "broker.pem",
            "/client.properties": DEPLOY / "client.properties",
        },
        client_options=_admin_options(folder / "ca.pem", both),
    )
    server = start_docker_kafka(security)
    kafka = SecureKafka(server, folder / "ca.pem", both)
    try:
        _run("-m", "operations.cli", "topics", environment=kafka.environment("admin"))
        _run("-m", "operations.cli", "acls", str(ACLS), environment=kafka.environment("admin"))
        yield kafka
    finally:
        server.close()


@pytest_asyncio.fixture
async def services(secure_kafka: SecureKafka, database: Database, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Run every service with its own login; yield the variables for a person's command line."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    secret = secrets.token_hex(32)
    await load_samples({login: database.url_of(login) for login in ("balance", "assets")}, TIME_SCALE)
    own = {
        service: {
            "DATABASE_URL": database.url_of(service),
            "HTTP_PORT": str(port),
            "JWT_SECRET": secret,
            "ORDER_SAGA_TIME_SCALE": str(TIME_SCALE),
            "WEBHOOKS_KEYS": secure_kafka.compose["WEBHOOKS_KEYS"],
        }
        for service, port in ports.items()
    }
    supervisor = Supervisor(tmp_path, say=print)
    try:
        await supervisor.start(
            *(
                ProcessSpec(
                    name=service,
                    argv=[sys.executable, "-m", "operations.cli", service],
                    ready=http_ready(ports[service]),
                    env=os.environ | secure_kafka.environment(service) | own[service],
                )
                for service in SERVICES
            )
        )
        yield secure_kafka.environment("operator") | {
            "DATABASE_URL": database.url,
            "JWT_SECRET": secret,
            "ORDER_API_URL": f"http://127.0.0.1:{ports['api']}",
        }
    finally:
        await supervisor.stop()
    assert [] == [line for service in SERVICES for line in _refusals(tmp_path / f"{service}.log")]


async def test_orders_run_to_their_end_over_tls(secure_kafka: SecureKafka, services: dict[str, str]) -> None:
    """Orders of a restricted producer, of Kafka's own tools and of a REST client all end; the audit finds nothing.

    No service lacks a right either: the fixture reads their logs.
    """
    example = await run_example("alice", "BTC", "MARKET_BUY", "0.01", environment=secure_kafka.environment("desk"))
    assert (0, "0.01 BTC at 50000, fee 0.5") == (example.code, example.out.splitlines()[-1]), example.err

    console, rest = await asyncio.gather(
        run_in_shell(shown("secure console"), secure_kafka.server, environment=secure_kafka.compose),
        _by_rest(services),
    )
    assert (0, 4) == (console.code, len(console.out.splitlines())), console.err
    assert (201, "COMPLETED") == (rest.status_code, rest.json()["status"])  # 201: the API heard of its end by Kafka

    audit = await command("audit", env=services)
    assert 0 == audit.code, audit.out


async def test_nobody_writes_where_the_list_does_not_say(secure_kafka: SecureKafka) -> None:
    """Every login is refused at every topic that it has no right to write, and the broker says so."""
    forbidden = [
        (login, topic.name) for login in LOGINS for topic in TOPICS if Right(login, "write", topic.name) not in RIGHTS
    ]
    assert {("desk", "balance.commands"), ("balance", "orders.requests"), ("api", "orders.events")} < set(forbidden)
    written = [(login, topic) for login, topic in forbidden if await _writes(secure_kafka, login, topic)]
    assert [] == written


async def test_nobody_reads_where_the_list_does_not_say(secure_kafka: SecureKafka) -> None:
    """Every login is refused at every topic that it has no right to read."""
    forbidden = [
        (login, topic.name) for login in LOGINS for topic in TOPICS if Right(login, "read", topic.name) not in RIGHTS
    ]
    assert ("desk", "orders.requests") in forbidden
    assert [] == [(login, topic) for login, topic in forbidden if await _reads(secure_kafka, login, topic)]


@pytest.mark.parametrize("group", ["orchestrator", "desk-2", "balance"])
async def test_a_producer_joins_no_group_but_its_own(secure_kafka: SecureKafka, group: str) -> None:
    """The login `desk` can neither take partitions from one of our services nor create groups."""
    options = secure_kafka.settings("desk").kafka_client_options()
    consumer = AIOKafkaConsumer("orders.events", group_id=group, **options)
    with pytest.raises(GroupAuthorizationFailedError):
        await consumer.start()
    await consumer.stop()


async def test_a_wrong_password_opens_nothing(secure_kafka: SecureKafka) -> None:
    """A known login with a wrong password is refused."""
    options = secure_kafka.settings("desk").kafka_client_options() | {"sasl_plain_password": "guessed"}
    producer = AIOKafkaProducer(**options)
    with pytest.raises(KafkaConnectionError):
        await producer.start()
    await producer.stop()


async def test_a_broker_that_nobody_vouches_for_is_not_told_the_password(secure_kafka: SecureKafka) -> None:
    """Without the broker's authority a client of ours ends the connection before it logs in."""
    environment = secure_kafka.environment("operator") | {"KAFKA_SSL_CAFILE": ""}
    told = await command("topics", "--check", env=environment)
    assert 1 == told.code
    assert "CERTIFICATE_VERIFY_FAILED" in told.err


async def test_a_service_without_a_right_says_so_and_ends(
    secure_kafka: SecureKafka, database: Database, tmp_path: Path
) -> None:
    """A service that may read its topics but not join its group ends at once, with the reason in one line.

    Its login is one by SCRAM, made while the broker runs.
    """
    login = await _new_scram_login(secure_kafka)
    list_of_rights = tmp_path / "acls.txt"
    user = login["KAFKA_SASL_USERNAME"]
    rights = ("read balance.commands", "read holds.requests", "write orders.requests")
    list_of_rights.write_text("".join(f"{user} {right}\n" for right in rights))
    await _as_admin(secure_kafka, "acls", str(list_of_rights))
    own = {"DATABASE_URL": database.url_of("balance"), "HTTP_PORT": "0"}
    ended = await command("balance", env=secure_kafka.environment("desk") | login | own)
    assert 1 == ended.code
    assert "no right to consume: GroupAuthorizationFailedError" in (ended.out + ended.err).splitlines()[-1]
    assert "Traceback" not in ended.out + ended.err


async def test_what_a_login_may_not_see_is_told_as_such(secure_kafka: SecureKafka) -> None:
    """The broker hides topics from those without a right; our command does not call them missing for certain."""
    told = await command("topics", "--check", env=secure_kafka.environment("desk"))
    assert 1 == told.code
    assert "orders.requests: 12 partitions" in told.out
    assert "assets.replies is missing, or hidden from this login" in told.err


async def _new_scram_login(kafka: SecureKafka) -> dict[str, str]:
    user = f"team-{uuid.uuid4()}"
    options = _admin_options(kafka.cafile, kafka.compose)
    client = librdkafka.AdminClient({"bootstrap.servers": kafka.server.address, **options})
    credential = librdkafka.ScramCredentialInfo(librdkafka.ScramMechanism.SCRAM_SHA_512, 4096)
    made = client.alter_user_scram_credentials([librdkafka.UserScramCredentialUpsertion(user, credential, b"a secret")])
    await asyncio.to_thread(made[user].result, 20)
    return {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": user, "KAFKA_SASL_PASSWORD": "a secret"}


async def _by_rest(services: Mapping[str, str]) -> httpx2.Response:
    token = Signer(services["JWT_SECRET"]).sign("alice")
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait=20"}
    body = {"asset_id": "BTC", "order_type": "MARKET_BUY", "quantity": "0.01"}
    async with httpx2.AsyncClient(base_url=services["ORDER_API_URL"], timeout=40) as client:
        return await client.post("/orders", json=body, headers=headers)


def _admin_options(cafile: Path, compose: Mapping[str, str]) -> dict[str, str]:
    """Return librdkafka's options for the super user."""
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(cafile),
        "sasl.mechanism": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": compose["KAFKA_ADMIN_PASSWORD"],
    }


def _refusals(log: Path) -> list[str]:
    return re.findall(".*(?:AuthorizationFailed|hidden from this login).*", log.read_text())


def _run(*words: str, environment: Mapping[str, str] | None = None) -> None:
    whole = os.environ | dict(environment or {})
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=whole)  # noqa: S603 - our own words


async def _writes(kafka: SecureKafka, login: str, topic: str) -> bool:
    async with _producer(kafka.settings(login)) as producer:
        try:
            await producer.send_and_wait(topic, b"{}", key=b"k")
        except TopicAuthorizationFailedError:
            return False
    return True


async def _reads(kafka: SecureKafka, login: str, topic: str) -> bool:
    consumer = AIOKafkaConsumer(topic, group_id=None, **kafka.settings(login).kafka_client_options())
    try:
        await consumer.start()
        await consumer.getmany(timeout_ms=500)
    except TopicAuthorizationFailedError:
        return False
    finally:
        await consumer.stop()
    return True


@asynccontextmanager
async def _producer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(**settings.kafka_client_options(), acks="all") as producer:
        yield producer


async def _as_admin(kafka: SecureKafka, *words: str) -> Output:
    told = await command(*words, env=kafka.environment("admin"))
    assert 0 == told.code, told.err
    return told
