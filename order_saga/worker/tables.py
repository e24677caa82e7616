"""The orchestrator's tables, as the migrations make them. Constraints come from the core's table of phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
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

from contracts.assets import Trading
from contracts.decimals import PLACES_MAX
from contracts.vocabulary import OrderStatus, OrderType, ReasonCode, Side
from order_saga.core.phases import IDLE, MOVES, PHASES, TERMINAL
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
    Column(
        "terms",
        Text,
        comment="what an order waits for: contracts.terms.Terms; null for a market order that does not queue",
    ),
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
        f" OR {_in('phase', sorted(IDLE))}",
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

marks = Table(
    "marks",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("price", AMOUNT, nullable=False),
    Column("as_of", MOMENT, nullable=False),
    Column("confirmed_at", MOMENT, nullable=False),
    Column("appended_at", MOMENT, nullable=False),
    Column("trading", Text, nullable=False),
    Column("live", Boolean, nullable=False, comment="it could fire when it was judged; if not, its repetition may"),
    CheckConstraint(_in("trading", Trading), name="marks_trading"),
    CheckConstraint("price > 0", name="marks_price"),
    postgresql_with={"fillfactor": "50"},
)
"""The last tick judged of each asset: what the orders know of the market."""

peaks = Table(
    "peaks",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("side", Text, primary_key=True),
    Column("upto", BigInteger, primary_key=True, comment="the step holds for orders that rest from the step before on"),
    Column("price", AMOUNT, nullable=False),
    Column("set_by", BigInteger, nullable=False, comment="the sequence of that price"),
    CheckConstraint(_in("side", Side), name="peaks_side"),
    CheckConstraint("price > 0", name="peaks_price"),
)
"""Watermarks of trailing orders, as steps: the best price since `a`, for each `a` after the step before up to `upto`.

The mark is the last step. Rows beyond the mark are quotes that orders rest from, whose tick has not come yet.
"""

trails = Table(
    "trails",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("side", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("trail", AMOUNT, primary_key=True),
    Column("oldest", BigInteger, nullable=False, comment="no resting order of this trail has a smaller from_sequence"),
    CheckConstraint(_in("side", Side), name="trails_side"),
    CheckConstraint("kind IN ('amount', 'bps')", name="trails_kind"),
    CheckConstraint("trail > 0", name="trails_trail"),
)
"""The different trails of the orders that rest on an asset: few, however many orders there are."""

WAITS: Final = "live AND NOT queued AND fired_sequence IS NULL"
"""Of a row of `resting`: a tick may fire it. Queries repeat it literally, so that they use the partial indexes."""
QUEUED: Final = "live AND queued AND fired_sequence IS NULL"
"""Of a row of `resting`: the first live tick of its asset fires it."""
FIRED: Final = "fired_sequence IS NOT NULL OR (triggered_sequence IS NOT NULL AND NOT told)"
"""Of a row of `resting`: a tick has fired or triggered it, and its order does not show that yet."""

resting = Table(
    "resting",
    metadata,
    Column("order_id", UUID(as_uuid=True), primary_key=True),
    Column("asset_id", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("live", Boolean, nullable=False, comment="false: not accepted yet, on hold, or parked"),
    Column("queued", Boolean, nullable=False, comment="waits for the opening"),
    Column("up_price", AMOUNT, comment="a price of this or more fires it"),
    Column("down_price", AMOUNT, comment="a price of this or less fires it"),
    Column("limit_price", AMOUNT, comment="of a stop or take profit that is not triggered yet"),
    Column("trail_amount", AMOUNT),
    Column("trail_bps", Integer),
    Column("from_sequence", BigInteger, comment="only ticks after it count"),
    Column("entered_at", MOMENT),
    Column("expires_at", MOMENT),
    Column("triggered_sequence", BigInteger),
    Column("triggered_price", AMOUNT),
    Column("told", Boolean, nullable=False, comment="its order shows that it is triggered"),
    Column("fired_sequence", BigInteger),
    Column("fired_price", AMOUNT),
    Column("fired_as_of", MOMENT),
    Column("fired_watermark", AMOUNT, comment="of a trailing stop: its best price up to the tick that fired it"),
    Column("fired_at", MOMENT),
    Column("fired_rank", Integer, comment="its place among the rows of one fired_at"),
    Column("suspended", Boolean, nullable=False, server_default=text("false"), comment="on hold: it still expires"),
    CheckConstraint(_in("side", Side), name="resting_side"),
    CheckConstraint("num_nonnulls(trail_amount, trail_bps) <= 1", name="resting_one_trail"),
    CheckConstraint("trail_amount > 0 AND trail_bps > 0", name="resting_trail"),
    CheckConstraint(
        "num_nonnulls(fired_sequence, fired_price, fired_as_of) IN (0, 3) AND fired_sequence > from_sequence",
        name="resting_fired_by_a_tick",
    ),
    CheckConstraint("num_nonnulls(triggered_sequence, triggered_price) IN (0, 2)", name="resting_triggered_by_a_tick"),
    CheckConstraint("fired_sequence IS NULL OR num_nonnulls(fired_at, fired_rank) = 2", name="resting_has_a_place"),
    CheckConstraint(
        "NOT live OR (from_sequence IS NOT NULL AND entered_at IS NOT NULL)", name="resting_live_since_a_tick"
    ),
    Index(
        "resting_up",
        *("asset_id", "up_price", "entered_at"),
        postgresql_where=text(f"up_price IS NOT NULL AND {WAITS}"),
    ),
    Index(
        "resting_down",
        *("asset_id", text("down_price DESC"), "entered_at"),
        postgresql_where=text(f"down_price IS NOT NULL AND {WAITS}"),
    ),
    Index(
        "resting_amount",
        *("asset_id", "side", "trail_amount", "from_sequence"),
        postgresql_where=text(f"trail_amount IS NOT NULL AND {WAITS}"),
    ),
    Index(
        "resting_bps",
        *("asset_id", "side", "trail_bps", "from_sequence"),
        postgresql_where=text(f"trail_bps IS NOT NULL AND {WAITS}"),
    ),
    Index("resting_queued", "asset_id", "entered_at", "order_id", postgresql_where=text(QUEUED)),
    Index("resting_expiry", "expires_at", postgresql_where=text("expires_at IS NOT NULL AND fired_sequence IS NULL")),
    Index("resting_fired", "fired_at", "fired_rank", postgresql_where=text(FIRED)),
    postgresql_with={
        "fillfactor": "80",
        "autovacuum_vacuum_scale_factor": "0.0",
        "autovacuum_vacuum_threshold": "1000",
    },
)
"""One narrow row for each order that may rest, from its request until it leaves the resting phases.

Who may fire, be triggered or expire is decided on these rows alone, by whoever holds the asset's gate.
"""

outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
