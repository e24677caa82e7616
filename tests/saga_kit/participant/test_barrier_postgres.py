"""The barrier on PostgreSQL: the end does not depend on order, repetition or the cut into batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations, product

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError

from contracts.envelope import Envelope
from saga_kit.messaging.batch import Received, Record
from saga_kit.messaging.outbox import OutboxMessage
from saga_kit.participant.barrier import CommandKind, Hold, HoldCommand, Refusal
from saga_kit.participant.handler import ParticipantHandler
from saga_kit.runtime.errors import CannotStart
from saga_kit.runtime.telemetry import KitMetrics
from saga_kit.runtime.transactions import Transaction
from tests.saga_kit.support import FakePublisher, FakeRecord, Schema, message, process

AMOUNT, MORE, CAPTURE = Decimal("10.5"), Decimal("12.5"), Decimal("7.25")


class Accounts:
    """A ledger with one row per owner, as another team would write it in 30 lines."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._free: dict[str, Decimal] = {}

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[None]]) -> None:
        """Lock the owners' rows."""
        rows = await tx.fetch(
            f"SELECT owner, free FROM {self._schema}.accounts WHERE owner = ANY($1::text[]) ORDER BY owner FOR UPDATE",
            sorted({command.owner for command in commands}),
        )
        self._free = dict(rows)

    def reserve(self, command: HoldCommand[None]) -> Refusal | None:
        """Take the amount."""
        if self._free.get(command.owner, Decimal(0)) < command.amount:
            return Refusal("POOR", "not enough")
        self._free[command.owner] -= command.amount
        return None

    def refund(self, _: HoldCommand[None], hold: Hold) -> None:
        """Give the amount back."""
        self._free[hold.owner] += hold.amount

    def settle(self, command: HoldCommand[None], hold: Hold) -> Refusal | None:
        """Give the remainder back."""
        self._free[hold.owner] += hold.amount - command.capture
        return None

    async def save(self, tx: Transaction) -> None:
        """Write each row once."""
        await tx.execute(
            f"UPDATE {self._schema}.accounts AS a SET free = n.free"
            " FROM unnest($1::text[], $2::numeric[]) AS n (owner, free) WHERE a.owner = n.owner",
            list(self._free),
            list(self._free.values()),
        )


class AdjustedAccounts(Accounts):
    """The same ledger, of which holds can be adjusted."""

    def adjust(self, command: HoldCommand[None], _: Hold, delta: Decimal) -> Refusal | None:
        """Take the difference, or give it back."""
        if self._free.get(command.owner, Decimal(0)) < delta:
            return Refusal("POOR", "not enough")
        self._free[command.owner] -= delta
        return None


class Adapter:
    """Commands unchanged; a reply contains the command's whole outcome."""

    topics = ("commands",)

    def command(self, envelope: Envelope, record: Record) -> HoldCommand[None]:
        """Never called: these tests give the barrier commands that are read already."""
        raise NotImplementedError

    def reply(
        self, received: Received[HoldCommand[None]], hold: Hold, refusal: Refusal | None, _: datetime
    ) -> OutboxMessage:
        """Write the whole outcome."""
        text = [received.message.kind, hold.state, str(hold.captured), str(hold.refunded), refusal and refusal.code]
        return OutboxMessage(hold.hold_id, message(hold.hold_id, json.dumps(text)))


def command(kind: CommandKind, hold_id: str = "h", owner: str = "alice") -> Received[HoldCommand[None]]:
    """Make a received command. An adjustment is the first of its hold, and asks for more."""
    amount, revision = (MORE, 1) if kind is CommandKind.ADJUST else (AMOUNT, 0)
    return Received(HoldCommand(kind, hold_id, "saga", owner, "USD", amount, None, CAPTURE, revision=revision))


def participant(schema: Schema, ledger: type[Accounts] = Accounts) -> ParticipantHandler[None]:
    """Make the handler."""
    return ParticipantHandler(schema.name, Adapter(), lambda: ledger(schema.name))


@pytest.fixture(autouse=True)
async def accounts(schema: Schema) -> None:
    """Make the table of accounts."""
    await schema.execute("CREATE TABLE {s}.accounts (owner text PRIMARY KEY, free numeric CHECK (free >= 0))")


def cuts(length: int) -> list[tuple[int, ...]]:
    """List all ways to cut a sequence into batches, as the positions where a batch ends."""
    places = range(1, length)
    return [(*chosen, length) for n in range(length) for chosen in combinations(places, n)]


