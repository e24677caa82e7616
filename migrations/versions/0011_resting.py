"""The tables of the trigger engine: the last price of each asset, and the orders that rest until a price fires them."""

from __future__ import annotations

from migrations.owner import run

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the tables; nothing rests yet."""
    run(UP)


def downgrade() -> None:
    """Drop them."""
    run(DOWN)


_WAITS = "live AND NOT queued AND fired_sequence IS NULL"

UP = (
    """
    CREATE TABLE orders.marks (
        asset_id text PRIMARY KEY,
        sequence bigint NOT NULL,
        price numeric(38, 18) NOT NULL,
        as_of timestamptz NOT NULL,
        confirmed_at timestamptz NOT NULL,
        appended_at timestamptz NOT NULL,
        trading text NOT NULL,
        live boolean NOT NULL,
        CONSTRAINT marks_trading CHECK (trading IN ('OPEN', 'HALTED', 'CLOSED')),
        CONSTRAINT marks_price CHECK (price > 0)
    ) WITH (fillfactor = 50)""",
    "COMMENT ON COLUMN orders.marks.live IS 'it could fire when it was judged; if not, its repetition may'",
    """
    CREATE TABLE orders.peaks (
        asset_id text,
        side text,
        upto bigint,
        price numeric(38, 18) NOT NULL,
        set_by bigint NOT NULL,
        PRIMARY KEY (asset_id, side, upto),
        CONSTRAINT peaks_side CHECK (side IN ('BUY', 'SELL')),
        CONSTRAINT peaks_price CHECK (price > 0)
    )""",
    "COMMENT ON COLUMN orders.peaks.upto IS 'the step holds for orders that rest from the step before on'",
    "COMMENT ON COLUMN orders.peaks.set_by IS 'the sequence of that price'",
    """
    CREATE TABLE orders.trails (
        asset_id text,
        side text,
        kind text,
        trail numeric(38, 18),
        oldest bigint NOT NULL,
        PRIMARY KEY (asset_id, side, kind, trail),
        CONSTRAINT trails_side CHECK (side IN ('BUY', 'SELL')),
        CONSTRAINT trails_kind CHECK (kind IN ('amount', 'bps')),
        CONSTRAINT trails_trail CHECK (trail > 0)
    )""",
    "COMMENT ON COLUMN orders.trails.oldest IS 'no resting order of this trail has a smaller from_sequence'",
    """
    CREATE TABLE orders.resting (
        order_id uuid PRIMARY KEY,
        asset_id text NOT NULL,
        side text NOT NULL,
        revision integer NOT NULL,
        live boolean NOT NULL,
        queued boolean NOT NULL,
        up_price numeric(38, 18),
        down_price numeric(38, 18),
        limit_price numeric(38, 18),
        trail_amount numeric(38, 18),
        trail_bps integer,
        from_sequence bigint,
        entered_at timestamptz,
        expires_at timestamptz,
        triggered_sequence bigint,
        triggered_price numeric(38, 18),
        told boolean NOT NULL,
        fired_sequence bigint,
        fired_price numeric(38, 18),
        fired_as_of timestamptz,
        fired_watermark numeric(38, 18),
        fired_at timestamptz,
        fired_rank integer,
        CONSTRAINT resting_side CHECK (side IN ('BUY', 'SELL')),
        CONSTRAINT resting_one_trail CHECK (num_nonnulls(trail_amount, trail_bps) <= 1),
        CONSTRAINT resting_trail CHECK (trail_amount > 0 AND trail_bps > 0),
        CONSTRAINT resting_fired_by_a_tick CHECK (
            num_nonnulls(fired_sequence, fired_price, fired_as_of) IN (0, 3) AND fired_sequence > from_sequence),
        CONSTRAINT resting_triggered_by_a_tick CHECK (num_nonnulls(triggered_sequence, triggered_price) IN (0, 2)),
        CONSTRAINT resting_has_a_place CHECK (fired_sequence IS NULL OR num_nonnulls(fired_at, fired_rank) = 2),
        CONSTRAINT resting_live_since_a_tick CHECK (
            NOT live OR (from_sequence IS NOT NULL AND entered_at IS NOT NULL))
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000)""",
    "COMMENT ON COLUMN orders.resting.live IS 'false: not accepted yet, on hold, or parked'",
    "COMMENT ON COLUMN orders.resting.queued IS 'waits for the opening'",
    "COMMENT ON COLUMN orders.resting.up_price IS 'a price of this or more fires it'",
    "COMMENT ON COLUMN orders.resting.down_price IS 'a price of this or less fires it'",
    "COMMENT ON COLUMN orders.resting.limit_price IS 'of a stop or take profit that is not triggered yet'",
    "COMMENT ON COLUMN orders.resting.from_sequence IS 'only ticks after it count'",
    "COMMENT ON COLUMN orders.resting.told IS 'its order shows that it is triggered'",
    """
    COMMENT ON COLUMN orders.resting.fired_watermark IS
        'of a trailing stop: its best price up to the tick that fired it'""",
    "COMMENT ON COLUMN orders.resting.fired_rank IS 'its place among the rows of one fired_at'",
    f"""
    CREATE INDEX resting_up ON orders.resting (asset_id, up_price, entered_at)
        WHERE up_price IS NOT NULL AND {_WAITS}""",
    f"""
    CREATE INDEX resting_down ON orders.resting (asset_id, down_price DESC, entered_at)
        WHERE down_price IS NOT NULL AND {_WAITS}""",
    f"""
    CREATE INDEX resting_amount ON orders.resting (asset_id, side, trail_amount, from_sequence)
        WHERE trail_amount IS NOT NULL AND {_WAITS}""",
    f"""
    CREATE INDEX resting_bps ON orders.resting (asset_id, side, trail_bps, from_sequence)
        WHERE trail_bps IS NOT NULL AND {_WAITS}""",
    """
    CREATE INDEX resting_queued ON orders.resting (asset_id, entered_at, order_id)
        WHERE live AND queued AND fired_sequence IS NULL""",
    """
    CREATE INDEX resting_expiry ON orders.resting (expires_at)
        WHERE expires_at IS NOT NULL AND fired_sequence IS NULL""",
    """
    CREATE INDEX resting_fired ON orders.resting (fired_at, fired_rank)
        WHERE fired_sequence IS NOT NULL OR (triggered_sequence IS NOT NULL AND NOT told)""",
    "GRANT SELECT, INSERT, UPDATE ON orders.marks TO saga_orders",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON orders.peaks, orders.trails, orders.resting TO saga_orders",
)
DOWN = ("DROP TABLE orders.resting, orders.trails, orders.peaks, orders.marks",)
