"""The journal has one row an entry, with its legs as arrays, and the database checks that each asset sums to zero.

A settlement was five or six rows, and each repeated the entry's id, in the index as well. Readers have the view
`balances.journal_lines`, with the columns that the table had. The journal is written anew, with nobody at work on it
meanwhile. The migration fails, and changes nothing, where an entry that is there does not sum to zero.
"""

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views, run

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make a row of each entry."""
    after = _after("balances.journal_lines")
    replace_views(op.get_bind(), {"audit.journal": _SHOWN.format(source="balances.journal_lines")}, UP)
    run(after)


def downgrade() -> None:
    """Make a row of each leg again."""
    after = _after()
    replace_views(op.get_bind(), {"audit.journal": _SHOWN.format(source="balances.journal")}, DOWN)
    run(after)


def _after(view: str | None = None) -> list[str]:
    """Write down the rights on the journal and its triggers, to give them to what takes its place."""
    bound = op.get_bind()
    rights = bound.exec_driver_sql(_RIGHTS, (view,)).scalars()
    return [*rights, *bound.exec_driver_sql(_TRIGGERS).scalars()]


# Rights on single columns and grant options are lost, as for views.
_RIGHTS = """
    SELECT format('GRANT %s ON %s TO %s', privilege_type, relation,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
    FROM pg_class AS class CROSS JOIN aclexplode(class.relacl)
    CROSS JOIN unnest(ARRAY['balances.journal', $1]) AS relation
    WHERE class.oid = 'balances.journal'::regclass AND grantee <> class.relowner
        AND (relation = 'balances.journal' OR (relation = $1 AND privilege_type = 'SELECT')) ORDER BY 1"""
# A ledger that was handed over has one.
_TRIGGERS = """
    SELECT pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgrelid = 'balances.journal'::regclass AND NOT tgisinternal ORDER BY tgname"""

_SHOWN = "SELECT entry_id, order_id, account, asset_id, amount, created_at FROM {source}"

# Into a schema of its own, so that no name of a constraint or an index is taken.
_MOVED_ASIDE = ("CREATE SCHEMA balances_before", "ALTER TABLE balances.journal SET SCHEMA balances_before")
_DROPPED = ("DROP TABLE balances_before.journal", "DROP SCHEMA balances_before")

_IS_ENTRY = """
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

# A service that may write the journal may use the functions of its checks, whatever the owner's defaults are.
UP = (
    *_MOVED_ASIDE,
    _IS_ENTRY,
    "GRANT EXECUTE ON FUNCTION balances.is_entry TO saga_balances",
    """
    CREATE TABLE balances.journal (
        entry_id text PRIMARY KEY,
        order_id uuid,
        accounts text[] NOT NULL,
        asset_ids text[] NOT NULL,
        amounts numeric(38, 18)[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT journal_entry CHECK (balances.is_entry(accounts, asset_ids, amounts))
    )""",
    "COMMENT ON COLUMN balances.journal.entry_id IS '<order_id>:settle or deposit:<deposit_id>'",
    "COMMENT ON COLUMN balances.journal.order_id IS 'null for a deposit'",
    "COMMENT ON COLUMN balances.journal.accounts IS 'of each leg: a user''s id, @market, @fees or @external'",
    "COMMENT ON COLUMN balances.journal.asset_ids IS 'of each leg; legs are by asset, then account'",
    "COMMENT ON COLUMN balances.journal.amounts IS 'what the accounts gain; zero per asset'",
    """
    INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts, created_at)
    SELECT entry_id, order_id, array_agg(account ORDER BY asset_id COLLATE "C", account COLLATE "C"),
        array_agg(asset_id ORDER BY asset_id COLLATE "C", account COLLATE "C"),
        array_agg(amount ORDER BY asset_id COLLATE "C", account COLLATE "C"), min(created_at)
    FROM balances_before.journal GROUP BY entry_id, order_id ORDER BY min(created_at), entry_id""",
    # Functions of the select list, and not a join: to sum up a long journal takes half the time.
    """
    CREATE VIEW balances.journal_lines AS
    SELECT entry_id, unnest(accounts) AS account, unnest(asset_ids) AS asset_id, order_id,
        unnest(amounts)::numeric(38, 18) AS amount, created_at
    FROM balances.journal""",
    *_DROPPED,
)
DOWN = (
    "DROP VIEW balances.journal_lines",
    *_MOVED_ASIDE,
    """
    CREATE TABLE balances.journal (
        entry_id text,
        account text,
        asset_id text,
        order_id uuid,
        amount numeric(38, 18) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (entry_id, account, asset_id),
        CONSTRAINT journal_amount CHECK (amount <> 0)
    )""",
    "COMMENT ON COLUMN balances.journal.entry_id IS '<order_id>:settle or deposit:<deposit_id>'",
    "COMMENT ON COLUMN balances.journal.account IS 'a user''s id, @market, @fees or @external'",
    "COMMENT ON COLUMN balances.journal.order_id IS 'null for a deposit'",
    "COMMENT ON COLUMN balances.journal.amount IS 'what the account gains; an entry sums to zero per asset'",
    """
    INSERT INTO balances.journal (entry_id, account, asset_id, order_id, amount, created_at)
    SELECT entry_id, leg.account, leg.asset_id, order_id, leg.amount, created_at
    FROM balances_before.journal
    CROSS JOIN LATERAL unnest(accounts, asset_ids, amounts) AS leg (account, asset_id, amount)""",
    *_DROPPED,
    "DROP FUNCTION balances.is_entry",
)
