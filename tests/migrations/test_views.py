"""The views show auditors and the API what they were promised, by those names, and find it by the tables' indexes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec import structs

from contracts.amends import OrderAmendment, OrderAmendRequested, OrderHoldRequested, OrderReleaseRequested
from contracts.assets import Trading
from contracts.codec import decoder, encode
from contracts.decimals import Price
from contracts.orders import Order
from contracts.vocabulary import OrderType, TimeInForce
from order_saga.core.advance import NO_MARKS, advance
from order_saga.core.phases import QUESTIONS
from order_saga.core.saga import (
    Answer,
    Decision,
    Fire,
    Fired,
    Incoming,
    Mark,
    Progress,
    Question,
    Saga,
    Step,
    Triggered,
    snapshot,
)
from tests.migrations.support import views
from tests.order_saga.core.sample import (
    NOW,
    ORDER_ID,
    USER,
    Story,
    approved,
    blank,
    cancel,
    fitting,
    mark,
    not_approved,
    not_reserved,
    requested,
    reserved,
    settled,
)
from tests.support.infrastructure import Database

PLANTED = "secret"
PROMISED = {
    "audit.orders": "order_id user_id asset_id order_type status phase version parked_reason overdue_since due_at"
    " reason_code filled_quantity average_price fee created_at updated_at client_order_id archived_at cash_asset_id"
    " fee_asset_id limit_price trigger_price trail_amount trail_bps time_in_force expires_at queue_when_closed"
    " triggered watermark revision held_asset_id held_amount on_hold release_refused amend",
    "audit.holds": "hold_id order_id user_id asset_id amount captured refunded state revision",
    "audit.service_holds": "hold_id user_id asset_id amount captured refunded state reason_code reason expires_at ended"
    " captured_to created_at updated_at",
    "audit.accounts": "user_id asset_id available held",
    "audit.journal": "entry_id order_id account asset_id amount created_at",
    "balances.journal_lines": "entry_id account asset_id order_id amount created_at",
    "audit.history": "order_id seq at kind name status version detail",
    "audit.fills": "fill_id order_id quantity price fee busted",
    "audit.events_unsent": "order_id version created_at",
    "audit.claims": "order_id user_id idempotency_key client_order_id created_at settled",
    "audit.requests": "order_id request_id at action outcome caller token_id address trace_id",
    "audit.webhook_endpoints": "endpoint_id user_id kind host event_types every_version state disabled_reason"
    " failing_since failures_in_row paused_until disabled_at created_at updated_at quiet",
    "audit.trouble": "subject number since",
    "audit.webhook_deliveries": "endpoint_id event_id order_id version event_type state reason attempts next_attempt_at"
    " created_at ended_at",
    "audit.mass_cancels": "mass_cancel_id user_id requested_by asset_id side order_type orders created_at completed_at",
    "audit.cancel_timers": "user_id timeout_s set_at fires_at fired_at mass_cancel_id",
    "audit.questions": "order_id step participant asked_at due_at attempts answer sent held_back",
    "audit.pauses": "participant paused_by reason paused_at",
    "audit.repairs": "run_id action item done_by at result",
    "audit.ledger": "began_at closed_at successor",
    "audit.marks": "asset_id sequence price as_of confirmed_at appended_at trading live",
    "audit.resting": "order_id asset_id side revision live up_price down_price from_sequence entered_at expires_at"
    " triggered_sequence fired_sequence fired_price watermark watermark_sequence",
    "audit.fires": "order_id from_sequence sequence price as_of",
    "audit.versions": "order_id version previous_status status",
    "api.orders": " ".join(Order.__struct_fields__),
    "api.history": "order_id seq at kind name status version detail",
    "api.versions": "order_id version at previous_status status",
    "api.unsent": "created_at",
    "api.prices": "asset_id sequence price as_of trading reopens_at",
    "api.assets": "asset_id rules_version tick step min_quantity max_quantity min_notional max_notional fee_bps"
    " max_deviation_bps cash_asset_id cash_scale tradable trading reopens_at confirmed_at calendar",
    "api.accounts": "user_id asset_id available held",
}
_AMENDMENT = decoder(OrderAmendment)
IGNORED = {"kind": "ignored", "name": "x", "detail": {"why": "late"}}
ORDER, STUB, AT = UUID(int=1), UUID(int=2), datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
async def filled(owner: asyncpg.Connection) -> asyncpg.Connection:
    """Put an order with two transactions behind it into the tables, and a cancel whose request has not come."""
    await owner.execute(
        """
        INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, quantity, phase, status, version,
            cancel_requested, filled_quantity, fee, progress, due_at, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', 'BTC', 'MARKET_BUY', 1, 'SETTLING', 'PROCESSING', 3, false, 1, 0.5, '{}', $3, 6, $3, $3),
            ($2, 'bob', NULL, NULL, NULL, 'NEW', NULL, 0, false, 0, 0, '{}', NULL, 1, $3, $3)""",
        *(ORDER, STUB, AT),
    )
    rows = [
        (ORDER, 1, 0, 1, [">PENDING"], [_received(), _status("PENDING", 1), {"kind": "asked", "name": "check"}]),
        (
            *(ORDER, 4, 1, 3, ["PENDING>CONFIRMED", "CONFIRMED>PROCESSING"]),
            [_status("CONFIRMED", 2), _status("PROCESSING", 3), IGNORED],
        ),
        (STUB, 1, 0, 0, [], [_received()]),
    ]
    await owner.executemany(
        """
        INSERT INTO orders.history (order_id, seq, at, version_from, version_to, moves, entries)
        VALUES ($1, $2, '2026-01-02Z', $3, $4, $5, $6)""",
        [(*row[:-1], json.dumps(row[-1])) for row in rows],
    )
    return owner


def _received() -> dict[str, Any]:
    return {"kind": "received", "name": "OrderRequested"}


def _status(status: str, version: int) -> dict[str, Any]:
    return {"kind": "status", "name": status, "status": status, "version": version}


async def test_views_have_the_columns_that_were_promised(database: Database) -> None:
    """Names and order of the columns are an interface: more may follow, none may go."""
    actual = {name: columns for name, (columns, _) in (await views(database.url)).items()}

    assert set(PROMISED) == set(actual)
    for name, columns in PROMISED.items():
        promised = columns.split()
        assert promised == actual[name][: len(promised)], name


@pytest.mark.parametrize("schema", ["audit", "api"])
async def test_history_is_one_row_an_entry(filled: asyncpg.Connection, schema: str) -> None:
    """The entries of a transaction are numbered on from its first one's number; what an entry lacks is null."""
    rows = await filled.fetch(f"SELECT * FROM {schema}.history WHERE order_id = $1 ORDER BY seq", ORDER)

    expected = [
        (1, "received", "OrderRequested", None, None, {}),
        (2, "status", "PENDING", "PENDING", 1, {}),
        (3, "asked", "check", None, None, {}),
        (4, "status", "CONFIRMED", "CONFIRMED", 2, {}),
        (5, "status", "PROCESSING", "PROCESSING", 3, {}),
        (6, "ignored", "x", None, None, {"why": "late"}),
    ]
    assert expected == [
        (r["seq"], r["kind"], r["name"], r["status"], r["version"], json.loads(r["detail"])) for r in rows
    ]
    assert {AT} == {row["at"] for row in rows}


