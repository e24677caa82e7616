"""Holds over REST: what is accepted is never lost, what the events tell is shown, and only services may ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
import pytest
import pytest_asyncio

from contracts.codec import decode, outgoing
from contracts.decimals import Money, Quantity
from contracts.envelope import Outgoing, read_envelope
from contracts.holds import (
    HoldCaptured,
    HoldCaptureRefused,
    HoldCaptureRequested,
    HoldEvent,
    HoldExpired,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    HoldReleaseRefused,
    HoldReleaseRequested,
    HoldRequest,
    HoldRequested,
)
from contracts.topics import HOLDS_EVENTS
from order_api.settings import ApiSettings
from saga_kit.messaging.publisher import Publisher
from tests.order_api.support import TRADER, Api, Orchestrator, running, until

SERVICE = "holds:read holds:write"
NOW = datetime.now(UTC)
UNTIL = NOW + timedelta(days=1)  # this is read long before the last test runs
BODY: dict[str, Any] = {"user_id": "alice", "asset_id": "USD", "amount": "250.0", "expires_at": UNTIL.isoformat()}


class Ledger:
    """Stands in for the balance service: it answers with the events that a test chooses."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def tells(self, *events: HoldEvent) -> None:
        """Publish events."""
        messages = [outgoing(event, message_id="test", source="/test", time=NOW) for event in events]
        assert await self._publisher.publish(messages)

    async def sends(self, value: bytes) -> None:
        """Publish what is no event."""
        assert await self._publisher.publish([Outgoing(HOLDS_EVENTS.name, "alice", "x", value, [])])


@pytest_asyncio.fixture
async def ledger(settings: ApiSettings) -> AsyncIterator[Ledger]:
    """Give a ledger on the topics of the API."""
    publisher = Publisher(settings, client_id="test-ledger")
    yield Ledger(publisher)
    await publisher.stop()


