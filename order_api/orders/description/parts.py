"""Parts of declarations that several routes of orders share: parameters and answers."""

from __future__ import annotations

from typing import Final

from contracts.examples import ORDER_ID as EXAMPLE_ID
from contracts.orders import Order
from contracts.terms import FIELDS
from contracts.vocabulary import NAME_LENGTH_MAX, NAME_PATTERN, PATH_NAME_PATTERN, OrderKind
from order_api.http.bodies import BODY_PROBLEMS
from order_api.http.problems import Code
from order_api.http.request_headers import KEY_RULE, WAIT_MAX_S
from order_api.http.tokens import Scope
from order_api.openapi.declarations import Parameter, Returns, idempotency_key
from order_api.openapi.schemas import ORDER_ID as ID_SCHEMA
from order_api.orders.description import examples
from order_api.orders.views import OrderState
from order_api.settings import KEY_KEPT_DAYS

NAME: Final = {"type": "string", "pattern": NAME_PATTERN.replace(r"\Z", "$")}
_TEXT: Final = {"type": "string"}
_PATH_NAME: Final = {"type": "string", "pattern": PATH_NAME_PATTERN.replace(r"\Z", "$"), "maxLength": NAME_LENGTH_MAX}

ORDER_ID: Final = Parameter("order_id", "path", "The order's id, in its canonical text.", ID_SCHEMA, EXAMPLE_ID)
CLIENT_ORDER_ID: Final = Parameter(
    "client_order_id", "path", "The user's own name for the order.", _PATH_NAME, examples.CLIENT_ORDER_ID
)
USER_ID: Final = Parameter(
    "user_id",
    "query",
    f"Whose; left out: the caller's own. Others need `{Scope.ACT_FOR_USERS}` or `{Scope.OPERATE}`.",
    NAME,
    examples.USER_ID,
)
WAIT: Final = Parameter(
    "Prefer",
    "header",
    f"`wait=n` waits up to n seconds, at most {WAIT_MAX_S}. Any other preference is left out (RFC 7240).",
    _TEXT,
    "wait=10",
)
IF_NONE_MATCH: Final = Parameter(
    "If-None-Match",
    "header",
    "The ETag that the caller has: the same is a `304`, and waited out with `wait`.",
    _TEXT,
    '"3"',
)
KEY: Final = idempotency_key(
    f"{KEY_RULE}, another for each order. Kept for at least {KEY_KEPT_DAYS} days,"
    " unless whoever runs the service has set another time; a `client_order_id` is the order's for good.",
    examples.KEY,
)


IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "The ETag that the caller has seen, or several, or `*` for any: when the order's version is none of these, nothing"
    " is changed.",
    _TEXT,
    '"3"',
)
AMEND_KEY: Final = idempotency_key(
    f"{KEY_RULE}, another for each amend of the order. It is the `amend_id`.", examples.AMEND_KEY
)


def _fields(kind: OrderKind, column: int) -> str:
    """List the fields that a kind of order takes besides `quantity`, in words."""
    rules = FIELDS[kind]
    required, optional = rules.required, (*rules.optional, *rules.of_time)
    if kind is OrderKind.TRAILING_STOP:
        trails = ("trail_amount", "trail_bps")
        required, optional = (), tuple(name for name in optional if name not in trails)
        if not column:
            return "one of " + ", ".join(f"`{name}`" for name in trails)
    return ", ".join(f"`{name}`" for name in (optional if column else required)) or "nothing"


READERS: Final = (Scope.READ, Scope.OPERATE)
CANCELLERS: Final = (Scope.WRITE, Scope.OPERATE)

