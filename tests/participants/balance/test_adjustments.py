"""Adjusted holds at the reference service: every order and repetition of their commands, and several at the same time.

A hold of 100 is raised to 120 by its first adjustment, and lowered to 80 by its second.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import pytest

from contracts.balance import AdjustmentRefused, BalanceAdjusted, BalanceCommand
from contracts.codec import Message, encode
from contracts.decimals import Money
from contracts.envelope import UnreadableMessage
from participants.balance.store import StoredLedger, deposit
from saga_kit.runtime.transactions import begin
from tests.participants.balance.scripts import run, written
from tests.participants.support import Balance, Pair, adjust, order, received, refund, reserve, settle

BY_REVISION: Final = {0: "100", 1: "120", 2: "80"}
LETTERS: Final = ("Reserve", "Adjust 1", "Adjust 2")
LENGTH_MAX: Final = 5
Script = tuple[str, ...]


class End(NamedTuple):
    """The command that ends the hold, and the adjustment that its sender has confirmed."""

    name: str
    revision: int

    @property
    def amount(self) -> str:
        """The amount that it names."""
        return BY_REVISION[self.revision]

    @property
    def capture(self) -> str:
        """What a settlement captures: as much as the terms in force may need, but for 2.5."""
        return {0: "97.5", 1: "117.5", 2: "77.5"}[self.revision]


ENDS: Final = tuple(End(name, revision) for name in ("Refund", "Settle") for revision in BY_REVISION)
DEPOSITS: Final = {"ample": "1000", "all": "120", "short": "119.999999999999999999", "poor": "99.99"}
"""What a user has: more than enough, as much as the raise needs, a digit less, and too little for the hold itself."""


def scripts(end: End) -> Iterator[Script]:
    """List what may arrive: all sequences of up to four commands, and all of four different ones and one repetition."""
    letters = (*LETTERS, end.name)
    for length in range(1, LENGTH_MAX):
        yield from itertools.product(letters, repeat=length)
    for script in itertools.product(letters, repeat=LENGTH_MAX):
        if set(script) == set(letters):
            yield script


@dataclass(frozen=True)
class Saga:
    """One order of one user, and the commands that arrive for it."""

    has: str
    end: End
    script: Script

    @property
    def user_id(self) -> str:
        """The only user of the account."""
        return f"user-{self.order_id}"

    @property
    def order_id(self) -> UUID:
        """The order's id."""
        return order((self.has, self.end, self.script))

    def commands(self) -> list[BalanceCommand]:
        """Return the commands in their order of arrival."""
        return [self._command(name) for name in self.script]

    def _command(self, name: str) -> BalanceCommand:
        terms = (self.order_id, self.user_id, "USD")
        end = self.end
        match name:
            case "Reserve":
                return reserve(*terms, "100")
            case "Adjust 1" | "Adjust 2":
                revision = int(name[-1])
                return adjust(*terms, BY_REVISION[revision], revision)
            case "Refund":
                return refund(*terms, end.amount, end.revision)
        return settle(
            *terms,
            end.amount,
            capture=end.capture,
            credit=("BTC", "0.002"),
            fee=("USD", "0.1"),
            revision=end.revision,
        )


SAGAS: Final = [
    Saga(has, end, script)
    for end in ENDS
    for script in scripts(end)
    for has in DEPOSITS
    if has != "poor" or len(script) < 4  # it is never held, so there is little to see
]


