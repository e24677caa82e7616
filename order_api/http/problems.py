"""All problems: every way in which a request can fail, in one table, answered as RFC 9457 `application/problem+json`.

A problem's `type` and `code` never change; its `detail` is for people. `Problem` is the one exception
of this room: code that can't serve a request raises it, and the error handler makes the answer of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import quote as escape

import msgspec
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
RETRY_AFTER_S: Final = 2
QUOTED_MAX: Final = 40
"""Characters of a refused value that an error repeats."""
NAME_LENGTH_MAX: Final = 64
"""Characters of a field's name that an error repeats."""
ERRORS_MAX: Final = 15
"""Errors that a problem lists: an answer is no larger than a few requests."""
NAMED_MAX: Final = 5
"""Fields that a problem's `detail` names."""
INSTANCE_LENGTH_MAX: Final = 256
"""Characters of a path that a problem repeats; none of ours is longer."""
_PATH_CHARACTERS: Final = "/!$&'()*+,;=:@"
"""What needs no escape in a path (RFC 3986), besides A-Z, a-z, 0-9 and - . _ ~"""


class Code(StrEnum):
    """The names of all problems; the last part of `type`, too."""

    MALFORMED_JSON = "malformed-json"
    INVALID_REQUEST = "invalid-request"
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    MISSING_TOKEN = "missing-token"  # noqa: S105 - a name
    INVALID_TOKEN = "invalid-token"  # noqa: S105 - a name
    INSUFFICIENT_SCOPE = "insufficient-scope"
    OTHER_USER = "other-user"
    ORIGIN_NOT_ALLOWED = "origin-not-allowed"
    NOT_FOUND = "not-found"
    ORDER_NOT_FOUND = "order-not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    CLIENT_ORDER_ID_REUSED = "client-order-id-reused"
    KEYS_DISAGREE = "keys-disagree"
    CANCEL_ALL_KEY_REUSED = "cancel-all-key-reused"
    ORDER_NOT_CANCELABLE = "order-not-cancelable"
    TOO_LATE_TO_CANCEL = "too-late-to-cancel"
    ASSET_NOT_FOUND = "asset-not-found"
    HOLD_NOT_FOUND = "hold-not-found"
    HOLD_KEY_REUSED = "hold-key-reused"
    HOLD_CAPTURE_DIFFERS = "hold-capture-differs"
    HOLD_NOT_HELD = "hold-not-held"
    WEBHOOK_NOT_FOUND = "webhook-not-found"
    DELIVERY_NOT_FOUND = "delivery-not-found"
    WEBHOOK_KEY_REUSED = "webhook-key-reused"
    TOO_MANY_WEBHOOKS = "too-many-webhooks"
    WEBHOOK_DISABLED = "webhook-disabled"
    WEBHOOKS_OFF = "webhooks-off"
    AMEND_REFUSED = "amend-refused"
    VERSION_MISMATCH = "version-mismatch"
    ORDER_NOT_RESTING = "order-not-resting"
    HELD_BY_OPERATOR = "held-by-operator"
    TOO_MANY_HOLDS = "too-many-holds"
    RELEASE_REFUSED = "release-refused"
    OVERTAKEN = "overtaken"
    BAD_REQUEST = "bad-request"
    HEADERS_TOO_LARGE = "headers-too-large"
    REQUEST_TIMEOUT = "request-timeout"
    UPGRADE_REQUIRED = "upgrade-required"
    RATE_LIMITED = "rate-limited"
    TOO_MANY_STREAMS = "too-many-streams"
    OVERLOADED = "overloaded"
    NOT_PUBLISHED = "not-published"
    UNAVAILABLE = "unavailable"
    INTERNAL_ERROR = "internal-error"


class Kind(NamedTuple):
    """What a problem is: its HTTP status and title, what it tells the caller, when it comes, and what helps.

    `meaning` is the `detail` where there is nothing more precise to say; `members` are the body's own, beyond RFC 9457.
    """

    status: int
    title: str
    meaning: str
    when: str
    remedy: str
    members: tuple[str, ...] = ()


_OUTCOME_UNKNOWN: Final = (
    "The outcome is unknown. `instance` is the order's address: look there first. Sending the same request again with"
    " the same Idempotency-Key or client_order_id is always safe."
)
_LOOK_FIRST: Final = (
    "Wait for the seconds of `Retry-After` if there is one, then `GET` the address in `instance`, or send the very same"
    " request again with its `Idempotency-Key` or `client_order_id`: it makes no second order."
)
_WITHOUT_CHANGE: Final = "Sending it again without a change gets the same answer."

