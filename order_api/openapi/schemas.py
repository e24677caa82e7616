"""The shapes of all bodies as JSON Schemas, made from the Structs that are read and written, and said in words.

The words stand here, so that the Structs stay short; a test demands some for every field. A schema must never allow
what the reader of the Struct refuses, or the other way round: where a rule has no words in JSON Schema (a decimal's
maximum), it is told by a pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from pydantic import TypeAdapter

from contracts.decimals import PLACES_MAX, Exact
from contracts.orders import SLIPPAGE_BPS_DEFAULT, Order
from contracts.vocabulary import REASONS, OrderStatus, OrderType, ReasonCode
from order_api.http.problems import PROBLEMS, TYPE_PREFIX, Code, FieldError
from order_api.orders.listing import Page
from order_api.orders.routes import History, OrderState
from order_api.orders.submission import OrderBody

ORDER_ID: Final[dict[str, Any]] = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
}
TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time", "pattern": "^(19[7-9]|2[0-9]{2})[0-9]-"}
"""An RFC 3339 time of the years from `YEAR_MIN` to `YEAR_MAX`."""
INTEGER_MAX: Final = 2**53 - 1


class Members(msgspec.Struct, frozen=True):
    """What some problems have beyond the members of RFC 9457; `PROBLEMS` says which have which."""

    errors: list[FieldError]
    order_id: UUID
    order: str
    order_ids: list[UUID]
    order_status: OrderStatus


class ReadinessReport(msgspec.Struct, frozen=True):
    """Whether the process is ready, and what each check found."""

    status: str
    checks: dict[str, str]


class Index(msgspec.Struct, frozen=True):
    """Where to begin: addresses on this server."""

    documentation: str
    description: str
    orders: str
    problems: str
    health: str


INDEX: Final = Index("/docs", "/openapi.json", "/orders", TYPE_PREFIX, "/health")


class Liveness(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


STATUS_MEANINGS: Final[dict[OrderStatus, str]] = {
    OrderStatus.PENDING: "It is being checked, and its money reserved.",
    OrderStatus.CONFIRMED: "It is allowed and its money is held. It can still be cancelled.",
    OrderStatus.PROCESSING: "It is filled and being settled. There is no way back.",
    OrderStatus.COMPLETED: "It is filled and settled.",
    OrderStatus.CANCELLED: "Its user, its time or an operator ended it; nothing is held any more.",
    OrderStatus.FAILED: "Somebody said no, or did not answer in time; nothing is held any more.",
}
TYPE_MEANINGS: Final[dict[OrderType, str]] = {
    OrderType.MARKET_BUY: "Buy at the quote of the moment.",
    OrderType.MARKET_SELL: "Sell at the quote of the moment.",
}
FIELD_MEANINGS: Final[dict[str, str]] = {
    "order_id": "The order's id, minted when it was accepted.",
    "client_order_id": "The user's own name for the order, used once: repeating the request makes no second order.",
    "user_id": "The order's user: the token's `sub`, unless the caller may act for others.",
    "asset_id": "What is bought or sold.",
    "order_type": "What is asked for.",
    "status": "Where the order stands. COMPLETED, CANCELLED and FAILED are final: the money is at rest.",
    "quantity": "How much of the asset, more than 0; its step and its limits are the asset's.",
    "price": "The price that the client saw, if it says so: the quote may be worse by `slippage_bps` and no more.",
    "slippage_bps": "How much worse than `price` the quote may be, in 1/10,000.",
    "OrderBody.slippage_bps": "How much worse than `price` the quote may be, in 1/10,000; left out, "
    f"{SLIPPAGE_BPS_DEFAULT}.",
    "filled_quantity": "How much is filled: nothing or all.",
    "average_price": "What one unit cost, in `cash_asset_id`; null until it is filled.",
    "fee": "What was charged for the fill, in `fee_asset_id`.",
    "reason_code": "Why it was cancelled or failed; null otherwise.",
    "reason": "The same in words.",
    "cancel_requested": "A cancel is accepted; whether it was in time, the status will tell.",
    "version": "Rises by one with each change that can be seen; 0 until the orchestrator has it. It is the ETag.",
    "created_at": "When it was accepted.",
    "updated_at": "When it changed last.",
    "cash_asset_id": "The currency of the quote, so of `average_price`; null while it is PENDING, and when it ended "
    "without a quote.",
    "fee_asset_id": "The currency of `fee`; null when `cash_asset_id` is. Today it is always the same.",
    "orders": "Newest first.",
    "history": "Oldest first.",
    "has_more": "Whether there is a next page.",
    "next_cursor": "Give it as `cursor` to get the next page; null on the last one.",
    "Entry.seq": "Its place in the order's history, from 1.",
    "Entry.at": "When it happened.",
    "Entry.kind": "`received`, `asked`, `answered`, `waits`, `timed_out`, `ignored`, `status`, `overdue`, `parked`, "
    "`resumed`, `woken`.",
    "Entry.name": "The message, the question or the status that it is about.",
    "Entry.status": "The status that it led to, if it led to one.",
    "Entry.version": "The version that it led to, if it led to one.",
    "Entry.detail": "What else is known of it, such as amounts and reasons.",
    "FieldError.field": "The field, the parameter or the header.",
    "FieldError.rule": "The rule that it breaks.",
    "FieldError.got": "What was sent, as JSON and cut short; null: nothing.",
    "Problem.type": "The address of the page about this problem; it never changes.",
    "Problem.title": "The problem in a few words.",
    "Problem.status": "The HTTP status.",
    "Problem.detail": "What is to be said about this one case, for people.",
    "Problem.instance": "The address that it is about: the order's where there is one, else the request's path.",
    "Problem.code": "The last part of `type`: decide by this.",
    "Problem.trace_id": "With a `5xx`, where traces are kept: name it to whoever runs the service.",
    "Members.errors": "Each field that breaks its rule.",
    "Members.order_id": "The order that it is about.",
    "Members.order": "Where that order is found.",
    "Members.order_ids": "The orders that it is about.",
    "Members.order_status": "Where that order stands.",
    "ReadinessReport.status": "`ok` or `unavailable`.",
    "ReadinessReport.checks": "Each check's name, and `ok` or what is wrong.",
    "Liveness.status": "`ok`.",
    "Index.documentation": "For people.",
    "Index.description": "The OpenAPI document, for programs.",
    "Index.orders": "Where orders are submitted and listed.",
    "Index.problems": "What can go wrong.",
    "Index.health": "Whether the service is ready.",
}
"""What each field says: by the names of its Struct and its own, or by its own where it is the same everywhere."""

_STRUCTS: Final = (OrderBody, Order, OrderState, Page, History, FieldError, Members, ReadinessReport, Liveness, Index)


def components() -> dict[str, Any]:
    """Make every schema that the operations refer to, by its name."""
    _, made = msgspec.json.schema_components(_STRUCTS, schema_hook=_decimal, ref_template=f"{_PLACE}{{name}}")
    schemas = {name: _precise(schema) for name, schema in made.items()}
    schemas = {name: _worded(name, schema) for name, schema in schemas.items()}
    # Fields with a default are missing from old events only: an answer has every one.
    schemas[Order.__name__]["required"] = [*schemas[Order.__name__]["properties"]]
    members = schemas.pop(Members.__name__)["properties"]
    problems = {problem_name(code): _problem(code, members) for code in PROBLEMS}
    return schemas | _enums() | problems


def reference(name: str) -> dict[str, str]:
    """Point to a schema."""
    return {"$ref": f"{_PLACE}{name}"}


def problem_name(code: Code) -> str:
    """Name the schema of a problem: `order-not-found` is `OrderNotFoundProblem`."""
    return "".join(word.capitalize() for word in code.split("-")) + "Problem"


_PLACE: Final = "#/components/schemas/"


def _enums() -> dict[str, Any]:
    """Describe the closed vocabularies, each value with what it means."""
    reasons = {code: row.meaning + " May succeed later." * row.retryable for code, row in REASONS.items()}
    return {
        OrderType.__name__: _enum("What a trader may ask for.", TYPE_MEANINGS),
        OrderStatus.__name__: _enum("Where an order stands.", STATUS_MEANINGS),
        ReasonCode.__name__: _enum("Why an order was cancelled or failed.", reasons),
        Code.__name__: _enum("All problems.", {code: kind.title + "." for code, kind in PROBLEMS.items()}),
    }


def _enum(summary: str, meanings: Mapping[Any, str]) -> dict[str, Any]:
    lines = [f"- `{value}`: {meaning}" for value, meaning in meanings.items()]
    return {
        "type": "string",
        "enum": [str(value) for value in meanings],
        "description": "\n".join([summary, "", *lines]),
    }


def _problem_base() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("title", "detail")}
    addresses = {name: {"type": "string", "format": "uri-reference"} for name in ("type", "instance")}
    status = {"type": "integer", "minimum": 400, "maximum": 599}
    properties = {**addresses, **texts, "status": status, "code": reference(Code.__name__)}
    trace = {"trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    return {
        "type": "object",
        "description": "An error as RFC 9457 has it. Some problems have members of their own besides.",
        "properties": properties | trace,
        "required": [*properties],
    }


def _problem(code: Code, members: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a problem with all its members: generators of clients make no type of a schema that adds to another."""
    kind, base = PROBLEMS[code], _worded("Problem", _problem_base())
    fixed = {"type": TYPE_PREFIX + code, "status": kind.status, "code": str(code)}
    properties = dict(base["properties"])
    properties |= {
        name: {"const": value, "description": FIELD_MEANINGS[f"Problem.{name}"]} for name, value in fixed.items()
    }
    properties |= {name: members[name] for name in kind.members}
    return {
        "title": problem_name(code),  # generators name their types by it
        "description": f"{kind.title}. {kind.when} {kind.remedy}",
        "type": "object",
        "properties": properties,
        "required": [*base["required"], *kind.members],
    }


