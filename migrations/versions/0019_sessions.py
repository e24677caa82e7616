"""Market orders may wait for an opening (QUEUED), orders may end with the session (DAY), and assets have sessions.

The views of orders show `expires_at` also where the order did not name it, as it was fixed when it began to rest; and
what amends, suspensions and releases (0016) have made of an order. A trailing stop's watermark is the mark's price
where that is the best since it rests; older views showed the price that it began from then.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views, run

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Know the phase and the reason, show when an order ends, and keep the sessions of assets."""
    now = _views(resting=_RESTING, ends_at=_ENDS_AT, revision=_REVISION, first_step=_WITH_THE_MARK, more=_CHANGED)
    replace_views(op.get_bind(), now)
    run(UP)


def downgrade() -> None:
    """Forget them. It fails while an order queues, since that could not go on."""
    run(DOWN)
    replace_views(
        op.get_bind(), _views(resting="'WORKING'", ends_at=_EXPIRES_AT, revision="1", first_step=_OF_ROWS, more="")
    )


_RESTING = "'QUEUED', 'WORKING', 'AMENDING', 'RAISING', 'LOWERING'"
_REVISION = "coalesce((progress ->> 'revision')::integer, 1)"
# A market order that does not queue has no terms, and shows nothing of this.
_CHANGED = """,
    terms IS NOT NULL AND phase IN (RESTING, 'REFUNDING') AND progress ? 'suspended' AS on_hold,
    CASE WHEN terms IS NOT NULL THEN progress ->> 'release_refused' END AS release_refused,
    CASE WHEN terms IS NOT NULL THEN progress -> 'amend' END AS amend"""
_EXPIRES_AT = "(terms ->> 'expires_at')::timestamptz"
# What was fixed when the order began to rest counts where it asked for no time.
_ENDS_AT = "coalesce(terms ->> 'expires_at', CASE WHEN terms IS NOT NULL THEN progress ->> 'ends_at' END)::timestamptz"
_STATUSES = """(
    (phase = 'NEW' AND status IS NULL)
    OR (phase = 'VALIDATING' AND status IN ('PENDING'))
    OR (phase = 'RESERVING' AND status IN ('PENDING')){queued}
    OR (phase = 'WORKING' AND status IN ('CONFIRMED'))
    OR (phase = 'AMENDING' AND status IN ('CONFIRMED'))
    OR (phase = 'RAISING' AND status IN ('CONFIRMED'))
    OR (phase = 'LOWERING' AND status IN ('CONFIRMED'))
    OR (phase = 'SETTLING' AND status IN ('PROCESSING'))
    OR (phase = 'REFUNDING' AND status IN ('CONFIRMED', 'PENDING'))
    OR (phase = 'COMPLETED' AND status IN ('COMPLETED'))
    OR (phase = 'CANCELLED' AND status IN ('CANCELLED'))
    OR (phase = 'FAILED' AND status IN ('FAILED'))) IS TRUE"""
_REASONS = """reason_code IS NULL OR reason_code IN (
    'INVALID_ORDER', 'ACCOUNT_NOT_FOUND', 'INSUFFICIENT_BALANCE', 'ASSET_NOT_FOUND', 'ASSET_NOT_TRADABLE',
    'ASSET_UNAVAILABLE', 'STALE_PRICE', 'SLIPPAGE_EXCEEDED', 'INVALID_STEP', 'INVALID_TICK',
    'QUANTITY_OUT_OF_RANGE', 'NOTIONAL_OUT_OF_RANGE', 'DUPLICATE_CLIENT_ORDER_ID', 'ORDER_ID_TAKEN',
    'HOLD_CONFLICT', 'WOULD_TRIGGER_IMMEDIATELY', 'UNFILLED', 'PRICE_OUT_OF_RANGE', 'TOO_MANY_OPEN_ORDERS',
    {more}'TIMED_OUT', 'EXECUTION_FAILED', 'USER_REQUESTED', 'EXPIRED', 'OPERATOR')"""
_WAKEABLE = """phase = 'NEW' OR phase IN ('CANCELLED', 'COMPLETED', 'FAILED') OR parked_reason IS NOT NULL
    OR due_at IS NOT NULL OR phase IN ({resting})"""


def _checks(*, queued: str, more: str, resting: str) -> tuple[str, ...]:
    """Replace checks of the orders by others of the same names."""
    checks = {
        "orders_phase_shows_status": _STATUSES.format(queued=queued),
        "orders_reason_code": _REASONS.format(more=more),
        "orders_always_wakeable": _WAKEABLE.format(resting=resting),
    }
    return tuple(
        f"ALTER TABLE orders.orders DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({check})"
        for name, check in checks.items()
    )


