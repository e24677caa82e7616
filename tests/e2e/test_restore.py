"""A database that goes back in time beside a Kafka that does not, and the reverse: by the commands of docs/backup.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from uuid import uuid4

import pytest
import pytest_asyncio

from contracts.decimals import Price
from local_stack.sample_data import DEPOSITS, SampleAsset
from operations.access.database import connected
from operations.audit import audit
from operations.demo.samples import sample_stores
from participants.assets.price_store import set_price
from tests.e2e.disaster import BROKER, Site
from tests.e2e.orders import HOLDINGS, Wanted, buy, mixed, sell
from tests.e2e.restored import Facts, Told, judge, merged
from tests.e2e.system import System, eventually
from tests.e2e.trader import Trader
from tests.e2e.wire import message
from tests.evidence.chaos.books import read
from tests.support.cluster import brokers
from tests.support.postgres_machine import machine

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.apache_kafka]
T = time.time()
def say(*a):
    print(f"{time.time() - T:6.1f}", *a, flush=True)

WAVE = SampleAsset("WAVE", Decimal("100.00"))
USERS = [f"user-{number}" for number in range(8)]


async def test_it(tmp_path):
    async with machine(1) as m:
        with brokers(1) as kafka:
            site = Site(m, kafka, tmp_path / "stack")
            await m.make(site.place)
            await site.type("archive")
            say("postgres")
            await kafka.ready()
            say("kafka")
            async with site.running(samples=True) as system:
                say("up")
                await site.type("base-backup")
                say("base")
                async with Trader(system) as trader:
                    await system.endow(USERS, HOLDINGS)
                    say("endowed")
                    stream = mixed(USERS, seed=22)
                    ids = await trader.trade(list(islice(stream, 60)))
                    await trader.ended(ids)
                    say("60 ended")
                    await kafka.kill(1)
                    await kafka.keep(1, "T0")
                    await site.type("restore-point")
                    await kafka.start(1)
                    say("T0")
                    ids = await trader.trade(list(islice(stream, 60)))
                    await trader.ended(ids)
                    say("60 more ended")
            say("down")
            await site.kill_servers()
            say("dead")
            await kafka.keep(1, "T1")
            await kafka.start(1)
            await site.type("restore")
            await site.type("restored")
            await kafka.ready()
            say("restored")
            async with site.running() as system:
                say("up")
                print(await system.audit())
                say("audited")
            say("down")
            await site.kill_servers()
            await kafka.put_back(1, "T1")
            await kafka.start(1)
            await m.type(site.place, 'rm -rf "$PGDATA"')
            await m.type(site.place, 'cp -a "$PGDATA.old" "$PGDATA"; pg_ctl --wait --silent --log="$PGDATA.log" start')
            await kafka.ready()
            say("restored")
