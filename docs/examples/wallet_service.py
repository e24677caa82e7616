"""Another team's balance service, complete: its own tables, behind the kit's barrier. See docs/own-balance-service.md.

    python wallet_service.py migrate                          make its schema, login and views, as the database's owner
    python wallet_service.py take-over                        copy the reference service's ledger, which was handed over
    python wallet_service.py deposit ID OWNER UNIT AMOUNT     let money come in, once for each ID
    python wallet_service.py serve                            answer commands until SIGTERM

It needs the package `saga-kit` and nothing else of Order Saga. DATABASE_URL says where; `serve` reads the settings of
docs/settings.md too. WALLET_DB_PASSWORD is the login's, for `migrate`. Exit status: 0 fine, 1 it could not be done
(the last line of stderr says why), 2 wrong usage.
"""

# ruff: noqa: T201 - it tells what it did

import asyncio
import os
import sys
from collections import defaultdict
from decimal import Decimal

from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import create_async_engine

from contracts.decimals import Money, add, exact_text, subtract
from saga_kit import (
    BalanceAdapter,
    CommandKind,
    KitSettings,
    ParticipantHandler,
    Refusal,
    dead_letters_table,
    holds_archive_table,
    holds_table,
    ledger_start_table,
    load,
    outbox_table,
    parse_database_url,
    run_service,
)


class Wallets:
    """The ledger of one batch: rows locked in, amounts folded in memory, each row written once."""

    async def lock(self, tx, commands):
        keys = {(c.owner, c.unit) for c in commands}
        keys |= {(c.owner, c.message.credit_asset_id) for c in commands if c.kind is CommandKind.SETTLE}
        columns = tuple(map(list, zip(*sorted(keys), strict=True)))
        names = "SELECT * FROM unnest($1::text[], $2::text[])"
        await tx.execute(f"INSERT INTO wallet.wallets (owner, unit) {names} ON CONFLICT DO NOTHING", *columns)
        locked = (
            f"SELECT owner, unit, free FROM wallet.wallets WHERE (owner, unit) IN ({names}) ORDER BY 1, 2 FOR UPDATE"
        )
        self.free = {(owner, unit): free for owner, unit, free in await tx.fetch(locked, *columns)}
        self.journal = defaultdict(Decimal)

    def reserve(self, command):
        if self.free[command.owner, command.unit] < command.amount:
            return Refusal("INSUFFICIENT_BALANCE", "the wallet does not hold that much")
        self._gain(command.owner, command.unit, command.amount.copy_negate())

    def adjust(self, command, hold, delta):
        if self.free[hold.owner, hold.unit] < delta:
            return Refusal("INSUFFICIENT_BALANCE", "the wallet does not hold that much more")
        self._gain(hold.owner, hold.unit, delta.copy_negate())

    def refund(self, command, hold):
        self._gain(hold.owner, hold.unit, hold.amount)

    def settle(self, command, hold):
        told = command.message
        self._gain(hold.owner, hold.unit, subtract(hold.amount, command.capture))
        self._gain(hold.owner, told.credit_asset_id, told.credit)
        self._book(hold, hold.owner, hold.unit, command.capture.copy_negate())
        self._book(hold, hold.owner, told.credit_asset_id, told.credit)
        self._book(hold, "@fees", told.fee_asset_id, told.fee)

    def _gain(self, owner, unit, amount):
        self.free[owner, unit] = add(self.free[owner, unit], amount)  # exact: Python's own context rounds

    def _book(self, hold, account, unit, amount):
        for name, gain in ((account, amount), ("@market", amount.copy_negate())):  # an entry sums to zero
            line = f"{hold.saga_id}:settle", name, unit, hold.saga_id
            self.journal[line] = add(self.journal[line], gain)

    async def save(self, tx):
        rows = [(owner, unit, exact_text(free)) for (owner, unit), free in self.free.items()]
        new = "unnest($1::text[], $2::text[], $3::text[]) AS new (owner, unit, free)"
        update = "UPDATE wallet.wallets AS old SET free = new.free::numeric FROM"
        match = "WHERE (old.owner, old.unit) = (new.owner, new.unit)"
        await tx.execute(f"{update} {new} {match}", *map(list, zip(*rows, strict=True)))
        if lines := [(*line, exact_text(amount)) for line, amount in self.journal.items() if amount]:
            line = "unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[]) AS line (e, a, u, o, amount)"
            book = "INSERT INTO wallet.journal (entry_id, account, unit, order_id, amount)"
            columns = tuple(map(list, zip(*lines, strict=True)))
            await tx.execute(f"{book} SELECT e, a, u, o, amount::numeric FROM {line}", *columns)


