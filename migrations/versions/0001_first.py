"""The first schema: orders, api, balances and assets, the auditors' views, and who may use what.

It is never changed: a later revision says what changed. `tests/migrations` compares the result with the `tables`
modules and with the core's table of phases. Roles belong to the cluster: they are made when they are missing, and left
by `downgrade`, because other databases may use them.
"""

from __future__ import annotations

from collections.abc import Iterable

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    for part in (GROUPS, NOTHING_FOR_THE_PUBLIC, ORDERS, BALANCES, ASSETS, API, AUDIT, GRANTS):
        _execute(part)


def downgrade() -> None:
    """Drop everything but the roles."""
    _execute(DROPPED)


def _execute(statements: Iterable[str]) -> None:
    # By the driver: op.execute would read ':v' as a parameter.
    connection = op.get_bind()
    for statement in statements:
        connection.exec_driver_sql(statement)


# Roles ----------------------------------------------------------------------------------------------------------------

SERVICES = ("saga_orders", "saga_api", "saga_balances", "saga_assets", "saga_auditor")


def _group(name: str) -> str:
    """Make a role unless it is there; another database of the cluster may do so at the same instant."""
    return f"""
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{name}') THEN
            CREATE ROLE {name} NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$"""


def _on_this_database(command: str) -> str:
    """Write a command with the current database's name in the place of %I."""
    return f"DO $$ BEGIN EXECUTE format('{command}', current_database()); END $$"


GROUPS = [_group(name) for name in SERVICES]

# By default everybody may connect, make temporary tables, and look around in `public`.
NOTHING_FOR_THE_PUBLIC = (
    _on_this_database("REVOKE ALL ON DATABASE %I FROM PUBLIC"),
    _on_this_database(f"GRANT CONNECT ON DATABASE %I TO {', '.join(SERVICES)}"),
    "REVOKE ALL ON SCHEMA public FROM PUBLIC",
)


# What every service has -----------------------------------------------------------------------------------------------

# Rows of these die young: vacuum by count, not by share of the table.
QUEUE = """WITH (
        autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000)"""


def _queues(schema: str) -> tuple[str, ...]:
    """Create the outbox and the dead letters of one service."""
    return (
        f"""
        CREATE TABLE {schema}.outbox (
            outbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            due_at timestamptz NOT NULL,
            available_at timestamptz NOT NULL,
            refs text[] NOT NULL,
            payload bytea NOT NULL
        ) {QUEUE}""",
        f"CREATE INDEX outbox_available_at ON {schema}.outbox (available_at)",
        f"""
        CREATE TABLE {schema}.dead_letters (
            dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            topic text NOT NULL,
            partition integer NOT NULL,
            record_offset bigint NOT NULL,
            record_timestamp bigint NOT NULL,
            key bytea,
            headers json NOT NULL,
            value bytea,
            reason text NOT NULL,
            received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            replayed_at timestamptz,
            discarded_at timestamptz,
            CONSTRAINT dead_letters_record UNIQUE (topic, partition, record_offset, record_timestamp)
        ) {QUEUE}""",
        f"""
        CREATE INDEX dead_letters_open ON {schema}.dead_letters (dead_letter_id)
            WHERE replayed_at IS NULL AND discarded_at IS NULL""",
    )


# The orchestrator -----------------------------------------------------------------------------------------------------

