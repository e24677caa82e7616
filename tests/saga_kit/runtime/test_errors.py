"""How each error is classified and described."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from saga_kit.runtime.backoff import Backoff, pause
from saga_kit.runtime.errors import Contention, OversizeMessage, classify, describe
from tests.saga_kit.support import Schema

POISON: Final[list[tuple[str, tuple[Any, ...]]]] = [
    ("SELECT 1 / 0", ()),
    ("SELECT $1::text", ("nul\0",)),
    ("SELECT $1::int", ("a string",)),
    ("SELECT $1::int", (2**40,)),
    ("SELECT $1::text", ("\ud800",)),
    ("SELECT $1::text::numeric", ("x",)),
    ("INSERT INTO {s}.done (key, value) VALUES ('a', 5000)", ()),
    ("INSERT INTO {s}.outbox (refs) VALUES (NULL)", ()),
]
LOCKED: Final = "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'lock_not_available'; END $x$"
INFRASTRUCTURE: Final = [
    "SELECT pg_terminate_backend(pg_backend_pid())",
    "SELECT * FROM no_such_table",
    "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)",
    "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'serialization_failure'; END $x$",
    "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END $x$",
    "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'query_canceled'; END $x$",
    "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'admin_shutdown'; END $x$",
    "DO $x$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $x$",
]
SEVERAL: Final = INFRASTRUCTURE[2]
"""Two statements in one, which SQLAlchemy refuses to send."""
by_each = pytest.mark.parametrize("raised_by", ["sqlalchemy", "asyncpg"])


async def error_of(schema: Schema, raised_by: str, sql: str, *parameters: Any) -> Exception:
    """Return the error that a statement raises, from SQLAlchemy or from the driver itself."""
    sql = sql.replace("{s}", schema.name)
    if raised_by == "sqlalchemy":
        with pytest.raises(DBAPIError) as wrapped:
            async with schema.engine.begin() as connection:
                await connection.exec_driver_sql(sql, parameters)
        return wrapped.value
    direct: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError)
    with pytest.raises(direct) as caught:
        async with schema.transactions.begin() as tx:
            await tx.execute(sql, *parameters)
    return caught.value


@by_each
@pytest.mark.parametrize(("sql", "parameters"), POISON)
async def test_data_errors_are_poison(schema: Schema, raised_by: str, sql: str, parameters: tuple[Any, ...]) -> None:
    """SQLSTATE classes 22 and 23, and values that the driver can't encode, are faults of one message."""
    assert classify(await error_of(schema, raised_by, sql, *parameters)) == "poison"


@by_each
async def test_a_lock_that_is_not_given_is_a_matter_of_its_own(schema: Schema, raised_by: str) -> None:
    """A lock timeout has its own class, because it concerns one message and the others need not wait."""
    assert classify(await error_of(schema, raised_by, LOCKED)) == "locked"


@by_each
@pytest.mark.parametrize("sql", INFRASTRUCTURE)
async def test_everything_else_of_the_database_is_infrastructure(schema: Schema, raised_by: str, sql: str) -> None:
    """Connection, deadlock, timeout, schema and server errors never count as a fault of a message."""
    assert classify(await error_of(schema, raised_by, sql)) == "infrastructure"


@pytest.mark.parametrize(
    ("sql", "parameters"), [*POISON, (LOCKED, ()), *((sql, ()) for sql in INFRASTRUCTURE if sql != SEVERAL)]
)
async def test_an_error_is_described_alike_whoever_raises_it(
    schema: Schema, sql: str, parameters: tuple[Any, ...]
) -> None:
    """An error of the driver is described in the same words whether SQLAlchemy wraps it or not."""
    one, other = [await error_of(schema, raised_by, sql, *parameters) for raised_by in ("sqlalchemy", "asyncpg")]
    assert describe(one) == describe(other)


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        ConnectionResetError(),
        TimeoutError(),
        KafkaConnectionError("x"),
        PoolTimeoutError("x"),
        PendingRollbackError("x"),
        Contention("x"),
        MemoryError(),
        asyncpg.InterfaceError("x"),
        asyncpg.InternalClientError("x"),
    ],
)
def test_errors_of_the_surroundings_are_infrastructure(error: Exception) -> None:
    """Errors of network, time, broker, pool and memory are infrastructure."""
    assert classify(error) == "infrastructure"


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), OversizeMessage("x")],
)
def test_other_errors_are_poison(error: Exception) -> None:
    """Any other exception of a handler is poison."""
    assert classify(error) == "poison"


@by_each
async def test_an_error_is_described_in_one_line_without_statement_and_values(schema: Schema, raised_by: str) -> None:
    """The description has the driver's class and message in one line, without SQL, parameters or NUL."""
    error = await error_of(schema, raised_by, "INSERT INTO {s}.done (key, value) VALUES ($1, 5000)", "sEcReT")
    text = describe(error)
    assert text.startswith('CheckViolationError: new row for relation "done" violates check constraint')
    assert "INSERT" not in text
    assert describe(ValueError("a\0b\nc")) == "ValueError: ab"
    assert describe(TimeoutError()) == "TimeoutError"
    assert len(describe(ValueError("x" * 1000))) <= 300
    assert describe(await error_of(schema, raised_by, "SELECT $1::int", "x")).startswith("DataError: invalid input")
    for statement, kind in (
        ("SELECT $1::int", "DataError"),
        ("SELECT $1::text::uuid", "InvalidTextRepresentationError"),
    ):
        said = describe(await error_of(schema, raised_by, statement, "sEcReT"))
        assert (True, False) == (said.startswith(f"{kind}: invalid input "), "sEcReT" in said)


def test_pauses_grow_are_jittered_and_capped() -> None:
    """Each pause is between half and all of a bound that doubles up to a maximum; a success resets it."""
    low, high = Backoff(chance=lambda: 0.0), Backoff(chance=lambda: 1.0)
    assert [round(low.next_s(), 3) for _ in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5]
    assert [round(high.next_s(), 3) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    high.reset()
    assert high.next_s() == 0.1


async def test_a_pause_ends_at_once_when_the_process_shall_end() -> None:
    """A stop ends a back-off at once."""
    stopping = asyncio.Event()
    assert await pause(stopping, 0.01) is False
    asyncio.get_running_loop().call_later(0.02, stopping.set)
    async with asyncio.timeout(60):
        assert await pause(stopping, 3600) is True