# Its schema -----------------------------------------------------------------------------------------------------------

KIT = (holds_table, holds_archive_table, ledger_start_table, outbox_table, dead_letters_table)
TABLES = (
    """CREATE TABLE IF NOT EXISTS wallet.wallets (
        owner text, unit text, free numeric(38, 18) NOT NULL DEFAULT 0 CHECK (free >= 0), PRIMARY KEY (owner, unit))""",
    """CREATE TABLE IF NOT EXISTS wallet.journal (
        entry_id text, account text, unit text, order_id uuid, amount numeric(38, 18) NOT NULL CHECK (amount <> 0),
        created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (entry_id, account, unit))""",
    "CREATE TABLE IF NOT EXISTS wallet.deposits (deposit_id text PRIMARY KEY)",
)
ADJUSTMENT = """ADD COLUMN IF NOT EXISTS revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS asked numeric(38, 18),
    ADD COLUMN IF NOT EXISTS adjust_code text, ADD COLUMN IF NOT EXISTS adjust_reason text"""
UPGRADES = (  # of tables that an older kit described
    f"ALTER TABLE wallet.holds {ADJUSTMENT}",
    f"ALTER TABLE wallet.holds_archive {ADJUSTMENT}",
    """ALTER TABLE wallet.holds DROP CONSTRAINT IF EXISTS holds_revision,
        ADD CONSTRAINT holds_revision CHECK (revision >= 0 AND (revision = 0) = (asked IS NULL))""",
)
VIEWS = (
    "CREATE SCHEMA IF NOT EXISTS wallet_audit",
    """CREATE OR REPLACE VIEW wallet_audit.holds AS
    SELECT hold_id, saga_id::uuid AS order_id, owner AS user_id, unit AS asset_id, amount, captured, refunded, state
    FROM (SELECT * FROM wallet.holds UNION ALL SELECT * FROM wallet.holds_archive) AS every""",
    """CREATE OR REPLACE VIEW wallet_audit.accounts AS
    SELECT owner AS user_id, unit AS asset_id, free AS available, coalesce(held, 0) AS held
    FROM wallet.wallets LEFT JOIN (
        SELECT owner, unit, sum(amount) AS held FROM wallet.holds WHERE state = 'HELD' GROUP BY owner, unit
    ) AS active USING (owner, unit)""",
    """CREATE OR REPLACE VIEW wallet_audit.journal AS
    SELECT entry_id, order_id, account, unit AS asset_id, amount, created_at FROM wallet.journal""",
    "CREATE OR REPLACE VIEW wallet_audit.dead_letters AS SELECT * FROM wallet.dead_letters",
)
RIGHTS = (
    "DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO wallet', current_database()); END $$",
    "GRANT USAGE ON SCHEMA wallet TO wallet",
    "GRANT SELECT, INSERT, UPDATE ON wallet.wallets, wallet.holds, wallet.dead_letters TO wallet",
    "GRANT SELECT, INSERT ON wallet.journal, wallet.deposits, wallet.ledger_start TO wallet",
    "GRANT SELECT ON wallet.holds_archive TO wallet",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON wallet.outbox TO wallet",
    "GRANT USAGE ON SCHEMA wallet_audit TO saga_auditor",
    "GRANT SELECT ON ALL TABLES IN SCHEMA wallet_audit TO saga_auditor",
)
TAKE_OVER = (
    "INSERT INTO wallet.ledger_start (began_at) VALUES (NULL) ON CONFLICT (only_row) DO UPDATE SET began_at = NULL",
    """INSERT INTO wallet.wallets SELECT user_id, asset_id, available FROM balances.accounts
    ON CONFLICT (owner, unit) DO UPDATE SET free = wallets.free + excluded.free""",
    """INSERT INTO wallet.journal
    SELECT entry_id, account, asset_id, order_id, amount, created_at FROM balances.journal_lines""",
    "INSERT INTO wallet.deposits SELECT deposit_id FROM balances.deposits",
    "INSERT INTO wallet.holds SELECT * FROM balances.holds",
    "INSERT INTO wallet.holds_archive SELECT * FROM balances.holds_archive",
)
CLOSED = "SELECT 1 FROM balances.ledger_start WHERE closed_at IS NOT NULL"


