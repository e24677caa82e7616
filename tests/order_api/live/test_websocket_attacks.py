"""What strangers send to `/ws`: each is refused or cut, costs no more than a bound, and harms nobody else."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from uuid import uuid4

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from order_api.http import websockets as protocol_module
from order_api.http.limits import RateLimit
from order_api.http.websockets import FRAMES_MAX, WebSocket
from order_api.live import websocket as websocket_module
from order_api.live.messages import CHANNELS_MAX
from order_api.settings import ApiSettings
from tests.order_api.live.socket_client import Socket, socket
from tests.order_api.live.support import no_streams
from tests.order_api.support import Api, running, token, until

UPGRADE = {
    "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-protocol": "order-saga.v1",
}  # fmt: skip


async def _refused(api: Api, status: int, code: str, **more: object) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(api, **more):  # type: ignore[arg-type]
            pass
    answer = refused.value.response
    assert (status, code) == (answer.status_code, json.loads(answer.body)["code"])


async def _write(client: Socket, *frames: Frame) -> None:
    """Send frames as they are."""
    client.connection.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
    await asyncio.sleep(0)


async def test_a_page_of_another_host_is_refused(settings: ApiSettings) -> None:
    """Unless it is listed; a page of the same host, and a client that is no browser, may come."""
    async with running(settings.model_copy(update={"api_cors_origins": "https://desk.example"})) as api:
        for origin in (
            "https://evil.example",
            "null",
            "https://desk.example.evil.example",
            "https://desk.example:8443",
        ):
            await _refused(api, 403, "origin-not-allowed", headers={"Origin": origin})
        for origin in ("https://desk.example", f"http://127.0.0.1:{api.port}"):
            async with socket(api, headers={"Origin": origin}) as client:
                await client.until("authenticated")


async def test_a_bad_handshake_is_answered_as_a_problem(api: Api) -> None:
    """A bad token, a scope too few, a token in the address, another protocol."""
    await _refused(api, 401, "invalid-token", claims={"exp": 1})
    await _refused(api, 403, "insufficient-scope", scope="orders:write")
    await _refused(api, 400, "bad-request", path=f"/ws?token={token()}", user=None)
    await _refused(api, 400, "bad-request", subprotocols=["other"])
    await _refused(api, 400, "bad-request", subprotocols=None)


@pytest.mark.parametrize("path", ["/orders", "/WS", "/ws/x", "/health"])
async def test_nothing_else_can_be_upgraded(api: Api, path: str) -> None:
    """The offer is declined: the request is served as if it had none."""
    answer = await api.get(path, headers=UPGRADE)
    assert answer.status_code in {200, 404}
    assert "upgrade" not in answer.headers


async def test_who_shows_no_token_in_time_is_closed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence, anything but a token, and a bad token; it never counts as a stream."""
    monkeypatch.setattr(websocket_module, "AUTH_S", 0.3)
    async with socket(api, None) as silent:
        assert 4408 == (await silent.end())[0]
    monkeypatch.undo()
    for said in (
        '{"op":"subscribe","channel":"orders"}',
        "{",
        '{"op":"auth","token":"x"}',
        '{"op":"auth","token":"é"}',
    ):
        async with socket(api, None) as client:
            await client.connection.send(said)
            assert 4401 == (await client.end())[0]
    async with socket(api, None) as client:
        await client.says("auth", token=token(scope="orders:write"))
        assert 4403 == (await client.end())[0]
    assert 0 == len(api.app.state.streams)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "{}", "null", '{"op":"fly"}', '{"op":"subscribe"}', '{"op":"subscribe","channel":1}',
        '{"op":"subscribe","channel":"orders","more":1}', '{"op":"subscribe","channel":"all"}', "[" * 10_000,
        '{"op":"subscribe","channel":"prices:"}', '{"op":"subscribe","channel":"prices:a b"}',
        '{"op":"subscribe","channel":"order:1"}', '{"op":"subscribe","channel":"orders","since":"4"}',
        '{"op":"subscribe","channel":"prices:BTC","since":"t4"}', '{"op":"unsubscribe","channel":"orders"}',
        '{"op":"subscribe","channel":"orders","user_id":"\\u0000"}', b"\x00\xff",
    ],
)  # fmt: skip
async def test_garbage_is_said_to_be_such_and_the_connection_goes_on(api: Api, text: str | bytes) -> None:
    """Nothing is done, and the next message is served."""
    async with socket(api) as client:
        await client.connection.send(text)
        assert (await client.until("error"))["data"]["code"] in {"invalid-request", "malformed-json"}
        await client.says("ping")
        await client.until("pong")


async def test_a_message_too_large_ends_the_connection(api: Api) -> None:
    """In one frame, in several, and in frames without end that are empty."""
    large, part = b"x" * 20_000, b"x" * 9_000
    floods = (
        [Frame(Opcode.TEXT, large)],
        [Frame(Opcode.TEXT, part, fin=False), Frame(Opcode.CONT, part, fin=False)],
        [Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 200],
    )
    for frames in floods:
        async with socket(api) as client:
            await client.until("authenticated")
            await _write(client, *frames)
            assert 1009 == (await client.end())[0]
    await no_streams(api)


