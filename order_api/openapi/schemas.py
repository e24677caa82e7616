"""The shapes of all bodies as JSON Schemas, made from the Structs that are read and written, and said in words.

A test demands words for every field: those in `words`, or in the Struct's own `MEANINGS`. A schema must never allow
what the reader of the Struct refuses, or the other way round: where a rule has no words in JSON Schema (a decimal's
maximum), a pattern tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args, get_type_hints
from uuid import UUID

import msgspec
from pydantic import TypeAdapter

from contracts.amends import AMEND_REFUSALS, AmendRefusal, AmendState
from contracts.decimals import PLACES_MAX, Exact
from contracts.orders import Order
from contracts.vocabulary import REASONS, OrderStatus, OrderType, ReasonCode, Side, TimeInForce
from contracts.webhooks import OrderWebhook
from order_api.http.problems import PROBLEMS, TYPE_PREFIX, Code, FieldError
from order_api.openapi.words import (
    AMEND_STATE_MEANINGS,
    FIELD_MEANINGS,
    SIDE_MEANINGS,
    STATUS_MEANINGS,
    TIME_IN_FORCE_MEANINGS,
    TYPE_MEANINGS,
)

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
    hold_id: UUID
    hold_status: str
    endpoint_id: UUID
    amend_refusal: AmendRefusal
    release_refused: ReasonCode


def components(structs: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Make the schemas of Structs and of all problems, by their names."""
    every: list[type[msgspec.Struct]] = [*dict.fromkeys(structs), FieldError, Members]
    own = {
        f"{one.__name__}.{name}": words
        for one in {each for outer in every for each in _with_inner(outer)}
        for name, words in getattr(one, "MEANINGS", {}).items()
    }
    _, made = msgspec.json.schema_components(every, schema_hook=_decimal, ref_template=f"{_PLACE}{{name}}")
    schemas = {name: _precise(schema) for name, schema in made.items()}
    schemas = {name: _worded(name, schema, FIELD_MEANINGS | own) for name, schema in schemas.items()}
    schemas |= _of_a_webhook(schemas)
    # Fields with a default are missing from messages only: an answer has every one.
    schemas[Order.__name__]["required"] = [*schemas[Order.__name__]["properties"]]
    members = schemas.pop(Members.__name__)["properties"]
    problems = {problem_name(code): _problem(code, members) for code in PROBLEMS}
    return schemas | _enums() | problems


def _of_a_webhook(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Give webhooks an order of their own, as messages have it: what does not apply to an order is left out of it."""
    if (webhook := schemas.get(OrderWebhook.__name__)) is None:
        return {}
    data = webhook["properties"]["data"] | reference(WEBHOOK_ORDER)
    return {
        OrderWebhook.__name__: webhook | {"properties": webhook["properties"] | {"data": data}},
        WEBHOOK_ORDER: schemas[Order.__name__] | {"title": WEBHOOK_ORDER},
    }


def _with_inner(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Yield the Structs in a type: itself if it is one, and those in its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _with_inner(hint)
    for part in get_args(kind):
        yield from _with_inner(part)


def reference(name: str) -> dict[str, str]:
    """Point to a schema."""
    return {"$ref": f"{_PLACE}{name}"}


def problem_name(code: Code) -> str:
    """Name the schema of a problem: `order-not-found` is `OrderNotFoundProblem`."""
    return "".join(word.capitalize() for word in code.split("-")) + "Problem"


_PLACE: Final = "#/components/schemas/"
WEBHOOK_ORDER: Final = "WebhookOrder"


def _enums() -> dict[str, Any]:
    """Describe the closed vocabularies, each value with what it means."""
    reasons = {code: row.meaning + " May succeed later." * row.retryable for code, row in REASONS.items()}
    return {
        OrderType.__name__: _enum("What a trader may ask for.", TYPE_MEANINGS),
        Side.__name__: _enum("Which way the asset goes.", SIDE_MEANINGS),
        OrderStatus.__name__: _enum("Where an order stands.", STATUS_MEANINGS),
        TimeInForce.__name__: _enum("How long a conditional order may wait.", TIME_IN_FORCE_MEANINGS),
        ReasonCode.__name__: _enum("Why an order was cancelled or failed.", reasons),
        AmendState.__name__: _enum("How far an amend has come.", AMEND_STATE_MEANINGS),
        AmendRefusal.__name__: _enum("Why an amend changed nothing.", AMEND_REFUSALS),
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
    kind, base = PROBLEMS[code], _worded("Problem", _problem_base(), FIELD_MEANINGS)
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


def _worded(struct: str, schema: dict[str, Any], meanings: Mapping[str, str]) -> dict[str, Any]:
    """Say of each field what it means. Defaults are said in words: some generators want a field with one given."""
    properties = schema.get("properties", {})
    worded = {
        name: {
            **{word: value for word, value in field.items() if word != "default"},
            "description": meanings.get(f"{struct}.{name}") or meanings[name],
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
        # msgspec's contract: by this error a hook says that a type is not one of its own, and msgspec reports it.
        raise NotImplementedError(f"no schema for {kind}")
    schema = TypeAdapter(kind).json_schema()
    if kind.maximum is None:
        return schema
    digits = kind.maximum.adjusted()  # the maximum is a power of ten: below it are the numbers of so many digits
    below = rf"(0|[1-9][0-9]{{0,{digits - 1}}})(\.[0-9]{{1,{PLACES_MAX}}})?"
    return schema | {"pattern": rf"^({below}|{kind.maximum:f}(\.0{{1,{PLACES_MAX}}})?)$"}
