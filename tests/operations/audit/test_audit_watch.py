"""The repeated audit: metrics and a line for each run, an outage survived; and many orders, read in pages."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from operations.audit import audit, look
from operations.audit.watch import AuditMetrics, watch
from tests.operations.audit import many
from tests.operations.audit.rows import BUY, insert
from tests.support.infrastructure import Database

ORDERS = 2_000


async def test_many_orders_in_order_have_no_findings(
    database: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database after some time of work is clean, read in one page or in many."""
    monkeypatch.setattr(many, "PART", 800)
    await many.fill(owner, ORDERS)
    seen: list[int] = []

    assert [] == await audit(database.url_of("auditor"), progress=seen.append)
    monkeypatch.setattr(look, "PAGE_ORDERS", 700)
    assert [] == await audit(database.url_of("auditor"), progress=seen.append)

    assert [ORDERS, 700, 1400, ORDERS] == seen


async def test_a_watch_shows_each_run_and_tells_each_finding_once(
    database: Database, owner: asyncpg.Connection
) -> None:
    """Clean, then one order is corrupted: the metrics follow, and only a new finding gets a line of its own."""
    await insert(owner)
    await owner.execute("DELETE FROM orders.outbox")  # nobody is there to send it
    await owner.execute("DELETE FROM api.claims WHERE order_id NOT IN (SELECT order_id FROM orders.orders)")
    metrics, stopping, lines = AuditMetrics(), asyncio.Event(), asyncio.Queue[str]()
    alarms: list[str] = []
    watching = asyncio.create_task(
        watch(
            database.url_of("auditor"), stopping, metrics, lines.put_nowait, every_s=0.05, alarm=alarms.append
        )
    )  # fmt: skip
    async with asyncio.timeout(60):
        assert "no findings" in await lines.get()
        await owner.execute("UPDATE orders.fills SET price = price + 1 WHERE order_id = $1", BUY)
        while "its fill is" not in (said := await lines.get()):
            assert "no findings" in said
        assert ": 1 findings" in await lines.get()
        assert ": 1 findings" in await lines.get()
        assert 1 == metrics.registry.get_sample_value("audit_findings", {"invariant": "I4"})
        assert 12 == metrics.registry.get_sample_value("audit_orders")
        stopping.set()
        assert 1 == await watching
    assert [said] == alarms


async def test_a_watch_survives_an_outage(database: Database, unused_tcp_port_url: str) -> None:
    """While the database is away a run fails and is counted, and the watch goes on."""
    metrics, stopping, lines = AuditMetrics(), asyncio.Event(), asyncio.Queue[str]()
    watching = asyncio.create_task(watch(unused_tcp_port_url, stopping, metrics, lines.put_nowait, every_s=0.05))
    async with asyncio.timeout(60):
        for _ in range(2):
            assert (await lines.get()).startswith("failed: ")
        stopping.set()
        assert 1 == await watching
    assert 2 <= (metrics.registry.get_sample_value("audit_runs_total", {"result": "failed"}) or 0)
    assert database.url != unused_tcp_port_url


@pytest.fixture
def unused_tcp_port_url(database: Database, unused_tcp_port: int) -> str:
    """Give the address of a database that is not there."""
    return database.url.replace(database.url.rpartition(":")[2].partition("/")[0], str(unused_tcp_port))
