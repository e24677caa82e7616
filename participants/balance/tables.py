"""The schema `balances` as tables; migrations are made from it, and its checks are the net below the ledger's rules."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, Numeric, Table, Text, Uuid, func

from saga_kit.messaging.dead_letters import dead_letters_table
from saga_kit.messaging.outbox import outbox_table
from saga_kit.participant.holds import holds_archive_table, holds_table
from saga_kit.participant.ledger_start import ledger_start_table

SCHEMA: Final = "balances"
AMOUNT: Final = Numeric(38, 18)

metadata = MetaData(schema=SCHEMA)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("asset_id", Text, primary_key=True),
    Column("available", AMOUNT, nullable=False),
    Column("held", AMOUNT, nullable=False),
    CheckConstraint("available >= 0", name="accounts_available"),
    CheckConstraint("held >= 0", name="accounts_held"),
)

journal = Table(
    "journal",
    metadata,
    Column("entry_id", Text, primary_key=True, comment="<order_id>:settle or deposit:<deposit_id>"),
    Column("account", Text, primary_key=True, comment="a user's id, @market, @fees or @external"),
    Column("asset_id", Text, primary_key=True),
    Column("order_id", Uuid, comment="null for a deposit"),
    Column("amount", AMOUNT, nullable=False, comment="what the account gains; an entry sums to zero per asset"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("amount <> 0", name="journal_amount"),
)

deposits = Table(
    "deposits",
    metadata,
    Column("deposit_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("asset_id", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("amount > 0", name="deposits_amount"),
)

holds = holds_table(metadata, SCHEMA)
holds_archive = holds_archive_table(metadata, SCHEMA)
ledger_start = ledger_start_table(metadata, SCHEMA)
outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
