"""The tables of the schema `assets`; migrations are made from them. A change of rules adds a version."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    text,
)

from saga_kit.messaging.dead_letters import dead_letters_table
from saga_kit.messaging.outbox import outbox_table

SCHEMA: Final = "assets"
NUMBER: Final = Numeric(38, 18)

metadata = MetaData(schema=SCHEMA)

assets = Table(
    "assets",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("rules_version", Integer, primary_key=True, autoincrement=False),
    Column("tick", NUMBER, nullable=False),
    Column("step", NUMBER, nullable=False),
    Column("min_quantity", NUMBER, nullable=False),
    Column("max_quantity", NUMBER, comment="null: no limit"),
    Column("min_notional", NUMBER, nullable=False),
    Column("max_notional", NUMBER, nullable=False),
    Column("fee_bps", Integer, nullable=False),
    Column("cash_asset_id", Text, nullable=False),
    Column("cash_scale", Integer, nullable=False),
    Column("trading", Boolean, nullable=False),
    Column("available_quantity", NUMBER, comment="the most that one order may ask for; null: no limit"),
    Column("answer_delay_s", Double, comment="how slow the service pretends to be; null: not at all"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column(
        "max_deviation_bps", Integer, comment="how far from the quote a limit or trigger may be, 1/10,000; null: any"
    ),
    CheckConstraint("tick > 0 AND step > 0", name="assets_grid"),
    # Quantity times quote times fee rate (4 places) is then exact in 18 places.
    CheckConstraint("scale(trim_scale(step)) + scale(trim_scale(tick)) + 4 <= 18", name="assets_places"),
    CheckConstraint("min_quantity > 0 AND min_quantity <= max_quantity", name="assets_quantity"),
    CheckConstraint("min_notional >= 0 AND min_notional <= max_notional", name="assets_notional"),
    CheckConstraint("fee_bps BETWEEN 0 AND 10000", name="assets_fee_bps"),
    CheckConstraint("cash_scale BETWEEN 0 AND 18", name="assets_cash_scale"),
    CheckConstraint("max_deviation_bps > 0", name="assets_max_deviation"),
)

prices = Table(
    "prices",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False, comment="rises with each change of price or trading state"),
    Column("price", NUMBER, nullable=False),
    Column("as_of", DateTime(timezone=True), nullable=False, comment="when the price last changed"),
    Column("confirmed_at", DateTime(timezone=True), comment="when its source last stood by it; null: never"),
    Column("source", Text, nullable=False, comment="fixed, walk, script: confirmed by the service; dead: never"),
    Column("trading", Text, nullable=False, server_default="OPEN"),
    Column("reopens_at", DateTime(timezone=True), comment="when a closed asset is expected to open"),
    Column("trading_reason", Text, comment="why it does not trade, for people"),
    Column("trading_changed_at", DateTime(timezone=True), comment="null: it never did"),
    Column("terms", Text, comment="of a walk or a script, as JSON"),
    Column("moves_since", DateTime(timezone=True), comment="when the walk or the script began"),
    Column("position", BigInteger, nullable=False, server_default=text("0"), comment="steps that it has made"),
    Column("leased_by", Text, comment="the instance that moves and repeats this price"),
    Column("leased_until", DateTime(timezone=True), comment="then another instance may; null: at once"),
    CheckConstraint("price > 0 AND price <= 1000000", name="prices_price"),
    CheckConstraint("sequence > 0", name="prices_sequence"),
    CheckConstraint("source IN ('fixed', 'dead', 'walk', 'script', 'external')", name="prices_source"),
    CheckConstraint("trading IN ('OPEN', 'HALTED', 'CLOSED')", name="prices_trading"),
    CheckConstraint("(source IN ('walk', 'script')) = (terms IS NOT NULL)", name="prices_terms"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("asset_id", Text, primary_key=True),
    Column("calendar", Text, nullable=False, comment="time zone, sessions by weekday, holidays, as JSON"),
    Column(
        "due_at",
        DateTime(timezone=True),
        nullable=False,
        comment="when the asset opens or closes next, or the calendar is looked at",
    ),
    Column("set_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
