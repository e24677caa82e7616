"""The balance service alone, asked by a plain client: commands in every order, repeats, two processes at once."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.e2e.system import System, eventually, running
from tests.e2e.test_money import DEADLOCKS
from tests.e2e.wire import PARTITIONS, Follower, Message, Record, message
from tests.support.infrastructure import Infrastructure

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVE, REFUND, SETTLE = "ReserveBalance", "RefundBalance", "SettleBalance"
SEQUENCES = [kinds for length in (1, 2, 3) for kinds in itertools.product((RESERVE, REFUND, SETTLE), repeat=length)]
AMOUNT = 100

BARRIER = {
    (RESERVE, None): ("BalanceReserved", "HELD"),
    (RESERVE, "HELD"): ("BalanceReserved", "HELD"),
    (RESERVE, "REFUSED"): ("BalanceRefused", "REFUSED"),
    (RESERVE, "TOMBSTONE"): ("BalanceRefused", "TOMBSTONE"),
    (RESERVE, "REFUNDED"): ("BalanceRefused", "REFUNDED"),
    (RESERVE, "SETTLED"): ("BalanceReserved", "SETTLED"),
    (REFUND, None): ("BalanceRefunded", "TOMBSTONE"),
    (REFUND, "HELD"): ("BalanceRefunded", "REFUNDED"),
    (REFUND, "REFUSED"): ("BalanceRefunded", "REFUSED"),
    (REFUND, "TOMBSTONE"): ("BalanceRefunded", "TOMBSTONE"),
    (REFUND, "REFUNDED"): ("BalanceRefunded", "REFUNDED"),
    (REFUND, "SETTLED"): ("RefundRefused", "SETTLED"),
    (SETTLE, None): ("SettlementRefused", "TOMBSTONE"),
    (SETTLE, "HELD"): ("BalanceSettled", "SETTLED"),
    (SETTLE, "REFUSED"): ("SettlementRefused", "REFUSED"),
    (SETTLE, "TOMBSTONE"): ("SettlementRefused", "TOMBSTONE"),
    (SETTLE, "REFUNDED"): ("SettlementRefused", "REFUNDED"),
    (SETTLE, "SETTLED"): ("BalanceSettled", "SETTLED"),
}
"""By command and state of the hold: the answer and the next state, for an account that covers the amount."""


@dataclass(frozen=True)
class Hold:
    """A hold as the orchestrator would ask for it; `kinds` are the commands for it, in their order."""

    user_id: str
    kinds: Sequence[str] = ()
    order_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def command(self, kind: str, *, partition: int = -1, **other: Any) -> Message:
        """Write a command; a settlement captures all but a tenth and credits one unit of another asset."""
        step = kind.removesuffix("Balance").lower()
        body = {
            "command_id": f"{self.order_id}:{step}",
            "order_id": self.order_id,
            "hold_id": f"{self.order_id}:reserve",
        }
        body |= {"user_id": self.user_id, "asset_id": "USD", "amount": str(AMOUNT)}
        if kind == SETTLE:
            body |= {"capture": str(AMOUNT - 10), "credit_asset_id": "BTC", "credit": "1"}
            body |= {"fee_asset_id": "USD", "fee": "0.5"}
        return message("balance.commands", self.user_id, kind, body | other, partition=partition)

    def answers(self, *, poor: bool) -> list[tuple[str, str]]:
        """Work out the answers to the commands, and the state of the hold after each."""
        state: str | None = None
        told = []
        for kind in self.kinds:
            answer, after = BARRIER[kind, state]
            if poor and (kind, state) == (RESERVE, None):
                answer, after = "BalanceRefused", "REFUSED"
            told.append((answer, state := after))
        return told


class BalanceClient:
    """Sends commands and collects the replies to them, by order."""

    def __init__(self, system: System, replies: Follower) -> None:
        self.system = system
        self._replies = replies

    async def ask(self, *commands: Message) -> dict[str, list[Record]]:
        """Send commands, wait for a reply to each, and return the replies by order id, in the order of arrival."""
        counted = Counter(command_body(command)["order_id"] for command in commands)
        already = {order_id: len(found) for order_id, found in self._by_order().items()}
        await self.system.producer.send(*commands)

        async def all_answered() -> bool:
            found = self._by_order()
            return all(len(found[order_id]) - already.get(order_id, 0) >= count for order_id, count in counted.items())

        await eventually(all_answered, f"{len(commands)} commands are answered")
        found = self._by_order()
        return {order_id: found[order_id][already.get(order_id, 0) :] for order_id in counted}

    async def account(self, user_id: str, asset_id: str) -> tuple[Fraction, Fraction]:
        """Read what is available and what is held."""
        statement = "SELECT available, held FROM audit.accounts WHERE user_id = $1 AND asset_id = $2"
        rows = await self.system.rows(statement, user_id, asset_id)
        return (Fraction(rows[0]["available"]), Fraction(rows[0]["held"])) if rows else (Fraction(0), Fraction(0))

    async def states(self, user_id: str) -> Counter[str]:
        """Count a user's holds by state."""
        rows = await self.system.rows("SELECT state FROM audit.holds WHERE user_id = $1", user_id)
        return Counter(row["state"] for row in rows)

    def _by_order(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in list(self._replies.records):
            found[record.body["order_id"]].append(record)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    infrastructure: Infrastructure, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BalanceClient]:
    """Run the balance service alone, so that only this client reads its replies."""
    replicas = {"balance": 2 if infrastructure.broker_kind == "apache" else 1, "assets": 0, "orchestrator": 0, "api": 0}
    folder = tmp_path_factory.mktemp("balance")
    async with running(infrastructure, folder, replicas=replicas, samples=False) as system:
        with Follower(infrastructure.kafka_bootstrap_servers, f"{system.prefix}balance.replies") as replies:
            yield BalanceClient(system, replies)


