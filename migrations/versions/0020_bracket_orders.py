"""Bracket orders: the two words for them. What they wait for stands in columns that are there."""

from __future__ import annotations

from migrations.owner import run

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Let orders be brackets."""
    run((_types(more=", 'BRACKET_BUY', 'BRACKET_SELL'"),))


def downgrade() -> None:
    """Know no brackets. It fails while there is one, since it could not go on."""
    run((_types(more=""),))


def _types(more: str) -> str:
    return f"""
    ALTER TABLE orders.orders DROP CONSTRAINT orders_order_type, ADD CONSTRAINT orders_order_type CHECK (
        order_type IS NULL OR order_type IN ('MARKET_BUY', 'MARKET_SELL', 'LIMIT_BUY', 'LIMIT_SELL', 'STOP_LOSS_BUY',
            'STOP_LOSS_SELL', 'TAKE_PROFIT_BUY', 'TAKE_PROFIT_SELL', 'TRAILING_STOP_BUY', 'TRAILING_STOP_SELL'{more}
        ))"""
