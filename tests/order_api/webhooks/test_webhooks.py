"""Webhooks by REST: one's own alone, secrets shown once and stored sealed, and nothing is told twice or too late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from pydantic import SecretStr

from contracts.webhooks import ENDPOINTS_MAX, StoredSecret, secret_text, secrets_from, secrets_to
from order_api.settings import ApiSettings
from order_api.webhooks import store
from saga_kit.runtime.sealing import Seal
from tests.order_api.support import Api, Orchestrator, running

MANAGE = "webhooks:manage"
SERVICE = "webhooks:manage orders:act-for-users"
URL = "https://bot.example/orders"
NOW = datetime.now(UTC)


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Set a key."""
    return settings.model_copy(update={"webhooks_keys": SecretStr(Fernet.generate_key().decode())})


@pytest.fixture
def seal(settings: ApiSettings) -> Seal:
    """Give what opens the stored secrets."""
    assert settings.webhooks_keys is not None
    return Seal(settings.webhooks_keys.get_secret_value())


@pytest_asyncio.fixture
async def api(settings: ApiSettings) -> AsyncIterator[Api]:
    """Run an API that has a key."""
    async with running(settings) as one:
        yield one


async def call(api: Api, method: str, path: str, *, scope: str = MANAGE, **more: Any) -> httpx2.Response:
    """Send a request of somebody who manages webhooks."""
    return await api.call(method, path, scope=scope, **more)


async def make(api: Api, *, key: str | None = None, scope: str = MANAGE, user: str = "alice", **body: Any) -> Any:
    """POST an endpoint."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await call(api, "POST", "/webhooks", json={"url": URL, **body}, headers=headers, scope=scope, user=user)


async def made(api: Api, **body: Any) -> str:
    """Make an endpoint; return its address."""
    answer = await make(api, **body)
    assert 201 == answer.status_code, answer.text
    return str(answer.headers["location"])


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Return an answer's status and the problem's code."""
    return answer.status_code, answer.json()["code"]


async def stored_secrets(orchestrator: Orchestrator, seal: Seal) -> list[str]:
    """Return the secrets of the one endpoint, opened."""
    [row] = await orchestrator.run("SELECT secrets FROM webhooks.endpoints")
    return [secret_text(seal.open(one.sealed)) for one in secrets_from(row[0])]


async def tell(orchestrator: Orchestrator, address: str, event_id: str, **columns: Any) -> None:
    """Add a delivery, as the process does."""
    values: dict[str, Any] = {
        "endpoint_id": UUID(address.rpartition("/")[2]), "event_id": event_id, "event_type": "order.completed",
        "body": b"{}", **columns,
    }  # fmt: skip
    places = ", ".join(f"${n + 1}" for n in range(len(values)))
    await orchestrator.run(f"INSERT INTO webhooks.deliveries ({', '.join(values)}) VALUES ({places})", *values.values())


ENDED: dict[str, Any] = {"state": "DELIVERED", "ended_at": NOW, "attempts": 1}


async def test_an_endpoint_is_made_and_its_secret_is_shown_once(
    api: Api, orchestrator: Orchestrator, seal: Seal
) -> None:
    """The answer has the secret; nothing else does, and the database has it sealed."""
    answer = await make(api, event_types=["order.failed", "order.completed", "order.failed"], description="my bot")
    body = answer.json()
    webhook = body["webhook"]
    assert (201, URL, ["order.completed", "order.failed"], "my bot", "ACTIVE", False, 0, None) == (
        answer.status_code,
        *(webhook[name] for name in ("url", "event_types", "description", "state", "every_version", "waiting")),
        body["previous_valid_until"],
    )
    assert "no-store" == answer.headers["cache-control"]
    assert [body["secret"]] == await stored_secrets(orchestrator, seal)
    [row] = await orchestrator.run(
        "SELECT e::text, (SELECT string_agg(r::text, ' ') FROM webhooks.requests r) FROM webhooks.endpoints e"
    )
    assert body["secret"] not in row[0] + row[1]
    read = (await call(api, "GET", answer.headers["location"])).json()
    assert webhook == read
    assert {"webhooks": [read]} == (await call(api, "GET", "/webhooks")).json()


