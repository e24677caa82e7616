"""Holds that services ask for beside the saga: what the ledger knows of them, and what the API has promised.

The barrier's row of such a hold is in `balances.holds`, like an order's. The API learns what became of the holds that
it was asked for from `holds.events`, since the ledger's database may be another one.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the tables, and what auditors see."""
    run(UP)


def downgrade() -> None:
    """Drop them. The holds themselves stay, as holds of no order."""
    run(DOWN)


_HOLD = "hold_id, owner, unit, amount, captured, refunded, state, reason_code, reason, updated_at"

LEDGER = (
    """
    CREATE TABLE balances.service_holds (
        hold_id text PRIMARY KEY,
        expires_at timestamptz,
        ended text,
        captured_to text,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT service_holds_id CHECK (hold_id LIKE 'hold:%'),
        CONSTRAINT service_holds_ended CHECK (ended IN ('REFUSED', 'BURIED', 'CAPTURED', 'RELEASED', 'EXPIRED')),
        CONSTRAINT service_holds_paid CHECK (
            (ended IS NOT DISTINCT FROM 'CAPTURED') = (captured_to IS NOT NULL)),
        CONSTRAINT service_holds_expires CHECK ((ended IS NOT DISTINCT FROM 'BURIED') = (expires_at IS NULL))
    )""",
    "COMMENT ON COLUMN balances.service_holds.hold_id IS 'hold:<the id that the service gave it>'",
    "COMMENT ON COLUMN balances.service_holds.expires_at IS 'null: it ended before it was asked for'",
    "COMMENT ON COLUMN balances.service_holds.ended IS 'null: it is held'",
    "COMMENT ON COLUMN balances.service_holds.captured_to IS 'the account of the house that was paid'",
    "CREATE INDEX service_holds_expires_at ON balances.service_holds (expires_at) WHERE ended IS NULL",
    "GRANT SELECT, INSERT, UPDATE ON balances.service_holds TO saga_balances",
    "COMMENT ON COLUMN balances.journal.entry_id IS '<order_id>:settle, deposit:<deposit_id> or hold:<id>:capture'",
    "COMMENT ON COLUMN balances.journal.order_id IS 'null for a deposit and a service''s hold'",
)

API = (
    """
    CREATE TABLE api.holds (
        hold_id uuid PRIMARY KEY,
        service text NOT NULL,
        idempotency_key text,
        user_id text NOT NULL,
        asset_id text NOT NULL,
        amount numeric(38, 18) NOT NULL,
        expires_at timestamptz NOT NULL,
        status text NOT NULL DEFAULT 'PENDING',
        captured numeric(38, 18),
        captured_to text,
        returned numeric(38, 18),
        reason_code text,
        reason text,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT holds_idempotency_key CHECK (idempotency_key <> ''),
        CONSTRAINT holds_status CHECK (
            status IN ('PENDING', 'HELD', 'REFUSED', 'CAPTURED', 'RELEASED', 'EXPIRED'))
    )""",
    "COMMENT ON COLUMN api.holds.hold_id IS 'minted here, before anything is published'",
    "COMMENT ON COLUMN api.holds.service IS 'the token''s sub: the service that asked for it, and alone may use it'",
    "COMMENT ON COLUMN api.holds.status IS 'as the events have told it so far'",
    """
    CREATE UNIQUE INDEX holds_idempotency_key_of_service ON api.holds (service, idempotency_key)
    WHERE idempotency_key IS NOT NULL""",
    "CREATE INDEX holds_held ON api.holds (expires_at) WHERE status = 'HELD'",
    """
    CREATE TABLE api.hold_requests (
        hold_id uuid,
        action text,
        request bytea NOT NULL,
        token_id text,
        traceparent text,
        created_at timestamptz NOT NULL DEFAULT now(),
        next_publish_at timestamptz NOT NULL,
        settled boolean NOT NULL DEFAULT false,
        reason_code text,
        reason text,
        PRIMARY KEY (hold_id, action),
        CONSTRAINT hold_requests_action CHECK (action IN ('place', 'capture', 'release'))
    )""",
    "COMMENT ON COLUMN api.hold_requests.request IS 'the message, as it is published'",
    "COMMENT ON COLUMN api.hold_requests.token_id IS 'the token''s jti, or a digest of the token; null: erased'",
    "COMMENT ON COLUMN api.hold_requests.next_publish_at IS 'when the sweeper looks at it next'",
    "COMMENT ON COLUMN api.hold_requests.settled IS 'an event has answered it'",
    "COMMENT ON COLUMN api.hold_requests.reason_code IS 'why it was refused'",
    """
    CREATE INDEX hold_requests_next_publish_at ON api.hold_requests (next_publish_at) WHERE NOT settled""",
    "GRANT SELECT, INSERT, UPDATE ON api.holds, api.hold_requests TO saga_api",
)

AUDIT = (
    f"""
    CREATE VIEW audit.service_holds AS
    SELECT hold_id, hold.owner AS user_id, hold.unit AS asset_id, hold.amount, hold.captured, hold.refunded, hold.state,
        hold.reason_code, hold.reason, own.expires_at, own.ended, own.captured_to, own.created_at, hold.updated_at
    FROM balances.service_holds AS own LEFT JOIN (
        SELECT {_HOLD} FROM balances.holds UNION ALL SELECT {_HOLD} FROM balances.holds_archive
    ) AS hold USING (hold_id)""",  # noqa: S608 - names of our own
    "GRANT SELECT ON audit.service_holds TO saga_auditor",
)

UP = (*LEDGER, *API, *AUDIT)
DOWN = (
    "DROP VIEW audit.service_holds",
    "DROP TABLE api.hold_requests, api.holds",
    "DROP TABLE balances.service_holds",
    "COMMENT ON COLUMN balances.journal.entry_id IS '<order_id>:settle or deposit:<deposit_id>'",
    "COMMENT ON COLUMN balances.journal.order_id IS 'null for a deposit'",
)
