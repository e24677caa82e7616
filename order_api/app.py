"""The composition root: builds the application of one API process, with what runs beside its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Lifespan

from contracts.topics import (
    ASSETS_PRICES,
    HOLDS_EVENTS,
)
from order_api.description import api_document
from order_api.holds.routes import HoldRoutes
from order_api.holds.service import HoldListener, HoldService, HoldSweeper
from order_api.holds.store import Store as HoldStore
from order_api.http.access_log import AccessLog
from order_api.http.addresses import VERSION_PREFIX, Addresses
from order_api.http.authentication import Authentication
from order_api.http.connections import make_connections
from order_api.http.errors import ErrorHandler, on_http_error
from order_api.http.keys import JwksKeys, SharedSecret
from order_api.http.limits import InFlight, LoadShedding, RateLimit
from order_api.http.middleware import RequestTelemetry
from order_api.http.routing import Direct, Endpoint, literal_paths_first
from order_api.http.tokens import Tokens
from order_api.http.websockets import WebSocket
from order_api.live.disabled import DisabledEndpoints
from order_api.live.feed import Feed
from order_api.live.marks import Marks
from order_api.live.messages import PATH
from order_api.live.routes import StreamRoutes
from order_api.live.service import LiveUpdates
from order_api.live.snapshots import Snapshots
from order_api.live.sse import FRAMES
from order_api.live.store import LiveStore
from order_api.live.streams import Streams
from order_api.live.websocket import WebSockets
from order_api.market.prices import LatestPrices
from order_api.market.routes import MarketRoutes
from order_api.market.store import MarketStore
from order_api.notifications.routes import NotificationRoutes
from order_api.notifications.service import NotificationService
from order_api.notifications.store import Store as NotificationStore
from order_api.openapi.declarations import Operation, operations_of
from order_api.openapi.document import api_route
from order_api.openapi.health import HealthRoutes
from order_api.openapi.pages import PageRoutes, swagger_routes
from order_api.orders.changes.routes import ChangeRoutes
from order_api.orders.changes.service import Changes
from order_api.orders.changes.store import ChangeStore
from order_api.orders.description.problem_examples import problem_examples
from order_api.orders.follower import Follower
from order_api.orders.mass_cancels.routes import MassCancelRoutes
from order_api.orders.mass_cancels.service import MassCancels
from order_api.orders.mass_cancels.store import MassCancelStore
from order_api.orders.publication.sweeper import Sweeper
from order_api.orders.publication.unpublished import Unpublished
from order_api.orders.publication.unread import GRACE_S
from order_api.orders.routes import OrderRoutes
from order_api.orders.service import OrderService
from order_api.orders.store import Store
from order_api.orders.waiting import Waiters, Waiting
from order_api.preview.inquiry import Inquiry
from order_api.preview.routes import PreviewRoutes
from order_api.preview.service import Previews
from order_api.settings import ApiSettings
from order_api.webhooks.routes import WebhookRoutes
from order_api.webhooks.service import WebhookService
from order_api.webhooks.store import Store as WebhookStore
from saga_kit.messaging.follower import TopicFollower
from saga_kit.messaging.outbox import Publishes
from saga_kit.runtime.connections import Connections
from saga_kit.runtime.health import Health, health_routes
from saga_kit.runtime.sealing import Seal
from saga_kit.runtime.transactions import Begins

HOT: Final = frozenset({"submitOrder", "streamEvents", "streamOrder"})
"""Calls that are served without FastAPI: the one that comes most, and those that stay, each with what serves it."""
CORS_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
CORS_HEADERS: Final = (
    *("authorization", "content-type", "idempotency-key", "if-match", "if-none-match", "last-event-id", "prefer"),
    "traceparent",
)
CORS_EXPOSED: Final = (
    *("etag", "idempotency-replayed", "location", "preference-applied", "retry-after", "www-authenticate"),
    *("ratelimit-limit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset"),
)
"""What a script in a browser may read of an answer, besides its body."""
CORS_S: Final = 600
"""How long a browser remembers what it was allowed."""

Background = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""What runs beside the requests until the event is set."""

log = structlog.get_logger(__name__)


