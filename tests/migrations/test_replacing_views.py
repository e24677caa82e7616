"""A migration replaces a view by its name: another query, the same rights."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from migrations.owner import replace_view, transaction
from tests.migrations.support import rights, views
from tests.support.infrastructure import Database

FEWER = "SELECT reason, participant FROM orders.pauses"


async def _replace(database: Database, name: str, query: str) -> None:
    async with transaction(database.url) as connection:
        await connection.run_sync(replace_view, name, query)


async def test_a_view_keeps_its_rights(database: Database) -> None:
    """With columns left out and in another order; nobody's rights change, on this view or another."""
    async with transaction(database.url) as connection:
        await connection.exec_driver_sql("COMMENT ON VIEW audit.pauses IS 'it''s so'")
        await connection.exec_driver_sql("GRANT SELECT ON audit.pauses TO PUBLIC")
    before, others = await rights(database.url), await views(database.url)
    assert before["audit.pauses"] is not None
    await _replace(database, "audit.pauses", FEWER)
    after = await views(database.url)
    assert ["reason", "participant"] == after.pop("audit.pauses")[0]
    others.pop("audit.pauses")
    assert (before, others) == (await rights(database.url), after)
    async with transaction(database.url) as connection:
        comment = await connection.exec_driver_sql("SELECT obj_description('audit.pauses'::regclass)")
        assert "it's so" == comment.scalar_one()


async def test_a_view_that_another_one_needs_is_not_dropped(database: Database) -> None:
    """The migration fails as a whole."""
    async with transaction(database.url) as connection:
        await connection.exec_driver_sql("CREATE VIEW audit.outer AS SELECT participant FROM audit.pauses")
    before = await views(database.url)
    with pytest.raises(DBAPIError, match="cannot drop view"):
        await _replace(database, "audit.pauses", FEWER)
    assert before == await views(database.url)
