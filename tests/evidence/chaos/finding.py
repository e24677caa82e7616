"""What the checker finds: one line that names the order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Finding(NamedTuple):
    """A fault. `kind` is lost, doubled, money, wire, history, outcome, invented, trigger, stream, webhook or audit."""

    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.kind}: {self.subject}: {self.text}"


Findings = Iterator[Finding]
