"""The participants' barrier: commands in, however late, repeated or out of order; each hold's effect at most once.

A hold's row is dedupe key, verdict and tombstone in one, and `ACTIONS` is the whole protocol. The barrier knows no
order and no asset: an adapter translates the wire, a ledger keeps what is held (accounts, stock, seats). A batch's rows
are locked in one order everywhere (the ledger's, then the holds by id), folded in memory in message order, and written
once. What was asked before the ledger began (see `ledger_start`) is never executed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from enum import Enum, StrEnum, auto
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, Numeric, Table, Text, func
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.envelope import Envelope
from saga_kit.messaging.batch import Effects, Received, Record
from saga_kit.messaging.outbox import Kept
from saga_kit.participant.ledger_start import LedgerStart, made_at
from saga_kit.runtime.errors import Contention

C = TypeVar("C")

ZERO: Final = Decimal(0)
PLACES_MAX: Final = 18
EXACT: Final = Context(prec=76, traps=[Inexact, InvalidOperation, Overflow])
"""Named in every operation: the default context cuts sums of 18-place numbers at 28 digits."""

HOLD_CONFLICT: Final = "HOLD_CONFLICT"
"""The id is known with another amount, unit or owner, or may be known to another ledger only: nothing changes."""
BEFORE_START: Final = "before_start"
"""Why a command is dropped: it was made before the ledger began."""
CLOSED: Final = "CLOSED"
"""The hold has had its end, so it can't be reserved or refunded any more."""
NOT_HELD: Final = "NOT_HELD"
"""There is nothing to settle, and there never will be."""
EXCEEDS_HOLD: Final = "EXCEEDS_HOLD"
"""More is to be captured than is held: definitely refused, so the hold is refunded."""


class Kind(StrEnum):
    """What a command asks of a hold."""

    RESERVE = "RESERVE"
    REFUND = "REFUND"
    SETTLE = "SETTLE"


class HoldState(StrEnum):
    """The life of a hold. A tombstone is the hold that never was: a refund or a settlement came first."""

    HELD = "HELD"
    SETTLED = "SETTLED"
    REFUNDED = "REFUNDED"
    REFUSED = "REFUSED"
    TOMBSTONE = "TOMBSTONE"


ENDED: Final = (HoldState.SETTLED, HoldState.REFUNDED, HoldState.REFUSED, HoldState.TOMBSTONE)
"""States that have no exit: no command moves anything any more."""


class Action(Enum):
    """What a command makes of a hold."""

    OPEN = auto()
    """Ask the ledger to reserve: HELD or REFUSED."""
    RELEASE = auto()
    """Refund: REFUNDED."""
    CAPTURE = auto()
    """Ask the ledger to settle: SETTLED, or REFUNDED when it definitely refuses."""
    BURY = auto()
    """Leave a tombstone, so that what comes late finds its end."""
    CONFIRM = auto()
    """Say yes again; nothing changes."""
    DENY = auto()
    """Say no; nothing changes."""


ACTIONS: Final[Mapping[tuple[Kind, HoldState | None], Action]] = {
    (Kind.RESERVE, None): Action.OPEN,
    (Kind.RESERVE, HoldState.HELD): Action.CONFIRM,
    (Kind.RESERVE, HoldState.REFUSED): Action.DENY,
    (Kind.RESERVE, HoldState.TOMBSTONE): Action.DENY,
    (Kind.RESERVE, HoldState.REFUNDED): Action.DENY,
    (Kind.RESERVE, HoldState.SETTLED): Action.CONFIRM,
    (Kind.REFUND, None): Action.BURY,
    (Kind.REFUND, HoldState.HELD): Action.RELEASE,
    (Kind.REFUND, HoldState.REFUSED): Action.CONFIRM,
    (Kind.REFUND, HoldState.TOMBSTONE): Action.CONFIRM,
    (Kind.REFUND, HoldState.REFUNDED): Action.CONFIRM,
    (Kind.REFUND, HoldState.SETTLED): Action.DENY,
    (Kind.SETTLE, None): Action.BURY,
    (Kind.SETTLE, HoldState.HELD): Action.CAPTURE,
    (Kind.SETTLE, HoldState.REFUSED): Action.DENY,
    (Kind.SETTLE, HoldState.TOMBSTONE): Action.DENY,
    (Kind.SETTLE, HoldState.REFUNDED): Action.DENY,
    (Kind.SETTLE, HoldState.SETTLED): Action.CONFIRM,
}
"""Total: every command in every state (None: no row)."""


