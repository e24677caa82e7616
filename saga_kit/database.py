"""The engine: bounded pool, bounded waits, read committed. Nothing here knows a table."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

STATEMENT_TIMEOUT_S: Final = 15
LOCK_TIMEOUT_S: Final = 5
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5
COMMAND_TIMEOUT_S: Final = 20
"""The driver's own limit, for a server that no longer answers; above the server's, which speaks more clearly."""
PATIENTLY: Final = "SET LOCAL statement_timeout = '10min'"
"""For a statement of an operator's command that reads a whole table."""
PATIENT_COMMAND_TIMEOUT_S: Final = 660
"""The driver's limit where that is used."""
POOL_TIMEOUT_S: Final = 5
BY_KEY: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Plans for statements that name their rows by a key of an index, whatever a young table's statistics make of it.

A plan is kept for as long as its connection lives, and one that was made while a table was empty reads all of it.
"""


def create_engine(
    url: URL,
    *,
    application_name: str,
    pool_size: int = 5,
    by_key: bool = False,
    command_timeout_s: int = COMMAND_TIMEOUT_S,
) -> AsyncEngine:
    """Make an engine whose every wait ends: for a connection, a lock, a statement, or a transaction left open.

    `by_key`: each of its statements finds its rows by an index, as a service's do; an audit's do not. Whoever uses
    `PATIENTLY` needs `PATIENT_COMMAND_TIMEOUT_S`.
    """
    return create_async_engine(
        url,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # an error's text goes into logs, and they hold what people sent
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the connection that has just worked has its plans and caches at hand
        pool_recycle=1800,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": command_timeout_s,
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
                "lock_timeout": f"{LOCK_TIMEOUT_S}s",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S}s",
                "jit": "off",  # it compiles for longer than our statements run
                "timezone": "UTC",
                **(BY_KEY if by_key else {}),
            },
        },
    )


async def ping(engine: AsyncEngine) -> None:
    """Ask the database for a sign of life; raises what the driver raises."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")