async def ask(api: Api, body: Any = None, *, key: str | None = None, **more: Any) -> httpx2.Response:
    """POST a hold (`BODY` with the fields given in `body`)."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await call(api, "POST", "/holds", json={**BODY, **(body or {})}, headers=headers, **more)


async def call(api: Api, method: str, path: str, *, user: str = "cashier", **more: Any) -> httpx2.Response:
    """Send a request as a service."""
    return await api.call(method, path, user=user, scope=more.pop("scope", SERVICE), **more)


async def placed(api: Api, ledger: Ledger) -> str:
    """Have a hold placed; return its address once the API knows it."""
    await until(lambda: api.metric("hold_events_followed"))
    address = str((await ask(api)).headers["location"])
    await ledger.tells(HoldPlaced(*terms(address), UNTIL))
    await shows(api, address, status="HELD")
    return address


async def capture(api: Api, address: str, amount: str = "240", to: str = "@external", **more: Any) -> httpx2.Response:
    """PUT a capture."""
    return await call(api, "PUT", f"{address}/capture", json={"amount": amount, "to": to}, **more)


def terms(address: str) -> tuple[UUID, str, str, Quantity]:
    """Return the terms of a hold by its address."""
    return UUID(address.rpartition("/")[2]), "alice", "USD", Quantity("250")


def requests(api: Api, address: str) -> list[HoldRequest]:
    """Return what was published for a hold."""
    found = [decode(read_envelope(one.headers).type, one.value) for one in api.wire.asked]
    return [one for one in found if isinstance(one, HoldRequest) and one.hold_id == terms(address)[0]]


def _asks_release(api: Api, address: str) -> bool:
    return HoldReleaseRequested in map(type, requests(api, address))


async def shows(api: Api, address: str, **expected: Any) -> dict[str, Any]:
    """Wait until a hold has these values; return it."""

    async def look() -> Any:
        hold = (await call(api, "GET", address)).json()
        return hold if {name: hold[name] for name in expected} == expected else None

    found: dict[str, Any] = await until(look)
    return found


async def test_a_withdrawal(api: Api, ledger: Ledger) -> None:
    """Asked for, held, captured: each step is on the wire as it was asked for, and shown when its event has come."""
    await until(lambda: api.metric("hold_events_followed"))
    answer = await ask(api)
    address = answer.headers["location"]
    hold_id = terms(address)[0]
    assert (202, "PENDING", f"/holds/{hold_id}") == (answer.status_code, answer.json()["status"], address)
    assert [HoldRequested(*terms(address), UNTIL)] == requests(api, address)
    assert ["alice"] == [one.key for one in api.wire.asked]
    await ledger.tells(HoldPlaced(*terms(address), UNTIL))
    held = await shows(api, address, status="HELD")

    asked = await capture(api, address)
    assert (202, "HELD", True) == (asked.status_code, asked.json()["status"], asked.json()["capture_requested"])
    asked_at = datetime.fromisoformat(held["created_at"])
    wanted = HoldCaptureRequested(*terms(address), Quantity("240"), "@external", asked_at)
    assert wanted == requests(api, address)[-1]
    assert 202 == (await capture(api, address, "240.00")).status_code
    await ledger.tells(HoldCaptured(*terms(address), Money("240"), "@external", Money("10")))
    done = await shows(api, address, status="CAPTURED", capture_requested=False)
    assert ("240", "@external", "10", None) == tuple(
        done[name] for name in ("captured", "captured_to", "returned", "reason_code")
    )
    assert (200, done) == ((again := await capture(api, address)).status_code, again.json())
    for late in (await capture(api, address, "1"), await call(api, "PUT", f"{address}/release")):
        assert (409, "hold-not-held", "CAPTURED") == (
            late.status_code, late.json()["code"], late.json()["hold_status"],
        )  # fmt: skip


async def test_a_release_is_asked_for_until_it_is_told(api: Api, ledger: Ledger) -> None:
    """A release is a 202 while it is under way, and a 200 of what holds nothing any more."""
    address = await placed(api, ledger)
    asked = await call(api, "PUT", f"{address}/release")
    assert (202, True) == (asked.status_code, asked.json()["release_requested"])
    assert HoldReleaseRequested is type(requests(api, address)[-1])
    await ledger.tells(HoldReleased(*terms(address), Money("250")))
    done = await shows(api, address, status="RELEASED", release_requested=False, returned="250")
    assert (200, done) == ((again := await call(api, "PUT", f"{address}/release")).status_code, again.json())
    assert 409 == (await capture(api, address)).status_code


@pytest.mark.parametrize("scope", [TRADER, f"{TRADER} orders:act-for-users orders:operate", "holds:read", ""])
async def test_a_trader_holds_nobodys_money(api: Api, scope: str) -> None:
    """No scope of orders lets anybody place, capture or release a hold, and reading holds does not either."""
    address = (await ask(api)).headers["location"]
    before = len(api.wire.asked)
    for answer in (
        await ask(api, {"user_id": "cashier"}, scope=scope),
        await capture(api, address, scope=scope),
        await call(api, "PUT", f"{address}/release", scope=scope),
    ):
        assert (403, "insufficient-scope") == (answer.status_code, answer.json()["code"])
        assert 'scope="holds:write"' in answer.headers["www-authenticate"]
    assert before == len(api.wire.asked)
    assert (200 if scope == "holds:read" else 403) == (await call(api, "GET", address, scope=scope)).status_code


async def test_a_service_sees_its_own_holds(api: Api) -> None:
    """Another service's hold does not exist, nor does one whose id is no UUID."""
    address = (await ask(api)).headers["location"]
    for path in (address, address.upper(), "/holds/x"):
        for answer in (
            await call(api, "GET", path, user="other" if path == address else "cashier"),
            await capture(api, path, user="other" if path == address else "cashier"),
        ):
            assert 404 == answer.status_code, path


