"""Every problem as it may be answered, raised by the functions that raise it in a request where these need no server.

For documents only. A test provokes the problems on a running API and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.examples import ENDPOINT_ID, HOLD_ID, ORDER_ID
from contracts.vocabulary import OrderStatus, ReasonCode
from contracts.webhooks import ENDPOINTS_MAX
from order_api.holds import examples as holds
from order_api.holds.holds import address as address_of_hold
from order_api.holds.holds import ask_release
from order_api.http.bodies import CLOSE
from order_api.http.limits import RETRY_AFTER_S, RateLimit
from order_api.http.problems import Code, Problem
from order_api.http.tokens import Caller, Scope
from order_api.openapi.problem_pages import ProblemExample, ProblemExamples
from order_api.orders.changes.outcomes import refuse_amend_by_status, refuse_unless_resting
from order_api.orders.description.examples import USER_ID, orders_by_status
from order_api.orders.service import address
from order_api.orders.submission import read_body
from order_api.orders.views import refuse_late_cancel

LIMIT_PER_S: Final = 100
OTHER_ORDER_ID: Final = "b7a4e2d0-6c1f-4f3b-8a55-0e9d3c2b1a48"
_ORDER: Final = UUID(ORDER_ID)
_ADDRESS: Final = address(_ORDER)
_SUBMIT: Final = "/orders"
_HOLDS: Final = "/holds"
_HOLD: Final = UUID(HOLD_ID)
_HOLD_ADDRESS: Final = address_of_hold(_HOLD)
_CANCEL: Final = f"{_ADDRESS}/cancel"


@cache
def problem_examples() -> ProblemExamples:
    """Answer every problem once."""
    return {problem.code: _answered(problem, instance) for problem, instance in _problems()}


def _answered(problem: Problem, instance: str) -> ProblemExample:
    answer = problem.response(instance)
    framing = {"content-length", "content-type"}
    headers = {name: value for name, value in answer.headers.items() if name not in framing}
    return ProblemExample(msgspec.json.decode(bytes(answer.body)), headers)


def _problems() -> list[tuple[Problem, str]]:
    orders = {order.status: order for _, order in orders_by_status().values()}
    holder: dict[str, Any] = {"order_id": _ORDER, "order": _ADDRESS}
    belongs = f"it belongs to order {ORDER_ID}"
    return [
        (_raised(lambda: read_body(b'{"asset_id": "BTC", "quantity": 0.01')), _SUBMIT),
        (_raised(lambda: read_body(b'{"asset_id": "BTC", "quantity": 0.01, "side": "BUY"}')), _SUBMIT),
        (Problem(Code.BODY_TOO_LARGE, "at most 16384 bytes are taken", headers=CLOSE), _SUBMIT),
        (Problem(Code.UNSUPPORTED_MEDIA_TYPE), _SUBMIT),
        (Problem(Code.MISSING_TOKEN, headers={"www-authenticate": 'Bearer realm="orders"'}), _ADDRESS),
        (_invalid_token("the token has expired"), _ADDRESS),
        (_raised(lambda: _reader().need(Scope.WRITE)), _SUBMIT),
        (Problem(Code.OTHER_USER), _SUBMIT),
        (Problem(Code.ORIGIN_NOT_ALLOWED), "/ws"),
        (Problem(Code.UPGRADE_REQUIRED), "/ws"),
        (Problem(Code.NOT_FOUND), "/order"),
        (Problem(Code.ORDER_NOT_FOUND), _ADDRESS),
        (Problem(Code.METHOD_NOT_ALLOWED, headers={"allow": "GET"}), _ADDRESS),
        (Problem(Code.IDEMPOTENCY_KEY_REUSED, belongs, **holder), _SUBMIT),
        (Problem(Code.CLIENT_ORDER_ID_REUSED, belongs, **holder), _SUBMIT),
        (Problem(Code.KEYS_DISAGREE, order_ids=[_ORDER, UUID(OTHER_ORDER_ID)]), _SUBMIT),
        (Problem(Code.CANCEL_ALL_KEY_REUSED), "/orders/cancel-all"),
        (_raised(lambda: refuse_late_cancel(orders[OrderStatus.COMPLETED])), _CANCEL),
        (_raised(lambda: refuse_late_cancel(orders[OrderStatus.PROCESSING])), _CANCEL),
        (Problem(Code.ASSET_NOT_FOUND), "/assets/XYZ"),
        (Problem(Code.HOLD_NOT_FOUND), _HOLD_ADDRESS),
        (Problem(Code.HOLD_KEY_REUSED, f"it belongs to hold {HOLD_ID}", hold_id=_HOLD), _HOLDS),
        (Problem(Code.HOLD_CAPTURE_DIFFERS, hold_id=_HOLD), f"{_HOLD_ADDRESS}/capture"),
        (_raised(lambda: ask_release(holds.captured())), f"{_HOLD_ADDRESS}/release"),
        *_problems_of_webhooks(),
        *_problems_of_changes(),
        (Problem(Code.BAD_REQUEST, headers=CLOSE), "/"),
        (Problem(Code.HEADERS_TOO_LARGE, headers=CLOSE), "/"),
        (Problem(Code.REQUEST_TIMEOUT, headers=CLOSE), _SUBMIT),
        (Problem(Code.RATE_LIMITED, headers=_used_up()), _SUBMIT),
        (Problem(Code.TOO_MANY_STREAMS, headers={"retry-after": str(RETRY_AFTER_S)}), "/events"),
        (Problem(Code.OVERLOADED, headers={"retry-after": str(RETRY_AFTER_S)}), _SUBMIT),
        (Problem(Code.NOT_PUBLISHED, instance=_ADDRESS, headers={"location": _ADDRESS}, order_id=_ORDER), _SUBMIT),
        (Problem(Code.UNAVAILABLE), _ADDRESS),
        (Problem(Code.INTERNAL_ERROR), _ADDRESS),
    ]


def _problems_of_webhooks() -> list[tuple[Problem, str]]:
    endpoint_id = UUID(ENDPOINT_ID)
    webhook = f"/webhooks/{ENDPOINT_ID}"
    belongs = f"it belongs to webhook {ENDPOINT_ID}"
    return [
        (Problem(Code.WEBHOOK_NOT_FOUND), webhook),
        (Problem(Code.DELIVERY_NOT_FOUND), webhook),
        (Problem(Code.WEBHOOK_KEY_REUSED, belongs, endpoint_id=endpoint_id), "/webhooks"),
        (Problem(Code.TOO_MANY_WEBHOOKS, f"a user has at most {ENDPOINTS_MAX}"), "/webhooks"),
        (Problem(Code.WEBHOOK_DISABLED, "disabled by its user", endpoint_id=endpoint_id), f"{webhook}/ping"),
        (Problem(Code.WEBHOOKS_OFF), "/webhooks"),
    ]


def _problems_of_changes() -> list[tuple[Problem, str]]:
    processing, pending = (orders_by_status()[name][1] for name in ("processing", "pending"))
    rests: dict[str, Any] = {"order_id": _ORDER, "order_status": OrderStatus.CONFIRMED}
    release = f"{_ADDRESS}/release"
    return [
        (_raised(lambda: refuse_amend_by_status(processing)), _ADDRESS),
        (Problem(Code.VERSION_MISMATCH, "the order's version is 4", order_id=_ORDER), _ADDRESS),
        (_raised(lambda: refuse_unless_resting(pending)), f"{_ADDRESS}/hold"),
        (Problem(Code.HELD_BY_OPERATOR, **rests), release),
        (Problem(Code.TOO_MANY_HOLDS, **rests), f"{_ADDRESS}/hold"),
        (
            Problem(
                Code.RELEASE_REFUSED,
                "the price 47400 meets the trigger already",
                release_refused=ReasonCode.WOULD_TRIGGER_IMMEDIATELY,
                **rests,
            ),
            release,
        ),
        (Problem(Code.OVERTAKEN, "the order is not on hold", **rests), f"{_ADDRESS}/hold"),
    ]


def _used_up() -> dict[str, str]:
    """Ask once more than is allowed."""
    limit = RateLimit(LIMIT_PER_S, clock=lambda: 0.0)
    return [limit.spend(USER_ID) for _ in range(LIMIT_PER_S + 1)][-1].headers


def _reader() -> Caller:
    return Caller(user_id=USER_ID, scopes=frozenset({Scope.READ}), token_id="", expires_at=0)


def _invalid_token(why: str) -> Problem:
    challenge = f'Bearer realm="orders", error="invalid_token", error_description="{why}"'
    return Problem(Code.INVALID_TOKEN, why, headers={"www-authenticate": challenge})


def _raised(refuse: Callable[[], object]) -> Problem:
    try:
        refuse()
    except Problem as problem:
        return problem
    raise AssertionError("an example of a problem is no problem")
