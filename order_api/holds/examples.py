"""One hold in every answer about holds: the examples of the documentation. Nothing else may use them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.codec import encode
from contracts.decimals import Money, Quantity
from contracts.examples import HOLD_EXPIRES_AT, HOLD_ID, TIME
from contracts.holds import HoldRefusal
from order_api.holds.holds import HoldStatus, ServiceHold
from order_api.openapi.declarations import Example

KEY: Final = "withdrawal-4711"
BODY: Final[dict[str, Any]] = {
    "user_id": "alice",
    "asset_id": "USD",
    "amount": "250",
    "expires_at": HOLD_EXPIRES_AT,
}
CAPTURE: Final[dict[str, Any]] = {"amount": "240", "to": "@external"}
_ACCEPTED: Final = datetime.fromisoformat(TIME)


def pending() -> ServiceHold:
    """Make the hold as it is accepted."""
    return ServiceHold(
        hold_id=UUID(HOLD_ID),
        user_id=BODY["user_id"],
        asset_id=BODY["asset_id"],
        amount=Quantity(BODY["amount"]),
        expires_at=datetime.fromisoformat(HOLD_EXPIRES_AT),
        status=HoldStatus.PENDING,
        captured=None,
        captured_to=None,
        returned=None,
        reason_code=None,
        reason=None,
        capture_requested=False,
        release_requested=False,
        created_at=_ACCEPTED,
        updated_at=_ACCEPTED,
    )


def _later(**changes: Any) -> ServiceHold:
    return msgspec.structs.replace(pending(), updated_at=_ACCEPTED + timedelta(seconds=1), **changes)


def held() -> ServiceHold:
    """Make the hold as it is held."""
    return _later(status=HoldStatus.HELD)


def captured() -> ServiceHold:
    """Make the hold as it is captured."""
    return _later(status=HoldStatus.CAPTURED, captured=Money("240"), captured_to=CAPTURE["to"], returned=Money("10"))


def released() -> ServiceHold:
    """Make the hold as it is released."""
    return _later(status=HoldStatus.RELEASED, returned=Money("250"))


def bodies() -> Mapping[str, Example]:
    """Show what asks for a hold."""
    return {"withdrawal": Example("Hold 250 USD of alice for a day", BODY)}


def captures() -> Mapping[str, Example]:
    """Show what captures it."""
    return {"withdrawal": Example("Pay 240 USD out of the house, and return the rest", CAPTURE)}


def accepted() -> Mapping[str, Example]:
    """Show the answer to a request for a hold."""
    return {"accepted": _shown("It is accepted", pending())}


def every_hold() -> Mapping[str, Example]:
    """Show a hold in each of its states."""
    refused = _later(
        status=HoldStatus.REFUSED,
        reason_code=HoldRefusal.INSUFFICIENT_BALANCE,
        reason="250 USD needed, 5 available",
    )
    return {
        "held": _shown("The money is held", held()),
        "captured": _shown("240 of 250 USD were paid", captured()),
        "released": _shown("It was released", released()),
        "expired": _shown("Nobody captured it in time", _later(status=HoldStatus.EXPIRED, returned=Money("250"))),
        "refused": _shown("There was not enough money", refused),
    }


def capture_requested() -> Mapping[str, Example]:
    """Show the answer to a capture."""
    return {"asked for": _shown("The capture is accepted", msgspec.structs.replace(held(), capture_requested=True))}


def capture_done() -> Mapping[str, Example]:
    """Show the answer to the same capture once more."""
    return {"captured": _shown("It is captured", captured())}


def release_requested() -> Mapping[str, Example]:
    """Show the answer to a release."""
    return {"asked for": _shown("The release is accepted", msgspec.structs.replace(held(), release_requested=True))}


def release_done() -> Mapping[str, Example]:
    """Show the answer to a release of what is not held any more."""
    return {"released": _shown("It is released", released())}


def _shown(summary: str, hold: ServiceHold) -> Example:
    return Example(summary, msgspec.json.decode(encode(hold)))
