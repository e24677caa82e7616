"""Named tests 6 and 7: the ledger creates, loses, overdraws or double counts no money."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from contracts.balance import BalanceCommand, BalanceRefused, BalanceReserved, BalanceSettled, SettlementRefused
from contracts.decimals import Money
from contracts.envelope import UnreadableMessage
from contracts.orders import OrderCancelRequested
from participants.balance.store import AccountBalance, accounts, deposit
from tests.participants.support import TRACEPARENT, Balance, adjust, order, refund, reserve, settle

ZERO = Decimal(0)


class Deposit(NamedTuple):
    """A deposit; an equal number is the same deposit."""

    number: int

    @property
    def terms(self) -> tuple[str, str, str]:
        """User, asset and amount."""
        amounts = ("0.000000000000000001", "1000", "999999999999999999.999999999999999999")
        return ("alice", "bob")[self.number % 2], ("USD", "BTC", "ETH")[self.number % 3], amounts[self.number // 6]


class Step(NamedTuple):
    """A command for the order of this number, which has its own user, asset and amount."""

    kind: str
    number: int
    capture: str = "0"
    credit: tuple[str, str] = ("USD", "0")
    fee: tuple[str, str] = ("USD", "0")
    revision: int = 1
    whole: str = "1.5"
    """What an adjustment asks for, and under which number."""

    @property
    def terms(self) -> tuple[str, str, str]:
        """User, asset and amount."""
        return ("alice", "bob")[self.number % 2], ("USD", "BTC", "ETH")[self.number % 3], f"{self.number * 3 + 1}.5"


AMOUNTS = st.sampled_from(["0", "0.000000000000000001", "0.01", "1.5", "7.000000000000000003", "9.99", "100"])
ASSETS = st.sampled_from(["USD", "BTC", "ETH"])
STEPS = st.builds(
    Step,
    st.sampled_from(["reserve", "reserve", "adjust", "settle", "refund"]),
    st.integers(0, 3),
    AMOUNTS,
    st.tuples(ASSETS, AMOUNTS),
    st.tuples(ASSETS, AMOUNTS),
    st.integers(1, 3),
    AMOUNTS.filter(lambda amount: amount != "0"),
)
BATCHES = st.lists(STEPS, min_size=1, max_size=8)
SCRIPTS = st.tuples(
    st.lists(st.sampled_from([Deposit(n) for n in (6, 7, 8, 9)]), unique=True),  # each covers the order of number - 6
    st.lists(st.one_of(BATCHES, BATCHES, st.integers(0, 17).map(Deposit)), min_size=1, max_size=8),
).map(lambda parts: [*parts[0], *parts[1]])


def sums() -> defaultdict[tuple[str, str], Fraction]:
    """Make an empty table of sums by user and asset."""
    return defaultdict(Fraction)


@dataclass
class Model:
    """A small model of the balance service without batches and rows, in fractions. `booked` is the journal's sum."""

    available: defaultdict[tuple[str, str], Fraction] = field(default_factory=sums)
    held: defaultdict[tuple[str, str], Fraction] = field(default_factory=sums)
    booked: defaultdict[tuple[str, str], Fraction] = field(default_factory=sums)
    holds: dict[int, str] = field(default_factory=dict)
    amounts: dict[int, Fraction] = field(default_factory=dict)
    revisions: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    deposits: set[int] = field(default_factory=set)

    def deposit(self, number: int, user_id: str, asset_id: str, amount: Fraction) -> None:
        """Count a deposit once."""
        if number not in self.deposits:
            self.deposits.add(number)
            self.available[user_id, asset_id] += amount
            self.book(user_id, "@external", asset_id, amount)

    def handle(self, step: Step) -> str:
        """Execute a command if its hold's state allows it; return the state."""
        user_id, asset_id, text = step.terms
        key, state = (user_id, asset_id), self.holds.get(step.number, "")
        amount = self.amounts.setdefault(step.number, Fraction(text))
        if step.kind == "adjust" and state == "HELD" and step.revision > self.revisions[step.number]:
            self.revisions[step.number] = step.revision
            if Fraction(step.whole) - amount <= self.available[key]:
                self.move(key, amount - Fraction(step.whole))
                self.amounts[step.number] = Fraction(step.whole)
        elif step.kind == "reserve" and not state:
            state = "HELD" if self.available[key] >= amount else "REFUSED"
            if state == "HELD":
                self.move(key, -amount)
        elif step.kind == "refund" and state == "HELD":
            state = "REFUNDED"
            self.move(key, amount)
        elif step.kind == "settle" and state == "HELD":
            state = "REFUNDED" if Fraction(step.capture) > amount else "SETTLED"
            self.move(key, amount)
            if state == "SETTLED":
                self.settle(step, user_id, asset_id)
        self.holds[step.number] = state or "TOMBSTONE"
        return self.holds[step.number]

    def move(self, key: tuple[str, str], to_available: Fraction) -> None:
        """Move between available and held."""
        self.available[key] += to_available
        self.held[key] -= to_available

    def settle(self, step: Step, user_id: str, asset_id: str) -> None:
        """Book both legs and the fee, each against the market."""
        self.available[user_id, asset_id] -= Fraction(step.capture)
        self.available[user_id, step.credit[0]] += Fraction(step.credit[1])
        self.book("@market", user_id, asset_id, Fraction(step.capture))
        self.book(user_id, "@market", step.credit[0], Fraction(step.credit[1]))
        self.book("@fees", "@market", step.fee[0], Fraction(step.fee[1]))

    def book(self, to: str, from_: str, asset_id: str, amount: Fraction) -> None:
        """Book an amount from one account to another."""
        self.booked[to, asset_id] += amount
        self.booked[from_, asset_id] -= amount


