"""Faults for every invariant: SQL that breaks it, and what the audit must say."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from tests.operations.audit.rows import (
    BUSTED,
    BUY,
    CANCELLED,
    CAPTURED,
    EXPIRED,
    FIRED,
    HELD_FOR_SERVICE,
    LIVE,
    PARKED,
    REFUSED,
    RELEASED,
    SELL,
    WAITS,
    WORKS,
)
from tests.support.journal import WITHOUT_CHECK

NOBODY: Final = UUID(int=5)
"""An order that does not exist."""


class Fault(NamedTuple):
    """Statements that break `invariant`, and a part of what the audit must say of the order (None: of an account)."""

    invariant: str
    order_id: UUID | None
    words: str
    statements: tuple[str, ...]
    check: str


def _hold(order_id: UUID, change: str) -> str:
    return f"UPDATE balances.holds SET {change} WHERE saga_id = '{order_id}'"


def _order(order_id: UUID, change: str) -> str:
    return f"UPDATE orders.orders SET {change} WHERE order_id = '{order_id}'"


def _fill(order_id: UUID, change: str) -> str:
    return f"UPDATE orders.fills SET {change} WHERE order_id = '{order_id}'"


def _moves(order_id: UUID, *moves: str) -> str:
    listed = ", ".join(f"'{move}'" for move in moves)
    return f"UPDATE orders.history SET moves = ARRAY[{listed}] WHERE order_id = '{order_id}'"


def _amount(before: float, after: float) -> str:
    return f"UPDATE balances.journal SET amounts = array_replace(amounts, {before}, {after})"


def _entry(entry_id: str, order_id: str, first: str, second: str, amount: int = -1) -> str:
    """Book an amount of USD for the first account, and its opposite for the second."""
    return f"""
        INSERT INTO balances.journal VALUES ('{entry_id}', {order_id}, ARRAY['{first}', '{second}'],
            ARRAY['USD', 'USD'], ARRAY[{amount}, {-amount}])"""


def _row(order_id: UUID, change: str) -> str:
    return f"UPDATE orders.resting SET {change} WHERE order_id = '{order_id}'"


def _without(table: str, constraint: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"


_RAISED: Final = "amount = amount + 5, revision = 1, asked = amount + 5"

ACCOUNTS: Final = (
    Fault(
        "I1", BUY, "sums to 0.25 USD",
        (WITHOUT_CHECK, _amount(500, 500.25)),
        "entry balanced",
    ),
    Fault(
        "I1", None, "the journal of USD sums to 1, not to 0",
        (WITHOUT_CHECK, _amount(1000, 1001)),
        "asset balanced",
    ),
    Fault(
        "I1", None, "alice has 655.26 USD available and 45.04 held, the journal says 699.3 in all",
        ("UPDATE balances.accounts SET available = available + 1 WHERE asset_id = 'USD'",),
        "account is journal",
    ),
    Fault(
        "I1", None, "bob has 0 USD available and 0 held, the journal says 1 in all",
        (_entry("deposit:3", "NULL", "@external", "bob"),),
        "account is journal",
    ),
    Fault(
        "I1", None, "alice has 46.04 USD held, the active holds sum to 45.04",
        ("UPDATE balances.accounts SET available = available - 1, held = held + 1 WHERE asset_id = 'USD'",),
        "held is holds",
    ),
    Fault(
        "I1", None, "alice has 45.04 USD held, the active holds sum to 50.04",
        (_hold(LIVE, _RAISED),),
        "held is holds",
    ),
)  # fmt: skip

EFFECTS: Final = (
    Fault(
        "I2", BUY, "SETTLED with 500.4 USD captured, the journal took 500.5 from alice",
        (_hold(BUY, "captured = 500.4, refunded = 0.1"),),
        "captured once",
    ),
    Fault(
        "I2", SELL, "SETTLED with 10 ACME captured, the journal took 0 from alice",
        (
            (
                "UPDATE balances.journal SET accounts = accounts[3:], asset_ids = asset_ids[3:], amounts = amounts[3:]"
                f" WHERE order_id = '{SELL}'"  # without ACME's two legs
            ),
            "UPDATE balances.accounts SET available = 100 WHERE asset_id = 'ACME'",
        ),
        "captured once",
    ),
    Fault(
        "I2", BUY, "shows 0.02 BTC filled with a fee of 0.5, the journal gave alice 0.01 BTC and charged 0.5",
        (_fill(BUY, "quantity = 0.02"), _order(BUY, "filled_quantity = 0.02")),
        "journal is fill",
    ),
    Fault(
        "I2", BUY, "it has 2 fills",
        (f"INSERT INTO orders.fills VALUES ('again', '{BUY}', 1, 1, 0, true)",),
        "one fill",
    ),
    Fault(
        "I2", LIVE, "a hold of its own name, again",
        (f"INSERT INTO balances.holds VALUES ('again', '{LIVE}', 'alice', 'USD', 1, 0, 0, 'TOMBSTONE')",),
        "one hold",
    ),
    Fault(
        "I2", BUY, "the journal entry again moved 1 USD for it, besides",
        (_entry("again", f"'{BUY}'", "@fees", "@market", 1),),
        "one entry",
    ),
)  # fmt: skip

ENDS: Final = (
    Fault(
        "I3", CANCELLED, "it is CANCELLED, its hold of 7 USD is HELD",
        (_hold(CANCELLED, "state = 'HELD', refunded = 0"),),
        "nothing held at the end",
    ),
    Fault(
        "I3", BUSTED, "it is FAILED, its hold of 20.02 USD is SETTLED",
        (_hold(BUSTED, "state = 'SETTLED', captured = amount, refunded = 0"),),
        "nothing held at the end",
    ),
    Fault(
        "I4", BUY, "it is COMPLETED, its hold is HELD", (_hold(BUY, "state = 'HELD', captured = 0"),),
        "settled when completed",
    ),
    Fault(
        "I4", BUY, "it is COMPLETED, its hold is missing", (f"DELETE FROM balances.holds WHERE saga_id = '{BUY}'",),
        "settled when completed",
    ),
    Fault(
        "I4", BUY, "a fee of 0.5, and there is no fill", (f"DELETE FROM orders.fills WHERE order_id = '{BUY}'",),
        "fill is shown",
    ),
    Fault(
        "I4", SELL, "shows 0 filled at no price with a fee of 0, and there is no fill",
        (_fill(SELL, "busted = true"), _order(SELL, "filled_quantity = 0, average_price = NULL, fee = 0")),
        "fill is shown",
    ),
    Fault("I4", BUY, "its fill is 0.01 at 50001 with a fee of 0.5", (_fill(BUY, "price = 50001"),), "fill is shown"),
    Fault(
        "I4", BUSTED, "it is FAILED and shows 0 filled at no price with a fee of 0, its fill is 1 at 20",
        (_fill(BUSTED, "busted = false"),),
        "fill is shown",
    ),
    Fault(
        "I5", CANCELLED, "is REFUNDED with 3 captured and 7 refunded",
        (
            _without("balances.holds", "holds_end_once"),
            _without("balances.holds", "holds_within_amount"),
            _hold(CANCELLED, "captured = 3"),
        ),
        "hold ends once",
    ),
    Fault(
        "I5", BUY, "its hold of 505.5 USD is SETTLED with 500.5 captured and 0 refunded",
        (_without("balances.holds", "holds_end_once"), _hold(BUY, _RAISED)),
        "hold ends once",
    ),
    Fault(
        "I5", BUY, "its settlement is in the journal, its hold is REFUNDED",
        (_hold(BUY, "state = 'REFUNDED', captured = 0, refunded = amount"),),
        "settled or refunded",
    ),
)  # fmt: skip

PATHS: Final = (
    Fault(
        "I6", LIVE, "it is PENDING in phase RESERVING, neither due nor parked",
        (_without("orders.orders", "orders_always_wakeable"), _order(LIVE, "due_at = NULL")),
        "wakeable",
    ),
    Fault(
        "I7", BUY, "version 3 follows version 0",
        (f"DELETE FROM orders.history WHERE order_id = '{BUY}' AND seq = 1",),
        "gapless",
    ),
    Fault(
        "I7", BUY, "version 3 follows version 3",
        (f"INSERT INTO orders.history VALUES ('{BUY}', 9, now(), 2, 3, ARRAY['CONFIRMED>PROCESSING'], '[]')",),
        "gapless",
    ),
    Fault(
        "I7", REFUSED, "version 2 goes from PENDING to COMPLETED, after version 1 was PENDING",
        (_without("orders.history", "history_legal_moves"), _moves(REFUSED, ">PENDING", "PENDING>COMPLETED")),
        "legal moves",
    ),
    Fault(
        "I7", REFUSED, "version 2 goes from CONFIRMED to FAILED, after version 1 was PENDING",
        (_moves(REFUSED, ">PENDING", "CONFIRMED>FAILED"),),
        "legal moves",
    ),
    Fault(
        "I7", REFUSED, "version 1 goes from nothing to FAILED, after version 0 was nothing",
        (_without("orders.history", "history_legal_moves"), _moves(REFUSED, ">FAILED", "FAILED>FAILED")),
        "legal moves",
    ),
    Fault(
        "I7", LIVE, "it is PENDING at version 2, its history ends with PENDING at version 1",
        (_order(LIVE, "version = 2"),),
        "history ends here",
    ),
    Fault(
        "I7", LIVE, "it is PENDING at version 1 and has no history",
        (f"DELETE FROM orders.history WHERE order_id = '{LIVE}'",),
        "has a history",
    ),
    Fault(
        "I7", NOBODY, "its history has 1 versions, and there is no such order",
        (f"INSERT INTO orders.history VALUES ('{NOBODY}', 1, now(), 0, 1, ARRAY['>PENDING'], '[]')",),
        "history has an order",
    ),
)  # fmt: skip

OWNERLESS: Final = (
    Fault(
        "I8", LIVE, "25.02 USD of alice are HELD for it, and there is no such order",
        (f"DELETE FROM orders.orders WHERE order_id = '{LIVE}'",),
        "hold has a saga",
    ),
    Fault(
        "I8", BUY, "500.5 USD of alice are SETTLED for it, and there is no such order",
        (f"DELETE FROM orders.orders WHERE order_id = '{BUY}'",),
        "hold has a saga",
    ),
    Fault(
        "I8", BUSTED, "20.02 USD of alice are HELD for it, and it is FAILED",
        (_hold(BUSTED, "state = 'HELD', refunded = 0"),),
        "hold has a saga",
    ),
)  # fmt: skip

KEYS: Final = (
    Fault(
        "I10", SELL, "its idempotency key k1 of alice made another order too",
        (
            "DROP INDEX api.claims_idempotency_key",
            f"UPDATE api.claims SET idempotency_key = 'k1' WHERE order_id = '{SELL}'",
        ),
        "one order a key",
    ),
    Fault(
        "I10", SELL, "its client order id mine of alice was claimed for another order too",
        (
            "DROP INDEX api.claims_client_order_id",
            f"UPDATE api.claims SET client_order_id = 'mine' WHERE order_id = '{SELL}'",
        ),
        "one claim a client id",
    ),
    Fault(
        "I10", PARKED, "its client order id mine of alice is on another order too",
        ("DROP INDEX orders.orders_client_order_id", _order(PARKED, "client_order_id = 'mine'")),
        "one order a client id",
    ),
)  # fmt: skip

_SUSPENDED: Final = """progress = jsonb_set(progress::jsonb, '{suspended}', '{"requested_by": "alice"}')::text"""
RESTING: Final = (
    Fault(
        "I12", WORKS, "no tick can find it: it has no row", ("DELETE FROM orders.resting WHERE live",),
        "rests by its row",
    ),
    Fault("I12", WORKS, "its row is not live", (_row(WORKS, "live = false"),), "rests by its row"),
    Fault(
        "I12", WORKS, "it waits under its terms 1, a tick would fire its terms 2", (_row(WORKS, "revision = 2"),),
        "rests by its row",
    ),
    Fault(
        "I12", WORKS, "it waits for 100 and for 120, a tick would fire it at 100 and at no price",
        (_order(WORKS, """order_type = 'BRACKET_SELL', terms = '{"limit_price":"120","trigger_price":"100.00"}'"""),),
        "both levels of a bracket",
    ),
    Fault(
        "I12", NOBODY, "a tick of BTC could fire it, and there is no such order",
        (_row(WAITS, f"order_id = '{NOBODY}'"),),
        "row of a resting order",
    ),
    Fault(
        "I12", LIVE, "and it is PENDING in phase RESERVING",
        (_row(WAITS, f"order_id = '{LIVE}', live = true, from_sequence = 7, entered_at = now()"),),
        "row of a resting order",
    ),
    Fault(
        "I12", FIRED, "and it is PROCESSING in phase SETTLING", (_row(WAITS, f"order_id = '{FIRED}'"),),
        "row of a resting order",
    ),
    Fault(
        "I12", WORKS, "it is on hold, and a tick could fire it", (_order(WORKS, _SUSPENDED),), "rests by its row",
    ),
    Fault(
        "I12", WORKS, "it is on hold, and its row would not let it expire",
        (_order(WORKS, _SUSPENDED), _row(WORKS, "live = false")),
        "rests by its row",
    ),
    Fault(
        "I12", WORKS, "it waits for a price, and its row is not live: no tick",
        (_order(WORKS, "phase = 'AMENDING', due_at = now()"), _row(WORKS, "live = false")),
        "rests by its row",
    ),
    Fault("I12", WORKS, "and it is parked", (_order(WORKS, "parked_reason = 'a lie'"),), "row of a resting order"),
    Fault(
        "I13", FIRED, "the tick 8 has fired it, its history has 0 fires",
        (f"UPDATE orders.history SET entries = '[]' WHERE order_id = '{FIRED}'",),
        "one fire",
    ),
    Fault(
        "I13", FIRED, "the tick 8 has fired it, which rests since the tick 8",
        (_order(FIRED, """progress = replace(progress, '"from_sequence":7', '"from_sequence":8')"""),),
        "newer than its acceptance",
    ),
    Fault(
        "I13", FIRED, "has fired it at 100, it is filled at 101",
        (_fill(FIRED, "price = 101"), _order(FIRED, "average_price = 101")),
        "filled at its tick",
    ),
    Fault(
        "I13", WORKS, "the tick 8 has fired it at",
        (
            _row(
                WORKS,
                "fired_sequence = 8, fired_price = 99, fired_as_of = now(), fired_rank = 0,"
                " fired_at = now() - interval '11 minutes'",
            ),
        ),
        "fire is executed",
    ),
    Fault(
        "I13", WORKS, "the tick 9 has triggered it at",
        (_row(WORKS, "triggered_sequence = 9, triggered_price = 99, fired_at = now() - interval '11 minutes'"),),
        "fire is executed",
    ),
)  # fmt: skip

OF_SERVICES: Final = (
    Fault(
        "I2", None, f"of hold:{CAPTURED} 95 USD are captured to @fees, the journal took 95 from carol to @external",
        (f"UPDATE balances.service_holds SET captured_to = '@fees' WHERE hold_id = 'hold:{CAPTURED}'",),
        "service captured once",
    ),
    Fault(
        "I2", None, f"of hold:{CAPTURED} 95 USD are captured to @external, the journal took 0 from nobody to nobody",
        (f"DELETE FROM balances.journal WHERE entry_id = 'hold:{CAPTURED}:capture'",),
        "service captured once",
    ),
    Fault(
        "I2", None, f"of hold:{RELEASED} 0 USD are captured to nobody, the journal took 1 from carol to @fees",
        (_entry(f"hold:{RELEASED}:capture", "NULL", "@fees", "carol", 1),),
        "service captured once",
    ),
    Fault(
        "I5", None, f"hold:{EXPIRED} of 30 USD is REFUNDED and ended as nothing yet, with 0 captured and 30 refunded",
        (f"UPDATE balances.service_holds SET ended = NULL WHERE hold_id = 'hold:{EXPIRED}'",),
        "service hold ends once",
    ),
    Fault(
        "I5", None, f"hold:{CAPTURED} of 100 USD is SETTLED and ended as CAPTURED, with 95 captured and 4 refunded",
        (
            _without("balances.holds", "holds_end_once"),
            f"UPDATE balances.holds SET refunded = 4 WHERE hold_id = 'hold:{CAPTURED}'",
        ),
        "service hold ends once",
    ),
    Fault(
        "I8", None, f"hold:{HELD_FOR_SERVICE} is HELD, and no service has asked for it",
        (f"DELETE FROM balances.service_holds WHERE hold_id = 'hold:{HELD_FOR_SERVICE}'",),
        "hold has a service",
    ),
    Fault(
        "I8", None, f"hold:{RELEASED} is no hold, and a service has asked for it",
        (f"DELETE FROM balances.holds WHERE hold_id = 'hold:{RELEASED}'",),
        "hold has a service",
    ),
    Fault(
        "I8", None, f"50 USD of carol are still held for hold:{HELD_FOR_SERVICE}, which was to end at",
        ("UPDATE balances.service_holds SET expires_at = now() - interval '11 minutes' WHERE ended IS NULL",),
        "hold expires",
    ),
)  # fmt: skip

FAULTS: Final = (*ACCOUNTS, *EFFECTS, *ENDS, *PATHS, *OWNERLESS, *KEYS, *RESTING, *OF_SERVICES)
"""All but I9 and I11, which depend on time: see `test_audit`."""
