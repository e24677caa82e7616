"""The OpenAPI description, made from the types that the endpoints use and from the table of problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from pydantic import TypeAdapter

from contracts.decimals import Exact
from contracts.orders import Order
from order_api.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX, Code, FieldError
from order_api.routes import JSON, History, OrderState
from order_api.submission import KEY_HEADER, KEY_RULE, OrderBody

TITLE: Final = "Orders"
VERSION: Final = "1"
_ANYWHERE: Final = (Code.INVALID_TOKEN, Code.INSUFFICIENT_SCOPE, Code.UNAVAILABLE, Code.INTERNAL_ERROR)


class Operation(NamedTuple):
    """One call: what it does, what it answers when all is well, and the problems that it may have."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, tuple[str, type[msgspec.Struct] | None]]
    problems: tuple[Code, ...] = ()
    header: tuple[str, str] | None = None
    query: tuple[str, str] | None = None
    body: type[msgspec.Struct] | None = None
    public: bool = False


_WELL: Final = {200: ("All is well.", None)}
_READINESS: Final = {200: ("Every check is ok.", None), 503: ("A check is not ok.", None)}

OPERATIONS: Final = (
    Operation(
        "post",
        "/orders",
        "Submit an order",
        {202: ("Accepted; `Location` is the order. `Idempotency-Replayed: true`: it was accepted before.", Order)},
        (
            *(Code.OTHER_USER, Code.KEYS_DISAGREE, Code.CLIENT_ORDER_ID_REUSED, Code.BODY_TOO_LARGE),
            *(Code.UNSUPPORTED_MEDIA_TYPE, Code.MALFORMED_JSON, Code.INVALID_REQUEST, Code.IDEMPOTENCY_KEY_REUSED),
            Code.NOT_PUBLISHED,
        ),
        header=(KEY_HEADER, f"Makes repeating the request safe: {KEY_RULE}, another for each order."),
        body=OrderBody,
    ),
    Operation("get", "/orders/{order_id}", "Read an order", {200: ("The order.", Order)}, (Code.ORDER_NOT_FOUND,)),
    Operation(
        "get",
        "/orders/{order_id}/status",
        "Read what changes about an order",
        {200: ("Its state.", OrderState)},
        (Code.ORDER_NOT_FOUND,),
    ),
    Operation(
        "get",
        "/orders/{order_id}/history",
        "Read what happened to an order",
        {200: ("A page of its history.", History)},
        (Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST),
        query=("after", "Show what came after this `seq`."),
    ),
    Operation(
        "put",
        "/orders/{order_id}/cancel",
        "Ask for an order to be cancelled",
        {200: ("It is cancelled already.", Order), 202: ("The cancel is accepted, and decided by the saga.", Order)},
        (Code.ORDER_NOT_FOUND, Code.ORDER_NOT_CANCELABLE, Code.TOO_LATE_TO_CANCEL, Code.NOT_PUBLISHED),
    ),
    Operation("get", "/health", "Is it ready", _READINESS, public=True),
    Operation("get", "/health/ready", "Is it ready", _READINESS, public=True),
    Operation("get", "/health/live", "Is it alive", _WELL, public=True),
    Operation("get", "/metrics", "Prometheus metrics", _WELL, public=True),
)


class ProblemDocument(msgspec.Struct, frozen=True):
    """RFC 9457. `code` is the last part of `type`; some problems have members of their own besides."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: Code
    errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET


def describe() -> dict[str, Any]:
    """Make the whole document."""
    types = (OrderBody, Order, OrderState, History, ProblemDocument)
    _, schemas = msgspec.json.schema_components(types, schema_hook=_decimal, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": _portable(schemas),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    problems = () if operation.public else (*_ANYWHERE, *operation.problems)
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "parameters": _parameters(operation),
        "responses": {str(status): _answer(*answer) for status, answer in operation.answers.items()}
        | {str(status): _problem(status, problems) for status in sorted({PROBLEMS[code].status for code in problems})},
        "security": [] if operation.public else [{"token": []}],
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _reference(operation.body)}}}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{order_id}" in operation.path:
        identity = {"type": "string", "format": "uuid"}
        found.append({"name": "order_id", "in": "path", "required": True, "schema": identity})
    if operation.header:
        name, meaning = operation.header
        found.append({"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}})
    if operation.query:
        name, meaning = operation.query
        number = {"type": "integer", "minimum": 0}
        found.append({"name": name, "in": "query", "description": meaning, "schema": number})
    return found


def _answer(description: str, kind: type[msgspec.Struct] | None) -> dict[str, Any]:
    return {"description": description} | ({"content": {JSON: {"schema": _reference(kind)}}} if kind else {})


def _problem(status: int, codes: tuple[Code, ...]) -> dict[str, Any]:
    told = [f"`{TYPE_PREFIX}{code}`: {PROBLEMS[code].meaning}" for code in codes if PROBLEMS[code].status == status]
    return {
        "description": "\n\n".join(told),
        "content": {MEDIA_TYPE: {"schema": _reference(ProblemDocument)}},
    }


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _decimal(kind: type) -> dict[str, Any]:
    if issubclass(kind, Exact):
        return TypeAdapter(kind).json_schema()
    raise NotImplementedError(f"no schema for {kind}")


def _portable(schema: Any) -> Any:
    """Write Python's end of text as every other reader of a JSON Schema knows it."""
    if isinstance(schema, dict):
        return {name: _portable(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_portable(value) for value in schema]
    return schema.replace(r"\Z", "$") if isinstance(schema, str) else schema
