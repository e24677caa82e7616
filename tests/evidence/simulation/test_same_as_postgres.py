"""The simulated database behaves as PostgreSQL for our statements: same rows, same answers, same waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from contracts.decimals import ZERO
from contracts.vocabulary import HoldState
from order_saga.core.saga import Phase, Saga
from order_saga.triggers import store as triggers
from order_saga.worker import resting_store, store
from participants.balance import store as balances
from saga_kit.messaging.batch import SHORT_LOCK_TIMEOUT
from saga_kit.messaging.outbox import Outbox, Relay
from saga_kit.participant.barrier import Hold
from saga_kit.participant.holds import Holds, _arrays
from saga_kit.runtime.dsn import parse_database_url
from saga_kit.runtime.lookback import EVER_S
from saga_kit.runtime.transactions import begin
from tests.evidence.simulation import database as simulated
from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.loop import VirtualLoop
from tests.evidence.simulation.replay import CLOCK, Still, _plain, on_postgres, on_simulation, record
from tests.evidence.simulation.run import quiet
from tests.evidence.simulation.scenario import (
    Change,
    Fault,
    How,
    Kind,
    OrderPlan,
    Rates,
    Scenario,
    Terms,
    TickPlan,
    What,
)
from tests.evidence.simulation.statements import statements
from tests.support.infrastructure import Database

HISTORIES: Final = 24
_TRAILS: Final = Terms("TRAILING_STOP", trail_amount="1")
HELD_BACK: Final = Scenario(
    24,
    (OrderPlan(UUID(int=24), "alice", "BTC", "SELL", "0.01", None, None, at=1.0),),
    (Fault(Kind.PAUSE, "assets", 0.5, 20.0),),
    Rates(),
)
"""An order that waits while somebody is paused, which is rare in histories."""
AHEAD: Final = Scenario(
    25,
    (OrderPlan(UUID(int=25), "bob", "WAVE", "SELL", "1", None, None, at=10.5, terms=_TRAILS),),
    (),
    Rates(),
    ticks=(TickPlan(10.0, "WAVE", "101", how=How.MISSING), TickPlan(14.0, "WAVE", "99")),
)
"""A trailing stop that rests from a quote whose tick was not published, which is as rare."""


def _changed(number: int, side: str, terms: Terms, *changes: Change) -> OrderPlan:
    user_id = ("alice", "bob")[number % 2]
    return OrderPlan(UUID(int=700 + number), user_id, "WAVE", side, "1", None, None, 0.0, terms=terms, changes=changes)


def _amend(at: float, **fields: str) -> Change:
    return Change(at, What.AMEND, "user", 1, f"amend-{at:g}", **fields)  # type: ignore[arg-type]  # names of fields


_GTD: Final = {"time_in_force": "GTD", "expires_after_s": 9.0}
CHANGED: Final = Scenario(
    700,
    (
        _changed(0, "BUY", Terms("LIMIT", limit_price="90"), _amend(5.0, quantity="2"), _amend(9.0, limit_price="95")),
        _changed(1, "SELL", Terms("STOP_LOSS", trigger_price="90"), _amend(5.0, quantity="0.5")),
        _changed(2, "BUY", Terms("TRAILING_STOP", trail_amount="5"), _amend(13.0, trail_amount="9")),
        _changed(3, "SELL", Terms("TRAILING_STOP", trail_bps=500), _amend(13.0, quantity="0.7")),
        _changed(4, "SELL", Terms("STOP_LOSS", trigger_price="90", **_GTD), Change(5.0, What.HOLD, "user")),  # type: ignore[arg-type]
        _changed(
            5, "SELL", Terms("LIMIT", limit_price="110"), Change(5.0, What.HOLD, "operator"),
            Change(13.5, What.RELEASE, "operator"), _amend(14.0, limit_price="101"),
        ),
    ),
    (),
    Rates(),
    ticks=tuple(TickPlan(10.0 + at, "WAVE", price) for at, price in enumerate(("104", "97", "99", "102", "96"))),
)  # fmt: skip
"""Orders that are amended, suspended and released while prices move."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


WAITS_S: Final = 0.4
"""Longer than it takes to give up a lock, or to break a circle."""
Waits = Callable[[int], Awaitable[bool]]
"""Tells whether this is the number of statements that wait for a lock, those of a circle not counted."""


