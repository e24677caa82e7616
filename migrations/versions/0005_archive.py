"""Archives for orders and holds that ended before the replay horizon; the views show these like the others.

So the API, auditors and operators need not know of the archives. Each view joins the two tables before it chooses rows:
then PostgreSQL looks up both by their indexes, and leaves out the archive where its CHECKs exclude every row. The
downgrade moves everything back to its tables.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from migrations.owner import run

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the archives, and show them."""
    run(UP)


def downgrade() -> None:
    """Move back what is archived, and drop the archives."""
    run(DOWN)


# The tables -----------------------------------------------------------------------------------------------------------

_ORDER = """order_id, user_id, asset_id, order_type, quantity, price, slippage_bps, client_order_id, traceparent, phase,
    status, version, reason_code, reason, cancel_requested, filled_quantity, average_price, fee, progress, history_seq,
    created_at, updated_at"""
_HOLD = """hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code, reason, created_at,
    updated_at"""

# The services only read these: only the owner may archive.
TABLES = (
    """
    CREATE TABLE orders.archive (
        order_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        asset_id text,
        order_type text,
        quantity numeric(38, 18),
        price numeric(38, 18),
        slippage_bps integer,
        client_order_id text,
        traceparent text,
        phase text NOT NULL,
        status text,
        version integer NOT NULL,
        reason_code text,
        reason text,
        cancel_requested boolean NOT NULL,
        filled_quantity numeric(38, 18) NOT NULL,
        average_price numeric(38, 18),
        fee numeric(38, 18) NOT NULL,
        progress jsonb NOT NULL,
        history_seq integer NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        history jsonb NOT NULL,
        fills jsonb NOT NULL,
        archived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT archive_ended CHECK (phase IN ('CANCELLED', 'COMPLETED', 'FAILED') AND phase = status),
        CONSTRAINT archive_status CHECK (status IN ('COMPLETED', 'CANCELLED', 'FAILED'))
    )""",
    "COMMENT ON COLUMN orders.archive.history IS 'the rows of orders.history, by seq'",
    "COMMENT ON COLUMN orders.archive.fills IS 'the rows of orders.fills'",
    "CREATE INDEX archive_by_user ON orders.archive (user_id, created_at, order_id)",
    """
    CREATE UNIQUE INDEX archive_client_order_id ON orders.archive (user_id, client_order_id)
        WHERE client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'""",
    "GRANT SELECT ON orders.archive TO saga_orders",
    """
    CREATE TABLE balances.holds_archive (
        hold_id text PRIMARY KEY,
        saga_id text NOT NULL,
        owner text NOT NULL,
        unit text NOT NULL,
        amount numeric(38, 18) NOT NULL,
        captured numeric(38, 18) NOT NULL,
        refunded numeric(38, 18) NOT NULL,
        state text NOT NULL,
        reason_code text,
        reason text,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT holds_archive_ended CHECK (state IN ('SETTLED', 'REFUNDED', 'REFUSED', 'TOMBSTONE'))
    )""",
    "GRANT SELECT ON balances.holds_archive TO saga_balances",
)


# The views ------------------------------------------------------------------------------------------------------------

_ASKED = """order_id, client_order_id, user_id, asset_id, order_type, status, quantity, price, slippage_bps,
    filled_quantity, average_price, fee, reason_code, reason, cancel_requested, version, created_at, updated_at"""
_AUDITED = """order_id, user_id, asset_id, order_type, status, phase, version, {trouble}
    reason_code, filled_quantity, average_price, fee, created_at, updated_at, client_order_id"""
_TROUBLE = "parked_reason, overdue_since, due_at,"
_NO_TROUBLE = """NULL::text AS parked_reason, NULL::timestamptz AS overdue_since, NULL::timestamptz AS due_at,"""
_HISTORY_OF_ARCHIVE = """
    CROSS JOIN LATERAL jsonb_to_recordset(archive.history) AS chapter (
        seq integer, at timestamptz, version_from integer, moves text[], entries jsonb)"""
_ENTRIES = """
    CROSS JOIN ROWS FROM (
        jsonb_to_recordset(history.entries) AS (kind text, name text, status text, version integer, detail jsonb)
    ) WITH ORDINALITY AS entry (kind, name, status, version, detail, number)"""
_ENTRY = """history.order_id, history.seq + entry.number::integer - 1 AS seq, history.at, entry.kind, entry.name,
        entry.status, entry.version, coalesce(entry.detail, '{}') AS detail"""
_OWNER = "JOIN orders.orders AS owner ON owner.order_id = history.order_id AND owner.phase <> 'NEW'"
_QUESTION = """
    SELECT owner.order_id, question.step,
        CASE question.step WHEN 'check' THEN 'assets' ELSE 'balance' END AS participant,
        question.asked_at, question.due_at, coalesce(question.attempts, 1) AS attempts,
        coalesce(question.answer, 'OPEN') AS answer, coalesce(question.sent, true) AS sent,
        coalesce(question.held_back, false) AS held_back"""
_QUESTIONS = """
    CROSS JOIN jsonb_to_recordset(owner.progress -> 'questions') AS question (
        step text, asked_at timestamptz, due_at timestamptz, attempts integer, answer text, sent boolean,
        held_back boolean)
    WHERE owner.phase <> 'NEW'"""
_VERSION = """
    SELECT history.order_id, history.version_from + move.number::integer AS version,
        nullif(split_part(move.path, '>', 1), '') AS previous_status, split_part(move.path, '>', 2) AS status"""