class Refusal(msgspec.Struct, frozen=True):
    """A no: a code of a closed vocabulary and a sentence of at most 500 characters."""

    code: str
    reason: str


class Command(msgspec.Struct, Generic[C], frozen=True):
    """A wire command as the barrier sees it.

    `amount` is always the whole hold, in every kind; a reserved one must be positive (the adapter sees to that).
    `capture` counts in a SETTLE only: the part that does not return to the owner.
    """

    kind: Kind
    hold_id: str
    saga_id: str
    owner: str
    unit: str
    amount: Decimal
    message: C
    capture: Decimal = ZERO
    hold_asked_at: datetime | None = None
    """When the hold was asked for, the first time; None: not told."""


class Hold(msgspec.Struct, frozen=True):
    """What is known under a hold id. `refunded` of a SETTLED hold is what was not captured."""

    hold_id: str
    saga_id: str
    owner: str
    unit: str
    amount: Decimal
    state: HoldState
    captured: Decimal = ZERO
    refunded: Decimal = ZERO
    reason_code: str | None = None
    reason: str | None = None

    @property
    def refusal(self) -> Refusal | None:
        """The ledger's own no, if it said one: to the reservation (REFUSED) or to the settlement (REFUNDED)."""
        return None if self.reason_code is None else Refusal(self.reason_code, self.reason or self.reason_code)


class Ledger(Protocol[C]):
    """What a participant keeps. One instance lives for one try of one batch, so it needs no undoing."""

    async def lock(self, tx: AsyncConnection, commands: Sequence[Command[C]]) -> None:
        """Make, lock and load every row that the commands may touch (both legs of a settlement), in sorted order."""

    def reserve(self, command: Command[C]) -> Refusal | None:
        """Hold the amount, in memory; a refusal changes nothing."""

    def refund(self, command: Command[C], hold: Hold, /) -> None:
        """Give the whole hold back, in memory. The command is a REFUND, or a SETTLE that was refused."""

    def settle(self, command: Command[C], hold: Hold) -> Refusal | None:
        """Capture `command.capture`, return the rest, book the other legs, in memory; a refusal changes nothing."""

    async def save(self, tx: AsyncConnection) -> None:
        """Write each changed row once."""


class Adapter(Protocol[C]):
    """Between the wire and the barrier."""

    @property
    def topics(self) -> Sequence[str]:
        """The topics that commands come by, without the system's prefix."""

    def command(self, envelope: Envelope, record: Record) -> Command[C]:
        """Read one record; raises `UnreadableMessage`."""

    def reply(self, received: Received[Command[C]], hold: Hold, refusal: Refusal | None, at: datetime) -> Kept:
        """Say what came of a command, and when; its kind and whether it was refused tell which reply.

        `hold` is as the command left it.
        """


