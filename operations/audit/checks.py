"""What may be wrong: one table of checks, each a condition on the rows of a look, and words for a row that meets it.

A look is one statement, so it reads each table once, in one snapshot of all services' tables. One snapshot is enough,
because a service acts on another one's work only after that one's commit. So when an order shows a settlement, its hold
is settled in the same snapshot (the balance service commits before it answers); and no command is sent for an order
that is not stored. A hold may be ahead of its order: no check reports that. A look whose findings may be messages in
flight is marked `in_flight`.

An order's hold is `<order id>:reserve` and its journal entry `<order id>:settle`; one of another name is a finding. The
client sorts and hashes nothing. The server hashes a page and sorts its versions within `work_mem`, and beyond that in
temporary files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from order_saga.worker.tables import legal_moves

if TYPE_CHECKING:
    from collections.abc import Iterator


class Check(NamedTuple):
    """What breaks an invariant: a condition on a row, and an expression that describes such a row in words."""

    invariant: str
    name: str
    broken: str
    what: str
    of_ledger: bool = False
    """It needs the ledger's views, so it is left out where these can't be read."""


class AuditLook(NamedTuple):
    """Rows to look at, and the checks of each. `key`: the order id or null, and columns that identify a row.

    With `by_order`, `{orders}`, `{holds}` and `{journal}` stand for the orders that are looked at: see `statement`.
    """

    key: tuple[str, ...]
    rows: str
    checks: tuple[Check, ...]
    by_order: bool = True
    in_flight: bool = False
    """While a message is in flight a row may meet a check: it is a finding only when it stays so."""


PAGE: Final = {
    "orders": "order_id BETWEEN $1 AND $2",
    "holds": "order_id BETWEEN $1 AND $2 AND hold_id = order_id || ':reserve'",
    "journal": "order_id BETWEEN $1 AND $2 AND entry_id = order_id || ':settle'",
}
"""The orders of a range of ids, $1 to $2: hashed and scanned."""
ONE: Final = {
    "orders": "order_id = $1",
    "holds": "hold_id = $1::uuid || ':reserve'",
    "journal": "entry_id = $1::uuid || ':settle'",
}
"""One order, $1: by the primary keys."""


def statement(look: AuditLook, scope: dict[str, str], findings_max: int) -> str:
    """Write a look as one query for a check's number, the words and the key; at most so many rows of each check."""
    rows = look.rows.format(**scope) if look.by_order else look.rows
    words = ", ".join(f"CASE WHEN {check.broken} THEN {check.what} END" for check in look.checks)
    broken = " OR ".join(f"({check.broken})" for check in look.checks)
    return f"""
        SELECT * FROM (
            SELECT found.number, row_number() OVER (PARTITION BY found.number) AS nth, found.what, {", ".join(look.key)}
            FROM {rows}
            CROSS JOIN LATERAL unnest(ARRAY[{words}]::text[]) WITH ORDINALITY AS found (what, number)
            WHERE ({broken}) AND found.what IS NOT NULL) AS found
        WHERE nth <= {findings_max}"""  # noqa: S608 - the checks are our own


def looks(ledger: str | None) -> Iterator[AuditLook]:
    """Give the looks for a ledger whose views are in this schema; None: it can't be read."""
    for look in LOOKS:
        checks = tuple(check for check in look.checks if ledger is not None or not check.of_ledger)
        if ledger is None:
            rows = look.rows.replace("{holds}", "false").replace("{journal}", "false")
        else:
            rows = _LEDGER.sub(rf"{ledger}.\1", look.rows)
        if checks:
            yield look._replace(checks=checks, rows=rows)


_LEDGER: Final = re.compile(r"\baudit\.(holds|accounts|journal)\b")


# By order -------------------------------------------------------------------------------------------------------------

