"""The ledger is another team's: its views are checked and shown, and without them no order is reported."""

from __future__ import annotations

import json

import pytest
import pytest_asyncio

from contracts.vocabulary import Side
from operations.audit import audit
from tests.operations.cli.support import Terminal
from tests.operations.cli.test_dead_letters import write
from tests.order_saga.core.sample import approved, reserved, settled

EMPTY = "TRUNCATE balances.holds, balances.accounts, balances.journal"
VIEWS = (
    "CREATE SCHEMA theirs",
    "CREATE TABLE theirs.my_holds AS SELECT * FROM audit.holds",
    "CREATE TABLE theirs.my_accounts AS SELECT * FROM audit.accounts",
    "CREATE TABLE theirs.my_journal AS SELECT * FROM audit.journal",
    "CREATE SCHEMA theirs_audit",
    "CREATE VIEW theirs_audit.holds AS SELECT * FROM theirs.my_holds",
    "CREATE VIEW theirs_audit.accounts AS SELECT * FROM theirs.my_accounts",
    "CREATE VIEW theirs_audit.journal AS SELECT * FROM theirs.my_journal",
)
"""What another team's service provides; here it has what the reference service would have."""
LEDGER = """
    INSERT INTO balances.accounts VALUES ('alice', 'USD', 499.5, 0), ('alice', 'BTC', 0.01, 0);
    INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts) VALUES
        ('deposit:1', NULL, ARRAY['@external', 'alice'], ARRAY['USD', 'USD'], ARRAY[-1000, 1000]),
        ('{0}:settle', '{0}', ARRAY['@market', 'alice', '@fees', '@market', 'alice'],
            ARRAY['BTC', 'BTC', 'USD', 'USD', 'USD'], ARRAY[-0.01, 0.01, 0.5, 500, -500.5]);
    INSERT INTO balances.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state)
        VALUES ('{0}:reserve', '{0}', 'alice', 'USD', 500.5, 500.5, 0, 'SETTLED')"""


@pytest_asyncio.fixture
async def order_id(db: Terminal) -> str:
    """Complete an order whose money another service moved; the reference ledger knows nothing of it."""
    order_id = str(await db.begin(1, Side.BUY, approved(), reserved(), settled()))
    for statement in LEDGER.format(order_id).split(";"):
        await db.execute(statement)
    for statement in VIEWS:
        await db.execute(statement)
    await db.execute(EMPTY)
    await db.execute("DELETE FROM orders.outbox")
    return order_id


async def test_a_ledger_that_shows_itself_is_audited(db: Terminal, order_id: str) -> None:
    """With its views the audit runs all checks: a sound order has no finding, missing money has one."""
    sound = await db.cli("audit", LEDGER_VIEWS="theirs_audit")
    assert (0, "audit: I1 to I13 hold\n") == (sound.code, sound.out)
    assert [] == await audit(db.engine, settle_s=0, ledger="theirs_audit")

    await db.execute("UPDATE theirs.my_journal SET amount = amount - 1 WHERE account = '@market' AND asset_id = 'USD'")

    found = await audit(db.engine, settle_s=0, ledger="theirs_audit")
    assert {("I1", order_id), ("I1", "None")} == {(one.invariant, str(one.order_id)) for one in found}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("none", "LEDGER_VIEWS is none"),
        ("nobodys", "there is no view nobodys.holds"),
        ("theirs", "there is no view theirs.holds"),
    ],
)
async def test_a_ledger_that_nobody_sees_breaks_no_order(db: Terminal, order_id: str, setting: str, why: str) -> None:
    """Each command says that it can't read the ledger, and shows or checks the rest."""
    audited = await db.cli("audit", LEDGER_VIEWS=setting)
    assert (0, "audit: what can be seen holds\n") == (audited.code, audited.out)
    assert why in audited.err
    assert (0, []) == ((await db.cli("audit", "--json", LEDGER_VIEWS=setting)).code, json.loads("[]"))

    accounts = await db.cli("accounts", "alice", LEDGER_VIEWS=setting)
    assert 1 == accounts.code
    assert f"the accounts can't be seen here: {why}" in accounts.err.replace("LEDGER_VIEWS: ", "", 1)

    story = await db.cli("inspect", order_id, LEDGER_VIEWS=setting)
    assert 0 == story.code
    assert "COMPLETED" in story.out
    assert "its hold and its journal can't be seen here" in story.out
    assert (0, "no order is stuck\n") == (await db.cli("stuck", LEDGER_VIEWS=setting))[:2]
    letters = await db.cli("dead-letters", "list", LEDGER_VIEWS=setting)
    assert (0, "no dead letters\n") == (letters.code, letters.out)
    assert "the dead letters of the balance service can't be seen here" in letters.err


