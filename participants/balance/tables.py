"""The schema `balances` as tables; migrations are made from it, and its checks are the net below the ledger's rules."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    DDL,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    event,
    func,
)

from saga_kit.messaging.dead_letters import dead_letters_table
from saga_kit.messaging.outbox import outbox_table
from saga_kit.participant.holds import holds_archive_table, holds_table
from saga_kit.participant.ledger_start import ledger_start_table

SCHEMA: Final = "balances"
AMOUNT: Final = Numeric(38, 18)

metadata = MetaData(schema=SCHEMA)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("asset_id", Text, primary_key=True),
    Column("available", AMOUNT, nullable=False),
    Column("held", AMOUNT, nullable=False),
    CheckConstraint("available >= 0", name="accounts_available"),
    CheckConstraint("held >= 0", name="accounts_held"),
)

# One pass over the legs: their order makes it cheap to see that none comes twice, and what each asset sums to.
IS_ENTRY: Final = """
CREATE FUNCTION balances.is_entry(accounts text[], asset_ids text[], amounts numeric[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    total numeric := amounts[1];
BEGIN
    -- Neither true nor false for arrays without an element, and for an amount that is null.
    IF (array_ndims(accounts) = 1 AND array_lower(accounts, 1) = 1
        AND array_dims(accounts) = array_dims(asset_ids) AND array_dims(accounts) = array_dims(amounts)
        AND num_nulls(VARIADIC accounts) = 0 AND num_nulls(VARIADIC asset_ids) = 0
        AND 0 <> ALL (amounts)) IS NOT TRUE THEN
        RETURN false;
    END IF;
    FOR n IN 2 .. cardinality(accounts) LOOP
        IF asset_ids[n] = asset_ids[n - 1] THEN
            IF accounts[n] COLLATE "C" <= accounts[n - 1] THEN
                RETURN false;
            END IF;
            total := total + amounts[n];
        ELSIF total <> 0 OR asset_ids[n] COLLATE "C" < asset_ids[n - 1] THEN
            RETURN false;
        ELSE
            total := amounts[n];
        END IF;
    END LOOP;
    RETURN total = 0;
END $$"""

LINE: Final = (("account", Text), ("asset_id", Text), ("amount", AMOUNT))
"""What version 0.2.0 writes of each leg, which was a row."""

# The view `balances.journal_lines` has a line for each leg.
journal = Table(
    "journal",
    metadata,
    Column("entry_id", Text, primary_key=True, comment="<order_id>:settle, deposit:<deposit_id> or hold:<id>:capture"),
    Column("order_id", Uuid, comment="null for a deposit and a service's hold"),
    Column("accounts", ARRAY(Text), nullable=False, comment="of each leg: a user's id, @market, @fees or @external"),
    Column("asset_ids", ARRAY(Text), nullable=False, comment="of each leg; legs are by asset, then account"),
    Column("amounts", ARRAY(AMOUNT), nullable=False, comment="what the accounts gain; zero per asset"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    *(Column(name, kind, comment="always null: of lines, as 0.2.0 writes them") for name, kind in LINE),
    CheckConstraint("balances.is_entry(accounts, asset_ids, amounts)", name="journal_entry"),
)
event.listen(journal, "before_create", DDL(IS_ENTRY))  # type: ignore[no-untyped-call]  # the library lacks annotations

deposits = Table(
    "deposits",
    metadata,
    Column("deposit_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("amount > 0", name="deposits_amount"),
)

# A balance service of 0.2.0 may be at work beside this one. It inserts all lines of an entry in one statement: they are
# put aside here, and when the statement ends they are made entries.
TAKE_LINE: Final = """
CREATE FUNCTION balances.take_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balances.new_lines (entry_id, account, asset_id, order_id, amount)
    VALUES (NEW.entry_id, NEW.account, NEW.asset_id, NEW.order_id, NEW.amount);
    RETURN NULL;
END $$"""
MAKE_ENTRIES: Final = """
CREATE FUNCTION balances.make_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM balances.new_lines) THEN
        WITH line AS (DELETE FROM balances.new_lines RETURNING *)
        INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts)
        SELECT entry_id, order_id, array_agg(account ORDER BY asset_id COLLATE "C", account COLLATE "C"),
            array_agg(asset_id ORDER BY asset_id COLLATE "C", account COLLATE "C"),
            array_agg(amount ORDER BY asset_id COLLATE "C", account COLLATE "C")
        FROM line GROUP BY entry_id, order_id;
    END IF;
    RETURN NULL;
END $$"""
TAKES_LINES: Final = """
CREATE TRIGGER takes_lines BEFORE INSERT ON balances.journal FOR EACH ROW
WHEN (NEW.accounts IS NULL) EXECUTE FUNCTION balances.take_line()"""
MAKES_ENTRIES: Final = """
CREATE TRIGGER makes_entries AFTER INSERT ON balances.journal FOR EACH STATEMENT
EXECUTE FUNCTION balances.make_entries()"""
new_lines = Table(
    "new_lines",
    metadata,
    Column("entry_id", Text, primary_key=True),
    Column("account", Text, primary_key=True),
    Column("asset_id", Text, primary_key=True),
    Column("order_id", Uuid),
    Column("amount", AMOUNT, nullable=False),
    comment="lines of a statement that 0.2.0 makes; empty between statements",
)
for statement in (TAKE_LINE, MAKE_ENTRIES, TAKES_LINES, MAKES_ENTRIES):
    event.listen(metadata, "after_create", DDL(statement))  # type: ignore[no-untyped-call]  # the library lacks annotations

# What a service's hold has besides its row in `holds`: such a row is here for as long as the other, archived or not.
service_holds = Table(
    "service_holds",
    metadata,
    Column("hold_id", Text, primary_key=True, comment="hold:<the id that the service gave it>"),
    Column("expires_at", DateTime(timezone=True), comment="null: it ended before it was asked for"),
    Column("ended", Text, comment="null: it is held"),
    Column("captured_to", Text, comment="the account of the house that was paid"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("hold_id LIKE 'hold:%'", name="service_holds_id"),
    CheckConstraint("ended IN ('REFUSED', 'BURIED', 'CAPTURED', 'RELEASED', 'EXPIRED')", name="service_holds_ended"),
    CheckConstraint("(ended IS NOT DISTINCT FROM 'CAPTURED') = (captured_to IS NOT NULL)", name="service_holds_paid"),
    CheckConstraint("(ended IS NOT DISTINCT FROM 'BURIED') = (expires_at IS NULL)", name="service_holds_expires"),
)
Index("service_holds_expires_at", service_holds.c.expires_at, postgresql_where=service_holds.c.ended.is_(None))

holds = holds_table(metadata, SCHEMA)
holds_archive = holds_archive_table(metadata, SCHEMA)
ledger_start = ledger_start_table(metadata, SCHEMA)
outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
