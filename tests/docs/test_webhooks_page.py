"""The page about webhooks: its receiver is the one that is tested, and believes nothing that was not signed for it."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from contracts.codec import encode
from contracts.webhooks import EventType, PingWebhook, secret_text
from docs.examples import webhook_receiver
from order_api.openapi.document import SENT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "webhooks.md").read_text()
FILE = ROOT / "docs" / "examples" / "webhook_receiver.py"
SECRET = secret_text(bytes(range(32)))
BODY = '{"type":"order.completed","data":{"order_id":"o","version":%d,"status":"COMPLETED"}}'


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Run the receiver."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    webhook_receiver.newest.clear()
    with HTTPServer(("127.0.0.1", 0), webhook_receiver.Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def signed(body: str, at: datetime | None = None, secret: str = SECRET) -> dict[str, str]:
    """Make the headers of a webhook, by the standard's own library."""
    now = at or datetime.now(UTC)
    signature = Webhook(secret).sign("x:v1", now, body)
    return {"webhook-id": "x:v1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


def post(port: int, body: str, headers: dict[str, str]) -> int:
    """Send a webhook; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/", body.encode(), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_page_shows_the_receiver_as_it_is() -> None:
    """It is the file that the tests run, of about twenty lines."""
    shown = re.search(r"<!-- webhook_receiver.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert FILE.read_text() == shown[1]
    code = FILE.read_text().partition('"""\n\n')[2].splitlines()
    assert sum(bool(line.strip()) for line in code) <= 25
    assert "Verify the bytes, not the parsed body" in PAGE


def test_the_page_tells_every_type() -> None:
    """And names none that there is not."""
    rows = PAGE[PAGE.index("| type | when |") :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    told = re.findall(r"`([a-z]+\.[a-z]+)`", " ".join(row.split("|")[1] for row in rows))
    assert sorted(SENT) == sorted(told)


def test_the_receiver_keeps_the_newest_version(port: int) -> None:
    """However often each comes, and in whichever order; a ping is taken, too."""
    for version in (2, 2, 1, 3):
        assert 204 == post(port, BODY % version, signed(BODY % version))
    ping = encode(PingWebhook(EventType.WEBHOOK_PING, datetime.now(UTC))).decode()
    assert 204 == post(port, ping, signed(ping))
    assert {"o": 3} == webhook_receiver.newest


@pytest.mark.parametrize(
    "hostile",
    [
        {"webhook-signature": "no comma"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,!!!"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1a," + "A" * 44},
        {"webhook-signature": "v1," + "A" * 43 + "="},
        {"webhook-timestamp": "yesterday"},
        {"webhook-timestamp": "9" * 30},
        {"webhook-timestamp": "-1"},
        {"webhook-id": "y:v1"},
    ],
)
def test_the_receiver_believes_no_hostile_header(port: int, hostile: dict[str, str]) -> None:
    """It answers 400 to each, and goes on."""
    body = BODY % 9
    assert 400 == post(port, body, signed(body) | hostile)
    assert {} == webhook_receiver.newest
    assert 204 == post(port, body, signed(body))


def test_the_receiver_believes_no_other_bytes_secret_or_time(port: int) -> None:
    """Nor a webhook without a header."""
    body = BODY % 9
    assert 400 == post(port, body.replace(":", ": "), signed(body))
    assert 400 == post(port, body, signed(body, secret=secret_text(bytes(32))))
    assert 400 == post(port, body, signed(body, datetime.now(UTC) - timedelta(hours=1)))
    for name in signed(body):
        assert 400 == post(port, body, {key: value for key, value in signed(body).items() if key != name})
    assert {} == webhook_receiver.newest
