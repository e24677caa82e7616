"""The table of all calls: what each asks for, what it answers, and which problems it may have.

It says nothing that the routes do not do: a test compares the calls with the routes, and another one sends thousands of
requests made from this table and looks for an answer that is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from contracts.examples import ORDER_ID
from contracts.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN, PATH_NAME_PATTERN, OrderStatus, OrderType
from order_api.http.bodies import JSON
from order_api.http.limits import WINDOW_S
from order_api.http.problems import RETRY_AFTER_S, Code
from order_api.http.request_headers import KEY_HEADER, KEY_RULE, WAIT_MAX_S
from order_api.http.tokens import Scope
from order_api.openapi.examples import CLIENT_ORDER_ID, KEY, USER_ID, example_cursor
from order_api.openapi.schemas import ORDER_ID as ORDER_ID_SCHEMA
from order_api.openapi.schemas import TIME, Index, Liveness, ReadinessReport, reference
from order_api.orders.listing import LIMIT_DEFAULT, LIMIT_MAX, Page
from order_api.orders.routes import History, OrderState
from order_api.orders.submission import KEY_KEPT_DAYS, OrderBody

HTML: Final = "text/html; charset=utf-8"
TEXT: Final = "text/plain"
SEQ_MAX: Final = 999_999_999


class Header(NamedTuple):
    """A header of an answer. One that is `certain` is there whenever the table names it."""

    meaning: str
    schema: Mapping[str, Any]
    example: Any
    certain: bool = True


class Parameter(NamedTuple):
    """A part of a request besides its body."""

    name: str
    place: str
    meaning: str
    schema: Mapping[str, Any]
    example: Any


class Answer(NamedTuple):
    """What a call answers when all is well: its schema, its headers, and the names of its examples."""

    meaning: str
    schema: str | None = None
    headers: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    media_type: str = JSON
    leads_to_order: bool = False


class Operation(NamedTuple):
    """One call. A call without scopes is public; with several, one of them is enough."""

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    scopes: tuple[Scope, ...] = ()
    problems: tuple[Code, ...] = ()
    body: str | None = None
    tag: str = "orders"


TAGS: Final = {
    "orders": "Submit orders, follow them, cancel them.",
    "documentation": "What this is, for people and for programs. Public.",
    "operation": "For whoever runs the service. Public, so do not let the world in.",
}

_TEXT: Final = {"type": "string"}
_NAME: Final = {"type": "string", "pattern": NAME_PATTERN.replace(r"\Z", "$")}
_PATH_NAME: Final = {"type": "string", "pattern": PATH_NAME_PATTERN.replace(r"\Z", "$"), "maxLength": NAME_LENGTH_MAX}
_NUMBER: Final = {"type": "integer", "minimum": 0}

HEADERS: Final[dict[str, Header]] = {
    "Location": Header(
        "Where the order is found.", {"type": "string", "format": "uri-reference"}, f"/orders/{ORDER_ID}"
    ),
    "ETag": Header("The order's version.", {"type": "string", "pattern": '^"[0-9]+"$'}, '"4"'),
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
    "Allow": Header("The methods that are allowed.", _TEXT, "GET"),
}
LIMIT_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy")
"""Of every call that needs a token, where a limit is set and the token does not act for users."""
PROBLEM_HEADERS: Final[dict[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}

_ORDER_ID: Final = Parameter("order_id", "path", "The order's id, in its canonical text.", ORDER_ID_SCHEMA, ORDER_ID)
_CLIENT_ORDER_ID: Final = Parameter(
    "client_order_id", "path", "The user's own name for the order.", _PATH_NAME, CLIENT_ORDER_ID
)
_USER_ID: Final = Parameter(
    "user_id",
    "query",
    f"Whose; left out: the caller's own. Others need `{Scope.ACT_FOR_USERS}` or `{Scope.OPERATE}`.",
    _NAME,
    USER_ID,
)
_WAIT: Final = Parameter(
    "Prefer",
    "header",
    f"`wait=n` waits up to n seconds, at most {WAIT_MAX_S}. Any other preference is left out (RFC 7240).",
    _TEXT,
    "wait=10",
)
_IF_NONE_MATCH: Final = Parameter(
    "If-None-Match",
    "header",
    "The ETag that the caller has: the same is a `304`, and waited out with `wait`.",
    _TEXT,
    '"3"',
)
_KEY: Final = Parameter(
    KEY_HEADER,
    "header",
    f"Makes repeating the request safe: {KEY_RULE}, another for each order. Kept for at least {KEY_KEPT_DAYS} days,"
    " unless whoever runs the service has set another time; a `client_order_id` is the order's for good.",
    {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"},
    KEY,
)
_AFTER: Final = Parameter(
    "after",
    "query",
    "Show what came after this `seq`.",
    {"type": "integer", "minimum": 0, "maximum": SEQ_MAX, "default": 0},
    0,
)
_LIST: Final = (
    Parameter(
        "status",
        "query",
        "Only these statuses; may come repeatedly.",
        {"type": "array", "items": reference(OrderStatus.__name__)},
        ["PENDING", "CONFIRMED"],
    ),
    Parameter(
        "open",
        "query",
        "`true`: only orders that have not ended; `false`: only those that have.",
        {"type": "boolean"},
        example=True,
    ),
    Parameter("asset_id", "query", "Only this asset.", _NAME, "BTC"),
    Parameter("order_type", "query", "Only this type.", reference(OrderType.__name__), "MARKET_BUY"),
    Parameter("created_from", "query", "Only orders accepted at this time or later.", TIME, "2026-03-02T00:00:00Z"),
    Parameter("created_to", "query", "Only orders accepted before this time.", TIME, "2026-03-03T00:00:00Z"),
    Parameter(
        "limit",
        "query",
        "Orders on a page.",
        {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
        LIMIT_DEFAULT,
    ),
    Parameter("cursor", "query", "The `next_cursor` of the page before, as it came.", _TEXT, example_cursor()),
    _USER_ID,
)

_READERS: Final = (Scope.READ, Scope.OPERATE)
_CANCELLERS: Final = (Scope.WRITE, Scope.OPERATE)
_STATUSES: Final = ("pending", "confirmed", "processing", "completed", "cancelled", "failed")
_STATES: Final = tuple(f"state {status}" for status in _STATUSES)
_WAITED_FOR: Final = ("ETag", "Preference-Applied")
_UNCHANGED: Final = Answer("It is as `If-None-Match` says.", headers=_WAITED_FOR)
_THE_ORDER: Final = {200: Answer("The order.", "Order", _WAITED_FOR, _STATUSES), 304: _UNCHANGED}
_THE_STATE: Final = {200: Answer("Its state.", OrderState.__name__, _WAITED_FOR, _STATES), 304: _UNCHANGED}
_WAITING_TEXT: Final = (
    "With `Prefer: wait` it answers when the order has ended; with `If-None-Match` besides, when it has changed."
)
_CANCEL_ANSWERS: Final = {
    200: Answer("It is cancelled.", "Order", ("ETag", "Preference-Applied"), ("cancelled",)),
    202: Answer(
        "The cancel is accepted; the saga decides it.", "Order", ("Preference-Applied",), ("cancel requested",)
    ),
}
_CANCEL_PROBLEMS: Final = (Code.ORDER_NOT_CANCELABLE, Code.TOO_LATE_TO_CANCEL, Code.NOT_PUBLISHED)
_CANCEL_TEXT: Final = (
    "An order can be cancelled until it is filled. Asking again is safe. With `Prefer: wait` it answers when the order"
    " has ended: `200` when the cancel was in time, else `409`."
)
_READINESS: Final = {
    200: Answer("Every check is ok.", ReadinessReport.__name__, (), ("ready",)),
    503: Answer("A check is not ok.", ReadinessReport.__name__, (), ("not ready",)),
}

ANYWHERE: Final = (
    *(Code.BAD_REQUEST, Code.MISSING_TOKEN, Code.INVALID_TOKEN, Code.INSUFFICIENT_SCOPE, Code.REQUEST_TIMEOUT),
    *(Code.RATE_LIMITED, Code.HEADERS_TOO_LARGE, Code.INTERNAL_ERROR, Code.OVERLOADED, Code.UNAVAILABLE),
)
"""The problems of every call that needs a token."""

OPERATIONS: Final = (
    Operation(
        "post",
        "/orders",
        "submitOrder",
        "Submit an order",
        {
            201: Answer(
                "With `Prefer: wait`: it has ended, one way or another.",
                "Order",
                ("Location", "ETag", "Idempotency-Replayed", "Preference-Applied"),
                ("completed", "failed", "cancelled"),
                leads_to_order=True,
            ),
            202: Answer(
                "Accepted. From now on `Location` finds it.",
                "Order",
                ("Location", "ETag", "Idempotency-Replayed", "Preference-Applied"),
                ("accepted",),
                leads_to_order=True,
            ),
        },
        "Give an `Idempotency-Key`, a `client_order_id` or both, and repeat the request as often as you like: the same"
        " order is answered, with `Idempotency-Replayed: true`. What breaks a rule of this document is a `422`, and no"
        " order exists; what only the asset's rules can tell (step, tick, limits) ends the order FAILED with a reason.",
        (_KEY, _WAIT),
        (Scope.WRITE,),
        (
            *(Code.OTHER_USER, Code.CLIENT_ORDER_ID_REUSED, Code.KEYS_DISAGREE, Code.BODY_TOO_LARGE),
            *(Code.UNSUPPORTED_MEDIA_TYPE, Code.MALFORMED_JSON, Code.INVALID_REQUEST, Code.IDEMPOTENCY_KEY_REUSED),
            Code.NOT_PUBLISHED,
        ),
        OrderBody.__name__,
    ),
    Operation(
        "get",
        "/orders",
        "listOrders",
        "List orders",
        {200: Answer("A page of them, newest first.", Page.__name__, (), ("page", "last page", "no order"))},
        "An order keeps its place, so that whoever follows `next_cursor` sees every order once.",
        _LIST,
        _READERS,
        (Code.OTHER_USER, Code.INVALID_REQUEST),
    ),
    Operation(
        "get",
        "/orders/{order_id}",
        "readOrder",
        "Read an order",
        _THE_ORDER,
        f"Never a `404` for an order that was accepted here. Another user's order does not exist. {_WAITING_TEXT}",
        (_ORDER_ID, _WAIT, _IF_NONE_MATCH),
        _READERS,
        (Code.ORDER_NOT_FOUND,),
    ),
    Operation(
        "get",
        "/orders/by-client-id/{client_order_id}",
        "readOrderByClientId",
        "Read an order by the user's own name for it",
        _THE_ORDER,
        _WAITING_TEXT,
        (_CLIENT_ORDER_ID, _USER_ID, _WAIT, _IF_NONE_MATCH),
        _READERS,
        (Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST),
    ),
    Operation(
        "get",
        "/orders/{order_id}/status",
        "readOrderStatus",
        "Read what changes about an order",
        _THE_STATE,
        _WAITING_TEXT,
        (_ORDER_ID, _WAIT, _IF_NONE_MATCH),
        _READERS,
        (Code.ORDER_NOT_FOUND,),
    ),
    Operation(
        "get",
        "/orders/{order_id}/history",
        "readOrderHistory",
        "Read what happened to an order",
        {200: Answer("A page of its history.", History.__name__, (), ("history",))},
        "Every status, question, answer and ignored reply, with times and reasons; the next page begins after the last"
        " `seq`.",
        (_ORDER_ID, _AFTER),
        _READERS,
        (Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST),
    ),
    Operation(
        "put",
        "/orders/{order_id}/cancel",
        "cancelOrder",
        "Cancel an order",
        _CANCEL_ANSWERS,
        _CANCEL_TEXT,
        (_ORDER_ID, _WAIT),
        _CANCELLERS,
        (Code.ORDER_NOT_FOUND, *_CANCEL_PROBLEMS),
    ),
    Operation(
        "put",
        "/orders/by-client-id/{client_order_id}/cancel",
        "cancelOrderByClientId",
        "Cancel an order by the user's own name for it",
        _CANCEL_ANSWERS,
        _CANCEL_TEXT,
        (_CLIENT_ORDER_ID, _USER_ID, _WAIT),
        _CANCELLERS,
        (Code.ORDER_NOT_FOUND, Code.INVALID_REQUEST, *_CANCEL_PROBLEMS),
    ),
    Operation(
        "get",
        "/",
        "readIndex",
        "Where to begin",
        {
            200: Answer(
                "The addresses of the documentation, of the orders and of the health.", Index.__name__, (), ("index",)
            )
        },
        tag="documentation",
    ),
    Operation(
        "get",
        "/openapi.json",
        "readDescription",
        "This document",
        {200: Answer("OpenAPI 3.1.")},
        tag="documentation",
    ),
    Operation(
        "get",
        "/problems/",
        "listProblems",
        "All problems",
        {200: Answer("A page that lists them.", media_type=HTML)},
        tag="documentation",
    ),
    Operation(
        "get",
        "/problems/{code}",
        "readProblem",
        "What a problem means and what helps",
        {200: Answer("A page about it.", media_type=HTML)},
        "The `type` of a problem is the address of its page.",
        (Parameter("code", "path", "The problem's `code`.", reference(Code.__name__), Code.ORDER_NOT_FOUND),),
        problems=(Code.NOT_FOUND,),
        tag="documentation",
    ),
    Operation("get", "/health", "readHealth", "Is it ready", _READINESS, tag="operation"),
    Operation("get", "/health/ready", "readReadiness", "Is it ready", _READINESS, tag="operation"),
    Operation(
        "get",
        "/health/live",
        "readLiveness",
        "Is it alive",
        {200: Answer("It answers.", Liveness.__name__, (), ("alive",))},
        tag="operation",
    ),
    Operation(
        "get",
        "/metrics",
        "readMetrics",
        "Prometheus metrics",
        {200: Answer("All of them.", media_type=TEXT)},
        tag="operation",
    ),
)