async def test_a_reference_ledger_that_was_handed_over_is_not_asked(db: Terminal, order_id: str) -> None:
    """Without LEDGER_VIEWS, too: new orders are not looked for in the closed ledger."""
    assert 1 == (await db.cli("audit")).code
    await db.cli("hand-over", "theirs")

    audited = await db.cli("audit")

    assert (0, "audit: what can be seen holds\n") == (audited.code, audited.out)
    assert "it was handed over to theirs at" in audited.err
    assert "LEDGER_VIEWS must name its views' schema" in (await db.cli("inspect", order_id)).out


async def test_a_ledger_that_shows_itself_is_shown(db: Terminal, order_id: str) -> None:
    """Accounts, holds and the journal come from its views, and its dead letters are handled like ours."""
    await db.execute("CREATE TABLE theirs.dead_letters (LIKE balances.dead_letters INCLUDING ALL)")
    await db.execute(
        "ALTER TABLE theirs.dead_letters ADD CONSTRAINT dead_letters_record"
        " UNIQUE (topic, partition, record_offset, record_timestamp)"
    )
    await write(db, "theirs", "no such user")
    await db.execute("CREATE VIEW theirs_audit.dead_letters AS SELECT * FROM theirs.dead_letters")

    accounts = await db.cli("accounts", "alice", "--json", LEDGER_VIEWS="theirs_audit")
    story = json.loads((await db.cli("inspect", order_id, "--json", LEDGER_VIEWS="theirs_audit")).out)
    listed = await db.cli("dead-letters", "list", LEDGER_VIEWS="theirs_audit")
    discarded = await db.cli("dead-letters", "discard", "theirs_audit/1", LEDGER_VIEWS="theirs_audit")

    expected = [("BTC", "0.01", "0"), ("USD", "499.5", "0")]
    assert expected == [(row["asset_id"], row["available"], row["held"]) for row in json.loads(accounts.out)]
    assert (["SETTLED"], 5, None) == (
        [hold["state"] for hold in story["holds"]],
        len(story["journal"]),
        story["ledger_unseen"],
    )
    assert 1 == listed.code
    assert "theirs_audit/1" in listed.out
    assert 0 == discarded.code
    assert [{"open": False}] == await db.rows("SELECT discarded_at IS NULL AS open FROM theirs.dead_letters")


@pytest.mark.usefixtures("order_id")
async def test_a_user_without_an_account_is_sent_to_no_ledger_of_ours(db: Terminal) -> None:
    """The error does not suggest a deposit: accounts are made by the other service."""
    told = await db.cli("accounts", "zoe", LEDGER_VIEWS="theirs_audit")
    assert (1, "order-saga: zoe has no account") == (told.code, told.err.strip())


async def test_a_view_without_a_column_is_named(db: Terminal, order_id: str) -> None:
    """The error names the missing column."""
    await db.execute("DROP VIEW theirs_audit.accounts")
    await db.execute("CREATE VIEW theirs_audit.accounts AS SELECT user_id, asset_id, available FROM theirs.my_accounts")
    told = await db.cli("inspect", order_id, LEDGER_VIEWS="theirs_audit")
    assert "the view theirs_audit.accounts has no column held" in told.out


async def test_a_name_that_is_none_is_wrong_usage(db: Terminal) -> None:
    """No statement is made of it."""
    for words in (("audit",), ("accounts", "alice")):
        told = await db.cli(*words, LEDGER_VIEWS="a; DROP TABLE x")
        assert 2 == told.code
        assert "LEDGER_VIEWS must be the name of a schema" in told.err


async def test_a_deposit_goes_to_whoever_keeps_the_ledger(db: Terminal) -> None:
    """It is refused for the reference ledger while another one is in use."""
    told = await db.cli("deposit", "alice", "USD", "5", LEDGER_VIEWS="theirs_audit")
    assert 2 == told.code
    assert [] == await db.rows("SELECT * FROM balances.deposits")
