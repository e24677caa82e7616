"""Named test 10: two instances work on the same accounts and messages at once, and no money appears or is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from contracts.balance import BalanceCommand, BalanceRefused, BalanceReserved, BalanceSettled
from contracts.codec import Message
from contracts.decimals import Money
from contracts.vocabulary import HoldState
from participants.balance.store import StoredLedger, deposit
from saga_kit.participant.barrier import HoldCommand
from saga_kit.runtime.transactions import Transaction
from tests.participants.support import Balance, order, refund, reserve, settle, somebody_waits

ROUNDS = 40


async def test_two_orders_on_one_account_at_once_do_not_overdraw(balance: Balance, another_balance: Balance) -> None:
    """Of two holds of 60 on 100 that two instances handle at once, exactly one succeeds."""
    await balance.deposit("alice", USD="100")
    for n in range(ROUNDS):
        (one,), (two,) = await asyncio.gather(
            balance.handle(reserve(order(("one", n)), "alice", "USD", "60")),
            another_balance.handle(reserve(order(("two", n)), "alice", "USD", "60")),
        )
        assert {BalanceReserved, BalanceRefused} == {type(one), type(two)}
        assert {"USD": (40, 60)} == await balance.accounts("alice")
        winner = order(("one" if isinstance(one, BalanceReserved) else "two", n))
        await balance.handle(refund(winner, "alice", "USD", "60"))
    assert [] == await balance.faults()


async def test_opposite_legs_of_many_users_do_not_deadlock(balance: Balance, another_balance: Balance) -> None:
    """Two instances settle buys and sells of the same users in opposite orders at once, and no batch is run again."""
    users = [f"user-{n}" for n in range(20)]
    for user_id in users:
        await balance.deposit(user_id, USD="1000", BTC="1000")
    for n in range(ROUNDS):
        buys, sells = _trades("USD", "BTC", users, n), _trades("BTC", "USD", users[::-1], n)
        replies = await asyncio.gather(balance.handle(*buys), another_balance.handle(*sells))
        assert {BalanceReserved, BalanceSettled} == {type(reply) for part in replies for reply in part}
    assert (0, 0) == (balance.retries, another_balance.retries)
    assert {"USD": (1000, 0), "BTC": (1000, 0)} == await balance.accounts(users[0])
    assert [] == await balance.faults()


def _trades(pay: str, get: str, users: Sequence[str], n: int) -> list[BalanceCommand]:
    commands: list[BalanceCommand] = []
    for user_id in users:
        hold = (order((pay, user_id, n)), user_id, pay, "1")
        commands += [reserve(*hold), settle(*hold, capture="1", credit=(get, "1"), fee=(pay, "0.01"))]
    return commands


async def test_the_same_batch_on_two_instances_at_once_counts_once(balance: Balance, another_balance: Balance) -> None:
    """Two instances that get the same records in a rebalance have one effect and send the same replies."""
    await balance.deposit("alice", USD=str(ROUNDS))
    for n in range(ROUNDS):
        hold = (order(n), "alice", "USD", "1")
        batch: list[BalanceCommand] = [
            reserve(*hold),
            settle(*hold, capture="0.75", credit=("BTC", "1"), fee=("USD", "0")),
            reserve(order(("unknown", n)), f"unknown-{n}", "USD", "1"),
        ]
        one, two = await asyncio.gather(balance.handle(*batch), another_balance.handle(*batch))
        # The hold's state may differ: a reply reports the state at its own time.
        assert [without_hold_state(reply) for reply in one] == [without_hold_state(reply) for reply in two]
    assert {"USD": (ROUNDS // 4, 0), "BTC": (ROUNDS, 0)} == await balance.accounts("alice")
    assert [] == await balance.faults()


def without_hold_state(reply: Message) -> Message:
    """Return the reply without the hold's state."""
    return msgspec.structs.replace(reply, hold_state=HoldState.HELD)