async def test_broken_frames_end_the_connection(api: Api) -> None:
    """Compressed, though nobody agreed to that; not masked; with an unknown opcode; text that is not UTF-8."""
    for raw in (
        b"\xc1\x81\x00\x00\x00\x00x", Frame(Opcode.TEXT, b"{}").serialize(mask=False),
        b"\x83\x80\x00\x00\x00\x00", Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True),
    ):  # fmt: skip
        async with socket(api) as client:
            await client.until("authenticated")
            client.connection.transport.write(raw)
            assert (await client.end())[0] in {1002, 1007}
    await no_streams(api)
    async with socket(api, compression="deflate") as client:
        assert [] == client.connection.protocol.extensions


async def test_thousands_of_subscriptions_are_refused(api: Api) -> None:
    """A connection has so many and no more; the same one twice is none."""
    async with socket(api) as client:
        for number in range(CHANNELS_MAX):
            await client.says("subscribe", channel=f"prices:A{number}")
        await client.until("snapshot-end", f"prices:A{CHANNELS_MAX - 1}")
        await client.says("subscribe", channel="prices:A1")
        await client.until("error", "prices:A1", code="invalid-request")
        await client.says("subscribe", channel=f"order:{uuid4()}")
        await client.until("error", code="too-many-streams")
    await no_streams(api)


async def test_a_flood_in_one_write_is_stopped_before_it_is_read(api: Api) -> None:
    """However many frames come at once, few are taken, nothing is subscribed for them, and others do not wait.

    Pings count, too, though their answers are read; and so do the answers to pings that were never sent.
    """
    flood = json.dumps({"op": "subscribe", "channel": f"order:{uuid4()}"}).encode()
    floods = (Frame(Opcode.TEXT, flood), Frame(Opcode.PING, b""), Frame(Opcode.PONG, b""), Frame(Opcode.TEXT, b""))
    for frame in floods:
        async with socket(api) as client, socket(api, "bob") as other:
            await client.until("authenticated")
            await other.until("authenticated")
            protocol = _protocol_of(api, client)
            client.connection.transport.write(frame.serialize(mask=True) * 10_000)
            await other.says("ping")
            async with asyncio.timeout(10):  # to do all that was asked for would take longer
                await other.until("pong")
            assert 4429 == (await client.end())[0]
            assert FRAMES_MAX >= protocol.queue.qsize()
            told = [one for one in client.got if one["type"] != "authenticated"]
            assert len(told) <= websocket_module.SAID_MAX
    await no_streams(api)


async def test_who_says_no_more_than_is_allowed_waits_for_its_answers(api: Api) -> None:
    """As many subscriptions at once as are allowed are served one after the other: one at a time is under way."""
    async with socket(api) as client:
        await client.until("authenticated")
        protocol = _protocol_of(api, client)
        asked = [json.dumps({"op": "subscribe", "channel": f"order:{uuid4()}"}).encode() for _ in range(150)]
        await _write(client, *(Frame(Opcode.TEXT, one) for one in asked))

        def all_are_answered() -> bool:
            assert not client.ended.is_set(), client.closed
            assert 1 == len([one for one in asyncio.all_tasks() if "_Session" in repr(one.get_coro())])
            assert len(asked) >= protocol.queue.qsize()
            return len([one for one in client.got if one["type"] == "error"]) == len(asked)

        await until(all_are_answered)


def _protocol_of(api: Api, client: Socket) -> WebSocket:
    """Find the server's side of a connection."""
    of_sockets = [one for one in api.server.server_state.connections if isinstance(one, WebSocket)]
    (found,) = [one for one in of_sockets if one.client == client.connection.local_address]
    return found


async def test_who_says_too_much_is_closed(api: Api) -> None:
    """Each message costs something; others go on."""
    async with socket(api) as client, socket(api, "bob") as other:
        for _ in range(websocket_module.SAID_MAX * 3):
            await client.says("ping")
        assert 4429 == (await client.end())[0]
        await other.says("ping")
        await other.until("pong")


async def test_subscriptions_count_as_requests(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no limit of requests is passed by on this way."""
    monkeypatch.setattr("order_api.app.RateLimit", partial(RateLimit, clock=lambda: 1000.0))
    async with running(settings.model_copy(update={"api_rate_limit_per_s": 5})) as api, socket(api) as client:
        for _ in range(20):
            await client.says("subscribe", channel=f"order:{uuid4()}")
        await client.until("error", code="rate-limited")


async def test_pings_without_end_of_a_client_that_does_not_read_are_cut(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their answers would pile up in memory."""
    monkeypatch.setattr(protocol_module, "UNREAD_BYTES_MAX", 50_000)
    monkeypatch.setattr(protocol_module, "FRAMES_MAX", 1_000_000)  # as if it took its time
    async with socket(api) as client:
        await client.until("authenticated")
        client.connection.transport.pause_reading()
        flood = b"".join(Frame(Opcode.PING, b"x" * 100).serialize(mask=True) for _ in range(1_000))

        async def cut() -> bool:
            if not client.connection.transport.is_closing():
                client.connection.transport.write(flood)
            return await api.metric('http_server_connections_cut_total{why="answer not read"}') >= 1

        await until(cut)
        client.connection.transport.abort()
    await no_streams(api)


async def test_bytes_before_the_answer_to_the_handshake_are_refused(api: Api) -> None:
    """Nobody may send frames before the upgrade: they could be another request that a proxy has passed on."""
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"GET /ws HTTP/1.1\r\nhost: x\r\n{head}\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()
