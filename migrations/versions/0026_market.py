"""What the API shows of the market and of a user's accounts: views, so that the tables behind them may change.

A platform with an asset or a balance service of its own replaces them by views with the same columns.
"""

from __future__ import annotations

from migrations.owner import run

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the views."""
    run(UP)


def downgrade() -> None:
    """Drop them."""
    run(("DROP VIEW api.accounts, api.assets, api.prices",))


UP = (
    "CREATE VIEW api.prices AS SELECT asset_id, sequence, price, as_of, trading, reopens_at FROM assets.prices",
    # The newest rules of each asset, as the asset service reads them.
    """
    CREATE VIEW api.assets AS
    SELECT DISTINCT ON (asset.asset_id)
        asset.asset_id, asset.rules_version, asset.tick, asset.step, asset.min_quantity, asset.max_quantity,
        asset.min_notional, asset.max_notional, asset.fee_bps, asset.max_deviation_bps, asset.cash_asset_id,
        asset.cash_scale, asset.trading AS tradable, price.trading, price.reopens_at, price.confirmed_at,
        session.calendar
    FROM assets.assets AS asset
    LEFT JOIN assets.prices AS price USING (asset_id)
    LEFT JOIN assets.sessions AS session USING (asset_id)
    ORDER BY asset.asset_id, asset.rules_version DESC""",
    "CREATE VIEW api.accounts AS SELECT user_id, asset_id, available, held FROM balances.accounts",
    "GRANT SELECT ON api.prices, api.assets, api.accounts TO saga_api",
)
