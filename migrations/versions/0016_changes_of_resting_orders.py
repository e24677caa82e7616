"""Amends, suspensions and releases of resting orders: their phases, a row that still expires, and what they show."""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from alembic import op

from migrations.owner import replace_views, run

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Know the phases, keep suspended orders apart, and show what became of the last amend."""
    run(UP)
    views = _views(resting=_RESTING, revision="coalesce((progress ->> 'revision')::integer, 1)", more=_CHANGED)
    questions = _questions(assets="IN ('check', 'recheck')")
    resting = _resting(more=", waits.suspended")
    replace_views(op.get_bind(), {**views, "audit.resting": resting, "audit.questions": questions})


def downgrade() -> None:
    """Forget them. It fails while an order is being changed, since that could not go on."""
    views = _views(resting="'WORKING'", revision="1", more="")
    resting, questions = _resting(more=""), _questions(assets="= 'check'")
    replace_views(op.get_bind(), {**views, "audit.resting": resting, "audit.questions": questions})
    run(DOWN)


_RESTING = "'WORKING', 'AMENDING', 'RAISING', 'LOWERING'"
_STATUSES = """(
    (phase = 'NEW' AND status IS NULL)
    OR (phase = 'VALIDATING' AND status IN ('PENDING'))
    OR (phase = 'RESERVING' AND status IN ('PENDING'))
    OR (phase = 'WORKING' AND status IN ('CONFIRMED')){more}
    OR (phase = 'SETTLING' AND status IN ('PROCESSING'))
    OR (phase = 'REFUNDING' AND status IN ('CONFIRMED', 'PENDING'))
    OR (phase = 'COMPLETED' AND status IN ('COMPLETED'))
    OR (phase = 'CANCELLED' AND status IN ('CANCELLED'))
    OR (phase = 'FAILED' AND status IN ('FAILED'))) IS TRUE"""


def _statuses(more: str) -> str:
    return f"""
    ALTER TABLE orders.orders DROP CONSTRAINT orders_phase_shows_status,
        ADD CONSTRAINT orders_phase_shows_status CHECK ({_STATUSES.format(more=more)})"""


UP = (
    _statuses(
        "\n    OR (phase = 'AMENDING' AND status IN ('CONFIRMED'))"
        "\n    OR (phase = 'RAISING' AND status IN ('CONFIRMED'))"
        "\n    OR (phase = 'LOWERING' AND status IN ('CONFIRMED'))"
    ),
    "ALTER TABLE orders.resting ADD COLUMN suspended boolean NOT NULL DEFAULT false",
    "COMMENT ON COLUMN orders.resting.suspended IS 'on hold: it still expires'",
)
DOWN = ("ALTER TABLE orders.resting DROP COLUMN suspended", _statuses(""))
# A market order has no terms, and shows nothing of this.
_CHANGED = """,
    terms IS NOT NULL AND phase IN (RESTING, 'REFUNDING') AND progress ? 'suspended' AS on_hold,
    CASE WHEN terms IS NOT NULL THEN progress ->> 'release_refused' END AS release_refused,
    CASE WHEN terms IS NOT NULL THEN progress -> 'amend' END AS amend"""


def _questions(assets: str) -> str:
    return f"""
    SELECT owner.order_id, question.step,
        CASE WHEN question.step {assets} THEN 'assets' ELSE 'balance' END AS participant,
        question.asked_at, question.due_at, coalesce(question.attempts, 1) AS attempts,
        coalesce(question.answer, 'OPEN') AS answer, coalesce(question.sent, true) AS sent,
        coalesce(question.held_back, false) AS held_back
    FROM (
        SELECT order_id, phase, progress::jsonb AS progress FROM orders.orders
        UNION ALL SELECT order_id, phase, progress FROM orders.archive
    ) AS owner
    CROSS JOIN jsonb_to_recordset(owner.progress -> 'questions') AS question (
        step text, asked_at timestamptz, due_at timestamptz, attempts integer, answer text, sent boolean,
        held_back boolean)
    WHERE owner.phase <> 'NEW'"""


def _step(column: str) -> str:
    return f"""(
        SELECT peak.{column} FROM orders.peaks AS peak
        WHERE num_nonnulls(waits.trail_amount, waits.trail_bps) > 0
            AND peak.asset_id = waits.asset_id AND peak.side = waits.side AND peak.upto >= waits.from_sequence
        ORDER BY peak.upto LIMIT 1)"""


def _resting(more: str) -> str:
    return f"""
    SELECT waits.order_id, waits.asset_id, waits.side, waits.revision, waits.live, waits.up_price, waits.down_price,
        waits.from_sequence, waits.entered_at, waits.expires_at, waits.triggered_sequence, waits.fired_sequence,
        waits.fired_price, {_step("price")} AS watermark, {_step("set_by")} AS watermark_sequence, waits.fired_at,
        waits.told{more}
    FROM orders.resting AS waits"""


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
        WHEN phase IN (RESTING) AND progress -> 'rest' ->> 'watermark' IS NOT NULL THEN coalesce((
            SELECT step.price FROM orders.peaks AS step
            WHERE step.asset_id = every.asset_id
                AND step.side = CASE right(every.order_type, 4) WHEN '_BUY' THEN 'BUY' ELSE 'SELL' END
                AND step.upto >= (progress -> 'rest' ->> 'from_sequence')::bigint
            ORDER BY step.upto LIMIT 1
        ), (progress -> 'rest' ->> 'watermark')::numeric)
        ELSE (progress -> 'rest' ->> 'watermark')::numeric END)::numeric(38, 18)"""
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
# A market order has no terms, and nobody looks into its document for them. `RESTING` and `REVISION` are filled in.
_CONDITIONAL = f"""
    (terms ->> 'limit_price')::numeric(38, 18) AS limit_price,
    CASE WHEN terms IS NULL THEN NULL WHEN terms ->> 'trigger_price' IS NOT NULL
        THEN (terms ->> 'trigger_price')::numeric(38, 18) ELSE {_SHOWN_LEVEL} END AS trigger_price,
    (terms ->> 'trail_amount')::numeric(38, 18) AS trail_amount,
    (terms ->> 'trail_bps')::integer AS trail_bps,
    CASE WHEN terms IS NOT NULL THEN coalesce(terms ->> 'time_in_force', 'GTC') END AS time_in_force,
    (terms ->> 'expires_at')::timestamptz AS expires_at,
    coalesce((terms ->> 'queue_when_closed')::boolean, false) AS queue_when_closed,
    CASE WHEN terms IS NULL THEN false ELSE coalesce((progress ->> 'triggered')::boolean, false) END AS triggered,
    CASE WHEN terms IS NOT NULL THEN {_WATERMARK} END AS watermark,
    CASE WHEN terms IS NOT NULL AND progress -> 'rest' IS NOT NULL THEN REVISION END AS revision,
    CASE WHEN {_UNMOVED} THEN progress -> 'hold' ->> 'asset_id' END AS held_asset_id,
    CASE WHEN {_UNMOVED} THEN (progress -> 'hold' ->> 'amount')::numeric(38, 18) END AS held_amount"""


def _views(*, resting: str, revision: str, more: str) -> dict[str, str]:
    live, archived = "progress::jsonb AS progress, terms::jsonb AS terms", "progress, terms::jsonb AS terms"
    shown = f"{_CONDITIONAL}{more}".replace("RESTING", resting).replace("REVISION", revision)
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
