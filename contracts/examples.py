"""The examples of the documentation: one order in every message. Nothing else may depend on them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from contracts.codec import MESSAGES, Message, decode

ORDER_ID: Final = "3f2a7c9e-1b4d-4e8a-9c6f-5d7e8a9b0c1d"
TIME: Final = "2026-03-02T14:30:00.250000Z"
HOLD_ID: Final = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
ENDPOINT_ID: Final = "01a225ed-9a00-7c3e-8f51-2b64d0a7c9e3"
HOLD_EXPIRES_AT: Final = "2026-03-03T14:30:00Z"

_VALUES: Final[dict[str, Any]] = {
    "order_id": ORDER_ID,
    "hold_id": f"{ORDER_ID}:reserve",
    "user_id": "alice",
    "asset_id": "BTC",
    "order_type": "MARKET_BUY",
    "quantity": "0.01",
    "price": "50000",
    "slippage_bps": 100,
    "client_order_id": "alice-2026-03-02-1",
    "requested_at": TIME,
    "requested_by": "alice",
    "status": "COMPLETED",
    "previous_status": "PROCESSING",
    "filled_quantity": "0.01",
    "average_price": "50000",
    "reason_code": None,
    "reason": None,
    "cancel_requested": False,
    "version": 4,
    "created_at": TIME,
    "updated_at": TIME,
    "occurred_at": TIME,
    "amount": "500.5",
    "hold_asked_at": TIME,
    "capture": "500.5",
    "credit_asset_id": "BTC",
    "credit": "0.01",
    "fee_asset_id": "USD",
    "fee": "0.5",
    "captured": "500.5",
    "returned": "0",
    "refunded": "500.5",
    "sequence": 1207,
    "as_of": TIME,
    "quoted_at": TIME,
    "tick": "0.01",
    "step": "0.00000001",
    "fee_bps": 10,
    "cash_asset_id": "USD",
    "cash_scale": 2,
    "rules_version": 3,
    "confirmed_at": TIME,
    "trading": "OPEN",
    "reopens_at": None,
    "session_ends_at": "2026-03-02T21:00:00Z",
    "purpose": "ENTRY",
    "limit_price": None,
    "trigger_price": None,
    "trail_amount": None,
    "trail_bps": None,
    "time_in_force": None,
    "expires_at": None,
    "queue_when_closed": False,
    "triggered": False,
    "watermark": None,
    "revision": 0,
    "held_asset_id": None,
    "held_amount": None,
    "on_hold": False,
    "release_refused": None,
    "amend": None,
    "amend_id": "alice-amend-1",
    "expected_versions": (2,),
    "to": "@external",
}
"""A field's value in every message, unless `_OWN_VALUES` has another one for that message."""

_CHECK: Final = {"command_id": f"{ORDER_ID}:check"}
_RESERVE: Final = {"command_id": f"{ORDER_ID}:reserve", "asset_id": "USD", "hold_state": "HELD"}
_SETTLE: Final = {"command_id": f"{ORDER_ID}:settle", "asset_id": "USD", "hold_state": "SETTLED"}
_REFUND: Final = {"command_id": f"{ORDER_ID}:refund", "asset_id": "USD", "hold_state": "REFUNDED"}
_ADJUST: Final = {"command_id": f"{ORDER_ID}:adjust.1", "asset_id": "USD", "hold_state": "HELD", "revision": 1}
_HOLD: Final = {
    "hold_id": HOLD_ID,
    "asset_id": "USD",
    "amount": "250",
    "expires_at": HOLD_EXPIRES_AT,
    "returned": "250",
}
_CAPTURE: Final = {**_HOLD, "capture": "240", "captured": "240", "returned": "10"}
_OWN_VALUES: Final[dict[str, dict[str, Any]]] = {
    "OrderAmendRequested": {
        **dict.fromkeys(("trigger_price", "trail_amount", "trail_bps", "slippage_bps", "time_in_force", "expires_at")),
        "quantity": "0.02",
        "limit_price": "48500",
    },
    "OrderHoldRequested": {"reason": "an announcement is due"},
    "CheckAsset": _CHECK,
    "AssetApproved": _CHECK,
    "AssetRefused": {**_CHECK, "reason_code": "STALE_PRICE", "reason": "the price of BTC is 95 s old"},
    "ReserveBalance": _RESERVE,
    "BalanceReserved": _RESERVE,
    "BalanceRefused": {
        **_RESERVE,
        "hold_state": "REFUSED",
        "reason_code": "INSUFFICIENT_BALANCE",
        "reason": "5 USD available, 500.5 needed",
    },
    "SettleBalance": _SETTLE,
    "BalanceSettled": _SETTLE,
    "SettlementRefused": {
        **_SETTLE,
        "hold_state": "TOMBSTONE",
        "reason_code": "NOT_HELD",
        "reason": "no such hold",
    },
    "RefundBalance": _REFUND,
    "BalanceRefunded": _REFUND,
    "RefundRefused": {**_REFUND, "hold_state": "SETTLED", "reason_code": "CLOSED", "reason": "the hold is settled"},
    "AdjustBalance": {**_ADJUST, "amount": "520.52"},
    "BalanceAdjusted": {**_ADJUST, "amount": "520.52"},
    "AdjustmentRefused": {
        **_ADJUST,
        "reason_code": "INSUFFICIENT_BALANCE",
        "reason": "20.02 USD more needed, 5 available",
    },
    "HoldRequested": _HOLD,
    "HoldCaptureRequested": _CAPTURE,
    "HoldReleaseRequested": _HOLD,
    "HoldPlaced": _HOLD,
    "HoldRefused": {
        **_HOLD,
        "reason_code": "INSUFFICIENT_BALANCE",
        "reason": "250 USD needed, 5 available",
    },
    "HoldCaptured": _CAPTURE,
    "HoldReleased": _HOLD,
    "HoldExpired": _HOLD,
    "HoldCaptureRefused": {**_CAPTURE, "reason_code": "NOT_HELD", "reason": "the hold has expired"},
    "HoldReleaseRefused": {**_HOLD, "reason_code": "CLOSED", "reason": "the hold is captured"},
}


def example(message_type: str) -> Message:
    """Return the example of a message type, decoded by the codec like any other message."""
    body = _body(MESSAGES[message_type], _VALUES | _OWN_VALUES.get(message_type, {}))
    return decode(message_type, msgspec.json.encode(body))


def _body(kind: type[Message], values: dict[str, Any]) -> dict[str, Any]:
    return {
        field.name: _body(field.type, values) if field.name == "order" else values[field.name]
        for field in msgspec.structs.fields(kind)
    }
