"""The only SQL of the balance service; each statement takes a whole batch, as arrays.

All transactions lock in one order: the named accounts, by (user, asset); then those that had to be made, in the same
order; then holds (in the kit). So two batches don't deadlock. Three can, when all make an account at the same time:
PostgreSQL ends one of them, and its batch runs again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.balance import SettleBalance
from contracts.decimals import Money, exact_text
from contracts.vocabulary import NAME_PATTERN, NAME_RULE
from participants.balance.ledger import Account, AccountKey, AccountLedger, JournalEntry
from saga_kit.participant.barrier import HoldCommand
from saga_kit.runtime.transactions import Transaction, begin

# Only for users who have an account: a hold comes from one, so nobody else has anything to settle.
MAKE_ACCOUNTS = """
INSERT INTO balances.accounts (user_id, asset_id, available, held)
SELECT user_id, asset_id, 0, 0 FROM unnest($1::text[], $2::text[]) AS key (user_id, asset_id)
WHERE EXISTS (SELECT FROM balances.accounts AS account WHERE account.user_id = key.user_id)
ORDER BY user_id, asset_id
ON CONFLICT (user_id, asset_id) DO NOTHING
"""

MAKE_ACCOUNT = """
INSERT INTO balances.accounts (user_id, asset_id, available, held) VALUES ($1, $2, 0, 0)
ON CONFLICT (user_id, asset_id) DO NOTHING
"""

LOCK_ACCOUNTS = """
SELECT account.user_id, account.asset_id, account.available, account.held
FROM unnest($1::text[], $2::text[]) AS key (user_id, asset_id)
JOIN balances.accounts AS account USING (user_id, asset_id)
ORDER BY account.user_id, account.asset_id
FOR UPDATE OF account
"""

OWNERS = "SELECT DISTINCT user_id FROM balances.accounts WHERE user_id = ANY ($1::text[])"

WRITE_ACCOUNTS = """
UPDATE balances.accounts AS account SET available = new.available::numeric, held = new.held::numeric
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS new (user_id, asset_id, available, held)
WHERE account.user_id = new.user_id AND account.asset_id = new.asset_id
"""

# An entry's legs come as the text of an array: `unnest` would flatten an array of arrays.
ADD_ENTRIES = """
INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts)
SELECT entry_id, order_id::uuid, accounts::text[], asset_ids::text[], amounts::numeric[]
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS entry (entry_id, order_id, accounts, asset_ids, amounts)
"""

ADD_DEPOSIT = """
INSERT INTO balances.deposits (deposit_id, user_id, asset_id, amount) VALUES ($1, $2, $3, $4::text::numeric)
ON CONFLICT (deposit_id) DO NOTHING RETURNING deposit_id
"""

SAME_DEPOSIT = """
SELECT (user_id, asset_id, amount) = ($2, $3, $4::text::numeric) FROM balances.deposits WHERE deposit_id = $1
"""

ACCOUNTS = "SELECT asset_id, available, held FROM balances.accounts WHERE user_id = $1 ORDER BY asset_id"


class AccountBalance(NamedTuple):
    """A user's amounts of one asset."""

    asset_id: str
    available: Decimal
    held: Decimal


class StoredLedger(AccountLedger):
    """A ledger that locks the accounts of one transaction and writes each changed one once."""

    async def lock(self, tx: Transaction, commands: Sequence[HoldCommand[Any]]) -> None:
        """Lock every account that the commands name, both legs of a settlement included.

        Only the account that a settlement credits is made if it is missing. A command alone makes no account.
        """
        named = {(one.owner, one.unit) for one in commands}
        credited = {
            (one.owner, one.message.credit_asset_id) for one in commands if isinstance(one.message, SettleBalance)
        }
        await self.load(tx, named | credited)
        if missing := credited - self.accounts.keys():
            await tx.execute(MAKE_ACCOUNTS, *_columns(missing))
            await self.load(tx, missing)
        if unknown := sorted({one.owner for one in commands} - self.owners):
            self.owners |= {row[0] for row in await tx.fetch(OWNERS, unknown)}

    async def load(self, tx: Transaction, keys: set[AccountKey]) -> None:
        """Lock and load the accounts that exist."""
        for user_id, asset_id, available, held in await tx.fetch(LOCK_ACCOUNTS, *_columns(keys)):
            self.accounts[user_id, asset_id] = Account(available, held)
            self.owners.add(user_id)

    async def save(self, tx: Transaction) -> None:
        """Have the changed accounts and the journal written."""
        changed = [
            (*key, exact_text(account.available), exact_text(account.held))
            for key, account in self.accounts.items()
            if account.changed
        ]
        if changed:
            tx.write(WRITE_ACCOUNTS, *_columns(changed), rows=len(changed))
        if self.entries:
            tx.write(ADD_ENTRIES, *_columns(map(_entry_row, self.entries)), rows=len(self.entries))


async def deposit(engine: AsyncEngine, deposit_id: str, user_id: str, asset_id: str, amount: Money) -> bool:
    """Add to a user's account, once for each deposit id, in a transaction of its own; return whether it was done now.

    Raises `ValueError` for an id that is known with other terms, an invalid name, and an amount of 0.
    """
    if broken := [name for name in (deposit_id, user_id, asset_id) if not re.match(NAME_PATTERN, name)]:
        raise ValueError(f"{broken[0]!r} must be {NAME_RULE}")
    if not amount:
        raise ValueError("a deposit must be more than 0")
    terms = (deposit_id, user_id, asset_id, exact_text(amount))
    async with begin(engine) as tx:
        if await tx.fetchval(ADD_DEPOSIT, *terms) is None:
            if not await tx.fetchval(SAME_DEPOSIT, *terms):
                raise ValueError(f"deposit {deposit_id} was already made, with other terms")
            return False
        ledger = StoredLedger()
        await tx.execute(MAKE_ACCOUNT, user_id, asset_id)
        await ledger.load(tx, {(user_id, asset_id)})
        ledger.deposit(deposit_id, user_id, asset_id, amount)
        await ledger.save(tx)
        return True


async def accounts(engine: AsyncEngine, user_id: str) -> list[AccountBalance]:
    """Read a user's accounts, by asset."""
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(ACCOUNTS, (user_id,))
        return [AccountBalance(row.asset_id, row.available, row.held) for row in rows]


def _entry_row(entry: JournalEntry) -> tuple[object, ...]:
    asset_ids, accounts, amounts = zip(*entry.legs, strict=True)
    return entry.entry_id, entry.order_id, *map(array_text, (accounts, asset_ids, map(exact_text, amounts)))


def array_text(values: Iterable[str]) -> str:
    """Write a `text[]` as PostgreSQL reads it. Quoted, since a user may be called NULL."""
    return '{"' + '","'.join([value.replace("\\", r"\\").replace('"', r"\"") for value in values]) + '"}'


def _columns(rows: Iterable[tuple[object, ...]]) -> tuple[list[object], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))
