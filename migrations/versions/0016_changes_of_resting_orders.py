"""Amends, suspensions and releases of resting orders: their phases, and a row that still expires.

The views of orders show them from 0019 on.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from collections.abc import Callable

from alembic import op

from migrations.owner import replace_views, run

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Know the phases, and keep suspended orders apart."""
    run(UP)
    questions = _questions(assets="IN ('check', 'recheck')")
    resting = _resting(_step_or_mark, more=", waits.suspended")
    replace_views(op.get_bind(), {"audit.resting": resting, "audit.questions": questions})


def downgrade() -> None:
    """Forget them. It fails while an order is being changed, since that could not go on."""
    resting, questions = _resting(_step, more=""), _questions(assets="= 'check'")
    replace_views(op.get_bind(), {"audit.resting": resting, "audit.questions": questions})
    run(DOWN)


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


def _step_or_mark(column: str) -> str:
    """Select of the first step that an order has not passed. The mark is one too, with no row among the others."""
    return f"""(
        SELECT step.{column} FROM (
            (SELECT upto, price, set_by FROM orders.peaks AS peak
             WHERE peak.asset_id = waits.asset_id AND peak.side = waits.side AND peak.upto >= waits.from_sequence
             ORDER BY upto LIMIT 1)
            UNION ALL
            SELECT sequence, price, sequence FROM orders.marks AS mark
            WHERE mark.asset_id = waits.asset_id AND mark.sequence >= waits.from_sequence
        ) AS step WHERE num_nonnulls(waits.trail_amount, waits.trail_bps) > 0 ORDER BY step.upto LIMIT 1)"""


def _resting(step: Callable[[str], str], more: str) -> str:
    return f"""
    SELECT waits.order_id, waits.asset_id, waits.side, waits.revision, waits.live, waits.up_price, waits.down_price,
        waits.from_sequence, waits.entered_at, waits.expires_at, waits.triggered_sequence, waits.fired_sequence,
        waits.fired_price, {step("price")} AS watermark, {step("set_by")} AS watermark_sequence, waits.fired_at,
        waits.told{more}
    FROM orders.resting AS waits"""