class Foreseen:
    """What the protocol's table makes of one hold, written independently of the code. `free` is the user's money."""

    def __init__(self, has: str, end: End) -> None:
        self.state, self.row, self.asked, self.adjust_refused = "", 0, Decimal(0), ""
        self.amount, self.captured, self.why = Decimal(0), Decimal(0), ""
        self.free, self.end = Decimal(DEPOSITS[has]), end

    def reply(self, name: str) -> tuple[str, ...]:
        """Take a command; return the hold's state and the reply."""
        if name.startswith("Adjust"):
            said = self._adjust(int(name[-1]))
        else:
            said = {"Reserve": self._reserve, "Refund": self._refund, "Settle": self._settle}[name]()
        return (self.state, *said)

    def _reserve(self) -> tuple[str, ...]:
        if not self.state:
            self.amount = Decimal(100)
            self.state = "HELD" if self.free >= 100 else "REFUSED"
            self.free -= 100 if self.state == "HELD" else 0
        if self.state in {"HELD", "SETTLED"}:
            return "BalanceReserved", "100"
        return "BalanceRefused", "INSUFFICIENT_BALANCE" if self.state == "REFUSED" else "CLOSED"

    def _adjust(self, revision: int) -> tuple[str, ...]:
        if self.state and self.state != "HELD":
            return "AdjustmentRefused", "CLOSED"
        if not self.state:
            self.state, self.row, self.amount = "TOMBSTONE", revision, Decimal(BY_REVISION[revision])
            return "AdjustmentRefused", "NOT_HELD"
        if revision < self.row:
            return "AdjustmentRefused", "SUPERSEDED"
        if revision > self.row:
            self.row, more = revision, Decimal(BY_REVISION[revision]) - self.amount
            self.adjust_refused = "INSUFFICIENT_BALANCE" if more > self.free else ""
            if not self.adjust_refused:
                self.amount += more
                self.free -= more
        if self.adjust_refused:
            return "AdjustmentRefused", self.adjust_refused
        return "BalanceAdjusted", str(self.amount)

    def _refund(self) -> tuple[str, ...]:
        if not self.state:
            self._bury()
        elif self._is_other():
            return "RefundRefused", "HOLD_CONFLICT"
        if self.state == "HELD":
            self._give_back()
        if self.state == "SETTLED":
            return "RefundRefused", "CLOSED"
        return "BalanceRefunded", str(self.amount) if self.state == "REFUNDED" else "0"

    def _settle(self) -> tuple[str, ...]:
        if not self.state:
            self._bury()
        elif self._is_other():
            return "SettlementRefused", "HOLD_CONFLICT"
        capture = Decimal(self.end.capture)
        if self.state == "HELD" and capture > self.amount:
            self._give_back()
            self.why = "EXCEEDS_HOLD"
        elif self.state == "HELD":
            self.state, self.captured = "SETTLED", capture
            self.free += self.amount - capture
        if self.state == "SETTLED":
            return "BalanceSettled", str(self.captured), str(self.amount - self.captured)
        return "SettlementRefused", self.why or "NOT_HELD"

    def _bury(self) -> None:
        self.state, self.row, self.amount = "TOMBSTONE", self.end.revision, Decimal(self.end.amount)

    def _give_back(self) -> None:
        self.state = "REFUNDED"
        self.free += self.amount

    def _is_other(self) -> bool:
        """Tell whether the end names a hold that this is not: unless the row is newer, the amounts must be equal."""
        if self.state == "HELD" and self.row < self.end.revision:
            return True
        return self.row <= self.end.revision and self.amount != Decimal(self.end.amount)

    def accounts(self) -> dict[str, Pair]:
        """Return the user's accounts at the end."""
        held = self.amount if self.state == "HELD" else Decimal(0)
        credited = {"BTC": (Decimal("0.002"), Decimal(0))} if self.state == "SETTLED" else {}
        return {"USD": (self.free, held), **credited}


async def endow(balance: Balance, amounts: dict[str, str]) -> None:
    """Give each user USD, all in one transaction."""
    ledger = StoredLedger()
    async with begin(balance.engine) as tx:
        await tx.execute(
            "INSERT INTO balances.accounts SELECT user_id, 'USD', 0, 0 FROM unnest($1::text[]) AS user_id",
            list(amounts),
        )
        await ledger.load(tx, {(user_id, "USD") for user_id in amounts})
        for user_id, amount in amounts.items():
            ledger.deposit(user_id, user_id, "USD", Decimal(amount))
        await ledger.save(tx)


@pytest.mark.parametrize("cuts", [(), (2,), (1, 2, 3, 4)], ids=["whole", "halves", "singly"])
async def test_every_order_of_arrival_has_the_end_of_the_table(balance: Balance, cuts: tuple[int, ...]) -> None:
    """Rows, replies and accounts match the table for each order, each repetition, and each end at each revision."""
    await endow(balance, {saga.user_id: DEPOSITS[saga.has] for saga in SAGAS})
    replies = await run(balance, SAGAS, cuts)
    rows = await balance.rows("SELECT hold_id, state, amount, revision FROM balances.holds")
    holds, accounts = {row[0]: row[1:] for row in rows}, await balance.all_accounts()
    for saga in SAGAS:
        foreseen = Foreseen(saga.has, saga.end)
        assert [foreseen.reply(name) for name in saga.script] == replies[saga], saga
        assert (foreseen.state, foreseen.amount, foreseen.row) == holds[f"{saga.order_id}:reserve"], saga
        assert foreseen.accounts() == accounts[saga.user_id], saga
    assert [] == await balance.faults()


TERMS: Final = (order(1), "alice", "USD")


