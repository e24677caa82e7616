"""The command `holds`: what services hold, in a list and one by one."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.migrations.support import connected
from tests.operations.audit.rows import (
    BURIED,
    CAPTURED,
    DENIED,
    EXPIRED,
    HELD_FOR_SERVICE,
    RELEASED,
    SERVICE_JOURNAL,
    insert_service_holds,
)
from tests.operations.cli.support import Terminal
from tests.support.journal import insert_lines


@pytest_asyncio.fixture(autouse=True)
async def _holds(db: Terminal) -> None:
    """Put a hold of each kind into the database."""
    async with connected(db.url) as owner:
        await insert_service_holds(owner)
        await insert_lines(owner, SERVICE_JOURNAL)


async def test_every_hold_is_listed(db: Terminal) -> None:
    """All of them, or those of a user or in a state; for people and for programs."""
    table = await db.cli("holds")
    assert 0 == table.code
    for hold_id in (HELD_FOR_SERVICE, CAPTURED, RELEASED, EXPIRED, DENIED, BURIED):
        assert str(hold_id) in table.out
    assert "95 to @external" in table.out
    assert "overdue" not in table.out
    held = (await db.cli("holds", "--state", "HELD", "--user", "carol", "--json")).out
    assert str(HELD_FOR_SERVICE) in held
    assert str(CAPTURED) not in held
    assert "no holds" in (await db.cli("holds", "--user", "alice")).out


async def test_one_hold_is_shown_with_its_entry(db: Terminal) -> None:
    """Its amounts, where they went, and the lines of the journal; the ledger's own name for it does as well."""
    shown = (await db.cli("holds", f"hold:{CAPTURED}")).out
    assert f"hold {CAPTURED}: 100 USD of carol, CAPTURED" in shown
    assert "95 were paid to @external, 5 went back" in shown
    assert f"hold:{CAPTURED}:capture" in shown
    assert "-95" in shown
    assert "30 went back" in (await db.cli("holds", str(EXPIRED))).out
    assert "refused: INSUFFICIENT_BALANCE" in (await db.cli("holds", str(DENIED))).out


async def test_a_hold_that_should_have_expired_is_overdue(db: Terminal) -> None:
    """Its scanner does not run."""
    async with connected(db.url) as owner:
        await owner.execute("UPDATE balances.service_holds SET expires_at = now() - interval '1 s' WHERE ended IS NULL")
    assert "HELD, overdue" in (await db.cli("holds")).out
    assert "overdue: it was to end at" in (await db.cli("holds", str(HELD_FOR_SERVICE))).out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("x",), 2, "is not a hold id"),
        (("--state", "held"), 2, "--state must be one of HELD"),
        (("00000000-0000-0000-0000-000000000001",), 1, "knows no hold"),
    ],
)
async def test_what_is_no_hold(db: Terminal, words: tuple[str, ...], status: int, said: str) -> None:
    """Wrong words are a wrong request, and an unknown hold is trouble."""
    answer = await db.cli("holds", *words)
    assert (status, True) == (answer.code, said in answer.err)


OF_API = """
    WITH held AS (
        INSERT INTO api.holds (hold_id, service, idempotency_key, user_id, asset_id, amount, expires_at, status)
        VALUES ($1, 'cashier', 'of-carol', 'carol', 'USD', 20, now(), $2))
    INSERT INTO api.hold_requests (hold_id, action, request, token_id, traceparent, next_publish_at, settled)
    VALUES ($1, 'place', '', 'a-token', 'a-trace', now(), true)"""
LEFT = """
    SELECT idempotency_key, token_id, traceparent FROM api.holds JOIN api.hold_requests USING (hold_id)"""


async def test_what_services_called_a_users_holds_is_erased(db: Terminal) -> None:
    """Nothing while money is held or about to be; then the keys and traces go, and the holds stay."""
    async with connected(db.url) as owner:
        await owner.execute(OF_API, RELEASED, "PENDING")
        refused = await db.cli("erase-user", "carol")
        assert 1 == refused.code
        assert f"hold hold:{HELD_FOR_SERVICE} is held until" in refused.out
        assert f"hold {RELEASED} is PENDING" in refused.out
        await owner.execute("UPDATE balances.service_holds SET ended = 'RELEASED' WHERE ended IS NULL")
        await owner.execute("UPDATE api.holds SET status = 'RELEASED'")
        erased = await db.cli("erase-user", "carol")
        assert 0 == erased.code, erased.out
        assert [(None, None, None)] == [tuple(row) for row in await owner.fetch(LEFT)]
        assert "api.holds: 0 rows" in (await db.cli("erase-user", "carol")).out


async def test_a_user_whom_only_a_hold_names_is_known(db: Terminal) -> None:
    """By REST, or at the ledger alone: there is nothing to erase any more, and nobody says that the name is wrong."""
    async with connected(db.url) as owner:
        await owner.execute(OF_API, RELEASED, "REFUSED")
        await owner.execute("UPDATE api.holds SET user_id = 'dora'")
        await owner.execute("UPDATE balances.holds SET owner = 'erin' WHERE hold_id = $1", f"hold:{DENIED}")
    for user, rows in (("dora", 1), ("dora", 0), ("erin", 0)):
        erased = await db.cli("erase-user", user)
        assert (0, True) == (erased.code, f"api.holds: {rows} row" in erased.out), erased.err
    assert 1 == (await db.cli("erase-user", "frank")).code
