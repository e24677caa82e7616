"""What a request's headers wish for: to wait (RFC 7240), and to hear only of something new (RFC 9110). Pure.

A preference that can't be understood is left out, as RFC 7240 has it: it was a wish, and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

WAIT_MAX_S: Final = 30
"""Nobody waits longer than this in one request."""
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_ETAGS: Final = re.compile(r'(?:W/)?"([^"]*)"|(\*)')


def read_wait(values: Sequence[str]) -> int:
    """Read the `Prefer` headers: the seconds to wait, at most `WAIT_MAX_S`; 0 when there is no such wish."""
    for preference in ",".join(values).split(","):
        name = preference.partition(";")[0].strip()
        if name.partition("=")[0].strip().lower() == "wait":  # of several the first counts
            found = _WAIT.fullmatch(name)
            return min(int(found[1]), WAIT_MAX_S) if found else 0
    return 0


def knows(values: Sequence[str], etag: str) -> bool:
    """Tell whether the `If-None-Match` headers hold an entity tag (with its quotes), compared weakly."""
    return any(star or f'"{tag}"' == etag for tag, star in _ETAGS.findall(",".join(values)))
