"""What statements of every room are made of: numbers as columns store them, rows of arrays, what is due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from contracts.decimals import PLACES_MAX

PLACES: Final = Decimal(1).scaleb(-PLACES_MAX)


def numeric(text: str | None) -> Decimal | None:
    """Store a number as a column of `numeric(38,18)` does."""
    return None if text is None else Decimal(text).quantize(PLACES)


def as_text(value: Any) -> Any:
    """Read a number as `::text` does: with all its places."""
    return None if value is None else f"{value:.{PLACES_MAX}f}"


def columns(*arrays: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Give the rows of `unnest`."""
    return zip(*arrays, strict=True)


def is_due(at: datetime, now: datetime, back_s: float) -> bool:
    """Tell whether a moment has come, and not longer ago than `back_s`."""
    return now - timedelta(seconds=back_s) < at <= now
