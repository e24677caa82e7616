"""The orchestrator's tables, as the migrations make them. Constraints come from the core's table of phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from contracts.decimals import PLACES_MAX
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode
from order_saga.core.phases import MOVES, PHASES, RESTING, TERMINAL
from order_saga.core.saga import Participant
from saga_kit.messaging.dead_letters import dead_letters_table
from saga_kit.messaging.outbox import outbox_table

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA: Final = "orders"
metadata = MetaData(schema=SCHEMA)

AMOUNT: Final = Numeric(38, PLACES_MAX)
MOMENT: Final = DateTime(timezone=True)


def _in(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({_quoted(values)})"


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _phase_shows_status() -> str:
    """Write down which status each phase may show: its own, or for REFUNDING what was shown before."""
    before_refund = {row.status for row in PHASES.values() if row.cancel is not None}
    cases = []
    for phase, row in PHASES.items():
        if row.entry:
            continue  # left in the decision that reaches it
        shown = [row.status] if row.status else sorted(s for s in before_refund if s) if row.asks else []
        cases.append(f"phase = '{phase}' AND " + (_in("status", shown) if shown else "status IS NULL"))
    return "(" + " OR ".join(f"({case})" for case in cases) + ") IS TRUE"  # a CHECK lets through what is null


def legal_moves() -> list[str]:
    """List every legal step from one version to the next: a move of the status, or another visible change under it."""
    legal = [f"{before or ''}>{after}" for before, afters in MOVES.items() for after in afters]
    legal += [f"{row.status}>{row.status}" for row in PHASES.values() if row.status and row.cancel is not None]
    return sorted(set(legal))


_TERMINAL_SQL = _in("phase", sorted(TERMINAL))

orders = Table(
    "orders",
    metadata,
    Column("order_id", UUID(as_uuid=True), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("asset_id", Text),
    Column("order_type", Text),
    Column("quantity", AMOUNT),
    Column("price", AMOUNT),
    Column("slippage_bps", Integer),
    Column("client_order_id", Text),
    Column("terms", Text, comment="what a conditional order waits for: contracts.terms.Terms; null for a market order"),
    Column("traceparent", Text),
    Column("phase", Text, nullable=False),
    Column("status", Text),
    Column("version", Integer, nullable=False),
    Column("reason_code", Text),
    Column("reason", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("filled_quantity", AMOUNT, nullable=False),
    Column("average_price", AMOUNT),
    Column("fee", AMOUNT, nullable=False),
    Column("progress", Text, nullable=False, comment="questions, quote, hold state, outcome: order_saga.core.Progress"),
    Column("due_at", MOMENT),
    Column("overdue_since", MOMENT),
    Column("parked_reason", Text),
    Column("history_seq", Integer, nullable=False),
    Column("created_at", MOMENT, nullable=False),
    Column("updated_at", MOMENT, nullable=False),
    CheckConstraint(_phase_shows_status(), name="orders_phase_shows_status"),
    CheckConstraint(f"order_type IS NULL OR {_in('order_type', OrderType)}", name="orders_order_type"),
    CheckConstraint(f"reason_code IS NULL OR {_in('reason_code', ReasonCode)}", name="orders_reason_code"),
    CheckConstraint(
        "(reason_code IS NOT NULL) = (status IS NOT NULL AND "
        + _in("status", [OrderStatus.CANCELLED, OrderStatus.FAILED])
        + ")",
        name="orders_reason_when_not_completed",
    ),
    CheckConstraint(
        f"phase = 'NEW' OR {_TERMINAL_SQL} OR parked_reason IS NOT NULL OR due_at IS NOT NULL"
        f" OR {_in('phase', sorted(RESTING))}",
        name="orders_always_wakeable",
    ),
    CheckConstraint("filled_quantity >= 0 AND fee >= 0 AND quantity > 0 AND price > 0", name="orders_amounts"),
    CheckConstraint("(phase = 'NEW') = (version = 0)", name="orders_version_of_new"),
    Index("orders_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("orders_by_user", "user_id", "created_at", "order_id"),
    Index(
        "orders_open_by_user",
        *("user_id", "created_at", "order_id"),
        postgresql_where=text(_in("status", [status for status in OrderStatus if not status.terminal])),
    ),
    Index(
        "orders_waiting",
        *("user_id", "asset_id"),
        postgresql_where=text(
            "terms IS NOT NULL AND " + _in("status", [status for status in OrderStatus if not status.terminal])
        ),
    ),
    Index(
        "orders_client_order_id",
        "user_id",
        "client_order_id",
        unique=True,
        postgresql_where=text(
            "client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'"
        ),
    ),
    Index(
        "orders_trouble", "order_id", postgresql_where=text("parked_reason IS NOT NULL OR overdue_since IS NOT NULL")
    ),
    postgresql_with={"fillfactor": "70"},
)
"""One row an order. A row of phase NEW is a cancel whose request has not come; nobody sees it."""

history = Table(
    "history",
    metadata,
    Column("order_id", UUID(as_uuid=True), primary_key=True),
    Column("seq", Integer, primary_key=True, comment="number of the first entry"),
    Column("at", MOMENT, nullable=False),
    Column("version_from", Integer, nullable=False),
    Column("version_to", Integer, nullable=False),
    Column("moves", ARRAY(Text), nullable=False, comment="one a version: PENDING>CONFIRMED"),
    Column("entries", Text, nullable=False),
    CheckConstraint(f"moves <@ ARRAY[{_quoted(legal_moves())}]::text[]", name="history_legal_moves"),
    CheckConstraint("cardinality(moves) = version_to - version_from", name="history_gapless_versions"),
)
"""One row for each (order, transaction): everything that happened to it there, ignored messages included.