async def test_a_redelivered_reserve_on_a_thin_balance_repeats_its_success(client: BalanceClient) -> None:
    """Named test 1: a reservation that took the whole balance succeeds again when redelivered, and holds no more."""
    holds = [Hold(f"thin-{number}") for number in range(50)]
    await client.system.endow([hold.user_id for hold in holds], {"USD": str(AMOUNT)})
    for _ in range(3):
        told = await client.ask(*(hold.command(RESERVE) for hold in holds))
        assert {("BalanceReserved", "HELD", str(AMOUNT))} == {
            (record.type, record.body["hold_state"], record.body["amount"])
            for found in told.values()
            for record in found
        }
    assert {(Fraction(0), Fraction(AMOUNT))} == {await client.account(hold.user_id, "USD") for hold in holds}


@pytest.mark.parametrize("poor", [False, True], ids=["covered", "not covered"])
async def test_every_order_of_reserve_refund_and_settle(client: BalanceClient, poor: bool) -> None:  # noqa: FBT001 - a parameter
    """Named test 2: the table answers all sequences up to length 3, with repeats and a refund that comes first."""
    user = "poor" if poor else "rich"
    [user] = await client.system.endow([user], {"USD": "1" if poor else "1000000"})
    holds = [Hold(user, kinds) for kinds in SEQUENCES]
    by_number = [hold.command(hold.kinds[number]) for number in range(3) for hold in holds if number < len(hold.kinds)]
    told = await client.ask(*by_number)
    assert {hold.kinds: hold.answers(poor=poor) for hold in holds} == {
        hold.kinds: [(record.type, record.body["hold_state"]) for record in told[hold.order_id]] for hold in holds
    }
    ends = Counter(hold.answers(poor=poor)[-1][1] for hold in holds)
    assert ends == await client.states(user)
    await _assert_accounts(client, user, ends, usd=1 if poor else 1_000_000)