_WAITED_FOR: Final = ("ETag", "Preference-Applied")
_KEPT: Final = (*_WAITED_FOR, "Cache-Control", "Vary")
_CHANGED: Final = ("ETag", "Idempotency-Replayed", "Preference-Applied")
_UNCHANGED: Final = Returns("It is as `If-None-Match` says.", headers=_KEPT)
THE_ORDER: Final = {200: Returns("The order.", Order, examples.every_order, _KEPT), 304: _UNCHANGED}
THE_STATE: Final = {200: Returns("Its state.", OrderState, examples.every_state, _KEPT), 304: _UNCHANGED}
CANCELLED: Final = {
    200: Returns("It is cancelled.", Order, examples.cancelled, _WAITED_FOR),
    202: Returns(
        "The cancel is accepted; the saga decides it.", Order, examples.cancel_requested, ("Preference-Applied",)
    ),
}
WAITING_TEXT: Final = (
    "With `Prefer: wait` it answers when the order has ended; with `If-None-Match` besides, when it has changed."
)
CONDITIONAL_TEXT: Final = (
    "Every order but a MARKET order is conditional. Once its money is held it rests, as CONFIRMED, until a price fires"
    " it, its `expires_at` comes, or it is cancelled; the price that fires it is the price that it fills at. `Prefer:"
    " wait` waits for the end, so of an order that rests it answers `202`. A MARKET order with `queue_when_closed`, for"
    " an asset that is halted or closed, rests until the opening.\n\n"
    "| `order_type` | required | optional |\n| --- | --- | --- |\n"
    + "\n".join(f"| `{kind}_BUY`, `{kind}_SELL` | {_fields(kind, 0)} | {_fields(kind, 1)} |" for kind in OrderKind)
    + "\n\nEvery other field of these is refused by its name."
)
CANCEL_TEXT: Final = (
    "An order can be cancelled until it is filled. Asking again is safe. With `Prefer: wait` it answers when the order"
    " has ended: `200` when the cancel was in time, else `409`."
)
AMENDED: Final = {
    200: Returns("With `Prefer: wait`, or asked again: the new terms are in force.", Order, examples.amended, _CHANGED),
    202: Returns("The amend is accepted; the saga decides it.", Order, examples.amend_requested, _CHANGED),
}
AMEND_TEXT: Final = (
    "Name only what changes; `quantity` is the new whole. The order keeps its id, and its old terms stay in"
    " force until the new ones are, in one step: a refused amend changes nothing. When the new terms need more money it"
    " is held first. An order that is fired, cancelled or expires meanwhile is past it. What the market meets already"
    " fills a LIMIT, and refuses the amend of any other order.\n\nOne amend of an order is under way at a time, and at"
    " most 100 are taken. Give an `Idempotency-Key` and repeat the request as often as you like: it is one amend, whose"
    " `amend_id` is the key, and the answer is what became of it, if that is known. With `Prefer: wait` it answers when"
    " the amend is decided: `200` when it is in force, else `409`. While the order shows another amend, the history"
    " tells of this one."
)
AMEND_PROBLEMS: Final = (
    *(Code.AMEND_REFUSED, Code.VERSION_MISMATCH, Code.IDEMPOTENCY_KEY_REUSED, Code.NOT_PUBLISHED),
    *BODY_PROBLEMS,
)
HELD: Final = {
    200: Returns("It is on hold.", Order, examples.held, _WAITED_FOR),
    202: Returns("The hold is accepted; the saga decides it.", Order, examples.hold_requested, ("Preference-Applied",)),
}
HOLD_TEXT: Final = (
    "Suspends an order that rests: no price fires it until it is released. Its money stays held, it can be amended and"
    " cancelled, and it expires. Asking again is safe. With `Prefer: wait` it answers when it is decided. A hold"
    " by an operator (`orders:operate`) takes the place of its user's, and only an operator can end it."
)
HOLD_PROBLEMS: Final = (Code.ORDER_NOT_RESTING, Code.TOO_MANY_HOLDS, Code.OVERTAKEN, Code.NOT_PUBLISHED)
RELEASED: Final = {
    200: Returns("It is not on hold: it rests, or was filled at once.", Order, examples.released, _WAITED_FOR),
    202: Returns(
        "The release is accepted; the saga decides it.", Order, examples.release_requested, ("Preference-Applied",)
    ),
}
RELEASE_TEXT: Final = (
    "Lets an order rest again as if it were accepted now: prices from before do not count, and a trailing stop begins"
    " anew. A LIMIT that the market meets is filled; any other order is not released into its own trigger: it stays on"
    " hold, and `release_refused` says so. Asking again is safe. With `Prefer: wait` it answers when it is decided."
)
RELEASE_PROBLEMS: Final = (
    *(Code.ORDER_NOT_RESTING, Code.HELD_BY_OPERATOR, Code.RELEASE_REFUSED, Code.OVERTAKEN, Code.NOT_PUBLISHED),
)
CANCEL_PROBLEMS: Final = (Code.ORDER_NOT_CANCELABLE, Code.TOO_LATE_TO_CANCEL, Code.NOT_PUBLISHED)
_SUBMITTED: Final = ("Location", "ETag", "Idempotency-Replayed", "Preference-Applied")
_LINKS: Final = {
    **dict.fromkeys(("readOrder", "readOrderStatus", "readOrderHistory", "cancelOrder"), "order_id"),
    **dict.fromkeys(("amendOrder", "holdOrder", "releaseOrder"), "order_id"),
    **dict.fromkeys(("readOrderByClientId", "cancelOrderByClientId"), "client_order_id"),
    **dict.fromkeys(("amendOrderByClientId", "holdOrderByClientId", "releaseOrderByClientId"), "client_order_id"),
}
SUBMITTED: Final = {
    201: Returns(
        "With `Prefer: wait`: it has ended, one way or another.", Order, examples.ended, _SUBMITTED, links=_LINKS
    ),
    202: Returns("Accepted. From now on `Location` finds it.", Order, examples.accepted, _SUBMITTED, links=_LINKS),
}
