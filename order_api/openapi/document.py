"""The OpenAPI 3.1 document, put together from the table of operations, the schemas and the examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from order_api.http.bodies import JSON
from order_api.http.problems import MEDIA_TYPE, PROBLEMS, Code
from order_api.http.tokens import Scope
from order_api.openapi.examples import BODY, MINIMAL_BODY, Example, answer_examples
from order_api.openapi.operations import (
    ANYWHERE,
    HEADERS,
    LIMIT_HEADERS,
    OPERATIONS,
    PROBLEM_HEADERS,
    TAGS,
    Answer,
    Operation,
    Parameter,
)
from order_api.openapi.problem_examples import problem_examples
from order_api.openapi.schemas import components, problem_name, reference

TITLE: Final = "Orders"
VERSION: Final = "1"
DESCRIPTION: Final = """\
Trading orders whose money moves exactly once or not at all.

Decimals are strings (`"0.01"`), times RFC 3339 in UTC. An error is an RFC 9457 problem: decide by its `code`; its
`type` is the address of a page that says what helps. After a `5xx` the outcome is unknown: look at `instance`, or send
the same request again with its `Idempotency-Key` or `client_order_id`. A token is a JWT whose `sub` is the user.

Each call is served under `/v1` too, with the same answers."""
SCOPE_MEANINGS: Final[dict[Scope, str]] = {
    Scope.READ: "read one's own orders",
    Scope.WRITE: "submit and cancel one's own orders",
    Scope.ACT_FOR_USERS: "do for any user what that user may do",
    Scope.OPERATE: "read and cancel any order, in the operator's own name",
}
_LINKED: Final = {
    **dict.fromkeys(("readOrder", "readOrderStatus", "readOrderHistory", "cancelOrder"), "order_id"),
    **dict.fromkeys(("readOrderByClientId", "cancelOrderByClientId"), "client_order_id"),
}
"""What the answer to a new order leads to: the operation, and the member that its parameter is."""


@cache
def describe() -> dict[str, Any]:
    """Make the whole document. It is made once: do not change what is returned."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION, "description": DESCRIPTION, "license": _LICENSE},
        "servers": [{"url": "/", "description": "Where this document comes from."}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components(),
            "headers": {name: _header(name) for name in HEADERS},
            "securitySchemes": {"token": _security()},
        },
    }


_LICENSE: Final = {"name": "MIT", "identifier": "MIT"}


def _security() -> dict[str, str]:
    scopes = [f"- `{scope}`: {meaning}" for scope, meaning in SCOPE_MEANINGS.items()]
    description = "\n".join(["The scopes are words in the claim `scope`:", "", *scopes])
    return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description}


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": _responses(operation),
        "security": [{"token": []}] if operation.scopes else [],
    }
    if description := " ".join(filter(None, (operation.description, _needs(operation.scopes)))):
        described["description"] = description
    if operation.body is not None:
        described["requestBody"] = _body(operation.body)
    return described


def _needs(scopes: Iterable[Scope]) -> str:
    named = " or ".join(f"`{scope}`" for scope in scopes)
    return f"Needs the scope {named}." if named else ""


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {"name": parameter.name, "in": parameter.place, "description": parameter.meaning}
    if parameter.place == "path":
        return described | {"required": True, "schema": dict(parameter.schema), "example": parameter.example}
    # An example of the schema and not of the parameter: a page that fills in the latter would send what nobody chose.
    return described | {"schema": {**parameter.schema, "examples": [parameter.example]}}


def _body(schema: str) -> dict[str, Any]:
    examples = {
        "buy": Example("Buy, with all that can be said", BODY),
        "sell": Example("As short as can be", MINIMAL_BODY),
    }
    return {"required": True, "content": {JSON: {"schema": reference(schema), "examples": _examples(examples)}}}


def _responses(operation: Operation) -> dict[str, Any]:
    limits = LIMIT_HEADERS if operation.scopes else ()
    in_path = any(parameter.place == "path" for parameter in operation.parameters)  # one with a slash is another path
    codes = (*operation.problems, *(ANYWHERE if operation.scopes else ()), *((Code.NOT_FOUND,) if in_path else ()))
    statuses = sorted({PROBLEMS[code].status for code in codes})
    answers = {str(status): _answer(answer, limits) for status, answer in operation.answers.items()}
    return answers | {str(status): _problems(status, codes, limits) for status in statuses}


def _answer(answer: Answer, limits: tuple[str, ...]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.meaning, "headers": _headers((*answer.headers, *limits))}
    if answer.schema is not None:
        known = answer_examples()
        examples = {name: known[name] for name in answer.examples}
        described["content"] = {
            answer.media_type: {"schema": reference(answer.schema), "examples": _examples(examples)}
        }
    elif answer.media_type != JSON:
        described["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    if answer.leads_to_order:
        described["links"] = {name: _link(name, member) for name, member in _LINKED.items()}
    return described


def _link(operation: str, member: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {member: f"$response.body#/{member}"}}


def _problems(status: int, codes: Iterable[Code], limits: tuple[str, ...]) -> dict[str, Any]:
    """Describe all problems with one status."""
    here = [code for code in PROBLEMS if code in codes and PROBLEMS[code].status == status]
    told = [f"[`{code}`]({problem_examples()[code].body['type']}): {PROBLEMS[code].meaning}" for code in here]
    schemas = [reference(problem_name(code)) for code in here]
    examples = {str(code): Example(PROBLEMS[code].title, problem_examples()[code].body) for code in here}
    return {
        "description": "\n\n".join(told),
        "headers": _headers((*PROBLEM_HEADERS.get(status, ()), *limits)),
        "content": {
            MEDIA_TYPE: {
                "schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas},
                "examples": _examples(examples),
            }
        },
    }


def _examples(examples: Mapping[str, Example]) -> dict[str, Any]:
    return {name.replace(" ", "-"): {"summary": one.summary, "value": one.value} for name, one in examples.items()}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> dict[str, Any]:
    header = HEADERS[name]
    return {
        "description": header.meaning,
        "required": header.certain,
        "schema": dict(header.schema),
        "example": header.example,
    }
