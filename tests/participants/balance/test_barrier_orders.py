"""Named tests 1 and 2: every order and repetition of Reserve, Refund and Settle ends as the protocol's table says."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from contracts.balance import BalanceCommand, BalanceRefused, BalanceReserved
from contracts.decimals import Money
from contracts.vocabulary import HoldState
from tests.participants.balance.scripts import run, written
from tests.participants.support import Balance, Pair, order, refund, reserve, settle

LENGTH_MAX = 4
Script = tuple[str, ...]
SCRIPTS: tuple[Script, ...] = tuple(
    script
    for length in range(1, LENGTH_MAX + 1)
    for script in itertools.product(("Reserve", "Refund", "Settle"), repeat=length)
)
CUTS: tuple[tuple[int, ...], ...] = tuple(
    cuts for count in range(LENGTH_MAX) for cuts in itertools.combinations(range(1, LENGTH_MAX), count)
)
"""The positions where batches end; with all of them, each batch has one command."""


@dataclass(frozen=True)
class Case:
    """A user's USD, and the participant's decisions where the barrier allows one. The hold is 100 USD."""

    name: str
    deposit: str | None
    capture: str = "97.5"
    to_reserve: str | None = None
    to_settle: str | None = None


CASES = (
    Case("thin", "100"),
    Case("poor", "99.999999999999999999", to_reserve="INSUFFICIENT_BALANCE"),
    Case("unknown-user", None, to_reserve="ACCOUNT_NOT_FOUND"),
    Case("greedy", "100", capture="100.000000000000000001", to_settle="EXCEEDS_HOLD"),
)
YES = {
    "Reserve": ("BalanceReserved", "100"),
    "Settle": ("BalanceSettled", "97.5", "2.5"),
    "Refund": ("BalanceRefunded", "100"),
}
NO = {"Reserve": "BalanceRefused", "Settle": "SettlementRefused", "Refund": "RefundRefused"}


@dataclass(frozen=True)
class Saga:
    """One order of one user, and the commands that arrive for it."""

    case: Case
    script: Script
    user_id: str
    order_id: UUID

    def commands(self) -> list[BalanceCommand]:
        """Return the commands in their order of arrival."""
        terms = (self.order_id, self.user_id, "USD", "100")
        known: dict[str, BalanceCommand] = {
            "Reserve": reserve(*terms),
            "Refund": refund(*terms),
            "Settle": settle(*terms, capture=self.case.capture, credit=("BTC", "0.002"), fee=("USD", "0.1")),
        }
        return [known[name] for name in self.script]


def expected_replies(case: Case, script: Script) -> list[tuple[str, ...]]:
    """Return state and reply after each command: the protocol's table, written independently of the code."""
    state, reason, replies = "", "", []
    for command in script:
        match command, state:
            case "Reserve", "":
                state, reason = ("REFUSED", case.to_reserve) if case.to_reserve else ("HELD", "")
            case "Settle", "HELD":
                state, reason = ("REFUNDED", case.to_settle) if case.to_settle else ("SETTLED", "")
            case "Refund", "HELD":
                state = "REFUNDED"
            case _, "":
                state = "TOMBSTONE"
        match command, state:
            case ("Reserve", "HELD" | "SETTLED") | ("Settle", "SETTLED") | ("Refund", "REFUNDED"):
                reply = YES[command]
            case "Refund", "TOMBSTONE" | "REFUSED":
                reply = ("BalanceRefunded", "0")
            case ("Reserve", "REFUSED") | ("Settle", "REFUNDED") if reason:
                reply = (NO[command], reason)
            case "Settle", _:
                reply = (NO[command], "NOT_HELD")
            case _:
                reply = (NO[command], "CLOSED")
        replies.append((state, *reply))
    return replies


def expected_accounts(case: Case, state: str) -> dict[str, Pair]:
    """Return the user's final accounts, without empty ones."""
    if case.deposit is None:
        return {}
    if state == "HELD":
        return {"USD": (Decimal(0), Decimal(100))}
    if state == "SETTLED":
        return {"USD": (Decimal("2.5"), Decimal(0)), "BTC": (Decimal("0.002"), Decimal(0))}
    return {"USD": (Decimal(case.deposit), Decimal(0))}


@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "-".join(map(str, cuts)) or "whole")
async def test_every_order_of_arrival_has_the_end_of_the_table(balance: Balance, cuts: tuple[int, ...]) -> None:
    """Rows and replies match the table for every order, every repetition and every cut into batches."""
    sagas = [
        Saga(case, script, f"{case.name}:{'-'.join(script)}", order((case.name, script)))
        for case in CASES
        for script in SCRIPTS
    ]
    for saga in sagas:  # one at a time: on a busy machine, hundreds at once would wait too long for a connection
        if saga.case.deposit:
            await balance.deposit(saga.user_id, USD=saga.case.deposit)
    replies = await run(balance, sagas, cuts)
    holds = {row[0]: row[1] for row in await balance.rows("SELECT hold_id, state FROM balances.holds")}
    accounts = await balance.all_accounts()
    for saga in sagas:
        foreseen = expected_replies(saga.case, saga.script)
        assert foreseen == replies[saga], saga
        assert foreseen[-1][0] == holds[f"{saga.order_id}:reserve"], saga
        assert expected_accounts(saga.case, foreseen[-1][0]) == accounts.get(saga.user_id, {}), saga
    assert [] == await balance.faults()