ORDERS = (
    "CREATE SCHEMA orders",
    """
    CREATE TABLE orders.orders (
        order_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        asset_id text,
        order_type text,
        quantity numeric(38, 18),
        price numeric(38, 18),
        slippage_bps integer,
        client_order_id text,
        traceparent text,
        phase text NOT NULL,
        status text,
        version integer NOT NULL,
        reason_code text,
        reason text,
        cancel_requested boolean NOT NULL,
        filled_quantity numeric(38, 18) NOT NULL,
        average_price numeric(38, 18),
        fee numeric(38, 18) NOT NULL,
        progress jsonb NOT NULL,
        due_at timestamptz,
        overdue_since timestamptz,
        parked_reason text,
        history_seq integer NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT orders_phase_shows_status CHECK ((
            (phase = 'NEW' AND status IS NULL)
            OR (phase = 'VALIDATING' AND status IN ('PENDING'))
            OR (phase = 'RESERVING' AND status IN ('PENDING'))
            OR (phase = 'SETTLING' AND status IN ('PROCESSING'))
            OR (phase = 'REFUNDING' AND status IN ('PENDING'))
            OR (phase = 'COMPLETED' AND status IN ('COMPLETED'))
            OR (phase = 'CANCELLED' AND status IN ('CANCELLED'))
            OR (phase = 'FAILED' AND status IN ('FAILED'))) IS TRUE),
        CONSTRAINT orders_order_type CHECK (order_type IS NULL OR order_type IN ('MARKET_BUY', 'MARKET_SELL')),
        CONSTRAINT orders_reason_code CHECK (reason_code IS NULL OR reason_code IN (
            'INVALID_ORDER', 'ACCOUNT_NOT_FOUND', 'INSUFFICIENT_BALANCE', 'ASSET_NOT_FOUND', 'ASSET_NOT_TRADABLE',
            'ASSET_UNAVAILABLE', 'STALE_PRICE', 'SLIPPAGE_EXCEEDED', 'INVALID_STEP', 'INVALID_TICK',
            'QUANTITY_OUT_OF_RANGE', 'NOTIONAL_OUT_OF_RANGE', 'DUPLICATE_CLIENT_ORDER_ID', 'ORDER_ID_TAKEN',
            'HOLD_CONFLICT', 'WOULD_TRIGGER_IMMEDIATELY', 'TIMED_OUT', 'EXECUTION_FAILED', 'USER_REQUESTED', 'EXPIRED',
            'OPERATOR')),
        CONSTRAINT orders_reason_when_not_completed
            CHECK ((reason_code IS NOT NULL) = (status IS NOT NULL AND status IN ('CANCELLED', 'FAILED'))),
        CONSTRAINT orders_always_wakeable CHECK (
            phase = 'NEW' OR phase IN ('CANCELLED', 'COMPLETED', 'FAILED') OR parked_reason IS NOT NULL
            OR due_at IS NOT NULL),
        CONSTRAINT orders_amounts CHECK (filled_quantity >= 0 AND fee >= 0 AND quantity > 0 AND price > 0),
        CONSTRAINT orders_version_of_new CHECK ((phase = 'NEW') = (version = 0))
    ) WITH (fillfactor = 70)""",
    "COMMENT ON COLUMN orders.orders.progress IS 'questions, quote, hold state, outcome: order_saga.core.Progress'",
    "CREATE INDEX orders_due ON orders.orders (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX orders_by_user ON orders.orders (user_id, created_at, order_id)",
    """
    CREATE UNIQUE INDEX orders_client_order_id ON orders.orders (user_id, client_order_id)
        WHERE client_order_id IS NOT NULL AND reason_code IS DISTINCT FROM 'DUPLICATE_CLIENT_ORDER_ID'""",
    """
    CREATE INDEX orders_trouble ON orders.orders (order_id)
        WHERE parked_reason IS NOT NULL OR overdue_since IS NOT NULL""",
    """
    CREATE TABLE orders.history (
        order_id uuid,
        seq integer,
        at timestamptz NOT NULL,
        version_from integer NOT NULL,
        version_to integer NOT NULL,
        moves text[] NOT NULL,
        entries jsonb NOT NULL,
        PRIMARY KEY (order_id, seq),
        CONSTRAINT history_legal_moves CHECK (moves <@ ARRAY[
            '>PENDING', 'CONFIRMED>CANCELLED', 'CONFIRMED>FAILED', 'CONFIRMED>PROCESSING', 'PENDING>CANCELLED',
            'PENDING>CONFIRMED', 'PENDING>FAILED', 'PENDING>PENDING', 'PROCESSING>COMPLETED', 'PROCESSING>FAILED'
        ]::text[]),
        CONSTRAINT history_gapless_versions CHECK (cardinality(moves) = version_to - version_from)
    )""",
    "COMMENT ON COLUMN orders.history.seq IS 'number of the first entry'",
    "COMMENT ON COLUMN orders.history.moves IS 'one a version: PENDING>CONFIRMED'",
    """
    CREATE TABLE orders.fills (
        fill_id text PRIMARY KEY,
        order_id uuid NOT NULL,
        quantity numeric(38, 18) NOT NULL,
        price numeric(38, 18) NOT NULL,
        fee numeric(38, 18) NOT NULL,
        busted boolean NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT fills_amounts CHECK (quantity > 0 AND price > 0 AND fee >= 0)
    )""",
    "CREATE INDEX ix_orders_fills_order_id ON orders.fills (order_id)",
    *_queues("orders"),
)


# The balance service --------------------------------------------------------------------------------------------------

