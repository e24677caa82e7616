"""The process on a real broker: from an event on Kafka to a receiver, through deaths at every place and to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

import jwt
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from standardwebhooks import Webhook

from contracts.codec import encode, outgoing
from contracts.orders import OrderStatusChanged
from contracts.topics import ORDERS_EVENTS
from contracts.webhooks import EndpointKind, PushSubscription, event_id_of, secret_text
from projections.webhooks.sender import SendPoint
from saga_kit.runtime.crash_points import CrashPoint
from tests.e2e.system import command
from tests.projections.webhooks.events import BEGAN, event
from tests.projections.webhooks.processes import DIE_AT
from tests.projections.webhooks.receivers import KEY, Receiver, answer, receiving
from tests.projections.webhooks.test_pushing import KEYS, SENDER
from tests.projections.webhooks.world import SECRET, Webhooks
from tests.support.infrastructure import Database, Infrastructure

HIDDEN: Final = "hidden"
POINTS: Final[tuple[StrEnum, ...]] = (
    *(CrashPoint.BATCH_TAKEN, CrashPoint.BATCH_HANDLED, CrashPoint.BATCH_WRITTEN, CrashPoint.BATCH_COMMITTED),
    *(CrashPoint.BATCH_FINISHED, *SendPoint),
)
"""Before and after the insert, the commit, the send and the mark."""


class World:
    """A broker and a database, and processes on them."""

    def __init__(self, brokers: str, prefix: str, database: Database, webhooks: Webhooks, folder: Path) -> None:
        self.brokers = brokers
        self.prefix = prefix
        self.webhooks = webhooks
        self.armed = folder / "die_at"
        self.settings = {
            "KAFKA_BOOTSTRAP_SERVERS": brokers,
            "KAFKA_TOPIC_PREFIX": prefix,
            "KAFKA_SESSION_TIMEOUT_S": "2",
            "DATABASE_URL": database.url_of("webhooks"),
            "HTTP_PORT": "0",
            "WEBHOOKS_KEYS": KEY,
            "WEBHOOKS_ALLOW_NETWORKS": "127.0.0.0/8",
            DIE_AT: str(self.armed),
        }

    @asynccontextmanager
    async def process(self, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a process; the test ends it."""
        async with program(self.settings | more) as one:
            yield one

    async def publish(self, *events: OrderStatusChanged, junk: Sequence[bytes] = ()) -> None:
        """Publish events, as the orchestrator does, and records that nobody can read."""
        async with AIOKafkaProducer(bootstrap_servers=self.brokers, acks="all") as producer:
            for one in events:
                wire = outgoing(one, message_id=event_id_of(one.order_id, one.version), source="/tests", time=BEGAN)
                topic = self.prefix + wire.topic
                await producer.send_and_wait(topic, wire.value, wire.key.encode(), headers=wire.headers)
            for value in junk:
                await producer.send_and_wait(self.prefix + ORDERS_EVENTS.name, value, b"junk")


@asynccontextmanager
async def program(settings: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the program; end it at the end in any case."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.projections.webhooks.processes"),
        env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture
async def world(
    infrastructure: Infrastructure, database: Database, topic_prefix: str, webhooks: Webhooks, tmp_path: Path
) -> World:
    """Make the topic."""
    await infrastructure.create_topics({topic_prefix + ORDERS_EVENTS.name: 2})
    return World(infrastructure.kafka_bootstrap_servers, topic_prefix, database, webhooks, tmp_path)


def got(receiver: Receiver) -> set[str]:
    """Return the ids of what came; each must verify."""
    for one in receiver.received:
        Webhook(secret_text(SECRET)).verify(one.body, one.headers)
    return {one.headers["webhook-id"] for one in receiver.received}


async def test_an_event_on_kafka_becomes_a_webhook(world: World) -> None:
    """Junk beside it becomes a dead letter; on a signal the process ends with status 0 and leaves no lease."""
    async with receiving() as receiver:
        await world.webhooks.endpoint(receiver.url)
        async with world.process() as process:
            await world.publish(event(1, 4), event(2, 4), junk=[b"junk"])
            await receiver.wait_for(2, within_s=120)
            await world.webhooks.all_ended()
            await world.webhooks.until("SELECT count(*) = 1 FROM webhooks.dead_letters")
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), 120)
            assert 0 == process.returncode, errors.decode()
    assert {event_id_of(event(n, 4).order_id, 4) for n in (1, 2)} == got(receiver)


