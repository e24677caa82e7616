"""The views of orders show what a conditional order waits for, and how far it has come.

`order_saga.core.saga.snapshot` has the same rules for events. A watermark, and the trigger price that is worked out
from it, are those of the order's version.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Show the fields of conditional orders, in columns behind those that were there."""
    replace_views(op.get_bind(), _views(conditional=f", {_CONDITIONAL}", terms=", terms::jsonb AS terms"))


def downgrade() -> None:
    """Show the columns that were there before."""
    replace_views(op.get_bind(), _views(conditional="", terms=""))


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
_WATERMARK = "coalesce(progress -> 'fire' ->> 'watermark', progress -> 'rest' ->> 'watermark')::numeric(38, 18)"
_TRAIL = "coalesce((terms ->> 'trail_amount')::numeric, watermark * (terms ->> 'trail_bps')::numeric * 0.0001)"
# As `order_saga.core.trail.trail_level`: exact, and rounded to the tick away from early firing.
_TRAIL_LEVEL = f"""(
        SELECT CASE
            WHEN is_buy THEN level - mod(level, tick) + CASE WHEN mod(level, tick) > 0 THEN tick ELSE 0 END
            ELSE greatest(level, 0) - mod(greatest(level, 0), tick) END
        FROM (
            SELECT is_buy, tick, CASE WHEN is_buy THEN watermark + {_TRAIL} ELSE watermark - {_TRAIL} END AS level
            FROM (
                SELECT {_WATERMARK} AS watermark, (progress -> 'quote' ->> 'tick')::numeric AS tick,
                    right(order_type, 4) = '_BUY' AS is_buy
            ) AS begun
        ) AS levels
    )"""
# A market order has no terms, and nobody looks into its document for them.
_CONDITIONAL = f"""
    (terms ->> 'limit_price')::numeric(38, 18) AS limit_price,
    CASE WHEN terms IS NULL THEN NULL WHEN terms ->> 'trigger_price' IS NOT NULL
        THEN (terms ->> 'trigger_price')::numeric(38, 18) ELSE {_TRAIL_LEVEL}::numeric(38, 18) END AS trigger_price,
    (terms ->> 'trail_amount')::numeric(38, 18) AS trail_amount,
    (terms ->> 'trail_bps')::integer AS trail_bps,
    CASE WHEN terms IS NOT NULL THEN coalesce(terms ->> 'time_in_force', 'GTC') END AS time_in_force,
    (terms ->> 'expires_at')::timestamptz AS expires_at,
    coalesce((terms ->> 'queue_when_closed')::boolean, false) AS queue_when_closed,
    CASE WHEN terms IS NULL THEN false ELSE coalesce((progress ->> 'triggered')::boolean, false) END AS triggered,
    CASE WHEN terms IS NOT NULL THEN {_WATERMARK} END AS watermark,
    CASE WHEN terms IS NOT NULL AND progress -> 'rest' IS NOT NULL THEN 1 END AS revision,
    CASE WHEN terms IS NOT NULL AND phase = 'WORKING' THEN progress -> 'hold' ->> 'asset_id' END AS held_asset_id,
    CASE WHEN terms IS NOT NULL AND phase = 'WORKING'
        THEN (progress -> 'hold' ->> 'amount')::numeric(38, 18) END AS held_amount"""


def _views(*, conditional: str, terms: str) -> dict[str, str]:
    live, archived = f"progress::jsonb AS progress{terms}", f"progress{terms}"
    return {
        "api.orders": f"""
        SELECT {_ASKED}, {_CURRENCIES}{conditional} FROM (
            SELECT {_ASKED}, phase, {live} FROM orders.orders
            UNION ALL SELECT {_ASKED}, phase, {archived} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
        "audit.orders": f"""
        SELECT {_SHOWN}, archived_at, {_CURRENCIES}{conditional} FROM (
            SELECT {_SHOWN}, NULL::timestamptz AS archived_at, {live} FROM orders.orders
            UNION ALL SELECT {_ARCHIVED}, archived_at, {archived} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
    }
