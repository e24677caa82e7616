"""How long an audit of many orders takes, and what it needs: `make audit-speed ORDERS=1000000`."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time

import asyncpg

from operations.audit.look import audit_on, connection_to
from tests.evidence import record as evidence
from tests.operations.audit.many import fill
from tests.support.infrastructure import Session, migrated_database

WHAT = (
    "A database with so many orders, their histories, holds, journal and claims, as left by a system that has "
    "worked for a while, and one audit of it by the auditor's login, with nothing wrong to be found."
)


def main() -> int:
    """Fill a database, audit it and print the duration and memory; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--record", action="store_true", help="write the record that docs/evidence.md is made of")
    asked = parser.parse_args()
    log = evidence.Run("audit", "An audit of many orders", WHAT, f"make audit-speed ORDERS={asked.orders}")
    session = Session()
    try:
        session.start()
        filled_s, audited_s, found, orders = asyncio.run(_measure(session, asked.orders))
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counts: dict[str, int | float | str] = {
            "orders": orders,
            "seconds to fill": round(filled_s, 1),
            "seconds of the audit": round(audited_s, 1),
            "memory of the auditing process, MiB": round(memory_mib, 1),
            "findings": len(found),
        }
        sys.stdout.writelines(f"{name}: {count}\n" for name, count in counts.items())
        if asked.record:
            evidence.write(log.record(counts, servers=session.describe(), found=found))
        return 1 if found else 0
    finally:
        session.close()


async def _measure(session: Session, orders: int) -> tuple[float, float, list[str], int]:
    database = await migrated_database(session.start().database_url_admin, f"audit_{orders}")
    began = time.monotonic()
    owner = await asyncpg.connect(database.url)
    await fill(owner, orders)
    await owner.close()
    filled = time.monotonic()
    async with connection_to(database.url_of("auditor")) as connection:
        audited = await audit_on(connection)
    words = [f"{one.invariant} {one.order_id}: {one.what}" for one in audited.findings]
    return filled - began, time.monotonic() - filled, words, audited.orders


if __name__ == "__main__":
    sys.exit(main())