async def test_a_settlement_never_exceeds_its_hold(client: BalanceClient) -> None:
    """Named test 6: a settlement above its hold is refused for good and refunds it; other terms change nothing."""
    await client.system.endow(["greedy"], {"USD": "300"})
    more, equal, other = (Hold("greedy") for _ in range(3))
    await client.ask(*(hold.command(RESERVE) for hold in (more, equal, other)))
    told = await client.ask(
        more.command(SETTLE, capture="100.01"),
        equal.command(SETTLE, capture="100"),
        other.command(SETTLE, amount="200", capture="200"),
    )
    assert {
        more.order_id: ("SettlementRefused", "REFUNDED", "EXCEEDS_HOLD"),
        equal.order_id: ("BalanceSettled", "SETTLED", None),
        other.order_id: ("SettlementRefused", "HELD", "HOLD_CONFLICT"),
    } == {
        order_id: (record.type, record.body["hold_state"], record.body.get("reason_code"))
        for order_id, [record] in told.items()
    }
    assert (Fraction(100), Fraction(100)) == await client.account("greedy", "USD")


async def test_two_processes_at_once_on_the_same_accounts(client: BalanceClient) -> None:
    """Commands of one account come on all partitions: no effect happens twice, no overdraft, no deadlock."""
    users = [f"busy-{number}" for number in range(4)]
    await client.system.endow(users, {"USD": "2000", "BTC": "1"})  # an account that must be made first is one more lock
    rng = random.Random(10)  # noqa: S311 - a test's dice must fall alike each time
    holds = [Hold(user, (RESERVE, RESERVE, rng.choice((SETTLE, REFUND)), SETTLE)) for user in users for _ in range(60)]
    commands = [hold.command(kind, partition=rng.randrange(PARTITIONS)) for hold in holds for kind in hold.kinds]
    rng.shuffle(commands)
    async with _all_accounts_locked(client):
        asking = asyncio.create_task(client.ask(*commands))
        waiting = f"every process has a batch and waits for {', '.join(users)}"
        await eventually(lambda: _all_wait(client), waiting, poll_s=0.01)
    for records in (await asking).values():
        said = {record.type for record in records}
        given_back = [
            record for record in records if record.type == "BalanceRefunded" and record.body["refunded"] != "0"
        ]
        assert not ("BalanceSettled" in said and given_back)
    for user in users:
        await _assert_accounts(client, user, await client.states(user), usd=2000, btc=1)
    assert [(0,)] == [tuple(row) for row in await client.system.owner_rows(DEADLOCKS)]


@asynccontextmanager
async def _all_accounts_locked(client: BalanceClient) -> AsyncIterator[None]:
    """Lock every account row, so that no service can change one."""
    connection = await asyncpg.connect(client.system.stack.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM balances.accounts FOR UPDATE")
            yield
    finally:
        await connection.close()


async def _all_wait(client: BalanceClient) -> bool:
    """Tell whether each process of the service waits for a lock."""
    waiting = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'balance' AND wait_event_type = 'Lock'"""
    [row] = await client.system.owner_rows(waiting)
    return bool(row["count"] >= len(client.system.stack.pids["balance"]))


def command_body(command: Message) -> Any:
    """Read a command's body."""
    return Record(0, 0, None, command.value, []).body


async def _assert_accounts(client: BalanceClient, user: str, states: Counter[str], *, usd: int, btc: int = 0) -> None:
    """Compare a user's accounts and the journal with what the holds say has happened."""
    settled, held = states["SETTLED"], states["HELD"] * AMOUNT
    spent = settled * (AMOUNT - 10)
    assert (Fraction(usd - spent - held), Fraction(held)) == await client.account(user, "USD")
    assert (Fraction(btc + settled), Fraction(0)) == await client.account(user, "BTC")
    sums = (
        "SELECT asset_id, sum(amount) FROM audit.journal WHERE account = $1 AND order_id IS NOT NULL GROUP BY asset_id"
    )
    expected = {"USD": -spent, "BTC": settled} if settled else {}
    assert expected == {row["asset_id"]: row["sum"] for row in await client.system.rows(sums, user)}
    assert [] == await client.system.rows(
        "SELECT asset_id FROM audit.journal GROUP BY asset_id HAVING sum(amount) <> 0"
    )
