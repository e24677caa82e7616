"""Makes requests of arguments: bodies, queries and the headers of keys, versions and waiting. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from contracts import codec
from contracts.decimals import format_decimal
from contracts.envelope import format_time
from order_client.core import KEY_HEADER, Request

WAIT_MAX_S: Final = 30
"""The API lets no request wait longer."""
_AMOUNTS: Final = frozenset({"amount", "limit_price", "price", "quantity", "trail_amount", "trigger_price"})
"""Fields that are decimals on the wire, and so texts."""


def get(path: str, query: Mapping[str, Any] | None = None, **headers: str) -> Request:
    """Make a request that reads."""
    return Request("GET", path, _query(query or {}), headers)


def request(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    query: Mapping[str, Any] | None = None,
    key: str | None = None,
    wait_s: float | None = None,
    if_version: int | None = None,
) -> Request:
    """Make a request that changes something. Raises `TypeError` and `ValueError` for what is no value of the wire."""
    headers = {} if key is None else {KEY_HEADER: key}
    if if_version is not None:
        headers["if-match"] = f'"{if_version}"'
    content = None if body is None else codec.encode({name: _value(name, one) for name, one in _given(body)})
    if content is not None:
        headers["content-type"] = "application/json"
    return waiting(Request(method, path, _query(query or {}), headers, content), wait_s)


def waiting(asked: Request, wait_s: float | None, unless_version: int | None = None) -> Request:
    """Have a request wait; with a version, until the order has another one. The API counts whole seconds."""
    headers = dict(asked.headers)
    seconds = 0 if wait_s is None else min(WAIT_MAX_S, math.ceil(wait_s))
    if seconds > 0:
        headers["prefer"] = f"wait={seconds}"
    if unless_version is not None:
        headers["if-none-match"] = f'"{unless_version}"'
    return Request(asked.method, asked.path, asked.query, headers, asked.body, max(0, seconds))


def new_key(key: str | None) -> str:
    """Return the caller's idempotency key, or a new one."""
    return key or str(uuid.uuid4())


def segment(name: object) -> str:
    """Write a part of a path."""
    return quote(str(name), safe="")


def _given(fields: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in fields.items() if value is not None)


def _query(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, _text(name, one))
        for name, value in _given(fields)
        for one in (value if isinstance(value, list | tuple) else (value,))
    )


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(_value(name, value))


def _value(name: str, value: Any) -> Any:
    """Give a value as the wire has it: amounts and times are texts."""
    if isinstance(value, float):
        raise TypeError(f"{name} is a float, which is not exact; give a Decimal, or a text such as '0.01'")
    if isinstance(value, Decimal):
        return format_decimal(value)
    if name in _AMOUNTS and isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name} has no time zone; give a datetime with one, such as datetime.now(UTC)")
        return format_time(value)
    return value
