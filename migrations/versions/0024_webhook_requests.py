"""The trail of requests on webhooks, what was asked for under an idempotency key, and what auditors see of it all."""

from __future__ import annotations

from migrations.owner import run

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add the trail and the column."""
    run(UP)


def downgrade() -> None:
    """Drop both."""
    run(DOWN)


UP = (
    "ALTER TABLE webhooks.endpoints ADD COLUMN asked text",
    "COMMENT ON COLUMN webhooks.endpoints.asked IS 'what was asked for when it was made, for requests that repeat it'",
    """
    CREATE TABLE webhooks.requests (
        request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        endpoint_id uuid NOT NULL,
        user_id text NOT NULL,
        action text NOT NULL,
        caller text NOT NULL,
        token_id text,
        address text,
        trace_id text
    )""",
    "COMMENT ON COLUMN webhooks.requests.user_id IS 'whose endpoint it is, or was'",
    "COMMENT ON COLUMN webhooks.requests.caller IS 'the token''s sub'",
    "COMMENT ON COLUMN webhooks.requests.token_id IS 'the token''s jti, or a digest of the token; null: erased'",
    "COMMENT ON COLUMN webhooks.requests.address IS 'where the request came from; null: erased'",
    "CREATE INDEX requests_user_id ON webhooks.requests (user_id)",
    """
    CREATE VIEW audit.webhook_endpoints AS
    SELECT endpoint_id, user_id, kind, target, event_types, every_version, state, disabled_reason, failing_since,
        failures_in_row, paused_until, disabled_at, created_at, updated_at
    FROM webhooks.endpoints""",
    """
    CREATE VIEW audit.webhook_deliveries AS
    SELECT endpoint_id, event_id, order_id, version, event_type, state, reason, attempts, next_attempt_at, created_at,
        ended_at
    FROM webhooks.deliveries""",
    "GRANT SELECT ON audit.webhook_endpoints, audit.webhook_deliveries TO saga_auditor",
    "GRANT SELECT, INSERT ON webhooks.requests TO saga_api",
    "GRANT DELETE ON webhooks.deliveries TO saga_api",
)
DOWN = (
    "DROP VIEW audit.webhook_deliveries, audit.webhook_endpoints",
    "REVOKE DELETE ON webhooks.deliveries FROM saga_api",
    "DROP TABLE webhooks.requests",
    "ALTER TABLE webhooks.endpoints DROP COLUMN asked",
)