@dataclass(frozen=True)
class Example:
    """One example on the real service, with its own names, because examples share the database."""

    balance: Balance
    prefix: str = field(default_factory=lambda: uuid4().hex)

    def command(self, step: Step) -> BalanceCommand:
        """Make the command for a step."""
        user_id, asset_id, amount = step.terms
        terms = (order((self.prefix, step.number)), f"{self.prefix}.{user_id}", asset_id, amount)
        if step.kind == "adjust":
            return adjust(*terms[:3], step.whole, step.revision)
        if step.kind == "settle":
            return settle(*terms, capture=step.capture, credit=step.credit, fee=step.fee)
        return reserve(*terms) if step.kind == "reserve" else refund(*terms)

    async def deposit(self, one: Deposit) -> bool:
        """Make a deposit."""
        user_id, asset_id, amount = one.terms
        name = f"{self.prefix}.{one.number}"
        return await deposit(self.balance.engine, name, f"{self.prefix}.{user_id}", asset_id, Money(amount))

    async def states(self, batch: list[Step]) -> list[str]:
        """Handle a batch; return the hold states in the replies."""
        replies: list[Any] = await self.balance.handle(*map(self.command, batch))
        return [reply.hold_state.value for reply in replies]

    async def books(self) -> tuple[dict[Any, Fraction], dict[Any, Fraction], dict[Any, Fraction]]:
        """Return the available, held and booked amounts by user and asset."""
        rows = await self.balance.rows(
            "SELECT user_id, asset_id, available, held FROM balances.accounts WHERE starts_with(user_id, $1)",
            self.prefix,
        )
        entries = [f"{order((self.prefix, n))}:settle" for n in range(6)] + [
            f"deposit:{self.prefix}.{n}" for n in range(18)
        ]
        lines = await self.balance.rows(
            "SELECT account, asset_id, sum(amount) FROM balances.journal_lines WHERE entry_id = ANY ($1) GROUP BY 1, 2",
            entries,
        )
        who = {f"{self.prefix}.{name}": name for name in ("alice", "bob")}
        return (
            {(who[user_id], asset_id): Fraction(available) for user_id, asset_id, available, _ in rows},
            {(who[user_id], asset_id): Fraction(held) for user_id, asset_id, _, held in rows},
            {(who.get(account, account), asset_id): Fraction(amount) for account, asset_id, amount in lines},
        )


def something(book: dict[Any, Fraction]) -> dict[Any, Fraction]:
    """Leave out zero amounts."""
    return {key: amount for key, amount in book.items() if amount}


BUY = [Deposit(6), [Step("reserve", 0), Step("settle", 0, "0.01", ("BTC", "7"), ("USD", "0.01")), Step("refund", 0)]]
"""Credits an asset of which the user had no account, and returns a remainder."""
SELL_THE_SAME = [Deposit(6), [Step("reserve", 0), Step("settle", 0, "1.5", ("USD", "7"), ("USD", "0.01"))]]
"""Both legs in one asset, so that two journal lines concern one account."""
AMENDED = [
    Deposit(6),
    [Step("reserve", 0), Step("adjust", 0, revision=1, whole="1000"), Step("adjust", 0, revision=3, whole="0.01")],
    [Step("adjust", 0, revision=2, whole="100"), Step("settle", 0, "0.01", ("BTC", "7"))],
]
"""A hold that is raised and lowered; what is late changes nothing."""