@pytest.mark.parametrize("first", [1, 2])
async def test_of_two_adjustments_the_newer_counts_whichever_comes_first(balance: Balance, first: int) -> None:
    """In both orders 80 are held at the end, and a refund by any of the revisions returns all of it."""
    await balance.deposit("alice", USD="120")
    commands = [adjust(*TERMS, BY_REVISION[revision], revision) for revision in (first, 3 - first)]
    await balance.handle(reserve(*TERMS, "100"), *commands, *commands)
    assert ("HELD", 80, 0, 0) == await balance.hold(order(1))
    assert {"USD": (40, 80)} == await balance.accounts("alice")
    (reply,) = await balance.handle(refund(*TERMS, "100", 0))
    assert ("REFUNDED", "BalanceRefunded", "80") == written(reply)
    assert {"USD": (120, 0)} == await balance.accounts("alice")
    assert [] == await balance.faults()


async def test_an_answer_says_all_that_the_order_must_know(balance: Balance) -> None:
    """Yes and no carry the revision, the hold's state, and of a yes the whole amount, the user and the asset."""
    await balance.deposit("alice", USD="120")
    _, yes, no = await balance.handle(
        reserve(*TERMS, "100"), adjust(*TERMS, "110.50", 1), adjust(*TERMS, "120.000000000000000001", 2)
    )
    head = {"order_id": str(order(1)), "hold_id": f"{order(1)}:reserve", "hold_state": "HELD"}
    assert head | {
        "command_id": f"{order(1)}:adjust.1",
        "revision": 1,
        "amount": "110.5",
        "user_id": "alice",
        "asset_id": "USD",
    } == msgspec.json.decode(encode(yes))
    assert head | {
        "command_id": f"{order(1)}:adjust.2",
        "revision": 2,
        "reason_code": "INSUFFICIENT_BALANCE",
        "reason": "9.500000000000000001 USD more needed for 120.000000000000000001, 9.5 available",
    } == msgspec.json.decode(encode(no))


async def test_a_refusal_is_repeated_when_there_is_money_meanwhile(balance: Balance) -> None:
    """A refused revision is used up: it is refused for the same reason after a deposit, and the next one succeeds."""
    await balance.deposit("alice", USD="100")
    _, refused = await balance.handle(reserve(*TERMS, "100"), adjust(*TERMS, "120", 1))
    assert isinstance(refused, AdjustmentRefused)
    await deposit(balance.engine, "more", "alice", "USD", Money(100))
    again, other, following = await balance.handle(
        adjust(*TERMS, "120", 1), adjust(*TERMS, "110", 1), adjust(*TERMS, "120", 2)
    )
    assert refused == again
    assert ("HELD", "AdjustmentRefused", "HOLD_CONFLICT") == written(other)
    assert ("HELD", "BalanceAdjusted", "120") == written(following)
    assert {"USD": (80, 120)} == await balance.accounts("alice")


async def test_an_adjustment_to_nothing_is_unreadable(balance: Balance) -> None:
    """A hold of 0 is no hold: like a reservation of 0, it is a dead letter and moves nothing."""
    with pytest.raises(UnreadableMessage, match="AdjustBalance: amount must be more than 0"):
        received(balance.handler, adjust(*TERMS, "0", 1))


@pytest.mark.parametrize("revision", [0, 2**53])
async def test_a_number_that_no_adjustment_has_is_unreadable(balance: Balance, revision: int) -> None:
    """They are counted from 1; 0 is the hold as it was reserved."""
    with pytest.raises(UnreadableMessage, match="revision"):
        received(balance.handler, adjust(*TERMS, "1", revision))


async def test_the_greatest_number_is_stored(balance: Balance) -> None:
    """A number that the wire carries fits the row; after it there is none."""
    await balance.deposit("alice", USD="120")
    most = 2**53 - 1
    _, yes = await balance.handle(reserve(*TERMS, "100"), adjust(*TERMS, "120", most))
    assert ("HELD", "BalanceAdjusted", "120") == written(yes)
    late, ended = await balance.handle(adjust(*TERMS, "80", 1), refund(*TERMS, "120", most))
    assert ("HELD", "AdjustmentRefused", "SUPERSEDED") == written(late)
    assert ("REFUNDED", "BalanceRefunded", "120") == written(ended)


async def test_an_adjustment_books_nothing(balance: Balance) -> None:
    """The money stays in its user's account, so the journal has the deposit and the settlement alone."""
    await balance.deposit("alice", USD="200")
    await balance.handle(
        reserve(*TERMS, "100"),
        adjust(*TERMS, "150", 1),
        adjust(*TERMS, "120", 2),
        settle(*TERMS, "120", capture="110", credit=("BTC", "1"), fee=("USD", "0"), revision=2),
    )
    entries = await balance.rows("SELECT DISTINCT entry_id FROM balances.journal_lines ORDER BY 1")
    assert [(f"{order(1)}:settle",), ("deposit:test:alice:USD",)] == sorted(entries)
    assert ("SETTLED", 120, 110, 10) == await balance.hold(order(1))
    assert {"USD": (90, 0), "BTC": (1, 0)} == await balance.accounts("alice")
    assert [] == await balance.faults()


