"""The command line next to a running system: what people type and read, and the exit status for scripts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from uuid import UUID

import httpx2
import pytest

from local_stack.ports import free_ports
from tests.e2e.orders import CANCELLED, buy, sell
from tests.e2e.system import WITHIN_S, System, command, eventually
from tests.e2e.trader import Trader, cancel_of

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_an_order_from_submit_to_inspect(system: System, trader: Trader) -> None:
    """`submit` prints how the order ended, `accounts` the balances, `inspect` the history, as text and as JSON."""
    await system.endow(["cleo"], {"USD": "1000.00"})
    submitted = await system.cli("submit", "MARKET_BUY", "ACME", "3", "--user", "cleo", "--json")
    order = json.loads(submitted.out)
    assert (0, "COMPLETED", "3", "20", "0.06") == (
        submitted.code, order["status"], order["filled_quantity"], order["average_price"], order["fee"],
    )  # fmt: skip
    accounts = await system.cli("accounts", "cleo", "--json")
    assert [
        {"asset_id": "ACME", "available": "3", "held": "0"},
        {"asset_id": "USD", "available": "939.94", "held": "0"},
    ] == json.loads(accounts.out)

    story = json.loads((await system.cli("inspect", order["order_id"], "--json")).out)
    statuses = [entry["name"] for entry in story["history"] if entry["kind"] == "status"]
    assert ["PENDING", "CONFIRMED", "PROCESSING", "COMPLETED"] == statuses
    [asked] = story["requests"]
    assert ("submit", "accepted", "cleo", "127.0.0.1") == tuple(
        asked[name] for name in ("action", "outcome", "caller", "address")
    )
    assert ("SETTLED", "60.06") == (story["holds"][0]["state"], story["holds"][0]["captured"])
    told = await system.cli("inspect", order["order_id"])
    for words in (
        "MARKET_BUY ACME of cleo",
        "COMPLETED",
        "asks balance: reserve",
        "filled 3 at 20, fee 0.06",
        "@fees",
        "submit by cleo, from 127.0.0.1, token ",
    ):
        assert words in told.out
    trader.accepted[order["order_id"]] = buy("cleo", "ACME", "3")


async def test_a_refused_order_is_exit_1_and_says_why(system: System, trader: Trader) -> None:
    """The line holds the reason code and the reason in words."""
    refused = await system.cli("submit", "MARKET_BUY", "BTC", "0.01", "--user", "carol")
    assert 1 == refused.code
    assert "FAILED INSUFFICIENT_BALANCE (500.5 USD needed, 5 available)" in refused.out
    [order_id] = re.findall(r"order ([0-9a-f-]{36}):", refused.out)
    trader.accepted[order_id] = buy("carol", "BTC", "0.01")


async def test_an_order_that_does_not_move_says_what_it_waits_for(system: System, trader: Trader) -> None:
    """`stuck` names the participant, the question and the attempts; when no order is stuck it exits with 0."""
    [order_id] = await trader.produce(sell("alice", "SLOW", "5", ends="FAILED INSUFFICIENT_BALANCE"))
    wanted = trader.accepted[order_id]
    asked = "SELECT 1 FROM audit.history WHERE order_id = $1::uuid AND kind = 'asked' AND name = 'check' OFFSET 1"

    async def asked_twice() -> bool:
        return bool(await system.rows(asked, order_id))

    await eventually(asked_twice, "the check is asked again")
    stuck = await system.cli("stuck", "--older-than", "0", "--json")
    [found] = [each for each in json.loads(stuck.out) if each["order_id"] == order_id]
    assert 1 == stuck.code
    assert re.fullmatch(r"waiting for assets \(check\) since [0-9:]{8}, \d attempts, next at [0-9:]{8}", found["why"])
    await system.producer.send(cancel_of(wanted))
    assert {order_id: CANCELLED} == await trader.ended([order_id])
    fine = await system.cli("stuck", "--older-than", "3600")
    assert (0, "no order is stuck\n") == (fine.code, fine.out)


async def test_the_audit_says_what_is_wrong(system: System) -> None:
    """`audit` exits with 0; once a cent moves without a journal line, with 1, the invariant and the account."""
    good = await system.cli("audit", "--json")
    assert (0, []) == (good.code, json.loads(good.out))
    move = "UPDATE balances.accounts SET available = available + $1 WHERE user_id = 'bob' AND asset_id = 'USD'"
    await system.owner_rows(move, 1)
    bad = await system.cli("audit", "--json")
    await system.owner_rows(move, -1)
    [finding] = json.loads(bad.out)
    assert (1, "I1", True) == (bad.code, finding["invariant"], finding["what"].startswith("bob has "))


async def test_an_audit_that_stays_shows_metrics_until_it_is_asked_to_end(system: System) -> None:
    """A repeated audit serves metrics to Prometheus, and SIGTERM ends it at once with the last run's status."""
    words = ("audit", "--watch", "--every", "0.5", "--port", "0")
    known = {"ORDER_SAGA_STACK": str(system.stack.folder / "stack.json"), "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "operations.cli", *words),
        env=os.environ | known,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            where = re.search(rb"http://\S+/metrics", await process.stderr.readline())
            assert where is not None
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
        async with httpx2.AsyncClient(timeout=30) as client:
            metrics = (await client.get(where[0].decode())).text
        process.terminate()
        async with asyncio.timeout(30):
            assert 0 == await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert all(re.fullmatch(r"\d+ orders in [\d.]+ s: no findings\n", line) for line in lines), lines
    assert re.search(r'^audit_runs_total\{result="clean"\} [1-9]', metrics, re.MULTILINE)
    assert 'audit_findings{invariant="I1"} 0.0' in metrics


async def test_wrong_usage_is_told_in_plain_words(system: System) -> None:
    """Exit status 2 means that other arguments would help, also when the API says so; 1 is about the system's state."""
    expected = {
        ("no-such-command",): (2, "No such command 'no-such-command'"),
        ("submit", "MARKET_BUY"): (2, "Missing argument"),
        ("inspect", "no-uuid"): (2, "'no-uuid' is not an order id: it must be a UUID"),
        ("deposit", "alice", "USD", "1e3"): (2, "AMOUNT must be a decimal as a string"),
        ("dead-letters", "show", "17"): (2, "'17' is not a dead letter's id"),
        ("inspect", str(UUID(int=0))): (1, f"there is no order {UUID(int=0)}"),
        ("submit", "STOP_BUY", "BTC", "1"): (2, "order_type: must be one of MARKET_BUY, MARKET_SELL"),
    }
    outputs = dict(zip(expected, await asyncio.gather(*(system.cli(*words) for words in expected)), strict=True))
    assert [] == [
        (words, output)
        for words, output in outputs.items()
        if output.code != expected[words][0] or expected[words][1] not in output.err or output.out
    ]
    assert [] == [words for words, output in outputs.items() if "Traceback" in output.err]


async def test_a_wrong_setting_is_one_line_and_exit_2() -> None:
    """Each service names the wrong variable and the values that would be right, and does not start."""
    good = {"DATABASE_URL": "postgresql://a:b@127.0.0.1/c", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092"}
    wrong = good | {"JWT_SECRET": "x" * 32, "LOG_LEVEL": "LOUD"}
    services = ("api", "orchestrator", "balance", "assets")
    outputs = await asyncio.gather(*(command(service, env=wrong) for service in services))
    says = "LOG_LEVEL: input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'\n"
    assert dict.fromkeys(services, (2, "", says)) == dict(zip(services, outputs, strict=True))


async def test_a_database_that_is_away_is_one_line() -> None:
    """A command that can't connect to the database prints one line and exits with 1."""
    [port] = free_ports(1)
    output = await command("accounts", "alice", env={"DATABASE_URL": f"postgresql://a:b@127.0.0.1:{port}/c"})
    assert (1, "", 1) == (output.code, output.out, len(output.err.splitlines()))
    assert f"'127.0.0.1', {port}" in output.err


async def test_without_a_stack_a_command_says_what_to_do() -> None:
    """It exits with 2 and one line that names the missing variable and the command that starts a stack."""
    output = await command("accounts", "alice", env={"ORDER_SAGA_STACK": "/nowhere", "DATABASE_URL": ""})
    assert (2, "") == (output.code, output.out)
    assert "DATABASE_URL is not set; start one with 'order-saga up'" in output.err


async def test_a_token_that_only_an_issuer_can_sign_is_one_line() -> None:
    """Where an issuer holds the keys, no token can be signed here: one line says where to get one."""
    output = await command("token", "--user", "alice", env={"JWT_JWKS_URL": "https://issuer.example/jwks"})
    says = "order-saga: only the issuer whose keys are at JWT_JWKS_URL can sign tokens; get one from there\n"
    assert (2, "", says) == output


async def test_a_participant_is_paused_for_a_while(system: System, trader: Trader) -> None:
    """While a participant is paused, orders wait and say so; a cancel ends one at once; the rest complete later."""
    [user] = await system.endow(["patient"], {"USD": "1000", "ACME": "100"})
    paused = await system.cli("pause", "balance", "--reason", "new disks", "--by", "ops")
    assert 0 == paused.code
    bought, sold = buy(user, "ACME", "1"), sell(user, "ACME", "1")
    withdrawn = sell(user, "ACME", "2", ends=CANCELLED)
    await trader.produce(bought, sold, withdrawn)
    waiting = "SELECT 1 FROM audit.questions WHERE held_back AND order_id = ANY($1::uuid[]) LIMIT 1 OFFSET 4"
    ids = [one.order_id for one in (bought, sold, withdrawn)]

    async def all_wait() -> bool:
        return bool(await system.rows(waiting, ids))

    await eventually(all_wait, "all questions are held back: one of the buy, two of each sell")
    await system.producer.send(cancel_of(withdrawn))
    assert {withdrawn.order_id: CANCELLED} == await trader.ended([withdrawn.order_id])
    stuck = json.loads((await system.cli("stuck", "--older-than", "0", "--json")).out)
    [found] = [each for each in stuck if each["order_id"] == bought.order_id]
    assert "held back: balance is paused" == found["cause"]
    assert ": new disks (ops), not asked yet" in found["why"]
    asked = "SELECT count(*) AS number FROM audit.history WHERE kind = 'asked' AND order_id = ANY($1::uuid[])"
    assert 0 == (await system.rows(asked, ids))[0]["number"]

    ended = await system.cli("unpause", "balance")
    assert (0, "balance is asked again, 2 orders woken\n") == (ended.code, ended.out)
    assert dict.fromkeys(ids[:2], "COMPLETED") == await trader.ended(ids[:2])


async def test_orders_that_wait_are_asked_again_and_cancelled_in_bulk(system: System, trader: Trader) -> None:
    """`ask-again` lets all waiting orders ask at once, and `cancel` sends a cancel for each."""
    [user] = await system.endow(["bulk"], {"ACME": "100"})
    assert 0 == (await system.cli("pause", "assets", "--reason", "so that nothing times out here")).code
    ids = await trader.produce(*(sell(user, "ACME", "1", ends="CANCELLED OPERATOR") for _ in range(5)))
    waiting = "SELECT 1 FROM audit.questions WHERE step = 'check' AND order_id = ANY($1::uuid[]) LIMIT 1 OFFSET 4"

    async def all_wait() -> bool:
        return bool(await system.rows(waiting, ids))

    await eventually(all_wait, "all have begun")
    again = await system.cli("ask-again", "--user", user, "--waiting-for", "assets", "--yes", "--by", "ops")
    assert (0, sorted(f"{one}: asks again" for one in ids)) == (again.code, sorted(again.out.splitlines()))
    cancelled = await system.cli("cancel", "--user", user, "--yes", "--by", "ops", "--json")
    assert 0 == cancelled.code
    assert dict.fromkeys(ids, "CANCELLED OPERATOR") == await trader.ended(ids)
    assert 0 == (await system.cli("unpause", "assets")).code
    woken = "SELECT detail FROM audit.history WHERE kind = 'woken' AND order_id = ANY($1::uuid[])"
    assert [{"requested_by": "ops"}] * 5 == [json.loads(row["detail"]) for row in await system.rows(woken, ids)]


async def test_this_version_can_take_over_the_running_system(system: System) -> None:
    """`check-deploy` exits with 0 on the live system, whatever is in flight."""
    checked = await system.cli("check-deploy")
    assert (0, True) == (checked.code, "all of them can be handled" in checked.out)
