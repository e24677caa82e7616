"""The demo's receiver notes what the standard's library verifies, and nothing else."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from contracts.webhooks import secret_text
from operations.demo.receiver import BODY_BYTES_MAX, FAILED, NOT_BELIEVED, TAKEN, Came, Receiver, receiving

SECRET = secret_text(bytes(range(32)))
BODY = '{"type":"order.completed","data":{"order_id":"o"}}'


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Run one whose secret is known."""
    async with asyncio.timeout(30), receiving("127.0.0.1") as one:
        one.secret = SECRET
        yield one


async def post(receiver: Receiver, body: str = BODY, name: str = "o:v4", **changed: str) -> int:
    """Send a webhook that is signed, with changed headers; return the status."""
    return await asyncio.to_thread(_post, receiver.url, body, name, changed)


def _post(url: str, body: str, name: str, changed: dict[str, str]) -> int:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(name, now, body),
        "content-length": str(len(body)),
    }
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
    try:
        headers |= {key.replace("_", "-"): value for key, value in changed.items()}
        connection.request("POST", "/orders", body.encode(), headers)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_it_fails_once_and_then_takes_everything(receiver: Receiver) -> None:
    """The very first request gets 500, all others 204; who waits is told of each."""
    assert FAILED == await post(receiver)
    waiting = asyncio.create_task(receiver.wait_until(lambda: len(receiver.came) == 3))
    assert [TAKEN, TAKEN] == [await post(receiver), await post(receiver, name="p:v1")]
    await waiting
    first = Came("o:v4", "order.completed", "o", FAILED)
    assert [first, first._replace(answered=TAKEN), first._replace(webhook_id="p:v1", answered=TAKEN)] == receiver.came


async def test_what_is_not_signed_is_not_noted(receiver: Receiver) -> None:
    """Another signature, an old one, other bytes, broken headers and a long body are refused, and it goes on."""
    old = str(int((datetime.now(UTC) - timedelta(hours=1)).timestamp()))
    for changed in (
        {"webhook_signature": "v1," + "A" * 43 + "="}, {"webhook_signature": "v1,!"}, {"webhook_timestamp": old},
        {"webhook_id": "other:v1"}, {"content_length": "-5"}, {"content_length": "many"}, {"content_length": "3"},
    ):  # fmt: skip
        assert NOT_BELIEVED == await post(receiver, **changed), changed
    long = BODY + " " * BODY_BYTES_MAX
    assert NOT_BELIEVED == await post(receiver, long)
    assert [] == receiver.came
    assert FAILED == await post(receiver)


async def test_nothing_is_believed_before_there_is_a_secret(receiver: Receiver) -> None:
    """Nor does it fail."""
    receiver.secret = None
    assert NOT_BELIEVED == await post(receiver)
    assert [] == receiver.came


async def test_it_listens_where_the_system_is_and_leaves_nothing() -> None:
    """Over IPv6, too; when the block is left its port is closed."""
    async with receiving("::1") as one:
        one.secret = SECRET
        assert one.url.startswith("http://[::1]:")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("::1", int(one.url.rpartition(":")[2].partition("/")[0]))
