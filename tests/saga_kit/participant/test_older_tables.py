"""Holds of before adjustments: rows without them, and tables without a place for them, behave to the byte as before."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Final

import msgspec
import pytest

from saga_kit.messaging.batch import Received
from saga_kit.participant.barrier import CommandKind
from saga_kit.participant.handler import ParticipantHandler
from tests.saga_kit.participant.test_barrier_postgres import (
    AMOUNT,
    AdjustedAccounts,
    asked,
    began,
    command,
    participant,
)
from tests.saga_kit.support import FakePublisher, Schema, process

PAGE: Final = Path(__file__).parents[3] / "docs" / "own-balance-service.md"
OLDER: Final = """
    ALTER TABLE {s}.holds DROP COLUMN revision, DROP COLUMN asked, DROP COLUMN adjust_code, DROP COLUMN adjust_reason;
    ALTER TABLE {s}.holds_archive
        DROP COLUMN revision, DROP COLUMN asked, DROP COLUMN adjust_code, DROP COLUMN adjust_reason"""
"""The tables as an older version of the kit described them."""
OLD_ROWS: Final = """
    INSERT INTO {s}.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code, reason) VALUES
        ('held', 'saga', 'alice', 'USD', 10.5, 0, 0, 'HELD', NULL, NULL),
        ('settled', 'saga', 'alice', 'USD', 10.5, 7.25, 3.25, 'SETTLED', NULL, NULL),
        ('refunded', 'saga', 'alice', 'USD', 10.5, 0, 10.5, 'REFUNDED', 'LATE', 'too late'),
        ('refused', 'saga', 'alice', 'USD', 10.5, 0, 0, 'REFUSED', 'POOR', 'not enough'),
        ('tombstone', 'saga', 'alice', 'USD', 10.5, 0, 0, 'TOMBSTONE', NULL, NULL)"""
# By command and hold: the whole answer, as the version before adjustments wrote it.
ANSWERS: Final = {
    ("RESERVE", "unknown"): b'["RESERVE", "HELD", "0", "0", null]',
    ("RESERVE", "held"): b'["RESERVE", "HELD", "0", "0", null]',
    ("RESERVE", "settled"): b'["RESERVE", "SETTLED", "7.25", "3.25", null]',
    ("RESERVE", "refunded"): b'["RESERVE", "REFUNDED", "0", "10.5", "CLOSED"]',
    ("RESERVE", "refused"): b'["RESERVE", "REFUSED", "0", "0", "POOR"]',
    ("RESERVE", "tombstone"): b'["RESERVE", "TOMBSTONE", "0", "0", "CLOSED"]',
    ("REFUND", "unknown"): b'["REFUND", "TOMBSTONE", "0", "0", null]',
    ("REFUND", "held"): b'["REFUND", "REFUNDED", "0", "10.5", null]',
    ("REFUND", "settled"): b'["REFUND", "SETTLED", "7.25", "3.25", "CLOSED"]',
    ("REFUND", "refunded"): b'["REFUND", "REFUNDED", "0", "10.5", null]',
    ("REFUND", "refused"): b'["REFUND", "REFUSED", "0", "0", null]',
    ("REFUND", "tombstone"): b'["REFUND", "TOMBSTONE", "0", "0", null]',
    ("SETTLE", "unknown"): b'["SETTLE", "TOMBSTONE", "0", "0", "NOT_HELD"]',
    ("SETTLE", "held"): b'["SETTLE", "SETTLED", "7.25", "3.25", null]',
    ("SETTLE", "settled"): b'["SETTLE", "SETTLED", "7.25", "3.25", null]',
    ("SETTLE", "refunded"): b'["SETTLE", "REFUNDED", "0", "10.5", "LATE"]',
    ("SETTLE", "refused"): b'["SETTLE", "REFUSED", "0", "0", "NOT_HELD"]',
    ("SETTLE", "tombstone"): b'["SETTLE", "TOMBSTONE", "0", "0", "NOT_HELD"]',
}
KINDS: Final = {kind for kind, _ in ANSWERS}


async def started(schema: Schema) -> ParticipantHandler[None]:
    """Start a service whose ledger can adjust."""
    one = participant(schema, AdjustedAccounts)
    async with schema.transactions.begin() as tx:
        await one.prepare(tx)
    return one


@pytest.fixture(autouse=True)
async def accounts(schema: Schema) -> None:
    """Make the table of accounts: alice has 100 USD free."""
    await schema.execute("CREATE TABLE {s}.accounts (owner text PRIMARY KEY, free numeric CHECK (free >= 0))")
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")


@pytest.fixture(params=["older tables", "tables of today"])
async def handler(schema: Schema, request: pytest.FixtureRequest) -> ParticipantHandler[None]:
    """Make the service on tables with holds of before adjustments."""
    if request.param == "older tables":
        await older(schema)
    await schema.execute(OLD_ROWS)
    return await started(schema)


async def older(schema: Schema) -> None:
    """Make the tables older."""
    for statement in OLDER.split(";"):
        await schema.execute(statement)


async def free(schema: Schema) -> Decimal:
    """Return what alice has free."""
    [(amount,)] = await schema.rows("SELECT trim_scale(free) FROM {s}.accounts")
    return Decimal(amount)


@pytest.mark.parametrize("again", [1, 2])
async def test_old_holds_answer_to_the_byte_as_before(
    schema: Schema, handler: ParticipantHandler[None], again: int
) -> None:
    """Each command of before on each hold of before has its old answer, and so has its repetition in a later batch."""
    publisher = FakePublisher()
    batch = process(schema, handler, publisher)
    assert set(ANSWERS) == set(product(KINDS, ("unknown", "held", "settled", "refunded", "refused", "tombstone")))
    for kind in sorted(KINDS):
        await schema.execute("TRUNCATE {s}.holds")
        await schema.execute(OLD_ROWS)
        names = [name for one, name in ANSWERS if one == kind]
        for _ in range(again):
            publisher.published.clear()
            await batch.run([command(CommandKind(kind), name) for name in names])
            assert [ANSWERS[kind, name] for name in names] == [sent.value for sent in publisher.published]
    # One hold of 10.5 was made, one was given back whole, and 3.25 of a settled one.
    assert 100 - AMOUNT + AMOUNT + Decimal("3.25") == await free(schema)


async def test_an_adjustment_finds_no_place_in_older_tables(schema: Schema) -> None:
    """It is NOT_SUPPORTED in each state, stores nothing, and of an unknown hold it proves nothing."""
    await older(schema)
    await schema.execute(OLD_ROWS)
    rows = await schema.rows("SELECT * FROM {s}.holds ORDER BY hold_id")
    publisher = FakePublisher()
    names = ["held", "refunded", "refused", "settled", "tombstone", "unknown"]
    await process(schema, await started(schema), publisher).run([command(CommandKind.ADJUST, name) for name in names])
    told = [json.loads(sent.value) for sent in publisher.published]
    assert ["NOT_SUPPORTED"] * 6 == [code for *_, code in told]
    assert ["HELD", "REFUNDED", "REFUSED", "SETTLED", "TOMBSTONE", "HELD"] == [state for _, state, *_ in told]
    assert rows == await schema.rows("SELECT * FROM {s}.holds ORDER BY hold_id")
    assert 100 == await free(schema)


async def test_older_tables_are_upgraded_as_the_page_says(schema: Schema) -> None:
    """The page's statements make the tables of today of older ones, and then an old hold can be adjusted."""
    today = await _described(schema)
    await older(schema)
    await schema.execute(OLD_ROWS)
    block = re.search(r"<!-- upgrade -->\n```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    for _ in range(2):  # a second time it changes nothing
        for statement in filter(None, map(str.strip, block[1].split(";"))):
            await schema.execute(statement.replace("wallet.", "{s}."))
    assert today == await _described(schema)
    publisher = FakePublisher()
    batch = process(schema, await started(schema), publisher)
    await batch.run([command(CommandKind.ADJUST, "held")])
    assert Decimal(98) == await free(schema)
    await batch.run([command(CommandKind.REFUND, "held")])
    assert Decimal("110.5") == await free(schema)
    assert [b'["ADJUST", "HELD", "0", "0", null]', b'["REFUND", "REFUNDED", "0", "12.5", null]'] == [
        sent.value for sent in publisher.published
    ]


async def _described(schema: Schema) -> list[tuple[object, ...]]:
    """Describe the tables of holds, in the order of their columns, with their checks."""
    columns = (
        "SELECT relname, row_number() OVER (PARTITION BY relname ORDER BY attnum), attname,"
        " format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid IN ('{s}.holds'::regclass, '{s}.holds_archive'::regclass)"
        " AND attnum > 0 AND NOT attisdropped ORDER BY 1, 2"
    )
    checks = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid IN ('{s}.holds'::regclass, '{s}.holds_archive'::regclass) ORDER BY 1"
    )
    return [tuple(row) for sql in (columns, checks) for row in await schema.rows(sql)]


async def test_an_older_table_refuses_what_another_ledger_confirmed(schema: Schema) -> None:
    """A command that confirms an adjustment, of which there is none here, is a conflict: it moves nothing."""
    await older(schema)
    await schema.execute(OLD_ROWS)
    publisher = FakePublisher()
    refund = command(CommandKind.REFUND, "held")
    confirmed = Received(msgspec.structs.replace(refund.message, revision=1))
    await process(schema, await started(schema), publisher).run([confirmed])
    assert [b'["REFUND", "HELD", "0", "0", "HOLD_CONFLICT"]'] == [sent.value for sent in publisher.published]
    assert 100 == await free(schema)


async def test_an_adjustment_of_another_ledgers_hold_moves_nothing(schema: Schema) -> None:
    """Before anything else it is asked whether an earlier ledger may have the hold."""
    await older(schema)
    publisher, handler = FakePublisher(), await started(schema)
    one = asked(CommandKind.ADJUST, await began(schema) - timedelta(seconds=1))
    await process(schema, handler, publisher).run([one])
    assert [b'["ADJUST", "HELD", "0", "0", "HOLD_CONFLICT"]'] == [sent.value for sent in publisher.published]
    assert [] == await schema.rows("SELECT * FROM {s}.holds")
