"""The documents of an order and of its history as the text that was written: to read and write it costs much less.

Only the orchestrator reads them, whole; nobody looks into them on the way. The views show them as before. The archive
keeps `jsonb`, since it is written once. The two tables are rewritten, with nobody at work on them meanwhile.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views

revision = "0008"
down_revision = "0007"

_COLUMNS = (("orders.orders", "progress"), ("orders.history", "entries"))


def upgrade() -> None:
    """Store both as text."""
    _change("text", cast="::jsonb")


def downgrade() -> None:
    """Store both as `jsonb` again."""
    _change("jsonb", cast="")


def _change(kind: str, *, cast: str) -> None:
    alter = "ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind} USING {column}::{kind}"
    between = [alter.format(table=table, column=column, kind=kind) for table, column in _COLUMNS]
    replace_views(op.get_bind(), _views(cast), between)


_ASKED = """order_id, client_order_id, user_id, asset_id, order_type, status, quantity, price, slippage_bps,
    filled_quantity, average_price, fee, reason_code, reason, cancel_requested, version, created_at, updated_at"""
_AUDITED = """order_id, user_id, asset_id, order_type, status, phase, version, {trouble}
    reason_code, filled_quantity, average_price, fee, created_at, updated_at, client_order_id"""
_SHOWN = _AUDITED.format(trouble="parked_reason, overdue_since, due_at,")
_ARCHIVED = _AUDITED.format(
    trouble="NULL::text AS parked_reason, NULL::timestamptz AS overdue_since, NULL::timestamptz AS due_at,"
)
_CURRENCIES = """
    CASE WHEN status <> 'PENDING' THEN progress -> 'quote' ->> 'cash_asset_id' END AS cash_asset_id,
    CASE WHEN status <> 'PENDING' THEN progress -> 'quote' ->> 'cash_asset_id' END AS fee_asset_id"""
_ENTRY = """history.order_id, history.seq + entry.number::integer - 1 AS seq, history.at, entry.kind, entry.name,
        entry.status, entry.version, coalesce(entry.detail, '{}') AS detail"""
_ENTRIES = """
    CROSS JOIN ROWS FROM (
        jsonb_to_recordset(history.entries) AS (kind text, name text, status text, version integer, detail jsonb)
    ) WITH ORDINALITY AS entry (kind, name, status, version, detail, number)"""
_OWNER = "JOIN orders.orders AS owner ON owner.order_id = history.order_id AND owner.phase <> 'NEW'"


def _views(cast: str) -> dict[str, str]:
    progress, entries = f"progress{cast} AS progress", f"history.entries{cast} AS entries"

    def chapters(owner: str) -> str:
        return f"""(
        SELECT history.order_id, history.seq, history.at, history.version_from, history.moves, {entries}
        FROM orders.history AS history {owner}
        UNION ALL
        SELECT archive.order_id, chapter.seq, chapter.at, chapter.version_from, chapter.moves, chapter.entries
        FROM orders.archive AS archive
        CROSS JOIN LATERAL jsonb_to_recordset(archive.history) AS chapter (
            seq integer, at timestamptz, version_from integer, moves text[], entries jsonb)
    ) AS history"""

    history = f"SELECT {_ENTRY} FROM {chapters(_OWNER)} {_ENTRIES}"
    return {
        "api.orders": f"""
        SELECT {_ASKED}, {_CURRENCIES} FROM (
            SELECT {_ASKED}, phase, {progress} FROM orders.orders
            UNION ALL SELECT {_ASKED}, phase, progress FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
        "audit.orders": f"""
        SELECT {_SHOWN}, archived_at, {_CURRENCIES} FROM (
            SELECT {_SHOWN}, NULL::timestamptz AS archived_at, {progress} FROM orders.orders
            UNION ALL SELECT {_ARCHIVED}, archived_at, progress FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
        "api.history": history,
        "audit.history": history,
        "audit.versions": f"""
        SELECT history.order_id, history.version_from + move.number::integer AS version,
            nullif(split_part(move.path, '>', 1), '') AS previous_status, split_part(move.path, '>', 2) AS status
        FROM {chapters("")}
        CROSS JOIN unnest(history.moves) WITH ORDINALITY AS move (path, number)""",
        "audit.questions": f"""
        SELECT owner.order_id, question.step,
            CASE question.step WHEN 'check' THEN 'assets' ELSE 'balance' END AS participant,
            question.asked_at, question.due_at, coalesce(question.attempts, 1) AS attempts,
            coalesce(question.answer, 'OPEN') AS answer, coalesce(question.sent, true) AS sent,
            coalesce(question.held_back, false) AS held_back
        FROM (
            SELECT order_id, phase, {progress} FROM orders.orders
            UNION ALL SELECT order_id, phase, progress FROM orders.archive
        ) AS owner
        CROSS JOIN jsonb_to_recordset(owner.progress -> 'questions') AS question (
            step text, asked_at timestamptz, due_at timestamptz, attempts integer, answer text, sent boolean,
            held_back boolean)
        WHERE owner.phase <> 'NEW'""",
    }
