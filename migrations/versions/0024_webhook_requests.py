"""The trail of requests on webhooks, and what was asked for under an idempotency key."""

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
    "GRANT SELECT, INSERT ON webhooks.requests TO saga_api",
    "GRANT DELETE ON webhooks.deliveries TO saga_api",
)
DOWN = (
    "REVOKE DELETE ON webhooks.deliveries FROM saga_api",
    "DROP TABLE webhooks.requests",
    "ALTER TABLE webhooks.endpoints DROP COLUMN asked",
)
