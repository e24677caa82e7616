"""From a request's bytes to a claim: the rules of `POST /orders`, which are those of `OrderRequested`. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts import codec
from contracts.decimals import Exact, Price, Quantity
from contracts.orders import SLIPPAGE_BPS_DEFAULT, OrderRequested
from contracts.vocabulary import (
    NAME_RULE,
    PATH_NAME_RULE,
    AssetId,
    BasisPoints,
    ClientOrderId,
    OrderType,
    UserId,
)
from order_api.http.problems import Code, FieldError, Problem, invalid, quote
from order_api.orders.messages import Claim

KEY_HEADER: Final = "Idempotency-Key"
KEY_RULE: Final = "one header of 1 to 255 visible ASCII characters"
KEY_KEPT_DAYS: Final = 30
"""Unless `API_IDEMPOTENCY_KEY_DAYS` says otherwise."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


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
    try:
        body = _DECODER.decode(raw)
        if not codec.doubled_names(raw):
            return body
    except msgspec.ValidationError:
        pass  # it stopped at the first fault: look for all of them
    except _NOT_JSON as error:
        raise _malformed(error) from None
    try:
        fields, doubled = msgspec.json.decode(raw), codec.doubled_names(raw)
    except _NOT_JSON as error:
        raise _malformed(error) from None
    raise _explain(fields, doubled)


def read_key(values: list[str]) -> str | None:
    """Read the Idempotency-Key headers of a request."""
    if not values:
        return None
    if len(values) > 1 or _KEY.fullmatch(values[0]) is None:
        raise invalid(FieldError(KEY_HEADER, f"must be {KEY_RULE}", quote(", ".join(values))))
    return values[0]


def make_claim(order_id: UUID, user_id: str, key: str | None, body: OrderBody, traceparent: str | None) -> Claim:
    """Make the claim of an order. Equal intents are equal texts: 1.0 and 1.00, a default left out or spelled out."""
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


def _explain(fields: Any, doubled: Sequence[str]) -> Problem:
    """Judge field by field what the decoder refused as a whole."""
    if not isinstance(fields, dict):
        return invalid(FieldError("body", "must be a JSON object", quote(fields)))
    known = {field.name: field for field in msgspec.structs.fields(OrderBody)}
    errors = [FieldError(name, "must come once", f"...{quote(fields[name])}") for name in doubled]
    missing = [name for name, field in known.items() if field.required and name not in fields]
    errors += [FieldError(name, "is required") for name in missing]
    for name, value in fields.items():
        if name in doubled:
            continue
        if name not in known:
            rule = f"is not a field of an order; these are: {', '.join(known)}"
            errors.append(FieldError(name, rule, quote(value)))
        elif not _fits(value, known[name].type):
            errors.append(FieldError(name, f"must be {RULES[name]}", quote(value)))
    return invalid(*errors)


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=_read_decimal)
    except msgspec.ValidationError:
        return False
    return True


def _read_decimal(kind: type, value: object) -> object:
    if issubclass(kind, Exact):
        return kind.parse(value)
    raise NotImplementedError(f"no reader for {kind}")


_DECODER: Final = msgspec.json.Decoder(OrderBody, dec_hook=_read_decimal)
