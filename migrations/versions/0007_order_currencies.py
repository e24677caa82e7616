"""The currency of an order's price and of its fee: that of the quote that is stored with the order.

It is null until the order is past PENDING. A quote comes between two versions, and the answer for a version must not
change, because the version is the ETag. `order_saga.core.saga.snapshot` has the same rule for events.
"""
# ruff: noqa: S608 - what the statements are made of is written here

from __future__ import annotations

from migrations.owner import run

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Show the currencies, in columns behind those that were there."""
    run(UP)


def downgrade() -> None:
    """Show the columns that were there before."""
    run(DOWN)


_ASKED = """order_id, client_order_id, user_id, asset_id, order_type, status, quantity, price, slippage_bps,
    filled_quantity, average_price, fee, reason_code, reason, cancel_requested, version, created_at, updated_at"""
_AUDITED = """order_id, user_id, asset_id, order_type, status, phase, version, {trouble}
    reason_code, filled_quantity, average_price, fee, created_at, updated_at, client_order_id"""
_SHOWN = _AUDITED.format(trouble="parked_reason, overdue_since, due_at,")
_ARCHIVED = _AUDITED.format(
    trouble="NULL::text AS parked_reason, NULL::timestamptz AS overdue_since, NULL::timestamptz AS due_at,"
)
# Today a fee is always in the quote's currency.
_CURRENCIES = """,
    CASE WHEN status <> 'PENDING' THEN progress -> 'quote' ->> 'cash_asset_id' END AS cash_asset_id,
    CASE WHEN status <> 'PENDING' THEN progress -> 'quote' ->> 'cash_asset_id' END AS fee_asset_id"""


def _views(how: str, currencies: str) -> tuple[str, str]:
    progress = ", progress" if currencies else ""
    return (
        f"""
        {how} VIEW api.orders AS SELECT {_ASKED}{currencies} FROM (
            SELECT {_ASKED}, phase{progress} FROM orders.orders
            UNION ALL SELECT {_ASKED}, phase{progress} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
        f"""
        {how} VIEW audit.orders AS SELECT {_SHOWN}, archived_at{currencies} FROM (
            SELECT {_SHOWN}, NULL::timestamptz AS archived_at{progress} FROM orders.orders
            UNION ALL SELECT {_ARCHIVED}, archived_at{progress} FROM orders.archive
        ) AS every WHERE phase <> 'NEW'""",
    )


UP = _views("CREATE OR REPLACE", _CURRENCIES)
DOWN = (
    "DROP VIEW api.orders",
    "DROP VIEW audit.orders",
    *_views("CREATE", ""),
    "GRANT SELECT ON api.orders TO saga_api",
    "GRANT SELECT ON audit.orders TO saga_auditor",
)