def _worded(struct: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Say of each field what it means. Defaults are said in words: some generators want a field with one given."""
    properties = schema.get("properties", {})
    worded = {
        name: {
            **{word: value for word, value in field.items() if word != "default"},
            "description": FIELD_MEANINGS.get(f"{struct}.{name}") or FIELD_MEANINGS[name],
        }
        for name, field in properties.items()
    }
    return {**schema, "properties": worded} if worded else schema


def _precise(schema: Any) -> Any:
    """Say all that is known of ids, times and whole numbers, and `$` for what Python's patterns call the end."""
    if isinstance(schema, list):
        return [_precise(value) for value in schema]
    if not isinstance(schema, dict):
        return schema.replace(r"\Z", "$") if isinstance(schema, str) else schema
    precise = {name: _precise(value) for name, value in schema.items()}
    if schema.get("format") == "uuid":
        return precise | ORDER_ID
    if schema.get("type") == "integer":
        return {"minimum": 0, "maximum": INTEGER_MAX} | precise
    return precise


def _decimal(kind: type) -> dict[str, Any]:
    if not issubclass(kind, Exact):
        raise NotImplementedError(f"no schema for {kind}")  # how msgspec wants a hook to say: not one of mine
    schema = TypeAdapter(kind).json_schema()
    if kind.maximum is None:
        return schema
    digits = kind.maximum.adjusted()  # the maximum is a power of ten: below it are the numbers of so many digits
    below = rf"(0|[1-9][0-9]{{0,{digits - 1}}})(\.[0-9]{{1,{PLACES_MAX}}})?"
    return schema | {"pattern": rf"^({below}|{kind.maximum:f}(\.0{{1,{PLACES_MAX}}})?)$"}
