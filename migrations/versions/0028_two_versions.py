"""A balance service of version 0.2.0 works on while others are newer: the lines that it writes become entries.

It inserts all lines of an entry in one statement. A trigger puts them aside, and another one makes entries of them when
the statement ends, so the journal never has anything but entries. The columns that only that version names are always
null. To be dropped by a release after 0.3.0, when no process of 0.2.0 can be left.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Take lines."""
    run(UP)


def downgrade() -> None:
    """Take entries only: a balance service of 0.2.0 then waits."""
    run(DOWN)


UP = (
    """
    ALTER TABLE balances.journal
        ADD COLUMN account text, ADD COLUMN asset_id text, ADD COLUMN amount numeric(38, 18)""",
    "COMMENT ON COLUMN balances.journal.account IS 'always null: of lines, as 0.2.0 writes them'",
    "COMMENT ON COLUMN balances.journal.asset_id IS 'always null: of lines, as 0.2.0 writes them'",
    "COMMENT ON COLUMN balances.journal.amount IS 'always null: of lines, as 0.2.0 writes them'",
    """
    CREATE TABLE balances.new_lines (
        entry_id text,
        account text,
        asset_id text,
        order_id uuid,
        amount numeric(38, 18) NOT NULL,
        PRIMARY KEY (entry_id, account, asset_id)
    )""",
    "COMMENT ON TABLE balances.new_lines IS 'lines of a statement that 0.2.0 makes; empty between statements'",
    """
    CREATE FUNCTION balances.take_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balances.new_lines (entry_id, account, asset_id, order_id, amount)
    VALUES (NEW.entry_id, NEW.account, NEW.asset_id, NEW.order_id, NEW.amount);
    RETURN NULL;
END $$""",
    """
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
END $$""",
    """
    CREATE TRIGGER takes_lines BEFORE INSERT ON balances.journal FOR EACH ROW
    WHEN (NEW.accounts IS NULL) EXECUTE FUNCTION balances.take_line()""",
    """
    CREATE TRIGGER makes_entries AFTER INSERT ON balances.journal FOR EACH STATEMENT
    EXECUTE FUNCTION balances.make_entries()""",
    "GRANT SELECT, INSERT, DELETE ON balances.new_lines TO saga_balances",
)
DOWN = (
    "DROP TRIGGER makes_entries ON balances.journal",
    "DROP TRIGGER takes_lines ON balances.journal",
    "DROP FUNCTION balances.make_entries, balances.take_line",
    "DROP TABLE balances.new_lines",
    "ALTER TABLE balances.journal DROP COLUMN account, DROP COLUMN asset_id, DROP COLUMN amount",
)
