"""Mass cancels and cancel timers as they are asked for and answered: the examples of the documentation."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.examples import TIME
from contracts.vocabulary import OrderType
from order_api.openapi.declarations import Example
from order_api.orders.description.examples import USER_ID
from order_api.orders.mass_cancels.bodies import answer_of, filter_of, read_cancel_all, timer_of
from order_api.orders.mass_cancels.store import MassCancel, Timer
from order_api.orders.views import written

_ID: Final = UUID("5b0e0b0c-6a39-4c9b-9d33-0f6a3d1f7c52")
_AT: Final = datetime.fromisoformat(TIME)
_FILTERED: Final[dict[str, Any]] = {"asset_id": "BTC", "order_type": OrderType.LIMIT_BUY}
TIMEOUT_S: Final = 60


def cancel_all_bodies() -> dict[str, Example]:
    """Give what may be asked for."""
    return {
        "everything": Example("All open orders", {}),
        "buys of an asset": Example("The buys of one asset", {"asset_id": "BTC", "side": "BUY"}),
        "one type": Example("One type of order in one asset", _FILTERED),
    }


def cancels() -> dict[str, Example]:
    """Give a mass cancel that is done, and one that goes on."""
    chosen = filter_of(read_cancel_all(msgspec.json.encode(_FILTERED)))
    done = MassCancel(_ID, USER_ID, USER_ID, chosen, _AT, 3, _AT + timedelta(seconds=0.01))
    more = MassCancel(_ID, USER_ID, USER_ID, filter_of(read_cancel_all(b"{}")), _AT, 500, None)
    return {
        "done": _shown("All cancels are asked for", answer_of(done)),
        "goes on": _shown("More are to come", answer_of(more)),
    }


def timer_bodies() -> dict[str, Example]:
    """Give how a timer is set, and switched off."""
    return {
        "set": Example("Cancel all in a minute, unless this is repeated", {"timeout_s": TIMEOUT_S}),
        "off": Example("Switch it off", {"timeout_s": 0}),
    }


def timers() -> dict[str, Example]:
    """Give a timer that runs, one that has fired, and one that was never set."""
    runs = Timer(TIMEOUT_S, _AT, _AT + timedelta(seconds=TIMEOUT_S), None, None, None, _AT)
    fired_at = _AT + timedelta(seconds=TIMEOUT_S + 0.4)
    fired = Timer(TIMEOUT_S, _AT, None, fired_at, 12, fired_at + timedelta(seconds=0.1), fired_at + timedelta(hours=1))
    return {
        "runs": _shown("It runs", timer_of(USER_ID, runs)),
        "fired": _shown("Nobody renewed it, and it has fired", timer_of(USER_ID, fired)),
        "never set": _shown("It was never set", timer_of(USER_ID, None)),
    }


def _shown(summary: str, answer: msgspec.Struct) -> Example:
    return Example(summary, msgspec.json.decode(written(answer)))