def apply(command: Command[C], hold: Hold | None, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    """Let one command meet its hold (None: there is no row); return the hold after it and the no, if it is one."""
    if hold is not None and _terms(command) != (hold.owner, hold.unit, hold.amount):
        return hold, Refusal(HOLD_CONFLICT, f"hold {hold.hold_id} is known with another amount, unit or owner")
    action = ACTIONS[command.kind, hold.state if hold is not None else None]
    if hold is None or action in (Action.OPEN, Action.BURY):
        return _begin(command, action, ledger)
    match action:
        case Action.RELEASE:
            ledger.refund(command, hold)
            return msgspec.structs.replace(hold, state=HoldState.REFUNDED, refunded=hold.amount), None
        case Action.CAPTURE:
            return _capture(command, hold, ledger)
        case Action.DENY:
            return hold, _denial(command, hold)
        case Action.CONFIRM:
            return hold, None


def may_be_elsewhere(command: Command[C]) -> tuple[Hold, Refusal]:
    """Answer a command on an unknown hold that was asked for before the ledger began: it may be held in another one.

    Nothing is stored and nothing moves. Whoever asked must not take it for proof that nothing is held, so its hold
    counts as HELD; asked again after the hold was taken over, the command is executed.
    """
    reason = "asked for before this ledger began: the one before must end it, or hand it over"
    return _new(command, HoldState.HELD), Refusal(HOLD_CONFLICT, reason)


class Participant(Generic[C]):
    """A batch handler that answers commands on holds. `ledger` makes a new one for each try."""

    def __init__(self, schema: str, adapter: Adapter[C], ledger: Callable[[], Ledger[C]]) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._holds = Holds(schema)
        self._start = LedgerStart(schema)
        self._began_at: datetime | None = None

    @property
    def topics(self) -> Sequence[str]:
        """The adapter's."""
        return self._adapter.topics

    def decode(self, envelope: Envelope, record: Record) -> Command[C]:
        """Read one command."""
        return self._adapter.command(envelope, record)

    async def prepare(self, tx: AsyncConnection) -> None:
        """Read since when the ledger answers, before the first batch. Raises `CannotStart` when it must not."""
        self._began_at = await self._start.read(tx)

    async def handle(self, tx: AsyncConnection, messages: Sequence[Received[Command[C]]]) -> Effects:
        """Fold the batch in message order; every reply goes through the outbox.

        What was made before the ledger began is dropped without an answer: nobody waits for it, since an open question
        is asked again.
        """
        everything, messages = messages, [received for received in messages if not self._is_older(received)]
        dropped = {BEFORE_START: len(everything) - len(messages)} if len(everything) > len(messages) else {}
        if not messages:
            return Effects(dropped=dropped)
        commands, at = [received.message for received in messages], datetime.now(UTC)
        ledger = self._ledger()
        await ledger.lock(tx, commands)
        known = await self._holds.lock(tx, {command.hold_id for command in commands})
        holds = dict(known)
        replies = []
        for received in messages:
            command = received.message
            if command.hold_id not in holds and self._is_earlier(command.hold_asked_at):
                replies.append(self._adapter.reply(received, *may_be_elsewhere(command), at))
                continue
            hold, refusal = apply(command, holds.get(command.hold_id), ledger)
            holds[command.hold_id] = hold
            replies.append(self._adapter.reply(received, hold, refusal, at))
        await self._holds.save(tx, known, holds)
        await ledger.save(tx)
        return Effects(kept=replies, dropped=dropped)

    def _is_older(self, received: Received[Command[C]]) -> bool:
        return self._began_at is not None and self._is_earlier(made_at(received))

    def _is_earlier(self, at: datetime | None) -> bool:
        return self._began_at is not None and at is not None and at < self._began_at

    async def park(self, tx: AsyncConnection, message: Received[Command[C]], reason: str) -> bool:  # noqa: ARG002
        """Park nothing: a participant has no saga, so a command that can't be handled becomes a dead letter."""
        return False


def holds_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.holds`. The CHECKs are the net under `apply`; `Holds.archive` takes out what is old."""
    return Table(
        "holds",
        metadata,
        *_columns_of_holds(),
        CheckConstraint(f"state IN ({_quoted(HoldState)})", name="holds_state"),
        CheckConstraint("amount >= 0 AND captured >= 0 AND refunded >= 0", name="holds_not_negative"),
        CheckConstraint("captured + refunded <= amount", name="holds_within_amount"),
        CheckConstraint("amount > 0 OR state IN ('REFUSED', 'TOMBSTONE')", name="holds_something"),
        CheckConstraint(
            "CASE state WHEN 'SETTLED' THEN captured + refunded = amount"
            " WHEN 'REFUNDED' THEN captured = 0 AND refunded = amount ELSE captured = 0 AND refunded = 0 END",
            name="holds_end_once",
        ),
        CheckConstraint("state <> 'REFUSED' OR reason_code IS NOT NULL", name="holds_refused_why"),
        schema=schema,
        postgresql_with={"fillfactor": 80},  # a hold is updated once, on the same page
    )


def holds_archive_table(metadata: MetaData, schema: str) -> Table:
    """Describe `<schema>.holds_archive`: holds that ended long ago, for good. A service needs it beside its holds."""
    return Table(
        "holds_archive",
        metadata,
        *_columns_of_holds(),
        CheckConstraint(f"state IN ({_quoted(ENDED)})", name="holds_archive_ended"),
        schema=schema,
    )


def _columns_of_holds() -> list[Column[Any]]:
    amount = Numeric(38, PLACES_MAX)
    return [
        Column("hold_id", Text, primary_key=True),
        Column("saga_id", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("unit", Text, nullable=False),
        Column("amount", amount, nullable=False),
        Column("captured", amount, nullable=False),
        Column("refunded", amount, nullable=False),
        Column("state", Text, nullable=False),
        Column("reason_code", Text),
        Column("reason", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    ]


def _quoted(states: Iterable[HoldState]) -> str:
    return ", ".join(repr(state.value) for state in states)


class Holds:
    """The holds of one schema: those at hand, and those that ended long ago, which answer as they ended."""

    def __init__(self, schema: str) -> None:
        columns = "hold_id, saga_id, owner, unit, amount, captured, refunded, state, reason_code, reason"
        rows = """unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]::numeric[], $6::text[]::numeric[],
            $7::text[]::numeric[], $8::text[], $9::text[], $10::text[])"""
        read = """hold_id, saga_id, owner, unit, trim_scale(amount) AS amount, state, trim_scale(captured) AS captured,
            trim_scale(refunded) AS refunded, reason_code, reason"""
        # Whoever waits for a lock until a hold has been archived finds it in neither table: the insert looks again.
        self._lock_sql = f"""
            WITH live AS (
                SELECT {read} FROM {schema}.holds WHERE hold_id = ANY($1::text[]) ORDER BY hold_id FOR UPDATE)
            SELECT * FROM live UNION ALL
            SELECT {read} FROM {schema}.holds_archive
            WHERE hold_id = ANY(ARRAY(SELECT unnest($1::text[]) EXCEPT SELECT hold_id FROM live))"""  # noqa: S608 - our own name
        self._insert_sql = f"""
            INSERT INTO {schema}.holds ({columns}) SELECT * FROM {rows} AS new ({columns})
            WHERE hold_id <> ALL(ARRAY(SELECT hold_id FROM {schema}.holds_archive WHERE hold_id = ANY($1::text[])))
            ON CONFLICT (hold_id) DO NOTHING"""  # noqa: S608
        self._update_sql = f"""
            UPDATE {schema}.holds AS hold
            SET state = new.state, captured = new.captured, refunded = new.refunded, reason_code = new.reason_code,
                reason = new.reason, updated_at = clock_timestamp()
            FROM {rows} AS new ({columns}) WHERE hold.hold_id = new.hold_id"""  # noqa: S608 - our own name
        every = f"{columns}, created_at, updated_at"
        old = f"""
            FROM {schema}.holds WHERE state IN ({_quoted(ENDED)})
                AND updated_at < clock_timestamp() - make_interval(secs => $1)"""
        self._count_sql = f"SELECT count(*) {old}"
        self._archive_sql = f"""
            WITH old AS (
                SELECT hold_id {old} AND ctid >= $2::text::tid AND ctid < $3::text::tid
                ORDER BY hold_id LIMIT $4 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {schema}.holds WHERE hold_id = ANY(ARRAY(SELECT hold_id FROM old)) RETURNING {every})
            INSERT INTO {schema}.holds_archive ({every}) SELECT {every} FROM gone"""  # noqa: S608 - our own name

    async def archive(self, tx: AsyncConnection, pages: tuple[str, str], older_than_s: float, most: int) -> int:
        """Move holds that ended so long ago out of the way, of these pages of the table; return how many.

        `pages` is a range of PostgreSQL's row addresses, its end not included. Holds that somebody works on are left.
        """
        return (await tx.exec_driver_sql(self._archive_sql, (older_than_s, *pages, most))).rowcount

    async def count_old(self, tx: AsyncConnection, older_than_s: float) -> int:
        """Count the holds that could be archived."""
        return int((await tx.exec_driver_sql(self._count_sql, (older_than_s,))).scalar_one())

    async def lock(self, tx: AsyncConnection, hold_ids: Collection[str]) -> dict[str, Hold]:
        """Lock and load the holds that exist, and load the archived ones, which nothing changes any more."""
        rows: Any = await tx.exec_driver_sql(self._lock_sql, (sorted(hold_ids),))
        return {
            row[0]: Hold(row[0], row[1], row[2], row[3], row[4], HoldState(row[5]), row[6], row[7], row[8], row[9])
            for row in rows
        }

    async def save(self, tx: AsyncConnection, known: Mapping[str, Hold], holds: Mapping[str, Hold]) -> None:
        """Write what is new or changed, each row once.

        Raises `Contention` when a new one has been written, or an old one archived, by another transaction meanwhile:
        there was no row to lock.
        """
        changed = [hold for _, hold in sorted(holds.items()) if known.get(hold.hold_id) is not hold]
        if new := [hold for hold in changed if hold.hold_id not in known]:
            result = await tx.exec_driver_sql(self._insert_sql, _arrays(new))
            if result.rowcount != len(new):
                raise Contention("another transaction has just made, or archived, one of this batch's holds")
        if old := [hold for hold in changed if hold.hold_id in known]:
            await tx.exec_driver_sql(self._update_sql, _arrays(old))


def exact_text(amount: Decimal) -> str:
    """Write a decimal for a `numeric(38,18)`; raises `ValueError` for one that PostgreSQL would round."""
    text = f"{amount:f}"
    if len(text.partition(".")[2]) > PLACES_MAX or not amount.is_finite():
        raise ValueError(f"{amount} has more than {PLACES_MAX} places or is no number")
    return text


def _begin(command: Command[C], action: Action, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    if action is Action.OPEN:
        refusal = ledger.reserve(command)
        return _new(command, HoldState.REFUSED if refusal else HoldState.HELD, refusal), refusal
    buried = _new(command, HoldState.TOMBSTONE)
    return buried, _denial(command, buried) if command.kind is Kind.SETTLE else None


def _capture(command: Command[C], hold: Hold, ledger: Ledger[C]) -> tuple[Hold, Refusal | None]:
    if not ZERO <= command.capture <= hold.amount:
        refusal: Refusal | None = Refusal(EXCEEDS_HOLD, f"can't capture {command.capture:f} of {hold.amount:f}")
    else:
        refusal = ledger.settle(command, hold)
    if refusal is None:
        rest = EXACT.subtract(hold.amount, command.capture)
        settled = msgspec.structs.replace(hold, state=HoldState.SETTLED, captured=command.capture, refunded=rest)
        return settled, None
    ledger.refund(command, hold)
    refunded = msgspec.structs.replace(
        hold, state=HoldState.REFUNDED, refunded=hold.amount, reason_code=refusal.code, reason=refusal.reason
    )
    return refunded, refusal


def _denial(command: Command[C], hold: Hold) -> Refusal:
    """Say the no of a hold that has had its end: the ledger's own again, when it was an answer to the same question."""
    asked_before = {Kind.RESERVE: HoldState.REFUSED, Kind.SETTLE: HoldState.REFUNDED}.get(command.kind)
    if hold.state is asked_before and hold.refusal is not None:
        return hold.refusal
    return Refusal(NOT_HELD if command.kind is Kind.SETTLE else CLOSED, f"the hold is {hold.state}")


def _terms(command: Command[C]) -> tuple[str, str, Decimal]:
    return command.owner, command.unit, command.amount


def _new(command: Command[C], state: HoldState, refusal: Refusal | None = None) -> Hold:
    hold = Hold(command.hold_id, command.saga_id, command.owner, command.unit, command.amount, state)
    if refusal is None:
        return hold
    return msgspec.structs.replace(hold, reason_code=refusal.code, reason=refusal.reason)


def _arrays(holds: Sequence[Hold]) -> tuple[list[str | None], ...]:
    return (
        [hold.hold_id for hold in holds],
        [hold.saga_id for hold in holds],
        [hold.owner for hold in holds],
        [hold.unit for hold in holds],
        [exact_text(hold.amount) for hold in holds],
        [exact_text(hold.captured) for hold in holds],
        [exact_text(hold.refunded) for hold in holds],
        [hold.state for hold in holds],
        [hold.reason_code for hold in holds],
        [hold.reason for hold in holds],
    )
