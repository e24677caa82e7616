"""Webhooks: whom to tell of orders, and what each was told; with a role of its own for the process that sends.

The API writes endpoints, and the deliveries that a user asks for. Whoever sends reads orders from Kafka alone.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Add the role, the schema and its rights."""
    run(UP)


def downgrade() -> None:
    """Drop the schema. The role stays, as every role does."""
    run(DOWN)


def _on_this_database(command: str) -> str:
    return f"DO $$ BEGIN EXECUTE format('{command}', current_database()); END $$"


# Another database of the cluster may make it at the same instant.
ROLE = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'saga_webhooks') THEN
            CREATE ROLE saga_webhooks NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$"""
QUEUE = """WITH (
        autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000)"""

UP = (
    ROLE,
    _on_this_database("GRANT CONNECT ON DATABASE %I TO saga_webhooks"),
    "CREATE SCHEMA webhooks",
    """
    CREATE TABLE webhooks.endpoints (
        endpoint_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        kind text NOT NULL,
        target text NOT NULL,
        description text NOT NULL DEFAULT '',
        idempotency_key text,
        event_types text[] NOT NULL,
        every_version boolean NOT NULL DEFAULT false,
        secrets text NOT NULL,
        confirmed_at timestamptz,
        quiet_from time,
        quiet_until time,
        time_zone text,
        notional_min numeric(38, 18),
        state text NOT NULL DEFAULT 'ACTIVE',
        disabled_reason text,
        failing_since timestamptz,
        failures_in_row integer NOT NULL DEFAULT 0,
        paused_until timestamptz,
        disabled_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        revision bigint NOT NULL DEFAULT 1,
        CONSTRAINT endpoints_kind CHECK (kind IN ('webhook', 'email', 'push')),
        CONSTRAINT endpoints_state CHECK (state IN ('ACTIVE', 'DISABLED')),
        CONSTRAINT endpoints_disabled_reason CHECK ((state = 'DISABLED') = (disabled_reason IS NOT NULL)),
        CONSTRAINT endpoints_disabled_at CHECK (disabled_at IS NULL OR state = 'DISABLED'),
        CONSTRAINT endpoints_quiet_hours CHECK (num_nulls(quiet_from, quiet_until, time_zone) IN (0, 3)),
        CONSTRAINT endpoints_idempotency_key CHECK (idempotency_key <> '')
    )""",
    "CREATE INDEX endpoints_user_id ON webhooks.endpoints (user_id)",
    """
    CREATE UNIQUE INDEX endpoints_idempotency_key_of_user ON webhooks.endpoints (user_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL""",
    """
    CREATE TABLE webhooks.deliveries (
        endpoint_id uuid REFERENCES webhooks.endpoints ON DELETE CASCADE,
        event_id text,
        order_id uuid,
        version bigint,
        event_type text NOT NULL,
        body bytea NOT NULL,
        state text NOT NULL DEFAULT 'PENDING',
        reason text,
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        leased_until timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        PRIMARY KEY (endpoint_id, event_id),
        CONSTRAINT deliveries_state CHECK (
            state IN ('PENDING', 'DELIVERED', 'SUPERSEDED', 'FAILED', 'SKIPPED')),
        CONSTRAINT deliveries_ended_at CHECK ((state = 'PENDING') = (ended_at IS NULL))
    )""",
    """
    CREATE INDEX deliveries_due ON webhooks.deliveries (endpoint_id, next_attempt_at) WHERE state = 'PENDING'""",
    "CREATE INDEX deliveries_pending_of_order ON webhooks.deliveries (order_id) WHERE state = 'PENDING'",
    "CREATE INDEX deliveries_of_endpoint ON webhooks.deliveries (endpoint_id, created_at)",
    "CREATE INDEX deliveries_of_order ON webhooks.deliveries (order_id)",
    "CREATE INDEX deliveries_ended_at ON webhooks.deliveries (ended_at) WHERE ended_at IS NOT NULL",
    """
    CREATE TABLE webhooks.attempts (
        endpoint_id uuid,
        event_id text,
        number integer,
        at timestamptz NOT NULL,
        duration_ms integer NOT NULL,
        status integer,
        error text,
        answer text,
        PRIMARY KEY (endpoint_id, event_id, number),
        CONSTRAINT attempts_delivery_fkey FOREIGN KEY (endpoint_id, event_id)
            REFERENCES webhooks.deliveries ON DELETE CASCADE
    )""",
    """
    CREATE TABLE webhooks.changes (
        single boolean PRIMARY KEY DEFAULT true,
        version bigint NOT NULL DEFAULT 0,
        CONSTRAINT changes_single CHECK (single)
    )""",
    "INSERT INTO webhooks.changes DEFAULT VALUES",
    "COMMENT ON COLUMN webhooks.endpoints.kind IS 'webhook, email or push'",
    "COMMENT ON COLUMN webhooks.endpoints.target IS 'a URL, an e-mail address, or a push subscription as JSON'",
    "COMMENT ON COLUMN webhooks.endpoints.description IS 'the user''s own words'",
    "COMMENT ON COLUMN webhooks.endpoints.event_types IS 'empty: all'",
    "COMMENT ON COLUMN webhooks.endpoints.every_version IS 'no version is superseded'",
    "COMMENT ON COLUMN webhooks.endpoints.secrets IS 'sealed secrets as a JSON list, newest first, each with its end'",
    "COMMENT ON COLUMN webhooks.endpoints.confirmed_at IS 'when the owner of an e-mail address has confirmed it'",
    "COMMENT ON COLUMN webhooks.endpoints.quiet_from IS 'of each day in time_zone; nothing is sent until quiet_until'",
    "COMMENT ON COLUMN webhooks.endpoints.notional_min IS 'what is worth less is not told'",
    "COMMENT ON COLUMN webhooks.endpoints.failing_since IS 'of the first failure since the last success'",
    "COMMENT ON COLUMN webhooks.endpoints.paused_until IS 'no attempt before: Retry-After, or the next probe'",
    "COMMENT ON COLUMN webhooks.endpoints.disabled_at IS 'given up by the process; null: its user has disabled it'",
    "COMMENT ON COLUMN webhooks.endpoints.revision IS 'of what its user has set'",
    "COMMENT ON COLUMN webhooks.deliveries.event_id IS '<order_id>:v<version>, or an id of another event'",
    "COMMENT ON COLUMN webhooks.deliveries.order_id IS 'null: about no order'",
    "COMMENT ON COLUMN webhooks.deliveries.version IS 'of the order'",
    "COMMENT ON COLUMN webhooks.deliveries.body IS 'signed and sent as it is, at every attempt'",
    "COMMENT ON COLUMN webhooks.deliveries.reason IS 'why it was not delivered'",
    "COMMENT ON COLUMN webhooks.deliveries.leased_until IS 'a process sends it'",
    "COMMENT ON COLUMN webhooks.attempts.number IS 'from 1'",
    "COMMENT ON COLUMN webhooks.attempts.status IS 'of the answer; null: there was none'",
    "COMMENT ON COLUMN webhooks.attempts.error IS 'why it failed, in words; null: it did not'",
    "COMMENT ON COLUMN webhooks.attempts.answer IS 'its first 200 printable characters'",
    f"""
    CREATE TABLE webhooks.outbox (
        outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        due_at timestamptz NOT NULL,
        available_at timestamptz NOT NULL,
        refs text[] NOT NULL,
        payload bytea NOT NULL
    ) {QUEUE}""",
    "CREATE INDEX outbox_available_at ON webhooks.outbox (available_at)",
    f"""
    CREATE TABLE webhooks.dead_letters (
        dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic text NOT NULL,
        partition integer NOT NULL,
        record_offset bigint NOT NULL,
        record_timestamp bigint NOT NULL,
        key bytea,
        headers json NOT NULL,
        value bytea,
        reason text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        replayed_at timestamptz,
        discarded_at timestamptz,
        CONSTRAINT dead_letters_record UNIQUE (topic, partition, record_offset, record_timestamp)
    ) {QUEUE}""",
    """
    CREATE INDEX dead_letters_open ON webhooks.dead_letters (dead_letter_id)
        WHERE replayed_at IS NULL AND discarded_at IS NULL""",
    "GRANT USAGE ON SCHEMA webhooks TO saga_webhooks, saga_api",
    "GRANT SELECT, UPDATE ON webhooks.endpoints TO saga_webhooks",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.deliveries, webhooks.outbox TO saga_webhooks",
    "GRANT SELECT, INSERT, DELETE ON webhooks.attempts TO saga_webhooks",
    "GRANT SELECT, UPDATE ON webhooks.changes TO saga_webhooks, saga_api",
    "GRANT SELECT, INSERT, UPDATE ON webhooks.dead_letters TO saga_webhooks",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON webhooks.endpoints TO saga_api",
    "GRANT SELECT, INSERT, UPDATE ON webhooks.deliveries TO saga_api",
    "GRANT SELECT ON webhooks.attempts TO saga_api",
)

DOWN = (
    "DROP SCHEMA webhooks CASCADE",
    _on_this_database("REVOKE CONNECT ON DATABASE %I FROM saga_webhooks"),
)
