"""The webhook process's composition root: what stores deliveries, and what sends them."""

from __future__ import annotations

import asyncio
from typing import Final

from contracts.orders import OrderStatusChanged
from contracts.webhooks import EndpointKind
from projections.webhooks.alarms import Alarms
from projections.webhooks.guard import LookUp, Lookups, networks_of
from projections.webhooks.handler import WebhookHandler
from projections.webhooks.mailing import Mailer, relay_of
from projections.webhooks.metrics import WebhookMetrics
from projections.webhooks.posting import Composer, Poster
from projections.webhooks.pushing import PushComposer, Pusher, Vapid, vapid_key
from projections.webhooks.sender import Courier, Sender
from projections.webhooks.settings import WebhooksSettings
from projections.webhooks.signing import Signer
from projections.webhooks.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess
from saga_kit.runtime.operators import Operators
from saga_kit.runtime.sealing import Seal
from saga_kit.runtime.settings import load
from saga_kit.service import Kit, run_service

NAME: Final = "webhooks"


def run() -> int:
    """Run the service until it is told to stop; return the exit status."""
    settings = load(WebhooksSettings)
    look_up = Lookups(settings.webhooks_in_flight_max)
    posters: list[Poster] = []
    couriers = _couriers(settings, look_up, posters)
    urls = settings.notify_urls
    operators = None if urls is None else Operators(urls.get_secret_value())
    senders: list[Sender] = []

    def handler(kit: Kit) -> WebhookHandler:
        metrics = WebhookMetrics(kit.registry)
        sender = Sender(
            kit.transactions,
            couriers,
            metrics,
            in_flight_max=settings.webhooks_in_flight_max,
            keep_days=settings.webhooks_keep_days,
            tell=_nobody if operators is None else operators.tell,
        )
        senders.append(sender)
        return WebhookHandler(couriers.keys(), sender.notice, metrics)

    async def sending(kit: Kit, _process: BatchProcess[OrderStatusChanged]) -> None:
        try:
            await senders[0].run(kit.stopping)
        finally:
            for poster in posters:
                await poster.close()
            look_up.close()
            if operators is not None:
                await asyncio.to_thread(operators.close)

    async def alarming(kit: Kit, _process: BatchProcess[OrderStatusChanged]) -> None:
        if operators is not None:
            await Alarms(kit.transactions, operators.tell).run(kit.stopping)

    return run_service(settings, name=NAME, schema=SCHEMA, handler=handler, tasks=[sending, alarming])


def _nobody(_title: str, _text: str) -> None:
    """Tell nobody."""


def _couriers(settings: WebhooksSettings, look_up: LookUp, posters: list[Poster]) -> dict[EndpointKind, Courier]:
    """Make what tells each kind of endpoint that is configured. `posters` get what is to be closed."""

    def post(composer: Composer) -> Poster:
        networks = networks_of(settings.webhooks_allow_networks)
        posters.append(Poster(composer, look_up, networks=networks, proxy=settings.webhooks_proxy))
        return posters[-1]

    seal = Seal(settings.webhooks_keys.get_secret_value())
    couriers: dict[EndpointKind, Courier] = {EndpointKind.WEBHOOK: post(Signer(seal))}
    if settings.notify_smtp_url is not None and settings.notify_from is not None:
        relay = relay_of(settings.notify_smtp_url.get_secret_value())
        couriers[EndpointKind.EMAIL] = Mailer(relay, settings.notify_from, seal)
    if settings.notify_vapid_key is not None and settings.notify_vapid_contact is not None:
        vapid = Vapid(vapid_key(settings.notify_vapid_key.get_secret_value()), settings.notify_vapid_contact)
        couriers[EndpointKind.PUSH] = Pusher(post(PushComposer(vapid)))
    return couriers
