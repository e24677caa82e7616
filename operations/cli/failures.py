"""What goes wrong becomes one line on stderr and an exit status: 2 for a wrong request, 1 for anything else."""

from __future__ import annotations

from operations.errors import Trouble, WrongRequest
from operations.system import broker_address


def exit_status(trouble: Trouble) -> int:
    """Tell what a command ends with that met this."""
    return 2 if isinstance(trouble, WrongRequest) else 1


def one_line(error: BaseException) -> str | None:
    """Say a well-known failure of the database, the broker or the API in one line; None: it needs its stack trace."""
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
        return f"the broker at {broker_address()} can't be reached: {error}"
    if isinstance(error, OSError | CannotStart | ReadOnlyDatabase):
        return str(error)
    return None
