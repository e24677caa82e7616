"""The audit trail: who asked for what, when, from where, with which token; added to, and never changed."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.order_api.support import Api, Orchestrator
from tests.support.infrastructure import Database

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


async def _trail(orchestrator: Orchestrator, order_id: str) -> list[tuple[Any, ...]]:
    rows = await orchestrator.run(
        "SELECT action, outcome, caller, address FROM audit.requests WHERE order_id = $1::text::uuid"
        " ORDER BY request_id",
        order_id,
    )
    return [tuple(row) for row in rows]


async def test_every_request_that_could_change_an_order_is_kept(api: Api, orchestrator: Orchestrator) -> None:
    """Accepted, repeated and refused, by the user, a service and an operator: each leaves a line with the order."""
    order_id = (await api.submit(key="k")).json()["order_id"]
    await api.submit(key="k")
    await api.submit({"quantity": "0.02"}, key="k")
    await api.cancel(order_id)
    await api.cancel(order_id, user="ops", scope="orders:operate")
    await orchestrator.shows(order_id, cancel_requested=True)
    await api.cancel(order_id)
    await orchestrator.shows(order_id, phase="CANCELLED", version=2)
    await api.cancel(order_id)
    await orchestrator.shows(order_id, phase="SETTLING", version=2)
    await api.cancel(order_id)
    await orchestrator.shows(order_id, phase="COMPLETED", version=4)
    await api.cancel(order_id, user="backoffice", scope="orders:write orders:act-for-users")

    assert [
        ("submit", "accepted", "alice", "127.0.0.1"),
        ("submit", "replayed", "alice", "127.0.0.1"),
        ("submit", "idempotency-key-reused", "alice", "127.0.0.1"),
        ("cancel", "accepted", "alice", "127.0.0.1"),
        ("cancel", "accepted", "ops", "127.0.0.1"),
        ("cancel", "replayed", "alice", "127.0.0.1"),
        ("cancel", "replayed", "alice", "127.0.0.1"),
        ("cancel", "too-late-to-cancel", "alice", "127.0.0.1"),
        ("cancel", "order-not-cancelable", "backoffice", "127.0.0.1"),
    ] == await _trail(orchestrator, order_id)


async def test_who_submits_for_another_is_named(api: Api, orchestrator: Orchestrator) -> None:
    """The order is the user's; the trail says which service asked."""
    scope = "orders:write orders:act-for-users"
    order_id = (await api.submit({"user_id": "alice"}, user="backoffice", scope=scope)).json()["order_id"]

    assert [("submit", "accepted", "backoffice", "127.0.0.1")] == await _trail(orchestrator, order_id)


async def test_the_trail_names_the_token_and_the_trace(api: Api, orchestrator: Orchestrator) -> None:
    """A token by its `jti`, one without by a digest of it; the trace as the request had it."""
    for claims, token_id in (({"jti": "token-7"}, "token-7"), ({}, "sha256:")):
        answer = await api.submit(headers=TRACEPARENT, claims=claims)
        [row] = await orchestrator.run(
            "SELECT token_id, trace_id FROM audit.requests WHERE order_id = $1::text::uuid", answer.json()["order_id"]
        )
        assert row["token_id"].startswith(token_id)
        assert TRACE == row["trace_id"]


async def test_what_was_refused_before_it_met_an_order_is_not_in_the_trail(
    api: Api, orchestrator: Orchestrator
) -> None:
    """The trail is an order's: a bad body, another user's order and an unknown one leave nothing in it."""
    order_id = (await api.submit()).json()["order_id"]
    await api.submit({"quantity": "-1"})
    await api.cancel(order_id, user="bob")
    await api.cancel("00000000-0000-4000-8000-000000000001")

    assert 1 == len(await orchestrator.run("SELECT FROM api.requests"))


@pytest.mark.parametrize(
    "verb", ["UPDATE api.requests SET outcome = 'x'", "DELETE FROM api.requests", "TRUNCATE api.requests"]
)
async def test_the_api_can_t_change_the_trail(api: Api, database: Database, verb: str) -> None:
    """Not even a broken API rewrites what was: its login may add and read, nothing else."""
    await api.submit()
    connection = await asyncpg.connect(database.url_of("api"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(verb)
    finally:
        await connection.close()


async def test_an_order_and_its_line_are_one_commit(api: Api, orchestrator: Orchestrator) -> None:
    """Where the trail can't be written no order is accepted: nobody acts without a trace."""
    await orchestrator.run("ALTER TABLE api.requests ADD CONSTRAINT full_up CHECK (caller <> 'alice')")

    answer = await api.submit()

    assert 500 == answer.status_code
    assert [] == await orchestrator.run("SELECT FROM api.claims")