@pytest_asyncio.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Connect as the owner, in sessions with the settable clock."""
    url = parse_database_url(database.url)
    settings = {
        "search_path": "fake, pg_catalog",
        "timezone": "UTC",
        "deadlock_timeout": "100ms",
        "fake.now": simulated.EPOCH.isoformat(),
    }
    engine = create_async_engine(url, connect_args={"server_settings": settings})
    async with engine.begin() as tx:
        for statement in CLOCK.split(";"):
            await tx.exec_driver_sql(statement)
    yield engine
    await engine.dispose()


async def test_the_same_work_gives_the_same_rows(engine: AsyncEngine) -> None:
    """The statements of many histories give the same answers and the same rows of every table on both databases."""
    said = []
    for scenario in (*map(draw, range(HISTORIES)), HELD_BACK, AHEAD, CHANGED):
        said += _few_heartbeats(await asyncio.to_thread(record, scenario))
    simulation_answers, simulation_rows = await asyncio.to_thread(_on_simulation, said)
    postgres_answers, postgres_rows = await on_postgres(engine, said)

    assert simulation_answers == postgres_answers
    for table, rows in simulation_rows.items():
        assert len(rows) == len(postgres_rows[table]), table
        for simulated_row, row in zip(rows, postgres_rows[table], strict=True):
            assert [] == [pair for pair in zip(simulated_row, row, strict=True) if pair[0] != pair[1]], table
    unused = set(statements()) - {write.sql for one in said for step in one.steps for write in step.writes}
    assert {SHORT_LOCK_TIMEOUT, balances.OWNERS, *_of_few_histories()} >= unused, "every statement was compared"


def _few_heartbeats(said: Sequence[simulated.Said]) -> list[simulated.Said]:
    """Leave out most of the batches of ticks that only move marks: they are many, and all alike."""
    heartbeats, kept = 0, []
    alike = {triggers._TRY, triggers._MARKET, triggers._MARK}
    for one in said:
        if {write.sql for step in one.steps for write in step.writes} == alike:
            heartbeats += 1
            if heartbeats % 10:
                continue
        kept.append(one)
    return kept


def _of_few_histories() -> set[str]:
    """Name statements that are rare in histories; those of the participants' outboxes equal the orchestrator's."""
    relays: list[Any] = [Relay(None, name, Outbox(name), None) for name in ("assets", "balances")]  # type: ignore[arg-type]
    return {relay._release_sql for relay in relays}


def _on_simulation(said: Sequence[simulated.Said]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(on_simulation(said))


def _held(**adjustment: Any) -> tuple[Any, ...]:
    hold = Hold("h", "s", "alice", "USD", Decimal("10.50"), HoldState.HELD)
    return _arrays([msgspec.structs.replace(hold, **adjustment)])


ADJUSTED: Final = {
    "raised": {"amount": Decimal(12), "revision": 1, "asked": Decimal(12)},
    "refused": {"revision": 2, "asked": Decimal("99.90"), "adjust_code": "POOR", "adjust_reason": "not enough"},
    "numbered without an amount": {"revision": 3},
    "ended": {
        "state": HoldState.REFUNDED,
        "amount": Decimal(12),
        "refunded": Decimal(12),
        "revision": 1,
        "asked": ZERO,
    },
}
"""Some of these are rare in histories, or in none, so what they store is compared here."""


@pytest.mark.parametrize("adjustment", ADJUSTED.values(), ids=ADJUSTED)
async def test_an_adjusted_hold_is_stored_alike(engine: AsyncEngine, adjustment: dict[str, Any]) -> None:
    """Both databases store the same of an adjusted hold, read the same, and refuse the same."""
    holds: Any = Holds("balances")
    steps = ((holds._insert_sql, _held()), (holds._update_sql, _held(**adjustment)))

    async def play(source: Any) -> list[Any]:
        told: list[Any] = []
        for sql, args in steps:
            with suppress(asyncpg.PostgresError):
                async with begin(source) as tx:
                    told.append(await tx.execute(sql, *args))
        async with begin(source) as tx:
            return [told, [_plain(row) for row in await tx.fetch(holds._lock_sql, ["h"])]]

    def simulate() -> list[Any]:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(play(simulated.Engine(simulated.Database(statements(), lambda: 0.0), Still())))

    assert await asyncio.to_thread(simulate) == await play(engine)


# Two at the same time -------------------------------------------------------------------------------------------------

X, Y = UUID(int=1), UUID(int=2)
_NEW: Final = simulated.EPOCH


def _order(order_id: UUID, client_order_id: str | None = None) -> tuple[Any, ...]:
    saga = Saga(order_id, "alice", Phase.NEW, _NEW, _NEW, client_order_id=client_order_id)
    return store._arrays(store._ALL, [saga])


def _moved(order_id: UUID) -> tuple[Any, ...]:
    saga = Saga(order_id, "alice", Phase.NEW, _NEW, _NEW, history_seq=7)
    return store._arrays((store._ID, *store._MOVING), [saga])


def _only(*order_ids: UUID) -> tuple[Any, ...]:
    return list(order_ids), [], [], False


_GATE: Final = 7
_SHARED: Final = (resting_store._SHARE, (_GATE, [1]))
_WAITED: Final = (triggers._WAIT, (_GATE, 1))
_TRIED: Final = (triggers._TRY, (_GATE, [1, 2]))
_OUTBOX: Final[Any] = Outbox("orders")
_RELAY: Final[Any] = Relay(None, "orders", _OUTBOX, None)  # type: ignore[arg-type]
_MESSAGE: Final = (0.0, 0.0, ["ref"], b"payload")


class Does(NamedTuple):
    """A statement of one of three transactions; `sql` of None commits, "" rolls back."""

    who: str
    sql: str | None
    parameters: tuple[Any, ...] = ()


SCRIPTS: Final[dict[str, Sequence[Does]]] = {
    "the second insert waits and is left out": [
        Does("A", store._INSERT, _order(X)), Does("B", store._INSERT, _order(X)), Does("A", None),
        Does("B", None),
    ],
    "the second insert waits and is done when the first is rolled back": [
        Does("A", store._INSERT, _order(X)), Does("B", store._INSERT, _order(X)), Does("A", ""),
        Does("B", None),
    ],
    "one client order id, two orders": [
        Does("A", store._INSERT, _order(X, "mine")), Does("B", store._INSERT, _order(Y, "mine")), Does("A", None),
        Does("B", None),
    ],
    "one client order id, and the first is rolled back": [
        Does("A", store._INSERT, _order(X, "mine")), Does("B", store._INSERT, _order(Y, "mine")), Does("A", ""),
        Does("B", None),
    ],
    "who waits for a row sees it as it was left": [
        Does("A", store._INSERT, _order(X)), Does("A", None),
        Does("A", store._TAKE, _only(X)), Does("B", store._TAKE, _only(X)), Does("A", store._UPDATE, _moved(X)),
        Does("A", None),
        Does("B", None),
    ],
    "what is not committed is not seen": [
        Does("A", store._INSERT, _order(X)), Does("B", store._TAKE, _only(X)), Does("A", None),
        Does("B", store._TAKE, _only(X)),
        Does("B", None),
    ],
    "a circle of waits is broken": [
        Does("A", store._INSERT, _order(X)), Does("A", store._INSERT, _order(Y)), Does("A", None),
        Does("A", store._TAKE, _only(X)), Does("B", store._TAKE, _only(Y)), Does("A", store._TAKE, _only(Y)),
        Does("B", store._TAKE, _only(X)), Does("A", ""), Does("B", ""),
    ],
    "claimed rows are skipped": [
        Does("A", _OUTBOX._insert_sql, _MESSAGE), Does("A", None),
        Does("A", _RELAY._claim_sql, (30.0, 20, EVER_S)), Does("B", _RELAY._claim_sql, (30.0, 20, EVER_S)),
        Does("A", None), Does("B", None),
        Does("B", _RELAY._claim_sql, (30.0, 20, EVER_S)), Does("B", None),
    ],
    "a row that is being deleted is waited for": [
        Does("A", _OUTBOX._insert_sql, _MESSAGE), Does("A", None),
        Does("A", _OUTBOX._delete_sql, ([1],)), Does("B", _OUTBOX._delete_sql, ([1],)), Does("A", None),
        Does("B", None),
    ],
    "a gate is shared": [
        Does("A", *_SHARED), Does("B", *_SHARED), Does("B", None), Does("A", None),
    ],
    "a batch of ticks waits for the orders": [
        Does("A", *_SHARED), Does("B", *_WAITED), Does("A", None),
        Does("B", *_TRIED), Does("B", None),
    ],
    "orders wait for a batch of ticks": [
        Does("A", *_WAITED), Does("B", *_SHARED), Does("A", ""),
        Does("B", None),
    ],
    "whoever waits holds back those after it": [
        Does("A", *_SHARED), Does("B", *_WAITED), Does("C", *_SHARED), Does("A", *_SHARED), Does("A", None),
        Does("B", ""),
        Does("C", None),
    ],
    "whoever gives up holds nobody back": [
        Does("A", *_SHARED), Does("B", SHORT_LOCK_TIMEOUT), Does("B", *_WAITED), Does("C", *_SHARED),
        Does("B", ""), Does("C", None), Does("A", None),
    ],
    "a gate that is held, or waited for, is left out": [
        Does("A", *_SHARED), Does("B", *_TRIED), Does("A", None), Does("C", *_TRIED), Does("B", None),
        Does("C", *_TRIED), Does("C", None),
    ],
    "a circle of gates is broken": [
        Does("A", triggers._WAIT, (_GATE, 1)), Does("B", triggers._WAIT, (_GATE, 2)),
        Does("A", triggers._WAIT, (_GATE, 2)), Does("B", triggers._WAIT, (_GATE, 1)), Does("A", ""), Does("B", ""),
    ],
    "a pause is seen when it is committed": [
        Does("A", store._PAUSE, ("balance", "olga", "x")), Does("B", store._TAKE, _only()), Does("A", None),
        Does("B", store._TAKE, _only()),
        Does("B", None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_two_at_the_same_time_meet_alike(engine: AsyncEngine, script: Sequence[Does]) -> None:
    """In concurrent transactions the same statements wait, go on and get the same answers on both databases."""

    async def waits(number: int) -> bool:
        async with engine.connect() as connection:  # a new transaction each time: in one, the view does not change
            return bool((await connection.exec_driver_sql(WAITING)).scalar_one() == number)

    postgres = await _play(script, lambda: _Actor(engine), waits)
    simulation = await asyncio.to_thread(_play_on_simulation, script)
    assert simulation == postgres
    assert any("waits" in line for line in postgres) or Counter(does.who for does in script)["B"], "B meets A"


WAITING: Final = """
    SELECT count(*) FROM pg_stat_activity AS one WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND NOT EXISTS (SELECT FROM unnest(pg_blocking_pids(pid)) AS other WHERE one.pid = ANY(pg_blocking_pids(other)))"""


def _play_on_simulation(script: Sequence[Does]) -> list[str]:
    async def waits(_: int) -> bool:
        return True  # without an answer there is nothing else to do in its time

    async def play() -> list[str]:
        database = simulated.Database(statements(), lambda: 0.0)
        return await _play(script, lambda: _Actor(simulated.Engine(database, Still())), waits)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(play())


class _Actor:
    """A transaction on one of the two databases; the first statement begins it."""

    def __init__(self, source: AsyncEngine | simulated.Engine) -> None:
        self._source = source
        self._stack: AsyncExitStack | None = None
        self._tx: Any = None

    async def say(self, does: Does) -> str:
        """Run a statement; return what it answered."""
        if self._stack is None:
            self._stack = AsyncExitStack()
            self._tx = await self._stack.enter_async_context(begin(self._source))
        sql, args = str(does.sql), does.parameters
        if sql == SHORT_LOCK_TIMEOUT:
            await self._tx.execute(sql)
            return "it"
        if "RETURNING" in sql or not sql.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            rows = await self._tx.fetch(sql, *args)
            told = [str(row[store._EXTRA] if sql == store._TAKE else row[0]) for row in rows]
            return f"{told} {[sorted(row[2]) for row in rows if sql == store._TAKE and row[2] is not None]}"
        return f"{await self._tx.execute(sql, *args)} rows"

    async def end(self, *, commit: bool) -> None:
        """End the transaction."""
        assert self._stack is not None
        stack, self._stack = self._stack, None
        if commit:
            await stack.aclose()
        else:
            with suppress(_RolledBackError):
                async with stack:
                    raise _RolledBackError


class _RolledBackError(Exception):
    """Rolls a transaction back."""


async def _settle(tasks: Collection[asyncio.Task[str]], waits: Waits) -> None:
    """Return when each statement has its answer, or those that have none have been seen to wait for `WAITS_S`."""
    clock = asyncio.get_running_loop().time
    without, since = -1, 0.0
    while left := [task for task in tasks if not task.done()]:
        if len(left) != without or not await waits(len(left)):
            without, since = len(left), clock()
        elif clock() - since >= WAITS_S:
            return
        await asyncio.wait(left, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)


async def _play(script: Sequence[Does], connect: Callable[[], Any], waits: Waits) -> list[str]:
    actors = {who: connect() for who in "ABC"}
    waiting: dict[str, asyncio.Task[str]] = {}
    seen: list[str] = []
    for does in script:
        actor = actors[does.who]
        if does.who in waiting:
            seen.append(f"{does.who} was told {await waiting.pop(does.who)}")
        if not does.sql:
            await actor.end(commit=does.sql is None)
            seen.append(f"{does.who} {'commits' if does.sql is None else 'rolls back'}")
            await _settle(waiting.values(), waits)
            continue
        task = asyncio.create_task(_told(actor, does))
        await _settle([*waiting.values(), task], waits)
        seen.append(f"{does.who} {'is told ' + task.result() if task.done() else 'waits'}")
        if not task.done():
            waiting[does.who] = task
    return seen


async def _told(actor: _Actor, does: Does) -> str:
    try:
        return await actor.say(does)
    except asyncpg.PostgresError as error:
        return f"SQLSTATE {error.sqlstate}"