async def test_a_key_means_one_hold(api: Api) -> None:
    """The same key is the same hold, also for twins; other terms are refused, and each service has keys of its own."""
    twins = await asyncio.gather(*(ask(api, key="k1") for _ in range(4)))
    assert [202] * 4 == [answer.status_code for answer in twins]
    assert 1 == len({answer.headers["location"] for answer in twins})
    assert 3 == sum(answer.headers.get("idempotency-replayed") == "true" for answer in twins)
    same = await ask(api, {"amount": "250"}, key="k1")
    assert twins[0].headers["location"] == same.headers["location"]
    assert twins[0].headers["location"] != (await ask(api, key="k1", user="other")).headers["location"]
    for other in ({"amount": "251"}, {"user_id": "bob"}, {"asset_id": "BTC"}):
        answer = await ask(api, other, key="k1")
        assert (422, "hold-key-reused") == (answer.status_code, answer.json()["code"])
        assert twins[0].json()["hold_id"] == answer.json()["hold_id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount": 250}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"user_id": "@fees"}, "user_id"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": (NOW - timedelta(minutes=1)).isoformat()}, "expires_at"),
        ({"expires_at": (NOW + timedelta(days=91)).isoformat()}, "expires_at"),
        ({"hold_id": "x"}, "hold_id"),
    ],
)
async def test_a_hold_that_breaks_a_rule(api: Api, body: dict[str, Any], field: str) -> None:
    """The field is named, and nothing exists."""
    answer = await ask(api, body)
    assert (422, [field]) == (answer.status_code, [one["field"] for one in answer.json()["errors"]])
    assert [] == api.wire.asked


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount": "250.01", "to": "@fees"}, "amount"),
        ({"amount": "0", "to": "@fees"}, "amount"),
        ({"amount": "1", "to": "bob"}, "to"),
        ({"amount": "1"}, "to"),
    ],
)
async def test_a_capture_that_breaks_a_rule(api: Api, body: dict[str, str], field: str) -> None:
    """More than is held, nothing, and an account that is no account of the house are refused at once."""
    address = (await ask(api)).headers["location"]
    answer = await call(api, "PUT", f"{address}/capture", json=body)
    assert (422, [field]) == (answer.status_code, [one["field"] for one in answer.json()["errors"]])


async def test_one_capture_at_a_time(api: Api, ledger: Ledger) -> None:
    """Another capture waits for the answer of the first; when that is refused, it may be asked for."""
    address = await placed(api, ledger)
    await capture(api, address, "240", "@market")
    other = await capture(api, address, "240", "@external")
    assert (409, "hold-capture-differs") == (other.status_code, other.json()["code"])
    refusal = HoldRefusal.DESTINATION_NOT_ALLOWED
    await ledger.tells(
        HoldCaptureRefused(*terms(address), Quantity("1"), "@market", refusal, "of another capture"),
        HoldCaptureRefused(*terms(address), Quantity("240"), "@market", refusal, "no such account"),
    )
    told = await shows(api, address, capture_requested=False, reason_code=refusal)
    assert ("HELD", "no such account") == (told["status"], told["reason"])
    again = await capture(api, address, "240", "@external")
    assert (202, None) == (again.status_code, again.json()["reason_code"])


async def test_the_id_of_a_message_is_its_bytes(api: Api, ledger: Ledger) -> None:
    """What is repeated is the same message, trace and all; whatever is asked after a refusal has another id."""
    address = await placed(api, ledger)
    for trace in ("1" * 32, "2" * 32):
        assert (
            202
            == (
                await capture(api, address, to="@market", headers={"traceparent": f"00-{trace}-{'1' * 16}-01"})
            ).status_code
        )
    first, same = api.wire.asked[-2:]
    assert first == same
    for to in ("@market", "@external"):
        why = (HoldRefusal.DESTINATION_NOT_ALLOWED, "no such account")
        await ledger.tells(HoldCaptureRefused(*terms(address), Quantity("240"), "@market", *why))
        await shows(api, address, capture_requested=False)
        await capture(api, address, to=to)
    assert 3 == len({one.id for one in (first, *api.wire.asked[-2:])})


@pytest.mark.parametrize("action", ["capture", "release"])
async def test_a_refusal_that_comes_before_the_answer(api: Api, ledger: Ledger, action: str) -> None:
    """What is still held was neither captured nor released, so the answer is that it was asked for."""
    address = await placed(api, ledger)
    before = len(api.wire.batches)
    api.wire.may_go_on.clear()
    asking = asyncio.create_task(
        capture(api, address) if action == "capture" else call(api, "PUT", f"{address}/release")
    )
    await until(lambda: len(api.wire.batches) > before)
    why = (HoldRefusal.HOLD_CONFLICT, "by a ledger of its own kind")
    await ledger.tells(
        HoldCaptureRefused(*terms(address), Quantity("240"), "@external", *why)
        if action == "capture"
        else HoldReleaseRefused(*terms(address), *why)
    )
    await shows(api, address, reason_code=why[0], capture_requested=False, release_requested=False)
    api.wire.may_go_on.set()
    answer = await asking
    assert (202, "HELD", why[0]) == (answer.status_code, answer.json()["status"], answer.json()["reason_code"])


