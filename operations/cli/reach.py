"""How a command finds the system that it works on: the environment first, then a running local stack's `stack.json`."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import stat
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from rich.table import Table
    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncEngine

    from operations.audit.ledger import Ledger
    from saga_kit.messaging.publisher import Publisher
    from saga_kit.runtime.settings import KafkaSettings

T = TypeVar("T")
STACK_FILE: Final = Path(".local") / "stack.json"
NUMBER_MAX: Final = 1e9
"""Of seconds, days and items a second; what a database's interval still takes."""
WIDTH_OF_TABLES: Final = 80
"""With so many columns every table can be read, if with cells of several lines."""
out: Final = Console(highlight=False, soft_wrap=True)
"""Where data goes; progress and complaints go to stderr."""
err: Final = Console(stderr=True, highlight=False)


class Trouble(Exception):  # noqa: N818 - the word that the exit status 1 is documented by
    """What a command could not do, in one line; `status` is its exit status (2: ask otherwise and it can)."""

    def __init__(self, message: str, status: int = 1, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unknown = unknown
        """Whether it may have been done all the same."""


def stack() -> dict[str, Any]:
    """Read the running local stack's addresses; empty when there is none.

    It says where passwords and tokens are sent. So raise `Trouble` for a file that somebody else has made or may
    change: anybody can leave one in a folder above, such as the one for temporary files.
    """
    named = os.environ.get("ORDER_SAGA_STACK")
    here = Path.cwd()
    for path in [Path(named)] if named else [folder / STACK_FILE for folder in (here, *here.parents)]:
        if path.is_file():
            return _believed(path)
    return {}


def _believed(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise Trouble(f"{path} can't be read: {error.strerror}", 2) from None
    if status.st_uid != os.geteuid():
        raise Trouble(f"{path} is another user's (id {status.st_uid}), so it is not believed", 2)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Trouble(f"others may write {path}, so it is not believed: chmod 600 {path}", 2)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Trouble(f"{path} does not describe a local stack", 2)
    return found


def setting(variable: str, key: str) -> str:
    """Find one address, by its environment variable or by its key in `stack.json`."""
    value = os.environ.get(variable) or stack().get(key)
    if not value:
        raise Trouble(f"no local stack is running here and {variable} is not set; start one with 'order-saga up'", 2)
    return str(value)


def check_name(what: str, value: str) -> None:
    """Expect the id of a user, an asset or the like. Raises `Trouble`."""
    from contracts.vocabulary import NAME_PATTERN, NAME_RULE

    if re.fullmatch(NAME_PATTERN, value) is None:
        raise Trouble(f"{what} is {value!r}; it must be {NAME_RULE}", 2)


def finite(value: float) -> float:
    """Expect a number that can be counted with: the callback of options that take one."""
    if not math.isfinite(value) or value > NUMBER_MAX:
        raise typer.BadParameter(f"{value:g} must be at most {NUMBER_MAX:g}")
    return value


def ledger_setting() -> str:
    """Say where the ledger's views are: a schema, `none`, or nothing for the reference service's."""
    known = {} if os.environ.get("DATABASE_URL") else stack()  # that stack's, when it is the system that is meant
    named = os.environ.get("LEDGER_VIEWS") or str(known.get("ledger_views") or "")
    return "" if named == "audit" else named


async def find_ledger(engine: AsyncEngine) -> Ledger:
    """Find the schema of the ledger's views. Raises `Trouble` for a setting that makes no sense."""
    from operations.audit.ledger import find

    async with engine.connect() as connection:
        try:
            return await find(connection, ledger_setting())
        except ValueError as error:
            raise Trouble(str(error), 2) from None


def jwt_secret() -> str:
    """Find the secret that signs tokens of the local stack."""
    if secret := os.environ.get("JWT_SECRET"):
        return secret
    if path := stack().get("jwt_secret_file"):
        return Path(path).read_text().strip()
    if os.environ.get("JWT_JWKS_URL"):
        raise Trouble("only the issuer whose keys are at JWT_JWKS_URL can sign tokens; get one from there", 2)
    raise Trouble("no local stack is running here and JWT_SECRET is not set", 2)


@asynccontextmanager
async def database() -> AsyncIterator[AsyncEngine]:
    """Connect to the system's database, for a command's length."""
    async with connected(database_url()) as engine:
        yield engine


def database_url() -> str:
    """Find the database's address."""
    return setting("DATABASE_URL", "database_url")


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[AsyncEngine]:
    """Connect to a database by its address."""
    from saga_kit.runtime.database import PATIENT_COMMAND_TIMEOUT_S, create_engine
    from saga_kit.runtime.dsn import parse_database_url

    try:
        url = parse_database_url(address)
    except ValueError as error:
        raise Trouble(f"DATABASE_URL {error}", 2) from None
    engine = create_engine(
        url, application_name="order-saga cli", pool_size=2, command_timeout_s=PATIENT_COMMAND_TIMEOUT_S
    )
    try:
        await _meet(engine, url)
        yield engine
    finally:
        await engine.dispose()


async def _meet(engine: AsyncEngine, url: URL) -> None:
    """Connect, and name the server that can't be reached. Raises `Trouble`. The connection stays in the pool."""
    with naming(url):
        async with engine.connect():
            pass


@contextmanager
def naming(url: URL | str) -> Iterator[None]:
    """Name the database in whatever it refuses, or when it can't be reached. Raises `Trouble`."""
    from sqlalchemy.exc import DBAPIError

    from saga_kit.runtime.dsn import parse_database_url, place
    from saga_kit.runtime.errors import KitError

    try:
        where = place(parse_database_url(url) if isinstance(url, str) else url)
    except ValueError as error:
        raise Trouble(f"DATABASE_URL {error}", 2) from None
    try:
        yield
    except DBAPIError as error:
        raise Trouble(f"the database at {where} says: {str(error.orig).splitlines()[0]}") from error
    except (OSError, KitError) as error:
        raise Trouble(f"the database at {where} can't be reached: {str(error) or 'no answer'}") from error


@asynccontextmanager
async def publishing(settings: KafkaSettings) -> AsyncIterator[Publisher]:
    """Connect to a broker, for a command's length. What it complains of goes to stderr, as all that is no data."""
    import structlog

    from saga_kit.messaging.publisher import Publisher

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # as it is when a line is written
    publisher = Publisher(settings, client_id="order-saga-cli")
    try:
        yield publisher
    finally:
        await publisher.stop()


def kafka_settings() -> KafkaSettings:
    """Read the KAFKA_* settings; the address, where it is not set, from the local stack."""
    from saga_kit.runtime.settings import KafkaSettings, load

    os.environ.setdefault("KAFKA_BOOTSTRAP_SERVERS", setting("KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers"))
    return load(KafkaSettings)


async def rows(engine: AsyncEngine, statement: str, *arguments: object) -> list[dict[str, Any]]:
    """Run one query; a row is a dict by column name."""
    async with engine.connect() as connection:
        result = await connection.exec_driver_sql(statement, arguments)
        return [dict(row) for row in result.mappings()]


async def stream(engine: AsyncEngine, statement: str, **arguments: object) -> AsyncIterator[dict[str, Any]]:
    """Run one query with `:named` arguments and read it row by row, however many there are."""
    from sqlalchemy import text

    async with engine.connect() as connection:
        result = await connection.stream(text(statement), arguments)
        async for row in result.mappings():
            yield dict(row)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


def print_json(data: object) -> None:
    """Print data for programs: times in RFC 3339, decimals as plain strings."""
    out.print_json(json.dumps(data, default=plain))


def print_table(table: Table) -> None:
    """Print a table; one for which a narrow terminal has no room as a line for each row instead."""
    natural = out.measure(table, options=out.options.update(max_width=1_000)).maximum
    if out.width >= min(natural, WIDTH_OF_TABLES):
        out.print(table)
        return
    if table.title:
        out.print(table.title)
    for row in zip(*(column.cells for column in table.columns), strict=True):
        out.print(Text.from_markup("- " + " · ".join(str(cell) for cell in row if cell)), soft_wrap=False)


def plain(value: object) -> object:
    """Write a value that JSON does not know."""
    from datetime import datetime
    from decimal import Decimal

    from contracts.envelope import format_time

    if isinstance(value, Decimal):
        return amount(value)
    return format_time(value) if isinstance(value, datetime) else str(value)


def colour_of(status: str) -> str:
    """Name the colour of an order's status."""
    return _COLOURS.get(status, "cyan")


_COLOURS: Final = {"COMPLETED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def amount(value: Any) -> str:
    """Print a number plainly, signed or not: 100, 0.01, -50."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def one_line(error: BaseException) -> str | None:
    """Tell a well-known failure of the surroundings in one line; None for one that needs its stack trace."""
    from aiokafka.errors import KafkaError
    from httpx import HTTPError
    from sqlalchemy.exc import DBAPIError

    from saga_kit.runtime.errors import CannotStart, ReadOnlyDatabase

    if isinstance(error, BaseExceptionGroup):
        return one_line(error.exceptions[0])
    if isinstance(error, DBAPIError):
        return f"the database says: {str(error.orig).splitlines()[0]}"
    if isinstance(error, HTTPError):
        return f"the API can't be reached: {error}"
    if isinstance(error, KafkaError):
        return f"the broker at {os.environ.get('KAFKA_BOOTSTRAP_SERVERS', 'no address')} can't be reached: {error}"
    if isinstance(error, OSError | CannotStart | ReadOnlyDatabase):
        return str(error)
    return None
