"""The rehearsal lets pass what this code can handle, whichever version stored it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from contracts.codec import decoder
from operations.deployment.rehearsal import obstacle
from order_saga.core.saga import Saga
from tests.order_saga.core.test_stored_orders import GOLDEN


@pytest.mark.parametrize("stored", GOLDEN, ids=lambda stored: stored["name"])
def test_orders_of_the_last_version_pass(stored: dict[str, Any]) -> None:
    """Without the terms of hold and settlement, which that version did not store."""
    saga = decoder(Saga).decode(json.dumps(stored["saga"]))
    assert obstacle(saga, datetime.fromisoformat(stored["now"])) is None