async def test_a_refusal_is_shown(api: Api, ledger: Ledger) -> None:
    """A hold that is not placed says why; nothing can be captured, and releasing it is done already."""
    await until(lambda: api.metric("hold_events_followed"))
    address = (await ask(api)).headers["location"]
    await ledger.tells(HoldRefused(*terms(address), HoldRefusal.INSUFFICIENT_BALANCE, "5 available"))
    await shows(api, address, status="REFUSED", reason_code="INSUFFICIENT_BALANCE", reason="5 available")
    assert 409 == (await capture(api, address)).status_code
    assert 200 == (await call(api, "PUT", f"{address}/release")).status_code


async def test_events_of_others_and_garbage_change_nothing(api: Api, ledger: Ledger) -> None:
    """Other terms, a refusal of what is held, an event after the end, and what is no event are passed over."""
    address = await placed(api, ledger)
    hold_id, user_id, asset_id, amount = terms(address)
    await ledger.sends(b"\xff{")
    await ledger.tells(
        HoldExpired(hold_id, "bob", asset_id, amount, Money("250")),
        HoldReleased(hold_id, user_id, asset_id, Quantity("1"), Money("1")),
        HoldRefused(*terms(address), HoldRefusal.HOLD_CONFLICT, "other terms"),
        HoldExpired(*terms(address), Money("250")),
        HoldPlaced(*terms(address), UNTIL),
        HoldReleased(*terms(address), Money("250")),
    )
    await shows(api, address, status="EXPIRED", returned="250", reason_code=None)
    other = await placed(api, ledger)
    await shows(api, address, status="EXPIRED")
    assert other != address


async def test_what_is_accepted_is_published_in_the_end(settings: ApiSettings, ledger: Ledger) -> None:
    """The broker takes nothing: the answer is a 202 all the same, and the sweeper publishes until an event answers."""
    async with running(settings, grace_s=0.1) as api:
        await until(lambda: api.metric("hold_events_followed"))
        api.wire.works = False
        address = (await ask(api)).headers["location"]
        await capture(api, address)
        api.wire.works = True
        before = len(requests(api, address))
        await until(lambda: {HoldRequested, HoldCaptureRequested} <= {*map(type, requests(api, address)[before:])})
        assert 1 == len({one for one in requests(api, address) if isinstance(one, HoldRequested)})
        await ledger.tells(HoldPlaced(*terms(address), UNTIL))
        await ledger.tells(HoldCaptured(*terms(address), Money("240"), "@external", Money("10")))
        await shows(api, address, status="CAPTURED")
        assert await api.metric("hold_requests_published_again_total")


async def test_what_could_not_be_published_is_soon_tried_again(
    settings: ApiSettings, orchestrator: Orchestrator
) -> None:
    """After two seconds, not after as long as it has existed: nobody has it, so no queue becomes longer."""
    async with running(settings, grace_s=60.0) as api:
        address = (await ask(api)).headers["location"]
        api.wire.works = False
        await orchestrator.run(
            "UPDATE api.hold_requests SET created_at = created_at - interval '1 hour', next_publish_at = now()"
        )
        await until(lambda: len(requests(api, address)) == 2)
        api.wire.works = True
        await until(lambda: len(requests(api, address)) == 3)


async def test_an_end_that_nobody_heard_is_asked_for(
    settings: ApiSettings, ledger: Ledger, orchestrator: Orchestrator
) -> None:
    """A hold that shows HELD long after its time has its release asked for: the answer tells its end."""
    async with running(settings, grace_s=0.1) as api:
        address, other = await placed(api, ledger), await placed(api, ledger)
        await orchestrator.run("UPDATE api.holds SET expires_at = now() - interval '2 minutes'")
        for one in (address, other):
            await until(partial(_asks_release, api, one))
        [[transactions]] = await orchestrator.run(
            "SELECT count(DISTINCT created_at) FROM api.hold_requests WHERE action = 'release'"
        )
        assert 1 == transactions
        await ledger.tells(HoldExpired(*terms(address), Money("250")))
        await shows(api, address, status="EXPIRED")
        await ledger.tells(HoldReleaseRefused(*terms(other), HoldRefusal.CLOSED, "it is captured"))
        await shows(api, other, status="CAPTURED", captured=None)
        await ledger.tells(HoldCaptured(*terms(other), Money("1"), "@fees", Money("249")))
        await shows(api, other, status="CAPTURED", captured="1")
