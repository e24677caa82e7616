"""How times, amounts and names are written for people, and which names are taken. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from contracts.vocabulary import NAME_PATTERN, NAME_RULE, check_instant
from operations.access.errors import WrongRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


def time_of_day(at: datetime | str) -> str:
    """Write a time: in full, without its date when it is less than 12 hours ago."""
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    recent = datetime.now(UTC) - when < timedelta(hours=12)
    return f"{when.astimezone(UTC):%H:%M:%S}" if recent else full_time(when.astimezone(UTC))


def full_time(at: datetime) -> str:
    """Write a time with its date, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


def moment(what: str, text: str) -> str:
    """Read a time as it may be typed: from now on (`+90s`, `+30m`, `+2h`, `+7d`), or as it is written for programs.

    The latter is returned as it is. Raises `WrongRequest` for a `+` with anything else behind it.
    """
    if not text.startswith("+"):
        return text
    asked = re.fullmatch(r"\+([0-9]{1,6})([smhd])", text, re.ASCII)
    if asked is None:
        raise WrongRequest(f"{what} is {text!r}; from now on is written +90s, +30m, +2h or +7d")
    ahead = timedelta(seconds=int(asked[1]) * _SECONDS[asked[2]])
    return f"{datetime.now(UTC) + ahead:%Y-%m-%dT%H:%M:%SZ}"


def instant(what: str, text: str) -> datetime:
    """Read a time as it is written for programs, with its offset from UTC. Raises `WrongRequest`."""
    try:
        at = datetime.fromisoformat(text)
        check_instant(at)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise WrongRequest(f"{what} is {text!r}; a time is written 2026-01-31T12:00:00Z")
    return at.astimezone(UTC)


_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def amount(value: Any) -> str:
    """Write a number plainly, with its sign when it is negative: 100, 0.01, -50."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def counts(numbers: Mapping[str, int], between: str = ", ") -> str:
    """Write how many there are of each thing: 3 orders, 1 claims."""
    return between.join(f"{number} {name}" for name, number in numbers.items())


def check_name(what: str, value: str) -> None:
    """Expect the id of a user, an asset or the like. Raises `WrongRequest`."""
    if re.fullmatch(NAME_PATTERN, value) is None:
        raise WrongRequest(f"{what} is {value!r}; it must be {NAME_RULE}")


def order_id(text: str) -> UUID:
    """Read an order's id. Raises `WrongRequest`."""
    return _uuid("an order id", text)


def hold_id(text: str) -> UUID:
    """Read the id of a service's hold, with or without the `hold:` that the ledger puts before it."""
    return _uuid("a hold id", text.removeprefix("hold:"))


def _uuid(what: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise WrongRequest(f"'{text}' is not {what}: it must be a UUID") from None
