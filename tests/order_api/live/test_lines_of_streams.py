"""The access log and the trace of streams: when each began, how it ended, and nothing to rob anybody by."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from order_api.settings import ApiSettings
from tests.order_api.live.socket_client import socket
from tests.order_api.live.support import Events, followed, new_order, no_streams, streaming
from tests.order_api.support import Orchestrator, running, token, until
from tests.support.spans import recorded_spans, trace_id

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def _lines(capfd: pytest.CaptureFixture[str], *, of: str = "/ws") -> list[dict[str, Any]]:
    """Read the lines about a route that were written since the last look."""
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("route") == of]


def _facts(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("event", "status", "user_id", *names))


@pytest.fixture
def json_settings(settings: ApiSettings) -> ApiSettings:
    """Make settings for an API that writes JSON."""
    return settings.model_copy(update={"log_format": "json"})


async def test_a_stream_has_a_line_when_it_begins_and_one_when_it_ends(
    json_settings: ApiSettings, orchestrator: Orchestrator, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of both kinds: whose it is, how long it was, why it ended, and how many orders and prices it sent."""
    async with running(json_settings) as api:
        await followed(api)
        events = Events(api.wire.publisher, orchestrator)
        order_id = new_order()
        await events.commit(order_id, "VALIDATING", 1)
        async with streaming(api) as stream, socket(api) as client:
            await stream.until("snapshot-end")
            await client.subscribe("orders")
            (began,) = _lines(capfd)
            assert ("stream began", 101, "alice") == _facts(began)
            await events.tell(order_id, "COMPLETED", 2)
            await stream.until("order", version=2)
            await client.until("order", "orders", version=2)
        await no_streams(api)
        (ended,) = await _soon(capfd, 1)
        assert ("stream ended", 101, "alice", "gone", 2) == _facts(ended, "why", "events")
        assert began["duration_ms"] < ended["duration_ms"]
        assert sum(len(json.dumps(one, separators=(",", ":"))) for one in client.got) == ended["bytes_sent"]
        async with streaming(api) as stream:
            await stream.until("snapshot-end")
            capfd.readouterr()
            await api.stop()
    (ended,) = _lines(capfd, of="/events")
    assert ("stream ended", 200, "alice", "shutdown", 0) == _facts(ended, "why", "events")


async def _soon(capfd: pytest.CaptureFixture[str], number: int) -> list[dict[str, Any]]:
    """Wait for so many lines about `/ws`."""
    found: list[dict[str, Any]] = []

    def written() -> bool:
        found.extend(_lines(capfd))
        return len(found) >= number

    await until(written)
    return found


async def test_a_websocket_that_never_was_a_stream_is_a_request(
    json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """One whose handshake is refused, as any other; one that shows no good token, with the code of its close."""
    async with running(json_settings) as api:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(api, claims={"exp": 1}):
                pass
        assert "nosniff" == refused.value.response.headers["x-content-type-options"]
        async with socket(api, None) as client:
            await client.says("auth", token="nonsense")
            assert 4401 == (await client.end())[0]
        first, second = await _soon(capfd, 2)
        assert ("request", 401, None, None) == _facts(first, "close_code")
        assert ("request", 101, None, 4401, None) == _facts(second, "close_code", "why")
        sample = 'http_server_request_duration_seconds_count{method="GET",route="/ws",status="%d"}'
        assert [1.0, 0.0] == [await api.metric(sample % 401), await api.metric(sample % 101)]


async def test_no_line_and_no_span_holds_a_token_or_whatever_else_came(
    json_settings: ApiSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the address, in a header, in a message; nor the channels. The span is of the caller's trace."""
    secrets = [token("alice", "orders:read"), token("alice", "orders:read orders:write")]
    asset = "SECRETASSET"
    with recorded_spans() as exporter:
        async with running(json_settings.model_copy(update={"log_level": "DEBUG"})) as api:
            with pytest.raises(InvalidStatus):
                async with socket(api, None, path=f"/ws?token={secrets[0]}"):
                    pass
            async with socket(api, None, headers={"traceparent": TRACEPARENT}) as client:
                for secret in secrets:
                    await client.says("auth", token=secret)
                await client.says("subscribe", channel=f"prices:{asset}")
                await client.until("snapshot-end")
                await client.connection.send(f'{{"op":"{asset}"}}')
                await client.until("error")
                await asyncio.gather(*(client.says("ping") for _ in range(300)))
                assert 4429 == (await client.end())[0]
            async with streaming(api, f"/events?prices={asset}") as stream:
                await stream.until("snapshot-end")
            await no_streams(api)
            await until(lambda: len(exporter.get_finished_spans()) >= 3)
    written = capfd.readouterr().err
    spans = exporter.get_finished_spans()
    told = written + "".join(span.to_json() for span in spans)
    for secret in (*secrets, asset, "127.0.0.1"):
        assert secret not in told
    (ended,) = [json.loads(line) for line in written.splitlines() if '"close_code"' in line]
    assert ("stream ended", 101, "alice", "refused", 4429) == _facts(ended, "why", "close_code")
    (span,) = [one for one in spans if trace_id(one) == int("ab" * 16, 16)]
    attributes = dict(span.attributes or {})
    assert ("GET /ws", "/ws", 101, "refused", 0) == (
        span.name,
        *(attributes[name] for name in ("http.route", "http.response.status_code", "stream.end", "stream.events")),
    )
    assert ["stream began"] == [event.name for event in span.events]
    assert ended["trace_id"] == "ab" * 16
