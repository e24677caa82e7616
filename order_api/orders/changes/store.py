"""The SQL of amends, holds and releases. Times are the database's.

It writes `api.amends`, `api.suspensions` and `api.requests`, and reads the views `api.orders` and `api.history`. What
the orchestrator did with a message stands in the order's history, also when that was nothing. So a row is settled when
the history tells of its message, or when its order can't be changed any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.vocabulary import OPERATOR_PREFIX
from order_api.orders.audit_trail import ACCEPTED, Action, Origin
from order_api.orders.publication.messages import Amend, Suspension, Wish
from order_api.orders.publication.unread import GRACE_S, Unread, order_exists
from order_api.orders.store import NOTED
from saga_kit.runtime.transactions import Begins, alone, begin


class Wanted(msgspec.Struct, frozen=True):
    """An amend as it is asked for: `changes` is the canonical text of the new terms."""

    order_id: UUID
    amend_id: str
    user_id: str
    requested_by: str
    expected_versions: Sequence[int] | None
    changes: str


class OpenAmend(NamedTuple):
    """Another amend of the order was not read yet."""

    amend_id: str


class TakenElsewhere(NamedTuple):
    """An amend that did not come by this API has the id."""


class Read(msgspec.Struct, frozen=True):
    """What the orchestrator did with a message, as the order's history has it."""

    kind: str
    why: str | None
    reason_code: str | None
    reason: str | None


class SuspensionState(msgspec.Struct, frozen=True):
    """Who keeps an order on hold, and the last hold or release that the orchestrator has not read yet."""

    held_by: str | None
    open_wish: Wish | None

    @property
    def held_by_operator(self) -> bool:
        """Whether an operator does."""
        return self.held_by is not None and self.held_by.startswith(OPERATOR_PREFIX)


class ChangeStore:
    """Reads and writes changes of orders. Raises what the driver does."""

    def __init__(self, source: AsyncEngine | Begins, *, grace_s: float = GRACE_S) -> None:
        """`grace_s`: the sweeper does not look at a new row for this long, since its request is publishing it."""
        self._source = source
        self._grace_s = grace_s
        self.unread_amends: Unread[Amend] = Unread(
            *(source, "amends", lambda row: Amend(*row), Amend.__struct_fields__[:-1]),
            settled=_AMEND_SETTLED,
            shown=_AMEND_READ,
            key=("order_id", "amend_id"),
            grace_s=grace_s,
        )
        self.unread_suspensions: Unread[Suspension] = Unread(
            *(source, "suspensions", _suspension, Suspension.__struct_fields__[:-1]),
            settled=_WISH_SETTLED,
            shown=_WISH_READ,
            key=("order_id", "requested_by"),
            grace_s=grace_s,
        )

    async def find_amend(self, order_id: UUID, amend_id: str) -> Amend | None:
        """Return an amend that was accepted here."""
        rows = await self._run(_SELECT_AMEND, order_id, amend_id)
        return Amend(*rows[0]) if rows else None

    async def amend(self, wanted: Wanted, origin: Origin) -> Amend | OpenAmend | TakenElsewhere:
        """Commit an amend, unless another one of its order was accepted and not read yet.

        Of two at once one waits for the other, and finds it open. A twin with the same id is returned as it is.
        """
        values = msgspec.structs.astuple(wanted)
        async with begin(self._source) as tx:
            await tx.fetch(_SETTLE_AMENDS, wanted.order_id)
            if await tx.fetch(_HAS_COME, wanted.order_id, wanted.amend_id):
                if twin := await tx.fetch(_SELECT_AMEND, wanted.order_id, wanted.amend_id):
                    return Amend(*twin[0])
                return TakenElsewhere()
            made = await tx.fetch(_INSERT_AMEND, self._grace_s, *values, *msgspec.structs.astuple(origin))
            if made:
                return Amend(*made[0])
            if twin := await tx.fetch(_SELECT_AMEND, wanted.order_id, wanted.amend_id):
                return Amend(*twin[0])
            open_one = await tx.fetch(_SELECT_OPEN_AMEND, wanted.order_id)
            return OpenAmend(open_one[0][0] if open_one else "")

    async def read_amend(self, amend: Amend) -> list[Read]:
        """Return what the history says of an amend, oldest first."""
        rows = await self._run(_READ_AMEND, amend.order_id, amend.amend_id, amend.requested_by, amend.created_at)
        return [Read(*row) for row in rows]

    async def suspension_state(self, order_id: UUID) -> SuspensionState:
        """Return who keeps an order on hold, and what is under way about it."""
        [row] = await self._run(_SELECT_SUSPENSION_STATE, order_id)
        held_by, wish = row
        return SuspensionState(held_by, None if wish is None else Wish(wish))

    async def suspend(self, order_id: UUID, user_id: str, requested_by: str, wish: Wish, origin: Origin) -> Suspension:
        """Commit a wish. Of several of a requester the last stands; the same one, until it was read, keeps its time."""
        asked = (order_id, user_id, requested_by, wish.value, *msgspec.structs.astuple(origin))
        [row] = await self._run(_UPSERT_SUSPENSION, self._grace_s, *asked)
        return _suspension(row)

    async def read_suspension(self, one: Suspension) -> list[Read]:
        """Return what the history says of this very wish, oldest first: its message may have come several times."""
        rows = await self._run(_READ_SUSPENSION, one.order_id, _NAMES[one.wish], one.requested_by, one.created_at)
        return [Read(*row) for row in rows]

    async def _run(self, statement: str, *values: Any) -> list[Any]:
        async with alone(self._source) as tx:
            return await tx.fetch(statement, *values)


