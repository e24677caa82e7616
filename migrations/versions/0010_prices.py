"""Prices that move: an asset's trading state on the sequence of its price, sources that simulate, and their lease."""

from __future__ import annotations

from migrations.owner import run

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; every asset is open, and every source is as it was."""
    run(UP)


def downgrade() -> None:
    """Drop them: a halted asset trades again, and a price that moved stands still."""
    run(DOWN)


_SEQUENCE = "COMMENT ON COLUMN assets.prices.sequence IS 'rises {}'"
_SOURCE = "COMMENT ON COLUMN assets.prices.source IS 'fixed{}; dead: never'"

UP = (
    """
    ALTER TABLE assets.assets
        ADD COLUMN max_deviation_bps integer,
        ADD CONSTRAINT assets_max_deviation CHECK (max_deviation_bps > 0)""",
    """
    COMMENT ON COLUMN assets.assets.max_deviation_bps
        IS 'how far from the quote a limit or trigger may be, 1/10,000; null: any'""",
    """
    ALTER TABLE assets.prices
        ADD COLUMN trading text NOT NULL DEFAULT 'OPEN',
        ADD COLUMN reopens_at timestamptz,
        ADD COLUMN trading_reason text,
        ADD COLUMN trading_changed_at timestamptz,
        ADD COLUMN terms text,
        ADD COLUMN moves_since timestamptz,
        ADD COLUMN position bigint NOT NULL DEFAULT 0,
        ADD COLUMN leased_by text,
        ADD COLUMN leased_until timestamptz,
        DROP CONSTRAINT prices_source,
        ADD CONSTRAINT prices_source CHECK (source IN ('fixed', 'dead', 'walk', 'script', 'external')),
        ADD CONSTRAINT prices_trading CHECK (trading IN ('OPEN', 'HALTED', 'CLOSED')),
        ADD CONSTRAINT prices_terms CHECK ((source IN ('walk', 'script')) = (terms IS NOT NULL))""",
    _SEQUENCE.format("with each change of price or trading state"),
    _SOURCE.format(", walk, script: confirmed by the service"),
    "COMMENT ON COLUMN assets.prices.reopens_at IS 'when a closed asset is expected to open'",
    "COMMENT ON COLUMN assets.prices.trading_reason IS 'why it does not trade, for people'",
    "COMMENT ON COLUMN assets.prices.trading_changed_at IS 'null: it never did'",
    "COMMENT ON COLUMN assets.prices.terms IS 'of a walk or a script, as JSON'",
    "COMMENT ON COLUMN assets.prices.moves_since IS 'when the walk or the script began'",
    "COMMENT ON COLUMN assets.prices.position IS 'steps that it has made'",
    "COMMENT ON COLUMN assets.prices.leased_by IS 'the instance that moves and repeats this price'",
    "COMMENT ON COLUMN assets.prices.leased_until IS 'then another instance may; null: at once'",
)
DOWN = (
    "UPDATE assets.prices SET source = 'fixed', terms = NULL WHERE source NOT IN ('fixed', 'dead')",
    """
    ALTER TABLE assets.prices
        DROP COLUMN trading, DROP COLUMN reopens_at, DROP COLUMN trading_reason, DROP COLUMN trading_changed_at,
        DROP COLUMN terms, DROP COLUMN moves_since, DROP COLUMN position,
        DROP COLUMN leased_by, DROP COLUMN leased_until,
        DROP CONSTRAINT prices_source,
        ADD CONSTRAINT prices_source CHECK (source IN ('fixed', 'dead'))""",
    _SEQUENCE.format("by one with each change of the price"),
    _SOURCE.format(": confirmed all the time"),
    "ALTER TABLE assets.assets DROP COLUMN max_deviation_bps",
)
