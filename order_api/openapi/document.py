"""The OpenAPI 3.1 document: FastAPI writes it from the declarations of the routes; schemas and examples are put in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from contracts.webhooks import ORDER_EVENTS, DisabledWebhook, EventType, OrderWebhook, PingWebhook
from order_api.http.bodies import JSON
from order_api.http.problems import MEDIA_TYPE, PROBLEMS, TYPE_PREFIX, Code
from order_api.http.routing import Endpoint
from order_api.http.tokens import Scope
from order_api.openapi.declarations import (
    ANYWHERE,
    HEADERS,
    LIMIT_HEADERS,
    PROBLEM_HEADERS,
    Example,
    Operation,
    Parameter,
    Returns,
)
from order_api.openapi.problem_pages import ProblemExamples
from order_api.openapi.schemas import components, problem_name, reference

TITLE: Final = "Orders"
VERSION: Final = "1"
DESCRIPTION: Final = """\
Trading orders whose money moves exactly once or not at all.

Decimals are strings (`"0.01"`), times RFC 3339 in UTC. An error is an RFC 9457 problem: decide by its `code`; its
`type` is the address of a page that says what helps. After a `5xx` the outcome is unknown: look at `instance`, or send
the same request again with its `Idempotency-Key` or `client_order_id`. A token is a JWT whose `sub` is the user.

