"""The schema `webhooks` as tables: whom to tell, and what each was told. Migrations are made from it.

The API writes endpoints, and deliveries that a user asks for; everything else is the process's own.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    Time,
    Uuid,
    func,
)
from sqlalchemy import text as sql

from saga_kit.messaging.dead_letters import dead_letters_table
from saga_kit.messaging.outbox import outbox_table

SCHEMA: Final = "webhooks"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s"},
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("endpoint_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="webhook, email or push"),
    Column("target", Text, nullable=False, comment="a URL, an e-mail address, or a push subscription as JSON"),
    Column("description", Text, nullable=False, server_default=sql("''"), comment="the user's own words"),
    Column("idempotency_key", Text),
    Column("event_types", ARRAY(Text), nullable=False, comment="empty: all"),
    Column("every_version", Boolean, nullable=False, server_default=sql("false"), comment="no version is superseded"),
    Column("secrets", Text, nullable=False, comment="sealed secrets as a JSON list, newest first, each with its end"),
    Column("confirmed_at", DateTime(timezone=True), comment="when the owner of an e-mail address has confirmed it"),
    Column("quiet_from", Time, comment="of each day in time_zone; nothing is sent until quiet_until"),
    Column("quiet_until", Time),
    Column("time_zone", Text),
    Column("notional_min", Numeric(38, 18), comment="what is worth less is not told"),
    Column("state", Text, nullable=False, server_default=sql("'ACTIVE'")),
    Column("disabled_reason", Text),
    Column("failing_since", DateTime(timezone=True), comment="of the first failure since the last success"),
    Column("failures_in_row", Integer, nullable=False, server_default=sql("0")),
    Column("paused_until", DateTime(timezone=True), comment="no attempt before: Retry-After, or the next probe"),
    Column("disabled_at", DateTime(timezone=True), comment="given up by the process; null: its user has disabled it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revision", BigInteger, nullable=False, server_default=sql("1"), comment="of what its user has set"),
    Column("asked", Text, comment="what was asked for when it was made, for requests that repeat it"),
    CheckConstraint("kind IN ('webhook', 'email', 'push')", name="kind"),
    CheckConstraint("state IN ('ACTIVE', 'DISABLED')", name="state"),
    CheckConstraint("(state = 'DISABLED') = (disabled_reason IS NOT NULL)", name="disabled_reason"),
    CheckConstraint("disabled_at IS NULL OR state = 'DISABLED'", name="disabled_at"),
    CheckConstraint("num_nulls(quiet_from, quiet_until, time_zone) IN (0, 3)", name="quiet_hours"),
    CheckConstraint("idempotency_key <> ''", name="idempotency_key"),
    # The sender reckons with zones for all endpoints together, so one that the database does not know may not get in.
    CheckConstraint(
        "time_zone IS NULL OR timezone(time_zone, timestamptz '2000-01-01 00:00Z') IS NOT NULL", name="time_zone"
    ),
    CheckConstraint("notional_min >= 0", name="notional_min"),
)
Index("endpoints_user_id", endpoints.c.user_id)
Index("endpoints_disabled_at", endpoints.c.disabled_at, postgresql_where=endpoints.c.disabled_at.is_not(None))
Index(
    "endpoints_idempotency_key_of_user",
    endpoints.c.user_id,
    endpoints.c.idempotency_key,
    unique=True,
    postgresql_where=endpoints.c.idempotency_key.is_not(None),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column(
        "endpoint_id",
        ForeignKey(endpoints.c.endpoint_id, ondelete="CASCADE", name="deliveries_endpoint_id_fkey"),
        primary_key=True,
    ),
    Column("event_id", Text, primary_key=True, comment="<order_id>:v<version>, or an id of another event"),
    Column("order_id", Uuid, comment="null: about no order"),
    Column("version", BigInteger, comment="of the order"),
    Column("event_type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="signed and sent as it is, at every attempt"),
    Column("state", Text, nullable=False, server_default=sql("'PENDING'")),
    Column("reason", Text, comment="why it was not delivered"),
    Column("attempts", Integer, nullable=False, server_default=sql("0")),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("leased_until", DateTime(timezone=True), comment="a process sends it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('PENDING', 'DELIVERED', 'SUPERSEDED', 'FAILED', 'SKIPPED')", name="state"),
    CheckConstraint("(state = 'PENDING') = (ended_at IS NULL)", name="ended_at"),
)
Index(
    "deliveries_due",
    deliveries.c.endpoint_id,
    deliveries.c.next_attempt_at,
    postgresql_where=deliveries.c.state == sql("'PENDING'"),
)
Index(
    "deliveries_pending_of_order",
    deliveries.c.order_id,
    postgresql_where=deliveries.c.state == sql("'PENDING'"),
)
Index("deliveries_of_endpoint", deliveries.c.endpoint_id, deliveries.c.created_at)
Index(
    "deliveries_ended_as",
    deliveries.c.endpoint_id,
    deliveries.c.state,
    deliveries.c.created_at,
    deliveries.c.event_id,
    postgresql_where=deliveries.c.state != sql("'PENDING'"),
)
Index("deliveries_of_order", deliveries.c.order_id)
Index("deliveries_ended_at", deliveries.c.ended_at, postgresql_where=deliveries.c.ended_at.is_not(None))

attempts = Table(
    "attempts",
    metadata,
    Column("endpoint_id", Uuid, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, comment="from 1"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("status", Integer, comment="of the answer; null: there was none"),
    Column("error", Text, comment="why it failed, in words; null: it did not"),
    Column("answer", Text, comment="its first 200 printable characters"),
    ForeignKeyConstraint(
        ["endpoint_id", "event_id"],
        [deliveries.c.endpoint_id, deliveries.c.event_id],
        ondelete="CASCADE",
        name="attempts_delivery_fkey",
    ),
)

# Its one row moves with every change of an endpoint: processes keep endpoints in memory, and look whether it has.
changes = Table(
    "changes",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=sql("true")),
    Column("version", BigInteger, nullable=False, server_default=sql("0")),
    CheckConstraint("single", name="single"),
)

# A code goes to an address at the asking of somebody who may not own it, so they are counted by address, for a day.
codes = Table(
    "codes",
    metadata,
    Column(
        "address_hash",
        LargeBinary,
        primary_key=True,
        comment="SHA-256 of the mailbox, or of the user who asks",
    ),
    Column("day", Date, primary_key=True),
    Column("sent", Integer, nullable=False),
)

# What operators were told of by channels of their own, by any of the processes.
alarms = Table(
    "alarms",
    metadata,
    Column("subject", Text, primary_key=True, comment="as audit.trouble has it"),
    Column("number", BigInteger, nullable=False, comment="that was told, or a smaller one that came after it"),
    Column("told_at", DateTime(timezone=True), nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("endpoint_id", Uuid, nullable=False),
    Column("user_id", Text, nullable=False, comment="whose endpoint it is, or was"),
    Column("action", Text, nullable=False),
    Column("caller", Text, nullable=False, comment="the token's sub"),
    Column("token_id", Text, comment="the token's jti, or a digest of the token; null: erased"),
    Column("address", Text, comment="where the request came from; null: erased"),
    Column("trace_id", Text),
)
Index("requests_user_id", requests.c.user_id)

outbox = outbox_table(metadata, SCHEMA)
dead_letters = dead_letters_table(metadata, SCHEMA)
