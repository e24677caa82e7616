"""What cancels many orders at once: cancels of all of a user's open orders, and the timers that ask for one."""

from __future__ import annotations

from migrations.owner import run

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add both tables, and show them to the auditor."""
    run(UP)


def downgrade() -> None:
    """Drop them. A cancel of all that was under way stops where it is: what it has cancelled stays so."""
    run(DOWN)


UP = (
    """
    CREATE TABLE api.mass_cancels (
        mass_cancel_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        requested_by text NOT NULL,
        idempotency_key text,
        asset_id text,
        side text,
        order_type text,
        caller text NOT NULL,
        token_id text,
        address text,
        trace_id text,
        created_at timestamptz NOT NULL DEFAULT now(),
        after_created_at timestamptz NOT NULL DEFAULT now(),
        after_order_id uuid NOT NULL DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff',
        orders bigint NOT NULL DEFAULT 0,
        completed_at timestamptz,
        next_run_at timestamptz NOT NULL,
        CONSTRAINT mass_cancels_idempotency_key CHECK (idempotency_key <> '')
    )""",
    "COMMENT ON COLUMN api.mass_cancels.user_id IS 'whose orders'",
    "COMMENT ON COLUMN api.mass_cancels.requested_by IS 'the user, or @operator:<name>'",
    "COMMENT ON COLUMN api.mass_cancels.asset_id IS 'only this asset; null: every one'",
    "COMMENT ON COLUMN api.mass_cancels.side IS 'only this side; null: both'",
    "COMMENT ON COLUMN api.mass_cancels.order_type IS 'only this type; null: every one'",
    "COMMENT ON COLUMN api.mass_cancels.caller IS 'the token''s sub'",
    "COMMENT ON COLUMN api.mass_cancels.token_id IS 'the token''s jti, or a digest of the token; null: erased'",
    "COMMENT ON COLUMN api.mass_cancels.address IS 'where the request came from; null: erased'",
    "COMMENT ON COLUMN api.mass_cancels.created_at IS 'orders that were accepted later are left alone'",
    "COMMENT ON COLUMN api.mass_cancels.after_created_at IS 'the place of the last order that was looked at'",
    "COMMENT ON COLUMN api.mass_cancels.orders IS 'cancels that it has made so far'",
    "COMMENT ON COLUMN api.mass_cancels.completed_at IS 'when the last order had been looked at'",
    "COMMENT ON COLUMN api.mass_cancels.next_run_at IS 'when a sweeper goes on with it'",
    """
    CREATE UNIQUE INDEX mass_cancels_idempotency_key ON api.mass_cancels (user_id, requested_by, idempotency_key)
        WHERE idempotency_key IS NOT NULL""",
    "CREATE INDEX mass_cancels_next_run_at ON api.mass_cancels (next_run_at) WHERE completed_at IS NULL",
    "GRANT SELECT, INSERT, UPDATE ON api.mass_cancels TO saga_api",
    """
    CREATE TABLE api.cancel_timers (
        user_id text PRIMARY KEY,
        timeout_s integer NOT NULL,
        set_at timestamptz NOT NULL DEFAULT now(),
        fires_at timestamptz,
        fired_at timestamptz,
        mass_cancel_id uuid,
        caller text NOT NULL,
        token_id text,
        address text,
        trace_id text
    )""",
    "COMMENT ON COLUMN api.cancel_timers.user_id IS 'whose open orders it cancels'",
    "COMMENT ON COLUMN api.cancel_timers.timeout_s IS 'as the last call asked for; 0: off'",
    "COMMENT ON COLUMN api.cancel_timers.set_at IS 'when the last call came'",
    "COMMENT ON COLUMN api.cancel_timers.fires_at IS 'null: off, or it has fired'",
    "COMMENT ON COLUMN api.cancel_timers.fired_at IS 'when it fired last'",
    "COMMENT ON COLUMN api.cancel_timers.mass_cancel_id IS 'what it asked for when it fired last'",
    "COMMENT ON COLUMN api.cancel_timers.caller IS 'the token''s sub, of the last call'",
    "COMMENT ON COLUMN api.cancel_timers.token_id IS 'the token''s jti, or a digest of the token; null: erased'",
    "COMMENT ON COLUMN api.cancel_timers.address IS 'where the last call came from; null: erased'",
    "CREATE INDEX cancel_timers_fires_at ON api.cancel_timers (fires_at) WHERE fires_at IS NOT NULL",
    "GRANT SELECT, INSERT, UPDATE ON api.cancel_timers TO saga_api",
    """
    CREATE VIEW audit.mass_cancels AS
    SELECT mass_cancel_id, user_id, requested_by, asset_id, side, order_type, orders, created_at, completed_at
    FROM api.mass_cancels""",
    """
    CREATE VIEW audit.cancel_timers AS
    SELECT user_id, timeout_s, set_at, fires_at, fired_at, mass_cancel_id FROM api.cancel_timers""",
    "GRANT SELECT ON audit.mass_cancels, audit.cancel_timers TO saga_auditor",
)

DOWN = (
    "DROP VIEW audit.cancel_timers",
    "DROP VIEW audit.mass_cancels",
    "DROP TABLE api.cancel_timers",
    "DROP TABLE api.mass_cancels",
)
