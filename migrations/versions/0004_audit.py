"""Columns by which the audit tells a message that is late from one that is never tried again."""

from __future__ import annotations

from migrations.owner import run

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Show when claims and events are tried next."""
    run(UP)


def downgrade() -> None:
    """Hide it. A view can't lose a column, so both are made anew."""
    run(DOWN)


EVENT_REF = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:v[0-9]{1,9}$'"  # <order_id>:v<version>


def _events_unsent(more: str = "") -> str:
    return f"""
    VIEW audit.events_unsent AS
    SELECT CASE WHEN ref ~ {EVENT_REF} THEN split_part(ref, ':v', 1)::uuid END AS order_id,
        CASE WHEN ref ~ {EVENT_REF} THEN split_part(ref, ':v', 2)::integer END AS version, outbox.created_at{more}
    FROM orders.outbox AS outbox CROSS JOIN unnest(outbox.refs) AS ref
    WHERE ref ~ {EVENT_REF}"""  # noqa: S608 - a constant of ours


def _claims(more: str = "") -> str:
    return f"""
    VIEW audit.claims AS
    SELECT order_id, user_id, idempotency_key, client_order_id, created_at, settled{more} FROM api.claims"""  # noqa: S608 - ours


UP = (
    f"CREATE OR REPLACE {_events_unsent(', outbox.available_at')}",
    f"CREATE OR REPLACE {_claims(', next_publish_at')}",
)
DOWN = (
    "DROP VIEW audit.events_unsent",
    f"CREATE {_events_unsent()}",
    "DROP VIEW audit.claims",
    f"CREATE {_claims()}",
    "GRANT SELECT ON audit.events_unsent, audit.claims TO saga_auditor",
)
