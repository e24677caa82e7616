"""The audit finds nothing in a healthy system, and names the order and the invariant of every planted fault."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from operations.audit import Finding, audit, checks, look
from operations.audit.checks import CHECKS
from operations.audit.query import AuditLook, Check
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from tests.operations.audit.faults import FAULTS, NOBODY, Fault
from tests.operations.audit.rows import (
    BUY,
    CANCELLED,
    FIRED,
    LIVE,
    REFUSED,
    REJECTED,
    SELL,
    STUB,
    YOUNG_S,
    Order,
    insert,
    insert_claim,
    insert_event,
    insert_order,
)
from tests.support.infrastructure import Database

SOON_S = 0.05


@pytest.fixture
async def healthy(owner: asyncpg.Connection) -> asyncpg.Connection:
    """Fill the database with a system that is in order."""
    await insert(owner)
    return owner


async def _audit(database: Database, settle_s: float = SOON_S) -> list[Finding]:
    """Audit as the auditor, who may read the audit's views and nothing else."""
    return await audit(database.url_of("auditor"), settle_s=settle_s)


@pytest.mark.usefixtures("healthy")
async def test_a_healthy_system_has_no_findings(database: Database) -> None:
    """Every kind of order, a stub, a claim and an event on their way: nothing is wrong, and nothing is waited for."""
    async with asyncio.timeout(90):
        assert [] == await _audit(database, settle_s=3600)


async def test_adjusted_holds_are_worth_what_their_rows_say(database: Database, healthy: asyncpg.Connection) -> None:
    """An active, a settled and a refunded hold that were raised: nothing is wrong where their money moved as well."""
    raised = "UPDATE balances.holds SET amount = amount + 5, revision = 1, asked = amount + 5"
    changed = [
        f"{raised} WHERE state = 'HELD' AND saga_id = '{LIVE}'",
        f"{raised}, refunded = refunded + 5 WHERE state IN ('SETTLED', 'REFUNDED') AND hold_id NOT LIKE 'hold:%'",
    ]
    assert ["UPDATE 1", "UPDATE 4"] == [await healthy.execute(statement) for statement in changed]
    account = "user_id = 'alice' AND asset_id = 'USD'"
    moved = f"UPDATE balances.accounts SET available = available - 5, held = held + 5 WHERE {account}"
    assert ["I1"] == [finding.invariant for finding in await _audit(database)]
    await healthy.execute(moved)
    assert [] == await _audit(database)


async def test_an_empty_system_has_no_findings(database: Database) -> None:
    """There is nothing that could be wrong."""
    assert [] == await _audit(database)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.invariant}: {fault.words}")
async def test_a_planted_fault_is_found_by_its_order(
    database: Database, healthy: asyncpg.Connection, fault: Fault
) -> None:
    """A row that was changed behind the system's back shows as the invariant that it breaks, and on no other order."""
    for statement in fault.statements:
        await healthy.execute(statement)

    findings = await _audit(database)

    wanted = (fault.invariant, fault.order_id, fault.check)
    said = [one.what for one in findings if (one.invariant, one.order_id, one.check) == wanted]
    assert any(fault.words in what for what in said), findings
    others = {BUY} if fault.invariant == "I10" else set()  # who had the key first is named too
    assert {fault.order_id, None} | others >= {finding.order_id for finding in findings}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.invariant}: {fault.words}")
async def test_where_the_ledger_can_not_be_seen_only_its_own_faults_are_missed(
    database: Database, healthy: asyncpg.Connection, fault: Fault
) -> None:
    """Checks that need no ledger run as before, and no other check reports anything."""
    for statement in fault.statements:
        await healthy.execute(statement)

    findings = await audit(database.url_of("auditor"), settle_s=SOON_S, ledger="none")

    of_ledger = {check.name for check in CHECKS if check.of_ledger}
    assert set() == of_ledger & {finding.check for finding in findings}
    assert (fault.check in of_ledger) != (fault.check in {finding.check for finding in findings})


async def test_an_event_that_nobody_sends_is_found(database: Database, healthy: asyncpg.Connection) -> None:
    """I9: an event that stays in the outbox, and one of a version that was never reached, are faults."""
    await insert_event(healthy, SELL, version=4, age_s=60)
    await insert_event(healthy, BUY, version=9, age_s=YOUNG_S)
    await insert_event(healthy, NOBODY, version=1, age_s=YOUNG_S)

    findings = await _audit(database)

    assert [("I9", NOBODY), ("I9", BUY), ("I9", SELL)] == [(f.invariant, f.order_id) for f in findings]
    assert ["event of a version", "event of a version", "event is sent"] == [f.check for f in findings]
    for words, finding in zip(("there is no such order", "at version 4", "waits in the outbox"), findings, strict=True):
        assert words in finding.what


async def test_a_promise_that_was_not_kept_is_found(database: Database, healthy: asyncpg.Connection) -> None:
    """I11: a claim must become an order; a cancel that came first is none."""
    await insert_claim(healthy, NOBODY, key="lost", age_s=60)
    await insert_claim(healthy, STUB, key="stub", age_s=60)

    findings = await _audit(database)

    assert [("I11", NOBODY), ("I11", STUB)] == [(f.invariant, f.order_id) for f in findings]
    assert all("alice was promised it at" in finding.what for finding in findings)


