"""Another team's balance service: its own table, behind the kit's barrier. Only the ledger is written here.

Its schema holds `wallets (owner text, unit text, free numeric check (free >= 0), primary key (owner, unit))` and the
kit's `holds`, `holds_archive`, `outbox` and `dead_letters` (`saga_kit.barrier.holds_table` and its like describe them).
"""

import sys
from decimal import Decimal

from participants.balance.adapter import BalanceAdapter
from saga_kit.barrier import Kind, Participant, Refusal
from saga_kit.service import run_service
from saga_kit.settings import KitSettings, load


class Wallets:
    """The ledger of one batch: rows locked in, amounts folded in memory, each row written once."""

    async def lock(self, tx, commands):
        keys = {(c.owner, c.unit) for c in commands}
        keys |= {(c.owner, c.message.credit_asset_id) for c in commands if c.kind is Kind.SETTLE}
        columns = tuple(map(list, zip(*sorted(keys), strict=True)))
        names = "SELECT * FROM unnest($1::text[], $2::text[])"
        await tx.exec_driver_sql(f"INSERT INTO wallet.wallets (owner, unit) {names} ON CONFLICT DO NOTHING", columns)
        locked = (
            f"SELECT owner, unit, free FROM wallet.wallets WHERE (owner, unit) IN ({names}) ORDER BY 1, 2 FOR UPDATE"
        )
        self.free = {(owner, unit): free for owner, unit, free in await tx.exec_driver_sql(locked, columns)}

    def reserve(self, command):
        if self.free[command.owner, command.unit] < command.amount:
            return Refusal("INSUFFICIENT_BALANCE", "the wallet does not hold that much")
        self.free[command.owner, command.unit] -= command.amount

    def refund(self, command, hold):
        self.free[hold.owner, hold.unit] += hold.amount

    def settle(self, command, hold):
        self.free[hold.owner, hold.unit] += hold.amount - command.capture
        self.free[hold.owner, command.message.credit_asset_id] += command.message.credit

    async def save(self, tx):
        rows = [(owner, unit, f"{Decimal(free):f}") for (owner, unit), free in self.free.items()]
        new = "unnest($1::text[], $2::text[], $3::text[]) AS new (owner, unit, free)"
        update = "UPDATE wallet.wallets AS old SET free = new.free::numeric FROM"
        match = "WHERE (old.owner, old.unit) = (new.owner, new.unit)"
        await tx.exec_driver_sql(f"{update} {new} {match}", tuple(map(list, zip(*rows, strict=True))))


if __name__ == "__main__":
    wallets = Participant("wallet", BalanceAdapter(), Wallets)
    sys.exit(run_service(load(KitSettings), name="wallet", schema="wallet", handler=lambda _kit: wallets))
