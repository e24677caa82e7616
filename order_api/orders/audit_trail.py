"""What the audit trail says of each request that could have changed an order: who asked for what, and from where.

An entry is committed together with what the request did, and never changed. The trail is the one place that holds an
address or a token's id: neither goes into a log line or an event.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

ACCEPTED: Final = "accepted"
REPLAYED: Final = "replayed"
"""The outcomes besides the codes of problems: it is done; it was done before."""


class Action(StrEnum):
    """What was asked for."""

    SUBMIT = "submit"
    CANCEL = "cancel"
    AMEND = "amend"
    HOLD = "hold"
    RELEASE = "release"


class Origin(msgspec.Struct, frozen=True):
    """Where a request came from: the token's `sub` and id, the peer's address, the trace's id."""

    caller: str
    token_id: str
    address: str | None
    trace_id: str | None
