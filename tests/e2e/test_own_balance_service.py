"""Another team's balance service takes over a running system by the commands of docs/own-balance-service.md."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from contracts.topics import TOPICS
from local_stack.ports import free_ports
from local_stack.probes import http_ready
from local_stack.stack import LocalStack, StackOptions
from operations.demo.samples import load_samples
from operations.deployment.acls import read
from tests.e2e.orders import Wanted, buy, sell
from tests.e2e.system import Output, eventually
from tests.e2e.wire import Producer, message
from tests.support.infrastructure import Infrastructure, drop_database

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-balance-service.md").read_text()
COST = Decimal("500.50")
"""What 0.01 BTC at 50,000 costs with its fee."""
# Makes the reference service settle nothing, as in an outage, so that orders in flight hold money there.
HANG = (
    (
        "CREATE FUNCTION balances.hang() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'query_canceled', MESSAGE = 'a test'; END $$"
    ),
    "CREATE TRIGGER hang BEFORE UPDATE OF state ON balances.holds FOR EACH STATEMENT EXECUTE FUNCTION balances.hang()",
)


def shown(name: str) -> str:
    """Return the code block of the page that stands under the comment with this name."""
    block = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None, name
    return block.group(1)


@dataclass
class Site:
    """A folder like a checkout, in which a system runs with the reference balance service or without it."""

    folder: Path
    prefix: str
    url: str
    options: StackOptions
    port: int

    @asynccontextmanager
    async def running(self, *without: str) -> AsyncIterator[LocalStack]:
        """Run `make run`'s stack."""
        options = StackOptions(
            **{
                name: getattr(self.options, name) for name in ("database_url", "kafka_bootstrap_servers", "environment")
            },
            load_samples=None if without else (lambda logins: load_samples(logins, 1.0)),
            without=frozenset(without),
        )
        async with LocalStack(self.folder / ".local", options) as stack:
            yield stack

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the example as the page says, but on a free port, while the block runs; begin when it is ready."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", _on(self.port, shown("addresses") + "exec env " + shown("serve"))),
            cwd=self.folder,
            env=self.environment,
        )
        try:
            await eventually(http_ready(self.port), "the service is ready")
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            assert 0 == await process.wait()

    async def follow(self, *names: str) -> Output:
        """Run blocks of the page in one shell."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", "\n".join(map(shown, ("addresses", *names)))),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Output(process.returncode, out.decode(), err.decode())

    async def type(self, command: str) -> Output:
        """Type one of the product's commands."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", f".venv/bin/order-saga {command}"),
            cwd=self.folder,
            env=self.environment | {"LEDGER_VIEWS": "wallet_audit"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Output(process.returncode, out.decode(), err.decode())

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a shell in which a reader follows the page."""
        ours = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PYTHONPATH"}}
        return ours | {"KAFKA_TOPIC_PREFIX": self.prefix, "COLUMNS": "300"}

    async def send(self, *orders: Wanted) -> list[str]:
        """Submit orders by Kafka; return their ids."""
        producer = Producer(self.options.kafka_bootstrap_servers or "", self.prefix)
        bodies = [{"order_id": one.order_id, "user_id": one.user_id, **one.body} for one in orders]
        await producer.send(*(message("orders.requests", str(b["order_id"]), "OrderRequested", b) for b in bodies))
        return [one.order_id for one in orders]

    async def rows(self, statement: str, *arguments: object) -> list[tuple[object, ...]]:
        """Run a query as the database's owner."""
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def ends(self, order_ids: list[str]) -> set[object]:
        """Return the statuses of the orders."""
        known = "SELECT status FROM audit.orders WHERE order_id = ANY($1::uuid[])"
        found = [status for (status,) in await self.rows(known, order_ids)]
        return {*found} if len(found) == len(order_ids) else {*found, "unknown"}

    async def completed(self, order_ids: list[str]) -> None:
        """Wait until all of them are completed."""
        await self.ended(order_ids, {"COMPLETED"})

    async def ended(self, order_ids: list[str], ends: set[str]) -> None:
        """Wait until their statuses are exactly these."""

        async def all_have() -> bool:
            return await self.ends(order_ids) <= ends

        await eventually(all_have, f"the orders are {ends}")

    async def hang(self) -> list[str]:
        """Stop settlements of the reference service and submit an order; return its id once its money is held."""
        for statement in HANG:
            await self.rows(statement)
        order = await self.send(*_orders(1))

        async def is_held() -> bool:
            return [(1,)] == await self.rows("SELECT count(*)::int FROM balances.holds WHERE state = 'HELD'")

        await eventually(is_held, "money is held")
        await self.ended(order, {"PROCESSING"})
        return order

    async def cash(self, user: str) -> Decimal:
        """Return a user's cash in the new ledger, held money included."""
        total = "SELECT available + held FROM wallet_audit.accounts WHERE (user_id, asset_id) = ($1, 'USD')"
        [(amount,)] = await self.rows(total, user)
        assert isinstance(amount, Decimal)
        return amount


def _on(port: int, commands: str) -> str:
    return commands.replace("exec env DATABASE_URL", "exec env KAFKA_SESSION_TIMEOUT_S=6 DATABASE_URL").replace(
        "8002", str(port)
    )


@pytest_asyncio.fixture
async def site(infrastructure: Infrastructure, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Make a folder like a checkout, with a database and topics of its own."""
    name = f"own_{secrets.token_hex(4)}"
    admin = infrastructure.database_url_admin
    connection = await asyncpg.connect(admin)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    await infrastructure.create_topics({topic_prefix + topic.name: topic.partitions for topic in TOPICS})
    url = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    options = StackOptions(
        database_url=url,
        kafka_bootstrap_servers=infrastructure.kafka_bootstrap_servers,
        environment={"KAFKA_TOPIC_PREFIX": topic_prefix},
    )
    yield Site(tmp_path, topic_prefix, url, options, free_ports(1)[0])
    await drop_database(admin, name)
    connection = await asyncpg.connect(admin)
    await connection.execute("DROP ROLE IF EXISTS wallet")
    await connection.close()


def _orders(number: int) -> list[Wanted]:
    return [buy("alice", "BTC", "0.01") for _ in range(number)]


@pytest.mark.apache_kafka
@pytest.mark.timeout(600)  # two starts of the whole system, and a dozen commands
async def test_a_cut_over_by_the_page_executes_every_order_once(site: Site) -> None:
    """Orders from before, during and after the cut-over each move their money once, to the cent.

    An order that had not reserved its money when the pause began may end without a trade, because its quote is stale.
    """
    async with site.running():
        assert 0 == (await site.follow("prepare")).code
        await site.completed(await site.send(*_orders(3), sell("bob", "BTC", "0.01")))
        held = await site.hang()
        unanswered = await site.send(*_orders(3))
        await site.ended(unanswered, {"PENDING"})
        done = await site.follow("hand over")
        assert (0, "") == (done.code, done.err)
        assert "1 active holds for wallet to take over" in done.out
        waiting = await site.send(*_orders(2))
        await site.ended(waiting, {"PENDING"})
        assert {"PROCESSING"} == await site.ends(held)
    async with site.running("balance"), site.serving():
        done = await site.follow("go on")
        assert 0 == done.code, done
        await site.completed(held + waiting)
        await site.completed(await site.send(*_orders(3)))
        await site.ended(unanswered, {"COMPLETED", "FAILED"})
        assert (0, "audit: I1 to I13 hold\n") == (await site.type("audit"))[:2]
        assert 0 == (await site.follow("deposit")).code
        assert (0, "audit: I1 to I13 hold\n") == (await site.type("audit"))[:2]
    [(bought,)] = await site.rows("SELECT count(*)::int FROM audit.fills WHERE NOT busted AND quantity > 0")
    assert isinstance(bought, int)
    assert 10 <= bought <= 13
    assert Decimal(100000) - (bought - 1) * COST == await site.cash("alice")
    assert Decimal("100499.50") == await site.cash("bob")
    assert Decimal(1000) == await site.cash("dave")


@pytest.mark.apache_kafka
@pytest.mark.timeout(600)  # two starts of the whole system, and a dozen commands
async def test_a_cut_over_without_a_take_over_moves_nothing_twice(site: Site) -> None:
    """Old orders do not run again; one whose hold is unknown parks and says why, and completes after a take-over."""
    async with site.running():
        await site.completed(await site.send(*_orders(3)))
        in_doubt = await site.hang()
    async with site.running("balance"):
        assert 0 == (await site.follow("prepare")).code
        async with site.serving():

            async def are_parked() -> bool:
                parked = "SELECT count(*)::int FROM audit.orders WHERE parked_reason LIKE '%before this ledger began%'"
                return [(1,)] == await site.rows(parked)

            await eventually(are_parked, "the order in doubt is parked")
            assert [] == await site.rows("SELECT * FROM wallet.holds")
            assert [] == await site.rows("SELECT * FROM wallet.journal")
            stuck = await site.type("stuck")
            assert 1 == stuck.code
            assert "HOLD_CONFLICT" in stuck.out
            assert 0 == (await site.follow("hand over")).code
        async with site.serving():
            assert 0 == (await site.follow("go on")).code
            assert 0 == (await site.type("resume --parked-reason HOLD_CONFLICT --yes")).code
            await site.completed(in_doubt)
            assert (0, "audit: I1 to I13 hold\n") == (await site.type("audit"))[:2]
    assert Decimal(100000) - 4 * COST == await site.cash("alice")


def test_the_rights_of_the_page_are_those_of_the_reference_service() -> None:
    """The page grants the saga's topics of the reference service and a consumer group of the new service's name."""
    ours = read((ROOT / "deploy" / "acls.txt").read_text())
    expected = {(one.may, one.name.replace("balance", "wallet") if one.may == "join" else one.name) for one in ours
                if one.login == "balance" and not one.name.startswith("holds")}  # fmt: skip
    assert expected == {(one.may, one.name) for one in read(shown("acls"))}
