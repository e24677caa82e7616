"""Holds that can be adjusted: the newest adjustment that was asked for, and the answer if it was a refusal.

A hold that is there has never been adjusted. Services of before write holds beside newer ones: they leave these columns
as they are, and refuse a command whose amount is not the hold's any more.
"""

from __future__ import annotations

from alembic import op

from migrations.owner import replace_view, run

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Make a place for adjustments."""
    run(UP)
    replace_view(op.get_bind(), "audit.holds", _holds(more=", revision"))


def downgrade() -> None:
    """Take it away. It fails while an adjusted hold is active: its end would be refused as another hold's."""
    replace_view(op.get_bind(), "audit.holds", _holds(more=""))
    run(DOWN)


def _holds(more: str) -> str:
    same = f"amount, captured, refunded, state{more}"
    columns = f"hold_id, saga_id, owner, unit, {same}"
    return f"""
    SELECT hold_id, saga_id::uuid AS order_id, owner AS user_id, unit AS asset_id, {same} FROM (
        SELECT {columns} FROM balances.holds UNION ALL SELECT {columns} FROM balances.holds_archive) AS hold"""  # noqa: S608


_COLUMNS = """
    ADD COLUMN revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN asked numeric(38, 18),
    ADD COLUMN adjust_code text,
    ADD COLUMN adjust_reason text"""
UP = (
    f"""
    ALTER TABLE balances.holds {_COLUMNS},
        ADD CONSTRAINT holds_revision CHECK (revision >= 0 AND (revision = 0) = (asked IS NULL))""",
    f"ALTER TABLE balances.holds_archive {_COLUMNS}",
)
_GONE = """
    DROP COLUMN revision, DROP COLUMN asked, DROP COLUMN adjust_code, DROP COLUMN adjust_reason"""
DOWN = (
    """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM balances.holds WHERE state = 'HELD' AND revision > 0) THEN
            RAISE EXCEPTION 'holds were adjusted and are active';
        END IF;
    END $$""",
    f"ALTER TABLE balances.holds {_GONE}",
    f"ALTER TABLE balances.holds_archive {_GONE}",
)
