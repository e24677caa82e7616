"""The commands `webhooks`: a user's by an API that answers as it is told, everybody's from the database."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contracts.examples import ENDPOINT_ID
from contracts.webhooks import SECRET_UNREADABLE, StoredSecret, secrets_to
from operations.access.errors import Trouble, WrongRequest
from order_api.webhooks import examples
from saga_kit.runtime.sealing import Seal
from tests.operations.cli.support import Answering, Terminal

ID = ENDPOINT_ID
AS = ("--user", "alice")


def example(of: Any, name: str) -> Any:
    """Take an answer from the documentation."""
    return of()[name].value


def test_without_a_command_it_is_the_process(api: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ends with its own status; with a command nothing is started."""
    monkeypatch.setattr("projections.webhooks.service.run", lambda: 7)
    assert 7 == api.typed("webhooks").exit_code
    api.answer(example(examples.several, "one"))
    assert 0 == api.typed("webhooks", "list", *AS).exit_code


def test_a_webhook_is_made_and_its_secret_is_printed(api: Answering) -> None:
    """All that is said is sent, with the key; a repeated one tells that the secret was shown."""
    made = example(examples.created, "created")
    api.answer(made, made | {"secret": None})
    words = ("webhooks", "add", examples.BODY["url"], *AS, "--type", "order.completed", "--every-version", "--key", "k")
    assert made["secret"] in api.typed(*words).stdout
    assert "was shown before" in api.typed(*words).stdout
    sent = {"event_types": ["order.completed"], "every_version": True, "description": ""}
    assert [{"url": examples.BODY["url"], **sent}] * 2 == api.bodies
    assert ["k", "k"] == api.keys


def test_every_command_asks_the_call_of_its_name(api: Answering) -> None:
    """And shows what is answered; `--json` as it came."""
    webhook, failing, disabled = (example(examples.every_webhook, name) for name in ("active", "failing", "disabled"))
    listed, pinged = example(examples.deliveries, "delivered"), example(examples.pinged, "ping")
    more, all_told = example(examples.recoveries, "more"), example(examples.recoveries, "all")
    for answers, words, call, shown in (
        ([failing], ("show", ID), f"GET /webhooks/{ID}", "7 attempts in a row failed"),
        ([disabled], ("show", ID), f"GET /webhooks/{ID}", "DISABLED (its receiver answered 410 Gone)"),
        ([webhook], ("enable", ID), f"PATCH /webhooks/{ID}", "ACTIVE"),
        ([webhook], ("change", ID, "--all-types"), f"PATCH /webhooks/{ID}", "the newest version"),
        ([example(examples.rotated, "rotated")], ("rotate", ID), f"POST /webhooks/{ID}/secret", "signs, too, until"),
        ([pinged], ("ping", ID), f"POST /webhooks/{ID}/ping", f"{examples.PING_ID} is PENDING"),
        ([listed], ("deliveries", ID), f"GET /webhooks/{ID}/deliveries", "204"),
        ([pinged], ("redeliver", ID, "x:v1"), f"POST /webhooks/{ID}/deliveries/x%3Av1/redeliver", "PENDING"),
        ([more, all_told], ("recover", ID, more["next_since"]), f"POST /webhooks/{ID}/recover", "1017 deliveries"),
    ):
        before = len(api.calls)
        api.answer(*answers)
        result = api.typed("webhooks", *words, *AS)
        assert (0, True) == (result.exit_code, shown in result.stdout), (words, result.stdout, result.exception)
        assert call == api.calls[before].partition("?")[0]
        api.answer(*answers)
        assert isinstance(json.loads(api.typed("webhooks", *words, *AS, "--json").stdout), dict | list)


def test_nothing_is_deleted_before_it_is_confirmed(api: Answering) -> None:
    """Who says no has asked for nothing."""
    result = api.typed("webhooks", "remove", ID, *AS)
    assert (1, []) == (result.exit_code, api.calls)
    api.answer({})
    assert "deleted" in api.typed("webhooks", "remove", ID, *AS, "--yes").stdout
    assert [f"DELETE /webhooks/{ID}"] == api.calls


