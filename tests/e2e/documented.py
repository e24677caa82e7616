"""Runs the commands of `docs/kafka.md` as they stand there; only the broker's container is the one of this test run."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.system import WITHIN_S, Output
from tests.support.servers import DockerServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kafka.md"
EXAMPLE = ROOT / "docs" / "examples" / "order_producer.py"
_INTO_THE_BROKER = re.compile(r"docker compose (?:--env-file \S+ )*exec -T (.*?)kafka\b")


def shown(name: str) -> str:
    """Return the code block of the page that stands under the comment with this name."""
    block = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None, name
    return block.group(1)


async def run_in_shell(
    commands: str, broker: DockerServer, *, topic_prefix: str = "", environment: Mapping[str, str] | None = None
) -> Output:
    """Run commands of the page against this broker."""
    commands, count = _INTO_THE_BROKER.subn(lambda way: f"docker exec -i {way[1]}{broker.container_id}", commands)
    assert count
    commands = commands.replace("kafka:9094", broker.inside).replace("--topic ", f"--topic {topic_prefix}")
    return await _run("bash", "-u", "-c", commands, environment=environment)


async def run_example(*words: str, environment: Mapping[str, str]) -> Output:
    """Run the example with these arguments, in a process that can import none of our packages."""
    return await _run(sys.executable, "-P", str(EXAMPLE), *words, environment=environment)


async def _run(*command: str, environment: Mapping[str, str] | None = None) -> Output:
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=ours | dict(environment or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Output(process.returncode, out.decode(), err.decode())