@pytest.mark.parametrize("schema", ["audit", "api"])
async def test_versions_are_the_moves_one_by_one(filled: asyncpg.Connection, schema: str) -> None:
    """Each version stands with the status before and its own; the API has its time, too."""
    rows = await filled.fetch(f"SELECT version, previous_status, status FROM {schema}.versions ORDER BY version")
    assert {AT} == {row[0] for row in await filled.fetch("SELECT at FROM api.versions")}

    expected = [(1, None, "PENDING"), (2, "PENDING", "CONFIRMED"), (3, "CONFIRMED", "PROCESSING")]
    assert expected == [tuple(row) for row in rows]


async def _asks(owner: asyncpg.Connection, view: str) -> list[tuple[Any, ...]]:
    rows = await owner.fetch(f"SELECT order_id, cash_asset_id, fee_asset_id FROM {view} ORDER BY order_id")
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("view", ["audit.orders", "api.orders"])
async def test_an_order_names_its_currencies_as_its_saga_shows_them(owner: asyncpg.Connection, view: str) -> None:
    """Of each state that is stored, in its table or archived, the views say what its event says."""
    stories = [
        Story(requested()),
        Story(requested(), approved()),
        Story(requested(), approved(), reserved()),
        Story(requested(), approved(), reserved(), settled()),
        Story(requested(), approved(), not_reserved()),
        Story(requested(), not_approved()),
    ]
    sagas = [structs.replace(story.saga, order_id=UUID(int=n)) for n, story in enumerate(stories, 1)]
    await owner.executemany(
        """
        INSERT INTO orders.orders (order_id, user_id, phase, status, version, reason_code, cancel_requested,
            filled_quantity, fee, progress, due_at, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', $2, $3, $4, $5, false, 0, 0, $6, $7, 0, $8, $8)""",
        [
            (
                *(saga.order_id, saga.phase, saga.status, saga.version, saga.reason_code),
                *(encode(saga.progress).decode(), saga.due_at, saga.created_at - timedelta(days=365)),
            )
            for saga in sagas
        ],
    )
    expected = [(one.order_id, one.cash_asset_id, one.fee_asset_id) for one in map(snapshot, sagas)]
    assert [None, None, "USD", "USD", "USD", None] == [cash for _, cash, _ in expected]
    assert expected == await _asks(owner, view)

    await owner.execute(_ARCHIVE_ENDED)

    assert 3 == await owner.fetchval("SELECT count(*) FROM orders.archive")
    assert expected == await _asks(owner, view)


