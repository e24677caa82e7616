"""What was submitted and what was answered, as plain values: the checker's own record, kept by the load. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

YES = frozenset({200, 201, 202})
NO = frozenset({400, 401, 403, 404, 409, 413, 415, 422})
"""Answers after which there is no order. Any other one, and none at all, says that nobody knows."""


@dataclass
class Placed:
    """One wish for an order, by whichever door, and all that its sender heard of it.

    `bodies`: the contents sent under its one name (two, where a producer contradicts itself). `ends`: how it may end
    when nothing is in its way, as "STATUS REASON". `twin`: the client order id that it shares with another wish.
    """

    number: int
    kind: str
    channel: str
    user_id: str
    bodies: list[dict[str, Any]]
    ends: list[str]
    at_s: float
    key: str | None = None
    order_id: str | None = None
    """Ours from the start by Kafka, the API's by REST."""
    twin: str | None = None
    cancelled: bool = False
    """Whether its user asked for a cancel, and may have been heard."""
    answers: list[int] = field(default_factory=list)
    """HTTP status codes; 0 for a call without an answer."""
    ids: list[str] = field(default_factory=list)
    """Order ids that the answers named, each once."""
    stored: bool = False
    """Whether the broker acknowledged the request (by Kafka)."""

    @property
    def accepted(self) -> bool:
        """Whether its sender was promised an order."""
        return self.stored or any(answer in YES for answer in self.answers)

    @property
    def refused(self) -> bool:
        """Whether every answer said that there is none."""
        return self.channel == "rest" and bool(self.answers) and all(answer in NO for answer in self.answers)

    @property
    def name(self) -> str:
        """What a person looks for it by."""
        return self.order_id or f"#{self.number} ({self.kind}, key {self.key})"


@dataclass(frozen=True)
class Unreadable:
    """A message that nobody can handle, which the broker acknowledged; `topic` with the prefix."""

    topic: str
    partition: int
    offset: int
    value: bytes


@dataclass
class Record:
    """Everything that was submitted in a run."""

    placed: list[Placed] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    unsure: list[bytes] = field(default_factory=list)
    """Values of unreadable messages that the broker did not acknowledge: there may be a letter of each."""
    deposits: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was given to each user of each asset before the first order."""

    def dump(self) -> dict[str, Any]:
        """Make it plain, for a file beside the logs of a run that failed."""
        return {
            "placed": [asdict(one) for one in self.placed],
            "unreadable": [asdict(one) | {"value": one.value.hex()} for one in self.unreadable],
            "deposits": {f"{user} {asset}": amount for (user, asset), amount in self.deposits.items()},
        }