async def test_a_browser_is_told_with_keys_that_the_command_has_made(world: World) -> None:
    """What `notify keys` prints are the settings as they are; a push service knows who sends by the public one."""
    printed = await command("notify", "keys")
    pair = dict(line.split("=", 1) for line in printed.out.splitlines())
    settings = {"NOTIFY_VAPID_KEY": pair["NOTIFY_VAPID_KEY"], "NOTIFY_VAPID_CONTACT": "mailto:ops@example.com"}
    async with receiving(answer("201 Created")) as service, world.process(**settings):
        await world.webhooks.notified(EndpointKind.PUSH, encode(PushSubscription(service.url, KEYS)).decode())
        await world.publish(event(1, 4))
        await service.wait_for(1, within_s=120)
        await world.webhooks.all_ended()
    _, _, rest = service.received[0].headers["authorization"].partition(" ")
    token, key = (part.strip().partition("=")[2] for part in rest.split(","))
    assert pair["API_NOTIFY_PUSH_KEY"] == key
    public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), urlsafe_b64decode(key + "="))
    audience = f"http://127.0.0.1:{service.port}"
    assert "mailto:ops@example.com" == jwt.decode(token, public, algorithms=["ES256"], audience=audience)["sub"]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name.lower())
async def test_a_death_anywhere_loses_nothing(world: World, point: StrEnum) -> None:
    """Killed at each place, with work at hand: what follows it delivers every event, each at least once."""
    events = [event(number, 4) for number in range(1, 41)]
    world.armed.write_text(point.name)
    async with receiving() as receiver:
        await world.webhooks.endpoint(receiver.url)
        async with world.process() as first:
            await world.publish(*events[:20])
            assert -signal.SIGKILL == await asyncio.wait_for(first.wait(), 120)
        # Time passes: the leases of the dead process run out.
        await world.webhooks.execute(
            "UPDATE webhooks.deliveries SET leased_until = now(), next_attempt_at = now()"
            " WHERE leased_until IS NOT NULL"
        )
        async with world.process():
            await world.publish(*events[20:])
            await world.webhooks.until(
                "SELECT count(*) = 40 FROM webhooks.deliveries WHERE state = 'DELIVERED'", within_s=150
            )
    assert {event_id_of(one.order_id, 4) for one in events} == got(receiver)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WEBHOOKS_KEYS", "", "WEBHOOKS_KEYS is not set"),
        ("WEBHOOKS_KEYS", "x" * 44, "WEBHOOKS_KEYS: must be Fernet keys"),
        ("WEBHOOKS_ALLOW_NETWORKS", "10.0.0.1/8", "WEBHOOKS_ALLOW_NETWORKS: 10.0.0.1/8 has host bits set"),
        ("WEBHOOKS_PROXY", "proxy:3128", "WEBHOOKS_PROXY: must be http://host:port"),
        ("WEBHOOKS_IN_FLIGHT_MAX", "1", "WEBHOOKS_IN_FLIGHT_MAX: "),
        ("WEBHOOKS_KEEP_DAYS", "0", "WEBHOOKS_KEEP_DAYS: "),
        ("NOTIFY_SMTP_URL", f"http://user:{HIDDEN}@mx", "NOTIFY_SMTP_URL: must be smtp://host:port or smtps://"),
        ("NOTIFY_SMTP_URL", "smtp://mx:25?plain", "NOTIFY_SMTP_URL and NOTIFY_FROM are given together"),
        ("NOTIFY_FROM", "alice@example.com", "NOTIFY_SMTP_URL and NOTIFY_FROM are given together"),
        ("NOTIFY_FROM", "alice", "NOTIFY_FROM: must be one e-mail address"),
        ("NOTIFY_VAPID_KEY", HIDDEN, "NOTIFY_VAPID_KEY: must be the 32 bytes of a private key on P-256"),
        ("NOTIFY_VAPID_KEY", SENDER, "NOTIFY_VAPID_KEY and NOTIFY_VAPID_CONTACT are given together"),
        ("NOTIFY_VAPID_CONTACT", "mailto:a@b.de", "NOTIFY_VAPID_KEY and NOTIFY_VAPID_CONTACT are given together"),
        ("NOTIFY_VAPID_CONTACT", "ftp://b.de", "NOTIFY_VAPID_CONTACT: "),
        (
            "NOTIFY_URLS",
            f"nonsense://user:{HIDDEN}@host",
            "NOTIFY_URLS: number 1 of its URLs is none that Apprise knows",
        ),
        ("NOTIFY_URLS", " ", "NOTIFY_URLS: must be URLs for Apprise"),
    ],
)
async def test_a_wrong_setting_is_one_clear_line(name: str, value: str, words: str) -> None:
    """It is named on stderr, without its value when that is a secret, and the process ends with status 2."""
    good = {
        "DATABASE_URL": "postgresql://u@localhost/d", "KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "WEBHOOKS_KEYS": KEY,
    }  # fmt: skip
    async with program(good | {name: value}) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 120)
    assert 2 == process.returncode
    assert errors.decode().startswith(words), errors.decode()
    assert 1 == len(errors.splitlines())
    assert HIDDEN.encode() not in errors
