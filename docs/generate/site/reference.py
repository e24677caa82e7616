"""Two pages that only the site has, made from the documents for programs: every message, and every call of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

MESSAGES: Final = "docs/messages.md"
CALLS: Final = "docs/calls.md"
PAGES: Final = (MESSAGES, CALLS)

MESSAGES_HEAD: Final = """\
# Messages

What is sent over Kafka, topic by topic: made from [asyncapi.json](asyncapi.json) and the JSON Schemas. How to send and
read them is told in [Kafka](kafka.md). Every message may come more than once and out of order, and fields that
you do not know may appear: ignore them.
"""

CALLS_HEAD: Final = """\
# Calls of the API

Made from [openapi.json](openapi.json). A running API shows the same at `/docs`, where each call can be tried out.
Each call is served under `/v1` too. What a problem means is told in [Problems](problems/README.md).
"""

Json = Mapping[str, Any]


def pages(root: Path) -> dict[str, str]:
    """Make both pages from the documents below `root`; the keys are the names that the pages would have there."""
    docs = root / "docs"
    schemas = {path.stem: json.loads(path.read_text()) for path in sorted((docs / "schemas").glob("*.json"))}
    return {
        MESSAGES: messages(json.loads((docs / "asyncapi.json").read_text()), schemas),
        CALLS: calls(json.loads((docs / "openapi.json").read_text())),
    }


def messages(document: Json, schemas: Mapping[str, Json]) -> str:
    """Tell every topic, its messages, and their fields."""
    parts = [MESSAGES_HEAD]
    for channel in document["channels"].values():
        kafka = channel["bindings"]["kafka"]
        meaning = channel["description"].partition(" An installation")[0]
        parts.append(f"\n## {kafka['topic']}\n\n{meaning} {kafka['partitions']} partitions.\n")
        parts += [_message(document["components"]["messages"][name], schemas[name]) for name in channel["messages"]]
    return "".join(parts)


def _message(message: Json, schema: Json) -> str:
    key = message["bindings"]["kafka"]["key"]["description"]
    example = json.dumps(message["examples"][0]["payload"], indent=2)
    says = "\n\n".join(part for part in (message["summary"], message.get("description", ""), f"Key: {key}") if part)
    file = f"[{message['name']}.json](schemas/{message['name']}.json)"
    return (
        f"\n### {message['name']}\n\n{says} Schema: {file}.\n\n{_fields(schema, schema)}\n\n```json\n{example}\n```\n"
        + "".join(_part(name, part, schema) for name, part in schema.get("$defs", {}).items() if "properties" in part)
    )


def _part(name: str, part: Json, schema: Json) -> str:
    return f"\nThe fields of {name}:\n\n{_fields(part, schema)}\n"


def _fields(part: Json, schema: Json) -> str:
    needed = part.get("required", ())
    rows = (
        (f"`{name}`", _type(one, schema), "yes" if name in needed else "", _meaning(one, schema))
        for name, one in part["properties"].items()
    )
    return table(("field", "type", "required", "meaning"), rows)


def _choices(one: Json, schema: Json) -> Iterator[Json]:
    """Yield what a value may be, with references followed."""
    for choice in one.get("anyOf", (one,)):
        reference = choice.get("$ref")
        yield schema["$defs"][reference.rsplit("/", 1)[1]] if reference else choice


def _type(one: Json, schema: Json) -> str:
    names = [
        choice["title"] if "properties" in choice else choice.get("format") or choice.get("type", "")
        for choice in _choices(one, schema)
    ]
    return " or ".join(names)


def _meaning(one: Json, schema: Json) -> str:
    first = next(_choices(one, schema))
    if "enum" in first:
        return ", ".join(f"`{value}`" for value in first["enum"])
    return str(one.get("description") or first.get("description", "")).partition("\n\n")[0]


def calls(document: Json) -> str:
    """Tell every call, what it takes, and what it answers."""
    parts = [CALLS_HEAD]
    for tag in document["tags"]:
        parts.append(f"\n## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        parts += [
            _call(method, path, operation, document)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if method != "parameters" and tag["name"] in operation["tags"]
        ]
    return re.sub(r"\]\(/(problems/[a-z-]+)\)", r"](\1.md)", "".join(parts))


def _call(method: str, path: str, operation: Json, document: Json) -> str:
    parameters = [_followed(one, document) for one in operation.get("parameters", ())]
    takes = table(
        ("takes", "in", "meaning"), ((f"`{one['name']}`", one["in"], one.get("description", "")) for one in parameters)
    )
    answers = table(
        ("answers", "when"),
        ((f"`{status}`", _followed(one, document)["description"]) for status, one in operation["responses"].items()),
    )
    says = [f"### `{method.upper()} {path}`", operation["summary"] + ".", operation.get("description", "")]
    body = _followed(operation["requestBody"], document) if "requestBody" in operation else {}
    says += [_body(body), takes if parameters else "", answers]
    return "\n" + "\n\n".join(part for part in says if part) + "\n"


def _body(body: Json) -> str:
    """Show the first example of a request's body."""
    for content in body.get("content", {}).values():
        for example in content.get("examples", {}).values():
            return f"```json\n{json.dumps(example['value'], indent=2)}\n```"
    return ""


def _followed(one: Json, document: Json) -> Json:
    """Follow a reference into the document."""
    if "$ref" not in one:
        return one
    found: Any = document
    for name in one["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table; each cell on one line."""
    columns = tuple(head)
    lines = [columns, ("---",) * len(columns), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
