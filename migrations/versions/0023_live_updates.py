"""What live updates read: since when an event is unpublished, and the versions of an order with their times."""

from __future__ import annotations

from migrations.owner import run

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add the views."""
    run(UP)


def downgrade() -> None:
    """Drop them."""
    run(("DROP VIEW api.versions, api.unsent",))


UP = (
    # Ids come in the order of time but for the length of a transaction, and the first row is found at once, however
    # many there are.
    "CREATE VIEW api.unsent AS SELECT created_at FROM orders.outbox ORDER BY outbox_id LIMIT 1",
    """
    CREATE VIEW api.versions AS
    SELECT chapter.order_id, chapter.version_from + move.number::integer AS version, chapter.at,
        nullif(split_part(move.path, '>', 1), '') AS previous_status, split_part(move.path, '>', 2) AS status
    FROM (
        SELECT order_id, at, version_from, moves FROM orders.history
        UNION ALL SELECT archive.order_id, entry.at, entry.version_from, entry.moves
        FROM orders.archive AS archive
        CROSS JOIN LATERAL jsonb_to_recordset(archive.history) AS entry (
            at timestamptz, version_from integer, moves text[])
    ) AS chapter
    CROSS JOIN unnest(chapter.moves) WITH ORDINALITY AS move (path, number)""",
    "GRANT SELECT ON api.unsent, api.versions TO saga_api",
)