@given(SCRIPTS)
@example(BUY)
@example(SELL_THE_SAME)
@example(AMENDED)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # scripts are short already, and shrinking takes minutes
)
async def test_any_script_ends_as_in_the_model(balance: Balance, script: list[Deposit | list[Step]]) -> None:
    """Deposits and commands, in any order and any batches, leave the same accounts and holds as the model.

    Captured plus returned equals the hold, repeats count once, and no digit is lost, from 1e-18 to 1e18.
    """
    play, model = Example(balance), Model()
    for part in script:
        if isinstance(part, Deposit):
            first = part.number not in model.deposits
            user_id, asset_id, amount = part.terms
            model.deposit(part.number, user_id, asset_id, Fraction(amount))
            assert first == await play.deposit(part)
        else:
            assert [model.handle(step) for step in part] == await play.states(part)
    assert [something(book) for book in (model.available, model.held, model.booked)] == [
        something(book) for book in await play.books()
    ]
    assert [] == await balance.faults()


@pytest.mark.parametrize("capture", ["100", "100.000000000000000001", "250"])
async def test_settlement_never_exceeds_the_hold(balance: Balance, capture: str) -> None:
    """The whole hold may be captured; any more is refused, and the same commit refunds the hold."""
    await balance.deposit("alice", USD="300")
    hold = (order(1), "alice", "USD", "100")
    _, reply = await balance.handle(
        reserve(*hold), settle(*hold, capture=capture, credit=("BTC", "0.002"), fee=("USD", "0.1"))
    )
    if capture == "100":
        assert isinstance(reply, BalanceSettled)
        assert ("SETTLED", 100, 100, 0) == await balance.hold(order(1))
        assert {"USD": (200, 0), "BTC": (Decimal("0.002"), 0)} == await balance.accounts("alice")
    else:
        assert isinstance(reply, SettlementRefused)
        assert "EXCEEDS_HOLD" == reply.reason_code
        assert ("REFUNDED", 100, 0, 100) == await balance.hold(order(1))
        assert (300, 0) == (await balance.accounts("alice"))["USD"]
    assert [] == await balance.faults()


async def test_a_settlement_is_one_entry_with_both_sides_of_everything(balance: Balance) -> None:
    """A buy and a sell each book the user, @market and @fees so that the entry sums to zero per asset."""
    await balance.deposit("alice", USD="1000", BTC="1")
    buy, sell = (order(1), "alice", "USD", "500.50"), (order(2), "alice", "BTC", "0.00100001")
    await balance.handle(
        reserve(*buy),
        reserve(*sell),
        settle(*buy, capture="500.50", credit=("BTC", "0.01"), fee=("USD", "0.50")),
        settle(*sell, capture="0.00100001", credit=("USD", "49.94"), fee=("USD", "0.06")),
    )
    sql = "SELECT account, asset_id, amount FROM balances.journal_lines WHERE order_id = $1 ORDER BY 1, 2"
    assert [
        ("@fees", "USD", Decimal("0.50")),
        ("@market", "BTC", Decimal("-0.01")),
        ("@market", "USD", Decimal("500.00")),
        ("alice", "BTC", Decimal("0.01")),
        ("alice", "USD", Decimal("-500.50")),
    ] == await balance.rows(sql, order(1))
    assert [
        ("@fees", "USD", Decimal("0.06")),
        ("@market", "BTC", Decimal("0.00100001")),
        ("@market", "USD", Decimal("-50.00")),
        ("alice", "BTC", Decimal("-0.00100001")),
        ("alice", "USD", Decimal("49.94")),
    ] == await balance.rows(sql, order(2))
    assert [] == await balance.faults()


async def test_three_debits_of_one_account_in_one_batch_are_one(balance: Balance) -> None:
    """Of three holds of 30 and a fourth on 100 in one batch, three succeed and 90 are held."""
    await balance.deposit("alice", USD="100")
    replies = await balance.handle(*(reserve(order(n), "alice", "USD", "30") for n in range(4)))
    assert [BalanceReserved, BalanceReserved, BalanceReserved, BalanceRefused] == [type(reply) for reply in replies]
    assert {"USD": (10, 90)} == await balance.accounts("alice")
    assert [] == await balance.faults()


