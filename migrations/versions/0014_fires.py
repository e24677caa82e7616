"""A view for auditors: which tick fired each conditional order, and since which tick it had waited."""

from __future__ import annotations

from migrations.owner import run

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the view."""
    run(UP)


def downgrade() -> None:
    """Drop it."""
    run(("DROP VIEW audit.fires",))


UP = (
    """
    CREATE VIEW audit.fires AS
    SELECT order_id, asset_id, phase, created_at,
        (progress -> 'rest' ->> 'from_sequence')::bigint AS from_sequence,
        (progress -> 'fire' ->> 'sequence')::bigint AS fired_sequence,
        (progress -> 'fire' ->> 'price')::numeric(38, 18) AS fired_price
    FROM (
        SELECT order_id, asset_id, phase, created_at, progress::jsonb AS progress FROM orders.orders
        WHERE terms IS NOT NULL
        UNION ALL
        SELECT order_id, asset_id, phase, created_at, progress FROM orders.archive WHERE terms IS NOT NULL
    ) AS conditional WHERE phase <> 'NEW'""",
    "COMMENT ON VIEW audit.fires IS 'A conditional order each; nulls: it never rested, or no tick fired it'",
    "GRANT SELECT ON audit.fires TO saga_auditor",
)