_MONEY: Final = AuditLook(
    ("coalesce(o.order_id, h.order_id) AS order_id",),
    """
    (SELECT * FROM audit.orders WHERE {orders}) AS o
    FULL JOIN (SELECT * FROM audit.holds WHERE {holds}) AS h ON h.order_id = o.order_id
    LEFT JOIN (
        SELECT order_id, count(*) AS number, max(fill_id) FILTER (WHERE NOT busted) AS fill_id,
            max(quantity) FILTER (WHERE NOT busted) AS quantity, max(price) FILTER (WHERE NOT busted) AS price,
            max(fee) FILTER (WHERE NOT busted) AS fee
        FROM audit.fills WHERE {orders} GROUP BY order_id) AS f ON f.order_id = o.order_id
    LEFT JOIN (SELECT * FROM audit.journal WHERE {journal}) AS taken
        ON (taken.order_id, taken.account, taken.asset_id) = (h.order_id, h.user_id, h.asset_id)
    LEFT JOIN (SELECT * FROM audit.journal WHERE {journal}) AS gained
        ON (gained.order_id, gained.account, gained.asset_id) = (o.order_id, o.user_id, o.asset_id)
    LEFT JOIN (
        SELECT order_id, sum(amount) AS amount FROM audit.journal WHERE {journal} AND account = '@fees'
        GROUP BY order_id) AS charged ON charged.order_id = o.order_id""",
    (
        Check(
            "I2", "captured once", "h.captured <> coalesce(-taken.amount, 0)",
            """format('its hold is %s with %s %s captured, the journal took %s from %s', h.state,
                trim_scale(h.captured), h.asset_id, trim_scale(coalesce(-taken.amount, 0)), h.user_id)""",
            of_ledger=True,
        ),
        Check(
            "I2", "journal is fill",
            """o.status = 'COMPLETED' AND (coalesce(charged.amount, 0) <> o.fee OR gained.amount IS DISTINCT FROM
                CASE WHEN o.order_type LIKE '%BUY' THEN o.filled_quantity ELSE -o.filled_quantity END)""",
            """format('it shows %s %s filled with a fee of %s, the journal gave %s %s %s and charged %s',
                trim_scale(o.filled_quantity), o.asset_id, trim_scale(o.fee), o.user_id,
                trim_scale(coalesce(gained.amount, 0)), o.asset_id, trim_scale(coalesce(charged.amount, 0)))""",
            of_ledger=True,
        ),
        Check("I2", "one fill", "f.number > 1", "format('it has %s fills', f.number)"),
        Check(
            "I3", "nothing held at the end",
            "o.status IN ('CANCELLED', 'FAILED') AND h.state IN ('HELD', 'SETTLED')",
            "format('it is %s, its hold of %s %s is %s', o.status, trim_scale(h.amount), h.asset_id, h.state)",
            of_ledger=True,
        ),
        Check(
            "I4", "settled when completed", "o.status = 'COMPLETED' AND h.state IS DISTINCT FROM 'SETTLED'",
            "format('it is COMPLETED, its hold is %s', coalesce(h.state, 'missing'))",
            of_ledger=True,
        ),
        Check(
            "I4", "fill is shown",
            """o.order_id IS NOT NULL AND (
                (o.filled_quantity, o.average_price, o.fee)
                    IS DISTINCT FROM (coalesce(f.quantity, 0), f.price, coalesce(f.fee, 0))
                OR (o.status IN ('PROCESSING', 'COMPLETED')) <> (f.fill_id IS NOT NULL))""",
            """format('it is %s and shows %s filled at %s with a fee of %s, %s', o.status,
                trim_scale(o.filled_quantity), coalesce(trim_scale(o.average_price)::text, 'no price'),
                trim_scale(o.fee), CASE WHEN f.fill_id IS NULL THEN 'and there is no fill that stands' ELSE format(
                    'its fill is %s at %s with a fee of %s', trim_scale(f.quantity), trim_scale(f.price),
                    trim_scale(f.fee)) END)""",
        ),
        Check(
            "I5", "hold ends once",
            """CASE h.state
                WHEN 'SETTLED' THEN h.captured + h.refunded <> h.amount
                WHEN 'REFUNDED' THEN h.captured <> 0 OR h.refunded <> h.amount
                ELSE h.captured <> 0 OR h.refunded <> 0 END""",
            """format('its hold of %s %s is %s with %s captured and %s refunded', trim_scale(h.amount), h.asset_id,
                h.state, trim_scale(h.captured), trim_scale(h.refunded))""",
            of_ledger=True,
        ),
        Check(
            "I6", "wakeable",
            """o.status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED') AND o.due_at IS NULL
                AND o.parked_reason IS NULL AND o.phase <> 'WORKING'""",
            "format('it is %s in phase %s, neither due nor parked: nothing will ever wake it', o.status, o.phase)",
        ),
        Check(
            "I8", "hold has a saga",
            """(h.state = 'HELD' AND coalesce(o.status, 'FAILED') IN ('COMPLETED', 'CANCELLED', 'FAILED'))
                OR (h.state = 'SETTLED' AND o.order_id IS NULL)""",
            """format('%s %s of %s are %s for it, and %s', trim_scale(h.amount), h.asset_id, h.user_id, h.state,
                coalesce('it is ' || o.status, 'there is no such order'))""",
            of_ledger=True,
        ),
    ),
)  # fmt: skip

