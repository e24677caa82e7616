"""What an outage looks like from outside: readiness turns red and names the cause, and green again by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr
from testcontainers.core.docker_client import DockerClient

from contracts.topics import TOPICS
from order_api.settings import ApiSettings
from tests.order_api.support import BUY, records, token, until
from tests.order_api.test_process import Running, process
from tests.support.infrastructure import create_topics, migrated_database, own_broker, own_postgres
from tests.support.servers import Server

RED_WITHIN_S = 20.0
"""A check gives up after 3 s; a busy machine may hold up each side."""
GREEN_WITHIN_S = 30.0
ANSWER_WITHIN_S = 20.0
"""No client waits longer for a 503: connecting, a statement and publishing have limits of 5, 6.7 and 4 s."""
ALIVE_WITHIN_S = 10.0


@asynccontextmanager
async def watched_process(settings: ApiSettings) -> AsyncIterator[Running]:
    """Run an API process; fail when it is ever not alive, or when being told so takes more than a moment."""
    async with process(settings, LOG_FORMAT="json") as one:
        await until(lambda: one.answers("/health/ready"), 60)
        watching = asyncio.create_task(_is_alive_all_the_time(one))
        try:
            yield one
            assert not watching.done(), watching.exception()
        finally:
            watching.cancel()
            await asyncio.wait([watching])  # before its client is closed


async def _is_alive_all_the_time(one: Running) -> None:
    while True:
        answer = await one.client.get("/health/live", timeout=ALIVE_WITHIN_S)
        assert httpx2.codes.OK == answer.status_code
        await asyncio.sleep(0.1)


async def seconds_until(one: Running, holds: Callable[[httpx2.Response], bool]) -> float:
    """Ask for readiness until an answer fits; return how long that took."""
    begin = time.monotonic()

    async def fits() -> bool:
        return holds(await one.client.get("/health/ready"))

    await until(fits, 60)
    return time.monotonic() - begin


def red_for(*names: str) -> Callable[[httpx2.Response], bool]:
    """Judge whether readiness is a 503 that names just these checks."""

    def holds(answer: httpx2.Response) -> bool:
        red = {name for name, result in answer.json()["checks"].items() if result != "ok"}
        return answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE and red == set(names)

    return holds


def green(answer: httpx2.Response) -> bool:
    """Judge whether all is well."""
    return answer.status_code == httpx2.codes.OK


async def post(one: Running, key: str) -> tuple[httpx2.Response, float]:
    """Submit an order; return the answer and the seconds that it took."""
    begin = time.monotonic()
    headers = {"Authorization": f"Bearer {token()}", "Idempotency-Key": key}
    return await one.client.post("/orders", json=BUY, headers=headers), time.monotonic() - begin


class Outage(NamedTuple):
    """A way for a server to be away, and back."""

    name: str
    begin: Callable[[], Awaitable[object]]
    end: Callable[[], Awaitable[object]]


def outages(server: Server) -> list[Outage]:
    """List the ways: killed, so that nobody listens; and frozen, so that connections stand and nobody answers."""
    ways = [Outage("killed", server.kill, server.start)]
    if server.container_id is not None:
        container = DockerClient().client.containers.get(server.container_id)
        freeze, thaw = partial(asyncio.to_thread, container.pause), partial(asyncio.to_thread, container.unpause)
        ways.append(Outage("frozen", freeze, thaw))
    return ways


class Seen(NamedTuple):
    """What a client saw of one outage, in seconds and answers."""

    red_s: float
    answers: list[httpx2.Response]
    took_s: list[float]
    read: httpx2.Response
    green_s: float


async def see(one: Running, outage: Outage, check: str, order: str) -> Seen:
    """Look at an outage from outside: readiness, three new orders, and an order that is there."""
    headers = {"Authorization": f"Bearer {token()}"}
    # So that there are idle connections, as under load: they are the first to be used when the server is gone.
    await asyncio.gather(*(one.client.get("/orders", headers=headers) for _ in range(20)))
    await outage.begin()
    red_s = await seconds_until(one, red_for(check))
    posted = [await post(one, f"{outage.name}-{number}") for number in range(3)]
    posted += await asyncio.gather(*(post(one, f"{outage.name}-{number}") for number in range(3, 9)))
    read = await one.client.get(order, headers=headers)
    await outage.end()
    green_s = await seconds_until(one, green)
    seen = Seen(red_s, [answer for answer, _ in posted], [took_s for _, took_s in posted], read, green_s)
    told = [f"{answer.status_code} after {took_s:.2f} s" for answer, took_s in posted]
    print(f"{check} {outage.name}: red after {red_s:.2f} s, POST {told}, green after {green_s:.2f} s")  # noqa: T201 - for pytest -s
    assert red_s < RED_WITHIN_S
    assert green_s < GREEN_WITHIN_S
    assert max(seen.took_s) < ANSWER_WITHIN_S
    return seen


@pytest.mark.apache_kafka
async def test_a_broker_that_is_away_turns_readiness_red_and_loses_no_order(settings: ApiSettings) -> None:
    """Away: 503, naming the broker; orders are stored, and answers name their address. Back: green, and they go out."""
    async with own_broker() as broker:
        await create_topics(broker.address, {topic.name: topic.partitions for topic in TOPICS})
        here = settings.model_copy(update={"kafka_bootstrap_servers": broker.address, "kafka_topic_prefix": ""})
        async with watched_process(here) as one:
            first, _ = await post(one, "before")
            assert httpx2.codes.ACCEPTED == first.status_code
            for outage in outages(broker):
                seen = await see(one, outage, "broker", first.headers["location"])
                assert {(503, "not-published")} == {(a.status_code, a.json()["code"]) for a in seen.answers}
                assert (200, "PENDING") == (seen.read.status_code, seen.read.json()["status"])
                again, took_s = await post(one, f"{outage.name}-0")
                accepted = (202, seen.answers[0].json()["order_id"])
                assert accepted == (again.status_code, again.json()["order_id"]), f"{again.text} after {took_s:.2f} s"
                await until(partial(_all_published, broker.address, seen.answers), 60)


async def _all_published(address: str, answers: list[httpx2.Response]) -> bool:
    order_ids = {answer.json()["order_id"] for answer in answers}
    return order_ids <= {record.key.decode() for record in await records(address, "")}


async def test_a_database_that_is_away_turns_readiness_red_and_takes_no_order(settings: ApiSettings) -> None:
    """Away: 503, naming the database; nothing is accepted, nobody is left waiting. Back: green, and it goes on."""
    async with own_postgres() as postgres:
        own = await migrated_database(postgres.address)
        here = settings.model_copy(update={"database_url": SecretStr(own.url_of("api"))})
        async with watched_process(here) as one:
            first, _ = await post(one, "before")
            assert httpx2.codes.ACCEPTED == first.status_code
            for outage in outages(postgres):
                seen = await see(one, outage, "database", first.headers["location"])
                refused = [*seen.answers, seen.read]
                assert {(503, "unavailable")} == {(answer.status_code, answer.json()["code"]) for answer in refused}
                assert all("retry-after" in answer.headers for answer in refused)
                if outage.name == "killed":  # a frozen one may still do what it has been told
                    assert ["before"] == await _keys(own.url)
                again, _ = await post(one, "before")
                new, _ = await post(one, f"{outage.name}-0")
                assert (202, first.json()["order_id"], 202) == (
                    again.status_code, again.json()["order_id"], new.status_code,
                )  # fmt: skip


async def _keys(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch("SELECT idempotency_key FROM api.claims")]
    finally:
        await connection.close()