def create_app(
    settings: ApiSettings,
    source: AsyncEngine | Begins,
    publisher: Publishes,
    *,
    health: Health,
    grace_s: float = GRACE_S,
) -> Starlette:
    """Build the application: the hot routes first, FastAPI for the others. While it runs, so does its sweeper."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    accepted = Counter("orders_accepted", "Orders whose claim is committed.", registry=registry)
    store, unpublished = Store(source, grace_s=grace_s), Unpublished()
    change_store = ChangeStore(source, grace_s=grace_s)
    feed = Feed()
    streams = _streams(settings, feed, registry)
    waiters = _waiters(settings, streams, registry)
    follower = _follower(settings, waiters, feed, registry)
    sweeper = _sweeper(settings, store, change_store, publisher, unpublished, registry)
    mass_cancels = _mass_cancels(settings, MassCancelStore(source, grace_s=grace_s), publisher, unpublished, registry)
    in_flight = InFlight(settings.api_in_flight_max, registry=registry)
    keys = _keys(settings, registry, in_flight)
    authentication = _authentication(settings, keys)
    inquiry = Inquiry(settings, publisher)
    holds, *of_holds = _holds(settings, source, publisher, registry, in_flight, grace_s)
    live_store = LiveStore(source)
    background = [sweeper.run, follower.run, mass_cancels.run, mass_cancels.run_timers, inquiry.run, *of_holds]
    market, prices, follows_prices, reads_prices = _market(settings, source, feed, registry)
    background += [follows_prices, reads_prices, streams.run, Marks(feed, live_store, lambda: follower.complete_at).run]
    background.append(DisabledEndpoints(feed, live_store).run)
    if isinstance(keys, JwksKeys):
        health.checks["token keys"] = keys.check
        background.append(keys.run)
    connections = _connections(settings, registry)
    service = OrderService(
        store, publisher, accepted, unpublished=unpublished, keys_kept_days=settings.api_idempotency_key_days
    )
    waiting = Waiting(service.order, waiters, in_flight)
    orders = OrderRoutes(service, waiting, in_flight, body_bytes_max=settings.api_body_bytes_max)
    changes = ChangeRoutes(
        *(service, Changes(service, change_store), waiting, in_flight), body_bytes_max=settings.api_body_bytes_max
    )
    many = MassCancelRoutes(mass_cancels, in_flight, body_bytes_max=settings.api_body_bytes_max)
    asking = Previews(store, inquiry, waiters, in_flight)
    previews = PreviewRoutes(asking, in_flight, body_bytes_max=settings.api_body_bytes_max)
    live = LiveUpdates(feed, streams, live_store, Snapshots(live_store), service, prices)
    events = StreamRoutes(live, streams, service, in_flight)
    webhooks = _webhooks(settings, source, registry, in_flight)
    notifications = _notifications(settings, source, registry, in_flight)
    pages = PageRoutes(api_document(), problem_examples())
    sockets = WebSockets(live, streams, service, authentication, settings.cors_origins)
    health_pages = HealthRoutes(health_routes(health, registry))
    of_live = (events, market, webhooks, notifications)
    served = _served((many, previews, orders, changes, *of_live, holds, pages, health_pages), authentication)
    app = _application(sockets, served, [*background, connections.watch], _middleware(settings, in_flight, registry))
    app.state.waiters, app.state.follower, app.state.connections = waiters, follower, connections
    app.state.inquiry, app.state.streams, app.state.prices = inquiry, streams, prices
    return app


def _application(
    sockets: WebSockets,
    served: Sequence[tuple[Operation, Endpoint]],
    background: Sequence[Background],
    middleware: Sequence[Middleware],
) -> Starlette:
    app = Starlette(
        routes=[
            WebSocketRoute(PATH, sockets),
            *_hot(served),
            Mount("/", _cold(served)),
        ],
        lifespan=_lifespan(background),
        middleware=middleware,
        exception_handlers={HTTPException: on_http_error},
    )
    app.router.redirect_slashes = False
    return app


def _holds(
    settings: ApiSettings,
    source: AsyncEngine | Begins,
    publisher: Publishes,
    registry: CollectorRegistry,
    in_flight: InFlight,
    grace_s: float,
) -> tuple[HoldRoutes, Background, Background]:
    """Make the routes of holds, and what runs beside them: what hears of holds, and what asks again."""
    accepted = Counter(
        "hold_requests_accepted", "Requests for holds that are committed.", ["action"], registry=registry
    )
    republished = Counter("hold_requests_published_again", "Requests that the sweeper published.", registry=registry)
    store = HoldStore(source, grace_s=grace_s)
    service = HoldService(store, publisher, accepted, keys_kept_days=settings.api_idempotency_key_days)
    follower = TopicFollower(settings, HOLDS_EVENTS.name, HoldListener(store), name="api-holds")
    followed = Gauge("hold_events_followed", "1 while the events of holds are written down.", registry=registry)
    followed.set_function(lambda: follower.following)
    sweeper = HoldSweeper(store, publisher, republished, interval_s=settings.api_sweep_interval_s)
    routes = HoldRoutes(service, in_flight, body_bytes_max=settings.api_body_bytes_max)
    return routes, follower.run, sweeper.run


def _webhooks(
    settings: ApiSettings, source: AsyncEngine | Begins, registry: CollectorRegistry, in_flight: InFlight
) -> WebhookRoutes:
    keys = settings.webhooks_keys
    done = Counter("webhook_requests", "What was done to endpoints for their users.", ["action"], registry=registry)
    service = WebhookService(
        WebhookStore(source),
        None if keys is None else Seal(keys.get_secret_value()),
        done,
        anywhere=bool(settings.webhooks_allow_networks),
        keys_kept_days=settings.api_idempotency_key_days,
    )
    return WebhookRoutes(service, in_flight, body_bytes_max=settings.api_body_bytes_max)


def _notifications(
    settings: ApiSettings, source: AsyncEngine | Begins, registry: CollectorRegistry, in_flight: InFlight
) -> NotificationRoutes:
    keys = settings.webhooks_keys
    labels = "action", "outcome"
    asked = Counter("notification_requests", "What users asked of their notifications.", labels, registry=registry)
    service = NotificationService(
        NotificationStore(source),
        None if keys is None else Seal(keys.get_secret_value()),
        asked,
        anywhere=bool(settings.webhooks_allow_networks),
        email=settings.api_notify_email,
        push_key=settings.api_notify_push_key,
    )
    return NotificationRoutes(service, in_flight, body_bytes_max=settings.api_body_bytes_max)


def _streams(settings: ApiSettings, feed: Feed, registry: CollectorRegistry) -> Streams:
    return Streams(
        feed,
        streams_max=min(settings.api_streams_max, settings.api_connections_max // 2 or 1),
        per_user_max=settings.api_streams_per_user_max,
        registry=registry,
        heartbeat=FRAMES.heartbeat,
    )


def _market(
    settings: ApiSettings, source: AsyncEngine | Begins, feed: Feed, registry: CollectorRegistry
) -> tuple[MarketRoutes, LatestPrices, Background, Background]:
    """Make the routes of the market, the prices in memory, and what hears and reads these beside the requests."""
    store = MarketStore(source)
    prices = LatestPrices(store, feed.hear_prices)
    follower = TopicFollower(settings, ASSETS_PRICES.name, prices, name="api-prices")
    followed = Gauge("asset_prices_followed", "1 while the prices of assets are followed.", registry=registry)
    followed.set_function(lambda: follower.following)

    async def read(stopping: asyncio.Event) -> None:
        await prices.run(stopping, lambda: follower.following)

    return MarketRoutes(prices, store), prices, follower.run, read


def _follower(settings: ApiSettings, waiters: Waiters, feed: Feed, registry: CollectorRegistry) -> Follower:
    follower = Follower(settings, waiters, feed)
    followed = Gauge("order_events_followed", "1 while waiting requests are notified of events.", registry=registry)
    followed.set_function(lambda: follower.following)
    return follower


def _sweeper(
    settings: ApiSettings,
    store: Store,
    change_store: ChangeStore,
    publisher: Publishes,
    unpublished: Unpublished,
    registry: CollectorRegistry,
) -> Sweeper:
    republished = Counter("orders_published_again", "Messages that the sweeper published.", registry=registry)
    interval_s = settings.api_sweep_interval_s
    return Sweeper(store, change_store, publisher, republished, unpublished, interval_s=interval_s)


def _mass_cancels(
    settings: ApiSettings,
    store: MassCancelStore,
    publisher: Publishes,
    unpublished: Unpublished,
    registry: CollectorRegistry,
) -> MassCancels:
    fired = Counter("cancel_timers_fired", "Cancel timers that nobody renewed in time.", registry=registry)
    return MassCancels(
        store,
        publisher,
        fired,
        unpublished=unpublished,
        keys_kept_days=settings.api_idempotency_key_days,
        interval_s=settings.api_sweep_interval_s,
    )


def _connections(settings: ApiSettings, registry: CollectorRegistry) -> Connections:
    per_user = settings.api_connections_per_user_max
    paths = (f"{prefix}{PATH}{slash}".encode() for prefix in ("", VERSION_PREFIX) for slash in ("", "/"))
    upgrades = dict.fromkeys(paths, WebSocket)
    return make_connections(settings.api_connections_max, per_user=per_user, registry=registry, upgrades=upgrades)


def _served(holders: Sequence[object], authentication: Authentication) -> list[tuple[Operation, Endpoint]]:
    """List all declared calls, each with the function that serves it; what has scopes asks for the caller first."""
    return [
        (one, authentication.needed(getattr(holder, name), *one.scopes) if one.scopes else getattr(holder, name))
        for holder in holders
        for one, name in operations_of(type(holder))
    ]


def _hot(served: Sequence[tuple[Operation, Endpoint]]) -> list[Route]:
    """Make the hot routes."""
    hot = [one for one in served if one[0].name in HOT]
    return [Route(operation.path, Direct(endpoint), methods=[operation.method]) for operation, endpoint in hot]


def _cold(served: Sequence[tuple[Operation, Endpoint]]) -> FastAPI:
    """Make the application of all other routes."""
    app = FastAPI(
        openapi_url=None,  # PageRoutes serves the document
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(ErrorHandler)],  # inside, too: else FastAPI would answer unexpected errors itself
        exception_handlers={HTTPException: on_http_error},
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # RequestTelemetry's
    )
    cold = [api_route(operation, endpoint) for operation, endpoint in served if operation.name not in HOT]
    app.router.routes += literal_paths_first([*swagger_routes(), *cold])
    return app


def _lifespan(tasks: Sequence[Background]) -> Lifespan[Starlette]:
    """Run what goes on beside the requests, until the application ends."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task(stopping))
            yield
            stopping.set()

    return lifespan


