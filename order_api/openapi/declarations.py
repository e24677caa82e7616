"""How a route is declared: with all that the OpenAPI document says of it, where it stands.

    @operation("GET", "/orders/{order_id}", "readOrder", {200: Returns("The order.", Order)}, scopes=(Scope.READ,))
    async def order(self, request: Request, caller: Caller) -> Response:
        '''Read an order.'''

This is all that a route needs. The first line of its docstring is its summary; one with scopes is served to callers who
have one of them, and gets the caller; its Structs become schemas, and its problems bring their examples along.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from starlette.responses import Response

from contracts.examples import ORDER_ID
from order_api.http.bodies import JSON
from order_api.http.limits import WINDOW_S
from order_api.http.problems import RETRY_AFTER_S, Code
from order_api.http.request_headers import KEY_HEADER, KEY_PATTERN
from order_api.http.tokens import Scope

HTML: Final = "text/html; charset=utf-8"
TEXT: Final = "text/plain"


class Header(NamedTuple):
    """A header of an answer. One that is `certain` is there whenever an answer names it."""

    meaning: str
    schema: Mapping[str, Any]
    example: Any
    certain: bool = True


class Parameter(NamedTuple):
    """A part of a request besides its body. `example` may be a function, called when the document is written."""

    name: str
    place: str
    meaning: str
    schema: Mapping[str, Any]
    example: Any


def idempotency_key(meaning: str, example: str) -> Parameter:
    """Declare the header that makes repeating a request safe; `meaning` says which keys, and what they do."""
    schema = {"type": "string", "pattern": f"^{KEY_PATTERN}$"}
    return Parameter(KEY_HEADER, "header", f"Makes repeating the request safe: {meaning}", schema, example)


class Example(NamedTuple):
    """A body as it is sent, and what it shows."""

    summary: str
    value: Any


Examples = Callable[[], Mapping[str, Example]]
"""Makes examples by their names: when the document is written, and not when a module is imported."""


class Body(NamedTuple):
    """What a request sends."""

    struct: type[msgspec.Struct]
    examples: Examples


class Returns(NamedTuple):
    """What a call answers when all is well. `links`: which member of it is the parameter of which operation."""

    meaning: str
    struct: type[msgspec.Struct] | None = None
    examples: Examples = dict
    headers: tuple[str, ...] = ()
    media_type: str = JSON
    links: Mapping[str, str] = {}


class Operation(NamedTuple):
    """One call. A call without scopes is public; with several, one of them is enough."""

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Returns]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    scopes: tuple[Scope, ...] = ()
    problems: tuple[Code, ...] = ()
    body: Body | None = None
    tag: str = "orders"


Serve = TypeVar("Serve", bound=Callable[..., Awaitable[Response]])


def operation(
    method: str, path: str, name: str, answers: Mapping[int, Returns], **more: Any
) -> Callable[[Serve], Serve]:
    """Declare a method of a class as a route; `more` are the other members of `Operation`."""

    def declare(serve: Serve) -> Serve:
        summary = more.pop("summary", None) or (serve.__doc__ or "").partition("\n")[0].rstrip(".")
        vars(serve)["operation"] = Operation(method, path, name, summary, answers, **more)
        return serve

    return declare


def operations_of(routes: type) -> Iterator[tuple[Operation, str]]:
    """List what a class declares, and the names of its methods."""
    for name, member in vars(routes).items():
        if declared := getattr(member, "__dict__", {}).get("operation"):
            yield declared, name


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0}

HEADERS: Final[dict[str, Header]] = {
    "Location": Header(
        "Where the order is found.", {"type": "string", "format": "uri-reference"}, f"/orders/{ORDER_ID}"
    ),
    "ETag": Header(
        "Names what is answered: an order's version, a price's sequence, or a digest of the body.",
        {"type": "string", "pattern": '^(W/)?"[0-9a-f]+"$'},
        '"4"',
    ),
    "Cache-Control": Header(
        "Who may keep the answer, and for how many seconds without asking again.", _TEXT, "private, no-cache"
    ),
    "Vary": Header("What is kept is for whoever sends the same of these.", _TEXT, "authorization"),
    "Idempotency-Replayed": Header(
        "The keys belong to an order that was accepted before: this is it.", {"const": "true"}, "true", certain=False
    ),
    "Preference-Applied": Header("The wish that was heard.", _TEXT, "wait=10", certain=False),
    "RateLimit-Limit": Header("Requests that the user may send in the window.", _NUMBER, 100, certain=False),
    "RateLimit-Remaining": Header("Requests that are left in it.", _NUMBER, 99, certain=False),
    "RateLimit-Reset": Header("Seconds after which all are free again.", _NUMBER, WINDOW_S, certain=False),
    "RateLimit-Policy": Header("The limit and its window in seconds.", _TEXT, f"100;w={WINDOW_S}", certain=False),
    "Retry-After": Header("Seconds to wait before trying again.", _NUMBER, RETRY_AFTER_S),
    "WWW-Authenticate": Header("What the token lacks (RFC 6750).", _TEXT, 'Bearer realm="orders"'),
    "Upgrade": Header("The protocol that is needed.", {"const": "websocket"}, "websocket"),
    "Allow": Header("The methods that are allowed.", _TEXT, "GET"),
}
LIMIT_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy")
"""Of every call that needs a token, where a limit is set and the token does not act for users."""
PROBLEM_HEADERS: Final[dict[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    426: ("Upgrade",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
ANYWHERE: Final = (
    *(Code.BAD_REQUEST, Code.MISSING_TOKEN, Code.INVALID_TOKEN, Code.INSUFFICIENT_SCOPE, Code.REQUEST_TIMEOUT),
    *(Code.RATE_LIMITED, Code.HEADERS_TOO_LARGE, Code.INTERNAL_ERROR, Code.OVERLOADED, Code.UNAVAILABLE),
)
"""The problems of every call that needs a token."""