async def test_a_key_makes_one_endpoint_however_often_it_comes(api: Api, orchestrator: Orchestrator) -> None:
    """The lost answer is given again, with the secret; for other wishes the key is refused."""
    answers = await asyncio.gather(*(make(api, key="k") for _ in range(5)))
    assert (
        1
        == len({one.json()["secret"] for one in answers})
        == len((await call(api, "GET", "/webhooks")).json()["webhooks"])
    )
    assert 4 == sum("idempotency-replayed" in one.headers for one in answers)
    assert (422, "webhook-key-reused") == code(await make(api, key="k", every_version=True))
    assert 201 == (await make(api, key="k", user="bob")).status_code
    address = answers[0].headers["location"]
    await call(api, "POST", f"{address}/secret")
    assert (await make(api, key="k")).json()["secret"] is None
    await orchestrator.run("UPDATE webhooks.endpoints SET created_at = now() - interval '31 days'")
    assert "idempotency-replayed" not in (await make(api, key="k", every_version=True)).headers
    assert [3, 1] == [await api.metric(f'webhook_requests_total{{action="{one}"}}') for one in ("create", "rotate")]


async def test_after_a_day_a_repeated_request_shows_no_secret(api: Api, orchestrator: Orchestrator) -> None:
    """Whoever finds a key later has no secret by it."""
    await make(api, key="k")
    await orchestrator.run("UPDATE webhooks.endpoints SET created_at = now() - interval '25 hours'")
    again = await make(api, key="k")
    assert (201, "true", None) == (again.status_code, again.headers["idempotency-replayed"], again.json()["secret"])


async def test_a_repeated_request_whose_key_is_gone_shows_no_secret(api: Api, orchestrator: Orchestrator) -> None:
    """It is answered all the same: an operator has replaced the keys meanwhile, and dropped the old one."""
    await make(api, key="k")
    sealed = Seal(Fernet.generate_key().decode()).seal(b"x" * 32)
    await orchestrator.run("UPDATE webhooks.endpoints SET secrets = $1", secrets_to([StoredSecret(sealed)]))
    again = await make(api, key="k")
    assert (201, "true", None) == (again.status_code, again.headers["idempotency-replayed"], again.json()["secret"])


async def test_a_user_has_so_many_endpoints_at_most_even_at_once(api: Api) -> None:
    """Those that come together are counted, too; another user's do not count."""
    answers = await asyncio.gather(*(make(api) for _ in range(ENDPOINTS_MAX + 3)))
    assert ENDPOINTS_MAX == sum(one.status_code == 201 for one in answers)
    assert {(409, "too-many-webhooks")} == {code(one) for one in answers if one.status_code != 201}
    assert 201 == (await make(api, user="bob")).status_code
    listed = (await call(api, "GET", "/webhooks")).json()["webhooks"]
    assert 204 == (await call(api, "DELETE", f"/webhooks/{listed[0]['endpoint_id']}")).status_code
    assert 201 == (await make(api)).status_code


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"url": "http://bot.example"}, "url", "https://"),
        ({"url": "https://10.0.0.1/x"}, "url", "private address"),
        ({"url": "https://[::ffff:127.0.0.1]/x"}, "url", "private address"),
        ({"url": "https://2130706433/"}, "url", "usual form"),
        ({"url": "https://bot.example:25/"}, "url", "443"),
        ({"url": "https://me:secret@bot.example/"}, "url", "no password"),
        ({"url": "https://bot.example/" + "x" * 2100}, "url", "2048"),
        ({"url": "https://localhost/"}, "url", "internet"),
        ({"url": 7}, "url", "https://"),
        ({"event_types": ["order.lost"]}, "event_types", "order.completed"),
        ({"description": "x" * 201}, "description", "200"),
        ({"every_version": "yes"}, "every_version", "true or false"),
        ({"secret": "whsec_mine"}, "secret", "is not a field"),
    ],
)
async def test_a_wrong_endpoint_is_refused_with_the_rule(api: Api, body: dict[str, Any], field: str, rule: str) -> None:
    """A URL that leads inside is refused before anything is stored, whichever way it is written; so is its change."""
    for answer in (await make(api, **body), await call(api, "PATCH", await made(api), json=body)):
        assert (422, "invalid-request") == code(answer)
        [error] = answer.json()["errors"]
        assert field == error["field"]
        assert rule in error["rule"]
    assert [URL] == [one["url"] for one in (await call(api, "GET", "/webhooks")).json()["webhooks"]]