def _suspension(row: Sequence[Any]) -> Suspension:
    order_id, user_id, requested_by, wish, created_at = row
    return Suspension(order_id, user_id, requested_by, Wish(wish), created_at)


_NAMES: Final = {Wish.HOLD: "OrderHoldRequested", Wish.RELEASE: "OrderReleaseRequested"}
_AMEND: Final = ", ".join(Amend.__struct_fields__)
_SUSPENSION: Final = ", ".join(Suspension.__struct_fields__)

# Others may send messages with the same id. The orchestrator tells whose it was, and only ours counts. A wish has no
# id: it is told by its time from an earlier one of its requester, which may be read after it was asked for.
_AMEND_READ: Final = """EXISTS (
                SELECT FROM api.history h WHERE h.order_id = c.order_id AND h.name = 'OrderAmendRequested'
                    AND h.detail ->> 'amend_id' = c.amend_id AND h.detail ->> 'requested_by' = c.requested_by
                    AND h.at >= c.created_at)"""
_WISH_READ: Final = """EXISTS (
                SELECT FROM api.history h WHERE h.order_id = c.order_id
                    AND h.name = CASE c.wish WHEN 'hold' THEN 'OrderHoldRequested' ELSE 'OrderReleaseRequested' END
                    AND h.detail ->> 'requested_by' = c.requested_by
                    AND (h.detail ->> 'requested_at')::timestamptz = c.created_at)"""
# Past these statuses nothing can be changed; the row of another user's order is not what was to be changed.
_PAST: Final = order_exists("(o.status NOT IN ('PENDING', 'CONFIRMED') OR o.user_id <> c.user_id)")
_AMEND_SETTLED: Final = f"({_PAST} OR {_AMEND_READ})"
_WISH_SETTLED: Final = f"({_PAST} OR {_WISH_READ})"

_SELECT_AMEND: Final = f"SELECT {_AMEND} FROM api.amends WHERE order_id = $1 AND amend_id = $2"  # noqa: S608 - names are the program's own
_SELECT_OPEN_AMEND: Final = "SELECT amend_id FROM api.amends WHERE order_id = $1 AND NOT settled"
_SETTLE_AMENDS: Final = f"""
    UPDATE api.amends AS c SET settled = true WHERE c.order_id = $1 AND NOT c.settled AND {_AMEND_SETTLED}"""  # noqa: S608 - the same
_HAS_COME: Final = """
    SELECT FROM api.history
    WHERE order_id = $1 AND name = 'OrderAmendRequested' AND kind = 'received' AND detail ->> 'amend_id' = $2 LIMIT 1"""
_INSERT_AMEND: Final = f"""
    WITH made AS (
        INSERT INTO api.amends
            (next_publish_at, order_id, amend_id, user_id, requested_by, expected_versions, changes)
        VALUES (now() + make_interval(secs => $1), $2, $3, $4, $5, $6, $7)
        ON CONFLICT DO NOTHING RETURNING {_AMEND}
    ), noted AS (
        {NOTED} SELECT order_id, '{Action.AMEND}', '{ACCEPTED}', $8, $9, $10, $11 FROM made
    )
    SELECT {_AMEND} FROM made"""  # noqa: S608 - the same
_READ_AMEND: Final = """
    SELECT kind, detail ->> 'why', detail ->> 'reason_code', detail ->> 'reason' FROM api.history
    WHERE order_id = $1 AND detail ->> 'amend_id' = $2 AND at >= $4
        AND (kind = 'amend_refused' OR (name = 'OrderAmendRequested' AND detail ->> 'requested_by' = $3))
    ORDER BY seq"""
_SELECT_SUSPENSION_STATE: Final = f"""
    SELECT (
        SELECT CASE kind WHEN 'held' THEN detail ->> 'requested_by' END FROM api.history
        WHERE order_id = $1 AND kind IN ('held', 'released') ORDER BY seq DESC LIMIT 1
    ), (
        SELECT wish FROM api.suspensions AS c WHERE order_id = $1 AND NOT settled AND NOT {_WISH_SETTLED}
        ORDER BY created_at DESC LIMIT 1)"""  # noqa: S608 - the same
_UPSERT_SUSPENSION: Final = f"""
    WITH noted AS ({NOTED} VALUES ($2, $5, '{ACCEPTED}', $6, $7, $8, $9))
    INSERT INTO api.suspensions AS c (order_id, user_id, requested_by, wish, next_publish_at)
    VALUES ($2, $3, $4, $5, now() + make_interval(secs => $1))
    ON CONFLICT (order_id, requested_by) DO UPDATE SET
        user_id = excluded.user_id, wish = excluded.wish,
        created_at = CASE WHEN NOT c.settled AND NOT {_WISH_READ}
                         AND (c.user_id, c.wish) = (excluded.user_id, excluded.wish)
                     THEN c.created_at ELSE excluded.created_at END,
        settled = false, next_publish_at = excluded.next_publish_at
    RETURNING {_SUSPENSION}"""  # noqa: S608 - the same
_READ_SUSPENSION: Final = """
    SELECT kind, detail ->> 'why', detail ->> 'reason_code', detail ->> 'reason' FROM api.history
    WHERE order_id = $1 AND name = $2 AND detail ->> 'requested_by' = $3
        AND (detail ->> 'requested_at')::timestamptz = $4
    ORDER BY seq"""
