"""Conditional orders: what they wait for, the phase in which they rest, and the words for it.

An order that rests wakes by its row in `orders.resting`, so it needs no `due_at`.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Let orders wait for a price."""
    run(UP)


def downgrade() -> None:
    """Know market orders only. It fails while there is any other order, since none could go on."""
    run(DOWN)


_STATUSES = """(
    (phase = 'NEW' AND status IS NULL)
    OR (phase = 'VALIDATING' AND status IN ('PENDING'))
    OR (phase = 'RESERVING' AND status IN ('PENDING')){working}
    OR (phase = 'SETTLING' AND status IN ('PROCESSING'))
    OR (phase = 'REFUNDING' AND status IN ({refunding}))
    OR (phase = 'COMPLETED' AND status IN ('COMPLETED'))
    OR (phase = 'CANCELLED' AND status IN ('CANCELLED'))
    OR (phase = 'FAILED' AND status IN ('FAILED'))) IS TRUE"""
_REASONS = """reason_code IS NULL OR reason_code IN (
    'INVALID_ORDER', 'ACCOUNT_NOT_FOUND', 'INSUFFICIENT_BALANCE', 'ASSET_NOT_FOUND', 'ASSET_NOT_TRADABLE',
    'ASSET_UNAVAILABLE', 'STALE_PRICE', 'SLIPPAGE_EXCEEDED', 'INVALID_STEP', 'INVALID_TICK',
    'QUANTITY_OUT_OF_RANGE', 'NOTIONAL_OUT_OF_RANGE', 'DUPLICATE_CLIENT_ORDER_ID', 'ORDER_ID_TAKEN',
    'HOLD_CONFLICT', 'WOULD_TRIGGER_IMMEDIATELY', {more}'TIMED_OUT', 'EXECUTION_FAILED', 'USER_REQUESTED', 'EXPIRED',
    'OPERATOR')"""
_TYPES = "order_type IS NULL OR order_type IN ('MARKET_BUY', 'MARKET_SELL'{more})"
_WAKEABLE = """phase = 'NEW' OR phase IN ('CANCELLED', 'COMPLETED', 'FAILED') OR parked_reason IS NOT NULL
    OR due_at IS NOT NULL{more}"""
_MOVES = """moves <@ ARRAY['>PENDING', 'CONFIRMED>CANCELLED', {more}'CONFIRMED>FAILED', 'CONFIRMED>PROCESSING',
    'PENDING>CANCELLED', 'PENDING>CONFIRMED', 'PENDING>FAILED', 'PENDING>PENDING', 'PROCESSING>COMPLETED',
    'PROCESSING>FAILED']::text[]"""


def _checks(checks: dict[str, str]) -> tuple[str, ...]:
    """Replace checks of a table by others of the same names."""
    changes = (
        f"ALTER TABLE orders.{name.partition('_')[0]} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({check})"
        for name, check in checks.items()
    )
    return tuple(changes)


UP = (
    "ALTER TABLE orders.orders ADD COLUMN terms text",
    "ALTER TABLE orders.archive ADD COLUMN terms text",
    """
    COMMENT ON COLUMN orders.orders.terms IS
        'what a conditional order waits for: contracts.terms.Terms; null for a market order'""",
    *_checks(
        {
            "orders_phase_shows_status": _STATUSES.format(
                working="\n    OR (phase = 'WORKING' AND status IN ('CONFIRMED'))", refunding="'CONFIRMED', 'PENDING'"
            ),
            "orders_order_type": _TYPES.format(
                more=", 'LIMIT_BUY', 'LIMIT_SELL', 'STOP_LOSS_BUY', 'STOP_LOSS_SELL', 'TAKE_PROFIT_BUY',"
                " 'TAKE_PROFIT_SELL', 'TRAILING_STOP_BUY', 'TRAILING_STOP_SELL'"
            ),
            "orders_reason_code": _REASONS.format(more="'UNFILLED', 'PRICE_OUT_OF_RANGE', 'TOO_MANY_OPEN_ORDERS', "),
            "orders_always_wakeable": _WAKEABLE.format(more=" OR phase IN ('WORKING')"),
            "history_legal_moves": _MOVES.format(more="'CONFIRMED>CONFIRMED', "),
        }
    ),
    """
    CREATE INDEX orders_waiting ON orders.orders (user_id, asset_id)
        WHERE terms IS NOT NULL AND status IN ('PENDING', 'CONFIRMED', 'PROCESSING')""",
)
DOWN = (
    "DROP INDEX orders.orders_waiting",
    *_checks(
        {
            "orders_phase_shows_status": _STATUSES.format(working="", refunding="'PENDING'"),
            "orders_order_type": _TYPES.format(more=""),
            "orders_reason_code": _REASONS.format(more=""),
            "orders_always_wakeable": _WAKEABLE.format(more=""),
            "history_legal_moves": _MOVES.format(more=""),
        }
    ),
    "ALTER TABLE orders.orders DROP COLUMN terms",
    "ALTER TABLE orders.archive DROP COLUMN terms",
)
