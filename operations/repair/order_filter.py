"""Which orders a repair is about: by id, or by filter. Reads the auditors' views."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final, NamedTuple

from contracts.vocabulary import OrderType
from operations.access.database import rows
from operations.access.errors import WrongRequest
from order_saga.core.phases import RESTING
from order_saga.core.saga import Participant, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sqlalchemy.ext.asyncio import AsyncEngine

PAGE: Final = 1_000
_RESTS: Final = "o.phase IN ({})".format(", ".join(f"'{phase}'" for phase in sorted(RESTING)))
APPLIES_TO: Final = {
    "resume": "o.parked_reason IS NOT NULL",
    "cancel": "o.status IN ('PENDING', 'CONFIRMED')",
    "amend": _RESTS,
    "hold": _RESTS,
    "release": "o.on_hold",
    "ask-again": "o.due_at IS NOT NULL AND o.parked_reason IS NULL",
}
"""What a repair by filter is about; an order that is named by its id is tried, whatever state it is in."""
_MATCHING: Final = """
    FROM audit.orders AS o WHERE {applies} AND o.order_id > $1
        AND ($2 = '' OR o.phase = $2) AND ($3 = '' OR o.user_id = $3) AND ($4 = '' OR o.asset_id = $4)
        AND ($5 = '' OR EXISTS (SELECT FROM audit.questions AS q
            WHERE q.order_id = o.order_id AND q.answer = 'OPEN' AND q.participant = $5))
        AND o.updated_at <= clock_timestamp() - make_interval(secs => $6)
        AND ($7 = '' OR position(lower($7) IN lower(o.parked_reason)) > 0)
        AND ($8 = '' OR o.order_type = $8)
        AND NOT EXISTS (SELECT FROM audit.repairs AS r
            WHERE r.run_id = $9 AND r.action = $10 AND r.item = o.order_id::text)"""
_PAGE: Final = "SELECT o.order_id, o.user_id {matching} ORDER BY o.order_id LIMIT $11"
_COUNT: Final = "SELECT count(*) AS orders {matching}"
_BY_ID: Final = """
    SELECT coalesce(o.user_id, c.user_id) AS user_id
    FROM (VALUES ($1::uuid)) AS wanted (order_id)
    LEFT JOIN audit.orders AS o USING (order_id) LEFT JOIN audit.claims AS c USING (order_id)"""


class OrderFilter(NamedTuple):
    """Which orders; an empty field matches every order."""

    phase: str = ""
    user: str = ""
    asset: str = ""
    waiting_for: str = ""
    older_than_s: float = 0.0
    parked_reason: str = ""
    order_type: str = ""


class ChosenOrder(NamedTuple):
    """An order to repair, and its user; None when no table of ours has the order."""

    order_id: uuid.UUID
    user_id: str | None

    @property
    def name(self) -> str:
        """Name it in results and notes."""
        return str(self.order_id)


def check(wanted: OrderFilter) -> None:
    """Expect a participant, a phase and a type that exist. Raises `WrongRequest`."""
    if wanted.waiting_for and wanted.waiting_for not in set(Participant):
        raise WrongRequest(f"--waiting-for must be one of {', '.join(sorted(Participant))}")
    if wanted.phase and wanted.phase not in set(Phase):
        raise WrongRequest(f"--phase must be one of {', '.join(Phase)}")
    if wanted.order_type and wanted.order_type not in set(OrderType):
        raise WrongRequest(f"--type must be one of {', '.join(OrderType)}")


async def named(engine: AsyncEngine, ids: Iterable[uuid.UUID]) -> AsyncIterator[ChosenOrder]:
    """Find each order by its id, or its claim when the orchestrator has not seen it yet."""
    for order_id in ids:
        [found] = await rows(engine, _BY_ID, order_id)
        yield ChosenOrder(order_id, found["user_id"])


async def matching(engine: AsyncEngine, action: str, wanted: OrderFilter, run_id: str) -> AsyncIterator[ChosenOrder]:
    """Read the orders that match page by page, by id: a run may take hours, and no transaction may.

    Orders that this run has repaired before are left out.
    """
    statement = _PAGE.format(matching=_MATCHING.format(applies=APPLIES_TO[action]))
    after = uuid.UUID(int=0)
    while page := await rows(engine, statement, after, *wanted, run_id, action, PAGE):
        for row in page:
            yield ChosenOrder(row["order_id"], row["user_id"])
        after = page[-1]["order_id"]


async def count(engine: AsyncEngine, action: str, wanted: OrderFilter, run_id: str) -> int:
    """Count the orders that match and that this run has not repaired before."""
    statement = _COUNT.format(matching=_MATCHING.format(applies=APPLIES_TO[action]))
    [found] = await rows(engine, statement, uuid.UUID(int=0), *wanted, run_id, action)
    return int(found["orders"])
