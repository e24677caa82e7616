"""The webhook process's composition root: what stores deliveries, and what sends them."""

from __future__ import annotations

from typing import Final

from contracts.orders import OrderStatusChanged
from contracts.webhooks import EndpointKind
from projections.webhooks.guard import Lookups, networks_of
from projections.webhooks.handler import WebhookHandler
from projections.webhooks.metrics import WebhookMetrics
from projections.webhooks.posting import Poster
from projections.webhooks.sender import Courier, Sender
from projections.webhooks.settings import WebhooksSettings
from projections.webhooks.signing import Signer
from projections.webhooks.tables import SCHEMA
from saga_kit.messaging.batch import BatchProcess
from saga_kit.runtime.sealing import Seal
from saga_kit.runtime.settings import load
from saga_kit.service import Kit, run_service

NAME: Final = "webhooks"


def run() -> int:
    """Run the service until it is told to stop; return the exit status."""
    settings = load(WebhooksSettings)
    look_up = Lookups()
    poster = Poster(
        Signer(Seal(settings.webhooks_keys.get_secret_value())),
        look_up,
        networks=networks_of(settings.webhooks_allow_networks),
        proxy=settings.webhooks_proxy,
    )
    couriers: dict[EndpointKind, Courier] = {EndpointKind.WEBHOOK: poster}
    senders: list[Sender] = []

    def handler(kit: Kit) -> WebhookHandler:
        metrics = WebhookMetrics(kit.registry)
        sender = Sender(
            kit.transactions,
            couriers,
            metrics,
            in_flight_max=settings.webhooks_in_flight_max,
            keep_days=settings.webhooks_keep_days,
        )
        senders.append(sender)
        return WebhookHandler(couriers.keys(), sender.notice, metrics)

    async def sending(kit: Kit, _process: BatchProcess[OrderStatusChanged]) -> None:
        try:
            await senders[0].run(kit.stopping)
        finally:
            await poster.close()
            look_up.close()

    return run_service(settings, name=NAME, schema=SCHEMA, handler=handler, tasks=[sending])
