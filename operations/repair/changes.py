"""Reads what an operator's amend changes, by the rules of the wire. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from contracts.amends import CHANGES, OrderAmendRequested, changes_of
from contracts.codec import decode
from contracts.envelope import UnreadableMessage
from operations.access.errors import WrongRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOBODY = {
    "order_id": "00000000-0000-0000-0000-000000000000",
    "user_id": "nobody",
    "requested_by": "nobody",
    "amend_id": "x",
}


def read_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the new terms by their names, as a message would tell them. Raises `WrongRequest` for a broken one."""
    assert set(given) <= set(CHANGES)  # noqa: S101 - the options are the fields
    try:
        message = decode(OrderAmendRequested.__name__, msgspec.json.encode({**_NOBODY, **given}))
    except UnreadableMessage as error:
        raise WrongRequest(f"this is no amend: {error}") from None
    assert isinstance(message, OrderAmendRequested)  # noqa: S101 - as it was written
    return changes_of(message)
