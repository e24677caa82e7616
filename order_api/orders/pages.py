"""The pages of a list that goes on behind a place: its parameters `limit` and `cursor`, and how a cursor is written.

A place is the values by which the list is in order: a time first, and a text last.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request

from contracts.vocabulary import check_instant
from order_api.http.problems import BrokenRule, invalid
from order_api.openapi.declarations import Parameter
from order_api.orders.requests import once

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 100
_CURSOR_LENGTH_MAX: Final = 400
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}")

P = TypeVar("P", bound=tuple[Any, ...])


def page_parameters(what: str, cursor: Callable[[], str]) -> tuple[Parameter, Parameter]:
    """Declare both parameters of a list; `cursor` makes an example of one."""
    schema = {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
    return (
        Parameter("limit", "query", f"{what} on a page.", schema, LIMIT_DEFAULT),
        Parameter("cursor", "query", "The `next_cursor` of the page before, as it came.", {"type": "string"}, cursor),
    )


def write_cursor(*place: object) -> str:
    """Write the place of the last of a page, for the page behind it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def read_page(request: Request, kind: type[P], allowed: tuple[str, ...], *broken: BrokenRule) -> tuple[P | None, int]:
    """Read from behind which place on a page is asked for, and how many; raise the problem of all broken rules.

    `kind` is the type of a place. Only the parameters `allowed` may be there; `broken` are rules that others found.
    """
    rule = f"is not a parameter of this list; these are: {', '.join(allowed)}"
    found = [BrokenRule(name, rule) for name in request.query_params if name not in allowed] + [*broken]
    limit, cursor = once(request, "limit", str(LIMIT_DEFAULT)), once(request, "cursor", "")
    if _LIMIT.fullmatch(limit) is None or int(limit) > LIMIT_MAX:
        found.append(BrokenRule("limit", f"must be a whole number from 1 to {LIMIT_MAX}", limit))
    after = _read_cursor(cursor, kind)
    if cursor and after is None:
        found.append(BrokenRule("cursor", "must be the `next_cursor` of the page before", cursor))
    if found:
        raise invalid(*found)
    return after, int(limit)


def _read_cursor(text: str, kind: type[P]) -> P | None:
    """Read a cursor; None for what is none."""
    if not text or len(text) > _CURSOR_LENGTH_MAX:
        return None
    try:
        place: P = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
        if place[0].tzinfo is None or "\0" in place[-1]:
            return None
        check_instant(place[0])
    except (binascii.Error, UnicodeError, ValueError, msgspec.MsgspecError):
        return None
    return place
