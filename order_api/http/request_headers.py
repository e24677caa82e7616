"""Reads headers of a request: its idempotency key, how long it would wait, which version its client has. Pure.

A preference that can't be understood is ignored, as RFC 7240 demands: it is never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers

from order_api.http.problems import BrokenRule, invalid

KEY_HEADER: Final = "Idempotency-Key"
KEY_PATTERN: Final = r"[\x21-\x7e]{1,255}"
KEY_RULE: Final = "one header of 1 to 255 visible ASCII characters"
WAIT_MAX_S: Final = 30
"""Nobody waits longer than this in one request."""
_KEY: Final = re.compile(KEY_PATTERN)
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_ETAGS: Final = re.compile(r'(?:W/)?"([^"]*)"|(\*)')


def read_wait(headers: Headers) -> int:
    """Read `Prefer: wait=n`: the seconds to wait, at most `WAIT_MAX_S`; 0 when there is no such preference."""
    values = headers.getlist("prefer")
    for preference in ",".join(values).split(",") if values else ():
        name = preference.partition(";")[0].strip()
        if name.partition("=")[0].strip().lower() == "wait":  # of several the first counts
            found = _WAIT.fullmatch(name)
            return min(int(found[1]), WAIT_MAX_S) if found else 0
    return 0


def read_key(headers: Headers) -> str | None:
    """Read `Idempotency-Key`; raise the problem of one that breaks its rule, and of two."""
    values = headers.getlist(KEY_HEADER)
    if not values:
        return None
    if len(values) > 1 or _KEY.fullmatch(values[0]) is None:
        raise invalid(BrokenRule(KEY_HEADER, f"must be {KEY_RULE}", ", ".join(values)))
    return values[0]


def knows(if_none_match: Sequence[str], etag: str) -> bool:
    """Return whether the `If-None-Match` headers hold an entity tag (with its quotes), compared weakly."""
    return any(star or f'"{tag}"' == etag for tag, star in _ETAGS.findall(",".join(if_none_match)))