@pytest.mark.parametrize("ledger", [Accounts, AdjustedAccounts])
async def test_all_orders_and_repetitions_in_all_cuts_end_the_same(schema: Schema, ledger: type[Accounts]) -> None:
    """Each sequence of up to four commands has the same replies, hold and balance for every cut into batches."""
    publisher = FakePublisher()
    batch = process(schema, participant(schema, ledger), publisher)
    sequences = [sequence for length in range(1, 5) for sequence in product(CommandKind, repeat=length)]
    runs = [(sequence, cut) for sequence in sequences for cut in cuts(len(sequence))]
    await schema.execute("INSERT INTO {s}.accounts SELECT 'o' || n, 100 FROM generate_series(0, 2999) AS n")
    assert len(runs) < 3000
    results: dict[tuple[CommandKind, ...], set[str]] = {}
    # All runs with equal cuts share batches, each run with its own hold and owner.
    for start in range(4):
        commands = []
        for number, (sequence, cut) in enumerate(runs):
            begin = 0 if start == 0 else (cut[start - 1] if start - 1 < len(cut) else len(sequence))
            end = cut[start] if start < len(cut) else len(sequence)
            commands += [command(kind, f"h{number}", f"o{number}") for kind in sequence[begin:end]]
        await batch.run(commands)
    replies: dict[str, list[bytes]] = {}
    for sent in publisher.published:
        replies.setdefault(sent.key, []).append(sent.value)
    holds = await schema.rows(
        "SELECT hold_id, state, trim_scale(captured), trim_scale(refunded), reason_code, free, trim_scale(amount),"
        " revision, trim_scale(asked), adjust_code FROM {s}.holds"
        " JOIN {s}.accounts USING (owner)"
    )
    for hold_id, *rest in holds:
        sequence, _ = runs[int(hold_id[1:])]
        assert len(replies[hold_id]) == len(sequence)
        results.setdefault(sequence, set()).add(str((rest, replies[hold_id])))
    assert len(results) == len(sequences) == 340
    assert {len(one) for one in results.values()} == {1}


async def test_a_redelivered_reserve_on_a_thin_balance_repeats_its_success(schema: Schema) -> None:
    """A repeated reserve succeeds again although the balance is used up by then."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 10.5)")
    publisher = FakePublisher()
    batch = process(schema, participant(schema), publisher)
    await batch.run([command(CommandKind.RESERVE)])
    await batch.run([command(CommandKind.RESERVE), command(CommandKind.RESERVE, "other")])
    answers = [json.loads(sent.value) for sent in publisher.published]
    assert [(kind, state, code) for kind, state, _, _, code in answers] == [
        ("RESERVE", "HELD", None),
        ("RESERVE", "HELD", None),
        ("RESERVE", "REFUSED", "POOR"),
    ]
    assert await schema.rows("SELECT trim_scale(free) FROM {s}.accounts") == [(Decimal(0),)]


async def test_many_holds_of_one_account_in_one_batch_are_all_counted(schema: Schema) -> None:
    """Each row is written once with the sum of the batch, not with the last of several updates."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    batch = process(schema, participant(schema), FakePublisher())
    await batch.run([command(CommandKind.RESERVE, f"h{n}") for n in range(12)])
    assert await schema.rows("SELECT trim_scale(free) FROM {s}.accounts") == [(Decimal("5.5"),)]
    assert await schema.rows("SELECT state, count(*) FROM {s}.holds GROUP BY 1 ORDER BY 1") == [
        ("HELD", 9),
        ("REFUSED", 3),
    ]


