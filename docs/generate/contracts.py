"""The documented face of the wire, made from the messages themselves: pydantic models, JSON Schemas, AsyncAPI.

`python -m docs.generate.contracts` writes `docs/asyncapi.json` and `docs/schemas/`; with `--check` it only compares. It
must never say of a message what its Struct does not say. Where msgspec and pydantic would read a value differently
(decimals, times, UUIDs), the face calls the hot path's own reader, so both accept and refuse the same values.

Only what is no part of a message can be judged differently, and nothing of it is kept. In fields that it does not know
the hot path skips bytes that are not UTF-8, numbers of thousands of digits and nesting over 200 deep, which the face
refuses, and refuses NaN and Infinity, which the face skips. The hot path refuses a name that comes twice, the
face takes the last value. So an odd body can differ; a body that any JSON library writes can not.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from datetime import datetime
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import inspect as wire
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from contracts.codec import MESSAGES, outgoing
from contracts.envelope import ATTEMPT_MAX, CONTENT_TYPE, HEADER_LENGTH_MAX, SPEC_VERSION
from contracts.examples import TIME, example
from contracts.topics import (
    ASSETS_COMMANDS,
    ASSETS_PRICES,
    ASSETS_REPLIES,
    BALANCE_COMMANDS,
    BALANCE_REPLIES,
    ORDERS_CANCELS,
    ORDERS_CHANGES,
    ORDERS_EVENTS,
    ORDERS_REQUESTS,
    TOPICS,
    Topic,
)
from contracts.vocabulary import REASONS, YEAR_MAX, YEAR_MIN, ReasonCode, check_instant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

DOCS: Final = Path(__file__).parents[1]

UUID_SCHEMA: Final = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
}
TIME_SCHEMA: Final = {
    "type": "string",
    "format": "date-time",
    "description": f"RFC 3339 with a time zone, {YEAR_MIN} to {YEAR_MAX}.",
}

NO_NUL: Final = r"^[^\u0000]*$"
"""The pattern of a text that has no pattern of its own."""

SAGA_ACTIONS: Final = {
    ORDERS_REQUESTS: "receive",
    ORDERS_CANCELS: "receive",
    ORDERS_CHANGES: "receive",
    ORDERS_EVENTS: "send",
    BALANCE_COMMANDS: "send",
    BALANCE_REPLIES: "receive",
    ASSETS_COMMANDS: "send",
    ASSETS_REPLIES: "receive",
    ASSETS_PRICES: "receive",
}
"""What the order saga does with a topic; whoever talks with it does the opposite."""

ANSWERED_ON: Final = {BALANCE_COMMANDS: BALANCE_REPLIES, ASSETS_COMMANDS: ASSETS_REPLIES}


@cache
def face(struct: type[msgspec.Struct]) -> type[BaseModel]:
    """Make the pydantic model of a Struct: same fields, rules and defaults; strict; unknown fields are ignored."""
    fields: dict[str, Any] = {
        field.name: (_twin(wire.type_info(field.type)), ... if field.required else _default(field))
        for field in msgspec.structs.fields(struct)
    }
    return create_model(
        struct.__name__,
        __config__=ConfigDict(strict=True, extra="ignore", frozen=True),
        __doc__=inspect.getdoc(struct),
        __module__=struct.__module__,
        **fields,
    )


def _default(field: msgspec.structs.FieldInfo) -> object:
    """Return a field's default. One that is always written has it from a factory."""
    made = field.default is msgspec.NODEFAULT
    return field.default_factory() if made else field.default


def documents() -> dict[str, str]:
    """Generate every document: its path below `docs/`, and its text."""
    schemas = {f"schemas/{name}.json": _schema(message) for name, message in MESSAGES.items()}
    return {path: json.dumps(body, indent=2) + "\n" for path, body in {"asyncapi.json": _asyncapi(), **schemas}.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents, or compare them (`--check`): exit 1 when the folder holds anything else."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate.contracts", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a document is not fresh")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where the documents are (default: docs/)")
    options = parser.parse_args(arguments)
    fresh = documents()
    found = _written(options.folder)
    stale = sorted(path for path in fresh.keys() | found.keys() if fresh.get(path) != found.get(path))
    for path in stale:
        sys.stdout.write(f"{'not fresh' if options.check else 'written' if path in fresh else 'removed'}: {path}\n")
        if not options.check:
            _write(options.folder / path, fresh.get(path))
    return 1 if options.check and stale else 0


def _written(folder: Path) -> dict[str, str]:
    paths = [folder / "asyncapi.json", *folder.glob("schemas/*.json")]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths if path.exists()}


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="\n")


class _ReadByMsgspec:
    """Make pydantic read a type as the hot path does."""

    def __init__(self, kind: Any, schema: JsonSchemaValue) -> None:
        self.kind = kind
        self.schema = schema

    def read(self, value: object) -> Any:
        read = msgspec.convert(value, self.kind)
        if isinstance(read, datetime):
            check_instant(read)
        return read

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