async def test_what_somebody_still_looks_after_is_no_finding(database: Database, healthy: asyncpg.Connection) -> None:
    """However old: a claim that the sweeper publishes again and an event that a relay tries to send are not lost."""
    await insert_claim(healthy, NOBODY, key="patient", age_s=1800)
    await insert_event(healthy, SELL, version=4, age_s=1800)
    await healthy.execute("UPDATE api.claims SET next_publish_at = now() + interval '1 h' WHERE order_id = $1", NOBODY)
    await healthy.execute("UPDATE orders.outbox SET available_at = now() + interval '1 h'")

    assert [] == await _audit(database)


async def test_a_promise_that_is_thought_kept_is_found(database: Database, healthy: asyncpg.Connection) -> None:
    """I11: a claim that the sweeper has settled without an order is never tried again, so it is lost."""
    await insert_claim(healthy, NOBODY, key="settled", age_s=60)
    await healthy.execute("UPDATE api.claims SET next_publish_at = now() + interval '1 h', settled = true")

    assert [("I11", NOBODY)] == [(f.invariant, f.order_id) for f in await _audit(database)]


def test_every_check_has_a_planted_fault() -> None:
    """Every invariant has a check, and every check finds a planted fault."""
    planted = {fault.check for fault in FAULTS} | {"event is sent", "event of a version", "claim becomes an order"}

    assert {f"I{number}" for number in range(1, 14)} == {check.invariant for check in CHECKS}
    assert {check.name for check in CHECKS} == planted
    assert len(CHECKS) == len(planted)


async def test_what_was_only_on_its_way_is_no_finding(database: Database, healthy: asyncpg.Connection) -> None:
    """A claim whose order comes between two looks is no fault, and the audit ends as soon as it has come."""
    await insert_claim(healthy, NOBODY, age_s=60)
    seen: list[int] = []
    looked = asyncio.Event()

    def heard(orders: int) -> None:
        seen.append(orders)
        looked.set()

    async with asyncio.timeout(90):
        running = asyncio.create_task(audit(database.url_of("auditor"), settle_s=3600, progress=heard))
        await looked.wait()
        await insert_order(healthy, Order(NOBODY, "FAILED", REJECTED, "TIMED_OUT"))
        assert [] == await running
    assert [12] == seen


async def test_what_each_look_sees_anew_is_no_finding(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only one of two looks sees is no finding."""
    passing = Check("I1", "passing", "true", "'it was so for a moment'")
    rows = "(SELECT NULL::uuid AS order_id, clock_timestamp() AS at) AS moment"
    monkeypatch.setattr(checks, "LOOKS", (AuditLook(("order_id", "at"), rows, (passing,), by_order=False),))

    assert [] == await _audit(database)


async def test_pages_find_what_one_look_finds(
    database: Database, healthy: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a page, each order is looked at once, and rows without an order, too."""
    await insert_claim(healthy, UUID(int=0), age_s=60)
    await insert_claim(healthy, UUID(int=REFUSED.int + 1), age_s=60)  # the very id after a page's last
    await insert_claim(healthy, UUID(int=2**128 - 1), age_s=60)
    await healthy.execute("UPDATE orders.orders SET version = 9 WHERE order_id = $1", CANCELLED)
    expected = await _audit(database)
    seen: list[int] = []
    monkeypatch.setattr(look, "PAGE_ORDERS", 3)

    assert expected == await audit(database.url_of("auditor"), settle_s=SOON_S, progress=seen.append)

    assert [3, 6, 9, 12, 12] == seen
    assert 3 == sum(finding.invariant == "I11" for finding in expected)


async def test_findings_are_bounded(
    database: Database, healthy: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check stops at so many findings, so that a broken system does not fill the auditor's memory."""
    for number in range(10, 20):
        await insert_claim(healthy, UUID(int=number), age_s=60)
    monkeypatch.setattr(look, "FINDINGS_MAX", 4)

    assert 4 == len(await _audit(database))


@pytest.mark.usefixtures("healthy")
async def test_an_engine_will_do(database: Database) -> None:
    """Given an engine, the audit uses its address and login, and not its short time limit."""
    engine = create_engine(parse_database_url(database.url_of("auditor")), application_name="test")
    assert [] == await audit(engine, settle_s=SOON_S)
    await engine.dispose()


async def test_the_audit_cannot_write(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even as the owner the audit's connection is read-only."""
    writing = Check("I1", "writing", "true", "'it wrote ' || nextval('orders.outbox_outbox_id_seq')")
    rows = "(SELECT NULL::uuid AS order_id) AS nothing"
    monkeypatch.setattr(checks, "LOOKS", (AuditLook(("order_id",), rows, (writing,), by_order=False),))
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await audit(database.url, settle_s=SOON_S)


async def test_an_order_of_a_feed_that_was_reset_is_no_finding(database: Database, healthy: asyncpg.Connection) -> None:
    """I13: where an operator let a feed number anew, a tick with a smaller number may be the newer one."""
    await healthy.execute(
        "UPDATE orders.orders SET progress = replace(progress, '\"from_sequence\":7', '\"from_sequence\":9000')"
    )
    assert ["newer than its acceptance"] == [finding.check for finding in await _audit(database)]
    await healthy.execute(
        """
        INSERT INTO orders.repairs (run_id, action, item, done_by, result)
        SELECT 'run', 'feed reset', asset_id, 'ann', '' FROM orders.orders WHERE order_id = $1""",
        FIRED,
    )
    assert [] == await _audit(database)
