"""Alembic's entry: runs the revisions on the connection of `migrations`, and compares with the `tables` modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alembic import context

from order_api.orders.tables import metadata as api
from order_saga.worker.tables import metadata as orders
from participants.assets.tables import metadata as assets
from participants.balance.tables import metadata as balances
from projections.webhooks.tables import metadata as webhooks

if TYPE_CHECKING:
    from alembic.runtime.environment import NameFilterParentNames, NameFilterType

ROOMS: Final = (orders, api, balances, assets, webhooks)
SCHEMAS: Final = {metadata.schema for metadata in ROOMS}


def _is_ours(name: str | None, kind: NameFilterType, _parents: NameFilterParentNames) -> bool:
    return kind != "schema" or name in SCHEMAS


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=ROOMS,
    include_schemas=True,
    include_name=_is_ours,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
