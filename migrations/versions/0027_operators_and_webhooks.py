"""Webhooks for operators: endpoints without what is secret or personal, troubles to be told of, and two indexes."""

from __future__ import annotations

from alembic import op

from migrations.owner import replace_view, run

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Replace the view, and add the rest."""
    replace_view(op.get_bind(), "audit.webhook_endpoints", _endpoints(HOST, QUIET))
    run(UP)


def downgrade() -> None:
    """Show what was shown before."""
    run(DOWN)
    replace_view(op.get_bind(), "audit.webhook_endpoints", _endpoints("target"))


# The path and the query of a URL may be what lets somebody in, an address is a person's, and a push subscription names
# a browser. Who looks after the system needs the host, no more. A text that is none of these shows nothing.
HOST = r"""
        CASE kind
            WHEN 'webhook' THEN substring(target FROM '(?i)^[a-z]+://([^/?#\\@]+)(?:[/?#]|$)')
            WHEN 'email' THEN substring(target FROM '@([^@]+)$')
            ELSE substring(target FROM '(?i)"endpoint" *: *"[a-z]+://([^/?#\\@"]+)[/?#"]')
        END AS host"""


# Whether its user's quiet hours are now: what is due then waits as it should.
QUIET = """,
        quiet_from IS NOT NULL AND (kind <> 'email' OR confirmed_at IS NOT NULL) AND CASE WHEN quiet_from < quiet_until
            THEN (statement_timestamp() AT TIME ZONE time_zone)::time >= quiet_from
                AND (statement_timestamp() AT TIME ZONE time_zone)::time < quiet_until
            ELSE (statement_timestamp() AT TIME ZONE time_zone)::time >= quiet_from
                OR (statement_timestamp() AT TIME ZONE time_zone)::time < quiet_until END AS quiet"""


def _endpoints(where: str, more: str = "") -> str:
    return f"""
    SELECT endpoint_id, user_id, kind, {where}, event_types, every_version, state, disabled_reason, failing_since,
        failures_in_row, paused_until, disabled_at, created_at, updated_at{more}
    FROM webhooks.endpoints"""  # noqa: S608 - the parts are those above


# What operators are told of by channels of their own: numbers, and since when, of nobody in particular.
_DEAD_LETTERS = """
    UNION ALL SELECT 'dead letters of {schema}', count(*), min(received_at)
    FROM {schema}.dead_letters WHERE replayed_at IS NULL AND discarded_at IS NULL"""
TROUBLE = """
    SELECT 'parked orders' AS subject, count(*) AS number, min(updated_at) AS since
    FROM orders.orders WHERE parked_reason IS NOT NULL
    UNION ALL SELECT 'overdue orders', count(*), min(overdue_since)
    FROM orders.orders WHERE overdue_since IS NOT NULL""" + "".join(  # noqa: S608 - names are those below
    _DEAD_LETTERS.format(schema=schema) for schema in ("orders", "balances", "assets", "webhooks")
)

UP = (
    "CREATE INDEX endpoints_disabled_at ON webhooks.endpoints (disabled_at) WHERE disabled_at IS NOT NULL",
    """
    CREATE INDEX deliveries_ended_as ON webhooks.deliveries (endpoint_id, state, created_at, event_id)
        WHERE state <> 'PENDING'""",
    f"CREATE VIEW audit.trouble AS {TROUBLE}",
    """
    CREATE TABLE webhooks.alarms (
        subject text PRIMARY KEY,
        number bigint NOT NULL,
        told_at timestamptz NOT NULL
    )""",
    "COMMENT ON COLUMN webhooks.alarms.subject IS 'as audit.trouble has it'",
    "COMMENT ON COLUMN webhooks.alarms.number IS 'that was told, or a smaller one that came after it'",
    "GRANT USAGE ON SCHEMA audit TO saga_webhooks",
    "GRANT SELECT ON audit.trouble TO saga_auditor, saga_webhooks",
    "GRANT SELECT, INSERT, UPDATE ON webhooks.alarms TO saga_webhooks",
)
DOWN = (
    "REVOKE USAGE ON SCHEMA audit FROM saga_webhooks",
    "DROP VIEW audit.trouble",
    "DROP TABLE webhooks.alarms",
    "DROP INDEX webhooks.deliveries_ended_as, webhooks.endpoints_disabled_at",
)