PROBLEMS: Final[dict[Code, Kind]] = {
    Code.MALFORMED_JSON: Kind(
        422,
        "The body is not JSON",
        "`errors` says where the JSON breaks. No order exists.",
        "The body of `POST /orders` is not JSON in UTF-8, or is nested too deep.",
        f"Correct the body. {_WITHOUT_CHANGE}",
        ("errors",),
    ),
    Code.INVALID_REQUEST: Kind(
        422,
        "The request breaks a rule",
        "`errors` lists each field, its rule and what was sent. No order exists.",
        "A field of the body, a parameter or a header is missing, unknown or outside its rule. The most"
        " frequent one is a decimal that is sent as a number and not as a string.",
        f"Correct every field that `errors` lists. {_WITHOUT_CHANGE}",
        ("errors",),
    ),
    Code.BODY_TOO_LARGE: Kind(
        413,
        "The body is too large",
        "An order request is far smaller. No order exists.",
        "The body is longer than the limit that `detail` names (`API_BODY_BYTES_MAX`).",
        f"Send an order of its few fields and nothing else. {_WITHOUT_CHANGE}",
    ),
    Code.UNSUPPORTED_MEDIA_TYPE: Kind(
        415,
        "The body must be application/json",
        "Send `Content-Type: application/json`. No order exists.",
        "`POST /orders` came without `Content-Type`, or with another one.",
        "Send the same body with `Content-Type: application/json`.",
    ),
    Code.MISSING_TOKEN: Kind(
        401,
        "A token is needed",
        "Send `Authorization: Bearer <JWT>`.",
        "A call of `/orders` has no bearer token. Only documentation, health and metrics need none.",
        "Get a token from whoever issues them to you (on the local stack: `order-saga token --user NAME`) and send it"
        " in the header `Authorization`.",
    ),
    Code.INVALID_TOKEN: Kind(
        401,
        "The token is not valid",
        "`detail` says why. Get a new token.",
        "The token has expired or is not valid yet, its signature is wrong, a claim is missing, or it was made for"
        " another issuer or audience.",
        "Get a new token. When a new one is refused too, compare clock, issuer and audience on both sides.",
    ),
    Code.INSUFFICIENT_SCOPE: Kind(
        403,
        "The token does not allow this",
        "`detail` names the scope that it lacks.",
        "Reading needs `orders:read`, submitting, cancelling and changing `orders:write`; an operator's"
        " `orders:operate` reads, cancels and changes any order. Holds of money are for services: `holds:read` and"
        " `holds:write`.",
        "Get a token with the scope that `detail` and the header `WWW-Authenticate` name.",
    ),
    Code.OTHER_USER: Kind(
        403,
        "The order is for another user",
        "Only a token with the scope orders:act-for-users may name another user.",
        "The request names a `user_id` that is not the token's `sub`.",
        "Leave `user_id` out to act for yourself, or use a token with the scope `orders:act-for-users`.",
    ),
    Code.ORIGIN_NOT_ALLOWED: Kind(
        403,
        "Scripts of this origin may not connect",
        "The header `Origin` names another host than the one that is asked.",
        "A browser opens a WebSocket from a page of another host, which `API_CORS_ORIGINS` does not list.",
        "Whoever runs the service may add the page's origin to `API_CORS_ORIGINS`.",
    ),
    Code.NOT_FOUND: Kind(
        404,
        "There is nothing at this address",
        "See /openapi.json for what there is.",
        "No call has this path.",
        "Compare the path with `/docs` or `/openapi.json`.",
    ),
    Code.ORDER_NOT_FOUND: Kind(
        404,
        "No such order",
        "It does not exist, or it is another user's.",
        "No order of the caller has this id; an id that is not a UUID in its canonical text belongs to no order. It"
        " never comes for an order that was accepted here.",
        "Compare the id with `Location` of the answer that accepted the order, and the token's user with the order's.",
    ),
    Code.METHOD_NOT_ALLOWED: Kind(
        405,
        "The method is not allowed here",
        "The header `Allow` lists those that are.",
        "The path exists, but not for this method.",
        "Use a method that `Allow` lists.",
    ),
    Code.IDEMPOTENCY_KEY_REUSED: Kind(
        422,
        "The Idempotency-Key was used for something else",
        "`order_id` is the order that has this key, or whose amend has it.",
        "An order that asks for something else was accepted with this `Idempotency-Key` before, or another amend of the"
        " same order was. The same again, be it `1.0` or `1.00`, would have been answered with the first one.",
        "Use a new key for each order and for each amend. To look at the first order, follow `order`.",
        ("order_id", "order"),
    ),
    Code.CLIENT_ORDER_ID_REUSED: Kind(
        409,
        "The client_order_id was used for another order",
        "`order_id` is the order that has this client order id.",
        "The same user has an order with this `client_order_id` that asks for something else.",
        "Use a new `client_order_id` for each order. To look at the first order, follow `order`.",
        ("order_id", "order"),
    ),
    Code.KEYS_DISAGREE: Kind(
        409,
        "The keys belong to two different orders",
        "`order_ids` names both.",
        "The `Idempotency-Key` belongs to one order of the user and the `client_order_id` to another.",
        "Look at both orders; then repeat the one you mean with its own two keys, or use two new keys for a new order.",
        ("order_ids",),
    ),
    Code.CANCEL_ALL_KEY_REUSED: Kind(
        422,
        "The Idempotency-Key was used for a cancel of other orders",
        "Nothing is cancelled by this request.",
        "A cancel of all orders with other filters was accepted with this `Idempotency-Key` before.",
        "Use a new key for each cancel of all orders. The same request again, with its own key, is always safe.",
    ),
    Code.ORDER_NOT_CANCELABLE: Kind(
        409,
        "The order has ended",
        "It is COMPLETED or FAILED; `order_status` says which.",
        "A cancel came after the order had ended. One that is `CANCELLED` already is a `200`.",
        "There is nothing left to cancel. A position that is not wanted is left by an order the other way.",
        ("order_id", "order_status"),
    ),
    Code.TOO_LATE_TO_CANCEL: Kind(
        409,
        "It is too late to cancel",
        "The order is filled and being settled.",
        "A cancel came while the order was `PROCESSING`: it is filled, and settling it can't be undone.",
        "Wait for the order to end. A position that is not wanted is left by an order the other way.",
        ("order_id", "order_status"),
    ),
    Code.ASSET_NOT_FOUND: Kind(
        404,
        "No such asset",
        "It does not exist, or it has no price yet.",
        "No asset has this id; or, for a price, the asset has never had one.",
        "`GET /assets` lists the assets, `GET /prices` those that have a price.",
    ),
    Code.HOLD_NOT_FOUND: Kind(
        404,
        "No such hold",
        "It does not exist, or another service asked for it.",
        "The caller has asked for no hold of this id here. One that was asked for by Kafka is not seen here.",
        "Compare the id with `Location` of the answer that accepted the hold, and the token's `sub` with the service.",
    ),
    Code.HOLD_KEY_REUSED: Kind(
        422,
        "The Idempotency-Key was used for another hold",
        "`hold_id` is the hold that has this key.",
        "The service has asked for a hold of another user, asset, amount or `expires_at` with this key before.",
        "Use a new key for each hold.",
        ("hold_id",),
    ),
    Code.HOLD_CAPTURE_DIFFERS: Kind(
        409,
        "Another capture is under way",
        "A hold is captured once, and another amount or account was asked for before.",
        "A capture of the hold that asks for something else is accepted and not answered yet.",
        "Wait until the hold shows what became of that one. If it was refused, capture again.",
        ("hold_id",),
    ),
    Code.HOLD_NOT_HELD: Kind(
        409,
        "The hold has ended",
        "`hold_status` says how.",
        "A capture came after the hold had ended otherwise, or a release after it was captured.",
        "There is nothing left to capture or to release. Ask for a new hold if the money is still needed.",
        ("hold_id", "hold_status"),
    ),
    Code.WEBHOOK_NOT_FOUND: Kind(
        404,
        "No such webhook",
        "It does not exist, or it is another user's.",
        "No webhook of the caller has this id.",
        "Compare the id with those that `GET /webhooks` lists, and the token's user with the webhook's.",
    ),
    Code.DELIVERY_NOT_FOUND: Kind(
        404,
        "No such delivery",
        "The webhook has none of this id, or it was deleted since.",
        "Nothing with this `webhook-id` was to be sent to this webhook, or it ended long ago and is deleted.",
        "Compare the id with those of the webhook's deliveries. What is deleted there is still found as an order.",
    ),
    Code.WEBHOOK_KEY_REUSED: Kind(
        422,
        "The Idempotency-Key was used for another webhook",
        "`endpoint_id` is the webhook that has this key.",
        "A webhook that asks for something else was made with this `Idempotency-Key` before.",
        "Use a new key for each webhook.",
        ("endpoint_id",),
    ),
    Code.TOO_MANY_WEBHOOKS: Kind(
        409,
        "The user has too many webhooks",
        "No further one is made.",
        "The user has as many endpoints as one may have, of all kinds together.",
        "Delete one that is not needed. One webhook can be told of everything.",
    ),
    Code.WEBHOOK_DISABLED: Kind(
        409,
        "The webhook is disabled",
        "Nothing is sent to it.",
        "A ping, a redelivery or a recovery of a webhook that its user has disabled, or that did nothing but fail.",
        'Enable it with `PATCH` and `{"state": "ACTIVE"}`, then ask again.',
        ("endpoint_id",),
    ),
    Code.WEBHOOKS_OFF: Kind(
        501,
        "Webhooks are not set up here",
        "Whoever runs the service has set no keys for their secrets.",
        "`WEBHOOKS_KEYS` is not set, so no secret can be stored.",
        "Ask whoever runs the service. Until then follow orders by `GET /events`.",
    ),
    Code.AMEND_REFUSED: Kind(
        409,
        "The amend was refused",
        "`amend_refusal` says why. The order's terms are what they were.",
        "An amend of an order that does not rest yet, or no more; or the answer to `Prefer: wait` when the new terms"
        " could not be put in force: their money is not there, the asset's rules forbid them, the market meets the new"
        " trigger already, or another amend is not decided yet.",
        "Read the order: it shows its last amend and the reason. Send another amend, with a key of its own.",
        ("order_id", "order_status", "amend_refusal"),
    ),
    Code.VERSION_MISMATCH: Kind(
        412,
        "The order has another version",
        "`If-Match` does not name it. Nothing is changed.",
        "An amend came with an `If-Match` that does not name the order's version, which is its `ETag`.",
        "Read the order, decide again, and send the amend with the new `ETag`.",
        ("order_id",),
    ),
    Code.ORDER_NOT_RESTING: Kind(
        409,
        "The order does not rest",
        "`order_status` says where it stands. Nothing is changed.",
        "A hold or a release of an order that does not rest yet, that was fired or has ended, or whose cancel is"
        " accepted.",
        "Of a PENDING order try again when it is CONFIRMED. Of any other one nothing is left to be held or released.",
        ("order_id", "order_status"),
    ),
    Code.HELD_BY_OPERATOR: Kind(
        409,
        "An operator holds the order",
        "Only an operator can release it.",
        "A user would release an order that an operator has put on hold.",
        "Ask whoever runs the service. The order can still be amended and cancelled.",
        ("order_id", "order_status"),
    ),
    Code.TOO_MANY_HOLDS: Kind(
        409,
        "The order was held too often",
        "Its user can put it on hold no more; it goes on resting.",
        "The order was put on hold as often as is allowed.",
        "Cancel the order, and submit it again when it is wanted.",
        ("order_id", "order_status"),
    ),
    Code.RELEASE_REFUSED: Kind(
        409,
        "The order can't be released now",
        "The market meets its trigger already: it stays on hold.",
        "A stop, a take profit or a trailing stop is never released into its own trigger, which it has not seen met.",
        "Amend the trigger, or wait until the market has left it, and release the order again; or cancel it.",
        ("order_id", "order_status", "release_refused"),
    ),
    Code.OVERTAKEN: Kind(
        409,
        "A later request counts",
        "Whoever asked has asked for a hold or a release again since. Nothing is changed.",
        "The answer to `Prefer: wait`, when a hold or a release reached the saga after one that the same requester had"
        " asked for later. `detail` says how the order stands now.",
        "Nothing, if the later request is what is wanted. Else ask again.",
        ("order_id", "order_status"),
    ),
    Code.BAD_REQUEST: Kind(
        400,
        "The request can't be understood",
        "It breaks a rule of HTTP.",
        "The request's first line, its headers or its framing are not HTTP/1.1.",
        f"Use an HTTP library. {_WITHOUT_CHANGE}",
    ),
    Code.HEADERS_TOO_LARGE: Kind(
        431,
        "The headers are too large",
        "The request's first line and headers are longer than is taken here.",
        "A token, a cookie or another header of many thousands of characters came along.",
        f"Leave out what this service does not need. {_WITHOUT_CHANGE}",
    ),
    Code.REQUEST_TIMEOUT: Kind(
        408,
        "The request came too slowly",
        "It was not complete in time. No order exists.",
        "The headers or the body had not arrived when the time for them was over.",
        "Send the request again on a new connection.",
    ),
    Code.UPGRADE_REQUIRED: Kind(
        426,
        "A WebSocket is needed here",
        "This address takes no plain request: the header `Upgrade: websocket` is missing.",
        "`GET /ws` came without the handshake of a WebSocket. Most often a proxy in front has dropped the headers"
        " `Upgrade` and `Connection`.",
        "Use a WebSocket client with the subprotocol `order-saga.v1`, and have the proxy pass these headers on. `GET"
        " /events` has the same events, and needs neither.",
    ),
    Code.RATE_LIMITED: Kind(
        429,
        "Too many requests",
        "The caller has used up what may be asked in this time. Nothing was done.",
        "The caller sent more requests than the header `RateLimit-Policy` allows, or has more connections open than"
        " `API_CONNECTIONS_PER_USER_MAX`.",
        "Wait for the seconds of `Retry-After`, then send the same request again. `RateLimit-Remaining` warns.",
    ),
    Code.TOO_MANY_STREAMS: Kind(
        429,
        "Too many streams",
        "The caller has as many streams open as one user may have at one process.",
        "One more stream was asked for than `API_STREAMS_PER_USER_MAX` allows.",
        "Close a stream that is not needed: one stream carries all orders of a user. A client that comes back after a"
        " failure waits for `Retry-After`; its old stream ends once its connection is known to be gone.",
    ),
    Code.OVERLOADED: Kind(
        503,
        "The service is busy",
        "It takes no more requests at the moment. Nothing was done.",
        "More requests are under way than this process takes at once.",
        "Wait for the seconds of `Retry-After` and a random moment more, then send the same request again.",
    ),
    Code.NOT_PUBLISHED: Kind(
        503,
        "Stored, but not yet passed on",
        "The request is kept and will be passed on as soon as the broker takes it. " + _OUTCOME_UNKNOWN,
        "The order, the cancel or the change is committed, and the broker did not take its message in time.",
        "There is no need to send it again; whoever does makes no second order. `GET` the address in `Location`.",
        ("order_id",),
    ),
    Code.UNAVAILABLE: Kind(
        503,
        "The service can't answer now",
        _OUTCOME_UNKNOWN,
        "The database does not answer, or is too busy to.",
        _LOOK_FIRST,
    ),
    Code.INTERNAL_ERROR: Kind(
        500,
        "Something went wrong here",
        _OUTCOME_UNKNOWN,
        "A fault of the service itself. It is in the service's log with all that is known.",
        _LOOK_FIRST + " When it stays, tell the operator the time and the address.",
    ),
}


