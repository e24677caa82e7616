"""Pauses of participants and the trail of repairs; for auditors the questions of every order, and settled claims."""

from __future__ import annotations

from migrations.owner import run

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the pauses, the trail of repairs, and their views."""
    run(UP)


def downgrade() -> None:
    """Drop them: all pauses end, and the trail of repairs is lost."""
    run(DOWN)


# Only the owner may pause and repair, no service may. Rows of the trail are never changed. A question's defaults are
# those of `order_saga.core.saga.Question`.
UP = (
    """
    CREATE TABLE orders.pauses (
        participant text PRIMARY KEY,
        paused_by text NOT NULL,
        reason text NOT NULL,
        paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT pauses_participant CHECK (participant IN ('assets', 'balance'))
    )""",
    "GRANT SELECT ON orders.pauses TO saga_orders",
    """
    CREATE TABLE orders.repairs (
        run_id text,
        action text,
        item text,
        done_by text NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        result text NOT NULL,
        PRIMARY KEY (run_id, action, item)
    )""",
    "COMMENT ON COLUMN orders.repairs.item IS 'an order''s id, or a dead letter''s: orders/17'",
    "CREATE VIEW audit.pauses AS SELECT participant, paused_by, reason, paused_at FROM orders.pauses",
    "CREATE VIEW audit.repairs AS SELECT run_id, action, item, done_by, at, result FROM orders.repairs",
    """
    CREATE VIEW audit.questions AS
    SELECT owner.order_id, question.step,
        CASE question.step WHEN 'check' THEN 'assets' ELSE 'balance' END AS participant,
        question.asked_at, question.due_at, coalesce(question.attempts, 1) AS attempts,
        coalesce(question.answer, 'OPEN') AS answer, coalesce(question.sent, true) AS sent,
        coalesce(question.held_back, false) AS held_back
    FROM orders.orders AS owner
    CROSS JOIN jsonb_to_recordset(owner.progress -> 'questions') AS question (
        step text, asked_at timestamptz, due_at timestamptz, attempts integer, answer text, sent boolean,
        held_back boolean)
    WHERE owner.phase <> 'NEW'""",
    """
    CREATE OR REPLACE VIEW audit.claims AS
    SELECT order_id, user_id, idempotency_key, client_order_id, created_at, settled FROM api.claims""",
    "GRANT SELECT ON audit.pauses, audit.repairs, audit.questions TO saga_auditor",
)

DOWN = (
    "DROP VIEW audit.claims",
    """
    CREATE VIEW audit.claims AS
    SELECT order_id, user_id, idempotency_key, client_order_id, created_at FROM api.claims""",
    "GRANT SELECT ON audit.claims TO saga_auditor",
    "DROP VIEW audit.questions",
    "DROP VIEW audit.repairs",
    "DROP VIEW audit.pauses",
    "DROP TABLE orders.repairs",
    "DROP TABLE orders.pauses",
)
