"""What the audit and `stuck` must see of orders that rest: when a tick fired one, and each fire that is carried out."""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views, run

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Show fires, and two columns of resting orders behind those that were there."""
    replace_views(op.get_bind(), {"audit.resting": _resting(more=", waits.fired_at, waits.told")})
    run(UP)


def downgrade() -> None:
    """Hide them."""
    run(DOWN)
    replace_views(op.get_bind(), {"audit.resting": _resting(more="")})


def _step(column: str) -> str:
    return f"""(
        SELECT peak.{column} FROM orders.peaks AS peak
        WHERE num_nonnulls(waits.trail_amount, waits.trail_bps) > 0
            AND peak.asset_id = waits.asset_id AND peak.side = waits.side AND peak.upto >= waits.from_sequence
        ORDER BY peak.upto LIMIT 1)"""


def _resting(more: str) -> str:
    # Whoever does not ask for the watermark pays nothing for it.
    return f"""
    SELECT waits.order_id, waits.asset_id, waits.side, waits.revision, waits.live, waits.up_price, waits.down_price,
        waits.from_sequence, waits.entered_at, waits.expires_at, waits.triggered_sequence, waits.fired_sequence,
        waits.fired_price, {_step("price")} AS watermark, {_step("set_by")} AS watermark_sequence{more}
    FROM orders.resting AS waits"""


UP = (
    """
    CREATE VIEW audit.fires AS
    SELECT order_id, (progress -> 'rest' ->> 'from_sequence')::bigint AS from_sequence,
        (progress -> 'fire' ->> 'sequence')::bigint AS sequence, (progress -> 'fire' ->> 'price')::numeric AS price,
        (progress -> 'fire' ->> 'as_of')::timestamptz AS as_of
    FROM (
        SELECT order_id, progress::jsonb AS progress FROM orders.orders WHERE terms IS NOT NULL
        UNION ALL SELECT order_id, progress FROM orders.archive WHERE terms IS NOT NULL
    ) AS every WHERE progress ? 'fire'""",
    "GRANT SELECT ON audit.fires TO saga_auditor",
)
DOWN = ("DROP VIEW audit.fires",)
