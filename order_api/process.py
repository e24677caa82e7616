"""One process of the API: it serves the application, and drains it when it is asked to end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog
import uvicorn
import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from contracts.topics import (
    HOLDS_EVENTS,
    HOLDS_REQUESTS,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
)
from order_api.app import create_app
from order_api.http.connections import make_room
from order_api.http.websockets import MESSAGE_BYTES_MAX, PING_S
from order_api.settings import ApiSettings
from saga_kit.messaging.publisher import Publisher
from saga_kit.messaging.topic_settings import check as check_topics
from saga_kit.runtime.database import check_sessions, create_engine, ping
from saga_kit.runtime.dsn import place
from saga_kit.runtime.errors import CannotStart, KitError, describe
from saga_kit.runtime.health import EmbeddedServer, Health, listen
from saga_kit.runtime.settings import load
from saga_kit.runtime.startup import wait_for
from saga_kit.runtime.telemetry import configure_logging
from saga_kit.runtime.tracing import configure_tracing
from saga_kit.runtime.transactions import Transactions
from saga_kit.service import collect_seldom

NAME: Final = "api"
CHECKS: Final = 2
"""Connections for checks, apart from those of requests: whether a pooler shares sessions is seen with two."""
STATEMENT_TIMEOUT_S: Final = 5
"""Of a request: a client is rather told soon that the database does not answer."""
KEEP_ALIVE_S: Final = 30
DRAIN_S: Final = 8
LAST_ANSWERS_S: Final = 3
"""How long clients that keep connections open are still answered when the process ends; the answer closes theirs."""

log = structlog.get_logger(__name__)


def run() -> int:
    """Run one API process until it is asked to stop; return the exit status."""
    settings = load(ApiSettings)
    configure_logging(settings, service=NAME)
    configure_tracing(service=NAME)
    collect_seldom()
    try:
        uvloop.run(serve(settings))
    except KitError as error:
        log.critical("ends", cause=describe(error))
        return 1
    return 0


async def serve(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT, then answer the requests that are under way."""
    sock = listen(settings.http_host, settings.http_port)
    engine = create_engine(settings.sqlalchemy_url, application_name=NAME, pool_size=CHECKS)
    transactions = Transactions(
        settings.sqlalchemy_url,
        application_name=NAME,
        size=settings.api_database_pool_size,
        statement_timeout_s=STATEMENT_TIMEOUT_S,
    )
    publisher = Publisher(settings, client_id=f"{settings.kafka_topic_prefix}{NAME}")
    app = create_app(settings, transactions, publisher, health=readiness(engine, publisher))
    server = server_for(app, settings.trusted_proxies)
    make_room(settings.api_connections_max)
    log.info("starting", url="http://{}:{}".format(*sock.getsockname()[:2]))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    stopping = asyncio.Event()
    checking = asyncio.create_task(_check_database(engine, server, stopping))
    looking = asyncio.create_task(_check_topics(settings, stopping))
    try:
        await server.serve(sockets=[sock])
        if not server.started:
            raise CannotStart("the application did not start")
    finally:
        stopping.set()
        await asyncio.gather(checking, looking, return_exceptions=True)
        await publisher.stop()
        await transactions.close()
        await engine.dispose()
        log.info("ended")
    checking.result()


async def _check_database(engine: AsyncEngine, server: uvicorn.Server, stopping: asyncio.Event) -> None:
    """Wait for the database while requests are served already; end the process when it can never be used."""
    try:
        await wait_for(f"database {place(engine.url)}", lambda: check_sessions(engine), stopping)
    except CannotStart:
        server.should_exit = True
        raise


async def _check_topics(settings: ApiSettings, stopping: asyncio.Event) -> None:
    """Log what is wrong with the topics. Requests are served all the same: their orders are safe in the database."""

    async def check() -> None:
        topics = (ORDERS_REQUESTS, ORDERS_CANCELS, ORDERS_CHANGES, ORDERS_EVENTS, HOLDS_REQUESTS, HOLDS_EVENTS)
        await check_topics(settings, [topic.name for topic in topics])

    with suppress(CannotStart):  # each deviation is in the log by now
        await wait_for("settings of topics", check, stopping)


def server_for(app: Starlette, trusted_proxies: Sequence[str] = ()) -> uvicorn.Server:
    """Make the server of an application. It takes its sockets from `serve`, and handles no signals.

    `X-Forwarded-For` counts when it comes from one of the `trusted_proxies`, and from nobody else.
    """
    return _Server(
        uvicorn.Config(
            app,
            http=app.state.connections.make,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=MESSAGE_BYTES_MAX,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            ws_per_message_deflate=False,  # each connection would keep the memory of a compressor
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )


def readiness(engine: AsyncEngine, publisher: Publisher) -> Health:
    """Ready means that an order could be accepted now: claimed and published."""

    async def database() -> None:
        await ping(engine)

    async def broker() -> str | None:
        missing = await publisher.missing_topics([ORDERS_REQUESTS.name, ORDERS_CANCELS.name])
        return f"topic {missing[0]} does not exist, or is hidden from this login" if missing else None

    return Health({"database": database, "broker": broker})


class _Server(EmbeddedServer):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, answer each open one once more, end what waits and streams, then drain as usual."""
        state = self.config.app.state  # type: ignore[union-attr]  # uvicorn's type is any ASGI application
        for listener in self.servers:
            listener.close()
        state.waiters.close()
        state.streams.close()
        await state.connections.drain(LAST_ANSWERS_S)
        await super().shutdown(sockets)
