"""The kit's exceptions, and how every other one is classified: as the infrastructure's fault or as a message's.

    KitError
    ├── CannotStart      a cause in one line; the process ends with status 1
    ├── Stopped          the process was asked to end before the batch was committed: acknowledge nothing
    ├── ReadOnlyDatabase the database takes no writes at the moment: a standby, or a switch-over
    ├── Contention       another transaction wrote the same row first: run the batch again
    ├── OversizeMessage  a message that the broker would refuse for ever
    ├── NotSealed        a stored secret that none of the keys opens (runtime/sealing.py)
    └── Stalled          the consumer has lag and no progress: end the process, its supervisor starts a new one

None of them crosses a service. A business "no" is never an exception.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import asyncpg
from aiokafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError

Cause = Literal["infrastructure", "locked", "poison"]

POISON_SQLSTATE_CLASSES: Final = frozenset({"22", "23"})
"""Data exceptions and violated constraints; a trigger that refuses a row must raise one too (`check_violation`)."""
LOCK_NOT_AVAILABLE: Final = "55P03"
"""The SQLSTATE of a wait for a lock that took longer than `lock_timeout`."""
DESCRIPTION_MAX: Final = 300
_ROW: Final = re.compile(r"^DETAIL:.*\n?", re.MULTILINE)
_VALUE: Final = re.compile(r"(query argument \$\d+|invalid input syntax for type [^:\n]+): .*")


class KitError(Exception):
    """The base of the kit's own errors."""


class CannotStart(KitError):  # noqa: N818 - it is what happened, as people read it
    """Why the process can't start, in one line."""


class Stopped(KitError):  # noqa: N818 - it is what happened
    """The process was asked to end; the batch in work is not committed and must not be acknowledged."""


class ReadOnlyDatabase(KitError):  # noqa: N818 - it is what it is
    """The database takes no writes: it is a standby, or its administrator stopped them."""


class Contention(KitError):  # noqa: N818 - it is what happened
    """Another transaction wrote the same row first; the batch, run again, will see it."""


class OversizeMessage(KitError):  # noqa: N818 - it is what happened
    """A message is larger than the broker takes, so whatever wanted to send it can't be handled."""


class Stalled(KitError):  # noqa: N818 - it is what happened
    """The consumer has lag and makes no progress although the broker answers."""


DATABASE_ERRORS: Final = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Everything that a statement raises, but for `OSError`: SQLAlchemy's own error, or asyncpg's."""
_INFRASTRUCTURE: Final = Contention | CannotStart | ReadOnlyDatabase
"""Those of our own errors that no message causes; an unfit server makes every connection raise `CannotStart`."""


def classify(error: Exception) -> Cause:
    """Classify an error: `infrastructure` (back off, run the same batch again) or `poison` (find its message).

    `locked` is between the two: another transaction holds a row locked, which concerns one message only.

    An infrastructure error must never be taken for poison, or an outage would park every order. So everything that the
    database raises is infrastructure, except data errors. What is none of these is poison.
    """
    if isinstance(error, DATABASE_ERRORS):
        return _classify_database(error)
    if isinstance(error, StatementError) and isinstance(error.orig, Exception):
        return classify(error.orig)
    if isinstance(error, SQLAlchemyError | OSError | KafkaError | MemoryError | _INFRASTRUCTURE):
        return "infrastructure"  # OSError includes every TimeoutError; SQLAlchemyError, the pool's
    return "poison"


def describe(error: BaseException) -> str:
    """Describe an error in one line for columns and logs, without the statement and its parameters."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    message = next(iter(str(cause).splitlines()), "").replace("\0", "")
    # SQLAlchemy's asyncpg adapter says "<class '...'>: message".
    message = without_values(message.split("'>: ", 1)[-1])
    sqlstate = getattr(cause, "sqlstate", None)
    # SQLAlchemy's adapter raises an error of its own from the driver's.
    adapted = cause is not error and sqlstate is not None and cause.__cause__ is not None
    name = type(cause.__cause__ if adapted else cause).__name__
    if message.startswith(name):  # aiokafka's errors begin with their own name
        return message[:DESCRIPTION_MAX]
    return (f"{name}: {message}" if message else name)[:DESCRIPTION_MAX]


def message_of(error: BaseException) -> str:
    """Return the first line of what the database or its driver says, wrapped by SQLAlchemy or not."""
    said = str(error.orig if isinstance(error, DBAPIError) else error)
    return next(iter(said.splitlines()), type(error).__name__).split("'>: ", 1)[-1]


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of a driver's error, wrapped by SQLAlchemy or not; None when it has none."""
    found = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
    return found if isinstance(found, str) else None


def without_values(text: str) -> str:
    """Remove the values that PostgreSQL and its driver quote in an error or a stack trace: they may be personal."""
    return _VALUE.sub(r"\1", _ROW.sub("", text))


def _classify_database(error: Exception) -> Cause:
    # A value that the driver can't encode has a SQLSTATE too (22000); a broken connection has none.
    sqlstate = sqlstate_of(error) or ""
    if sqlstate == LOCK_NOT_AVAILABLE:
        return "locked"
    data_error = sqlstate[:2] in POISON_SQLSTATE_CLASSES and not getattr(error, "connection_invalidated", False)
    return "poison" if data_error else "infrastructure"