def _conditional(
    order_type: OrderType,
    terms: dict[str, Any],
    *messages: Incoming,
    quote: str = "50000",
    marks: Mapping[str, Mark] = NO_MARKS,
    **changes: Any,
) -> Saga:
    """Let a conditional order in at a quote, with changes of its approval, and tell it what comes then.

    `marks` are for the last message.
    """
    saga = blank()
    begun = requested(**{"order_type": order_type, "price": None, **terms})
    told = (begun, approved(quote, **changes), *messages)
    for message in told:
        known = marks if message is told[-1] else NO_MARKS
        decision = advance(saga, fitting(saga, message), NOW, marks=known)
        assert isinstance(decision, Decision), decision
        saga = decision.saga
    return saga


def _queued(*messages: Incoming) -> Saga:
    """Let a market order wait for the opening."""
    terms = {"queue_when_closed": True, "price": Price(50_000)}
    return _conditional(OrderType.MARKET_BUY, terms, reserved(), *messages, trading=Trading.CLOSED)


def _changed_orders() -> list[Saga]:
    """Make orders that are, or were, changed: amended, being amended, refused, on hold, and not released."""
    limit, stop = {"limit_price": Price(48_000)}, {"trigger_price": Price(48_000)}
    buys, sells = OrderType.LIMIT_BUY, OrderType.STOP_LOSS_SELL
    later = _amend("a", time_in_force=TimeInForce.GTD, expires_at=NOW + timedelta(days=2))
    higher = _amend("b", limit_price=Price(49_000))
    held = OrderHoldRequested(ORDER_ID, USER, USER, NOW, "I am away")
    released = OrderReleaseRequested(ORDER_ID, USER, USER)
    return [
        _conditional(buys, limit, reserved(), later),
        _conditional(buys, limit, reserved(), later, higher),
        _conditional(buys, limit, reserved(), later, _amend("b", trigger_price=Price(1))),
        _conditional(buys, limit, reserved(), higher, cancel()),
        _conditional(buys, limit, reserved(), held),
        _conditional(buys, limit, reserved(), held, later, cancel()),
        _conditional(sells, stop, reserved(), held, released, marks={"BTC": mark("47000")}),
        _conditional(sells, stop, reserved(), held, released),
    ]


