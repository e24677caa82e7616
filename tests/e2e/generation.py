"""What Schemathesis can't know of the API when it makes requests and judges answers. Loaded by `schemathesis.toml`."""

from __future__ import annotations

import re
from typing import Any

import schemathesis

_TERMS = frozenset(
    {
        "price",
        "slippage_bps",
        "limit_price",
        "trigger_price",
        "trail_amount",
        "trail_bps",
        "time_in_force",
        "expires_at",
    }
    | {"queue_when_closed"}
)

_BEYOND_SCHEMAS = frozenset({"url", "since", "code", "email", "push", "webhook"})
"""Which URLs are allowed depends on settings and on the resolver; times, on the clock; codes, on what was sent; and a
channel may not be set up."""
_USED_BEFORE = frozenset({"idempotency-key-reused", "cancel-all-key-reused", "hold-key-reused", "webhook-key-reused"})


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Let no request wait for more than a second: Schemathesis calls it an error when its client times out."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "prefer" and isinstance(value, str):
            case.headers[name] = re.sub(r"wait=[0-9]+", "wait=1", value)


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Write whole numbers without a decimal point: JSON Schema takes 1.0 as an integer, the API does not."""
    if isinstance(body, dict):
        for name in ("slippage_bps", "trail_bps", "timeout_s"):
            if isinstance(body.get(name), float) and body[name].is_integer():
                body[name] = int(body[name])
    return body


@schemathesis.check
def fitting_requests_are_refused_only_for_what_no_schema_can_say(_context: Any, response: Any, case: Any) -> None:
    """Allow a 422 for a request that fits the document when its key was used before or its cursor is invalid.

    And when an amend changes nothing, or when fields do not go together, each one being good: a schema that told
    this would be none to generators of clients. So would one that told the time.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    problem = response.json()
    fields = [error["field"] for error in problem.get("errors", [])]
    of_terms = bool(fields) and (_TERMS.issuperset(fields) or _BEYOND_SCHEMAS.issuperset(fields))
    # What is held, the document can't know.
    of_hold = fields == ["amount"] and case.operation.path == "/holds/{hold_id}/capture"
    used_before = problem["code"] in _USED_BEFORE
    if not used_before and not of_hold and fields not in (["cursor"], ["body"], ["side"]) and not of_terms:
        raise AssertionError(f"it fits the document and is refused: {problem}")