@pytest.mark.parametrize("cuts", [(), (1, 2, 3)], ids=["whole", "singly"])
async def test_sagas_on_one_account_do_not_disturb_each_other(balance: Balance, cuts: tuple[int, ...]) -> None:
    """Scripts that run at once on one user's single account end as each would alone."""
    case = CASES[0]
    sagas = [Saga(case, script, "alice", order(script)) for script in SCRIPTS]
    await balance.deposit("alice", USD=str(100 * len(SCRIPTS)))
    replies = await run(balance, sagas, cuts)
    assert {saga: expected_replies(case, saga.script) for saga in sagas} == replies
    ends = [expected_accounts(case, replies[saga][-1][0]) for saga in sagas]
    total = {
        asset_id: (sum((end[asset_id][0] for end in ends if asset_id in end), start=Decimal(0)), Decimal(held))
        for asset_id, held in (("USD", 100 * sum(reply[-1][0] == "HELD" for reply in replies.values())), ("BTC", 0))
    }
    assert total == (await balance.all_accounts())["alice"]
    assert [] == await balance.faults()


async def test_a_redelivered_reserve_on_a_thin_balance_repeats_its_success(balance: Balance) -> None:
    """The balance covers one hold: the same Reserve again succeeds, in any batch, and another one is refused."""
    await balance.deposit("alice", USD="100")
    command = reserve(order(1), "alice", "USD", "100")
    first = [BalanceReserved, BalanceReserved]
    assert first == [type(reply) for reply in await balance.handle(command, command)]
    again, other = await balance.handle(command, reserve(order(2), "alice", "USD", "0.01"))
    assert isinstance(again, BalanceReserved)
    assert isinstance(other, BalanceRefused)
    assert {"USD": (Decimal(0), Decimal(100))} == await balance.accounts("alice")


async def test_a_refusal_is_repeated_when_there_is_money_meanwhile(balance: Balance) -> None:
    """A refusal is final: a redelivered Reserve is refused for the same reason, even after a deposit."""
    command = reserve(order(1), "alice", "USD", "100")
    (refused,) = await balance.handle(command)
    await balance.deposit("alice", USD="100")
    (again,) = await balance.handle(command)
    assert refused == again
    assert isinstance(again, BalanceRefused)
    assert ("ACCOUNT_NOT_FOUND", HoldState.REFUSED) == (again.reason_code, again.hold_state)


@pytest.mark.parametrize("kind", ["Reserve", "Refund", "Settle"])
@pytest.mark.parametrize(
    ("user_id", "asset_id", "amount"), [("bob", "USD", "100"), ("alice", "BTC", "100"), ("alice", "USD", "99")]
)
async def test_other_terms_under_a_known_hold_id_change_nothing(
    balance: Balance, kind: str, user_id: str, asset_id: str, amount: str
) -> None:
    """Another user, asset or amount is refused as HOLD_CONFLICT with the hold's state, and no row changes."""
    for who in ("alice", "bob"):
        await balance.deposit(who, USD="1000", BTC="1000")
    await balance.handle(reserve(order(1), "alice", "USD", "100"))
    before = await balance.all_accounts(), await balance.hold(order(1))
    terms = (order(1), user_id, asset_id, amount)
    commands: dict[str, BalanceCommand] = {
        "Reserve": reserve(*terms),
        "Refund": refund(*terms),
        "Settle": settle(*terms, capture="1", credit=("BTC", "1"), fee=("USD", "0")),
    }
    (reply,) = await balance.handle(commands[kind])
    assert ("HELD", NO[kind], "HOLD_CONFLICT") == written(reply)
    assert before == (await balance.all_accounts(), await balance.hold(order(1)))


@pytest.mark.parametrize("case", [case for case in CASES if case.to_reserve is None], ids=lambda case: case.name)
async def test_a_settlement_with_another_capture_repeats_the_first_verdict(balance: Balance, case: Case) -> None:
    """A settled hold keeps its first capture and a refunded hold stays refunded, whatever a later command captures."""
    await balance.deposit("alice", USD="100")
    saga = Saga(case, ("Reserve", "Settle"), "alice", order(1))
    (_, first) = await balance.handle(*saga.commands())
    before = await balance.all_accounts()
    (again,) = await balance.handle(msgspec.structs.replace(saga.commands()[1], capture=Money(1)))
    assert first == again
    assert before == await balance.all_accounts()


async def test_an_unknown_user_gets_no_account(balance: Balance) -> None:
    """Reserve and Refund for an unknown user create no account; a later Reserve still says ACCOUNT_NOT_FOUND."""
    await balance.handle(reserve(order(1), "mallory", "USD", "1"), refund(order(1), "mallory", "USD", "1"))
    await balance.handle(refund(order(2), "mallory", "USD", "1"))
    assert [] == await balance.rows("SELECT * FROM balances.accounts")
    (reply,) = await balance.handle(reserve(order(3), "mallory", "USD", "1"))
    assert ("REFUSED", "BalanceRefused", "ACCOUNT_NOT_FOUND") == written(reply)


async def test_a_user_who_lacks_the_asset_has_insufficient_balance(balance: Balance) -> None:
    """A user with accounts but not in this asset gets INSUFFICIENT_BALANCE, and not ACCOUNT_NOT_FOUND."""
    await balance.deposit("alice", USD="100")
    (reply,) = await balance.handle(reserve(order(1), "alice", "BTC", "0.1"))
    assert ("REFUSED", "BalanceRefused", "INSUFFICIENT_BALANCE") == written(reply)
    assert {"USD": (Decimal(100), Decimal(0))} == await balance.accounts("alice")