BALANCES = (
    "CREATE SCHEMA balances",
    """
    CREATE TABLE balances.accounts (
        user_id text,
        asset_id text,
        available numeric(38, 18) NOT NULL,
        held numeric(38, 18) NOT NULL,
        PRIMARY KEY (user_id, asset_id),
        CONSTRAINT accounts_available CHECK (available >= 0),
        CONSTRAINT accounts_held CHECK (held >= 0)
    )""",
    """
    CREATE TABLE balances.journal (
        entry_id text,
        account text,
        asset_id text,
        order_id uuid,
        amount numeric(38, 18) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (entry_id, account, asset_id),
        CONSTRAINT journal_amount CHECK (amount <> 0)
    )""",
    "COMMENT ON COLUMN balances.journal.entry_id IS '<order_id>:settle or deposit:<deposit_id>'",
    "COMMENT ON COLUMN balances.journal.account IS 'a user''s id, @market, @fees or @external'",
    "COMMENT ON COLUMN balances.journal.order_id IS 'null for a deposit'",
    "COMMENT ON COLUMN balances.journal.amount IS 'what the account gains; an entry sums to zero per asset'",
    """
    CREATE TABLE balances.deposits (
        deposit_id text PRIMARY KEY,
        user_id text NOT NULL,
        asset_id text NOT NULL,
        amount numeric(38, 18) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT deposits_amount CHECK (amount > 0)
    )""",
    """
    CREATE TABLE balances.holds (
        hold_id text PRIMARY KEY,
        saga_id text NOT NULL,
        owner text NOT NULL,
        unit text NOT NULL,
        amount numeric(38, 18) NOT NULL,
        captured numeric(38, 18) NOT NULL,
        refunded numeric(38, 18) NOT NULL,
        state text NOT NULL,
        reason_code text,
        reason text,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT holds_state CHECK (state IN ('HELD', 'SETTLED', 'REFUNDED', 'REFUSED', 'TOMBSTONE')),
        CONSTRAINT holds_not_negative CHECK (amount >= 0 AND captured >= 0 AND refunded >= 0),
        CONSTRAINT holds_within_amount CHECK (captured + refunded <= amount),
        CONSTRAINT holds_something CHECK (amount > 0 OR state IN ('REFUSED', 'TOMBSTONE')),
        CONSTRAINT holds_end_once CHECK (
            CASE state
                WHEN 'SETTLED' THEN captured + refunded = amount
                WHEN 'REFUNDED' THEN captured = 0 AND refunded = amount
                ELSE captured = 0 AND refunded = 0
            END),
        CONSTRAINT holds_refused_why CHECK (state <> 'REFUSED' OR reason_code IS NOT NULL)
    ) WITH (fillfactor = 80)""",
    *_queues("balances"),
)


# The asset service ----------------------------------------------------------------------------------------------------

ASSETS = (
    "CREATE SCHEMA assets",
    """
    CREATE TABLE assets.assets (
        asset_id text,
        rules_version integer,
        tick numeric(38, 18) NOT NULL,
        step numeric(38, 18) NOT NULL,
        min_quantity numeric(38, 18) NOT NULL,
        max_quantity numeric(38, 18),
        min_notional numeric(38, 18) NOT NULL,
        max_notional numeric(38, 18) NOT NULL,
        fee_bps integer NOT NULL,
        cash_asset_id text NOT NULL,
        cash_scale integer NOT NULL,
        trading boolean NOT NULL,
        available_quantity numeric(38, 18),
        answer_delay_s double precision,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (asset_id, rules_version),
        CONSTRAINT assets_grid CHECK (tick > 0 AND step > 0),
        CONSTRAINT assets_places CHECK (scale(trim_scale(step)) + scale(trim_scale(tick)) + 4 <= 18),
        CONSTRAINT assets_quantity CHECK (min_quantity > 0 AND min_quantity <= max_quantity),
        CONSTRAINT assets_notional CHECK (min_notional >= 0 AND min_notional <= max_notional),
        CONSTRAINT assets_fee_bps CHECK (fee_bps BETWEEN 0 AND 10000),
        CONSTRAINT assets_cash_scale CHECK (cash_scale BETWEEN 0 AND 18)
    )""",
    "COMMENT ON COLUMN assets.assets.max_quantity IS 'null: no limit'",
    "COMMENT ON COLUMN assets.assets.available_quantity IS 'the most that one order may ask for; null: no limit'",
    "COMMENT ON COLUMN assets.assets.answer_delay_s IS 'how slow the service pretends to be; null: not at all'",
    """
    CREATE TABLE assets.prices (
        asset_id text PRIMARY KEY,
        sequence bigint NOT NULL,
        price numeric(38, 18) NOT NULL,
        as_of timestamptz NOT NULL,
        confirmed_at timestamptz,
        source text NOT NULL,
        CONSTRAINT prices_price CHECK (price > 0 AND price <= 1000000),
        CONSTRAINT prices_sequence CHECK (sequence > 0),
        CONSTRAINT prices_source CHECK (source IN ('fixed', 'dead'))
    )""",
    "COMMENT ON COLUMN assets.prices.sequence IS 'rises by one with each change of the price'",
    "COMMENT ON COLUMN assets.prices.as_of IS 'when the price last changed'",
    "COMMENT ON COLUMN assets.prices.confirmed_at IS 'when its source last stood by it; null: never'",
    "COMMENT ON COLUMN assets.prices.source IS 'fixed: confirmed all the time; dead: never'",
    *_queues("assets"),
)


