"""The tables of this room, in the schema `api`: the holds that were asked for here, and what was asked of them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy import text as sql


def add_tables(metadata: MetaData) -> None:
    """Describe them, with the other tables of the schema."""
    amount = Numeric(38, 18)
    holds = Table(
        "holds",
        metadata,
        Column("hold_id", Uuid, primary_key=True, comment="minted here, before anything is published"),
        Column(
            "service",
            Text,
            nullable=False,
            comment="the token's sub: the service that asked for it, and alone may use it",
        ),
        Column("idempotency_key", Text),
        Column("user_id", Text, nullable=False),
        Column("asset_id", Text, nullable=False),
        Column("amount", amount, nullable=False),
        Column("expires_at", DateTime(timezone=True), nullable=False),
        Column("status", Text, nullable=False, server_default="PENDING", comment="as the events have told it so far"),
        Column("captured", amount),
        Column("captured_to", Text),
        Column("returned", amount),
        Column("reason_code", Text),
        Column("reason", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        CheckConstraint("idempotency_key <> ''", name="idempotency_key"),
        CheckConstraint("status IN ('PENDING', 'HELD', 'REFUSED', 'CAPTURED', 'RELEASED', 'EXPIRED')", name="status"),
    )
    Index(
        "holds_idempotency_key_of_service",
        *(holds.c.service, holds.c.idempotency_key),
        unique=True,
        postgresql_where=holds.c.idempotency_key.is_not(None),
    )
    Index("holds_held", holds.c.expires_at, postgresql_where=sql("status = 'HELD'"))
    requests = Table(
        "hold_requests",
        metadata,
        Column("hold_id", Uuid, primary_key=True),
        Column("action", Text, primary_key=True),
        Column("request", LargeBinary, nullable=False, comment="the message, as it is published"),
        Column("token_id", Text, comment="the token's jti, or a digest of the token; null: erased"),
        Column("traceparent", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("next_publish_at", DateTime(timezone=True), nullable=False, comment="when the sweeper looks at it next"),
        Column("settled", Boolean, nullable=False, server_default=sql("false"), comment="an event has answered it"),
        Column("reason_code", Text, comment="why it was refused"),
        Column("reason", Text),
        CheckConstraint("action IN ('place', 'capture', 'release')", name="action"),
    )
    Index("hold_requests_next_publish_at", requests.c.next_publish_at, postgresql_where=~requests.c.settled)
