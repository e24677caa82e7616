"""The page about personal data knows every column that can hold what somebody sent."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import JSON, LargeBinary, MetaData, Text

from order_api.orders.tables import metadata as api
from order_saga.worker.tables import metadata as orders
from participants.assets.tables import metadata as assets
from participants.balance.tables import metadata as balances
from projections.webhooks.tables import metadata as webhooks

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
SERVICES: tuple[MetaData, ...] = (api, orders, assets, balances, webhooks)


def test_every_column_that_can_hold_text_is_on_the_page() -> None:
    """A column that comes later must be judged before it is merged: what it tells, and how long it is kept."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    told = {
        (table, column)
        for tables, columns in rows
        for table in re.findall(r"`(\w+\.\w+)`", tables)
        for column in re.findall(r"`(\w+)`", columns)
    }
    there = {
        (table.fullname, column.name)
        for metadata in SERVICES
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(getattr(column.type, "item_type", column.type), Text | LargeBinary | JSON)
    }
    assert there == told
