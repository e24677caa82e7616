"""The API, the orchestrator and both participants in one process, for tests that observe all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from pydantic import SecretStr

from contracts.topics import TOPICS
from operations.demo.samples import load_samples
from order_api.settings import ApiSettings
from order_saga.worker import tables as orders_tables
from order_saga.worker.circuit_breaker import CircuitBreaker
from order_saga.worker.metrics import SagaMetrics
from order_saga.worker.process import SagaHandler
from order_saga.worker.timers import run_timers
from participants.assets import tables as assets
from participants.assets.feed import Feed
from participants.assets.service import AssetHandler
from participants.balance import tables as balance
from participants.balance.service import participant
from saga_kit.runtime.settings import KitSettings
from saga_kit.service import Service
from tests.order_api.support import SECRET, Api
from tests.order_api.support import running as running_api
from tests.support.infrastructure import LOGINS, Database, Infrastructure

TIME_SCALE: Final = 10.0
"""No question is asked twice because this process, which is all of them, stood still for some seconds."""


@asynccontextmanager
async def whole_system(infrastructure: Infrastructure, database: Database, prefix: str) -> AsyncIterator[Api]:
    """Run the API, the orchestrator and both participants in this process."""
    await infrastructure.create_topics({prefix + topic.name: topic.partitions for topic in TOPICS})
    await load_samples({login: database.url_of(login) for login in LOGINS}, time_scale=1.0)
    settings: dict[str, dict[str, Any]] = {
        login: {
            "database_url": SecretStr(database.url_of(login)),
            "kafka_bootstrap_servers": infrastructure.kafka_bootstrap_servers,
            "kafka_topic_prefix": prefix,
            "kafka_session_timeout_s": 6,
            "http_port": 0,
        }
        for login in LOGINS
    }
    stopping = asyncio.Event()
    services = _services({name: KitSettings(**values) for name, values in settings.items()}, stopping)
    async with AsyncExitStack() as stack:
        running = [asyncio.create_task(service.run()) for service in services]
        stack.push_async_callback(_drain, running, stopping)
        yield await stack.enter_async_context(
            running_api(ApiSettings(**settings["api"], jwt_secret=SecretStr(SECRET), api_access_log=False))
        )


def _services(settings: dict[str, KitSettings], stopping: asyncio.Event) -> list[Service]:
    breaker = CircuitBreaker()
    orders = SagaHandler(time_scale=TIME_SCALE, metrics=SagaMetrics(), breaker=breaker)
    feeds: list[Feed] = []

    def asset_handler(kit: Any) -> AssetHandler:
        feeds.append(Feed(kit.transactions, 1.0))
        return AssetHandler(timedelta(seconds=10), feeds[0].catch_up)

    async def timers(kit: Any, process: Any) -> None:
        await run_timers(kit.transactions, process, breaker, kit.stopping, interval_s=0.25)

    async def feed(kit: Any, _process: Any) -> None:
        await feeds[0].run(kit.stopping)

    return [
        Service(
            settings["orchestrator"], name="orchestrator", schema=orders_tables.SCHEMA, handler=lambda _: orders,
            tasks=(timers,), stopping=stopping,
        ),
        Service(
            settings["balance"], name="balance", schema=balance.SCHEMA, handler=lambda _: participant(),
            stopping=stopping,
        ),
        Service(
            settings["assets"], name="assets", schema=assets.SCHEMA, handler=asset_handler, tasks=(feed,),
            stopping=stopping,
        ),
    ]  # fmt: skip


async def _drain(running: Sequence[asyncio.Task[None]], stopping: asyncio.Event) -> None:
    stopping.set()
    await asyncio.gather(*running)
