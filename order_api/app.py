"""The composition root: builds the parts of one API process, runs them, and drains them when asked to end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, PlatformCollector, ProcessCollector
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from contracts.topics import ORDERS_REQUESTS
from order_api.access_log import AccessLog
from order_api.desk import Desk
from order_api.door import Door, on_http_error, on_problem
from order_api.follower import Follower
from order_api.gate import Gate
from order_api.keys import JwksKeys, SharedSecret
from order_api.pages import page_routes
from order_api.problems import Problem
from order_api.routes import OrderRoutes
from order_api.settings import ApiSettings
from order_api.store import GRACE_S, Store
from order_api.sweeper import Sweeper
from order_api.tokens import Tokens
from order_api.waiters import Waiters
from saga_kit.database import create_engine, ping
from saga_kit.errors import CannotStart, KitError, describe
from saga_kit.health import Health, health_routes, listen
from saga_kit.outbox import Publishes
from saga_kit.publisher import Publisher
from saga_kit.settings import load
from saga_kit.telemetry import configure_logging
from saga_kit.tracing import configure_tracing

NAME: Final = "api"
HEAD_BYTES_MAX: Final = 16_384
"""Of a request's line and headers; a token fits many times."""
KEEP_ALIVE_S: Final = 30
DRAIN_S: Final = 8

log = structlog.get_logger(__name__)


def run() -> int:
    """Run one API process until it is told to stop; return the exit status."""
    settings = load(ApiSettings)
    configure_logging(settings, service=NAME)
    configure_tracing(service=NAME)
    try:
        uvloop.run(serve(settings))
    except KitError as error:
        log.critical("ends", cause=describe(error))
        return 1
    return 0


async def serve(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT: what is under way is answered first."""
    sock = listen(settings.http_host, settings.http_port)
    engine = create_engine(settings.sqlalchemy_url, application_name=NAME, pool_size=settings.api_database_pool_size)
    publisher = Publisher(settings, client_id=f"{settings.kafka_topic_prefix}{NAME}")
    server = server_for(create_app(settings, engine, publisher, health=readiness(engine, publisher)))
    log.info("starting", url="http://{}:{}".format(*sock.getsockname()[:2]))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    try:
        await server.serve(sockets=[sock])
        if not server.started:
            raise CannotStart("the application did not start")
    finally:
        await publisher.stop()
        await engine.dispose()
        log.info("ended")


def create_app(
    settings: ApiSettings, engine: AsyncEngine, publisher: Publishes, *, health: Health, grace_s: float = GRACE_S
) -> FastAPI:
    """Build the application; while it runs, so does its sweeper."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    accepted = Counter("orders_accepted", "Orders whose claim is committed.", registry=registry)
    republished = Counter("orders_published_again", "Claims and cancels that the sweeper published.", registry=registry)
    store = Store(engine, grace_s=grace_s)
    waiters = Waiters()
    follower = Follower(settings, waiters)
    sweeper = Sweeper(store, publisher, republished, interval_s=settings.api_sweep_interval_s)
    keys = _keys(settings, registry)
    tokens = Tokens(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, leeway_s=settings.jwt_leeway_s)
    if isinstance(keys, JwksKeys):
        health.checks["token keys"] = keys.check

    access_log = (
        AccessLog(log_format=settings.log_format, level=settings.log_level) if settings.api_access_log else None
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sweeper.run(stopping))
            tasks.create_task(follower.run(stopping))
            if isinstance(keys, JwksKeys):
                tasks.create_task(keys.run(stopping))
            yield
            stopping.set()

    app = FastAPI(
        openapi_url=None,  # the pages have one of their own
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[Middleware(Door, registry=registry, access_log=access_log)],
        exception_handlers={Problem: on_problem, HTTPException: on_http_error},
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # the door's work
    )
    desk = Desk(store, publisher, waiters, accepted, keys_kept_days=settings.api_idempotency_key_days)
    app.state.waiters, app.state.follower = waiters, follower
    OrderRoutes(desk, Gate(tokens), body_bytes_max=settings.api_body_bytes_max).attach(app)
    app.router.routes.extend([*health_routes(health, registry), *page_routes()])
    return app


def _keys(settings: ApiSettings, registry: CollectorRegistry) -> SharedSecret | JwksKeys:
    if settings.jwt_secret is not None:
        return SharedSecret(settings.jwt_secret.get_secret_value())
    if settings.jwt_audience is None:
        log.warning("tokens for any service are taken: JWT_AUDIENCE is not set")
    return JwksKeys(str(settings.jwt_jwks_url), registry=registry, refresh_s=settings.jwt_jwks_refresh_s)


def server_for(app: FastAPI) -> uvicorn.Server:
    """Make the server of an application; it listens on what `serve` is given, and leaves signals alone."""
    return _Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            proxy_headers=False,  # nothing here depends on where a request seems to come from
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )


def readiness(engine: AsyncEngine, publisher: Publisher) -> Health:
    """Ready means that an order could be accepted now: claimed and published."""

    async def database() -> None:
        await ping(engine)

    async def broker() -> str | None:
        missing = await publisher.missing_topics([ORDERS_REQUESTS.name])
        return f"topic {ORDERS_REQUESTS.name} does not exist" if missing else None

    return Health({"database": database, "broker": broker})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to us: uvicorn would raise them again when it has ended, and so skip what is left to do."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those who wait for an order with what there is, then drain as usual."""
        self.config.app.state.waiters.close()  # type: ignore[union-attr]  # uvicorn's type is any ASGI application
        await super().shutdown(sockets)
