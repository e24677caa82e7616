"""Every way in which a request can fail, in one table, told as RFC 9457 `application/problem+json`.

A problem's `type` and `code` never change; its `detail` is for people. `Problem` is the room's one exception: whoever
finds that a request can't be served raises it, and the door turns it into the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
RETRY_AFTER_S: Final = 2
QUOTED_MAX: Final = 40
"""Characters of a refused value that an error repeats."""


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
    NOT_FOUND = "not-found"
    ORDER_NOT_FOUND = "order-not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    CLIENT_ORDER_ID_REUSED = "client-order-id-reused"
    KEYS_DISAGREE = "keys-disagree"
    ORDER_NOT_CANCELABLE = "order-not-cancelable"
    TOO_LATE_TO_CANCEL = "too-late-to-cancel"
    BAD_REQUEST = "bad-request"
    NOT_PUBLISHED = "not-published"
    UNAVAILABLE = "unavailable"
    INTERNAL_ERROR = "internal-error"


class Kind(NamedTuple):
    """A problem's HTTP status, its title, and what it means for the caller."""

    status: int
    title: str
    meaning: str


_OUTCOME_UNKNOWN: Final = (
    "The outcome is unknown. `instance` is the order's address: look there first. Sending the same request again with"
    " the same Idempotency-Key or client_order_id is always safe."
)

PROBLEMS: Final[dict[Code, Kind]] = {
    Code.MALFORMED_JSON: Kind(422, "The body is not JSON", "`errors` says where the JSON breaks. No order exists."),
    Code.INVALID_REQUEST: Kind(
        422, "The request breaks a rule", "`errors` lists each field, its rule and what was sent. No order exists."
    ),
    Code.BODY_TOO_LARGE: Kind(413, "The body is too large", "An order request is far smaller. No order exists."),
    Code.UNSUPPORTED_MEDIA_TYPE: Kind(
        415, "The body must be application/json", "Send `Content-Type: application/json`. No order exists."
    ),
    Code.MISSING_TOKEN: Kind(401, "A token is needed", "Send `Authorization: Bearer <JWT>`."),
    Code.INVALID_TOKEN: Kind(401, "The token is not valid", "`detail` says why. Get a new token."),
    Code.INSUFFICIENT_SCOPE: Kind(403, "The token does not allow this", "`detail` names the scope that it lacks."),
    Code.OTHER_USER: Kind(
        403, "The order is for another user", "Only a token with the scope orders:act-for-users may name another user."
    ),
    Code.NOT_FOUND: Kind(404, "There is nothing at this address", "See /openapi.json for what there is."),
    Code.ORDER_NOT_FOUND: Kind(404, "No such order", "It does not exist, or it is another user's."),
    Code.METHOD_NOT_ALLOWED: Kind(405, "The method is not allowed here", "The header `Allow` lists those that are."),
    Code.IDEMPOTENCY_KEY_REUSED: Kind(
        422, "The Idempotency-Key was used for another order", "`order_id` is the order that has this key."
    ),
    Code.CLIENT_ORDER_ID_REUSED: Kind(
        409, "The client_order_id was used for another order", "`order_id` is the order that has this client order id."
    ),
    Code.KEYS_DISAGREE: Kind(409, "The keys belong to two different orders", "`order_ids` names both."),
    Code.ORDER_NOT_CANCELABLE: Kind(409, "The order has ended", "It is COMPLETED or FAILED; `status` says which."),
    Code.TOO_LATE_TO_CANCEL: Kind(409, "It is too late to cancel", "The order is filled and being settled."),
    Code.BAD_REQUEST: Kind(400, "The request can't be understood", "It breaks a rule of HTTP."),
    Code.NOT_PUBLISHED: Kind(
        503,
        "Stored, but not yet passed on",
        "The request is kept and will be passed on as soon as the broker takes it. " + _OUTCOME_UNKNOWN,
    ),
    Code.UNAVAILABLE: Kind(503, "The service can't answer now", _OUTCOME_UNKNOWN),
    Code.INTERNAL_ERROR: Kind(500, "Something went wrong here", _OUTCOME_UNKNOWN),
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
            "instance": self.instance or instance,
            "code": self.code,
            **self.members,
        }
        headers = {"cache-control": "no-store", **self.headers}
        if kind.status == 503:  # noqa: PLR2004 - an HTTP status
            headers.setdefault("retry-after", str(RETRY_AFTER_S))
        return Response(msgspec.json.encode(body), kind.status, headers, MEDIA_TYPE)


def invalid(*errors: FieldError) -> Problem:
    """Refuse a request for the fields that break their rules."""
    names = ", ".join(dict.fromkeys(error.field for error in errors))
    return Problem(Code.INVALID_REQUEST, f"these break their rules: {names}", errors=errors)


def quote(value: object) -> str:
    """Repeat a refused value as JSON, cut short."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= QUOTED_MAX else text[: QUOTED_MAX - 3] + "..."
