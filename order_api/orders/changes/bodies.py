"""What an amend takes, and the precondition of one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from typing import ClassVar, Final

import msgspec

from contracts import codec
from contracts.amends import CHANGES
from contracts.decimals import Price, Quantity
from contracts.vocabulary import BasisPoints, Instant, TimeInForce, TrailBps
from order_api.http.fields import BodyReader
from order_api.http.problems import BrokenRule, invalid
from order_api.orders.submission import RULES


class AmendBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What changes; what is left out stays. Each field as in `OrderAmendRequested`, and at least one."""

    MEANINGS: ClassVar = {
        "quantity": "The new whole, not what is added.",
        "limit_price": "The new limit, of an order that has one.",
        "trigger_price": "The new trigger, of a STOP_LOSS or TAKE_PROFIT that was not triggered yet.",
        "trail_amount": "The new distance, of a TRAILING_STOP that was asked with `trail_amount`.",
        "trail_bps": "The new distance in 1/10,000, of a TRAILING_STOP that was asked with `trail_bps`.",
        "slippage_bps": "How far above its trigger a BUY stop without `limit_price` may fill from now on.",
        "time_in_force": "GTC or GTD; GTC takes `expires_at` away.",
        "expires_at": "The new end of an order that is, or becomes, GTD.",
    }
    quantity: Quantity | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    slippage_bps: BasisPoints | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None


assert AmendBody.__struct_fields__ == CHANGES  # noqa: S101 - the body has what the message has
AMEND_RULES: Final = {name: RULES[name] for name in CHANGES}
_read_amend: Final = BodyReader(AmendBody, AMEND_RULES, "an amend").read
_ETAGS: Final = re.compile(r'(W/)?"([^"]*)"')
_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,14}")
"""A version as an order's `ETag` has it."""


def read_amend(raw: bytes) -> AmendBody:
    """Read a body; raise the problem of one that breaks a rule, or that changes nothing."""
    body = _read_amend(raw)
    if all(getattr(body, name) is None for name in CHANGES):
        raise invalid(BrokenRule("body", f"must change something, at least one of: {', '.join(CHANGES)}"))
    if body.expires_at is not None:
        body = msgspec.structs.replace(body, expires_at=body.expires_at.astimezone(UTC))
    return body


def changes_text(body: AmendBody) -> str:
    """Write what changes as canonical text: equal changes give equal texts."""
    return codec.encode(body).decode()


def allowed_versions(if_match: Sequence[str]) -> list[int] | None:
    """Read which versions of an order the `If-Match` headers allow, ascending; None: any (RFC 9110, 13.1.1).

    An order's entity tag is its version. Tags are compared strongly, so a weak one allows nothing, and neither does
    what is no tag of an order.
    """
    text = ",".join(if_match).strip()
    if not if_match or text == "*":
        return None
    return sorted({int(tag) for weak, tag in _ETAGS.findall(text) if not weak and _VERSION.fullmatch(tag)})