@pytest.mark.parametrize(
    "words", [("show", "x"), ("change", ID), ("change", ID, "--all-types", "--type", "order.failed")]
)
def test_what_makes_no_sense_is_not_asked(api: Answering, words: tuple[str, ...]) -> None:
    """It is wrong usage."""
    assert isinstance(api.typed("webhooks", *words, *AS).exception, WrongRequest | Trouble)
    assert [] == api.calls


async def _endpoint(db: Terminal, state: str = "ACTIVE", **columns: Any) -> Any:
    values: dict[str, Any] = {
        "endpoint_id": uuid4(), "user_id": "alice", "kind": "webhook", "target": "https://bot.example/",
        "secrets": "[]", "event_types": [], "state": state, **columns,
    }  # fmt: skip
    places = ", ".join(f"${n + 1}" for n in range(len(values)))
    async with db.engine.begin() as connection:
        sql = f"INSERT INTO webhooks.endpoints ({', '.join(values)}) VALUES ({places})"
        await connection.exec_driver_sql(sql, tuple(values.values()))
    return values["endpoint_id"]


async def test_operators_see_which_webhooks_fail_and_why(db: Terminal) -> None:
    """Those that fail now, and those that were given up; not one that works, or that its user has disabled."""
    assert (0, True) == ((found := await db.cli("webhooks", "failing")).code, "no webhook fails" in found.out)
    await _endpoint(db)
    await _endpoint(db, "DISABLED", disabled_reason="disabled by its user")
    failing = await _endpoint(db, failures_in_row=6)
    async with db.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE webhooks.endpoints SET disabled_at = now(), disabled_reason = 'it is gone' WHERE state = 'DISABLED'"
        )
        await connection.exec_driver_sql(
            "INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body, reason)"
            " VALUES ($1, 'x:v1', 'order.failed', '', 'the answer is 500')",
            (failing,),
        )
    found = await db.cli("webhooks", "failing")
    assert 1 == found.code
    assert "it is gone" in found.out
    assert "the answer is 500" in found.out
    rows = json.loads((await db.cli("webhooks", "failing", "--json")).out)
    assert {(str(failing), 1, 6)} == {
        (one["endpoint_id"], one["waiting"], one["failures_in_row"]) for one in rows if one["state"] == "ACTIVE"
    }
    assert 2 == len(rows)


async def test_inspect_tells_whom_an_order_was_told_to(db: Terminal) -> None:
    """Each version and endpoint: when, or why not."""
    order_id = await db.begin(1)
    endpoint_id = await _endpoint(db)
    async with db.engine.begin() as connection:
        for version, state, reason in ((1, "SUPERSEDED", "version 2 came"), (2, "DELIVERED", None)):
            await connection.exec_driver_sql(
                "INSERT INTO webhooks.deliveries"
                " (endpoint_id, event_id, order_id, version, event_type, body, state, reason, ended_at)"
                " VALUES ($1, $2::text, $3, $4, 'order.updated', '', $5, $6, now())",
                (endpoint_id, f"{order_id}:v{version}", order_id, version, state, reason),
            )
    shown = (await db.cli("inspect", str(order_id))).out
    assert "webhook v1 to bot.example: SUPERSEDED" in shown
    assert "version 2 came" in shown
    assert "webhook v2 to bot.example: DELIVERED" in shown


async def test_no_command_of_operators_shows_an_address_or_what_lets_somebody_in(db: Terminal) -> None:
    """Neither the path of a URL nor the name before an @, in words or in JSON: each endpoint by kind and host."""
    order_id = await db.begin(1)
    push = json.dumps({"endpoint": "https://push.example/send/secret", "keys": {"p256dh": "secret", "auth": "secret"}})
    for kind, target in (
        ("webhook", "https://hooks.example/T01/secret?key=secret"), ("email", "secret@mail.example"), ("push", push),
    ):  # fmt: skip
        endpoint_id = await _endpoint(db, kind=kind, target=target, failures_in_row=6)
        await db.execute(
            """
            INSERT INTO webhooks.deliveries (endpoint_id, event_id, order_id, version, event_type, body)
            VALUES ($1, 'x:v1', $2, 1, 'order.pending', 'secret')""",
            *(endpoint_id, order_id),
        )
    for words in (("webhooks", "failing"), ("inspect", str(order_id)), ("stuck", "--older-than", "0")):
        for form in ((), ("--json",)):
            output = await db.cli(*words, *form)
            assert "secret" not in output.out + output.err, (words, form)
            if words[0] != "stuck":
                assert all(one in output.out for one in ("hooks.example", "mail.example", "push.example")), output.out


