"""A transaction sends what was put off as one statement, and is all or nothing, whoever runs statements in it."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.errors import Contention, classify
from saga_kit.runtime.transactions import Begins, Transaction, Transactions, alone, begin, compose
from tests.saga_kit.runtime.names_table import DELETE, INSERT, UPDATE, Failed, insert, rows
from tests.saga_kit.support import Schema


class Recorder:
    """Stands between a transaction and its connection, and records the statements."""

    def __init__(self, connection: Any) -> None:
        self.statements: list[str] = []
        self._connection = connection

    async def fetch(self, sql: str, *args: Any) -> Any:
        """Fetch."""
        self.statements.append(sql)
        return await self._connection.fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> Any:
        """Execute."""
        self.statements.append(sql)
        return await self._connection.execute(sql, *args)

    def transaction(self) -> Any:
        """Begin."""
        return self._connection.transaction()

    def sqlalchemy(self) -> AsyncEngine:
        """Give SQLAlchemy's engine."""
        engine: AsyncEngine = self._connection.sqlalchemy()
        return engine


async def test_plain_statements_give_rows_values_and_numbers(names: Schema, source: AsyncEngine | Begins) -> None:
    """`execute` counts rows, also those read; `fetch`, `fetchrow` and `fetchval` read them, None when there is none."""
    table = f"{names.name}.names"
    async with begin(source) as tx:
        assert 2 == await tx.execute(INSERT.format(s=names.name), ["a", "b"], [1, 2])
        assert 1 == await tx.execute(UPDATE.format(s=names.name), ["a", "x"], 3)
        assert (2, 0) == (await tx.execute(f"SELECT FROM {table}"), await tx.execute(f"LOCK TABLE {table}"))
        [first, second] = await tx.fetch(f"SELECT name, number FROM {table} ORDER BY 1")
        assert ("a", 3, "b", 2) == (first["name"], first[1], *second)
        assert ["a", 3] == [*await tx.fetchrow(f"SELECT name, number FROM {table} ORDER BY 1")]
        assert "b" == await tx.fetchval(f"SELECT max(name) FROM {table}")
        nobody = f"SELECT name FROM {table} WHERE name = $1"
        assert (None, None) == (await tx.fetchrow(nobody, "x"), await tx.fetchval(nobody, "x"))
    assert [("a", 3), ("b", 2)] == await rows(names)


# One statement --------------------------------------------------------------------------------------------------------


def test_writes_are_composed_to_one_statement_with_parameters_of_their_own() -> None:
    """The parameters of each write follow those before, and the only row has a number or values for each."""
    nine = f"UPDATE t SET a = {' + '.join(f'${n}' for n in range(1, 10))}"
    sql = compose(
        ((nine, 9, ""), ("DELETE FROM t WHERE b = $1 OR c = $2 OR b = $1", 2, "id"), ("DELETE FROM u", 0, ""))
    )
    assert (
        f"WITH write_0 AS (\n{nine}\nRETURNING NULL),"
        " write_1 AS (\nDELETE FROM t WHERE b = $10 OR c = $11 OR b = $10\nRETURNING id),"
        " write_2 AS (\nDELETE FROM u\nRETURNING NULL)\n"
        "SELECT (SELECT count(*) FROM write_0), ARRAY(SELECT id FROM write_1), (SELECT count(*) FROM write_2)"
    ) == sql


async def test_several_writes_are_sent_as_one_statement(names: Schema, source: AsyncEngine | Begins) -> None:
    """Nothing is sent before the flush, which sends one statement and fills the lists; a second one sends nothing."""
    await names.execute("INSERT INTO {s}.names (name, number) VALUES ('old', 7), ('gone', 8)")
    async with begin(source) as tx:
        recorder = Recorder(tx._connection)  # noqa: SLF001 - to see what is sent
        tx._connection = recorder  # noqa: SLF001
        ids = insert(tx, names, ["a", "b"], [1, 2], rows=2, returning="id")
        tx.write(UPDATE.format(s=names.name), ["old"], 9, rows=1)
        no_ids = tx.write(DELETE.format(s=names.name), "nobody", returning="id")
        deleted = tx.write(DELETE.format(s=names.name), "gone", rows=1, returning="name")
        assert ([], [], []) == (recorder.statements, ids, deleted)
        await tx.flush()
        await tx.flush()
    assert 1 == len(recorder.statements)
    assert ([3, 4], [], ["gone"]) == (sorted(ids), no_ids, deleted)
    assert [("old", 9), ("a", 1), ("b", 2)] == await rows(names)


async def test_what_was_put_off_is_sent_before_the_commit(names: Schema, source: AsyncEngine | Begins) -> None:
    """The end of a transaction flushes it."""
    async with begin(source) as tx:
        ids = insert(tx, names, ["a"], [1], returning="id")
    assert ([1], [("a", 1)]) == (ids, await rows(names))


