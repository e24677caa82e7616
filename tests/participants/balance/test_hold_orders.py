"""Every order and repetition of place, capture, release and expiry on PostgreSQL: money is conserved, and one end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from contracts.codec import Message
from contracts.holds import HoldRequest
from participants.balance.service_holds import Expiry
from tests.participants.support import HoldService, Pair, capture, held_until, hold_id, place, release

LENGTH_MAX = 4
STEPS = ("Place", "Capture", "Release", "Late", "Scan")
"""`Late`: the database's clock passes expires_at. `Scan`: the scanner says so of this hold, in time or too early."""
Script = tuple[str, ...]
SCRIPTS: tuple[Script, ...] = tuple(
    script for length in range(1, LENGTH_MAX + 1) for script in itertools.product(STEPS, repeat=length)
)
HELD_100 = "100"
CAPTURED = "97.5"


@dataclass(frozen=True)
class Case:
    """A user's USD, what is captured of a hold of 100, where to, and why the ledger refuses, where it does."""

    name: str
    deposit: str | None
    capture: str = CAPTURED
    to: str = "@external"
    to_place: str | None = None
    to_capture: str | None = None


CASES = (
    Case("thin", "100"),
    Case("whole", "100", capture="100", to="@fees"),
    Case("poor", "99.999999999999999999", to_place="INSUFFICIENT_BALANCE"),
    Case("unknown-user", None, to_place="ACCOUNT_NOT_FOUND"),
    Case("greedy", "100", capture="100.000000000000000001", to_capture="EXCEEDS_HOLD"),
    Case("astray", "100", to="@market", to_capture="DESTINATION_NOT_ALLOWED"),
)


@dataclass
class Model:
    """One hold by the rules of the page, written independently of the code."""

    case: Case
    state: str = ""
    late: bool = False
    why: str = ""
    placed: bool = False

    def do(self, step: str) -> list[str]:
        """Return the events of a step, as `written` writes them."""
        before: list[str] = []
        match step, self.state:
            case "Late", _:
                self.late = True
                return []
            case "Scan", state:
                return self._expire() if state == "HELD" and self.late else []
            case "Capture", state if self.case.to_capture:
                return [f"HoldCaptureRefused {self.case.to_capture}"]
            case "Capture", "HELD" if self.late:
                before = self._expire()
            case "Capture", "HELD":
                self.state = "CAPTURED"
            case "Release", "HELD":
                self.state = "RELEASED"
            case "Place", "":
                self.why = "EXPIRY_OUT_OF_RANGE" if self.late else (self.case.to_place or "")
                self.state = "REFUSED" if self.why else "HELD"
                self.placed = not self.why
            case _, "":
                self.state = "BURIED"
        return [*before, self._answer(step)]

    def _expire(self) -> list[str]:
        self.state = "EXPIRED"
        return ["HoldExpired 100"]

    def _answer(self, step: str) -> str:  # noqa: PLR0911 - a table, with a line for each answer
        match step, self.state:
            case "Place", _ if self.placed:
                return "HoldPlaced"
            case "Place", "BURIED":
                return "HoldRefused CLOSED"
            case (("Place" | "Release"), "REFUSED"):
                return f"HoldRefused {self.why}"
            case "Capture", "CAPTURED":
                rest = Decimal(100) - Decimal(self.case.capture)
                return f"HoldCaptured {self.case.capture} {rest:f} {self.case.to}"
            case "Capture", _:
                return "HoldCaptureRefused NOT_HELD"
            case "Release", "CAPTURED":
                return "HoldReleaseRefused CLOSED"
            case "Release", "EXPIRED":
                return "HoldExpired 100"
            case _:
                return f"HoldReleased {'100' if self.placed else '0'}"

    @property
    def account(self) -> dict[str, Pair]:
        """The user's final account, left out when it is empty."""
        if self.case.deposit is None:
            return {}
        if self.state == "HELD":
            return {"USD": (Decimal(0), Decimal(100))}
        left = Decimal(self.case.deposit) - (Decimal(self.case.capture) if self.state == "CAPTURED" else 0)
        return {"USD": (left, Decimal(0))} if left else {}


@dataclass(frozen=True)
class Play:
    """One hold of one user, and the steps that come for it."""

    case: Case
    script: Script

    @property
    def user_id(self) -> str:
        """The user's name."""
        return f"{self.case.name}:{'-'.join(self.script)}"

    @property
    def hold_id(self) -> UUID:
        """The hold's id."""
        return hold_id((self.case, self.script))

    def message(self, step: str, *, late: bool) -> HoldRequest | Expiry:
        """Make the message of a step. After `Late` the hold was asked for with a time that has passed."""
        terms = (self.hold_id, self.user_id, "USD", HELD_100)
        match step:
            case "Place":
                return place(*terms, expires_at=held_until(-timedelta(hours=1) if late else timedelta(days=1)))
            case "Capture":
                return capture(*terms, capture=self.case.capture, to=self.case.to)
            case "Release":
                return release(*terms)
        return Expiry(f"hold:{self.hold_id}", self.user_id, "USD", Decimal(HELD_100))


def written(event: Message) -> str:
    """Write an event as the model does."""
    values = [
        f"{value:f}" if isinstance(value, Decimal) else str(value)
        for name in ("captured", "returned", "to", "reason_code")
        if (value := getattr(event, name, None)) is not None and not (name == "to" and hasattr(event, "reason_code"))
    ]
    return " ".join([type(event).__name__, *values])


async def run(holds: HoldService, plays: Sequence[Play], *, whole: bool) -> dict[Play, list[str]]:
    """Handle the scripts side by side; with `whole`, steps that no `Late` parts come in one batch."""
    told: dict[UUID, list[str]] = {play.hold_id: [] for play in plays}
    late: set[UUID] = set()
    batch: list[HoldRequest | Expiry] = []
    for n in range(LENGTH_MAX):
        here = [(play, play.script[n]) for play in plays if n < len(play.script)]
        passing = {play.hold_id for play, step in here if step == "Late"}
        if not whole or passing:
            await tell(holds, batch, told)
            batch = []
            late |= passing
            await holds.pass_time(passing)
        batch += [play.message(step, late=play.hold_id in late) for play, step in here if step != "Late"]
    await tell(holds, batch, told)
    return {play: told[play.hold_id] for play in plays}


async def tell(holds: HoldService, batch: Sequence[HoldRequest | Expiry], told: dict[UUID, list[str]]) -> None:
    """Handle one batch, and note each hold's events."""
    for event in await holds.work(*batch):
        told[event.hold_id].append(written(event))


@pytest.mark.parametrize("whole", [False, True], ids=["singly", "whole"])
async def test_every_order_of_arrival_has_one_end(holds: HoldService, *, whole: bool) -> None:
    """Events, rows and accounts are as the model says, for every order, every repetition and two cuts into batches."""
    plays = [Play(case, script) for case in CASES for script in SCRIPTS]
    for play in plays:  # one at a time: on a busy machine, hundreds at once would wait too long for a connection
        if play.case.deposit:
            await holds.deposit(play.user_id, USD=play.case.deposit)
    told = await run(holds, plays, whole=whole)
    accounts, ends = await holds.all_accounts(), await holds.ends()
    for play in plays:
        model = Model(play.case)
        assert [event for step in play.script for event in model.do(step)] == told[play], play
        assert model.account == accounts.get(play.user_id, {}), play
        assert {"": None, "HELD": "HELD"}.get(model.state, model.state) == ends.get(f"hold:{play.hold_id}"), play
    assert [] == await holds.faults()