DUE = """
    INSERT INTO webhooks.deliveries (endpoint_id, event_id, event_type, body, next_attempt_at, reason)
    VALUES ($1, 'x:v1', 'order.failed', '', now() - make_interval(secs => $2), $3)"""


async def test_stuck_knows_what_is_due_and_nobody_sends(db: Terminal) -> None:
    """Of an endpoint that works; what waits for one that fails, pauses, sleeps or is off waits as it should."""
    all_day = {"quiet_from": time(0), "quiet_until": time(23, 59, 59, 999_999), "time_zone": "UTC"}
    later = datetime.now(UTC) + timedelta(hours=1)
    for columns in (
        {"failures_in_row": 3}, {"paused_until": later}, all_day,
        {"state": "DISABLED", "disabled_reason": "disabled by its user"},
    ):  # fmt: skip
        await db.execute(DUE, await _endpoint(db, **columns), 3_600.0, "answered 500")
    young = await _endpoint(db)
    await db.execute(DUE, young, 30.0, None)
    quiet = await db.cli("stuck")
    assert (0, "") == (quiet.code, quiet.err)
    assert "endpoints of users: 1 failing: order-saga webhooks failing" in quiet.out
    await db.execute("UPDATE webhooks.deliveries SET next_attempt_at = now() - interval '90 s'")
    late = await db.cli("stuck")
    assert 1 == late.code
    assert "webhook deliveries to 1 endpoints are due and not sent, the oldest since " in late.err
    assert f"(endpoint {young}): is 'order-saga webhooks' running" in late.err


async def test_stuck_knows_endpoints_that_are_given_up_and_secrets_that_nobody_can_open(db: Terminal) -> None:
    """The former are their users' own to look at, the latter is not."""
    await _endpoint(db, "DISABLED", disabled_reason="gone", disabled_at=datetime.now(UTC), failures_in_row=4)
    output = await db.cli("stuck")
    assert (0, True) == (output.code, "endpoints of users: 1 given up since " in output.out)
    unreadable = await _endpoint(db, failures_in_row=1)
    await db.execute(DUE, unreadable, -60.0, SECRET_UNREADABLE)
    output = await db.cli("stuck")
    assert 1 == output.code
    assert f"the secrets of 1 endpoints, such as {unreadable}, can't be opened" in output.err
    assert "1 failing and 1 given up" in output.out


async def test_check_deploy_opens_every_secret(db: Terminal) -> None:
    """With the keys of the version that is to come: one that is missing is named with an endpoint; so are no keys."""
    old, new = (base64.urlsafe_b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    over = StoredSecret(Seal(old).seal(b"over"), datetime.now(UTC) - timedelta(days=1))
    await _endpoint(db, secrets=secrets_to([StoredSecret(Seal(new).seal(b"a")), over]))
    sealed = await _endpoint(db, secrets=secrets_to([StoredSecret(Seal(old).seal(b"b"))]))
    await _endpoint(db, kind="push", target="{}")

    async def reasons(keys: str) -> dict[str, list[str]]:
        output = await db.cli("check-deploy", "--json", WEBHOOKS_KEYS=keys)
        report = json.loads(output.out)
        assert (int(bool(report["problems"])), 2) == (output.code, report["looked_at"]["endpoints"])
        return {one["reason"]: one["examples"] for one in report["problems"]}

    assert {} == await reasons(f"{new},{old}")
    [(reason, examples)] = (await reasons(new)).items()
    assert ("a key that WEBHOOKS_KEYS does not have" in reason, [str(sealed)]) == (True, examples)
    assert 2 == len((await reasons(""))["WEBHOOKS_KEYS is not set here, so nothing could be signed for it"])
    assert ["WEBHOOKS_KEYS holds something that is no key, so nothing could be signed for it"] == list(
        await reasons("nonsense")
    )
    await db.execute("UPDATE webhooks.endpoints SET secrets = $2 WHERE endpoint_id = $1", sealed, "nonsense")
    [reason] = await reasons(new)
    assert reason.startswith("its secrets can't be read")
