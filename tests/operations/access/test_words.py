"""How times and amounts are written for people, and which names are taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from operations.access import words
from operations.access.errors import WrongRequest


def test_a_time_has_its_date_when_it_is_not_of_today() -> None:
    """In UTC, from a time or from its text."""
    now = datetime.now(UTC)
    assert f"{now:%H:%M:%S}" == words.time_of_day(now)
    assert "1999-12-31 23:00:00" == words.time_of_day("2000-01-01T01:00:00+02:00")
    old = (now - timedelta(days=2)).astimezone(timezone(timedelta(hours=5)))
    assert f"{now - timedelta(days=2):%Y-%m-%d %H:%M:%S}" == words.time_of_day(old)


@pytest.mark.parametrize(
    ("value", "written"), [("100", "100"), ("0.010", "0.01"), ("-50.0", "-50"), ("1E+3", "1000"), ("0", "0")]
)
def test_an_amount_is_plain(value: str, written: str) -> None:
    """No exponent, no zeros that say nothing."""
    assert written == words.amount(Decimal(value))


def test_names_and_ids_are_checked() -> None:
    """The error says which word was wrong."""
    assert UUID(int=1) == words.order_id(str(UUID(int=1)))
    words.check_name("USER", "alice")
    with pytest.raises(WrongRequest, match="'x' is not an order id"):
        words.order_id("x")
    with pytest.raises(WrongRequest, match="USER is 'a b'"):
        words.check_name("USER", "a b")