# At the same time -----------------------------------------------------------------------------------------------------

ROUNDS: Final = 30


def kinds(*replies: Message) -> list[str]:
    """Name the replies' types."""
    return [type(reply).__name__ for reply in replies]


@pytest.mark.parametrize("amount", ["150", "50"])
async def test_an_adjustment_and_a_refund_at_once_leave_nothing_held(
    balance: Balance, another_balance: Balance, amount: str
) -> None:
    """Whichever comes first, the refund returns all that is held; the adjustment then finds the hold closed."""
    await balance.deposit("alice", USD="150")
    for n in range(ROUNDS):
        terms = (order(n), "alice", "USD")
        await balance.handle(reserve(*terms, "100"))
        (adjusted,), (refunded,) = await asyncio.gather(
            balance.handle(adjust(*terms, amount, 1)), another_balance.handle(refund(*terms, "100"))
        )
        first = isinstance(adjusted, BalanceAdjusted)
        assert ("BalanceAdjusted", amount) == written(adjusted)[1:] if first else written(adjusted)[2] == "CLOSED"
        assert ("REFUNDED", "BalanceRefunded", amount if first else "100") == written(refunded)
        assert {"USD": (150, 0)} == await balance.accounts("alice")
    assert [] == await balance.faults()


async def test_an_adjustment_and_a_settlement_at_once_capture_once(balance: Balance, another_balance: Balance) -> None:
    """A settlement captures what it asks for and returns the rest, whether the hold was raised before or not."""
    await balance.deposit("alice", USD=str(100 * ROUNDS + 50))
    for n in range(ROUNDS):
        terms = (order(n), "alice", "USD")
        await balance.handle(reserve(*terms, "100"))
        end = settle(*terms, "100", capture="100", credit=("BTC", "1"), fee=("USD", "0"))
        _, (settled,) = await asyncio.gather(balance.handle(adjust(*terms, "150", 1)), another_balance.handle(end))
        assert ["BalanceSettled"] == kinds(settled)
        assert (50 + 100 * (ROUNDS - n - 1), 0) == (await balance.accounts("alice"))["USD"]
    assert [] == await balance.faults()


async def test_two_raises_of_one_account_at_once_do_not_overdraw(balance: Balance, another_balance: Balance) -> None:
    """Of two holds that want the last 10, exactly one gets it."""
    await balance.deposit("alice", USD="30")
    for n in range(ROUNDS):
        one, two = (order(("one", n)), "alice", "USD"), (order(("two", n)), "alice", "USD")
        await balance.handle(reserve(*one, "10"), reserve(*two, "10"))
        replies = await asyncio.gather(
            balance.handle(adjust(*one, "20", 1)), another_balance.handle(adjust(*two, "20", 1))
        )
        assert ["AdjustmentRefused", "BalanceAdjusted"] == sorted(kinds(*itertools.chain(*replies)))
        assert {"USD": (0, 30)} == await balance.accounts("alice")
        await balance.handle(refund(*one, "10"), refund(*two, "10"))
    assert [] == await balance.faults()


async def test_the_same_adjustments_on_two_instances_at_once_count_once(
    balance: Balance, another_balance: Balance
) -> None:
    """Two instances that get the same records in a rebalance send the same replies, and the money moves once."""
    await balance.deposit("alice", USD="200")
    for n in range(ROUNDS):
        terms = (order(n), "alice", "USD")
        await balance.handle(reserve(*terms, "100"))
        commands = [adjust(*terms, "150", 1), adjust(*terms, "500", 2), adjust(*terms, "110", 3)]
        one, two = await asyncio.gather(balance.handle(*commands), another_balance.handle(*commands))
        told = [["BalanceAdjusted", "150"], ["AdjustmentRefused", "INSUFFICIENT_BALANCE"], ["BalanceAdjusted", "110"]]
        late = [["AdjustmentRefused", "SUPERSEDED"], ["AdjustmentRefused", "SUPERSEDED"], ["BalanceAdjusted", "110"]]
        assert sorted([told, late]) == sorted([[[*written(reply)[1:]] for reply in part] for part in (one, two)])
        assert {"USD": (90, 110)} == await balance.accounts("alice")
        await balance.handle(refund(*terms, "110", 3))
    assert [] == await balance.faults()
