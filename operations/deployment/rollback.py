"""What of the live system could an older version not go on with, or not show? Nothing is changed.

An older version can't tell: it does not know the words of a newer one. So each version knows the words that it has and
a released one lacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from contracts.vocabulary import OrderType
from operations.access.database import connected, stream
from operations.access.errors import WrongRequest
from order_saga.core.phases import TERMINAL
from order_saga.core.saga import Phase


class Words(NamedTuple):
    """Words that came after a release."""

    order_types: frozenset[str] = frozenset()
    phases: frozenset[str] = frozenset()
    reason_codes: frozenset[str] = frozenset()


CAME_AFTER: Final[Mapping[str, Words]] = {
    "0.2.0": Words(
        order_types=frozenset(OrderType) - {OrderType.MARKET_BUY, OrderType.MARKET_SELL},
        phases=frozenset(
            {Phase.ENTRY, Phase.QUEUED, Phase.WORKING, Phase.AMENDING, Phase.REVISING, Phase.RAISING, Phase.LOWERING}
        ),
        reason_codes=frozenset({"UNFILLED", "PRICE_OUT_OF_RANGE", "TOO_MANY_OPEN_ORDERS", "NO_SESSION"}),
    ),
}
"""By release; the oldest is the oldest that can be gone back to. A release without an entry lacks no word."""
_VERSION: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_ORDERS: Final = """
    SELECT ended, count(*) AS number, min(order_id::text) AS example FROM (
        SELECT order_id, order_type, reason_code, phase, phase = ANY(:terminal) AS ended FROM orders.orders
        UNION ALL SELECT order_id, order_type, reason_code, phase, true FROM orders.archive
    ) AS every
    WHERE order_type = ANY(:order_types) OR phase = ANY(:phases) OR reason_code = ANY(:reason_codes)
    GROUP BY ended ORDER BY ended"""
_CLAIMS: Final = """
    SELECT count(*) AS number, min(order_id::text) AS example FROM api.claims AS claim
    WHERE NOT settled AND NOT EXISTS (SELECT FROM orders.orders WHERE orders.order_id = claim.order_id)
        AND convert_from(request, 'UTF8')::jsonb ->> 'order_type' = ANY(:order_types)"""
OPEN: Final = "open: it would stand still, and what comes for it would be a dead letter"
ENDED: Final = "ended: its user's lists, and the order itself, would be answered with 500"
CLAIMED: Final = "accepted and not begun: it would end as INVALID_ORDER"


class Unknown(NamedTuple):
    """Orders that the older version does not know: what would become of them, how many, and one of them."""

    meaning: str
    orders: int
    example: str


async def check_rollback(database_url: str, version: str) -> list[Unknown]:
    """Count the orders of kinds that a released version does not know. Run as the database's owner.

    Raises `WrongRequest` for a version that can't be gone back to, and `Trouble` for a database that can't be reached.
    """
    words = _unknown_to(version)
    asked = {name: sorted(values) for name, values in words._asdict().items()}
    async with connected(database_url) as engine:
        found = [
            Unknown(ENDED if row["ended"] else OPEN, row["number"], row["example"])
            async for row in stream(engine, _ORDERS, **asked, terminal=sorted(TERMINAL))
        ]
        claims = [row async for row in stream(engine, _CLAIMS, order_types=asked["order_types"])]
    return found + [Unknown(CLAIMED, row["number"], row["example"]) for row in claims if row["number"]]


def _unknown_to(version: str) -> Words:
    """Return all words that came after a version."""
    oldest = min(CAME_AFTER, key=_numbers)
    if _VERSION.fullmatch(version) is None or _numbers(version) < _numbers(oldest):
        raise WrongRequest(f"--rollback-to is {version!r}; a released version from {oldest} on is needed")
    later = [words for release, words in CAME_AFTER.items() if _numbers(release) >= _numbers(version)]
    return Words(*(frozenset[str]().union(*found) for found in zip(Words(), *later, strict=True)))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
