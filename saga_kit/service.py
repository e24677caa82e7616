"""The composition root of a service's process: makes the parts, starts them in order, and drains them at the end."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import structlog
import uvloop
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.messaging.batch import BatchProcess, Handler
from saga_kit.messaging.consumer import DRAIN_TIMEOUT_S, Consumer
from saga_kit.messaging.dead_letters import DeadLetters
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.messaging.publisher import Publisher
from saga_kit.messaging.topic_settings import check as check_topics
from saga_kit.runtime.backoff import RESTS, keep_doing
from saga_kit.runtime.clock import DatabaseClock
from saga_kit.runtime.database import check_sessions, create_engine, ping
from saga_kit.runtime.dsn import place
from saga_kit.runtime.errors import KitError, Stopped, describe
from saga_kit.runtime.health import STARTING, Health, HealthServer, health_routes, listen
from saga_kit.runtime.lookback import MARGIN_S, LookBack
from saga_kit.runtime.settings import KitSettings
from saga_kit.runtime.startup import wait_for
from saga_kit.runtime.telemetry import KitMetrics, Prefixed, configure_logging
from saga_kit.runtime.tracing import configure_tracing
from saga_kit.runtime.transactions import Transactions
from saga_kit.runtime.watchdog import watchdog

M = TypeVar("M")
UNSENT_MAX_S: Final = 60.0
SWEEP_TIMEOUT_S: Final = 5.0
MEASURE_S: Final = 5.0
COLLECT_AFTER: Final = 50_000
"""New containers between two runs of the garbage collector. Python's default (700 or 2,000) means many in a batch."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FurtherConsumer:
    """One more consumer of a process: a group of its own, with its own batches, that waits for none of the others.

    `name` is its group (after the prefix), and begins the names of its metrics. `handler` is made like the service's,
    and its `tasks` run like the service's, with its own batches.
    """

    name: str
    handler: Callable[[Kit], Handler[Any]]
    tasks: Sequence[Callable[[Kit, BatchProcess[Any]], Awaitable[None]]] = ()


@dataclass(frozen=True, slots=True)
class Kit:
    """What the kit has made when a service makes its own parts."""

    settings: KitSettings
    engine: AsyncEngine
    """For what is done seldom; see `transactions`."""
    transactions: Transactions
    """For what is done again and again."""
    publisher: Publisher
    registry: CollectorRegistry
    """Prometheus registry of this process: a service's own metrics go here."""
    stopping: asyncio.Event
    """Set when the process must end; loops and waits watch it."""


def run_service(
    settings: KitSettings,
    *,
    name: str,
    schema: str,
    handler: Callable[[Kit], Handler[M]],
    tasks: Sequence[Callable[[Kit, BatchProcess[M]], Awaitable[None]]] = (),
    further: Sequence[FurtherConsumer] = (),
) -> int:
    """Run a service until SIGTERM or SIGINT; return the exit status.

    `name` is the consumer group (after the prefix) and the logs' `service`; `schema` holds `outbox` and `dead_letters`.
    Each of `tasks` runs until `kit.stopping` is set; one that raises (anything but `Stopped`) ends the process with
    status 1. The consumers of `further` are made after the first one.
    """
    configure_logging(settings, service=name)
    configure_tracing(service=name)
    collect_seldom()
    try:
        uvloop.run(_run(settings, name, schema, handler, tasks, further))
    except KitError as error:
        log.critical("ends", cause=describe(error))
        return 1
    except Exception:
        log.critical("ends with an error of its own", exc_info=True)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