async def test_money_that_comes_in_a_batch_can_be_held_in_the_same(balance: Balance) -> None:
    """Commands count in message order: a later reserve in the batch can hold what a settlement credited."""
    await balance.deposit("alice", USD="100")
    buy = (order(1), "alice", "USD", "100")
    replies = await balance.handle(
        reserve(order(2), "alice", "BTC", "1"),
        reserve(*buy),
        settle(*buy, capture="100", credit=("BTC", "2"), fee=("USD", "1")),
        reserve(order(3), "alice", "BTC", "1"),
    )
    assert [BalanceRefused, BalanceReserved, BalanceSettled, BalanceReserved] == [type(reply) for reply in replies]
    assert {"USD": (0, 0), "BTC": (1, 1)} == await balance.accounts("alice")


async def test_splitting_an_order_gains_nothing(balance: Balance) -> None:
    """The ledger captures and credits exactly the amounts of the commands, however many, and rounds nothing."""
    parts = 50
    await balance.deposit("alice", USD="1")
    amount = "0.000000000000000007"
    for n in range(parts):
        hold = (order(n), "alice", "USD", amount)
        await balance.handle(reserve(*hold), settle(*hold, capture=amount, credit=("BTC", amount), fee=("USD", "0")))
    total = parts * Decimal(amount)
    assert {"USD": (1 - total, 0), "BTC": (total, 0)} == await balance.accounts("alice")


async def test_what_can_not_be_a_command_is_unreadable(balance: Balance) -> None:
    """A reserve of zero, or a message that is no command, is unreadable and becomes a dead letter."""
    with pytest.raises(UnreadableMessage, match="amount must be more than 0"):
        await balance.handle(reserve(order(1), "alice", "USD", "0"))
    with pytest.raises(UnreadableMessage, match="not a command for the balance service"):
        await balance.handle(OrderCancelRequested(order(1), "alice", "alice"))


async def test_a_reply_names_its_command_and_its_trace(balance: Balance) -> None:
    """A reply's id follows from its command, so a repeat has the same; its key is the order, its trace the saga's."""
    command = reserve(order(1), "alice", "USD", "1")
    await balance.handle(command, command)
    for reply in balance.publisher.published:
        assert f"{order(1)}:reserve:BalanceRefused" == reply.id
        assert ("balance.replies", str(order(1))) == (reply.topic, reply.key)
        assert TRACEPARENT == dict(reply.headers)["traceparent"].decode()


async def test_a_reply_is_stored_with_its_effect(balance: Balance) -> None:
    """A reply that the broker did not take is in the outbox, stored in the same transaction as its effect."""
    await balance.deposit("alice", USD="1")
    balance.publisher.works = False
    assert [] == await balance.handle(reserve(order(1), "alice", "USD", "1"))
    assert [([f"{order(1)}:reserve"],)] == await balance.rows("SELECT refs FROM balances.outbox")


async def test_a_deposit_counts_once(balance: Balance) -> None:
    """The same deposit again changes nothing and says so; the same id with other terms is refused."""
    terms = ("d1", "alice", "USD", Money("10.50"))
    assert [True, False] == [await deposit(balance.engine, *terms) for _ in range(2)]
    assert [AccountBalance("USD", Decimal("10.50"), ZERO)] == await accounts(balance.engine, "alice")
    for other in (("d1", "bob", "USD", "10.50"), ("d1", "alice", "BTC", "10.50"), ("d1", "alice", "USD", "10.51")):
        with pytest.raises(ValueError, match="d1 was already made"):
            await deposit(balance.engine, *other[:3], Money(other[3]))
    sql = "SELECT entry_id, account, asset_id, amount FROM balances.journal_lines ORDER BY account"
    lines = await balance.rows(sql)
    expected = [("@external", Decimal("-10.50")), ("alice", Decimal("10.50"))]
    assert [("deposit:d1", account, "USD", amount) for account, amount in expected] == lines


@pytest.mark.parametrize("user_id", ["@fees", "", "a b", "ä", "x" * 65, "alice\n"])
async def test_a_deposit_to_an_invalid_name_is_refused(balance: Balance, user_id: str) -> None:
    """A deposit to a system account, or to a user name that no command can carry, is refused."""
    with pytest.raises(ValueError, match="1 to 64"):
        await deposit(balance.engine, "d1", user_id, "USD", Money(1))


async def test_accounts_are_listed_by_asset(balance: Balance) -> None:
    """A user's accounts are sorted by asset; an unknown user has none."""
    await balance.deposit("alice", USD="1", BTC="2", ETH="3")
    assert ["BTC", "ETH", "USD"] == [one.asset_id for one in await accounts(balance.engine, "alice")]
    assert [] == await accounts(balance.engine, "bob")