Each call is served under `/v1` too, with the same answers."""
TAGS: Final = {
    "orders": "Submit orders, follow them, change them, cancel them.",
    "streams": "Learn of what changes as it happens.",
    "market": "Prices, assets with their rules, and a user's accounts.",
    "webhooks": "Have a URL told of what changes, and see what was sent there.",
    "notifications": "Say how a person is told of orders, and see what was told.",
    "holds": "Hold money beside orders: for services.",
    "documentation": "What this is, for people and for programs. Public.",
    "operation": "For whoever runs the service. Public, so do not let the world in.",
}
SCOPE_MEANINGS: Final[dict[Scope, str]] = {
    Scope.READ: "read one's own orders",
    Scope.WRITE: "submit, change (amend, hold, release) and cancel one's own orders",
    Scope.ACT_FOR_USERS: "do for any user what that user may do",
    Scope.OPERATE: "read, change and cancel any order, in the operator's own name",
    Scope.READ_HOLDS: "read the holds that one has asked for",
    Scope.WRITE_HOLDS: "hold money of any user, capture it and release it: for services only",
    Scope.MANAGE_WEBHOOKS: "have URLs told of one's own orders, and see what was sent there",
}


def write_document(operations: Iterable[Operation], problems: ProblemExamples) -> dict[str, Any]:
    """Write the whole document."""
    operations = list(operations)
    document = get_openapi(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "Where this document comes from."}],
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
        routes=[api_route(operation, _not_served) for operation in operations],
    )
    for operation in operations:
        _put_examples(operation, document["paths"][operation.path][operation.method.lower()], problems)
    bodies = [operation.body.struct for operation in operations if operation.body is not None]
    answers = [one.struct for operation in operations for one in operation.answers.values() if one.struct is not None]
    document["webhooks"] = _webhooks()
    document["components"] = {
        "schemas": components([*bodies, *answers, *SENT.values()]),
        "headers": {name: _header(name) for name in HEADERS},
        "securitySchemes": {"token": _security()},
    }
    return document


def _webhooks() -> dict[str, Any]:
    """Describe what endpoints of users are sent (OpenAPI 3.1, `webhooks`)."""
    headers = [
        {"name": name, "in": "header", "required": True, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in SENT_HEADERS.items()
    ]
    return {
        str(event_type): {
            "post": {
                "summary": f"A webhook of the type {event_type}",
                "description": "Sent to endpoints of users. Verify the bytes, not the parsed body; it may come again.",
                "tags": ["webhooks"],
                "parameters": headers,
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": reference(body.__name__)}},
                },
                "responses": {
                    "2XX": {"description": "It is taken. Any other answer is a failure, and it comes again."},
                    "410": {"description": "The endpoint is gone: it is disabled."},
                },
            }
        }
        for event_type, body in SENT.items()
    }


SENT: Final[dict[EventType, type[msgspec.Struct]]] = {
    **dict.fromkeys(ORDER_EVENTS, OrderWebhook),
    EventType.WEBHOOK_PING: PingWebhook,
    EventType.WEBHOOK_DISABLED: DisabledWebhook,
}
"""The types of webhooks, and the body of each. A code for an address is a notification, and no webhook."""
SENT_HEADERS: Final = {
    "webhook-id": "The event's id: the same for every attempt.",
    "webhook-timestamp": "When this attempt was signed, in seconds since 1970.",
    "webhook-signature": "`v1,` and base64, for each valid secret, with blanks between.",
}


def api_route(operation: Operation, serve: Endpoint) -> APIRoute:
    """Make the route of a declaration. Requests are read and judged by `serve` alone, and not by FastAPI."""
    described: dict[int | str, dict[str, Any]] = {
        **{status: _answer(operation, answer) for status, answer in operation.answers.items()},
        **{status: _problems(status, operation) for status in _problem_statuses(operation)},
    }
    (status, first), *_ = operation.answers.items()
    extra: dict[str, Any] = {
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "security": [{"token": []}] if operation.scopes else [],
    }
    if operation.body is not None:
        schema = reference(operation.body.struct.__name__)
        extra["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return APIRoute(
        operation.path,
        serve,
        methods=[operation.method],
        operation_id=operation.name,
        summary=operation.summary,
        description=" ".join(filter(None, (operation.description, _needs(operation.scopes)))) or None,
        tags=[operation.tag],
        status_code=status,
        response_description=first.meaning,
        responses=described,
        openapi_extra=extra,
        response_class=Response,
        response_model=None,
    )


async def _not_served(request: Request) -> Response:
    # Routes of the document are described and never called: the application serves the same declarations with
    # functions of its own. No docstring, which FastAPI would take for a description.
    raise NotImplementedError(request)


def _needs(scopes: Iterable[Scope]) -> str:
    named = " or ".join(f"`{scope}`" for scope in scopes)
    return f"Needs the scope {named}." if named else ""


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {"name": parameter.name, "in": parameter.place, "description": parameter.meaning}
    example = parameter.example() if callable(parameter.example) else parameter.example
    if parameter.place == "path":
        return described | {"required": True, "schema": dict(parameter.schema), "example": example}
    # An example of the schema and not of the parameter: a page that fills in the latter would send what nobody chose.
    return described | {"schema": {**parameter.schema, "examples": [example]}}


def _answer(operation: Operation, answer: Returns) -> dict[str, Any]:
    limits = LIMIT_HEADERS if operation.scopes else ()
    described: dict[str, Any] = {"description": answer.meaning, "headers": _headers((*answer.headers, *limits))}
    if answer.struct is not None:
        described["content"] = {answer.media_type: {"schema": reference(answer.struct.__name__)}}
    elif answer.media_type != JSON:
        described["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    if answer.links:
        described["links"] = {
            name: {"operationId": name, "parameters": {member: f"$response.body#/{member}"}}
            for name, member in answer.links.items()
        }
    return described


def _codes(operation: Operation) -> list[Code]:
    in_path = any(parameter.place == "path" for parameter in operation.parameters)  # one with a slash is another path
    codes = {*operation.problems, *(ANYWHERE if operation.scopes else ()), *((Code.NOT_FOUND,) if in_path else ())}
    return [code for code in PROBLEMS if code in codes]


def _problem_statuses(operation: Operation) -> list[int]:
    return sorted({PROBLEMS[code].status for code in _codes(operation)})


def _problems(status: int, operation: Operation) -> dict[str, Any]:
    """Describe all problems with one status."""
    here = [code for code in _codes(operation) if PROBLEMS[code].status == status]
    schemas = [reference(problem_name(code)) for code in here]
    limits = LIMIT_HEADERS if operation.scopes else ()
    return {
        "description": "\n\n".join(f"[`{code}`]({TYPE_PREFIX}{code}): {PROBLEMS[code].meaning}" for code in here),
        "headers": _headers((*PROBLEM_HEADERS.get(status, ()), *limits)),
        "content": {MEDIA_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}},
    }


def _put_examples(operation: Operation, described: dict[str, Any], problems: ProblemExamples) -> None:
    """Put the examples in: FastAPI leaves out whatever is null, and an order has members that are."""
    if operation.body is not None:
        described["requestBody"]["content"][JSON]["examples"] = _examples(operation.body.examples())
    for status, answer in operation.answers.items():
        if (made := answer.examples()) or answer.struct is not None:
            content = described["responses"][str(status)]["content"]
            content[answer.media_type]["examples"] = _examples(made)
    for status in _problem_statuses(operation):
        here = [code for code in _codes(operation) if PROBLEMS[code].status == status]
        examples = {str(code): Example(PROBLEMS[code].title, problems[code].body) for code in here}
        described["responses"][str(status)]["content"][MEDIA_TYPE]["examples"] = _examples(examples)


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


def _security() -> dict[str, str]:
    scopes = [f"- `{scope}`: {meaning}" for scope, meaning in SCOPE_MEANINGS.items()]
    description = "\n".join(["The scopes are words in the claim `scope`:", "", *scopes])
    return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description}
