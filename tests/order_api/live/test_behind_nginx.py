"""Behind nginx as Debian has it, with its own buffering on, events arrive when they happen."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from local_stack.ports import free_ports
from tests.order_api.live.support import Events, followed, new_order, no_streams, streaming
from tests.order_api.support import Api, Orchestrator, until

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


@pytest_asyncio.fixture
async def fronted(api: Api, tmp_path: Path) -> AsyncIterator[Api]:
    """Put nginx in front of the API, with nothing set but where it is; give the API as its clients see it."""
    if NGINX is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    [port] = free_ports(1)
    temporary = "".join(
        f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; worker_processes 1; events {{ }}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};"
        f" location / {{ proxy_pass http://127.0.0.1:{api.port}; }} }} }}\n"
    )
    nginx = await asyncio.create_subprocess_exec(
        *(NGINX, "-p", str(tmp_path), "-c", "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: _answers(port))
        yield replace(api, port=port)
    finally:
        nginx.terminate()
        await nginx.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_events_are_not_kept_back(fronted: Api, orchestrator: Orchestrator) -> None:
    """Each small event passes alone, and when the client hangs up, the stream behind nginx ends, too."""
    await followed(fronted)
    events, order_id = Events(fronted.wire.publisher, orchestrator), new_order()
    async with streaming(fronted) as stream:
        await stream.until("snapshot-end")
        for version in (1, 2):
            await events.tell(order_id, "VALIDATING", version)
            await stream.until("order", order_id=order_id, version=version)
    await no_streams(fronted)
