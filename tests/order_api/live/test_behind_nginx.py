"""Behind nginx as Debian has it, with its own buffering on, events arrive when they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from typing import Final

import pytest

from local_stack.ports import free_ports
from tests.order_api.live.support import Events, followed, new_order, no_streams, streaming
from tests.order_api.support import Api, Orchestrator, token, until
from tests.support.infrastructure import nginx

pytestmark = pytest.mark.nginx

COMPRESSED: Final = ("gzip on;", "gzip_min_length 0;", "gzip_types text/event-stream;")
"""It then keeps back whatever its compressor has not given out, unless it is told to buffer nothing."""

IGNORED: Final = "proxy_ignore_headers X-Accel-Buffering;"


@asynccontextmanager
async def behind_nginx(api: Api, folder: Path, *more: str) -> AsyncIterator[Api]:
    """Put nginx in front of the API, with nothing set but where it is, and `more`; give the API as clients see it."""
    [port] = free_ports(1)
    temporary = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; user {getuser()}; pid {folder}/pid; error_log stderr; worker_processes 1; events {{ }}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};"
        f" location / {{ proxy_pass http://127.0.0.1:{api.port}; {' '.join(more)} }} }} }}\n"
    )
    program = nginx()
    assert program is not None
    proxy = await asyncio.create_subprocess_exec(
        *(program, "-p", str(folder), "-c", "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: _answers(port))
        yield replace(api, port=port)
    finally:
        proxy.terminate()
        await proxy.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("more", [(), COMPRESSED], ids=["plain", "compressed"])
async def test_events_are_not_kept_back(
    api: Api, orchestrator: Orchestrator, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Each small event passes alone, and when the client hangs up, the stream behind nginx ends, too."""
    await followed(api)
    events, order_id = Events(api.wire.publisher, orchestrator), new_order()
    async with behind_nginx(api, tmp_path, *more) as fronted, streaming(fronted) as stream:
        await stream.until("snapshot-end")
        for version in (1, 2):
            await events.tell(order_id, "VALIDATING", version)
            await stream.until("order", order_id=order_id, version=version)
    await no_streams(api)


async def test_it_is_the_header_that_nginx_obeys(api: Api, orchestrator: Orchestrator, tmp_path: Path) -> None:
    """Told to ignore it, the same nginx keeps even the head of the answer back, and hands on everything at the end."""
    await followed(api)
    events, order_id = Events(api.wire.publisher, orchestrator), new_order()
    async with behind_nginx(api, tmp_path, *COMPRESSED, IGNORED) as fronted, streaming(api) as direct:
        url, headers = f"http://127.0.0.1:{fronted.port}/events", {"Authorization": f"Bearer {token()}"}
        buffered = asyncio.create_task(api.client.get(url, headers=headers))
        await until(lambda: len(api.app.state.streams) == 2)
        await direct.until("snapshot-end")
        for version in range(1, 6):  # time enough for what is only slow
            await events.tell(order_id, "VALIDATING", version)
            await direct.until("order", order_id=order_id, version=version)
        assert not buffered.done()
        api.app.state.streams.close()
        answer = await buffered
    assert "gzip" == answer.headers["content-encoding"]
    assert all(word in answer.text for word in ("event: snapshot-end", order_id, "event: bye"))


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_client_that_does_not_read_is_noticed_through_nginx(
    api: Api, orchestrator: Orchestrator, tmp_path: Path, *, obeys: bool
) -> None:
    """Its stream is cut as without nginx. One that ignores the header takes megabytes in that nobody may ever read."""
    api.app.state.connections._answer_s = 5.0  # noqa: SLF001 - as long as one who reads may be held up
    await followed(api)
    events, order_id = Events(api.wire.publisher, orchestrator), new_order()
    async with behind_nginx(api, tmp_path, *([] if obeys else [IGNORED])) as fronted, streaming(api) as other:
        _, writer = await asyncio.open_connection("127.0.0.1", fronted.port, limit=2**10)
        writer.write(f"GET /events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n\r\n".encode())
        await until(lambda: len(api.app.state.streams) == 2)
        await other.until("snapshot-end")
        for version in range(1, 40):
            await events.tell(order_id, "VALIDATING", version, reason="x" * 400_000)
            await other.until("order", order_id=order_id, version=version)
        if obeys:
            await until(lambda: len(api.app.state.streams) == 1, within_s=60)
        else:
            assert 2 == len(api.app.state.streams)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
