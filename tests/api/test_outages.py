"""What an outage looks like from outside: readiness turns red and names the cause, and green again by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from contracts.topics import TOPICS
from order_api.settings import ApiSettings
from tests.api.support import BUY, records, token, until
from tests.api.test_process import Running, process
from tests.infrastructure import create_topics, migrated_database, own_broker, own_postgres

RED_WITHIN_S = 10.0
"""A check gives up after 3 s."""
GREEN_WITHIN_S = 30.0
ANSWER_WITHIN_S = 10.0
"""No client waits longer for a 503: connecting and publishing have limits of 5 and 4 s."""


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


async def _is_alive_all_the_time(one: Running) -> None:
    while True:
        answer = await one.client.get("/health/live", timeout=2)
        assert httpx.codes.OK == answer.status_code
        await asyncio.sleep(0.1)


async def seconds_until(one: Running, holds: Callable[[httpx.Response], bool]) -> float:
    """Ask for readiness until an answer fits; return how long that took."""
    begin = time.monotonic()

    async def fits() -> bool:
        return holds(await one.client.get("/health/ready"))

    await until(fits, 60)
    return time.monotonic() - begin


def red_for(*names: str) -> Callable[[httpx.Response], bool]:
    """Judge whether readiness is a 503 that names just these checks."""

    def holds(answer: httpx.Response) -> bool:
        red = {name for name, result in answer.json()["checks"].items() if result != "ok"}
        return answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and red == set(names)

    return holds


def green(answer: httpx.Response) -> bool:
    """Judge whether all is well."""
    return answer.status_code == httpx.codes.OK


async def post(one: Running, key: str) -> tuple[httpx.Response, float]:
    """Submit an order; return the answer and the seconds that it took."""
    begin = time.monotonic()
    headers = {"Authorization": f"Bearer {token()}", "Idempotency-Key": key}
    return await one.client.post("/orders", json=BUY, headers=headers), time.monotonic() - begin


def tell(what: str, **figures: object) -> None:
    """Print what was observed; `pytest -s` shows it."""
    print(what, {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()})  # noqa: T201


@pytest.mark.apache_kafka
async def test_a_broker_that_is_away_turns_readiness_red_and_loses_no_order(settings: ApiSettings) -> None:
    """Killed: 503, naming the broker; an order is kept, and told so with its address. Back: green, and it goes out."""
    async with own_broker() as broker:
        await create_topics(broker.address, {topic.name: topic.partitions for topic in TOPICS})
        here = settings.model_copy(update={"kafka_bootstrap_servers": broker.address, "kafka_topic_prefix": ""})
        async with watched_process(here) as one:
            assert httpx.codes.ACCEPTED == (await post(one, "before"))[0].status_code
            await broker.kill()
            red_s = await seconds_until(one, red_for("broker"))
            answers = [await post(one, f"away-{number}") for number in range(3)]
            read = await one.client.get(
                answers[0][0].headers["location"], headers={"Authorization": f"Bearer {token()}"}
            )
            await broker.start()
            green_s = await seconds_until(one, green)
            again, again_s = await post(one, "away-0")
            order_ids = {answer.json()["order_id"] for answer, _ in answers}
            await until(lambda: _all_published(broker.address, order_ids), 60)
    took_s = [seconds for _, seconds in answers]
    tell(
        "broker away:", red_s=red_s, posts=[answer.status_code for answer, _ in answers], took_s=took_s, green_s=green_s
    )
    assert (503, "not-published") == (answers[0][0].status_code, answers[0][0].json()["code"])
    assert {"not-published"} == {answer.json()["code"] for answer, _ in answers}
    assert (200, "PENDING") == (read.status_code, read.json()["status"])
    assert (202, answers[0][0].json()["order_id"]) == (again.status_code, again.json()["order_id"])
    assert max(*took_s, again_s) < ANSWER_WITHIN_S
    assert red_s < RED_WITHIN_S
    assert green_s < GREEN_WITHIN_S


async def _all_published(address: str, order_ids: set[str]) -> bool:
    return order_ids <= {record.key.decode() for record in await records(address, "")}


async def test_a_database_that_is_away_turns_readiness_red_and_takes_no_order(settings: ApiSettings) -> None:
    """Killed: 503, naming the database; nothing is accepted, nobody is left waiting. Back: green, and it goes on."""
    async with own_postgres() as postgres:
        own = await migrated_database(postgres.address)
        here = settings.model_copy(update={"database_url": SecretStr(own.url_of("api"))})
        async with watched_process(here) as one:
            first, _ = await post(one, "before")
            assert httpx.codes.ACCEPTED == first.status_code
            await postgres.kill()
            red_s = await seconds_until(one, red_for("database"))
            answers = [await post(one, f"away-{number}") for number in range(3)]
            read = await one.client.get(first.headers["location"], headers={"Authorization": f"Bearer {token()}"})
            await postgres.start()
            green_s = await seconds_until(one, green)
            again, _ = await post(one, "before")
            new, _ = await post(one, "away-0")
    took_s = [seconds for _, seconds in answers]
    tell(
        "database away:",
        red_s=red_s,
        posts=[answer.status_code for answer, _ in answers],
        took_s=took_s,
        green_s=green_s,
    )
    refused = [*(answer for answer, _ in answers), read]
    assert {(503, "unavailable")} == {(answer.status_code, answer.json()["code"]) for answer in refused}
    assert all("retry-after" in answer.headers for answer, _ in answers)
    assert (202, first.json()["order_id"], 202) == (again.status_code, again.json()["order_id"], new.status_code)
    assert max(took_s) < ANSWER_WITHIN_S
    assert red_s < RED_WITHIN_S
    assert green_s < GREEN_WITHIN_S
