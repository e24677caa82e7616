"""Erasing a user leaves nothing in any table that identifies the user, and the ledger still balances."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import httpx2
import pytest
import pytest_asyncio

from contracts.vocabulary import NAME_RULE
from operations.audit import audit
from tests.e2e.orders import buy
from tests.e2e.system import Output, command, eventually
from tests.e2e.trader import request_of
from tests.e2e.wire import Producer
from tests.integration.one_process import whole_system
from tests.order_api.support import BUY, Api, token
from tests.support.infrastructure import Database, Infrastructure

SCHEMAS = ("api", "assets", "balances", "orders", "webhooks")
_TABLES = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname = ANY ($1)"
KEPT = {
    **dict.fromkeys(("orders.fills", "orders.history"), "the books: amounts and statuses of orders"),
    **dict.fromkeys(("orders.resting", "orders.pauses", "orders.repairs"), "orders that are open, and operators"),
    **dict.fromkeys(("orders.marks", "orders.peaks", "orders.trails"), "prices"),
    **dict.fromkeys(("assets.assets", "assets.prices", "assets.sessions"), "the market"),
    **dict.fromkeys(("balances.accounts", "balances.holds", "balances.holds_archive"), "the books, by pseudonym"),
    **dict.fromkeys(("balances.service_holds", "balances.journal", "balances.deposits"), "the same"),
    **dict.fromkeys(("balances.ledger_start",), "since when the ledger knows"),
    **dict.fromkeys(("balances.new_lines",), "empty but while a statement of version 0.2.0 runs"),
    **dict.fromkeys(("api.cancels", "api.amends", "api.suspensions"), "what was asked of orders, by pseudonym"),
    **dict.fromkeys((f"{schema}.outbox" for schema in SCHEMAS if schema != "api"), "empty before anything is erased"),
    **dict.fromkeys(("webhooks.changes", "webhooks.alarms"), "numbers of nobody in particular"),
}
"""Tables of which nothing is erased, and why. Whoever makes a table judges it here or in `erase.py`."""
ADDRESSES = {"alice": "127.0.0.77", "bob": "127.0.0.78"}
PLANTED_TRACE = {"alice": "a11ce0" * 5 + "a1", "bob": "b0b0b0" * 5 + "b1"}
TRADES = "orders:read orders:write"


@pytest_asyncio.fixture
async def api(infrastructure: Infrastructure, database: Database, topic_prefix: str) -> AsyncIterator[Api]:
    """Run the whole system."""
    async with whole_system(infrastructure, database, topic_prefix) as one:
        yield one


@pytest.fixture
def producer(infrastructure: Infrastructure, topic_prefix: str) -> Producer:
    """Write to the topics as any client can."""
    return Producer(infrastructure.kafka_bootstrap_servers, topic_prefix)


@asynccontextmanager
async def client_of(api: Api, user: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Call the API as a user, from an address of the user's own."""
    headers = {
        "Authorization": f"Bearer {token(user, TRADES, jti=f'planted-jti-{user}')}",
        "traceparent": f"00-{PLANTED_TRACE[user]}-{'cd' * 8}-01",
    }
    transport = httpx2.AsyncHTTPTransport(local_address=ADDRESSES[user])
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{api.port}", headers=headers, transport=transport, timeout=30
    ) as client:
        yield client


async def live(api: Api, producer: Producer, user: str, database: Database) -> None:
    """Leave data of a user in every way: orders completed, refused, cancelled, repeated, and poison messages."""
    async with client_of(api, user) as client:
        where = ""
        for number, fields in enumerate(({}, {"order_type": "MARKET_SELL"}, {"asset_id": "HALT", "quantity": "5"}, {})):
            body = BUY | {"client_order_id": f"planted-name-{user}-{number}"} | fields
            headers = {"Idempotency-Key": f"planted-key-{user}-{number}"}
            for _ in range(2):
                answer = await client.post("/orders", json=body, headers=headers)
                assert httpx2.codes.ACCEPTED == answer.status_code, answer.text
                where = answer.headers["location"]
        await client.put(f"{where}/cancel")
        headers = {"Idempotency-Key": f"planted-key-{user}-all"}
        answer = await client.post("/orders/cancel-all", json={"asset_id": "NOTHING"}, headers=headers)
        assert httpx2.codes.ACCEPTED == answer.status_code, answer.text
        assert httpx2.codes.OK == (await client.put("/orders/cancel-all-after", json={"timeout_s": 3_600})).status_code
    broken = buy(user, "BTC", f"planted-quote-{user}")
    unreadable = request_of(buy(user, "BTC", "1"))._replace(
        value=json.dumps({"order_id": f"planted-dead-letter-{user}", "user_id": user}).encode()
    )
    await producer.send(
        request_of(broken), unreadable._replace(headers=[*unreadable.headers, (f"planted-{user}", b"x")])
    )

    async def all_is_done() -> bool:
        open_orders = "SELECT FROM orders.orders WHERE status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')"
        counted = await rows(
            database,
            f"SELECT (SELECT count(*) FROM orders.orders WHERE user_id = $1 AND status IS NOT NULL) = 5"
            f" AND NOT EXISTS ({open_orders} AND user_id = $1) AND NOT EXISTS (SELECT FROM orders.outbox)"
            f" AND EXISTS (SELECT FROM orders.dead_letters WHERE value LIKE $2)",
            user, f"%planted-dead-letter-{user}%".encode(),
        )  # fmt: skip
        return bool(counted[0][0])

    await eventually(all_is_done, "all orders have ended")


