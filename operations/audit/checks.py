"""All checks of the audit: by order and in total, for a ledger that can be read or not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from operations.audit.ledger import OWN
from operations.audit.order_checks import ORDER_LOOKS
from operations.audit.total_checks import TOTAL_LOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from operations.audit.query import AuditLook

LOOKS: Final = (*ORDER_LOOKS, *TOTAL_LOOKS)
CHECKS: Final = tuple(check for look in LOOKS for check in look.checks)


def looks(ledger: str | None) -> Iterator[AuditLook]:
    """Give the looks for a ledger whose views are in this schema; None: it can't be read."""
    for look in LOOKS:
        checks = tuple(
            check
            for check in look.checks
            if (ledger is not None or not check.of_ledger) and (ledger == OWN or not check.of_reference)
        )
        if ledger is None:
            rows = look.rows.replace("{holds}", "false").replace("{journal}", "false")
        else:
            rows = _LEDGER.sub(rf"{ledger}.\1", look.rows)
        if checks:
            yield look._replace(checks=checks, rows=rows)


_LEDGER: Final = re.compile(r"\baudit\.(holds|accounts|journal)\b")
