"""Notifications by REST: one's own alone, no mail to a stranger but a code, and a log that says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import httpx2
import pytest
import pytest_asyncio
from pydantic import SecretStr

from contracts.webhooks import ENDPOINTS_MAX, secrets_from
from order_api.notifications.examples import PUSH_KEY
from order_api.notifications.service import plain_code
from order_api.notifications.store import CODES_MAX
from order_api.settings import ApiSettings
from saga_kit.runtime.sealing import Seal
from tests.order_api.support import Api, Orchestrator, running

MANAGE: Final = "webhooks:manage"
SERVICE: Final = "webhooks:manage orders:act-for-users"
KEY: Final = "Zm9yLXRoaXMtbWFjaGluZS1vbmx5LWNoYW5nZS1pdCE="
ADDRESS: Final = "alice@example.com"
HOURS: Final = {"begin": "22:00", "end": "07:00", "time_zone": "Europe/Zurich"}
EMAIL: Final[dict[str, Any]] = {"address": ADDRESS, "event_types": ["order.completed"], "quiet_hours": HOURS}
BROWSER: Final = {
    "endpoint": "https://push.example/one",
    "expirationTime": None,
    "keys": {"p256dh": "A" * 87, "auth": "B" * 22},
}
PREFERENCES: Final = "/notifications/preferences"


@pytest.fixture
def settings(settings: ApiSettings) -> ApiSettings:
    """Set up both channels."""
    return settings.model_copy(
        update={"webhooks_keys": SecretStr(KEY), "api_notify_email": True, "api_notify_push_key": PUSH_KEY}
    )


@pytest_asyncio.fixture
async def api(settings: ApiSettings) -> AsyncIterator[Api]:
    """Run an API that is set up for notifications."""
    async with running(settings) as one:
        yield one


async def put(api: Api, *, scope: str = MANAGE, user: str = "alice", **body: Any) -> httpx2.Response:
    """Set preferences."""
    return await api.call("PUT", PREFERENCES, scope=scope, user=user, json=body)


async def get(api: Api, path: str = PREFERENCES, *, scope: str = MANAGE, user: str = "alice") -> Any:
    """Read something that is there."""
    answer = await api.call("GET", path, scope=scope, user=user)
    assert 200 == answer.status_code, answer.text
    return answer.json()


async def code_of(orchestrator: Orchestrator, user: str = "alice") -> str:
    """Open the code that the mail of a user says."""
    [row] = await orchestrator.run("SELECT secrets FROM webhooks.endpoints WHERE user_id = $1 AND kind = 'email'", user)
    [secret] = secrets_from(row[0])
    return Seal(KEY).open(secret.sealed).decode()


async def confirm(api: Api, code: str, user: str = "alice") -> httpx2.Response:
    """Bring a code."""
    return await api.call("POST", "/notifications/confirm", scope=MANAGE, user=user, json={"code": code})


async def test_an_address_is_told_nothing_before_its_code_is_back(api: Api, orchestrator: Orchestrator) -> None:
    """The code is in the mail alone, it may be typed as people type, and it counts once."""
    answer = await put(api, email=EMAIL)
    assert 200 == answer.status_code, answer.text
    [channel] = answer.json()["channels"]
    assert ("email", ADDRESS, False, HOURS, None) == tuple(
        channel[name] for name in ("channel", "target", "confirmed", "quiet_hours", "notional_min")
    )
    assert 0 == (await api.call("POST", "/notifications/test", scope=MANAGE)).json()["channels"]
    [row] = await orchestrator.run("SELECT event_type, body FROM webhooks.deliveries")
    code = await code_of(orchestrator)
    assert "notification.confirm" == row[0]
    assert code.encode() not in row[1]
    assert code not in answer.text
    assert 422 == (await confirm(api, "AAAA-BBBB-CCCC-DDDD")).status_code
    assert 422 == (await confirm(api, code, user="bob")).status_code
    [channel] = (await confirm(api, code.lower().replace("-", " "))).json()["channels"]
    assert channel["confirmed"]
    assert 422 == (await confirm(api, code)).status_code
    assert 1 == (await api.call("POST", "/notifications/test", scope=MANAGE)).json()["channels"]
    assert 0 == (await api.call("POST", "/notifications/test", scope=MANAGE)).json()["channels"]


async def test_a_code_that_ran_out_counts_no_more(api: Api, orchestrator: Orchestrator) -> None:
    """Setting the same address again sends another, and not while one counts."""
    await put(api, email=EMAIL)
    await put(api, email=EMAIL)
    assert [(1,)] == [tuple(row) for row in await orchestrator.run("SELECT count(*) FROM webhooks.deliveries")]
    old = await code_of(orchestrator)
    await orchestrator.run(
        """UPDATE webhooks.endpoints SET secrets = regexp_replace(secrets, 'until":"....', 'until":"2020')"""
    )
    assert 422 == (await confirm(api, old)).status_code
    await put(api, email=EMAIL)
    assert old != (new := await code_of(orchestrator))
    assert 200 == (await confirm(api, new)).status_code


async def test_nothing_confirms_an_address_whose_key_is_gone(api: Api, orchestrator: Orchestrator) -> None:
    """No code can be read then, so none is right, and nothing that has no letters is. What was refused is counted."""
    await put(api, email=EMAIL)
    await orchestrator.run(
        """UPDATE webhooks.endpoints SET secrets = regexp_replace(secrets, 'sealed":"[^"]+', 'sealed":"lost')"""
    )
    for code in ("-", "....", "A"):
        assert 422 == (await confirm(api, code)).status_code
    assert not (await get(api))["channels"][0]["confirmed"]
    assert 3 == await api.metric('notification_requests_total{action="confirm",outcome="refused"}')
    assert 1 == await api.metric('notification_requests_total{action="change",outcome="done"}')


async def test_nobody_has_others_flooded_with_codes(api: Api, orchestrator: Orchestrator) -> None:
    """Three a day for an address, whoever asks and however it is written; the refused request changed nothing."""
    for number in range(CODES_MAX):
        assert 200 == (await put(api, user=f"user{number}", email={"address": ADDRESS.upper()})).status_code
    refused = await put(api, user="mallory", email={"address": ADDRESS})
    assert (429, "rate-limited") == (refused.status_code, refused.json()["code"])
    assert "86400" == refused.headers["retry-after"]
    assert [] == (await get(api, user="mallory"))["channels"]
    assert 3 == (await orchestrator.run("SELECT count(*) FROM webhooks.deliveries"))[0][0]


async def test_one_mailbox_has_many_addresses_and_gets_three_codes(api: Api) -> None:
    """What is behind a plus leads to the same mailbox with most providers, and costs nothing to make up."""
    answers = [
        (await put(api, user=f"user{n}", email={"address": f"alice+{n}@example.com"})).status_code for n in range(4)
    ]
    assert [200, 200, 200, 429] == answers
    assert 200 == (await put(api, user="bob", email={"address": "bob+alice@example.com"})).status_code


async def test_a_user_asks_for_so_many_codes_a_day(api: Api) -> None:
    """However many addresses it names: they are strangers', most likely."""
    answers = [(await put(api, email={"address": f"stranger{n}@example.com"})).status_code for n in range(11)]
    assert [200] * 10 + [429] == answers
    assert 200 == (await put(api, user="bob", email=EMAIL)).status_code


