"""SQLAlchemy on a transaction of the kit: one transaction, whoever runs statements in it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from saga_kit.runtime.errors import classify
from saga_kit.runtime.transactions import Begins, Transactions, begin
from tests.saga_kit.runtime.names_table import INSERT, Failed, insert, rows
from tests.saga_kit.support import Schema


async def test_sqlalchemy_is_part_of_the_transaction(names: Schema, source: AsyncEngine | Begins) -> None:
    """SQLAlchemy sees what was done and put off before; what it does is seen after it and committed with the rest."""
    async with begin(source) as tx:
        await tx.execute(INSERT.format(s=names.name), ["a"], [1])
        insert(tx, names, ["b"], [2])
        async with tx.sqlalchemy() as connection:
            seen = await connection.execute(text(f"SELECT name FROM {names.name}.names ORDER BY 1"))
            assert ["a", "b"] == [*seen.scalars()]
            await connection.execute(
                text(f"INSERT INTO {names.name}.names (name, number) VALUES (:name, :number)"),
                [{"name": "c", "number": 3}, {"name": "d", "number": 4}],
            )
        assert 4 == await tx.fetchval(f"SELECT count(*) FROM {names.name}.names")
        assert [] == await rows(names)
    assert [("a", 1), ("b", 2), ("c", 3), ("d", 4)] == await rows(names)


@pytest.mark.parametrize("commits", [True, False])
async def test_sqlalchemy_is_rolled_back_with_the_transaction(
    names: Schema, source: AsyncEngine | Begins, *, commits: bool
) -> None:
    """What SQLAlchemy did is undone by a later error, even when it was told to commit."""

    async def work() -> None:
        async with begin(source) as tx:
            async with tx.sqlalchemy() as connection:
                await connection.execute(text(f"INSERT INTO {names.name}.names (name, number) VALUES ('a', 1)"))
                if commits:
                    await connection.commit()
            raise Failed

    with pytest.raises(Failed):
        await work()
    assert [] == await rows(names)


async def test_an_error_of_sqlalchemy_rolls_back(names: Schema, source: AsyncEngine | Begins) -> None:
    """An error of SQLAlchemy is its own, undoes what was done before, and the session can be used again."""

    async def work() -> None:
        async with begin(source) as tx:
            await tx.execute(INSERT.format(s=names.name), ["a"], [1])
            async with tx.sqlalchemy() as connection:
                await connection.execute(text(f"INSERT INTO {names.name}.names (name, number) VALUES ('a', 2)"))

    with pytest.raises(IntegrityError, match="one_name") as refused:
        await work()
    assert "poison" == classify(refused.value)
    async with begin(source) as tx:
        assert 0 == await tx.fetchval(f"SELECT count(*) FROM {names.name}.names")


async def test_a_session_serves_the_same_statement_of_sqlalchemy_again(only: Transactions) -> None:
    """A session that went back to the pool ended its prepared statements, which SQLAlchemy may not keep."""
    for number in range(3):
        async with only.begin() as tx, tx.sqlalchemy() as connection:
            assert 41 + number == (await connection.execute(text("SELECT 41 + :n"), {"n": number})).scalar_one()


async def test_a_session_is_as_before_after_sqlalchemy(only: Transactions) -> None:
    """SQLAlchemy leaves the session in the pool: its settings and how values are read stay, and it is used again."""
    looks = "SELECT pg_backend_pid(), '{\"a\": 1}'::json, '{\"a\": 1}'::jsonb, current_setting('transaction_isolation')"
    async with only.begin() as tx:
        before = await tx.fetchrow(looks)
        async with tx.sqlalchemy() as connection:
            assert before[0] == (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with only.begin() as tx:
        assert [*before] == [*await tx.fetchrow(looks)]


async def test_a_transaction_of_an_engine_is_sqlalchemys(names: Schema) -> None:
    """`begin` on an engine runs in the transaction that SQLAlchemy begins, commits, and rolls back after an error."""

    async def work() -> None:
        async with names.engine.begin() as connection:
            await connection.exec_driver_sql(INSERT.format(s=names.name), (["a"], [1]))
            async with begin(_Begun(connection)) as tx:
                assert 1 == await tx.fetchval(f"SELECT count(*) FROM {names.name}.names")
                insert(tx, names, ["b"], [2])
            assert [("a", 1), ("b", 2)] == [
                tuple(row)
                for row in await connection.exec_driver_sql(f"SELECT name, number FROM {names.name}.names ORDER BY id")
            ]
            raise Failed

    with pytest.raises(Failed):
        await work()
    assert [] == await rows(names)


class _Begun:
    """Stands for an engine, and gives a connection whose transaction the test itself ends."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def begin(self) -> _Begun:
        return self

    async def __aenter__(self) -> Any:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        pass
