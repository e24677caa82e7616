"""The command `watch`, with an API that streams as it is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import jwt
import pytest

from operations.access.errors import Trouble, WrongRequest
from operations.cli.failures import exit_status
from tests.operations.cli.support import Answering
from tests.support.planned_api import CUT, UNTIL_LEFT, PlannedApi, planned_api
from tests.support.project import ROOT
from tests.support.shown_order import ORDER
from tests.support.signals import heed_ctrl_c

ID = ORDER["order_id"]
AT = "2026-03-01T12:00:00Z"
PROBLEM = "application/problem+json"
LIVE = b"retry: 100\n\nevent: snapshot-end\nid: t2\ndata: {}\n\n"
PRICE = {"asset_id": "BTC", "sequence": 7, "price": "50000", "as_of": AT, "trading": "HALTED", "reopens_at": None}


def _event(name: str, data: object, last_id: str = "t1") -> bytes:
    return f"event: {name}\nid: {last_id}\ndata: {json.dumps(data)}\n\n".encode()


def _version(version: int, status: str, last_id: str | None = None, **more: Any) -> bytes:
    order = ORDER | {"status": status, "version": version} | more
    told = {name: order[name] for name in ("order_id", "version", "status", "reason_code")}
    told |= {"previous_status": None, "occurred_at": AT, "order": order}
    return _event("order", told, last_id or str(version))


def _refuses(server: PlannedApi) -> None:
    server.plan(403, {"title": "Not allowed", "detail": "that's all"}, **{"content-type": PROBLEM})


def test_orders_and_prices_are_told_as_they_change(api: Answering, server: PlannedApi) -> None:
    """A line each on stdout; on stderr how the stream is, and why it ended for good."""
    server.plan_stream(_version(1, "PENDING", "t1") + LIVE + _event("price", PRICE), CUT)
    filled = {"average_price": "48000", "filled_quantity": "0.1", "fee": "4.8"}
    gap = _event("gap", {"since": AT, "list": "/orders"})
    server.plan_stream(gap + _version(4, "COMPLETED", "t3", **filled) + LIVE)
    _refuses(server)
    result = api.typed("watch", "--user", "alice", "--prices", "BTC")
    assert isinstance(result.exception, Trouble)
    assert (1, "Not allowed: that's all") == (exit_status(result.exception), str(result.exception))
    what = f"2026-03-01 12:00:00 {ID} {ORDER['order_type']} {ORDER['quantity']} BTC"
    assert [
        f"{what} PENDING",
        "2026-03-01 12:00:00 BTC 50000 HALTED",
        f"{what} COMPLETED 0.1 BTC at 48000, fee 4.8",
    ] == result.stdout.splitlines()
    said = result.stderr.splitlines()
    assert ["live", "live"] == [line for line in said if line == "live"]
    assert [True, True] == [
        any(line.startswith(words) for line in said) for words in ("interrupted: ", "events may be")
    ]
    assert ["/events?prices=BTC"] * 3 == [asked.path for asked in server.asked]


@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_one_order_is_watched_to_its_end(api: Answering, server: PlannedApi, status: str, code: int) -> None:
    """Every version, from the first on; the exit status says whether it is completed."""
    missed = {"order_id": ID, "version": 1, "status": "PENDING", "previous_status": None, "occurred_at": AT}
    server.plan_stream(_event("version", missed, "1") + _version(2, status, reason_code="UNFILLED"), UNTIL_LEFT)
    result = api.typed("watch", ID)
    assert code == result.exit_code
    first, last = result.stdout.splitlines()
    assert f"2026-03-01 12:00:00 {ID} version 1 PENDING" == first
    assert f"{status} UNFILLED" in last
    [asked] = server.asked
    assert (f"/orders/{ID}/events", "0") == (asked.path, asked.headers["last-event-id"])


def test_programs_get_a_line_of_json_for_each_event(api: Answering, server: PlannedApi) -> None:
    """With the data of the API, and what it tells of; heartbeats and what is about the stream are none."""
    beat = _event("heartbeat", {"at": AT, "complete_until": None})
    account = _event("account", {"assets": ["USD"]})
    server.plan_stream(_version(1, "PENDING", "t1") + LIVE + beat + account + _event("price", PRICE))
    _refuses(server)
    result = api.typed("watch", "--all", "--user", "ops", "--json")
    order, changed, price = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"event": "price", "price": PRICE} == price
    assert {"event": "account", "assets": ["USD"]} == changed
    assert ("order", ID, ORDER["user_id"]) == (order["event"], order["order_id"], order["order"]["user_id"])
    token = server.asked[0].headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, "x" * 32, algorithms=["HS256"])
    assert ("ops", "orders:operate", "/events?all=true") == (claims["sub"], claims["scope"], server.asked[0].path)


@pytest.mark.parametrize("words", [("--prices", "BTC"), ("--all",)])
def test_an_order_is_watched_alone(api: Answering, words: tuple[str, ...]) -> None:
    """Anything else is wrong usage, and nothing is asked."""
    result = api.typed("watch", ID, *words)
    assert isinstance(result.exception, WrongRequest)
    assert [] == api.calls


async def test_it_ends_with_ctrl_c() -> None:
    """At once and in peace, and the connection is closed."""
    with planned_api() as server:
        server.plan_stream(_version(1, "PENDING", "t1") + LIVE, UNTIL_LEFT)
        environment = os.environ | {"ORDER_API_URL": server.address, "JWT_SECRET": "x" * 32, "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "operations", "watch"),
            stdout=-1,
            stderr=-1,
            env=environment,
            cwd=ROOT,
            preexec_fn=heed_ctrl_c,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert ID.encode() in await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
        assert (0, True) == (process.returncode, said.endswith(b"stopped\n")), said
        assert await asyncio.to_thread(server.closed.wait, 10)
