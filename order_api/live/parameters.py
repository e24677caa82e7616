"""The parameters of streams: their rules, how they are read, and what the document says of them. Pure."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

from contracts.vocabulary import NAME_PATTERN, NAME_RULE
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.tokens import Caller, Scope
from order_api.live.framing import MARK, VERSION
from order_api.live.service import Wished
from order_api.openapi.declarations import Parameter
from order_api.orders.requests import once, user_of

LAST_EVENT_ID: Final = "Last-Event-ID"
PRICES_MAX: Final = 50
"""Assets whose prices one stream may follow."""
_NAME: Final = re.compile(NAME_PATTERN)
_FLAGS: Final = {"true": True, "false": False}
_TEXT: Final = {"type": "string"}

ALL: Final = Parameter(
    "all",
    "query",
    f"`true`: the orders of all users. Needs `{Scope.OPERATE}`. Nothing is shown first, and whoever comes back is told"
    " of a gap.",
    {"type": "boolean", "default": False},
    example=True,
)
PRICES: Final = Parameter(
    "prices",
    "query",
    f"Assets whose prices come, too, with commas between, at most {PRICES_MAX}.",
    {"type": "string", "maxLength": 4096},
    "BTC,ETH",
)
RESUME: Final = Parameter(
    LAST_EVENT_ID,
    "header",
    "The `id` that the client had last: what has changed since comes first.",
    {"type": "string", "pattern": f"^{MARK.pattern}$"},
    "t1764268229529012",
)
RESUME_VERSION: Final = Parameter(
    LAST_EVENT_ID,
    "header",
    "The version that the client had last: each one after it comes first.",
    {"type": "string", "pattern": f"^{VERSION.pattern}$"},
    "2",
)
ALLOWED: Final = ("user_id", "all", "prices")


def read_wished(request: Request, caller: Caller) -> Wished:
    """Read what a stream is to send; raise the problem of a parameter that breaks its rule, or that is not allowed."""
    if unknown := [name for name in request.query_params if name not in ALLOWED]:
        rule = f"is not a parameter of this stream; these are: {', '.join(ALLOWED)}"
        raise invalid(*(BrokenRule(name, rule) for name in unknown))
    prices, since, own = _read_prices(request), read_mark(request), caller.user_id
    text = once(request, "all", "false")
    if text not in _FLAGS:
        raise invalid(BrokenRule("all", "must be true or false", text))
    if _FLAGS[text]:
        if "user_id" in request.query_params:
            raise invalid(BrokenRule("user_id", "must not come with all=true"))
        caller.need(Scope.OPERATE)
        return Wished(None, prices, since)
    user_id = user_of(request, caller)
    if not caller.sees(user_id):
        raise Problem(Code.OTHER_USER)
    return Wished(user_id, prices, since, None if user_id == own else user_id)


def read_mark(request: Request) -> int | None:
    """Read the mark in `Last-Event-ID`; None when there is no such header, or an empty one."""
    found = _last_id(request, MARK, "must be the id of an event of this stream, as it came")
    return None if found is None else int(found[1])


def read_version(request: Request) -> int | None:
    """Read the version in `Last-Event-ID`; None when there is no such header, or an empty one."""
    found = _last_id(request, VERSION, "must be the version of the order that came last")
    return None if found is None else int(found[0])


def _last_id(request: Request, pattern: re.Pattern[str], rule: str) -> re.Match[str] | None:
    values = request.headers.getlist(LAST_EVENT_ID)
    if values in ([], [""]):
        return None
    found = pattern.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        raise invalid(BrokenRule(LAST_EVENT_ID, rule, ", ".join(values)))
    return found


def _read_prices(request: Request) -> tuple[str, ...]:
    text = once(request, "prices", "")
    assets = tuple(dict.fromkeys(text.split(","))) if text else ()
    if any(_NAME.fullmatch(one) is None for one in assets) or len(assets) > PRICES_MAX:
        rule = f"must be at most {PRICES_MAX} assets with commas between, each {NAME_RULE}"
        raise invalid(BrokenRule("prices", rule, text))
    return assets
