"""Whatever a receiver does, an attempt ends in time with the right answer, and says nothing that it should not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Final
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from contracts.webhooks import SECRET_UNREADABLE, EndpointKind, StoredSecret, secret_text, secrets_to
from projections.webhooks import posting
from projections.webhooks.deliveries import Delivery, Endpoint
from projections.webhooks.guard import Lookups
from projections.webhooks.posting import ANSWER_BYTES_MAX, SHOWN_MAX, Poster
from projections.webhooks.rules import Answer, Verdict
from projections.webhooks.signing import Signer
from tests.projections.webhooks.receivers import (
    SEAL,
    Answering,
    Received,
    Receiver,
    answer,
    answer_without_end,
    drip,
    flood,
    hang,
    raw,
    receiving,
)

LOOPBACK: Final = (ip_network("127.0.0.0/8"),)
ID: Final = UUID(int=1)
SECRET, OLD, OTHER = bytes(range(32)), bytes(range(1, 33)), bytes(32)
BODY: Final = '{"type":"order.completed","data":{"note":"Größe"}}'.encode()
EVENT: Final = "00000000-0000-0000-0000-000000000001:v4"
NOW: Final = datetime.now(UTC)
DELIVERY: Final = Delivery(ID, EVENT, BODY, 0, NOW, NOW)
PATIENT_S: Final = 15.0
"""Who answers at all answers within this time, also on a busy machine that stands still for a moment."""


def endpoint(url: str, *secrets: StoredSecret, endpoint_id: UUID = ID) -> Endpoint:
    """Make an endpoint."""
    stored = secrets_to(list(secrets or (StoredSecret(SEAL.seal(SECRET)),)))
    return Endpoint(endpoint_id, "alice", EndpointKind.WEBHOOK, url, stored)


@asynccontextmanager
async def poster(
    attempt_s: float = PATIENT_S, proxy: str | None = None, *, local: bool = True
) -> AsyncIterator[Poster]:
    """Make a poster that may reach this machine."""
    look_up = Lookups()
    one = Poster(Signer(SEAL), look_up, networks=LOOPBACK if local else (), attempt_s=attempt_s, proxy=proxy)
    try:
        yield one
    finally:
        await one.close()
        look_up.close()


async def send_to(answering: Answering, attempt_s: float = PATIENT_S) -> tuple[Answer, Receiver]:
    """Send one webhook to a receiver that answers like this."""
    async with receiving(answering) as receiver, poster(attempt_s) as one:
        return await one.send(endpoint(receiver.url), DELIVERY), receiver


async def test_a_receiver_can_verify_what_it_got() -> None:
    """By the standard's own library, over the very bytes that are stored, and only with the right secret."""
    sent, receiver = await send_to(answer(body=b"thanks"))
    [got] = receiver.received
    assert (Verdict.DELIVERED, 200, "thanks") == (sent.verdict, sent.status, sent.text)
    assert (BODY, "application/json", EVENT) == (got.body, got.headers["content-type"], got.headers["webhook-id"])
    Webhook(secret_text(SECRET)).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(OTHER)).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(SECRET)).verify(got.body + b" ", got.headers)


async def test_while_a_secret_is_replaced_both_verify() -> None:
    """Until the old one's time is over; from then on it signs nothing."""
    new = StoredSecret(SEAL.seal(SECRET))
    async with receiving() as receiver, poster() as one:
        for ends in (NOW + timedelta(days=1), NOW - timedelta(seconds=1)):
            await one.send(endpoint(receiver.url, new, StoredSecret(SEAL.seal(OLD), ends)), DELIVERY)
    both, after = receiver.received
    Webhook(secret_text(SECRET)).verify(both.body, both.headers)
    Webhook(secret_text(OLD)).verify(both.body, both.headers)
    Webhook(secret_text(SECRET)).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(OLD)).verify(after.body, after.headers)


@pytest.mark.parametrize("stored", ["[]", "nonsense", '[{"sealed":"not sealed"}]'])
async def test_nothing_is_sent_without_a_signature(stored: str) -> None:
    """An endpoint whose secrets can't be read gets nothing, and the reason names what an operator must look at."""
    async with receiving() as receiver, poster() as one:
        sent = await one.send(Endpoint(ID, "alice", EndpointKind.WEBHOOK, receiver.url, stored), DELIVERY)
    assert ([], None, True) == (receiver.received, sent.status, sent.ours)
    assert SECRET_UNREADABLE == sent.error


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_redirects_are_not_followed(status: str) -> None:
    """They are failures: nobody may send a webhook on to where it must not go."""
    async with receiving() as target:
        sent, receiver = await send_to(answer(status, b"", f"location: {target.url}"))
    assert (1, 0) == (len(receiver.received), len(target.received))
    assert (Verdict.FAILED, int(status[:3])) == (sent.verdict, sent.status)