_ENTRY: Final = AuditLook(
    ("order_id", "asset_id"),
    """
    (SELECT order_id, asset_id, sum(amount) AS amount FROM audit.journal WHERE {journal}
     GROUP BY order_id, asset_id) AS j
    LEFT JOIN (SELECT order_id, state FROM audit.holds WHERE {holds}) AS h USING (order_id)""",
    (
        Check(
            "I1", "entry balanced", "j.amount <> 0",
            "format('its journal entry sums to %s %s, not to 0', trim_scale(j.amount), j.asset_id)",
            of_ledger=True,
        ),
        Check(
            "I5", "settled or refunded", "h.state IS DISTINCT FROM 'SETTLED'",
            "format('its settlement is in the journal, its hold is %s', coalesce(h.state, 'missing'))",
            of_ledger=True,
        ),
    ),
)  # fmt: skip

_LEGAL: Final = f"ARRAY{legal_moves()}"  # Python writes a list of names as SQL does
_PATH: Final = AuditLook(
    ("order_id", "v.version"),
    """
    (SELECT *, lag(version, 1, 0) OVER path AS version_before, lag(status) OVER path AS status_before,
        lead(version) OVER path IS NULL AS is_last
     FROM audit.versions WHERE {orders}
     WINDOW path AS (PARTITION BY order_id ORDER BY version)) AS v
    FULL JOIN (SELECT * FROM audit.orders WHERE {orders}) AS o USING (order_id)""",
    (
        Check(
            "I7", "has a history", "v.order_id IS NULL",
            "format('it is %s at version %s and has no history', o.status, o.version)",
        ),
        Check(
            "I7", "gapless", "v.version <> v.version_before + 1",
            "format('version %s follows version %s', v.version, v.version_before)",
        ),
        Check(
            "I7", "legal moves",
            f"""v.version = v.version_before + 1 AND (v.previous_status IS DISTINCT FROM v.status_before
                OR concat(v.previous_status, '>', v.status) <> ALL ({_LEGAL}))""",
            """format('version %s goes from %s to %s, after version %s was %s', v.version,
                coalesce(v.previous_status, 'nothing'), v.status, v.version_before,
                coalesce(v.status_before, 'nothing'))""",
        ),
        Check(
            "I7", "history has an order", "o.order_id IS NULL AND v.is_last",
            "format('its history has %s versions, and there is no such order', v.version)",
        ),
        Check(
            "I7", "history ends here", "v.is_last AND (o.version, o.status) <> (v.version, v.status)",
            """format('it is %s at version %s, its history ends with %s at version %s', o.status, o.version, v.status,
                v.version)""",
        ),
    ),
)  # fmt: skip