async def test_a_channel_is_switched_off_in_pages_that_hold_up_nobody(
    api: Api, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of its many deliveries is being marked, deliveries of others can be stored; then all of it goes."""
    monkeypatch.setattr("order_api.webhooks.store.DELETED_MAX", 2)
    await put(api, email=EMAIL)
    [[endpoint_id]] = await orchestrator.run("SELECT endpoint_id FROM webhooks.endpoints")
    await orchestrator.run(
        "INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body)"
        " SELECT $1, 'x:v' || n, 'order.completed', '' FROM generate_series(1, 5) AS n",
        endpoint_id,
    )
    async with orchestrator.holding("SELECT FROM webhooks.deliveries WHERE event_id = 'x:v3' FOR NO KEY UPDATE"):
        off = asyncio.create_task(put(api))
        await orchestrator.until_somebody_waits()
        await orchestrator.run("SELECT FROM webhooks.endpoints FOR KEY SHARE NOWAIT")
    assert [] == (await off).json()["channels"]
    assert [] == await orchestrator.run("SELECT FROM webhooks.deliveries")


async def test_preferences_are_set_as_a_whole(api: Api, orchestrator: Orchestrator) -> None:
    """What is left out is off; what stays keeps its id and its confirmation; webhooks take what holds for them."""
    hook = await api.call("POST", "/webhooks", scope=MANAGE, json={"url": "https://bot.example/orders"})
    assert 201 == hook.status_code
    await put(api, email=EMAIL, push={"subscriptions": [BROWSER, BROWSER]}, webhook={"notional_min": "10.5"})
    await confirm(api, await code_of(orchestrator))
    before = {one["channel"]: one for one in (await get(api))["channels"]}
    assert {"webhook", "email", "push"} == set(before)
    assert "10.5" == before["webhook"]["notional_min"]
    assert (BROWSER["endpoint"], True) == (before["push"]["target"], before["push"]["confirmed"])
    await orchestrator.run(
        "UPDATE webhooks.endpoints SET state = 'DISABLED', disabled_reason = 'gone', failures_in_row = 7"
        " WHERE kind = 'email'"
    )
    after = (await put(api, email={"address": ADDRESS, "notional_min": "1"})).json()["channels"]
    mine = next(one for one in after if one["channel"] == "email")
    assert ["webhook", "email"] == [one["channel"] for one in after]
    assert (before["email"]["endpoint_id"], True, "ACTIVE", None) == tuple(
        mine[name] for name in ("endpoint_id", "confirmed", "state", "quiet_hours")
    )
    assert after[0]["notional_min"] is None
    other = (await put(api, email={"address": "alice@other.example"})).json()["channels"][1]
    assert not other["confirmed"]
    version = (await orchestrator.run("SELECT version FROM webhooks.changes"))[0][0]
    assert ["webhook"] == [one["channel"] for one in (await put(api)).json()["channels"]]
    assert version < (await orchestrator.run("SELECT version FROM webhooks.changes"))[0][0]
    [trail] = await orchestrator.run("SELECT count(*) > 5 FROM webhooks.requests WHERE action = 'notify'")
    assert trail[0]


async def test_all_endpoints_of_a_user_are_counted_together(api: Api, orchestrator: Orchestrator) -> None:
    """Webhooks, addresses and browsers: what would be too many changes nothing."""
    await orchestrator.run(
        "INSERT INTO webhooks.endpoints (endpoint_id, user_id, kind, target, event_types, secrets)"
        " SELECT gen_random_uuid(), 'alice', 'webhook', 'https://x', '{}', '[]' FROM generate_series(1, $1)",
        ENDPOINTS_MAX - 1,
    )
    refused = await put(api, email=EMAIL, push={"subscriptions": [BROWSER]})
    assert (409, "too-many-webhooks") == (refused.status_code, refused.json()["code"])
    assert ENDPOINTS_MAX - 1 == len((await get(api))["channels"])
    assert 200 == (await put(api, email=EMAIL)).status_code


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"email": {"address": "a@b.de\r\nBcc: c@d.de"}}, "one e-mail address"),
        ({"email": {**EMAIL, "quiet_hours": {**HOURS, "time_zone": "Atlantis/Capital"}}}, "time_zone"),
        ({"email": {**EMAIL, "quiet_hours": {**HOURS, "end": "22:00"}}}, "must not end when they begin"),
        ({"email": {**EMAIL, "quiet_hours": {**HOURS, "end": "24:00"}}}, "22:00"),
        ({"email": {**EMAIL, "notional_min": "-1"}}, "notional_min"),
        ({"email": {**EMAIL, "event_types": ["order.lost"]}}, "event_types"),
        ({"push": {"subscriptions": []}}, "subscriptions"),
        ({"push": {"subscriptions": [{**BROWSER, "endpoint": "https://10.0.0.1/"}]}}, "private address"),
        ({"push": {"subscriptions": [{**BROWSER, "keys": {"p256dh": "A", "auth": "B"}}]}}, "subscriptions"),
        ({"sms": {}}, "is not a field of preferences"),
    ],
)
async def test_what_breaks_a_rule_is_named(api: Api, body: dict[str, Any], says: str) -> None:
    """And nothing is stored."""
    answer = await put(api, **body)
    assert 422 == answer.status_code, answer.text
    assert says in answer.text
    assert [] == (await get(api))["channels"]


async def test_others_preferences_are_theirs(api: Api) -> None:
    """Only a service that acts for users sees and sets them; a token without the scope does nothing."""
    assert 200 == (await put(api, scope=SERVICE, user="service", user_id="alice", email=EMAIL)).status_code
    assert [ADDRESS] == [one["target"] for one in (await get(api))["channels"]]
    for method, path in (("GET", PREFERENCES), ("GET", "/notifications"), ("POST", "/notifications/test")):
        answer = await api.call(method, f"{path}?user_id=alice", scope=MANAGE, user="bob")
        assert (403, "other-user") == (answer.status_code, answer.json()["code"])
        assert 403 == (await api.call(method, path, scope="orders:read", user="alice")).status_code
    for method, path, body in (("PUT", PREFERENCES, {}), ("POST", "/notifications/confirm", {"code": "x"})):
        answer = await api.call(method, path, scope=MANAGE, user="bob", json={**body, "user_id": "alice"})
        assert (403, "other-user") == (answer.status_code, answer.json()["code"])


async def test_the_log_says_what_was_told_and_why_not(api: Api, orchestrator: Orchestrator) -> None:
    """Newest first, of all channels, page by page, without a gap."""
    answer = (await put(api, email=EMAIL, push={"subscriptions": [BROWSER]})).json()
    await orchestrator.run("DELETE FROM webhooks.deliveries")
    ids = [UUID(one["endpoint_id"]) for one in answer["channels"]]
    await orchestrator.run(
        """
        INSERT INTO webhooks.deliveries
            (endpoint_id, event_id, order_id, version, event_type, body, state, reason, created_at, ended_at)
        SELECT e, 'event' || n, gen_random_uuid(), 4, 'order.completed', '', 'SKIPPED', 'worth less than 5',
            timestamptz '2026-01-01 00:00Z' + n / 2 * interval '1 s', now()
        FROM unnest($1::uuid[]) AS e, generate_series(1, 5) AS n""",
        ids,
    )
    whole = (await get(api, "/notifications"))["notifications"]
    assert 10 == len(whole)
    assert ("SKIPPED", "worth less than 5", "order.completed") == tuple(
        whole[0][name] for name in ("status", "reason", "event_type")
    )
    assert whole == sorted(
        whole, key=lambda one: (one["created_at"], one["endpoint_id"], one["event_id"]), reverse=True
    )
    pages: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await get(api, f"/notifications?limit=3{cursor and f'&cursor={cursor}'}")
        pages += page["notifications"]
        cursor = page["next_cursor"]
    assert whole == pages
    assert [] == (await get(api, "/notifications", user="bob"))["notifications"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=W10", "page=2", "limit=1&limit=2"]
)
async def test_a_page_that_is_none_is_refused(api: Api, query: str) -> None:
    """With the parameter's name."""
    answer = await api.call("GET", f"/notifications?{query}", scope=MANAGE)
    assert 422 == answer.status_code
    assert query.partition("=")[0] in answer.text


async def test_what_is_not_set_up_is_said(settings: ApiSettings) -> None:
    """Without keys, a relay or a VAPID key nothing is promised."""
    bare = settings.model_copy(update={"api_notify_email": False, "api_notify_push_key": None})
    async with running(bare) as api:
        shown = await get(api)
        assert (False, None) == (shown["email_available"], shown["push_key"])
        answer = await put(api, email=EMAIL, push={"subscriptions": [BROWSER]})
        assert 422 == answer.status_code
        assert 2 == answer.text.count("not set up here")
    async with running(settings.model_copy(update={"webhooks_keys": None})) as api:
        for method, path, body in (("PUT", PREFERENCES, {}), ("POST", "/notifications/confirm", {"code": "x"})):
            assert 501 == (await api.call(method, path, scope=MANAGE, json=body)).status_code


def test_a_code_is_read_as_people_type_it() -> None:
    """Small letters and other gaps are the same."""
    assert "ABCD2345" == plain_code(" abcd 23.45 ")
