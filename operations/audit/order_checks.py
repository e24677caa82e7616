"""What may be wrong with an order: checks of the orders of a page, or of one, with their holds, fills and history.

An order's hold is `<order id>:reserve` and its journal entry `<order id>:settle`; one of another name is a finding of
`total_checks`.
"""

from __future__ import annotations

from typing import Final

from operations.audit.query import AuditLook, Check
from order_saga.core.phases import RESTING
from order_saga.worker.tables import legal_moves

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
                AND o.parked_reason IS NULL AND o.phase NOT IN ('QUEUED', 'WORKING')""",
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
_RESTING: Final = ", ".join(f"'{phase}'" for phase in sorted(RESTING))
_REST: Final = AuditLook(
    ("coalesce(o.order_id, r.order_id) AS order_id",),
    """
    (SELECT order_id, status, phase, parked_reason, revision, on_hold, order_type, limit_price, trigger_price
        FROM audit.orders WHERE {orders}) AS o
    FULL JOIN (
        SELECT order_id, asset_id, revision, live, suspended, up_price, down_price FROM audit.resting WHERE {orders}
    ) AS r USING (order_id)""",
    (
        Check(
            "I12", "rests by its row",
            f"""o.phase IN ({_RESTING}) AND o.parked_reason IS NULL AND (r.revision IS DISTINCT FROM o.revision
                OR (r.live, r.suspended) IS DISTINCT FROM (NOT o.on_hold, o.on_hold))""",
            """CASE WHEN r.order_id IS NULL THEN 'it waits for a price, and no tick can find it: it has no row'
                WHEN o.on_hold AND r.live THEN 'it is on hold, and a tick could fire it'
                WHEN o.on_hold AND NOT r.suspended THEN 'it is on hold, and its row would not let it expire'
                WHEN r.live THEN format('it waits under its terms %s, a tick would fire its terms %s', o.revision,
                    r.revision)
                ELSE 'it waits for a price, and its row is not live: no tick can fire it' END""",
        ),
        Check(
            "I12", "both levels of a bracket",
            """o.order_type IN ('BRACKET_BUY', 'BRACKET_SELL') AND r.live
                AND (r.down_price, r.up_price) IS DISTINCT FROM
                    (least(o.limit_price, o.trigger_price), greatest(o.limit_price, o.trigger_price))""",
            """format('it waits for %s and for %s, a tick would fire it at %s and at %s',
                trim_scale(least(o.limit_price, o.trigger_price)), trim_scale(greatest(o.limit_price, o.trigger_price)),
                coalesce(trim_scale(r.down_price)::text, 'no price'),
                coalesce(trim_scale(r.up_price)::text, 'no price'))""",
        ),
        Check(
            "I12", "row of a resting order",
            f"""r.order_id IS NOT NULL AND (o.order_id IS NULL
                OR o.phase NOT IN ('VALIDATING', 'RESERVING', {_RESTING})
                OR (r.live OR r.suspended) AND (o.phase NOT IN ({_RESTING}) OR o.parked_reason IS NOT NULL))""",
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
    (SELECT * FROM audit.fires AS fire CROSS JOIN LATERAL (
        SELECT count(*) AS told, coalesce(bool_or(line.name = 'Entry'), false) AS on_entry
        FROM audit.history AS line WHERE line.order_id = fire.order_id AND line.kind = 'fired') AS lines
        WHERE {orders}) AS t
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
            # The numbers of a feed that an operator has reset begin anew. New terms, and an order that is released, may
            # be met by the mark itself.
            """(t.sequence < t.from_sequence OR t.sequence = t.from_sequence AND NOT t.on_entry) AND NOT EXISTS (
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

ORDER_LOOKS: Final = (_MONEY, _ENTRY, _PATH, _CLAIM, _REST, _FIRE)