def _amend(amend_id: str, **changes: Any) -> OrderAmendRequested:
    return OrderAmendRequested(ORDER_ID, USER, USER, amend_id, requested_at=NOW, **changes)


def _fired(price: str, watermark: str | None = None) -> Fired:
    return Fired(ORDER_ID, Fire(9, Price(price), AT, None if watermark is None else Price(watermark)))


def _conditional_orders() -> list[Saga]:
    """Make conditional orders in every state that shows something of its own."""
    gtd = {"time_in_force": TimeInForce.GTD, "expires_at": NOW + timedelta(days=3)}
    limit, stop = {"limit_price": Price(48_000)}, {"trigger_price": Price(48_000)}
    stop_limit = stop | {"limit_price": Price(47_000)}
    bracket = stop | {"limit_price": Price(50_500)}
    bps, amount = {"trail_bps": 335}, {"trail_amount": Price("999.5")}
    falls, rises, triggered = (
        OrderType.TRAILING_STOP_SELL,
        OrderType.TRAILING_STOP_BUY,
        Triggered(ORDER_ID, 9, Price(1)),
    )
    return [
        Story(requested()).saga,
        _conditional(OrderType.LIMIT_BUY, limit),
        _conditional(OrderType.LIMIT_BUY, limit | gtd | {"queue_when_closed": True}, reserved()),
        _conditional(OrderType.LIMIT_BUY, limit, reserved(), cancel()),
        _conditional(OrderType.LIMIT_BUY, {"limit_price": Price(40_000), "time_in_force": TimeInForce.IOC}),
        _queued(),
        _queued(_fired("50100")),
        _conditional(
            OrderType.LIMIT_BUY,
            limit | {"time_in_force": TimeInForce.DAY},
            reserved(),
            session_ends_at=NOW + timedelta(1),
        ),
        _conditional(OrderType.STOP_LOSS_SELL, stop_limit, reserved()),
        _conditional(OrderType.STOP_LOSS_SELL, stop_limit, reserved(), triggered),
        _conditional(OrderType.STOP_LOSS_SELL, stop, reserved(), _fired("47999")),
        _conditional(OrderType.BRACKET_SELL, bracket, reserved()),
        _conditional(OrderType.BRACKET_SELL, bracket, reserved(), _fired("51000")),
        _conditional(falls, bps, reserved(), quote="49999.99"),
        _conditional(falls, amount, reserved()),
        _conditional(falls, bps, reserved(), _fired("50000", "52001.01"), settled()),
        _conditional(falls, amount, reserved(), _fired("500", "900")),
        _conditional(rises, bps, reserved(), quote="49999.99"),
        _conditional(rises, {"trail_bps": 500}, reserved()),
        _conditional(rises, amount, reserved(), _fired("49000", "48000.01")),
        _conditional(rises, amount, reserved(), _fired("60000", "48000.01")),
    ]


