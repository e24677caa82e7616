"""What the load submitted and what was answered, as plain values for the checker. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

YES = frozenset({200, 201, 202})
NO = frozenset({400, 401, 403, 404, 409, 413, 415, 422})
"""Answers that mean that there is no order. After any other answer, or none, the outcome is unknown."""


@dataclass
class Placed:
    """One request for an order, by REST or Kafka (`channel`), and all answers that its sender got.

    `bodies`: the contents sent under its one id or key (two, where a producer contradicts itself). `ends`: how it may
    end without an outage, as "STATUS REASON". `twin`: the client order id that it shares with another request.
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
    """By Kafka, the id that the load chose; by REST, the one that the API chose."""
    twin: str | None = None
    cancelled: bool = False
    """Whether its user requested a cancel that may have arrived."""
    answers: list[int] = field(default_factory=list)
    """HTTP status codes; 0 for a call without an answer."""
    ids: list[str] = field(default_factory=list)
    """Order ids that the answers named, each once."""
    stored: bool = False
    """Whether the broker acknowledged the request (by Kafka)."""
    accepted_at_s: float | None = None
    """When the first answer or acknowledgement accepted it (monotonic)."""
    amends: list[dict[str, Any]] = field(default_factory=list)
    """What amends of it were sent to change; no two are alike."""
    suspended_by: list[str] = field(default_factory=list)
    """Who asked to suspend it."""

    @property
    def accepted(self) -> bool:
        """Whether an answer accepted the request."""
        return self.stored or any(answer in YES for answer in self.answers)

    @property
    def refused(self) -> bool:
        """Whether every answer refused the request."""
        return self.channel == "rest" and bool(self.answers) and all(answer in NO for answer in self.answers)

    @property
    def name(self) -> str:
        """How findings name it to people."""
        return self.order_id or f"#{self.number} ({self.kind}, key {self.key})"


@dataclass(frozen=True)
class Unreadable:
    """A message that no service can handle and that the broker acknowledged; `topic` has the prefix."""

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
    """Values of messages each of which may have become a dead letter: unreadable ones that the broker did not
    acknowledge, and changes that may have come before their orders."""
    deposits: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was given to each user of each asset before the first order."""

    def dump(self) -> dict[str, Any]:
        """Return plain values for a file beside the logs of a failed run."""
        return {
            "placed": [asdict(one) for one in self.placed],
            "unreadable": [asdict(one) | {"value": one.value.hex()} for one in self.unreadable],
            "deposits": {f"{user} {asset}": amount for (user, asset), amount in self.deposits.items()},
        }
