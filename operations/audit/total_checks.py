"""What may be wrong in total: checks of whole tables, such as sums of accounts, the outbox and names used twice."""

from __future__ import annotations

from typing import Final

from operations.audit.query import AuditLook, Check

_ACCOUNTS: Final = AuditLook(
    ("NULL::uuid AS order_id", "user_id", "asset_id"),
    """
    (SELECT account AS user_id, asset_id, sum(amount) AS amount FROM audit.journal GROUP BY account, asset_id) AS j
    FULL JOIN audit.accounts AS a USING (user_id, asset_id)
    FULL JOIN (
        SELECT user_id, asset_id, sum(amount) AS amount FROM audit.holds
        WHERE state = 'HELD' GROUP BY user_id, asset_id) AS h USING (user_id, asset_id)""",
    (
        Check(
            "I1", "account is journal",
            """user_id NOT IN ('@market', '@fees', '@external')
                AND coalesce(a.available + a.held, 0) <> coalesce(j.amount, 0)""",
            """format('%s has %s %s available and %s held, the journal says %s in all', user_id,
                trim_scale(coalesce(a.available, 0)), asset_id, trim_scale(coalesce(a.held, 0)),
                trim_scale(coalesce(j.amount, 0)))""",
            of_ledger=True,
        ),
        Check(
            "I1", "held is holds", "coalesce(a.held, 0) <> coalesce(h.amount, 0)",
            """format('%s has %s %s held, the active holds sum to %s', user_id, trim_scale(coalesce(a.held, 0)),
                asset_id, trim_scale(coalesce(h.amount, 0)))""",
            of_ledger=True,
        ),
    ),
    by_order=False,
)  # fmt: skip

_ASSETS: Final = AuditLook(
    ("NULL::uuid AS order_id", "asset_id"),
    "(SELECT asset_id, sum(amount) AS amount FROM audit.journal GROUP BY asset_id) AS j",
    (
        Check(
            "I1", "asset balanced", "j.amount <> 0",
            "format('the journal of %s sums to %s, not to 0', asset_id, trim_scale(j.amount))",
            of_ledger=True,
        ),
    ),
    by_order=False,
)  # fmt: skip

_OTHER_HOLDS: Final = AuditLook(
    ("order_id", "hold_id"),
    "audit.holds AS h",
    (
        Check(
            "I2", "one hold", "hold_id <> order_id || ':reserve'",
            "format('it has a hold of its own name, %s, besides the one that it asked for', hold_id)",
            of_ledger=True,
        ),
    ),
    by_order=False,
)  # fmt: skip

_OTHER_ENTRIES: Final = AuditLook(
    ("order_id", "entry_id", "account", "asset_id"),
    "audit.journal AS j",
    (
        Check(
            "I2", "one entry", "order_id IS NOT NULL AND entry_id <> order_id || ':settle'",
            """format('the journal entry %s moved %s %s for it, besides its settlement', entry_id, trim_scale(amount),
                asset_id)""",
            of_ledger=True,
        ),
    ),
    by_order=False,
)  # fmt: skip

# A row in the outbox is no fault while the relay tries to send it, which moves `available_at`: the broker may be away.
# A row that is not tried, or not sent within an hour, is a finding.
_UNSENT: Final = AuditLook(
    ("order_id", "version"),
    "audit.events_unsent AS e",
    (
        Check(
            "I9", "event is sent",
            """available_at < statement_timestamp() - interval '5 s'
                OR created_at < statement_timestamp() - interval '1 hour'""",
            "format('the event of version %s waits in the outbox since %s', version, created_at)",
        ),
    ),
    by_order=False,
    in_flight=True,
)  # fmt: skip

_EVENTS: Final = AuditLook(
    ("e.order_id", "e.version"),
    "audit.events_unsent AS e LEFT JOIN audit.orders AS o ON o.order_id = e.order_id",
    (
        Check(
            "I9", "event of a version", "e.version NOT BETWEEN 1 AND coalesce(o.version, 0)",
            """format('the outbox holds an event of version %s, %s', e.version,
                coalesce('the order is at version ' || o.version, 'and there is no such order'))""",
        ),
    ),
    by_order=False,
)  # fmt: skip

# A tick may fire many orders, and what it fired is worked off one after the other: that takes minutes, and no more.
_UNEXECUTED: Final = AuditLook(
    ("order_id", "fired_sequence"),
    "audit.resting AS r",
    (
        Check(
            "I13", "fire is executed",
            """(fired_sequence IS NOT NULL OR (triggered_sequence IS NOT NULL AND NOT told))
                AND fired_at < statement_timestamp() - interval '10 minutes'""",
            """format('the tick %s has %s it at %s, and it does not know yet', coalesce(fired_sequence,
                triggered_sequence), CASE WHEN fired_sequence IS NULL THEN 'triggered' ELSE 'fired' END, fired_at)""",
        ),
    ),
    by_order=False,
    in_flight=True,
)  # fmt: skip


def _twice(table: str, column: str, name: str, words: str) -> AuditLook:
    """Find values that must be unique for a user, and are not."""
    return AuditLook(
        ("order_id", column),
        f"""{table} AS twice JOIN (
            SELECT user_id, {column} FROM {table} AS one
            GROUP BY user_id, {column} HAVING count(*) > 1) AS named USING (user_id, {column})""",  # noqa: S608 - our own names
        (Check("I10", name, "true", f"format('{words}', {column}, user_id)"),),
        by_order=False,
    )


TOTAL_LOOKS: Final = (
    _ACCOUNTS,
    _ASSETS,
    _OTHER_HOLDS,
    _OTHER_ENTRIES,
    _UNSENT,
    _EVENTS,
    _UNEXECUTED,
    _twice(
        "(SELECT * FROM audit.claims WHERE idempotency_key IS NOT NULL)", "idempotency_key", "one order a key",
        "its idempotency key %s of %s made another order too",
    ),
    _twice(
        "(SELECT * FROM audit.claims WHERE client_order_id IS NOT NULL)", "client_order_id", "one claim a client id",
        "its client order id %s of %s was claimed for another order too",
    ),
    _twice(
        """(SELECT order_id, user_id, client_order_id FROM audit.orders
            WHERE client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID')""",
        "client_order_id", "one order a client id", "its client order id %s of %s is on another order too",
    ),
)  # fmt: skip