@pytest.mark.parametrize("view", ["audit.orders", "api.orders"])
async def test_a_conditional_order_is_shown_as_its_saga_shows_it(owner: asyncpg.Connection, view: str) -> None:
    """In each state, in its table or archived, the views say what its event says, to the last digit."""
    every = [*_conditional_orders(), *_changed_orders()]
    sagas = [structs.replace(saga, order_id=UUID(int=n)) for n, saga in enumerate(every, 1)]
    await owner.executemany(
        """
        INSERT INTO orders.orders (order_id, user_id, order_type, terms, phase, status, version, reason_code,
            cancel_requested, filled_quantity, fee, progress, due_at, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', $2, $3, $4, $5, $6, $7, false, 0, 0, $8, $9, 0, $10, $10)""",
        [
            (
                *(saga.order_id, saga.order_type, saga.terms and encode(saga.terms).decode(), saga.phase, saga.status),
                *(saga.version, saga.reason_code, encode(saga.progress).decode(), saga.due_at, saga.created_at),
            )
            for saga in sagas
        ],
    )
    names = Order.__struct_fields__[Order.__struct_fields__.index("limit_price") :]
    expected = [tuple(getattr(order, name) for name in names) for order in map(snapshot, sagas)]
    assert not any(all(not order[place] for order in expected) for place in range(len(names)))

    async def seen() -> list[tuple[Any, ...]]:
        rows = await owner.fetch(f"SELECT {', '.join(names)} FROM {view} ORDER BY order_id")
        return [(*tuple(row)[:-1], row["amend"] and _AMENDMENT.decode(row["amend"])) for row in rows]

    assert expected == await seen()
    await owner.execute(_ARCHIVE_ENDED)
    assert 2 == await owner.fetchval("SELECT count(*) FROM orders.archive")
    assert expected == await seen()


@pytest.mark.parametrize(("side", "trigger"), [("SELL", "52497.5"), ("BUY", "57502.5")])
async def test_a_trailing_stop_shows_its_watermark_as_of_the_read(
    owner: asyncpg.Connection, side: str, trigger: str
) -> None:
    """The best price since it rests, by the steps of its side, moves its trigger; its version stays."""
    order_type = OrderType(f"TRAILING_STOP_{side}")
    saga = _conditional(order_type, {"trail_bps": 455}, reserved())
    rest = saga.progress.rest
    assert rest is not None
    await owner.execute(
        """
        INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, terms, phase, status, version,
            cancel_requested, filled_quantity, fee, progress, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', 'BTC', $2, '{"trail_bps": 455}', 'WORKING', 'CONFIRMED', 2, false, 0, 0, $3, 0, $4, $4)""",
        *(ORDER, order_type, encode(saga.progress).decode(), AT),
    )
    await owner.execute(
        """
        INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, trail_bps, from_sequence,
            entered_at, told)
        VALUES ($1, 'BTC', $2, 1, true, false, 455, $3, $4, false)""",
        *(ORDER, side, rest.from_sequence, AT),
    )
    other = "BUY" if side == "SELL" else "SELL"
    steps = [("BTC", side, -1, 1, 1), ("BTC", side, 2, 55_000, 1), ("BTC", side, 9, 7, 9), ("ETH", side, 1, 8, 1)]
    for asset_id, of_side, after, price, by in [*steps, ("BTC", other, 1, 9, 1)]:
        await owner.execute(
            "INSERT INTO orders.peaks (asset_id, side, upto, price, set_by) VALUES ($1, $2, $3, $4, $5)",
            *(asset_id, of_side, rest.from_sequence + after, price, rest.from_sequence + by),
        )

    for view in ("api.orders", "audit.orders"):
        [row] = await owner.fetch(f"SELECT watermark, trigger_price, version FROM {view}")
        assert (55_000, Price(trigger), 2) == tuple(row)
    [row] = await owner.fetch("SELECT watermark, watermark_sequence FROM audit.resting")
    assert (55_000, rest.from_sequence + 1) == tuple(row)


