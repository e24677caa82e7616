"""A script in a real browser reads a stream with `fetch`, which can send a token, and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from order_api.live import websocket
from tests.order_api.live.support import Events, followed, new_order
from tests.order_api.support import Api, Orchestrator, token, until
from tests.support.infrastructure import chromium

pytestmark = pytest.mark.browser
PATIENCE_S = 90
"""A browser on a busy machine may be slow."""

FOLLOW = """
async ([token, lastId]) => {
    window.got = [];
    window.stop = new AbortController();
    const headers = {Authorization: `Bearer ${token}`};
    if (lastId) headers['Last-Event-ID'] = lastId;
    const answer = await fetch('/events', {headers, signal: window.stop.signal});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    (async () => {
        for (;;) {
            const {done, value} = await reader.read();
            if (done) return;
            text += value;
            const parts = text.split('\\n\\n');
            text = parts.pop();
            for (const part of parts) {
                const fields = Object.fromEntries(part.split('\\n').map(line => {
                    const colon = line.indexOf(': ');
                    return [line.slice(0, colon), line.slice(colon + 2)];
                }));
                window.got.push({...fields, data: JSON.parse(fields.data || 'null')});
            }
        }
    })().catch(() => {});
    return answer.status;
}"""


@pytest_asyncio.fixture
async def page(api: Api) -> AsyncIterator[Page]:
    """Open a page of the API's own origin."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium())
        one = await browser.new_page()
        one.set_default_timeout(PATIENCE_S * 1000)
        await one.goto(f"http://127.0.0.1:{api.port}/docs")
        yield one
        await browser.close()


async def test_a_script_follows_orders_and_comes_back(api: Api, orchestrator: Orchestrator, page: Page) -> None:
    """Events come while the answer goes on; with its last id it is shown what ended while it was away."""
    await followed(api)
    events, order_id = Events(api.wire.publisher, orchestrator), new_order()

    async def seen(event: str, version: int | None = None) -> bool:
        found = await page.evaluate("window.got.map(one => [one.event, one.data && one.data.version])")
        return any(one[0] == event and version in (None, one[1]) for one in found)

    assert 200 == await page.evaluate(FOLLOW, [token(), ""])
    await until(lambda: seen("snapshot-end"), PATIENCE_S)
    await events.tell(order_id, "VALIDATING", 1)
    await until(lambda: seen("order", 1), PATIENCE_S)
    last_id = await page.evaluate("window.got.filter(one => one.id).at(-1).id")
    await page.evaluate("window.stop.abort()")
    await until(lambda: len(api.app.state.streams) == 0, PATIENCE_S)
    await events.tell(order_id, "COMPLETED", 2)
    assert 200 == await page.evaluate(FOLLOW, [token(), last_id])
    await until(lambda: seen("order", 2), PATIENCE_S)


SOCKET = """
([token]) => new Promise((resolve, reject) => {
    window.got = [];
    window.socket = new WebSocket(`ws://${location.host}/ws`, 'order-saga.v1');
    window.socket.onopen = () => window.socket.send(JSON.stringify({op: 'auth', token}));
    window.socket.onclose = event => {
        window.code = event.code;
        reject(new Error(`closed with ${event.code} ${event.reason}`));
    };
    window.socket.onerror = reject;
    window.socket.onmessage = message => {
        const one = JSON.parse(message.data);
        window.got.push(one);
        if (one.type === 'authenticated') {
            window.socket.send(JSON.stringify({op: 'subscribe', channel: 'orders'}));
            resolve(one.data.user_id);
        }
    };
})"""


async def test_a_script_follows_orders_over_a_websocket(
    api: Api, orchestrator: Orchestrator, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows its token in the first message, and reads the close code when the process ends."""
    monkeypatch.setattr(websocket, "AUTH_S", 60.0)  # a browser on a busy machine may be slow
    await followed(api)
    events, order_id = Events(api.wire.publisher, orchestrator), new_order()

    async def came(kind: str) -> bool:
        return kind in await page.evaluate("window.got.map(one => one.type)")

    assert "alice" == await page.evaluate(SOCKET, [token()])
    await until(lambda: came("snapshot-end"), PATIENCE_S)
    await events.tell(order_id, "VALIDATING", 1)
    await until(lambda: came("order"), PATIENCE_S)
    assert order_id == await page.evaluate("window.got.find(one => one.type === 'order').data.order_id")
    await api.stop()
    await until(lambda: page.evaluate("window.code"), PATIENCE_S)
    assert 1001 == await page.evaluate("window.code")
    assert "shutdown" == await page.evaluate("window.got.at(-1).data.why")