No foreign key: the only writer writes both rows in one transaction, and a check for every row costs as much as the row.
"""

fills = Table(
    "fills",
    metadata,
    Column("fill_id", Text, primary_key=True),
    Column("order_id", UUID(as_uuid=True), nullable=False, index=True),
    Column("quantity", AMOUNT, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("fee", AMOUNT, nullable=False),
    Column("busted", Boolean, nullable=False),
    Column("created_at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("quantity > 0 AND price > 0 AND fee >= 0", name="fills_amounts"),
)

archive = Table(
    "archive",
    metadata,
    *(
        Column(
            column.name,
            JSONB() if column.name == "progress" else column.type,
            primary_key=column.primary_key,
            nullable=column.nullable,
        )
        for column in orders.columns
        if column.name not in {"due_at", "overdue_since", "parked_reason"}
    ),
    Column("history", JSONB, nullable=False, comment="the rows of orders.history, by seq"),
    Column("fills", JSONB, nullable=False, comment="the rows of orders.fills"),
    Column("archived_at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint(f"{_TERMINAL_SQL} AND phase = status", name="archive_ended"),
    CheckConstraint(_in("status", [status for status in OrderStatus if status.terminal]), name="archive_status"),
    Index("archive_by_user", "user_id", "created_at", "order_id"),
    Index(
        "archive_client_order_id",
        "user_id",
        "client_order_id",
        unique=True,
        postgresql_where=text(
            "client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'"
        ),
    ),
)
"""Orders that ended before the replay horizon, a row each with all that there was; never changed, but by an erasure.

An id that stands here is never an order again. Its three columns that are missing are null in every such order.
"""

pauses = Table(
    "pauses",
    metadata,
    Column("participant", Text, primary_key=True),
    Column("paused_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("paused_at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint(_in("participant", Participant), name="pauses_participant"),
)
"""The participants that nobody asks at present."""

repairs = Table(
    "repairs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("action", Text, primary_key=True),
    Column("item", Text, primary_key=True, comment="an order's id, or a dead letter's: orders/17"),
    Column("done_by", Text, nullable=False),
    Column("at", MOMENT, nullable=False, server_default=text("clock_timestamp()")),
    Column("result", Text, nullable=False),
)
"""What operators did, item by item; added to and never changed. A run that is started again skips what stands here."""

outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