async def test_a_trailing_stop_whose_market_is_at_its_best_shows_that(owner: asyncpg.Connection) -> None:
    """The mark is the last step and has no row; a quote beyond it is a step of younger orders alone."""
    saga = _conditional(OrderType.TRAILING_STOP_SELL, {"trail_bps": 455}, reserved())
    rest = saga.progress.rest
    assert rest is not None
    await owner.execute(
        """
        INSERT INTO orders.orders (order_id, user_id, asset_id, order_type, terms, phase, status, version,
            cancel_requested, filled_quantity, fee, progress, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', 'BTC', 'TRAILING_STOP_SELL', '{"trail_bps": 455}', 'WORKING', 'CONFIRMED', 2, false, 0, 0,
            $2, 0, $3, $3)""",
        *(ORDER, encode(saga.progress).decode(), AT),
    )
    await owner.execute(
        """
        INSERT INTO orders.resting (order_id, asset_id, side, revision, live, queued, trail_bps, from_sequence,
            entered_at, told)
        VALUES ($1, 'BTC', 'SELL', 1, true, false, 455, $2, $3, false)""",
        *(ORDER, rest.from_sequence, AT),
    )
    await owner.execute(
        """
        INSERT INTO orders.marks (asset_id, sequence, price, as_of, confirmed_at, appended_at, trading, live)
        VALUES ('BTC', $1, 55000, $2, $2, $2, 'OPEN', true), ('ETH', $1, 1, $2, $2, $2, 'OPEN', true)""",
        *(rest.from_sequence + 4, AT),
    )
    await owner.execute("INSERT INTO orders.peaks VALUES ('BTC', 'SELL', $1, 54000, $1)", rest.from_sequence + 5)

    for view in ("api.orders", "audit.orders"):
        [row] = await owner.fetch(f"SELECT watermark, trigger_price FROM {view}")
        assert (55_000, Price("52497.5")) == tuple(row)
    [row] = await owner.fetch("SELECT watermark, watermark_sequence FROM audit.resting")
    assert (55_000, rest.from_sequence + 4) == tuple(row)


_ARCHIVE_ENDED = """
    WITH ended AS (DELETE FROM orders.orders WHERE phase IN ('COMPLETED', 'FAILED', 'CANCELLED') RETURNING *)
    INSERT INTO orders.archive (order_id, user_id, order_type, terms, phase, status, version, reason_code,
        cancel_requested, filled_quantity, fee, progress, history_seq, created_at, updated_at, history, fills)
    SELECT order_id, user_id, order_type, terms, phase, status, version, reason_code, cancel_requested,
        filled_quantity, fee, progress::jsonb, history_seq, created_at, updated_at, '[]', '[]' FROM ended"""


@pytest.mark.parametrize(
    "view", ["audit.orders", "audit.history", "audit.versions", "api.orders", "api.history", "api.versions"]
)
async def test_a_cancel_without_a_request_is_hidden(filled: asyncpg.Connection, view: str) -> None:
    """No view shows an order whose request has not come."""
    assert [ORDER] == [row[0] for row in await filled.fetch(f"SELECT DISTINCT order_id FROM {view}")]


async def test_events_unsent_names_each_version_in_the_outbox(owner: asyncpg.Connection) -> None:
    """A row of the outbox holds several events; what is no event is left out."""
    refs = [f"{ORDER}:v1", f"{ORDER}:v12", "BTC:price:3", "-" * 36 + ":v1", f"{ORDER}:check"]
    await owner.execute(
        "INSERT INTO orders.outbox (due_at, available_at, refs, payload) VALUES (now(), now(), $1, '')", refs
    )

    rows = await owner.fetch("SELECT order_id, version FROM audit.events_unsent WHERE order_id = $1 ORDER BY 2", ORDER)

    assert [(ORDER, 1), (ORDER, 12)] == [tuple(row) for row in rows]
    assert 2 == await owner.fetchval("SELECT count(*) FROM audit.events_unsent")