@pytest.mark.parametrize(
    ("answering", "status", "error"),
    [
        (hang, None, "no answer within 0.3 s"),
        (drip(b"HTTP/1.1 200 OK\r\nx: "), None, "no answer within 0.3 s"),
        (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), None, "no answer within 0.3 s"),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), None, "its answer is no HTTP"),
        (raw(b"\0" * 1000), None, "its answer is no HTTP"),
        (raw(b""), None, "its answer is no HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 200_000), None, "its answer is no HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbroken off"), 200, None),
        (drip(b"HTTP/1.1 200 OK\r\n\r\n"), 200, None),
        (answer("503 Busy", b"later"), 503, None),
    ],
    ids=["hangs", "drips", "drips 1xx", "ssh", "zeros", "closes", "long head", "breaks off", "drips body", "busy"],
)
async def test_bad_receivers_end_in_time(answering: Answering, status: int | None, error: str | None) -> None:
    """Within the limit there is an answer, and words that its user understands."""
    began = time.monotonic()
    sent, _ = await send_to(answering, attempt_s=0.3 if "within" in (error or "") else PATIENT_S)
    assert time.monotonic() - began < 10
    assert status == sent.status
    assert (sent.error is None) == (error is None)
    assert (error or "") in (sent.error or "")
    assert (status == 200) == (sent.verdict is Verdict.DELIVERED)


@pytest.mark.parametrize("proxied", [False, True])
async def test_of_an_answer_that_never_begins_little_is_read(*, proxied: bool) -> None:
    """Interim answers as fast as they can come would keep this process busy for 15 s, and hold up everybody else."""
    flooding = answer_without_end(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)
    async with receiving(flooding) as receiver:
        url = "https://receiver.example/hook" if proxied else receiver.url
        async with poster(attempt_s=15, proxy=f"http://127.0.0.1:{receiver.port}" if proxied else None) as one:
            sent = await one.send(endpoint(url), DELIVERY)
    assert (None, "its answer is no HTTP") == (sent.status, sent.error)


async def test_the_rest_of_an_answer_is_waited_for_a_moment_only() -> None:
    """A 2xx whose body never ends is a success after a second, not after 15."""
    began = time.monotonic()
    sent, _ = await send_to(drip(b"HTTP/1.1 200 OK\r\n\r\nhello "), attempt_s=15)
    assert time.monotonic() - began < 8
    assert Verdict.DELIVERED is sent.verdict
    assert (sent.text or "").startswith("hello x")


async def test_of_a_long_answer_little_is_read_and_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 MB at most what is in the buffers leaves the receiver, and 200 printable characters are kept."""
    monkeypatch.setattr(posting, "BODY_S", PATIENT_S)
    sent, _ = await send_to(flood)
    assert (Verdict.DELIVERED, "y" * SHOWN_MAX) == (sent.verdict, sent.text)
    sent, _ = await send_to(answer(body="ä\0\x1b[31m\n\u202eok".encode() + b"\xff" * ANSWER_BYTES_MAX))
    assert (sent.text or "").startswith("ä[31mok")
    assert (sent.text or "").isprintable()


async def test_retry_after_is_heard() -> None:
    """As seconds."""
    sent, _ = await send_to(answer("429 Too Many Requests", b"", "Retry-After: 90"))
    assert (Verdict.THROTTLED, 90.0) == (sent.verdict, sent.retry_after_s)


async def test_a_connection_is_used_again_but_not_after_a_bad_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next webhook to the same host costs no new connection; what broke off is closed."""
    monkeypatch.setattr(posting, "KEPT_OPEN_S", 60.0)
    async with receiving() as receiver, poster() as one:
        for _ in range(5):
            await one.send(endpoint(receiver.url), DELIVERY)
        assert (5, 1) == (len(receiver.received), receiver.connections)
        receiver.answering = flood
        await one.send(endpoint(receiver.url), DELIVERY)
        receiver.answering = answer()
        await one.send(endpoint(receiver.url), DELIVERY)
        assert (7, 2) == (len(receiver.received), receiver.connections)


