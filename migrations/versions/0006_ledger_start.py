"""When the reference balance service's ledger began, and whether it was handed over to another service.

A ledger with holds answers every command, as before. An empty ledger begins now: commands of older orders, in topics
that outlived their database, are not for it. Auditors see the row, so that nobody looks for new orders in a closed
ledger.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table with its row, and the view."""
    run(UP)


def downgrade() -> None:
    """Drop both, and the triggers that close a ledger."""
    run(DOWN)


UP = (
    """
    CREATE TABLE balances.ledger_start (
        only_row boolean PRIMARY KEY DEFAULT true,
        began_at timestamptz,
        closed_at timestamptz,
        successor text,
        CONSTRAINT ledger_start_only_row CHECK (only_row),
        CONSTRAINT ledger_start_closed CHECK ((closed_at IS NULL) = (successor IS NULL))
    )""",
    """
    INSERT INTO balances.ledger_start (began_at)
    SELECT CASE WHEN EXISTS (SELECT FROM balances.holds) OR EXISTS (SELECT FROM balances.holds_archive) THEN NULL
        ELSE clock_timestamp() END""",
    "GRANT SELECT ON balances.ledger_start TO saga_balances",
    "CREATE VIEW audit.ledger AS SELECT began_at, closed_at, successor FROM balances.ledger_start",
    "GRANT SELECT ON audit.ledger TO saga_auditor",
)
DOWN = (
    "DROP VIEW audit.ledger",
    "DROP TABLE balances.ledger_start",
    "DROP FUNCTION IF EXISTS balances.handed_over() CASCADE",
)
