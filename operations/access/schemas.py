"""The services' schemas, by the names that their tables have."""

from __future__ import annotations

from typing import Final

from order_api.orders import tables as api
from order_saga.worker import tables as orders
from participants.assets import tables as assets
from participants.balance import tables as balances
from projections.webhooks import tables as webhooks

CONSUMERS: Final = (orders.SCHEMA, balances.SCHEMA, assets.SCHEMA, webhooks.SCHEMA)
"""Each of them has an outbox and dead letters."""
ALL: Final = (*CONSUMERS, api.SCHEMA)
