"""What Schemathesis can't know of the API when it makes requests and judges answers. Loaded by `schemathesis.toml`."""

from __future__ import annotations

import re
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Let no request wait for more than a second: Schemathesis calls it an error when its client times out."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "prefer" and isinstance(value, str):
            case.headers[name] = re.sub(r"wait=[0-9]+", "wait=1", value)


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """Write whole numbers without a decimal point: JSON Schema takes 1.0 as an integer, the API does not."""
    if isinstance(body, dict) and isinstance(body.get("slippage_bps"), float) and body["slippage_bps"].is_integer():
        body["slippage_bps"] = int(body["slippage_bps"])
    return body


@schemathesis.check
def fitting_requests_are_refused_only_for_what_no_schema_can_say(_context: Any, response: Any, case: Any) -> None:
    """Allow a 422 for a request that fits the document only when its key was used before or its cursor is invalid."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    problem = response.json()
    fields = [error["field"] for error in problem.get("errors", [])]
    if problem["code"] != "idempotency-key-reused" and fields != ["cursor"]:
        raise AssertionError(f"it fits the document and is refused: {problem}")