async def test_deposits_and_first_credits_of_one_account_at_once_all_count(
    balance: Balance, another_balance: Balance
) -> None:
    """Two deposits and a settlement that create one account at the same moment create it once and all count."""
    for n in range(ROUNDS):
        user_id = f"user-{n}"
        await balance.deposit(user_id, USD="1")
        hold = (order(n), user_id, "USD", "1")
        await asyncio.gather(
            balance.handle(reserve(*hold), settle(*hold, capture="1", credit=("BTC", "4"), fee=("USD", "0"))),
            deposit(another_balance.engine, f"{n}:one", user_id, "BTC", Money(2)),
            deposit(another_balance.engine, f"{n}:two", user_id, "BTC", Money(1)),
        )
        assert {"USD": (0, 0), "BTC": (7, 0)} == await balance.accounts(user_id)
    assert [] == await balance.faults()


async def test_accounts_are_locked_in_their_order(balance: Balance, another_balance: Balance) -> None:
    """A batch that waits for an account's lock holds only locks of earlier accounts, so no cycle of waits can form."""
    users = [f"user-{n:02}" for n in range(30)]
    for user_id in reversed(users):  # the rows' order on disk then differs from the locking order
        await balance.deposit(user_id, USD="1")
    lock = "SELECT user_id FROM balances.accounts WHERE user_id {} FOR UPDATE SKIP LOCKED"
    async with another_balance.engine.begin() as tx:
        await tx.exec_driver_sql(lock.format("= 'user-15'"))
        batch = asyncio.create_task(balance.handle(*(reserve(order(one), one, "USD", "1") for one in users)))
        await somebody_waits(another_balance.engine)
        free = sorted((await tx.exec_driver_sql(lock.format("<> ''"))).scalars())
    assert users[15:] == free
    assert {BalanceReserved} == {type(reply) for reply in await batch}


async def test_a_settlement_waits_for_an_account_that_another_transaction_makes(
    balance: Balance, another_balance: Balance
) -> None:
    """A settlement that credits an account which another transaction is creating waits, and then adds to it."""
    await balance.deposit("alice", USD="1")
    buy = (order(1), "alice", "USD", "1")
    await balance.handle(reserve(*buy))
    async with another_balance.engine.begin() as tx:
        await tx.exec_driver_sql("INSERT INTO balances.accounts VALUES ('alice', 'BTC', 0, 0)")
        settling = asyncio.create_task(balance.handle(settle(*buy, capture="1", credit=("BTC", "4"), fee=("USD", "0"))))
        await somebody_waits(another_balance.engine)
    assert [BalanceSettled] == [type(reply) for reply in await settling]
    assert {"USD": (0, 0), "BTC": (4, 0)} == await balance.accounts("alice")
    assert [] == await balance.faults()


@dataclass(slots=True)
class SlowLedger(StoredLedger):
    """A ledger that waits once between locking accounts and locking holds."""

    locked: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[BalanceCommand]]) -> None:
        """Lock, report it, and wait."""
        await StoredLedger.lock(self, tx, commands)
        self.locked.set()
        await self.go_on.wait()


async def test_a_hold_is_refunded_although_its_account_was_just_made(balance: Balance) -> None:
    """If a hold's account is created after the batch took its account locks, the batch runs again and refunds it."""
    await balance.deposit("alice", USD="1")
    slow = SlowLedger()
    ledgers = iter([slow])
    other = Balance(balance.engine, lambda: next(ledgers, StoredLedger()))
    sell = (order(2), "alice", "BTC", "5")
    refunding = asyncio.create_task(other.handle(refund(*sell)))
    await slow.locked.wait()
    buy = (order(1), "alice", "USD", "1")
    await balance.handle(
        reserve(*buy), settle(*buy, capture="1", credit=("BTC", "5"), fee=("USD", "0")), reserve(*sell)
    )
    slow.go_on.set()
    await refunding
    assert ("REFUNDED", 5, 0, 5) == await balance.hold(order(2))
    assert {"USD": (0, 0), "BTC": (5, 0)} == await balance.accounts("alice")
    assert 1 == other.retries
    assert [] == await balance.faults()