async def test_a_write_after_a_flush_sees_what_was_flushed(names: Schema, source: AsyncEngine | Begins) -> None:
    """A transaction may be flushed several times, each time with other writes."""
    async with begin(source) as tx:
        insert(tx, names, ["a"], [1])
        await tx.flush()
        tx.write(UPDATE.format(s=names.name), ["a"], 2, rows=1)
        assert 1 == await tx.fetchval(f"SELECT number FROM {names.name}.names")
    assert [("a", 2)] == await rows(names)


@pytest.mark.parametrize("wrong", [0, 1, 2])
async def test_another_number_of_rows_is_contention(names: Schema, source: AsyncEngine | Begins, wrong: int) -> None:
    """Each part's number of rows is compared with its own; the text is that part's, and nothing is written."""
    await names.execute("INSERT INTO {s}.names (name, number) VALUES ('old', 7)")
    expected = [1, 2, 1]
    expected[wrong] += 1

    async def work() -> None:
        async with begin(source) as tx:
            tx.write(UPDATE.format(s=names.name), ["old", "x"], 8, rows=expected[0], otherwise="part 0 was too late")
            insert(tx, names, ["a", "b"], [1, 2], rows=expected[1], otherwise="part 1 was too late", returning="id")
            insert(tx, names, ["c"], [3], rows=expected[2], otherwise="part 2 was too late")

    with pytest.raises(Contention, match=f"^part {wrong} was too late$"):
        await work()
    assert [("old", 7)] == await rows(names)


async def test_contention_without_a_text_says_the_numbers(names: Schema, source: AsyncEngine | Begins) -> None:
    """Without a text of its own the error says how many rows were written and expected."""
    with pytest.raises(Contention, match=r"^1 rows were written instead of 2$"):
        async with begin(source) as tx:
            insert(tx, names, ["a"], [1], rows=2)
    assert [] == await rows(names)


async def test_any_number_of_rows_will_do_where_none_is_said(names: Schema, source: AsyncEngine | Begins) -> None:
    """Without `rows` no number is wrong."""
    async with begin(source) as tx:
        tx.write(DELETE.format(s=names.name), "nobody", otherwise="never said")
        insert(tx, names, ["a", "b", "c"], [1, 2, 3], otherwise="never said")
    assert 3 == len(await rows(names))


async def test_a_value_twice_in_the_named_index_is_contention(names: Schema, source: AsyncEngine | Begins) -> None:
    """A violated `unique` raises `Contention` with the text of the write that names it, and nothing is written."""
    await names.execute("INSERT INTO {s}.names (name, number) VALUES ('old', 7), ('gone', 8)")

    async def work() -> None:
        async with begin(source) as tx:
            tx.write(DELETE.format(s=names.name), "gone", otherwise="not this", unique="one_number")
            insert(tx, names, ["old"], [1], rows=1, otherwise="the name is taken", unique="one_name")

    with pytest.raises(Contention, match=r"^the name is taken$") as lost:
        await work()
    assert isinstance(lost.value.__cause__, asyncpg.UniqueViolationError)
    assert "infrastructure" == classify(lost.value)
    assert [("old", 7), ("gone", 8)] == await rows(names)


@pytest.mark.parametrize("unique", ["", "one_number", "one_nam"])
async def test_a_value_twice_in_another_index_is_the_drivers_error(
    names: Schema, source: AsyncEngine | Begins, unique: str
) -> None:
    """A violated index that no write names is no lost race: the driver's own error is raised, which is poison."""
    await names.execute("INSERT INTO {s}.names (name, number) VALUES ('old', 7)")
    with pytest.raises(asyncpg.UniqueViolationError, match="one_name") as refused:
        async with begin(source) as tx:
            insert(tx, names, ["old"], [1], rows=1, otherwise="never said", unique=unique)
    assert "poison" == classify(refused.value)
    assert [("old", 7)] == await rows(names)


@pytest.mark.parametrize(
    ("number", "error", "cause"), [(1, Contention, "infrastructure"), (None, asyncpg.UniqueViolationError, "poison")]
)
async def test_a_duplicate_beside_a_part_that_compares_its_rows_is_contention(
    names: Schema, source: AsyncEngine | Begins, number: int | None, error: type[Exception], cause: str
) -> None:
    """All parts run, also those after one that is too late: their duplicates say that somebody was faster.

    Where no part would tell that, a duplicate is a fault of the message.
    """
    await names.execute("INSERT INTO {s}.names (name, number) VALUES ('old', 7)")

    async def work() -> None:
        async with begin(source) as tx:
            tx.write(UPDATE.format(s=names.name), ["gone"], 8, rows=number, otherwise="it was there before")
            insert(tx, names, ["old"], [1])

    with pytest.raises(error, match="one_name") as lost:
        await work()
    assert cause == classify(lost.value)
    assert [("old", 7)] == await rows(names)


