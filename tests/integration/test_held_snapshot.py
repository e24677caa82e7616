"""Looking for due rows costs the same while another session's snapshot is open, and misses no row."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final

import asyncpg
import pytest
import pytest_asyncio

from order_api.orders.store import Store
from order_saga.worker import store as orders
from saga_kit.messaging.outbox import Outbox, OutboxMessage, Relay
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.lookback import EVER_S, EVERYTHING_EVERY_S, MARGIN_S, SHARE_MAX, LookBack
from saga_kit.runtime.transactions import begin
from tests.saga_kit.support import FakePublisher, message
from tests.support.infrastructure import Database

GONE: Final = 60_000
BUFFERS_MAX: Final = 60
"""The pages that one look may touch; a look at everything touches hundreds."""

_ORDERS = """
    INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,
        progress, due_at, history_seq, created_at, updated_at)
    SELECT gen_random_uuid(), 'alice', 'REFUNDING', 'PENDING', 1, false, 0, 0, '{}', now() - interval '1 h', 1, now(),
        now()
    FROM generate_series(1, $1)"""
_OUTBOX = """
    INSERT INTO orders.outbox (due_at, available_at, refs, payload)
    SELECT now(), now() - interval '1 h', ARRAY['x'], '' FROM generate_series(1, $1)"""
_CLAIMS = """
    INSERT INTO api.claims (order_id, user_id, intent, request, next_publish_at)
    SELECT gen_random_uuid(), 'alice', '', '', now() - interval '1 h' FROM generate_series(1, $1)"""

LOOKS: Final[dict[str, tuple[str, str, str, tuple[Any, ...]]]] = {
    "timers": (
        _ORDERS,
        "UPDATE orders.orders SET due_at = now() + interval '1 h'",
        orders._DUE,  # noqa: SLF001 - the statements are what counts
        (500,),
    ),
    "relay": (
        _OUTBOX,
        "DELETE FROM orders.outbox",
        Relay(None, "orders", Outbox("orders"), FakePublisher())._claim_sql,  # type: ignore[arg-type]  # noqa: SLF001 - it is not run
        (30.0, 20),
    ),
    "sweeper": (
        _CLAIMS,
        "UPDATE api.claims SET settled = true",
        Store(None).unread_claims.sweep,  # type: ignore[arg-type]  # it is not run
        (500, 5.0, 300.0),
    ),
}
"""For each table: statements that make rows due and that deal with them, and the query that looks for them."""


@pytest_asyncio.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the owner, with the planner settings of a service."""
    plans = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
    connection = await asyncpg.connect(database.url, server_settings=plans)
    yield connection
    await connection.close()


async def _buffers(owner: asyncpg.Connection, statement: str, *values: Any) -> int:
    async with owner.transaction():
        plan = json.loads(await owner.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *values))
    touched = plan[0]["Plan"]
    return int(touched["Shared Hit Blocks"]) + int(touched["Shared Read Blocks"])


@pytest.mark.parametrize("who", LOOKS)
async def test_a_look_does_not_walk_over_what_was_dealt_with(
    database: Database, owner: asyncpg.Connection, who: str
) -> None:
    """While an older snapshot is open, rows that were dealt with since cost the usual look nothing."""
    made, dealt_with, statement, values = LOOKS[who]
    backup = await asyncpg.connect(database.url)
    await backup.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await backup.fetchval("SELECT count(*) FROM orders.orders")
    await owner.execute(made, GONE)
    await owner.execute(dealt_with)
    await owner.execute("VACUUM ANALYZE")

    from_the_beginning = await _buffers(owner, statement, *values, EVER_S)
    usual = await _buffers(owner, statement, *values, MARGIN_S)
    await backup.close()

    assert from_the_beginning > 5 * BUFFERS_MAX
    assert usual < BUFFERS_MAX


class Clock:
    """The looks' time, which passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give looks a time of the test's own."""
    one = Clock()
    loop = SimpleNamespace(time=one)
    monkeypatch.setattr("saga_kit.runtime.lookback.asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return one


async def test_what_is_left_behind_is_found_by_the_next_look_at_everything(database: Database, clock: Clock) -> None:
    """A row that was due an hour ago is found by the next look at everything, and by no other look."""
    engine = create_engine(parse_database_url(database.url_of("orchestrator")), application_name="t")
    publisher, outbox = FakePublisher(), Outbox("orders", grace_s=0)
    relay = Relay(engine, "orders", outbox, publisher)
    assert 0 == await relay.relay_once()
    async with begin(engine) as tx:
        outbox.write(tx, [OutboxMessage("late", message("late", "v"))])
        await tx.flush()
        await tx.execute("UPDATE orders.outbox SET available_at = available_at - interval '1 h'")

    for passed_s in (0.0, EVERYTHING_EVERY_S - 0.1):
        clock.now_s += passed_s
        assert 0 == await relay.relay_once()
    clock.now_s += 0.2
    assert 1 == await relay.relay_once()
    await engine.dispose()

    assert ["late:v"] == [one.id for one in publisher.published]


def test_the_first_look_and_a_backlog_are_looked_at_from_the_beginning(clock: Clock) -> None:
    """Looks begin at the oldest row until one has seen all; then they go back a moment, or longer if cut short."""
    looks = LookBack()

    def one(*, saw_all: bool) -> float:
        with looks.look() as look:
            look.saw_all = saw_all
        return look.back_s

    assert [EVER_S, EVER_S, EVER_S] == [one(saw_all=False), one(saw_all=False), one(saw_all=True)]
    clock.now_s += 1
    short = one(saw_all=False)
    clock.now_s += 1
    longer = one(saw_all=True)
    assert (MARGIN_S + 1, MARGIN_S + 2) == (short, longer)
    clock.now_s += EVERYTHING_EVERY_S
    assert EVER_S == one(saw_all=True)


def test_a_look_at_everything_that_fails_or_takes_long_is_not_repeated_at_once(clock: Clock) -> None:
    """Looks at everything take a small share of the time, however long one takes and even if it fails."""
    looks = LookBack(everything_every_s=0.0)

    def cut_short() -> None:
        with looks.look():
            clock.now_s += 1
            raise OSError("timeout")

    with pytest.raises(OSError, match="timeout"):
        cut_short()
    clock.now_s += 1 / SHARE_MAX - 1
    with looks.look() as look:
        look.saw_all = True
    assert MARGIN_S + 1 / SHARE_MAX == look.back_s
    clock.now_s += 2
    with looks.look() as look:
        assert look.at_everything