# The API: its own promises, and what it may see of the orders ---------------------------------------------------------

# A row of phase NEW is a cancel whose request has not come: nobody sees it. One row of history holds all entries of one
# transaction; `seq` is the first one's number.
HISTORY_VIEW = """
    SELECT history.order_id, history.seq + entry.number::integer - 1 AS seq, history.at, entry.kind, entry.name,
        entry.status, entry.version, coalesce(entry.detail, '{}') AS detail
    FROM orders.history AS history
    JOIN orders.orders AS owner ON owner.order_id = history.order_id AND owner.phase <> 'NEW'
    CROSS JOIN ROWS FROM (
        jsonb_to_recordset(history.entries) AS (kind text, name text, status text, version integer, detail jsonb)
    ) WITH ORDINALITY AS entry (kind, name, status, version, detail, number)"""

API = (
    "CREATE SCHEMA api",
    """
    CREATE TABLE api.claims (
        order_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        idempotency_key text,
        client_order_id text,
        intent text NOT NULL,
        request bytea NOT NULL,
        traceparent text,
        created_at timestamptz NOT NULL DEFAULT now(),
        next_publish_at timestamptz NOT NULL,
        settled boolean NOT NULL DEFAULT false,
        CONSTRAINT claims_idempotency_key CHECK (idempotency_key <> ''),
        CONSTRAINT claims_client_order_id CHECK (client_order_id <> '')
    )""",
    "COMMENT ON COLUMN api.claims.order_id IS 'minted here, before anything is published'",
    "COMMENT ON COLUMN api.claims.user_id IS 'the order''s user'",
    "COMMENT ON COLUMN api.claims.intent IS 'what was asked for, canonical: 1.0 and 1.00 are the same text'",
    "COMMENT ON COLUMN api.claims.request IS 'the OrderRequested, but for its requested_at: created_at'",
    "COMMENT ON COLUMN api.claims.next_publish_at IS 'when the sweeper looks at it next'",
    "COMMENT ON COLUMN api.claims.settled IS 'the order''s row exists'",
    """
    CREATE UNIQUE INDEX claims_idempotency_key ON api.claims (user_id, idempotency_key)
        WHERE idempotency_key IS NOT NULL""",
    """
    CREATE UNIQUE INDEX claims_client_order_id ON api.claims (user_id, client_order_id)
        WHERE client_order_id IS NOT NULL""",
    "CREATE INDEX claims_next_publish_at ON api.claims (next_publish_at) WHERE NOT settled",
    """
    CREATE TABLE api.cancels (
        order_id uuid PRIMARY KEY,
        user_id text NOT NULL,
        requested_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        next_publish_at timestamptz NOT NULL,
        settled boolean NOT NULL DEFAULT false
    )""",
    "COMMENT ON COLUMN api.cancels.user_id IS 'the order''s user'",
    "COMMENT ON COLUMN api.cancels.requested_by IS 'the user, or @operator:<name>'",
    "COMMENT ON COLUMN api.cancels.next_publish_at IS 'when the sweeper looks at it next'",
    "COMMENT ON COLUMN api.cancels.settled IS 'the order shows it, or is past it'",
    "CREATE INDEX cancels_next_publish_at ON api.cancels (next_publish_at) WHERE NOT settled",
    """
    CREATE VIEW api.orders AS
    SELECT order_id, client_order_id, user_id, asset_id, order_type, status, quantity, price, slippage_bps,
        filled_quantity, average_price, fee, reason_code, reason, cancel_requested, version, created_at, updated_at
    FROM orders.orders WHERE phase <> 'NEW'""",
    f"CREATE VIEW api.history AS {HISTORY_VIEW}",
)


# The auditors ---------------------------------------------------------------------------------------------------------

EVENT_REF = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:v[0-9]{1,9}$'"  # <order_id>:v<version>

