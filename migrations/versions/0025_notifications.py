"""Notifications: the zone of quiet hours is one that the database knows, and codes are counted by address."""

from __future__ import annotations

from migrations.owner import run

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Add the checks and the table."""
    run(UP)


def downgrade() -> None:
    """Drop them."""
    run(DOWN)


UP = (
    """
    ALTER TABLE webhooks.endpoints
        ADD CONSTRAINT endpoints_time_zone CHECK (
            time_zone IS NULL OR timezone(time_zone, timestamptz '2000-01-01 00:00Z') IS NOT NULL),
        ADD CONSTRAINT endpoints_notional_min CHECK (notional_min >= 0)""",
    """
    CREATE TABLE webhooks.codes (
        address_hash bytea,
        day date,
        sent integer NOT NULL,
        PRIMARY KEY (address_hash, day)
    )""",
    "COMMENT ON COLUMN webhooks.codes.address_hash IS 'SHA-256 of the mailbox, or of the user who asks'",
    "GRANT SELECT, INSERT, UPDATE ON webhooks.codes TO saga_api",
    "GRANT SELECT, DELETE ON webhooks.codes TO saga_webhooks",
)
DOWN = (
    "DROP TABLE webhooks.codes",
    "ALTER TABLE webhooks.endpoints DROP CONSTRAINT endpoints_notional_min, DROP CONSTRAINT endpoints_time_zone",
)
