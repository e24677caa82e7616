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
            "I2", "one hold", "hold_id <> order_id || ':reserve' AND hold_id NOT LIKE 'hold:%'",
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

# What services hold belongs to no order. Its entry in the journal has two legs: the user's, and that of the house.
_CAPTURES: Final = """
    SELECT left(entry_id, -length(':capture')) AS hold_id, count(*) AS legs, min(asset_id) AS asset_id,
        max(asset_id) AS other_asset_id, sum(-amount) FILTER (WHERE account NOT LIKE '@%') AS taken,
        max(account) FILTER (WHERE account NOT LIKE '@%') AS taken_from,
        max(account) FILTER (WHERE account LIKE '@%') AS paid_to
    FROM audit.journal WHERE entry_id LIKE 'hold:%' GROUP BY entry_id"""
_SERVICE_HOLDS: Final = AuditLook(
    ("NULL::uuid AS order_id", "hold_id"),
    f"""
    (SELECT * FROM audit.holds WHERE hold_id LIKE 'hold:%') AS h
    FULL JOIN (SELECT hold_id, expires_at, ended, captured_to FROM audit.service_holds) AS s USING (hold_id)
    FULL JOIN ({_CAPTURES}) AS j USING (hold_id)""",  # noqa: S608 - our own
    (
        Check(
            "I2", "service captured once",
            """coalesce(h.captured, 0) <> coalesce(j.taken, 0) OR (j.hold_id IS NOT NULL AND
                (j.legs, j.asset_id, j.other_asset_id, j.taken_from, j.paid_to)
                    IS DISTINCT FROM (2, h.asset_id, h.asset_id, h.user_id, s.captured_to))""",
            """format('of %s %s %s are captured to %s, the journal took %s from %s to %s', hold_id,
                trim_scale(coalesce(h.captured, 0)), coalesce(h.asset_id, 'nothing'), coalesce(s.captured_to, 'nobody'),
                trim_scale(coalesce(j.taken, 0)), coalesce(j.taken_from, 'nobody'), coalesce(j.paid_to, 'nobody'))""",
            of_ledger=True, of_reference=True,
        ),
        Check(
            "I5", "service hold ends once",
            """h.hold_id IS NOT NULL AND (s.ended IS DISTINCT FROM CASE h.state
                    WHEN 'SETTLED' THEN 'CAPTURED' WHEN 'REFUSED' THEN 'REFUSED' WHEN 'TOMBSTONE' THEN 'BURIED'
                    WHEN 'REFUNDED' THEN CASE s.ended WHEN 'EXPIRED' THEN 'EXPIRED' ELSE 'RELEASED' END END
                OR CASE h.state
                    WHEN 'SETTLED' THEN h.captured + h.refunded <> h.amount
                    WHEN 'REFUNDED' THEN h.captured <> 0 OR h.refunded <> h.amount
                    ELSE h.captured <> 0 OR h.refunded <> 0 END)""",
            """format('%s of %s %s is %s and ended as %s, with %s captured and %s refunded', hold_id,
                trim_scale(h.amount), h.asset_id, h.state, coalesce(s.ended, 'nothing yet'), trim_scale(h.captured),
                trim_scale(h.refunded))""",
            of_ledger=True, of_reference=True,
        ),
        Check(
            "I8", "hold has a service", "(h.hold_id IS NULL) <> (s.hold_id IS NULL)",
            """format('%s is %s, and %s service has asked for it', hold_id, coalesce(h.state, 'no hold'),
                CASE WHEN s.hold_id IS NULL THEN 'no' ELSE 'a' END)""",
            of_ledger=True, of_reference=True,
        ),
    ),
    by_order=False,
)  # fmt: skip

# The scanner looks every second, and a batch takes less. Minutes mean that it does not run.
_UNEXPIRED: Final = AuditLook(
    ("NULL::uuid AS order_id", "hold_id"),
    "audit.service_holds AS s",
    (
        Check(
            "I8", "hold expires", "ended IS NULL AND expires_at < statement_timestamp() - interval '10 minutes'",
            """format('%s %s of %s are still held for %s, which was to end at %s', trim_scale(amount), asset_id,
                user_id, hold_id, expires_at)""",
            of_ledger=True, of_reference=True,
        ),
    ),
    by_order=False,
    in_flight=True,
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
    _SERVICE_HOLDS,
    _UNEXPIRED,
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