class FieldError(msgspec.Struct, frozen=True):
    """One field (or header) that breaks its rule. `got` is what was sent, as JSON and cut short; null: nothing."""

    field: str
    rule: str
    got: str | None = None


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """A request can't be served. `members` extend the body; `instance` is the address of what it is about."""

    def __init__(
        self,
        code: Code,
        detail: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        instance: str | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.instance = instance
        self.members = members

    def response(self, instance: str) -> Response:
        """Make the answer; `instance` is the request's path, used when the problem names no better address."""
        kind = PROBLEMS[self.code]
        body = {
            "type": TYPE_PREFIX + self.code,
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail or kind.meaning,
            "instance": escape((self.instance or instance)[:INSTANCE_LENGTH_MAX], safe=_PATH_CHARACTERS),
            "code": self.code,
            **self.members,
        }
        headers = {"cache-control": "no-store", **self.headers}
        if kind.status == 503:  # noqa: PLR2004 - an HTTP status
            headers.setdefault("retry-after", str(RETRY_AFTER_S))
        return Response(msgspec.json.encode(body), kind.status, headers, MEDIA_TYPE)


class BrokenRule(NamedTuple):
    """A field (or header) that breaks its rule, and what was sent. `repeated`: the value is the last of several."""

    field: str
    rule: str
    value: object = msgspec.UNSET
    repeated: bool = False


def invalid(*broken: BrokenRule) -> Problem:
    """Refuse a request for the fields that break their rules; the first `ERRORS_MAX` are listed."""
    listed = [
        FieldError(one.field[:NAME_LENGTH_MAX], one.rule, None if one.value is msgspec.UNSET else _quote(one))
        for one in broken[:ERRORS_MAX]
    ]
    names = ", ".join(list(dict.fromkeys(error.field for error in listed))[:NAMED_MAX])
    more = f" ({len(broken)} errors)" if len(broken) > NAMED_MAX else ""
    return Problem(Code.INVALID_REQUEST, f"these break their rules: {names}{more}", errors=listed)


def _quote(broken: BrokenRule) -> str:
    """Repeat a refused value as JSON, cut short."""
    try:
        text = msgspec.json.encode(broken.value).decode()
    except RecursionError:  # to write it takes more levels of the stack than to read it
        text = "nested too deep"
    text = text if len(text) <= QUOTED_MAX else text[: QUOTED_MAX - 3] + "..."
    return f"...{text}" if broken.repeated else text
