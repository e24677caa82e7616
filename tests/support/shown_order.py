"""An order as the API shows it."""

from __future__ import annotations

from typing import Any, Final

ORDER: Final[dict[str, Any]] = {
    "order_id": "01a225ed-8291-7454-80a1-f84ea245f98b",
    "client_order_id": None,
    "user_id": "alice",
    "asset_id": "BTC",
    "order_type": "MARKET_BUY",
    "status": "PENDING",
    "quantity": "0.1",
    "price": None,
    "slippage_bps": None,
    "filled_quantity": "0",
    "average_price": None,
    "fee": "0",
    "reason_code": None,
    "reason": None,
    "cancel_requested": False,
    "version": 0,
    "created_at": "2026-03-09T12:00:00Z",
    "updated_at": "2026-03-09T12:00:00Z",
    "cash_asset_id": None,
    "fee_asset_id": None,
    "limit_price": None,
    "trigger_price": None,
    "trail_amount": None,
    "trail_bps": None,
    "time_in_force": None,
    "expires_at": None,
    "queue_when_closed": False,
    "triggered": False,
    "watermark": None,
    "revision": None,
    "held_asset_id": None,
    "held_amount": None,
    "on_hold": False,
    "release_refused": None,
    "amend": None,
}
"""A market order that was accepted just now."""
