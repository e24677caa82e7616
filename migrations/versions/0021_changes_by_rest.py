"""What the API has promised to pass on: amends, holds and releases of orders that rest."""

from __future__ import annotations

from migrations.owner import run

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add both tables, and let the trail tell such requests."""
    run(UP)


def downgrade() -> None:
    """Drop them. What the orchestrator has read counts all the same; lines of the trail about them stay."""
    run(DOWN)


UP = (
    """
    CREATE TABLE api.amends (
        order_id uuid NOT NULL,
        amend_id text NOT NULL,
        user_id text NOT NULL,
        requested_by text NOT NULL,
        expected_versions bigint[],
        changes text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        next_publish_at timestamptz NOT NULL,
        settled boolean NOT NULL DEFAULT false,
        PRIMARY KEY (order_id, amend_id)
    )""",
    "COMMENT ON COLUMN api.amends.amend_id IS 'the Idempotency-Key, or an id of our own making'",
    "COMMENT ON COLUMN api.amends.user_id IS 'the order''s user'",
    "COMMENT ON COLUMN api.amends.requested_by IS 'the user, or @operator:<name>'",
    "COMMENT ON COLUMN api.amends.expected_versions IS 'the versions that If-Match allows; null: any'",
    "COMMENT ON COLUMN api.amends.changes IS 'the new terms as a JSON object, canonical'",
    "COMMENT ON COLUMN api.amends.next_publish_at IS 'when the sweeper looks at it next'",
    "COMMENT ON COLUMN api.amends.settled IS 'the orchestrator has read it, or the order is past it'",
    "CREATE UNIQUE INDEX amends_one_at_a_time ON api.amends (order_id) WHERE NOT settled",
    "CREATE INDEX amends_next_publish_at ON api.amends (next_publish_at) WHERE NOT settled",
    """
    CREATE TABLE api.suspensions (
        order_id uuid NOT NULL,
        requested_by text NOT NULL,
        user_id text NOT NULL,
        wish text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        next_publish_at timestamptz NOT NULL,
        settled boolean NOT NULL DEFAULT false,
        PRIMARY KEY (order_id, requested_by),
        CONSTRAINT suspensions_wish CHECK (wish IN ('hold', 'release'))
    )""",
    "COMMENT ON COLUMN api.suspensions.user_id IS 'the order''s user'",
    "COMMENT ON COLUMN api.suspensions.requested_by IS 'the user, or @operator:<name>'",
    "COMMENT ON COLUMN api.suspensions.wish IS 'what they asked for last'",
    "COMMENT ON COLUMN api.suspensions.next_publish_at IS 'when the sweeper looks at it next'",
    "COMMENT ON COLUMN api.suspensions.settled IS 'the orchestrator has read it, or the order is past it'",
    "CREATE INDEX suspensions_next_publish_at ON api.suspensions (next_publish_at) WHERE NOT settled",
    "GRANT SELECT, INSERT, UPDATE ON api.amends, api.suspensions TO saga_api",
    """
    ALTER TABLE api.requests DROP CONSTRAINT requests_action,
        ADD CONSTRAINT requests_action CHECK (action IN ('submit', 'cancel', 'amend', 'hold', 'release'))""",
)

DOWN = (
    """
    ALTER TABLE api.requests DROP CONSTRAINT requests_action,
        ADD CONSTRAINT requests_action CHECK (action IN ('submit', 'cancel')) NOT VALID""",
    "DROP TABLE api.suspensions",
    "DROP TABLE api.amends",
)