# The API publishes a request again until it sees the order, however long the orchestrator is away. So a claim is lost
# only when it is not tried any more.
_CLAIM: Final = AuditLook(
    ("order_id",),
    """
    (SELECT * FROM audit.claims WHERE {orders}) AS c
    LEFT JOIN (SELECT order_id, version FROM audit.orders WHERE {orders}) AS o USING (order_id)""",
    (
        Check(
            "I11", "claim becomes an order",
            """o.version IS NULL AND (c.settled OR c.next_publish_at < statement_timestamp() - interval '5 s')
                AND c.created_at < statement_timestamp() - interval '5 s'""",
            "format('%s was promised it at %s, and there is no such order', c.user_id, c.created_at)",
        ),
    ),
    in_flight=True,
)  # fmt: skip

# A row is written in the transaction of its order, so one snapshot never shows one without the other.
_REST: Final = AuditLook(
    ("coalesce(o.order_id, r.order_id) AS order_id",),
    """
    (SELECT order_id, status, phase, parked_reason, revision FROM audit.orders WHERE {orders}) AS o
    FULL JOIN (
        SELECT order_id, asset_id, revision, live FROM audit.resting WHERE {orders}) AS r USING (order_id)""",
    (
        Check(
            "I12", "rests by its row",
            """o.phase = 'WORKING' AND o.parked_reason IS NULL
                AND (r.live IS NOT TRUE OR r.revision IS DISTINCT FROM o.revision)""",
            """CASE WHEN r.order_id IS NULL THEN 'it waits for a price, and no tick can find it: it has no row'
                WHEN r.live THEN format('it waits under its terms %s, a tick would fire its terms %s', o.revision,
                    r.revision)
                ELSE 'it waits for a price, and its row is not live: no tick can fire it' END""",
        ),
        Check(
            "I12", "row of a resting order",
            """r.order_id IS NOT NULL AND (o.order_id IS NULL OR o.phase NOT IN ('VALIDATING', 'RESERVING', 'WORKING')
                OR r.live AND (o.phase <> 'WORKING' OR o.parked_reason IS NOT NULL))""",
            """format('it has a row on which a tick of %s could fire it, and %s', r.asset_id, CASE
                WHEN o.order_id IS NULL THEN 'there is no such order'
                WHEN o.parked_reason IS NOT NULL THEN 'it is parked'
                ELSE format('it is %s in phase %s', o.status, o.phase) END)""",
        ),
    ),
)  # fmt: skip

# Of each fired order its history is read, by its id; of all others it is not.
_FIRE: Final = AuditLook(
    ("order_id",),
    """
    (SELECT *, (SELECT count(*) FROM audit.history AS line WHERE line.order_id = fire.order_id AND line.kind = 'fired')
        AS told FROM audit.fires AS fire WHERE {orders}) AS t
    LEFT JOIN (
        SELECT order_id, min(price) AS lowest, max(price) AS highest FROM audit.fills WHERE {orders}
        GROUP BY order_id) AS f USING (order_id)""",
    (
        Check(
            "I13", "one fire", "t.told <> 1",
            "format('the tick %s has fired it, its history has %s fires', t.sequence, t.told)",
        ),
        Check(
            "I13", "newer than its acceptance",
            # The numbers of a feed that an operator has reset begin anew.
            """t.sequence <= t.from_sequence AND NOT EXISTS (
                SELECT FROM audit.repairs AS reset JOIN audit.orders AS o ON o.asset_id = reset.item
                WHERE reset.action = 'feed reset' AND o.order_id = t.order_id AND o.created_at <= reset.at)""",
            "format('the tick %s has fired it, which rests since the tick %s', t.sequence, t.from_sequence)",
        ),
        Check(
            "I13", "filled at its tick", "f.lowest <> t.price OR f.highest <> t.price",
            """format('the tick %s has fired it at %s, it is filled at %s', t.sequence, trim_scale(t.price),
                trim_scale(CASE WHEN f.lowest <> t.price THEN f.lowest ELSE f.highest END))""",
        ),
    ),
)  # fmt: skip


# All together ---------------------------------------------------------------------------------------------------------

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


LOOKS: Final = (
    _MONEY,
    _ENTRY,
    _PATH,
    _CLAIM,
    _REST,
    _FIRE,
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
CHECKS: Final = tuple(check for look in LOOKS for check in look.checks)