async def migrate(tx):
    """Make what is missing; doing it twice changes nothing."""
    metadata = MetaData()
    for make in KIT:
        make(metadata, "wallet")
    await tx.execute(text("CREATE SCHEMA IF NOT EXISTS wallet"))
    await tx.run_sync(metadata.create_all)
    if (await tx.execute(text("SELECT 1 FROM pg_roles WHERE rolname = 'wallet'"))).scalar() is None:
        role = "SELECT format('CREATE ROLE wallet LOGIN PASSWORD %L', $1::text)"
        quoted = await tx.exec_driver_sql(role, (os.environ["WALLET_DB_PASSWORD"],))
        await tx.exec_driver_sql(quoted.scalar_one())
    for statement in (*TABLES, *UPGRADES, *VIEWS, *RIGHTS):
        await tx.execute(text(statement))
    return "the schema wallet and its views are there"


async def take_over(tx):
    """Copy everything, all holds with their ends included: then each command, however old, has its answer."""
    if (await tx.execute(text(CLOSED))).scalar() is None:
        sys.exit("the reference ledger still works: order-saga hand-over wallet")
    for statement in TAKE_OVER:
        await tx.execute(text(statement))
    return "the reference ledger is taken over; if the service runs already, start it again"


async def deposit(tx, deposit_id, owner, unit, amount):
    """Let money come in from outside, once for each id."""
    amount = Money.parse(amount)
    once = "INSERT INTO wallet.deposits VALUES ($1) ON CONFLICT DO NOTHING"
    if not (await tx.exec_driver_sql(once, (deposit_id,))).rowcount:
        return "this deposit was booked before"
    gain = "INSERT INTO wallet.wallets VALUES ($1, $2, $3) ON CONFLICT (owner, unit) DO UPDATE"
    gain += " SET free = wallets.free + excluded.free"
    await tx.exec_driver_sql(gain, (owner, unit, Decimal(amount)))
    for account, gained in ((owner, amount), ("@external", amount.copy_negate())):
        line = "INSERT INTO wallet.journal (entry_id, account, unit, amount) VALUES ($1, $2, $3, $4)"
        await tx.exec_driver_sql(line, (f"deposit:{deposit_id}", account, unit, Decimal(gained)))
    return f"{owner}: {amount} {unit} deposited"


async def run(work, *words):
    """Do something in one transaction, and say what was done."""
    engine = create_async_engine(parse_database_url(os.environ["DATABASE_URL"]))
    try:
        async with engine.begin() as tx:
            done = await work(tx, *words)
        print(done)
    finally:
        await engine.dispose()


def main():
    """Do what the command line asks for; return the exit status."""
    match sys.argv[1:]:
        case ["serve"]:
            wallets = ParticipantHandler("wallet", BalanceAdapter("/wallet"), Wallets)
            return run_service(load(KitSettings), name="wallet", schema="wallet", handler=lambda _kit: wallets)
        case ["migrate"]:
            asyncio.run(run(migrate))
        case ["take-over"]:
            asyncio.run(run(take_over))
        case ["deposit", deposit_id, owner, unit, amount]:
            asyncio.run(run(deposit, deposit_id, owner, unit, amount))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