AUDIT = (
    "CREATE SCHEMA audit",
    """
    CREATE VIEW audit.orders AS
    SELECT order_id, user_id, asset_id, order_type, status, phase, version, parked_reason, overdue_since, due_at,
        reason_code, filled_quantity, average_price, fee, created_at, updated_at, client_order_id
    FROM orders.orders WHERE phase <> 'NEW'""",
    """
    CREATE VIEW audit.holds AS
    SELECT hold_id, saga_id::uuid AS order_id, owner AS user_id, unit AS asset_id, amount, captured, refunded, state
    FROM balances.holds""",
    "CREATE VIEW audit.accounts AS SELECT user_id, asset_id, available, held FROM balances.accounts",
    """
    CREATE VIEW audit.journal AS
    SELECT entry_id, order_id, account, asset_id, amount, created_at FROM balances.journal""",
    f"CREATE VIEW audit.history AS {HISTORY_VIEW}",
    """
    CREATE VIEW audit.versions AS
    SELECT history.order_id, history.version_from + move.number::integer AS version,
        nullif(split_part(move.path, '>', 1), '') AS previous_status, split_part(move.path, '>', 2) AS status
    FROM orders.history AS history
    CROSS JOIN unnest(history.moves) WITH ORDINALITY AS move (path, number)""",
    "CREATE VIEW audit.fills AS SELECT fill_id, order_id, quantity, price, fee, busted FROM orders.fills",
    f"""
    CREATE VIEW audit.events_unsent AS
    SELECT CASE WHEN ref ~ {EVENT_REF} THEN split_part(ref, ':v', 1)::uuid END AS order_id,
        CASE WHEN ref ~ {EVENT_REF} THEN split_part(ref, ':v', 2)::integer END AS version, outbox.created_at
    FROM orders.outbox AS outbox CROSS JOIN unnest(outbox.refs) AS ref
    WHERE ref ~ {EVENT_REF}""",  # noqa: S608 - a constant of ours
    """
    CREATE VIEW audit.claims AS
    SELECT order_id, user_id, idempotency_key, client_order_id, created_at FROM api.claims""",
)


# Who may do what ------------------------------------------------------------------------------------------------------

# Nobody may delete but from an outbox; what has happened (history, journal, deposits, an asset's rules) is added to and
# never changed. MAINTAIN lets the asset service lock its table against a second writer of rules.
# Before PostgreSQL 17 only who may change rows may lock a table against changes.
MAY_LOCK_ASSETS = """
    DO $$ BEGIN
        IF current_setting('server_version_num')::int >= 170000 THEN
            GRANT MAINTAIN ON assets.assets TO saga_assets;
        ELSE
            GRANT UPDATE ON assets.assets TO saga_assets;
        END IF;
    END $$"""

GRANTS = (
    "GRANT USAGE ON SCHEMA orders TO saga_orders",
    "GRANT SELECT, INSERT, UPDATE ON orders.orders, orders.fills, orders.dead_letters TO saga_orders",
    "GRANT SELECT, INSERT ON orders.history TO saga_orders",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON orders.outbox TO saga_orders",
    "GRANT USAGE ON SCHEMA balances TO saga_balances",
    "GRANT SELECT, INSERT, UPDATE ON balances.accounts, balances.holds, balances.dead_letters TO saga_balances",
    "GRANT SELECT, INSERT ON balances.journal, balances.deposits TO saga_balances",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON balances.outbox TO saga_balances",
    "GRANT USAGE ON SCHEMA assets TO saga_assets",
    "GRANT SELECT, INSERT, UPDATE ON assets.prices, assets.dead_letters TO saga_assets",
    "GRANT SELECT, INSERT ON assets.assets TO saga_assets",
    MAY_LOCK_ASSETS,
    "GRANT SELECT, INSERT, UPDATE, DELETE ON assets.outbox TO saga_assets",
    "GRANT USAGE ON SCHEMA api TO saga_api",
    "GRANT SELECT, INSERT, UPDATE ON api.claims, api.cancels TO saga_api",
    "GRANT SELECT ON api.orders, api.history TO saga_api",
    "GRANT USAGE ON SCHEMA audit TO saga_auditor",
    "GRANT SELECT ON ALL TABLES IN SCHEMA audit TO saga_auditor",
)


# Back again -----------------------------------------------------------------------------------------------------------

DROPPED = (
    "DROP SCHEMA audit CASCADE",
    "DROP SCHEMA api CASCADE",
    "DROP SCHEMA assets CASCADE",
    "DROP SCHEMA balances CASCADE",
    "DROP SCHEMA orders CASCADE",
    _on_this_database(f"REVOKE CONNECT ON DATABASE %I FROM {', '.join(SERVICES)}"),
    _on_this_database("GRANT CONNECT, TEMPORARY ON DATABASE %I TO PUBLIC"),
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)