def _waiters(settings: ApiSettings, streams: Streams, registry: CollectorRegistry) -> Waiters:
    waiters = Waiters(
        waiting_max=settings.api_connections_max * 3 // 4,  # so a request that does not wait finds a connection, too
        waiting_per_user_max=settings.api_waits_per_user_max,
        beside=lambda: len(streams),
    )
    waiting = Gauge(
        "http_server_waiting_requests",
        "Requests that wait for an order to change, or for a preview.",
        registry=registry,
    )
    waiting.set_function(lambda: waiters.waiting)
    return waiters


def _keys(settings: ApiSettings, registry: CollectorRegistry, in_flight: InFlight) -> SharedSecret | JwksKeys:
    if settings.jwt_secret is not None:
        return SharedSecret(settings.jwt_secret.get_secret_value())
    if settings.jwt_audience is None:
        log.warning("tokens for any service are taken: JWT_AUDIENCE is not set")
    return JwksKeys(
        str(settings.jwt_jwks_url),
        registry=registry,
        refresh_s=settings.jwt_jwks_refresh_s,
        stale_s=settings.jwt_jwks_stale_s,
        waiting=in_flight.waiting,
    )


def _authentication(settings: ApiSettings, keys: SharedSecret | JwksKeys) -> Authentication:
    tokens = Tokens(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience, leeway_s=settings.jwt_leeway_s)
    limit = RateLimit(settings.api_rate_limit_per_s) if settings.api_rate_limit_per_s else None
    return Authentication(tokens, limit)


def _middleware(settings: ApiSettings, in_flight: InFlight, registry: CollectorRegistry) -> list[Middleware]:
    """Line up what every request passes, from the outside to the inside."""
    access_log = (
        AccessLog(log_format=settings.log_format, level=settings.log_level) if settings.api_access_log else None
    )
    telemetry = Middleware(RequestTelemetry, registry=registry, access_log=access_log)
    inner = [Middleware(Addresses), Middleware(ErrorHandler), Middleware(LoadShedding, in_flight=in_flight)]
    if not settings.cors_origins:
        return [telemetry, *inner]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=CORS_METHODS,
        allow_headers=CORS_HEADERS,
        allow_credentials=False,  # a token is no cookie: a script that has none gets nowhere
        expose_headers=CORS_EXPOSED,
        max_age=CORS_S,
    )
    return [telemetry, cors, *inner]