_MOVES = "CROSS JOIN unnest(history.moves) WITH ORDINALITY AS move (path, number)"
_FILL = "fill_id, order_id, quantity, price, fee, busted"
_AUDITED_HOLD = (
    "hold_id, saga_id::uuid AS order_id, owner AS user_id, unit AS asset_id, amount, captured, refunded, state"
)
# Orders come first: a query by an order's id looks it up in both tables.
_EVERY_CHAPTER = f"""(
        SELECT history.order_id, history.seq, history.at, history.version_from, history.moves, history.entries
        FROM orders.history AS history {{owner}}
        UNION ALL
        SELECT archive.order_id, chapter.seq, chapter.at, chapter.version_from, chapter.moves, chapter.entries
        FROM orders.archive AS archive {_HISTORY_OF_ARCHIVE}
    ) AS history"""

VIEWS = (
    f"""
    CREATE OR REPLACE VIEW api.orders AS SELECT {_ASKED} FROM (
        SELECT {_ASKED}, phase FROM orders.orders UNION ALL SELECT {_ASKED}, phase FROM orders.archive
    ) AS every WHERE phase <> 'NEW'""",
    f"CREATE OR REPLACE VIEW api.history AS SELECT {_ENTRY} FROM {_EVERY_CHAPTER.format(owner=_OWNER)} {_ENTRIES}",
    f"""
    CREATE OR REPLACE VIEW audit.orders AS SELECT {_AUDITED.format(trouble=_TROUBLE)}, archived_at FROM (
        SELECT {_AUDITED.format(trouble=_TROUBLE)}, NULL::timestamptz AS archived_at FROM orders.orders
        UNION ALL SELECT {_AUDITED.format(trouble=_NO_TROUBLE)}, archived_at FROM orders.archive
    ) AS every WHERE phase <> 'NEW'""",
    f"CREATE OR REPLACE VIEW audit.history AS SELECT {_ENTRY} FROM {_EVERY_CHAPTER.format(owner=_OWNER)} {_ENTRIES}",
    f"CREATE OR REPLACE VIEW audit.versions AS {_VERSION} FROM {_EVERY_CHAPTER.format(owner='')} {_MOVES}",
    f"""
    CREATE OR REPLACE VIEW audit.questions AS {_QUESTION} FROM (
        SELECT order_id, phase, progress FROM orders.orders
        UNION ALL SELECT order_id, phase, progress FROM orders.archive) AS owner {_QUESTIONS}""",
    f"""
    CREATE OR REPLACE VIEW audit.fills AS SELECT {_FILL} FROM orders.fills
    UNION ALL SELECT fill.fill_id, archive.order_id, fill.quantity, fill.price, fill.fee, fill.busted
    FROM orders.archive AS archive CROSS JOIN LATERAL jsonb_to_recordset(archive.fills) AS fill (
        fill_id text, quantity numeric(38, 18), price numeric(38, 18), fee numeric(38, 18), busted boolean)""",
    f"""
    CREATE OR REPLACE VIEW audit.holds AS SELECT {_AUDITED_HOLD} FROM (
        SELECT {_HOLD} FROM balances.holds UNION ALL SELECT {_HOLD} FROM balances.holds_archive) AS hold""",
)

UP = (*TABLES, *VIEWS)


# Back again -----------------------------------------------------------------------------------------------------------

DOWN = (
    f"""
    CREATE OR REPLACE VIEW api.orders AS SELECT {_ASKED} FROM orders.orders WHERE phase <> 'NEW'""",
    f"CREATE OR REPLACE VIEW api.history AS SELECT {_ENTRY} FROM orders.history AS history {_OWNER} {_ENTRIES}",
    "DROP VIEW audit.orders",
    f"""
    CREATE VIEW audit.orders AS SELECT {_AUDITED.format(trouble=_TROUBLE)} FROM orders.orders WHERE phase <> 'NEW'""",
    "GRANT SELECT ON audit.orders TO saga_auditor",
    f"CREATE OR REPLACE VIEW audit.history AS SELECT {_ENTRY} FROM orders.history AS history {_OWNER} {_ENTRIES}",
    f"CREATE OR REPLACE VIEW audit.versions AS {_VERSION} FROM orders.history AS history {_MOVES}",
    f"CREATE OR REPLACE VIEW audit.questions AS {_QUESTION} FROM orders.orders AS owner {_QUESTIONS}",
    f"CREATE OR REPLACE VIEW audit.fills AS SELECT {_FILL} FROM orders.fills",
    f"CREATE OR REPLACE VIEW audit.holds AS SELECT {_AUDITED_HOLD} FROM balances.holds",
    f"INSERT INTO orders.orders ({_ORDER}) SELECT {_ORDER} FROM orders.archive",
    """
    INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
    SELECT archive.order_id, chapter.* FROM orders.archive AS archive
    CROSS JOIN LATERAL jsonb_to_recordset(archive.history) AS chapter (
        seq integer, at timestamptz, version_from integer, version_to integer, moves text[], entries jsonb)""",
    """
    INSERT INTO orders.fills (fill_id, order_id, quantity, price, fee, busted, created_at)
    SELECT fill.fill_id, archive.order_id, fill.quantity, fill.price, fill.fee, fill.busted, fill.created_at
    FROM orders.archive AS archive CROSS JOIN LATERAL jsonb_to_recordset(archive.fills) AS fill (
        fill_id text, quantity numeric, price numeric, fee numeric, busted boolean, created_at timestamptz)""",
    f"INSERT INTO balances.holds ({_HOLD}) SELECT {_HOLD} FROM balances.holds_archive",
    "DROP TABLE orders.archive",
    "DROP TABLE balances.holds_archive",
)