async def test_the_oldest_unsent_message_is_found_by_its_number(owner: asyncpg.Connection) -> None:
    """Its time alone, whichever is due first; nothing when all is sent."""
    assert [] == await owner.fetch("SELECT * FROM api.unsent")
    insert = "INSERT INTO orders.outbox (created_at, due_at, available_at, refs, payload) VALUES ($1, $2, $2, '{}', '')"
    for minutes in (1, 2):
        await owner.execute(insert, AT + timedelta(minutes=minutes), AT - timedelta(minutes=minutes))

    assert [(AT + timedelta(minutes=1),)] == [tuple(row) for row in await owner.fetch("SELECT * FROM api.unsent")]


async def test_questions_are_what_the_saga_stores(owner: asyncpg.Connection) -> None:
    """One row a question, with the core's own defaults for what the document leaves out."""
    questions = (
        Question(Step.CHECK, AT, AT, Answer.YES, attempts=3),
        Question(Step.RESERVE, AT, AT, attempts=0, sent=False, held_back=True),
        *(Question(step, AT, AT) for step in Step if step not in {Step.CHECK, Step.RESERVE}),
    )
    await owner.execute(
        """
        INSERT INTO orders.orders (order_id, user_id, phase, status, version, cancel_requested, filled_quantity, fee,
            progress, due_at, history_seq, created_at, updated_at)
        VALUES ($1, 'alice', 'SETTLING', 'PROCESSING', 3, false, 0, 0, $2, $3, 6, $3, $3)""",
        *(ORDER, encode(Progress(questions=questions)).decode(), AT),
    )

    rows = await owner.fetch("SELECT * FROM audit.questions WHERE order_id = $1", ORDER)

    expected = [
        (ORDER, q.step, QUESTIONS[q.step].participant, AT, AT, q.attempts, q.answer, q.sent, q.held_back)
        for q in questions
    ]
    assert expected == [tuple(row) for row in rows]


ONE_ORDER = f"order_id = '{ORDER}'"
BY_CLIENT_ID = "user_id = 'a' AND client_order_id = 'x' AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'"
LOOK_UPS = [
    ("audit.orders", ONE_ORDER, "orders_pkey"),
    ("audit.orders", "user_id = 'alice' AND created_at > '2026-01-01'", "orders_by_user"),
    ("audit.orders", ONE_ORDER, "archive_pkey"),
    ("audit.history", ONE_ORDER, "archive_pkey"),
    ("audit.versions", ONE_ORDER, "archive_pkey"),
    ("audit.questions", ONE_ORDER, "archive_pkey"),
    ("audit.fills", ONE_ORDER, "archive_pkey"),
    ("audit.holds", f"hold_id = '{ORDER}:reserve'", "holds_archive_pkey"),
    ("api.orders", ONE_ORDER, "archive_pkey"),
    ("api.orders", "user_id = 'alice' AND (created_at, order_id) < (now(), gen_random_uuid())", "archive_by_user"),
    ("api.orders", BY_CLIENT_ID, "archive_client_order_id"),
    ("api.history", f"{ONE_ORDER} AND seq > 3", "archive_pkey"),
    ("audit.history", ONE_ORDER, "history_pkey"),
    ("audit.versions", ONE_ORDER, "history_pkey"),
    ("audit.questions", ONE_ORDER, "orders_pkey"),
    ("audit.resting", ONE_ORDER, "resting_pkey"),
    ("audit.resting", ONE_ORDER, "peaks_pkey"),
    ("audit.fires", ONE_ORDER, "orders_pkey"),
    ("audit.fires", ONE_ORDER, "archive_pkey"),
    ("audit.marks", "asset_id = 'BTC'", "marks_pkey"),
    ("api.orders", ONE_ORDER, "peaks_pkey"),
    ("audit.repairs", "run_id = 'x'", "repairs_pkey"),
    ("audit.fills", ONE_ORDER, "ix_orders_fills_order_id"),
    ("audit.holds", f"hold_id = '{ORDER}:reserve'", "holds_pkey"),
    ("audit.journal", f"entry_id = '{ORDER}:settle'", "journal_pkey"),
    ("audit.accounts", "user_id = 'alice'", "accounts_pkey"),
    ("audit.claims", ONE_ORDER, "claims_pkey"),
    ("audit.claims", "NOT settled AND user_id = 'alice'", "claims_not_yet_orders"),
    ("audit.claims", "user_id = 'alice' AND idempotency_key = 'k'", "claims_idempotency_key"),
    ("api.orders", ONE_ORDER, "orders_pkey"),
    ("api.orders", "user_id = 'alice' AND (created_at, order_id) < (now(), gen_random_uuid())", "orders_by_user"),
    ("api.orders", BY_CLIENT_ID, "orders_client_order_id"),
    ("api.history", f"{ONE_ORDER} AND seq > 3", "history_pkey"),
    ("api.versions", f"{ONE_ORDER} AND version > 3", "history_pkey"),
    ("api.versions", f"{ONE_ORDER} AND version > 3", "archive_pkey"),
]