async def test_two_members_with_the_same_commands_neither_deadlock_nor_act_twice(schema: Schema) -> None:
    """Two processes that handle the same records at once, in opposite orders, end as one would."""
    await schema.execute("INSERT INTO {s}.accounts SELECT 'o' || n, 1000 FROM generate_series(0, 9) AS n")
    commands = [
        command(kind, f"h{n}", f"o{n % 10}") for n in range(60) for kind in (CommandKind.RESERVE, CommandKind.SETTLE)
    ]
    batches = [process(schema, participant(schema), FakePublisher()) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for number, batch in enumerate(batches):
            group.create_task(batch.run(commands if number % 2 else commands[::-1]))
    for _ in range(2):
        await batches[0].run(commands)
    spent = await schema.rows("SELECT sum(captured), count(*), count(DISTINCT state) FROM {s}.holds")
    free = await schema.rows("SELECT sum(free) FROM {s}.accounts")
    assert spent[0][1] == 60
    assert spent[0][0] + free[0][0] == 10_000


async def test_the_same_new_hold_by_two_members_under_other_owners_is_made_once(schema: Schema) -> None:
    """Without a common account to lock, one member makes the hold; the other runs again and finds the conflict."""
    await schema.execute("INSERT INTO {s}.accounts SELECT 'o' || n, 1000 FROM generate_series(0, 7) AS n")
    publishers = [FakePublisher() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        for number, publisher in enumerate(publishers):
            batch = process(schema, participant(schema), publisher)
            group.create_task(batch.run([command(CommandKind.RESERVE, "same", f"o{number}")]))
    codes = sorted(str(json.loads(publisher.published[0].value)[4]) for publisher in publishers)
    assert codes == ["HOLD_CONFLICT"] * 7 + ["None"]
    assert await schema.rows("SELECT count(*) FROM {s}.holds") == [(1,)]
    assert await schema.rows("SELECT trim_scale(sum(free)) FROM {s}.accounts") == [(8000 - AMOUNT,)]


class RecordingLedger:
    """A ledger that locks nothing and records every effect."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._effects: list[tuple[str, str]] = []

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[None]]) -> None:
        """Lock nothing."""

    def reserve(self, command: HoldCommand[None]) -> Refusal | None:
        """Record the effect."""
        self._effects.append((command.hold_id, "reserve"))
        return None

    def refund(self, _: HoldCommand[None], hold: Hold) -> None:
        """Record the effect."""
        self._effects.append((hold.hold_id, "end"))

    def settle(self, _: HoldCommand[None], hold: Hold) -> Refusal | None:
        """Record the effect."""
        self._effects.append((hold.hold_id, "end"))
        return None

    async def save(self, tx: Transaction) -> None:
        """Write the recorded effects."""
        for hold_id, effect in self._effects:
            await tx.execute(f"INSERT INTO {self._schema}.done (key) VALUES ('{hold_id}:{effect}')")


async def test_the_hold_itself_is_the_lock(schema: Schema) -> None:
    """With a ledger that locks nothing, exactly one of a concurrent refund and settlement has its effect."""
    members = [
        process(
            schema, ParticipantHandler(schema.name, Adapter(), lambda: RecordingLedger(schema.name)), FakePublisher()
        )
        for _ in range(6)
    ]
    holds = [f"h{n}" for n in range(20)]
    await members[0].run([command(CommandKind.RESERVE, hold) for hold in holds])
    async with asyncio.TaskGroup() as group:
        for number, member in enumerate(members):
            kind = CommandKind.REFUND if number % 2 else CommandKind.SETTLE
            group.create_task(member.run([command(kind, hold) for hold in holds[number:] + holds[:number]]))
    effects = [key for (key,) in await schema.rows("SELECT key FROM {s}.done")]
    assert sorted(effects) == sorted(f"{hold}:{effect}" for hold in holds for effect in ("reserve", "end"))


@pytest.mark.parametrize(
    ("amount", "captured", "refunded", "state"),
    [
        (10, 6, 5, "SETTLED"),
        (10, 6, 3, "SETTLED"),
        (10, 6, 0, "HELD"),
        (10, 0, 9, "REFUNDED"),
        (10, 1, 9, "REFUNDED"),
        (0, 0, 0, "HELD"),
        (-1, 0, 0, "TOMBSTONE"),
        (10, 0, 0, "LOST"),
        (10, 0, 0, "REFUSED"),
    ],
)
async def test_the_database_refuses_impossible_holds(
    schema: Schema, amount: int, captured: int, refunded: int, state: str
) -> None:
    """CHECK constraints reject a hold that is settled and refunded, exceeds its amount or is refused without reason."""
    with pytest.raises(IntegrityError, match="holds_"):
        await schema.execute(
            "INSERT INTO {s}.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state)"
            f" VALUES ('h', 's', 'o', 'u', {amount}, {captured}, {refunded}, '{state}')"
        )


# The start of the ledger ----------------------------------------------------------------------------------------------

DAY = timedelta(days=1)
NEVER_TOLD = None


async def began(schema: Schema) -> datetime:
    """Return the time when the ledger began."""
    [row] = await schema.rows("SELECT began_at FROM {s}.ledger_start")
    began_at: datetime = row.began_at
    return began_at


async def started(schema: Schema) -> ParticipantHandler[None]:
    """Start the service."""
    one = participant(schema)
    async with schema.transactions.begin() as tx:
        await one.prepare(tx)
    return one


def made(one: Received[HoldCommand[None]], *, appended: datetime, sent: datetime) -> Received[HoldCommand[None]]:
    """Give a command these times by the broker's clock and by its sender's."""
    record = FakeRecord(timestamp=int(appended.timestamp() * 1000))
    return Received(one.message, Envelope("id", "Any", "/any", sent), record)


def asked(kind: CommandKind, at: datetime | None) -> Received[HoldCommand[None]]:
    """Make a command on a hold that was asked for at this time."""
    one = command(kind).message
    return Received(msgspec.structs.replace(one, hold_asked_at=at))


@pytest.mark.parametrize("kind", CommandKind)
@pytest.mark.parametrize(("appended", "sent"), [(-DAY, -DAY), (DAY, -DAY), (-DAY, DAY)])
async def test_a_command_from_before_the_first_start_moves_nothing(
    schema: Schema, kind: CommandKind, appended: timedelta, sent: timedelta
) -> None:
    """A command older than the first start, by either clock, changes nothing and gets no reply, even when replayed."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    publisher, handler = FakePublisher(), await started(schema)
    began_at = await began(schema)
    old = made(command(kind), appended=began_at + appended, sent=began_at + sent)

    metrics = KitMetrics()
    await process(schema, handler, publisher, metrics=metrics).run([old])

    assert ([], []) == (await schema.rows("SELECT * FROM {s}.holds"), publisher.published)
    assert [(100,)] == [tuple(row) for row in await schema.rows("SELECT free FROM {s}.accounts")]
    assert 1 == metrics.registry.get_sample_value("messages_dropped_total", {"why": "before_start"})


@pytest.mark.parametrize("kind", CommandKind)
async def test_an_order_that_another_ledger_may_hold_money_for_gets_a_conflict(
    schema: Schema, kind: CommandKind
) -> None:
    """For a hold asked for before the start, each try is a HOLD_CONFLICT, and nothing is stored."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    publisher, handler = FakePublisher(), await started(schema)
    one = asked(kind, await began(schema) - DAY)

    await process(schema, handler, publisher).run([one, one])

    assert [[kind, "HELD", "0", "0", "HOLD_CONFLICT"]] * 2 == [json.loads(sent.value) for sent in publisher.published]
    assert [] == await schema.rows("SELECT * FROM {s}.holds")
    assert [(100,)] == [tuple(row) for row in await schema.rows("SELECT free FROM {s}.accounts")]


async def test_a_hold_that_was_taken_over_is_settled_here(schema: Schema) -> None:
    """A hold whose row was copied from an earlier ledger is settled here, whenever it was asked for."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    publisher, handler = FakePublisher(), await started(schema)
    await schema.execute(
        "INSERT INTO {s}.holds (hold_id, saga_id, owner, unit, amount, captured, refunded, state)"
        " VALUES ('h', 'saga', 'alice', 'USD', 10.5, 0, 0, 'HELD')"
    )

    await process(schema, handler, publisher).run([asked(CommandKind.SETTLE, await began(schema) - DAY)])

    assert [[CommandKind.SETTLE, "SETTLED", "7.25", "3.25", None]] == [
        json.loads(one.value) for one in publisher.published
    ]


@pytest.mark.parametrize("after", [timedelta(0), DAY, NEVER_TOLD])
async def test_what_is_asked_since_the_start_is_executed(schema: Schema, after: timedelta | None) -> None:
    """A hold asked for at the start, after it, or at an unknown time belongs to this ledger and is executed."""
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    publisher, handler = FakePublisher(), await started(schema)
    at = None if after is None else await began(schema) + after

    await process(schema, handler, publisher).run([asked(CommandKind.RESERVE, at)])

    assert [[CommandKind.RESERVE, "HELD", "0", "0", None]] == [json.loads(one.value) for one in publisher.published]


async def test_the_first_start_is_written_once(schema: Schema) -> None:
    """Replicas that start at once, and every later start, use the same start time, taken from the database's clock."""
    before = datetime.now(UTC)
    await asyncio.gather(*(started(schema) for _ in range(5)))
    first = await began(schema)
    await started(schema)
    assert first == await began(schema)
    assert abs(first - before) < DAY


async def test_a_ledger_older_than_this_table_refuses_nothing(schema: Schema) -> None:
    """A ledger with holds but without the table of its start refuses nothing, as before an upgrade."""
    await schema.execute("DROP TABLE {s}.ledger_start")
    await schema.execute("INSERT INTO {s}.accounts VALUES ('alice', 100)")
    publisher = FakePublisher()
    await process(schema, participant(schema), publisher).run([command(CommandKind.RESERVE, "before")])

    await process(schema, await started(schema), publisher).run(
        [asked(CommandKind.RESERVE, datetime(2000, 1, 1, tzinfo=UTC))]
    )

    assert ["HELD", "HELD"] == [json.loads(one.value)[1] for one in publisher.published]


async def test_an_empty_ledger_without_the_table_does_not_start(schema: Schema) -> None:
    """An empty ledger without the table does not start, because it could not recognise another ledger's holds."""
    await schema.execute("DROP TABLE {s}.ledger_start")
    with pytest.raises(CannotStart, match="ledger_start is missing"):
        await started(schema)


async def test_a_ledger_that_was_handed_over_does_not_start(schema: Schema) -> None:
    """A ledger that was handed over does not start: two services with the same commands would move money twice."""
    await started(schema)
    await schema.execute("UPDATE {s}.ledger_start SET closed_at = now(), successor = 'wallet'")
    with pytest.raises(CannotStart, match="handed over to wallet"):
        await started(schema)
