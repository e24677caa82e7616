"""The schema `api` as tables: what this room has promised and must not forget. Migrations are made from it.

The room also reads two views of the same schema, `api.orders` and `api.history`, which the migrations define. The holds
of services have their tables in it, too.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy import text as sql

from order_api.holds.tables import add_tables

SCHEMA: Final = "api"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s"},
)


def _origin() -> list[Column[Any]]:
    """Who asked, and how."""
    return [
        Column("caller", Text, nullable=False, comment="the token's sub"),
        Column("token_id", Text, comment="the token's jti, or a digest of the token; null: erased"),
        Column("address", Text, comment="where the request came from; null: erased"),
        Column("trace_id", Text),
    ]


def _published_until(settled: str) -> list[Column[Any]]:
    """When it was accepted, when the sweeper looks whether to publish it again, and whether it never will."""
    return [
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("next_publish_at", DateTime(timezone=True), nullable=False, comment="when the sweeper looks at it next"),
        Column("settled", Boolean, nullable=False, server_default=sql("false"), comment=settled),
    ]


claims = Table(
    "claims",
    metadata,
    Column("order_id", Uuid, primary_key=True, comment="minted here, before anything is published"),
    Column("user_id", Text, nullable=False, comment="the order's user"),
    Column("idempotency_key", Text),
    Column("client_order_id", Text),
    Column("intent", Text, nullable=False, comment="what was asked for, canonical: 1.0 and 1.00 are the same text"),
    Column("request", LargeBinary, nullable=False, comment="the OrderRequested, but for its requested_at: created_at"),
    Column("traceparent", Text),
    *_published_until("the order's row exists"),
    Column(
        "taken", Boolean, nullable=False, server_default=sql("false"), comment="the order's row is another user's order"
    ),
    CheckConstraint("idempotency_key <> ''", name="idempotency_key"),
    CheckConstraint("client_order_id <> ''", name="client_order_id"),
)

cancels = Table(
    "cancels",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False, comment="the order's user"),
    Column("requested_by", Text, nullable=False, comment="the user, or @operator:<name>"),
    *_published_until("the order shows it, or is past it"),
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", BigInteger, Identity(always=True), primary_key=True),
    Column("order_id", Uuid, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False, comment="accepted, replayed, or the code of the problem"),
    *_origin(),
    CheckConstraint("action IN ('submit', 'cancel', 'amend', 'hold', 'release')", name="action"),
)

mass_cancels = Table(
    "mass_cancels",
    metadata,
    Column("mass_cancel_id", Uuid, primary_key=True),
    Column("user_id", Text, nullable=False, comment="whose orders"),
    Column("requested_by", Text, nullable=False, comment="the user, or @operator:<name>"),
    Column("idempotency_key", Text),
    Column("asset_id", Text, comment="only this asset; null: every one"),
    Column("side", Text, comment="only this side; null: both"),
    Column("order_type", Text, comment="only this type; null: every one"),
    *_origin(),
    Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="orders that were accepted later are left alone",
    ),
    Column(
        "after_created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="the place of the last order that was looked at",
    ),
    Column("after_order_id", Uuid, nullable=False, server_default=sql("'ffffffff-ffff-ffff-ffff-ffffffffffff'")),
    Column("orders", BigInteger, nullable=False, server_default=sql("0"), comment="cancels that it has made so far"),
    Column("completed_at", DateTime(timezone=True), comment="when the last order had been looked at"),
    Column("next_run_at", DateTime(timezone=True), nullable=False, comment="when a sweeper goes on with it"),
    CheckConstraint("idempotency_key <> ''", name="idempotency_key"),
)

cancel_timers = Table(
    "cancel_timers",
    metadata,
    Column("user_id", Text, primary_key=True, comment="whose open orders it cancels"),
    Column("timeout_s", Integer, nullable=False, comment="as the last call asked for; 0: off"),
    Column(
        "set_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="when the last call came",
    ),
    Column("fires_at", DateTime(timezone=True), comment="null: off, or it has fired"),
    Column("fired_at", DateTime(timezone=True), comment="when it fired last"),
    Column("mass_cancel_id", Uuid, comment="what it asked for when it fired last"),
    Column("caller", Text, nullable=False, comment="the token's sub, of the last call"),
    Column("token_id", Text, comment="the token's jti, or a digest of the token; null: erased"),
    Column("address", Text, comment="where the last call came from; null: erased"),
    Column("trace_id", Text),
)

amends = Table(
    "amends",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("amend_id", Text, primary_key=True, comment="the Idempotency-Key, or an id of our own making"),
    Column("user_id", Text, nullable=False, comment="the order's user"),
    Column("requested_by", Text, nullable=False, comment="the user, or @operator:<name>"),
    Column("expected_versions", ARRAY(BigInteger), comment="the versions that If-Match allows; null: any"),
    Column("changes", Text, nullable=False, comment="the new terms as a JSON object, canonical"),
    *_published_until("the orchestrator has read it, or the order is past it"),
)

suspensions = Table(
    "suspensions",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("requested_by", Text, primary_key=True, comment="the user, or @operator:<name>"),
    Column("user_id", Text, nullable=False, comment="the order's user"),
    Column("wish", Text, nullable=False, comment="what they asked for last"),
    *_published_until("the orchestrator has read it, or the order is past it"),
    CheckConstraint("wish IN ('hold', 'release')", name="wish"),
)

Index("amends_one_at_a_time", amends.c.order_id, unique=True, postgresql_where=~amends.c.settled)
Index("requests_order_id", requests.c.order_id)
Index(
    "mass_cancels_idempotency_key",
    *(mass_cancels.c.user_id, mass_cancels.c.requested_by, mass_cancels.c.idempotency_key),
    unique=True,
    postgresql_where=mass_cancels.c.idempotency_key.is_not(None),
)
Index(
    "mass_cancels_next_run_at",
    mass_cancels.c.next_run_at,
    postgresql_where=mass_cancels.c.completed_at.is_(None),
)
Index("cancel_timers_fires_at", cancel_timers.c.fires_at, postgresql_where=cancel_timers.c.fires_at.is_not(None))
Index(
    "claims_not_yet_orders",
    *(claims.c.user_id, claims.c.created_at, claims.c.order_id),
    postgresql_where=sql("NOT settled OR taken"),
)
for _key in ("idempotency_key", "client_order_id"):
    Index(f"claims_{_key}", claims.c.user_id, claims.c[_key], unique=True, postgresql_where=claims.c[_key].is_not(None))
for _table in (claims, cancels, amends, suspensions):
    Index(f"{_table.name}_next_publish_at", _table.c.next_publish_at, postgresql_where=~_table.c.settled)

add_tables(metadata)