CALLS = [
    ("GET", "", None), ("PATCH", "", {"state": "DISABLED"}), ("DELETE", "", None), ("POST", "/secret", None),
    ("POST", "/ping", None), ("GET", "/deliveries", None), ("POST", "/deliveries/x:v1/redeliver", None),
    ("POST", "/recover", {"since": NOW.isoformat()}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_another_users_endpoint_is_not_there(api: Api, method: str, path: str, body: Any) -> None:
    """It is as if it did not exist, but for a service that acts for users; and another scope is not enough."""
    address = await made(api)
    more: dict[str, Any] = {} if body is None else {"json": body}
    assert (404, "webhook-not-found") == code(await call(api, method, address + path, user="bob", **more))
    assert (404, "webhook-not-found") == code(await call(api, method, f"/webhooks/{uuid4()}{path}", **more))
    assert (404, "webhook-not-found") == code(await call(api, method, f"/webhooks/x{path}", **more))
    refused = await call(api, method, address + path, scope="orders:read orders:write orders:operate", **more)
    assert (403, "insufficient-scope") == code(refused)
    before = (await call(api, "GET", address)).json()
    assert "ACTIVE" == before["state"]
    served = await call(api, method, address + path, user="service", scope=SERVICE, **more)
    assert served.status_code < 300 or "delivery-not-found" == code(served)[1]


async def test_a_service_acts_for_users_and_nobody_else_does(api: Api) -> None:
    """It names the user in the body and in the query."""
    assert (403, "other-user") == code(await make(api, user_id="bob"))
    assert (403, "other-user") == code(await call(api, "GET", "/webhooks?user_id=bob"))
    answer = await make(api, user_id="bob", user="service", scope=SERVICE)
    assert "bob" == answer.json()["webhook"]["user_id"]
    listed = await call(api, "GET", "/webhooks?user_id=bob", user="service", scope=SERVICE)
    assert [answer.json()["webhook"]] == listed.json()["webhooks"]


async def test_a_secret_is_replaced_and_the_one_before_signs_for_a_day(
    api: Api, orchestrator: Orchestrator, seal: Seal
) -> None:
    """The new one comes first; no more than four are ever kept, and one whose time is over goes."""
    answer = await make(api)
    address, secrets = answer.headers["location"], [answer.json()["secret"]]
    for _ in range(4):
        rotated = (await call(api, "POST", f"{address}/secret")).json()
        secrets.insert(0, rotated["secret"])
        until = datetime.fromisoformat(rotated["previous_valid_until"])
        assert timedelta(hours=23, minutes=59) < until - datetime.now(UTC) <= timedelta(hours=24)
    assert secrets[:4] == await stored_secrets(orchestrator, seal)
    await orchestrator.run(
        "UPDATE webhooks.endpoints SET secrets = regexp_replace(secrets, '\"20[0-9]{2}-', '\"2020-', 'g')"
    )
    fresh = (await call(api, "POST", f"{address}/secret")).json()["secret"]
    assert [fresh, secrets[0]] == await stored_secrets(orchestrator, seal)


async def test_what_is_changed_is_changed_and_the_rest_stays(api: Api, orchestrator: Orchestrator) -> None:
    """Each change raises the revision, and the number by which the process learns of it."""
    address = await made(api, event_types=["order.failed"])
    [before] = await orchestrator.run("SELECT version FROM webhooks.changes")
    changed = (await call(api, "PATCH", address, json={"url": URL + "/2", "event_types": []})).json()
    assert (URL + "/2", [], "", False, 2) == (
        *(changed[name] for name in ("url", "event_types", "description", "every_version", "revision")),
    )
    assert changed == (await call(api, "PATCH", address, json={})).json()
    [after] = await orchestrator.run("SELECT version FROM webhooks.changes")
    assert before[0] + 1 == after[0]


async def test_an_endpoint_that_was_given_up_is_enabled_again(api: Api, orchestrator: Orchestrator) -> None:
    """Its failures are forgotten, and what waits is due at once; what its user disables says so."""
    address = await made(api)
    await orchestrator.run(
        "UPDATE webhooks.endpoints SET state = 'DISABLED', disabled_reason = 'it is gone', disabled_at = now(),"
        " failing_since = now(), failures_in_row = 9, paused_until = now() + interval '1 hour'"
    )
    await tell(orchestrator, address, "x:v1", next_attempt_at=NOW + timedelta(hours=9))
    assert (409, "webhook-disabled") == code(await call(api, "POST", f"{address}/ping"))
    assert "it is gone" == (await call(api, "POST", f"{address}/ping")).json()["detail"]
    enabled = (await call(api, "PATCH", address, json={"state": "ACTIVE"})).json()
    assert ("ACTIVE", None, None, 0, 1) == (
        *(enabled[name] for name in ("state", "disabled_reason", "failing_since", "failures_in_row", "waiting")),
    )
    [row] = await orchestrator.run(
        "SELECT paused_until, disabled_at, next_attempt_at <= now() FROM webhooks.endpoints, webhooks.deliveries"
    )
    assert (None, None, True) == tuple(row)
    disabled = (await call(api, "PATCH", address, json={"state": "DISABLED"})).json()
    assert ("DISABLED", "disabled by its user") == (disabled["state"], disabled["disabled_reason"])


async def test_an_endpoint_is_deleted_with_all_that_was_sent(
    api: Api, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, of which none is left out; the trail stays."""
    monkeypatch.setattr(store, "DELETED_MAX", 2)
    address, other = await made(api), await made(api)
    for number in range(5):
        await tell(orchestrator, address, f"x:v{number}")
    await tell(orchestrator, other, "x:v1")
    assert 204 == (await call(api, "DELETE", address)).status_code
    assert (404, "webhook-not-found") == code(await call(api, "DELETE", address))
    left = await orchestrator.run("SELECT endpoint_id FROM webhooks.deliveries")
    assert [UUID(other.rpartition("/")[2])] == [row[0] for row in left]
    trail = await orchestrator.run("SELECT action, caller, address FROM webhooks.requests ORDER BY request_id")
    assert [("create", "alice", "127.0.0.1")] * 2 + [("delete", "alice", "127.0.0.1")] == [tuple(row) for row in trail]


async def test_a_ping_is_to_be_sent_once_at_a_time(api: Api, orchestrator: Orchestrator) -> None:
    """Whoever asks again gets the one that waits; after it, there is another one."""
    address = await made(api)
    answers = await asyncio.gather(*(call(api, "POST", f"{address}/ping") for _ in range(4)))
    [event_id] = {one.json()["event_id"] for one in answers}
    assert {(202, "webhook.ping", "PENDING")} == {
        (one.status_code, one.json()["event_type"], one.json()["status"]) for one in answers
    }
    [row] = await orchestrator.run("SELECT body FROM webhooks.deliveries")
    assert "webhook.ping" == msgspec.json.decode(row[0])["type"]
    await orchestrator.run("UPDATE webhooks.deliveries SET state = 'DELIVERED', ended_at = now()")
    assert event_id != (await call(api, "POST", f"{address}/ping")).json()["event_id"]


async def test_deliveries_are_listed_with_why_they_failed(api: Api, orchestrator: Orchestrator) -> None:
    """Newest first, page by page, each once, however many share a time; with the newest attempts."""
    address = await made(api)
    for number in range(7):
        await tell(orchestrator, address, f"x:v{number}", created_at=NOW - timedelta(seconds=number // 3), **ENDED)
    await tell(
        orchestrator,
        address,
        "y:v1",
        created_at=NOW - timedelta(hours=1),
        state="FAILED",
        ended_at=NOW,
        attempts=25,
        reason="500",
    )
    await orchestrator.run(
        "INSERT INTO webhooks.attempts SELECT endpoint_id, 'y:v1', n, now(), 15, 500, 'the answer is 500', 'oh'"
        " FROM webhooks.endpoints, generate_series(1, 25) AS n"
    )
    found: list[Any] = []
    path = f"{address}/deliveries?limit=3"
    while path:
        page = (await call(api, "GET", path)).json()
        found += page["deliveries"]
        path = page["next_cursor"] and f"{address}/deliveries?limit=3&cursor={page['next_cursor']}"
    assert ["x:v2", "x:v1", "x:v0", "x:v5", "x:v4", "x:v3", "x:v6", "y:v1"] == [one["event_id"] for one in found]
    failed = (await call(api, "GET", f"{address}/deliveries?status=FAILED")).json()["deliveries"]
    assert found[-1:] == failed
    assert list(range(25, 5, -1)) == [one["number"] for one in failed[0]["last_attempts"]]
    assert (500, "the answer is 500", "oh", 15) == (
        *(failed[0]["last_attempts"][0][name] for name in ("status", "error", "answer", "duration_ms")),
    )


@pytest.mark.parametrize(
    "query", ["status=LOST", "limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%00", "a=1", "limit=1&limit=2"]
)
async def test_a_wrong_page_is_refused(api: Api, query: str) -> None:
    """With the rule of what is wrong."""
    assert (422, "invalid-request") == code(await call(api, "GET", f"{await made(api)}/deliveries?{query}"))


async def test_a_delivery_is_sent_again(api: Api, orchestrator: Orchestrator) -> None:
    """Whatever became of it; one that a process is sending stays that one's."""
    address = await made(api)
    await tell(orchestrator, address, "x:v1", **ENDED)
    lease = datetime.now(UTC) + timedelta(minutes=1)
    await tell(orchestrator, address, "x:v2", leased_until=lease, next_attempt_at=lease)
    assert (404, "delivery-not-found") == code(await call(api, "POST", f"{address}/deliveries/x:v9/redeliver"))
    assert (404, "delivery-not-found") == code(await call(api, "POST", f"{address}/deliveries/x.v1/redeliver"))
    again = (await call(api, "POST", f"{address}/deliveries/x:v1/redeliver")).json()
    assert ("PENDING", None, 1) == (again["status"], again["ended_at"], again["attempts"])
    await call(api, "POST", f"{address}/deliveries/x:v2/redeliver")
    [row] = await orchestrator.run("SELECT next_attempt_at FROM webhooks.deliveries WHERE event_id = 'x:v2'")
    assert lease == row[0]


async def _order(orchestrator: Orchestrator, **columns: Any) -> str:
    order_id = str(uuid4())
    await orchestrator.shows(order_id, phase="SETTLING", version=2, **columns)
    return order_id


async def recover(api: Api, address: str, since: datetime | None = None) -> Any:
    """Ask for a recovery."""
    at = since or datetime.now(UTC) - timedelta(hours=1)
    return await call(api, "POST", f"{address}/recover", json={"since": at.isoformat()})


async def test_what_was_missed_is_told_as_it_is_now(api: Api, orchestrator: Orchestrator) -> None:
    """Once: not what was delivered, is to be sent or was not wanted; not another user's; only what it wants."""
    address = await made(api)
    missed, failed, delivered, small = [await _order(orchestrator) for _ in range(4)]
    await _order(orchestrator, user_id="bob")
    await tell(orchestrator, address, f"{failed}:v2", state="FAILED", ended_at=NOW, attempts=10, reason="500")
    await tell(orchestrator, address, f"{delivered}:v2", **ENDED)
    await tell(orchestrator, address, f"{small}:v2", state="SKIPPED", ended_at=NOW, reason="worth less than 10")
    assert {"deliveries": 2, "has_more": False, "next_since": None} == (await recover(api, address)).json()
    assert 0 == (await recover(api, address)).json()["deliveries"]
    rows = await orchestrator.run("SELECT event_id, event_type, body FROM webhooks.deliveries WHERE state = 'PENDING'")
    assert {f"{missed}:v2", f"{failed}:v2"} == {row[0] for row in rows}
    body = next(msgspec.json.decode(row[2]) for row in rows if row[0] == f"{missed}:v2")
    assert ("order.processing", missed, 2) == (body["type"], body["data"]["order_id"], body["data"]["version"])
    picky = await made(api, event_types=["order.failed"])
    assert 0 == (await recover(api, picky)).json()["deliveries"]


async def test_an_endpoint_that_wants_every_version_gets_those_that_were_lost(
    api: Api, orchestrator: Orchestrator
) -> None:
    """Older versions that were given up or left out come again; not to one that wants the newest."""
    for every, expected in ((True, {"v1", "v2", "v3"}), (False, {"v3"})):
        address = await made(api, every_version=every)
        order_id = str(uuid4())
        await orchestrator.shows(order_id, phase="SETTLING", version=3)
        await tell(orchestrator, address, f"{order_id}:v1", state="FAILED", ended_at=NOW)
        await tell(orchestrator, address, f"{order_id}:v2", state="SUPERSEDED", ended_at=NOW)
        await recover(api, address)
        rows = await orchestrator.run(
            "SELECT event_id FROM webhooks.deliveries WHERE state = 'PENDING' AND event_id LIKE $1", f"{order_id}%"
        )
        assert expected == {row[0].rpartition(":")[2] for row in rows}


async def test_a_recovery_goes_on_where_it_was(
    api: Api, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, until all are told."""
    monkeypatch.setattr("order_api.webhooks.store.RECOVERED_MAX", 2)
    monkeypatch.setattr("order_api.webhooks.service.RECOVERED_MAX", 2)
    address = await made(api)
    for _ in range(5):
        await _order(orchestrator)
    pages, since = [], None
    while True:
        page = (await recover(api, address, since)).json()
        pages.append(page["deliveries"])
        if not page["has_more"]:
            break
        since = datetime.fromisoformat(page["next_since"])
    assert [2, 2, 1] == pages


@pytest.mark.parametrize("days", [-1, 8])
async def test_a_recovery_is_of_the_last_days(api: Api, days: int) -> None:
    """What is older is not kept, and what is to come is not there."""
    answer = await recover(api, await made(api), datetime.now(UTC) - timedelta(days=days))
    assert (422, "invalid-request") == code(answer)
    assert "7 days" in answer.json()["errors"][0]["rule"]


async def test_without_keys_no_secret_can_be_made(settings: ApiSettings) -> None:
    """And nothing is stored that nobody could sign for."""
    async with running(settings.model_copy(update={"webhooks_keys": None})) as api:
        assert (501, "webhooks-off") == code(await make(api))
        assert {"webhooks": []} == (await call(api, "GET", "/webhooks")).json()


async def test_where_networks_are_allowed_a_webhook_may_be_near(settings: ApiSettings) -> None:
    """For a local stack: by http, and at any port."""
    async with running(settings.model_copy(update={"webhooks_allow_networks": "127.0.0.0/8"})) as api:
        assert 201 == (await make(api, url="http://127.0.0.1:9000/")).status_code