_COMMENT = (
    "COMMENT ON COLUMN orders.orders.terms IS 'what {} waits for: contracts.terms.Terms; null for a market order{}'"
)
UP = (
    *_checks(
        queued="\n    OR (phase = 'QUEUED' AND status IN ('CONFIRMED'))",
        more="'NO_SESSION', ",
        resting="'QUEUED', 'WORKING'",
    ),
    _COMMENT.format("an order", " that does not queue"),
    """
    CREATE TABLE assets.sessions (
        asset_id text PRIMARY KEY,
        calendar text NOT NULL,
        due_at timestamptz NOT NULL,
        set_at timestamptz NOT NULL DEFAULT now()
    )""",
    "COMMENT ON COLUMN assets.sessions.calendar IS 'time zone, sessions by weekday, holidays, as JSON'",
    "COMMENT ON COLUMN assets.sessions.due_at IS 'when the asset opens or closes next, or the calendar is looked at'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON assets.sessions TO saga_assets",
)
DOWN = (
    "DROP TABLE assets.sessions",
    _COMMENT.format("a conditional order", ""),
    *_checks(queued="", more="", resting="'WORKING'"),
)

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
# The watermark is that of the first step which the order's `from_sequence` has not passed.
_WATERMARK = """(CASE
        WHEN progress -> 'fire' ->> 'watermark' IS NOT NULL AND phase NOT IN (RESTING, 'REFUNDING')
            THEN (progress -> 'fire' ->> 'watermark')::numeric
        WHEN phase IN (RESTING) AND progress -> 'rest' ->> 'watermark' IS NOT NULL AND progress -> 'suspended' IS NULL
            THEN coalesce(FIRST_STEP, (progress -> 'rest' ->> 'watermark')::numeric)
        ELSE (progress -> 'rest' ->> 'watermark')::numeric END)::numeric(38, 18)"""
# The mark is a step too, with no row among the others.
_OF_ROWS = """(
            SELECT step.price FROM orders.peaks AS step
            WHERE step.asset_id = every.asset_id
                AND step.side = CASE right(every.order_type, 4) WHEN '_BUY' THEN 'BUY' ELSE 'SELL' END
                AND step.upto >= (progress -> 'rest' ->> 'from_sequence')::bigint
            ORDER BY step.upto LIMIT 1
        )"""
_WITH_THE_MARK = """(
            SELECT step.price FROM (
                (SELECT upto, price FROM orders.peaks AS peak
                 WHERE peak.asset_id = every.asset_id
                    AND peak.side = CASE right(every.order_type, 4) WHEN '_BUY' THEN 'BUY' ELSE 'SELL' END
                    AND peak.upto >= (progress -> 'rest' ->> 'from_sequence')::bigint
                 ORDER BY upto LIMIT 1)
                UNION ALL
                SELECT sequence, price FROM orders.marks AS mark
                WHERE mark.asset_id = every.asset_id
                    AND mark.sequence >= (progress -> 'rest' ->> 'from_sequence')::bigint
            ) AS step ORDER BY step.upto LIMIT 1
        )"""
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
# Where the market has moved since the quote, no price may be there that fires the order.
_SHOWN_LEVEL = f"""(
        SELECT stands.at::numeric(38, 18) FROM (SELECT {_TRAIL_LEVEL} AS at) AS stands
        WHERE stands.at > 0 AND stands.at <= 1000000
    )"""
# What an order holds is shown from its rest on until the money has moved.
_UNMOVED = "terms IS NOT NULL AND phase IN (RESTING, 'REFUNDING') AND progress -> 'rest' IS NOT NULL"
# A market order that does not queue has no terms, and nobody looks into its document for them. `RESTING`, `ENDS_AT`,
# `REVISION` and `FIRST_STEP` are filled in by `_views`.
_CONDITIONAL = f"""
    (terms ->> 'limit_price')::numeric(38, 18) AS limit_price,
    CASE WHEN terms IS NULL THEN NULL WHEN terms ->> 'trigger_price' IS NOT NULL
        THEN (terms ->> 'trigger_price')::numeric(38, 18) ELSE {_SHOWN_LEVEL} END AS trigger_price,
    (terms ->> 'trail_amount')::numeric(38, 18) AS trail_amount,
    (terms ->> 'trail_bps')::integer AS trail_bps,
    CASE WHEN terms IS NOT NULL THEN coalesce(terms ->> 'time_in_force', 'GTC') END AS time_in_force,
    ENDS_AT AS expires_at,
    coalesce((terms ->> 'queue_when_closed')::boolean, false) AS queue_when_closed,
    CASE WHEN terms IS NULL THEN false ELSE coalesce((progress ->> 'triggered')::boolean, false) END AS triggered,
    CASE WHEN terms IS NOT NULL THEN {_WATERMARK} END AS watermark,
    CASE WHEN terms IS NOT NULL AND progress -> 'rest' IS NOT NULL THEN REVISION END AS revision,
    CASE WHEN {_UNMOVED} THEN progress -> 'hold' ->> 'asset_id' END AS held_asset_id,
    CASE WHEN {_UNMOVED} THEN (progress -> 'hold' ->> 'amount')::numeric(38, 18) END AS held_amount"""


def _views(*, resting: str, ends_at: str, revision: str, first_step: str, more: str) -> dict[str, str]:
    shown = f"{_CONDITIONAL}{more}".replace("RESTING", resting).replace("ENDS_AT", ends_at)
    shown = shown.replace("REVISION", revision).replace("FIRST_STEP", first_step)
    live, archived = "progress::jsonb AS progress, terms::jsonb AS terms", "progress, terms::jsonb AS terms"
    return {
        "api.orders": f"""
        SELECT {_ASKED}, {_CURRENCIES}, {shown} FROM (
            SELECT {_ASKED}, phase, {live} FROM orders.orders
            UNION ALL SELECT {_ASKED}, phase, {archived} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
        "audit.orders": f"""
        SELECT {_SHOWN}, archived_at, {_CURRENCIES}, {shown} FROM (
            SELECT {_SHOWN}, NULL::timestamptz AS archived_at, {live} FROM orders.orders
            UNION ALL SELECT {_ARCHIVED}, archived_at, {archived} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
    }