async def rows(database: Database, statement: str, *values: object) -> list[Any]:
    """Run a statement as the owner."""
    connection = await asyncpg.connect(database.url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


async def all_is_sent(database: Database) -> bool:
    """Tell whether the outbox is empty: an order that the API shows as ended may still have an event to publish."""
    return not await rows(database, "SELECT FROM orders.outbox")


async def everything(database: Database) -> dict[str, list[str]]:
    """Read all rows of all tables as text, with bytes decoded."""
    tables = await rows(database, _TABLES, list(SCHEMAS))
    return {
        table: sorted(" | ".join(map(_text, row)) for row in await rows(database, f"SELECT * FROM {table}"))
        for (table,) in tables
    }


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def books(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Leave out the prices, whose confirmations change all the time."""
    return {table: held for table, held in found.items() if table != "assets.prices"}


def holding(found: dict[str, list[str]], words: Sequence[str]) -> list[str]:
    """Return the rows that hold any of these words."""
    return [f"{table}: {row}" for table, held in found.items() for row in held if any(word in row for word in words)]


def planted(user: str) -> list[str]:
    """List the words that were planted for a user."""
    names = [f"planted-{what}-{user}" for what in ("jti", "key", "name", "quote", "dead-letter")]
    return [*names, f"planted-{user}", ADDRESSES[user], PLANTED_TRACE[user]]


async def erase_user(database: Database, *words: str) -> tuple[Output, Any]:
    """Run the command as the database's owner; return its output and its JSON."""
    output = await command("erase-user", *words, "--json", env={"DATABASE_URL": database.url})
    return output, json.loads(output.out) if output.out else None


async def discard_dead_letters(database: Database) -> None:
    """Discard all dead letters, as an operator does."""
    for (number,) in await rows(database, "SELECT dead_letter_id FROM orders.dead_letters WHERE discarded_at IS NULL"):
        done = await command("dead-letters", "discard", f"orders/{number}", env={"DATABASE_URL": database.url})
        assert 0 == done.code, done.err


async def test_an_erased_user_is_a_pseudonym_in_books_that_hold(
    api: Api, producer: Producer, database: Database
) -> None:
    """No column of any table holds data planted for the erased user; another user's is intact; the audit passes.

    A dry run reports the same and changes nothing; a second run finds nothing to do.
    """
    for user in ADDRESSES:
        await live(api, producer, user, database)
    await discard_dead_letters(database)
    before = await everything(database)
    for word in planted("alice"):
        assert holding(before, [word]), f"{word} was not even there"

    dry, told = await erase_user(database, "alice", "--dry-run")
    assert (0, True, []) == (dry.code, told["dry_run"], told["in_the_way"])
    assert books(before) == books(await everything(database))
    done, said = await erase_user(database, "alice")
    assert (0, told["rows"]) == (done.code, said["rows"])
    marks = {"api.mass_cancels": 1, "api.cancel_timers": 1}
    assert marks | {"api.requests": 9, "api.claims": 4, "orders.orders": 5, "orders.dead_letters": 1} == {
        table: number for table, number in said["rows"].items() if number
    }

    after = await everything(database)
    assert [] == holding(after, planted("alice"))
    assert holding(before, planted("bob")) == holding(after, planted("bob"))
    assert {table: len(held) for table, held in before.items()} == {table: len(held) for table, held in after.items()}
    for table in ("balances.journal", "balances.accounts", "balances.holds", "orders.fills", "orders.history"):
        assert before[table] == after[table]
    assert [] == await audit(database.url_of("auditor"), settle_s=1)
    again, nothing = await erase_user(database, "alice")
    assert (0, {0}) == (again.code, set(nothing["rows"].values()))
    assert books(after) == books(await everything(database))

    assert 5 == len((await api.get("/orders", user="alice")).json()["orders"])
    assert httpx2.codes.ACCEPTED == (await api.submit(key="planted-key-alice-0")).status_code


async def test_nothing_is_erased_while_something_is_open(api: Api, producer: Producer, database: Database) -> None:
    """An open order or dead letter is named, the command exits with 1, and no row changes."""
    await live(api, producer, "alice", database)
    output, told = await erase_user(database, "alice")
    [dead_letter] = told["in_the_way"]
    assert (1, {}) == (output.code, told["rows"])
    assert dead_letter.startswith("dead letter orders/")
    assert holding(await everything(database), planted("alice"))

    await discard_dead_letters(database)
    slow = (await api.submit({"asset_id": "SLOW", "quantity": "5"})).json()["order_id"]
    output, told = await erase_user(database, "alice")
    assert (1, True) == (output.code, any(slow in line for line in told["in_the_way"]))
    assert 0 == (await erase_user(database, "carol"))[0].code


async def test_what_a_user_was_told_and_where_is_erased(database: Database) -> None:
    """Endpoints, deliveries and attempts go, another user's stay, and processes learn that endpoints have changed."""
    for user in ADDRESSES:
        await rows(
            database,
            """
            WITH endpoint AS (
                INSERT INTO webhooks.endpoints
                    (endpoint_id, user_id, kind, target, description, event_types, secrets, idempotency_key)
                VALUES (gen_random_uuid(), $1, 'email', $2, $2, '{}', $2, $2) RETURNING endpoint_id
            ), code AS (
                INSERT INTO webhooks.codes SELECT sha256(convert_to(lower($2), 'UTF8')), current_date, 1
            ), delivery AS (
                INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body)
                SELECT endpoint_id, $2, 'webhook.ping', convert_to($2, 'UTF8') FROM endpoint
            ), request AS (
                INSERT INTO webhooks.requests (endpoint_id, user_id, action, caller, token_id, address, trace_id)
                SELECT endpoint_id, $1, 'create', $1, $2, $2, $2 FROM endpoint
            ), letter AS (
                INSERT INTO webhooks.dead_letters (
                    topic, partition, record_offset, record_timestamp, key, headers, value, reason, discarded_at)
                VALUES ('t', 0, length($1), 0, convert_to($2, 'UTF8'), json_build_array($2),
                    convert_to(json_build_object('user_id', $1, 'reason', $2)::text, 'UTF8'), $2, now())
            )
            INSERT INTO webhooks.attempts (endpoint_id, event_id, number, at, duration_ms, answer)
            SELECT endpoint_id, $2, 1, now(), 1, $2 FROM endpoint""",
            user, f"planted-{user}",
        )  # fmt: skip
    before = await everything(database)
    dry, told = await erase_user(database, "alice", "--dry-run")
    assert (0, before) == (dry.code, await everything(database))
    done, said = await erase_user(database, "alice")
    assert (0, told["rows"]) == (done.code, said["rows"])
    held = {table for (table,) in await rows(database, _TABLES, ["webhooks"])} - KEPT.keys()
    assert dict.fromkeys(held, 1) == {table: number for table, number in said["rows"].items() if number}
    after = await everything(database)
    assert [] == holding(after, ["planted-alice"])
    assert 5 == len(holding(after, ["planted-bob"]))
    assert holding(before, ["planted-bob"]) == holding(after, ["planted-bob"])
    assert before["webhooks.changes"] != after["webhooks.changes"]


async def test_every_table_is_erased_from_or_has_a_reason_not_to_be(database: Database) -> None:
    """A table that comes later is in neither list, and must be judged."""
    _, told = await erase_user(database, "nobody", "--dry-run")
    assert told is None
    await rows(database, "INSERT INTO balances.accounts VALUES ('nobody', 'USD', 0, 0)")
    _, told = await erase_user(database, "nobody", "--dry-run")
    there = {table for (table,) in await rows(database, _TABLES, list(SCHEMAS))}
    assert set() == told["rows"].keys() & KEPT.keys()
    assert there == told["rows"].keys() | KEPT.keys()


async def test_a_service_s_own_login_may_not_erase(database: Database) -> None:
    """Only the database's owner may change the audit trail; an invalid user id is wrong usage."""
    for login in ("api", "orchestrator", "auditor"):
        refused = await command("erase-user", "alice", env={"DATABASE_URL": database.url_of(login)})
        assert (1, "", 1) == (refused.code, refused.out, len(refused.err.splitlines()))
        assert "permission denied" in refused.err
    wrong = await command("erase-user", "a user", env={"DATABASE_URL": database.url})
    assert (2, True) == (wrong.code, NAME_RULE in " ".join(wrong.err.split()))


async def test_it_tells_people_what_it_did(api: Api, database: Database) -> None:
    """Without --json it prints a line for each table; a user without data may be misspelt, so that is an error."""
    ended = await api.submit(headers={"Prefer": "wait=30"})
    assert 201 == ended.status_code
    await eventually(partial(all_is_sent, database), "all events are sent")
    output = await command("erase-user", "alice", "--dry-run", env={"DATABASE_URL": database.url})
    assert "api.requests: 1 rows to erase\n" in output.out, output
    unknown = await command("erase-user", "nobody", "--dry-run", env={"DATABASE_URL": database.url})
    assert (1, "", 1) == (unknown.code, unknown.out, len(unknown.err.splitlines()))