def collect_seldom() -> None:
    """Run the garbage collector seldom, and never over imported modules.

    A batch makes no reference cycles, so its values are freed without it. The collector would find next to nothing, and
    take a third of the time of a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


async def _run(
    settings: KitSettings,
    name: str,
    schema: str,
    handler: Callable[[Kit], Handler[M]],
    tasks: Sequence[Callable[[Kit, BatchProcess[M]], Awaitable[None]]],
    further: Sequence[FurtherConsumer],
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    service = Service(
        settings, name=name, schema=schema, handler=handler, tasks=tasks, further=further, stopping=stopping
    )
    with watchdog():
        await service.run()


class Service:
    """The parts of one process. Programs call `run_service`; tests run several services in one loop."""

    def __init__(
        self,
        settings: KitSettings,
        *,
        name: str,
        schema: str,
        handler: Callable[[Kit], Handler[Any]],
        tasks: Sequence[Callable[[Kit, BatchProcess[Any]], Awaitable[None]]] = (),
        further: Sequence[FurtherConsumer] = (),
        stopping: asyncio.Event,
    ) -> None:
        self._stopping = stopping
        self._schema = schema
        self._failure: Exception | None = None
        self._unsent_s = 0.0
        self._old_since: float | None = None
        """When the oldest unsent message was due, as the last full query saw it."""
        self._lookback = LookBack()
        self._clock = DatabaseClock()
        self._measure_sql = f"""
            SELECT (SELECT coalesce(greatest(extract(epoch FROM clock_timestamp() - min(due_at)), 0), 0) AS unsent_s
                    FROM {schema}.outbox WHERE available_at > statement_timestamp() - make_interval(secs => $1)),
                   (SELECT count(*) AS dead_letters
                    FROM {schema}.dead_letters WHERE replayed_at IS NULL AND discarded_at IS NULL),
                   extract(epoch FROM clock_timestamp()) AS now_s
            """  # noqa: S608 - the schema's name is the program's own
        self._metrics = KitMetrics()
        self._engine = create_engine(settings.sqlalchemy_url, application_name=name, by_key=True)
        self._transactions = Transactions(settings.sqlalchemy_url, application_name=name, by_key=True)
        self._publisher = Publisher(settings, client_id=f"{settings.kafka_topic_prefix}{name}")
        self._kit = Kit(settings, self._engine, self._transactions, self._publisher, self._metrics.registry, stopping)
        self._outbox = Outbox(schema)
        self._relay = Relay(self._transactions, schema, self._outbox, self._publisher)
        self._consumers = [self._consuming(name, handler(self._kit), self._metrics)]
        self._tasks = [(task, self._consumers[0].process) for task in tasks]
        for another in further:
            metrics = KitMetrics(CollectorRegistry())
            self._metrics.registry.register(Prefixed(another.name, metrics.registry))
            consuming = self._consuming(another.name, another.handler(self._kit), metrics)
            self._consumers.append(consuming)
            self._tasks += [(task, consuming.process) for task in another.tasks]
        self._health = Health({"started": _starting})
        self.server = HealthServer(
            listen(settings.http_host, settings.http_port), health_routes(self._health, self._metrics.registry)
        )

    def _consuming(self, group: str, handler: Handler[Any], metrics: KitMetrics) -> _Consuming:
        """Make a consumer and what works off its batches."""
        process = BatchProcess(
            transactions=self._transactions,
            handler=handler,
            outbox=self._outbox,
            dead_letters=DeadLetters(self._schema),
            publisher=self._publisher,
            metrics=metrics,
            stopping=self._stopping,
        )
        consumer = Consumer(
            self._kit.settings,
            group=group,
            handler=handler,
            process=process,
            publisher=self._publisher,
            metrics=metrics,
            fail=self._fail,
            now_s=self._clock.now_s,
        )
        return _Consuming(handler, process, consumer)

    @property
    def _topics(self) -> list[str]:
        return [topic for one in self._consumers for topic in one.handler.topics]

    async def run(self) -> None:
        """Start, work until `stopping`, and drain: the batch in work is committed, published and acknowledged."""
        settings = self._kit.settings
        self.server.start()
        log.info("starting", health=f"http://{settings.http_host}:{self.server.port}/health")
        try:
            url = settings.sqlalchemy_url
            await wait_for(f"database {place(url)}", self._database_ready, self._stopping)
            await wait_for(f"broker {settings.kafka_bootstrap_servers}", self._broker_ready, self._stopping)
            await wait_for("settings of topics", self._topics_fit, self._stopping)
            await wait_for(f"schema {self._schema}", self._handler_ready, self._stopping)
            if not self._stopping.is_set():
                await self._work()
        finally:
            self._stopping.set()
            await self._publisher.stop()
            await self._transactions.close()
            await self._engine.dispose()
            await self.server.stop()
            log.info("ended")

    async def _work(self) -> None:
        running = [asyncio.create_task(self._part(part)) for part in self._parts()]
        try:
            for one in self._consumers:
                await self._part(self._start(one))
            self._health.checks = {
                "database": self._database_trouble,
                "consumer": self._consumer_trouble,
                "outbox": self._outbox_trouble,
            }
            await self._stopping.wait()
        finally:
            self._stopping.set()
            self._health.checks = {"stopping": _stopping}
            # A batch that hangs has had its time: the process must end before its supervisor kills it.
            drain_s = max(1.0, DRAIN_TIMEOUT_S - max(one.process.trying_s for one in self._consumers))
            await asyncio.gather(*(one.consumer.stop(drain_s=drain_s) for one in self._consumers))
            _, late = await asyncio.wait(running, timeout=drain_s)
            for task in late:
                log.error("a task did not end in time", task=repr(task.get_coro()))
                task.cancel()
            await self._last_sweep()
        if self._failure is not None:
            raise self._failure

    async def _last_sweep(self) -> None:
        """Delete the published outbox rows. If that fails they are published once more, which is harmless."""
        try:
            async with asyncio.timeout(SWEEP_TIMEOUT_S):
                await self._relay.sweep(everything=True)
        except Exception as error:  # noqa: BLE001 - it only saves work
            log.warning("published rows stay in the outbox and will be sent again", cause=describe(error))

    async def _start(self, one: _Consuming) -> None:
        """Join a group; stop trying when the process must end."""
        if self._stopping.is_set():
            return
        starting = asyncio.create_task(one.consumer.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.result()
            log.info("consuming", topics=list(one.handler.topics))

    def _parts(self) -> list[Awaitable[None]]:
        return [
            *(one.consumer.watch(self._stopping) for one in self._consumers),
            self._relay.run(self._stopping),
            keep_doing("measuring", self._measure, self._stopping, every_s=MEASURE_S, rests=RESTS),
            *(task(self._kit, process) for task, process in self._tasks),
        ]

    async def _part(self, part: Awaitable[None]) -> None:
        """Run a part to its end. Its failure ends the process by draining, never by a cancellation."""
        try:
            await part
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - stored, and raised when all is drained
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            log.error("a part failed, the process ends", cause=describe(error))
            self._failure = error
        self._stopping.set()

    async def _measure(self) -> None:
        with self._lookback.look() as look:
            async with self._transactions.alone() as tx:
                unsent, dead_letters, now_s = await tx.fetchrow(self._measure_sql, look.back_s)
            unsent_s = float(unsent)
            look.saw_all = True
        self._clock.show(float(now_s))
        now = asyncio.get_running_loop().time()
        if look.at_everything:
            self._old_since = now - unsent_s if unsent_s > MARGIN_S else None
        old_s = 0.0 if self._old_since is None else now - self._old_since
        self._unsent_s = max(unsent_s, old_s)
        self._metrics.outbox_oldest_unsent_seconds.set(self._unsent_s)
        self._metrics.dead_letters.set(dead_letters)

    async def _database_ready(self) -> str | None:
        await check_sessions(self._engine)
        await self._measure()  # it fails when the database is not migrated
        return None

    async def _handler_ready(self) -> str | None:
        for one in self._consumers:
            if (prepare := getattr(one.handler, "prepare", None)) is not None:
                async with self._transactions.begin() as tx:
                    await prepare(tx)
        return None

    async def _broker_ready(self) -> str | None:
        missing = await self._publisher.missing_topics(self._topics)
        return f"missing topics (or hidden from this login): {', '.join(missing)}" if missing else None

    async def _topics_fit(self) -> str | None:
        compacted = [name for one in self._consumers for name in getattr(one.handler, "compacted", ())]
        self._metrics.topic_deviations.set(await check_topics(self._kit.settings, self._topics, compacted))
        return None

    async def _database_trouble(self) -> str | None:
        await ping(self._engine)
        return None

    async def _consumer_trouble(self) -> str | None:
        return next((trouble for one in self._consumers if (trouble := one.consumer.trouble())), None)

    async def _outbox_trouble(self) -> str | None:
        return f"oldest unsent message is {self._unsent_s:.0f} s old" if self._unsent_s > UNSENT_MAX_S else None


class _Consuming(NamedTuple):
    """A consumer with its handler and its batches."""

    handler: Handler[Any]
    process: BatchProcess[Any]
    consumer: Consumer[Any]


async def _starting() -> str:
    return STARTING


async def _stopping() -> str:
    return "stopping"
