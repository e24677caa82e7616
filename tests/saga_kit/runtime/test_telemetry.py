"""What a process logs, and what it must not log."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.saga_kit.support import Schema

PROGRAM = """
import asyncio, structlog
from saga_kit.runtime.database import create_engine
from saga_kit.runtime.settings import KitSettings, load
from saga_kit.runtime.telemetry import configure_logging
from saga_kit.runtime.transactions import begin

async def main():
    engine = create_engine(settings.sqlalchemy_url, application_name="test")
    try:
        {run}
    except Exception:
        structlog.get_logger("test").exception("failed")
    await engine.dispose()

settings = load(KitSettings)
configure_logging(settings, service="test")
asyncio.run(main())
"""


RUN = {
    "sqlalchemy": """async with engine.begin() as connection:
            await connection.exec_driver_sql("{statement}", ("planted",))""",
    "asyncpg": """async with begin(engine) as tx:
            await tx.execute("{statement}", "planted")""",
}


@pytest.mark.parametrize("raised_by", RUN)
@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("INSERT INTO {s}.done (key, value) VALUES ($1, 5000)", "CheckViolationError"),
        ("SELECT $1::text::uuid", "InvalidTextRepresentationError"),
        ("SELECT $1::int", "DataError"),
    ],
)
async def test_a_stack_trace_holds_no_row_and_no_parameter(
    schema: Schema, statement: str, name: str, raised_by: str
) -> None:
    """A statement that PostgreSQL or its driver refuses is logged with its stack trace, but without its values."""
    environment = {"DATABASE_URL": schema.url, "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1", "LOG_FORMAT": "json"}
    program = PROGRAM.replace("{run}", RUN[raised_by]).replace("{statement}", statement).replace("{s}", schema.name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env=os.environ | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, written = await process.communicate()
    [line] = [json.loads(line) for line in written.splitlines()]
    assert ("failed", "test") == (line["event"], line["service"])
    assert name in line["exception"]
    assert raised_by == "asyncpg" or statement.split(maxsplit=1)[0] in line["exception"]
    assert b"planted" not in written