# All or nothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushes", [True, False])
async def test_an_error_rolls_back(names: Schema, source: AsyncEngine | Begins, *, flushes: bool) -> None:
    """After an error nothing stays, whether it was sent or put off, and the next transaction begins anew."""

    async def work() -> None:
        async with begin(source) as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            insert(tx, names, ["b"], [2])
            if flushes:
                await tx.flush()
            raise Failed

    with pytest.raises(Failed):
        await work()
    assert [] == await rows(names)
    async with begin(source) as tx:
        insert(tx, names, ["c"], [3])
    assert [("c", 3)] == await rows(names)


async def test_an_error_of_a_statement_rolls_back(names: Schema, source: AsyncEngine | Begins) -> None:
    """A statement that fails undoes those before it, and the session can be used again."""

    async def work() -> None:
        async with begin(source) as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await work()
    async with begin(source) as tx:
        assert 0 == await tx.fetchval(f"SELECT count(*) FROM {names.name}.names")


async def test_a_savepoint_undoes_what_is_inside(names: Schema, source: AsyncEngine | Begins) -> None:
    """After an error inside a savepoint the transaction goes on without what was done there."""
    async with begin(source) as tx:
        await tx.execute(INSERT.format(s=names.name), ["a"], [1])
        with pytest.raises(asyncpg.UniqueViolationError):
            await _twice(tx, names)
        async with tx.savepoint():
            await tx.execute(INSERT.format(s=names.name), ["c"], [4])
    assert [("a", 1), ("c", 4)] == await rows(names)


async def _twice(tx: Transaction, names: Schema) -> None:
    """Insert a name that is new and one that there is, in a savepoint."""
    async with tx.savepoint():
        await tx.execute(INSERT.format(s=names.name), ["b"], [2])
        await tx.execute(INSERT.format(s=names.name), ["a"], [3])


async def test_a_savepoint_undoes_what_was_put_off_inside_and_nothing_before(
    names: Schema, source: AsyncEngine | Begins
) -> None:
    """A write from before a savepoint stays whatever happens in it; one from inside goes with it."""

    async def fails(tx: Transaction, *, flushes: bool) -> None:
        async with tx.savepoint():
            insert(tx, names, ["inside"], [9])
            if flushes:
                await tx.flush()
            raise Failed

    async with begin(source) as tx:
        for number, flushes in enumerate((False, True)):
            insert(tx, names, [f"before {number}"], [number])
            with pytest.raises(Failed):
                await fails(tx, flushes=flushes)
        async with tx.savepoint():
            insert(tx, names, ["kept"], [5])
    assert [("before 0", 0), ("before 1", 1), ("kept", 5)] == await rows(names)


async def test_alone_each_statement_commits_by_itself(names: Schema, only: Transactions) -> None:
    """Without a common transaction a statement is committed at once, and stays when a later one fails."""

    async def work() -> None:
        async with alone(only) as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            assert [("a", 1)] == await rows(names)
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await work()
    assert [("a", 1)] == await rows(names)


async def test_alone_on_an_engine_is_a_transaction(names: Schema) -> None:
    """An engine has no such shortcut: its statements are one transaction."""

    async def work() -> None:
        async with alone(names.engine) as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            assert [] == await rows(names)
            await tx.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await work()
    assert [] == await rows(names)


async def test_alone_what_was_put_off_is_sent(names: Schema, source: AsyncEngine | Transactions) -> None:
    """The end sends what was put off, as the end of a transaction does."""
    async with alone(source) as tx:
        insert(tx, names, ["a"], [1])
    assert [("a", 1)] == await rows(names)


async def test_alone_what_was_put_off_is_all_or_nothing(names: Schema, source: AsyncEngine | Transactions) -> None:
    """A write that is refused by its number of rows takes back those beside it."""

    async def work() -> None:
        async with alone(source) as tx:
            insert(tx, names, ["a"], [1], rows=1)
            tx.write(DELETE.format(s=names.name), "nobody", rows=1)

    with pytest.raises(Contention):
        await work()
    assert [] == await rows(names)


@pytest.mark.parametrize("last", [True, False])
async def test_only_a_last_flush_may_commit(names: Schema, only: Transactions, *, last: bool) -> None:
    """What is flushed is undone by a later error, unless the flush was said to be the last, and was the first too."""

    async def work() -> None:
        async with only.begin() as tx:
            insert(tx, names, ["a"], [1])
            await tx.flush(last=last)
            raise Failed

    with pytest.raises(Failed):
        await work()
    assert ([("a", 1)] if last else []) == await rows(names)


@pytest.mark.parametrize(
    "fault", [asyncpg.InterfaceError("x"), asyncpg.InternalClientError("x"), asyncpg.PostgresError("x"), OSError("x")]
)
async def test_a_rollback_that_fails_hides_no_error(fault: Exception) -> None:
    """What went wrong in a transaction is raised, whatever the driver says when it is to be rolled back after that."""
    connection = AsyncMock()
    connection.transaction = Mock(return_value=Mock(start=AsyncMock(), rollback=AsyncMock(side_effect=fault)))
    connection.fetch.side_effect = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with Transaction(connection, begun=False) as tx:
            await tx.fetch("SELECT 1")