async def test_of_a_connection_that_is_used_again_every_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is bounded for each answer, not for the connection."""
    monkeypatch.setattr(posting, "KEPT_OPEN_S", 60.0)
    async with receiving(answer(body=b"z" * (ANSWER_BYTES_MAX - 1))) as receiver, poster() as one:
        for _ in range(20):
            assert Verdict.DELIVERED is (await one.send(endpoint(receiver.url), DELIVERY)).verdict
        assert 1 == receiver.connections


async def test_what_is_not_used_is_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of a host that is not told anything for a moment do not pile up; one in use stays."""
    monkeypatch.setattr(posting, "KEPT_OPEN_S", 0.05)
    go_on = asyncio.Event()

    async def slowly(got: Received, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await answer()(got, writer)

    async with receiving() as quick, receiving(slowly) as slow, poster(60.0) as one:
        hanging = asyncio.create_task(one.send(endpoint(slow.url, endpoint_id=UUID(int=2)), DELIVERY))
        await slow.wait_for(1)
        await one.send(endpoint(quick.url), DELIVERY)
        kept = one._local._kept if one._local else {}  # noqa: SLF001 - there is no other sign of it
        async with asyncio.timeout(30):
            while len(kept) > 1:
                await asyncio.sleep(0.01)
        assert [UUID(int=2)] == list(kept)
        assert (await one.send(endpoint(quick.url), DELIVERY)).status == 200
        go_on.set()
        assert (await hanging).status == 200


@pytest.mark.parametrize("turns", range(4))
async def test_what_is_just_being_closed_is_closed_at_the_end(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Of an endpoint with three connections, none stays open, after however many turns of the loop all is closed."""
    monkeypatch.setattr(posting, "KEPT_OPEN_S", 0.05)
    go_on = asyncio.Event()

    async def slowly(got: Received, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await answer()(got, writer)

    async with receiving(slowly) as receiver, poster() as one:
        sending = [asyncio.create_task(one.send(endpoint(receiver.url), DELIVERY)) for _ in range(3)]
        await receiver.wait_for(3)
        kept = one._local._kept if one._local else {}  # noqa: SLF001 - there is no other sign of it
        connections = kept[ID].pool.connections
        go_on.set()
        await asyncio.gather(*sending)
        while kept:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await one.close()
    assert [True] * 3 == [connection.is_closed() for connection in connections]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:{port}/", "must begin with https://"),
        ("https://127.0.0.1:{port}/", "must use the port"),
        ("https://127.0.0.1/", "private address"),
        ("https://[::1]/", "private address"),
        ("https://2130706433/", "usual form"),
        ("https://user@example.com/", "no user and no password"),
        ("https://localhost/", "host of the internet"),
        ("https://localtest.invalid/", "no address"),
        ("nonsense", "must begin with https://"),
    ],
)
async def test_without_allowed_networks_nothing_private_is_tried(url: str, why: str) -> None:
    """Neither connection nor request: the reason is said, and no address."""
    async with receiving() as receiver, poster(local=False) as one:
        sent = await one.send(endpoint(url.replace("{port}", str(receiver.port))), DELIVERY)
    assert (None, 0) == (sent.status, receiver.connections)
    assert why in (sent.error or "")


async def test_a_name_that_leads_to_this_machine_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL looks harmless; its address is judged when it is dialled."""

    async def rebind(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    async with receiving() as receiver:
        one = Poster(Signer(SEAL), rebind, attempt_s=PATIENT_S)
        sent = await one.send(endpoint("https://innocent.example/"), DELIVERY)
        await one.close()
    assert 0 == receiver.connections
    assert "its host has an address that webhooks may not reach" == sent.error


@pytest.mark.parametrize("address", ["8.8.8.8", "10.1.2.3"])
async def test_what_only_a_local_network_may_take_goes_nowhere_else(address: str) -> None:
    """`http` to the internet is refused although a local network is allowed; nothing is dialled."""

    async def leads_there(_host: str, _port: int) -> list[str]:
        return [address]

    one = Poster(Signer(SEAL), leads_there, networks=LOOPBACK, attempt_s=PATIENT_S)
    sent = await one.send(endpoint("http://receiver.example/"), DELIVERY)
    await one.close()
    assert "its host has an address that webhooks may not reach" == sent.error


async def test_a_proxy_named_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would reach what it likes; only WEBHOOKS_PROXY counts."""
    async with receiving() as wrong, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{wrong.port}")
        async with poster() as one:
            await one.send(endpoint(receiver.url), DELIVERY)
    assert (1, 0) == (len(receiver.received), wrong.connections)


async def test_with_a_proxy_the_internet_is_reached_through_it_alone() -> None:
    """It gets the host's name, and judges where that leads; what it refuses is a failure."""
    async with receiving(answer("403 Forbidden")) as proxy, poster(proxy=f"http://127.0.0.1:{proxy.port}") as one:
        sent = await one.send(endpoint("https://receiver.example/hook"), DELIVERY)
    assert ["receiver.example:443"] == [got.target for got in proxy.received]
    assert (None, True) == (sent.status, "403" in (sent.error or ""))


async def test_an_attempt_that_is_cancelled_is_cancelled() -> None:
    """The end of the process is no answer."""
    async with receiving(hang) as receiver, poster(attempt_s=30) as one:
        sending = asyncio.create_task(one.send(endpoint(receiver.url), DELIVERY))
        await receiver.wait_for(1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