def _twin(kind: wire.Type) -> Any:  # noqa: PLR0911 - one answer for each kind of type
    """Say in pydantic's words what msgspec knows of a type."""
    match kind:
        case wire.Metadata():
            return Annotated[_twin(kind.type), Field(description=(kind.extra_json_schema or {})["description"])]
        case wire.UnionType():
            return reduce(or_, map(_twin, kind.types))
        case wire.StructType():
            return face(kind.cls)
        case wire.CustomType() | wire.EnumType():
            return kind.cls
        case wire.StrType():
            pattern = NO_NUL if kind.pattern is None else kind.pattern.replace(r"\Z", "$")
            return Annotated[str, Field(pattern=pattern, max_length=kind.max_length)]
        case wire.IntType():
            return Annotated[int, Field(ge=kind.ge, le=kind.le)]
        case wire.VarTupleType():
            bounds = Field(min_length=kind.min_length, max_length=kind.max_length)
            return Annotated[GenericAlias(tuple, (_twin(kind.item_type), ...)), bounds]
        case wire.UUIDType():
            return Annotated[UUID, _ReadByMsgspec(UUID, UUID_SCHEMA)]
        case wire.DateTimeType():
            return Annotated[datetime, _ReadByMsgspec(Annotated[datetime, msgspec.Meta(tz=kind.tz)], TIME_SCHEMA)]
        case _:
            return {wire.BoolType: bool, wire.NoneType: None}[type(kind)]


class _WithoutTitles(GenerateJsonSchema):
    """Leave out the titles of fields: they only repeat the names."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def _schema(message: type[msgspec.Struct]) -> dict[str, Any]:
    schema = face(message).model_json_schema(schema_generator=_WithoutTitles)
    if reason_code := schema.get("$defs", {}).get(ReasonCode.__name__):
        meanings = (f"{code}: {reason.meaning}{' Retryable.' * reason.retryable}" for code, reason in REASONS.items())
        reason_code["description"] = "\n".join([reason_code["description"], *meanings])
    # Nothing is used that draft 7 lacks, and AsyncAPI's own schemas are draft 7.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _asyncapi() -> dict[str, Any]:
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Order saga",
            "version": "1.0.0",
            "description": "The messages between the order saga, its participants and whoever sends or follows orders. "
            "Operations are the order saga's own. CloudEvents 1.0 in Kafka's binary mode; every message may come "
            "more than once and out of order. Unknown fields are ignored, so that messages can grow. "
            "Records are spread over partitions by the murmur2 hash of their key, as Java clients do "
            "(librdkafka: partitioner=murmur2_random).",
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {_identifier(topic): _channel(topic) for topic in TOPICS},
        "operations": {f"{action}-{topic.name}": _operation(topic, action) for topic, action in SAGA_ACTIONS.items()},
        "components": {
            "messages": {message.__name__: _message(topic, message) for topic in TOPICS for message in topic.messages},
            "schemas": {"CloudEvent": _headers()},
        },
    }


def _identifier(topic: Topic) -> str:
    """Name a channel without the dot, which AsyncAPI's runtime expressions do not like."""
    return topic.name.replace(".", "-")


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": f"{topic.meaning} An installation may put a prefix before the name.",
        "messages": {
            message.__name__: {"$ref": f"#/components/messages/{message.__name__}"} for message in topic.messages
        },
        "bindings": {"kafka": {"topic": topic.name, "partitions": topic.partitions, "bindingVersion": "0.5.0"}},
    }


def _operation(topic: Topic, action: str) -> dict[str, Any]:
    operation = {"action": action, "channel": _channel_reference(topic), "summary": topic.meaning}
    if replies := ANSWERED_ON.get(topic):
        return {**operation, "reply": {"channel": _channel_reference(replies)}}
    return operation


def _channel_reference(topic: Topic) -> dict[str, str]:
    return {"$ref": f"#/channels/{_identifier(topic)}"}


def _message(topic: Topic, message: type[msgspec.Struct]) -> dict[str, Any]:
    name = message.__name__
    sent = outgoing(example(name), message_id="1f0c1f1e-0001", source="order-saga", time=datetime.fromisoformat(TIME))
    summary, _, description = (inspect.getdoc(message) or "").partition("\n\n")
    return {
        "name": name,
        "title": name,
        "summary": summary,
        **({"description": description} if description else {}),
        "contentType": CONTENT_TYPE,
        "headers": {
            "allOf": [{"$ref": "#/components/schemas/CloudEvent"}, {"properties": {"ce_type": {"const": name}}}]
        },
        "payload": {"$ref": f"./schemas/{name}.json"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"The text of `{topic.key}`."},
                "bindingVersion": "0.5.0",
            }
        },
        "examples": [
            {
                "headers": {header: value.decode() for header, value in sent.headers},
                "payload": json.loads(sent.value),
            }
        ],
    }


def _headers() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": HEADER_LENGTH_MAX}
    return {
        "type": "object",
        "description": "CloudEvents 1.0 attributes as Kafka record headers, each the UTF-8 bytes of its text.",
        "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"],
        "properties": {
            "ce_specversion": {"const": SPEC_VERSION},
            "ce_id": {**text, "description": "Unique for its source; a message that is sent again keeps it."},
            "ce_type": {**text, "description": "The name of the message."},
            "ce_source": {**text, "description": "Who sent it."},
            "ce_time": {"type": "string", "format": "date-time"},
            "content-type": {"const": CONTENT_TYPE, "description": "May be left out."},
            "traceparent": {"type": "string", "description": "W3C Trace Context; a malformed one is ignored."},
            "attempt": {
                "type": "string",
                "pattern": "^[1-9][0-9]*$",
                "description": f"How often the question has been asked, from 1, at most {ATTEMPT_MAX}. Absent: 1.",
            },
        },
    }


if __name__ == "__main__":
    sys.exit(main())
