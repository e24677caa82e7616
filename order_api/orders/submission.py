"""From a request's bytes to a claim, by the rules of `OrderRequested` and of `contracts.terms`. No I/O, no clock.

Whether `expires_at` is in time only the database's clock can tell: the store asks it as it commits the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Exact, Price, Quantity
from contracts.orders import OrderRequested
from contracts.terms import EXPIRES_WITHIN, faults, slippage_of
from contracts.vocabulary import (
    NAME_RULE,
    PATH_NAME_RULE,
    AssetId,
    BasisPoints,
    ClientOrderId,
    Instant,
    OrderType,
    TimeInForce,
    TrailBps,
    UserId,
    check_instant,
)
from order_api.http.problems import BrokenRule, Code, FieldError, Problem, invalid
from order_api.orders.publication.messages import Claim


class OrderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client sends: each field as in `OrderRequested`; `user_id` defaults to the caller.

    Which of the later fields an order type takes stands in `contracts.terms`.
    """

    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    user_id: UserId | None = None
    price: Price | None = None
    slippage_bps: BasisPoints | None = None
    client_order_id: ClientOrderId | None = None
    limit_price: Price | None = None
    trigger_price: Price | None = None
    trail_amount: Price | None = None
    trail_bps: TrailBps | None = None
    time_in_force: TimeInForce | None = None
    expires_at: Instant | None = None
    queue_when_closed: bool | None = None


EXPIRES_AT_RULE: Final = (
    f"an RFC 3339 time with its offset, such as 2026-01-31T12:00:00Z, later than now and at most {EXPIRES_WITHIN.days}"
    " days away"
)
RULES: Final = {
    "asset_id": NAME_RULE,
    "order_type": "one of " + ", ".join(OrderType),
    "quantity": Quantity.rule,
    "user_id": NAME_RULE,
    "price": Price.rule,
    "slippage_bps": "a whole number from 0 to 10000",
    "client_order_id": PATH_NAME_RULE,
    "limit_price": Price.rule,
    "trigger_price": Price.rule,
    "trail_amount": Price.rule,
    "trail_bps": "a whole number from 5 to 5000, a multiple of 5",
    "time_in_force": "one of " + ", ".join(TimeInForce),
    "expires_at": EXPIRES_AT_RULE,
    "queue_when_closed": "true or false",
}
"""The rules of the types above, in words."""
_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_ASKED: Final = tuple(name for name in OrderBody.__struct_fields__ if name != "user_id")
"""The fields that are those of `OrderRequested`, whoever the user is."""


def read_body(raw: bytes) -> OrderBody:
    """Read an order; raise the problem that says where the JSON breaks, or lists every field that breaks its rule."""
    body: OrderBody | None = None
    fields: Any = None
    try:
        try:
            body = _read(raw)
            _check_time(body.expires_at)
        except msgspec.ValidationError:  # it stopped at the first fault: look for all of them
            body, fields = None, _read_any(raw)
        doubled = codec.doubled_names(raw)
        if body is not None and not doubled:
            return body
        broken = _broken(fields if body is None else _read_any(raw), doubled)
    except _NOT_JSON as error:
        raise _malformed(error) from None
    raise invalid(*broken)


def make_claim(order_id: UUID, user_id: str, key: str | None, body: OrderBody, traceparent: str | None) -> Claim:
    """Make the claim of an order. Raises the problem that lists the fields that do not fit together.

    Equal intents give equal texts: 1.0 and 1.00, a default left out or given. The request is as the client wrote it.
    """
    if body.expires_at is not None:
        body = msgspec.structs.replace(body, expires_at=body.expires_at.astimezone(UTC))
    request = OrderRequested(order_id, user_id, **{name: getattr(body, name) for name in _ASKED})
    if found := faults(request):
        raise invalid(*(BrokenRule(fault.field, fault.rule, _given(body, fault.field)) for fault in found))
    intent = codec.encode(_intent(body, request)).decode()
    return Claim(order_id, user_id, key, body.client_order_id, intent, codec.encode(request), traceparent)


def _given(body: OrderBody, field: str) -> object:
    value = getattr(body, field)
    return msgspec.UNSET if value is None else msgspec.json.decode(codec.encode(value))


def _intent(body: OrderBody, request: OrderRequested) -> OrderBody:
    """Leave out what a request says only by the way: its user, and what would be the same if it were left out."""
    without = msgspec.structs.replace(request, slippage_bps=None)
    return msgspec.structs.replace(
        body,
        user_id=None,
        slippage_bps=None if slippage_of(without) == request.slippage_bps else request.slippage_bps,
        time_in_force=None if body.time_in_force is TimeInForce.GTC else body.time_in_force,
        queue_when_closed=True if body.queue_when_closed else None,
    )


def _malformed(error: Exception) -> Problem:
    return Problem(Code.MALFORMED_JSON, str(error), errors=[FieldError("body", f"must be JSON in UTF-8: {error}")])


def _broken(fields: Any, doubled: Sequence[str]) -> list[BrokenRule]:
    """Judge field by field what the decoder refused as a whole."""
    if not isinstance(fields, dict):
        return [BrokenRule("body", "must be a JSON object", fields)]
    known = {field.name: field for field in msgspec.structs.fields(OrderBody)}
    missing = [name for name, field in known.items() if field.required and name not in fields]
    broken = [BrokenRule(name, "must come once", fields[name], repeated=True) for name in doubled]
    broken += [BrokenRule(name, "is required") for name in missing]
    for name, value in fields.items():
        if name in doubled:
            continue
        if name not in known:
            rule = f"is not a field of an order; these are: {', '.join(known)}"
            broken.append(BrokenRule(name, rule, value))
        elif not _fits(value, known[name].type):
            broken.append(BrokenRule(name, f"must be {RULES[name]}", value))
    return broken


def _fits(value: object, kind: Any) -> bool:
    try:
        _check_time(msgspec.convert(value, kind, dec_hook=_read_decimal))
    except msgspec.ValidationError:
        return False
    return True


def _check_time(value: object) -> None:
    """Refuse, as the decoder does, a time so far away that another offset could not tell it."""
    if isinstance(value, datetime):
        try:
            check_instant(value)
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from None


def _read_decimal(kind: type, value: object) -> object:
    if issubclass(kind, Exact):
        return kind.parse(value)
    # msgspec's contract: by this error a hook says that a type is not one of its own, and msgspec reports it.
    raise NotImplementedError(f"no reader for {kind}")


_read_any: Final = msgspec.json.decode
_read: Final = msgspec.json.Decoder(OrderBody, dec_hook=_read_decimal).decode
