"""The running system answers as its OpenAPI document says: thousands of generated requests find no other answer.

The seed is fixed, so that every run sends the same requests; GENERATED_REQUESTS_SEED=n sends others.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest

from order_api.description import OPERATIONS
from tests.e2e.system import System, eventually, running
from tests.e2e.trader import Trader
from tests.support.infrastructure import Infrastructure

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
USER = "alice"
SCOPES = "orders:read orders:write orders:act-for-users holds:read holds:write webhooks:manage"
RANDOM_MAX = 80
"""Random requests for each operation; the other phases of Schemathesis choose their own number."""
REQUESTS_MIN = 2_000
NAMED: Mapping[str, str] = {
    "completed": "ACME",
    "failed": "HALT",
    "cancelled": "SLOW",
    "waiting": "SLOW",
    **dict.fromkeys(("resting", "resting-too"), "BTC"),
}
"""Orders that the generated requests can name: by client order id, the asset that brings each to its status."""
RESTS: Mapping[str, str] = {"order_type": "LIMIT_BUY", "limit_price": "20000", "quantity": "0.01"}


@pytest.mark.timeout(600)  # it sends five thousand requests, one after the other
async def test_no_generated_request_gets_an_answer_that_is_not_documented(
    infrastructure: Infrastructure, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Valid or invalid requests, single or in sequence, get no 5xx and only documented answers, and do no harm."""
    replicas = dict.fromkeys(("orchestrator", "balance", "assets"), 1)
    async with running(infrastructure, tmp_path / "system", replicas=replicas) as system:
        order_ids = await _submit_named(system)
        generated, begin, seed = 0, time.monotonic(), int(os.environ.get("GENERATED_REQUESTS_SEED", "1"))
        while generated < REQUESTS_MIN:  # one seed may give too few
            report, output = await _attack(system, order_ids, tmp_path, seed)
            seed += 1
            assert ([], [], 0) == (report["failures"], report["errors"], report["exit_code"]), output
            # All calls but the document itself, which was read to begin with, and streams, whose answers go on.
            left_out = 1 + sum(one.tag == "streams" for one in OPERATIONS)
            assert len(OPERATIONS) - left_out == report["operations"]["tested"]
            generated += report["test_cases"]["generated"]
        record_testsuite_property("generated_requests", generated)
        print(f"{generated} generated requests in {time.monotonic() - begin:.0f} s")  # noqa: T201
        await eventually(lambda: _all_ended(system), "every order that came of it ends or rests")
        assert [] == await system.audit()


async def _submit_named(system: System) -> list[str]:
    """Submit the named orders; return their ids once three of them have ended."""
    async with Trader(system) as trader:
        ids = []
        for name, asset_id in NAMED.items():
            body = {"asset_id": asset_id, "order_type": "MARKET_BUY", "quantity": "1", "client_order_id": name}
            body |= RESTS if name.startswith("resting") else {}
            ids.append((await trader.call(USER, "POST", "/orders", json=body)).json()["order_id"])
            if name == "cancelled":
                await trader.call(USER, "PUT", f"/orders/{ids[-1]}/cancel")
        ended = "SELECT 1 FROM audit.orders WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED') OFFSET 2"

        async def come_to_this() -> bool:
            return bool(await system.rows(ended))

        await eventually(come_to_this, "three of the orders end")
    return ids


async def _attack(system: System, order_ids: list[str], folder: Path, seed: int) -> tuple[dict[str, Any], str]:
    """Run Schemathesis; return its report and its output. The same seed gives the same requests."""
    report, configuration = folder / "report.json", folder / CONFIGURATION.name
    configuration.write_text(CONFIGURATION.read_text())
    (folder / "orders.dict").write_text("".join(f'"{order_id}"\n' for order_id in order_ids))
    claims = {"sub": USER, "scope": SCOPES, "exp": int(time.time()) + 3600}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "run"),
        f"{system.stack.api_url}/openapi.json",
        *("--seed", str(seed), "--max-examples", str(RANDOM_MAX), "--report-json-path", str(report), "--no-color"),
        cwd=Path(__file__).parents[2],
        env=os.environ | {"API_TOKEN": jwt.encode(claims, system.stack.jwt_secret, "HS256")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert report.exists(), output
    return json.loads(report.read_bytes()), output


async def _all_ended(system: System) -> bool:
    """Tell whether no order is on its way, nor an amend; one that rests until a price fires it is not."""
    return not await system.rows(
        "SELECT 1 FROM audit.orders WHERE status IN ('PENDING', 'CONFIRMED', 'PROCESSING')"
        " AND phase NOT IN ('QUEUED', 'WORKING')"
    )
