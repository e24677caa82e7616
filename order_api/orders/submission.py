"""From a request's bytes to a claim, by the rules of `OrderRequested`. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Exact, Price, Quantity
from contracts.orders import OrderRequested
from contracts.terms import SLIPPAGE_BPS_DEFAULT
from contracts.vocabulary import (
    NAME_RULE,
    PATH_NAME_RULE,
    AssetId,
    BasisPoints,
    ClientOrderId,
    OrderType,
    UserId,
)
from order_api.http.problems import BrokenRule, Code, FieldError, Problem, invalid
from order_api.orders.publication.messages import Claim


class OrderBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client sends: each field as in `OrderRequested`; `user_id` defaults to the caller."""

    asset_id: AssetId
    order_type: OrderType
    quantity: Quantity
    user_id: UserId | None = None
    price: Price | None = None
    slippage_bps: BasisPoints = SLIPPAGE_BPS_DEFAULT
    client_order_id: ClientOrderId | None = None


RULES: Final = {
    "asset_id": NAME_RULE,
    "order_type": "one of " + ", ".join(OrderType),
    "quantity": Quantity.rule,
    "user_id": NAME_RULE,
    "price": Price.rule,
    "slippage_bps": "a whole number from 0 to 10000",
    "client_order_id": PATH_NAME_RULE,
}
"""The rules of the types above, in words."""
_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def read_body(raw: bytes) -> OrderBody:
    """Read an order; raise the problem that says where the JSON breaks, or lists every field that breaks its rule."""
    body: OrderBody | None = None
    fields: Any = None
    try:
        try:
            body = _read(raw)
        except msgspec.ValidationError:  # it stopped at the first fault: look for all of them
            fields = _read_any(raw)
        doubled = codec.doubled_names(raw)
        if body is not None and not doubled:
            return body
        broken = _broken(fields if body is None else _read_any(raw), doubled)
    except _NOT_JSON as error:
        raise _malformed(error) from None
    raise invalid(*broken)


def make_claim(order_id: UUID, user_id: str, key: str | None, body: OrderBody, traceparent: str | None) -> Claim:
    """Make the claim of an order. Equal intents give equal texts: 1.0 and 1.00, a default left out or given."""
    request = OrderRequested(
        order_id=order_id,
        user_id=user_id,
        asset_id=body.asset_id,
        order_type=body.order_type,
        quantity=body.quantity,
        price=body.price,
        slippage_bps=body.slippage_bps,
        client_order_id=body.client_order_id,
    )
    intent = codec.encode(msgspec.structs.replace(body, user_id=None)).decode()
    return Claim(order_id, user_id, key, body.client_order_id, intent, codec.encode(request), traceparent)


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
        msgspec.convert(value, kind, dec_hook=_read_decimal)
    except msgspec.ValidationError:
        return False
    return True


def _read_decimal(kind: type, value: object) -> object:
    if issubclass(kind, Exact):
        return kind.parse(value)
    # msgspec's contract: by this error a hook says that a type is not one of its own, and msgspec reports it.
    raise NotImplementedError(f"no reader for {kind}")


_read_any: Final = msgspec.json.decode
_read: Final = msgspec.json.Decoder(OrderBody, dec_hook=_read_decimal).decode
