"""The trail of REST requests, and what the lists of a user's orders need.

Its indexes are built in the transaction, so writers wait for them: on tables of a running system build them beforehand
with CREATE INDEX CONCURRENTLY, under the same names.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the trail of requests, the mark of a claim whose id was taken, and what the lists need."""
    run(UP)


def downgrade() -> None:
    """Drop them; the trail of requests is lost."""
    run(DOWN)


OPEN = "status IN ('PENDING', 'CONFIRMED', 'PROCESSING')"

# The trail is added to and never changed: the API's role may not. Only the owner blanks what the law has erased.
UP = (
    """
    CREATE TABLE api.requests (
        request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id uuid NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        action text NOT NULL,
        outcome text NOT NULL,
        caller text NOT NULL,
        token_id text,
        address text,
        trace_id text,
        CONSTRAINT requests_action CHECK (action IN ('submit', 'cancel'))
    )""",
    "COMMENT ON COLUMN api.requests.outcome IS 'accepted, replayed, or the code of the problem'",
    "COMMENT ON COLUMN api.requests.caller IS 'the token''s sub'",
    "COMMENT ON COLUMN api.requests.token_id IS 'the token''s jti, or a digest of the token; null: erased'",
    "COMMENT ON COLUMN api.requests.address IS 'where the request came from; null: erased'",
    "CREATE INDEX requests_order_id ON api.requests (order_id)",
    "GRANT SELECT, INSERT ON api.requests TO saga_api",
    """
    CREATE VIEW audit.requests AS
    SELECT order_id, request_id, at, action, outcome, caller, token_id, address, trace_id FROM api.requests""",
    "GRANT SELECT ON audit.requests TO saga_auditor",
    "ALTER TABLE api.claims ADD COLUMN taken boolean NOT NULL DEFAULT false",
    "COMMENT ON COLUMN api.claims.taken IS 'the order''s row is another user''s order'",
    """
    CREATE INDEX claims_not_yet_orders ON api.claims (user_id, created_at, order_id)
        WHERE NOT settled OR taken""",
    f"CREATE INDEX orders_open_by_user ON orders.orders (user_id, created_at, order_id) WHERE {OPEN}",
)

DOWN = (
    "DROP INDEX orders.orders_open_by_user",
    "DROP INDEX api.claims_not_yet_orders",
    "ALTER TABLE api.claims DROP COLUMN taken",
    "DROP VIEW audit.requests",
    "DROP TABLE api.requests",
)