@pytest.mark.parametrize(("view", "condition", "index"), LOOK_UPS)
async def test_a_look_up_uses_an_index(owner: asyncpg.Connection, view: str, condition: str, index: str) -> None:
    """A condition on a view reaches the index of the table below it: no other row is read."""
    await owner.execute("SET enable_seqscan = off")
    told = await owner.fetchval(f"EXPLAIN (FORMAT json, COSTS off) SELECT * FROM {view} WHERE {condition}")

    [plan] = json.loads(told)

    nodes = list(_nodes(plan["Plan"]))
    assert index in {node.get("Index Name") for node in nodes if "Index Cond" in node}
    assert not any(node["Node Type"] == "Seq Scan" for node in nodes)


@pytest.mark.parametrize("open_one", ["status IN ('PENDING', 'CONFIRMED', 'PROCESSING')", "status = 'PENDING'"])
async def test_a_list_of_open_orders_does_not_touch_the_archive(owner: asyncpg.Connection, open_one: str) -> None:
    """A query for open orders does not read it: its CHECK says that all have ended."""
    lines = await owner.fetch(f"EXPLAIN (COSTS off) SELECT * FROM api.orders WHERE user_id = 'a' AND {open_one}")

    assert [] == [line for (line,) in lines if "archive" in line]


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


@pytest.mark.parametrize(
    ("kind", "target", "host"),
    [
        ("webhook", "https://hooks.example/T01/secret?key=1", "hooks.example"),
        ("webhook", "HTTPS://Hooks.example:8443?key=secret", "Hooks.example:8443"),
        ("webhook", "https://hooks.example", "hooks.example"),
        ("webhook", "https://[2606:4700::1111]/secret", "[2606:4700::1111]"),
        ("webhook", f"https://user:{PLANTED}@hooks.example/", None),
        ("webhook", "secret", None),
        ("email", "alice.secret@example.com", "example.com"),
        ("email", "alice.secret", None),
        ("push", '{"endpoint":"https://push.example/send/secret","keys":{"auth":"secret"}}', "push.example"),
        ("push", '{"keys":{"auth":"secret"},"endpoint": "https://push.example:443/secret"}', "push.example:443"),
        ("push", "secret", None),
    ],
)
async def test_auditors_see_where_an_endpoint_is_and_nothing_that_is_secret_or_personal(
    owner: asyncpg.Connection, kind: str, target: str, host: str | None
) -> None:
    """Of a URL the host, of an address the domain, of a browser its push service; of anything else nothing."""
    await owner.execute(
        """
        INSERT INTO webhooks.endpoints
            (endpoint_id, user_id, kind, target, description, idempotency_key, event_types, secrets, asked)
        VALUES (gen_random_uuid(), 'alice', $1, $2, 'secret', 'secret', '{}', 'secret', 'secret')""",
        *(kind, target),
    )
    [row] = await owner.fetch("SELECT * FROM audit.webhook_endpoints")
    assert host == row["host"]
    assert "secret" not in str(row)
