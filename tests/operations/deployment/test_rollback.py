"""What an older version would not know is counted, and what came after a release is what that release lacks."""

from __future__ import annotations

import asyncio
import re
from typing import Final
from uuid import UUID

import pytest

from contracts.vocabulary import OrderType, ReasonCode, Side
from operations.access.errors import WrongRequest
from operations.deployment.rollback import CAME_AFTER, CLAIMED, ENDED, OPEN, Unknown, Words, check_rollback
from order_saga.core.saga import Phase
from tests.order_saga.core.sample import approved, reserved
from tests.order_saga.worker.test_market import rests
from tests.support.order_database import OrderDatabase
from tests.support.project import ROOT, git
from tests.support.released import commit_of, newest_release

CLAIM: Final = """
    INSERT INTO api.claims (order_id, user_id, intent, request, next_publish_at)
    VALUES ('{order_id}', 'alice', '', convert_to('{{"order_type": "{order_type}"}}', 'UTF8'), now())"""
ENDS: Final = """
    UPDATE orders.orders SET phase = 'CANCELLED', status = 'CANCELLED', reason_code = 'USER_REQUESTED'
    WHERE order_id = '{}'"""
CLAIMED_ID: Final = "00000000-0000-4000-8000-000000000004"


async def test_market_orders_are_known(db: OrderDatabase) -> None:
    """Of any phase, and claims of them."""
    await db.begin(1)
    await db.begin(2, Side.BUY, approved(), reserved())
    await db.execute(CLAIM.format(order_id=CLAIMED_ID, order_type="MARKET_BUY"))
    assert [] == await check_rollback(db.url, "0.2.0")


async def test_orders_of_newer_kinds_are_counted(db: OrderDatabase) -> None:
    """Open ones, ended ones, and those that only the API knows so far: each means something else."""
    await rests(db, OrderType.LIMIT_SELL, 1)
    await rests(db, OrderType.STOP_LOSS_SELL, 2)
    await rests(db, OrderType.LIMIT_SELL, 3)
    await db.execute(ENDS.format(UUID(int=3)))
    for order_id in (CLAIMED_ID, UUID(int=1)):  # of one that has begun, nothing is left to do
        await db.execute(CLAIM.format(order_id=order_id, order_type="LIMIT_BUY"))
    expected = [
        Unknown(OPEN, 2, str(UUID(int=1))),
        Unknown(ENDED, 1, str(UUID(int=3))),
        Unknown(CLAIMED, 1, CLAIMED_ID),
    ]
    assert expected == await check_rollback(db.url, "0.2.0")


@pytest.mark.parametrize("version", ["0.1.0", "0.2", "yesterday", ""])
async def test_a_version_that_nothing_is_known_of_is_refused(db: OrderDatabase, version: str) -> None:
    """Older ones would lack more than words."""
    with pytest.raises(WrongRequest, match=r"a released version from 0\.2\.0 on is needed"):
        await check_rollback(db.url, version)


async def test_a_release_without_newer_words_knows_all(db: OrderDatabase) -> None:
    """The next one, as soon as it is made."""
    await rests(db, OrderType.LIMIT_SELL, 1)
    assert [] == await check_rollback(db.url, "99.0.0")


async def test_the_words_that_came_after_the_last_release_are_those() -> None:
    """Whatever word is added, by whichever version: the sources of the released one say whether it has it."""
    version = newest_release((ROOT / "CHANGELOG.md").read_text())
    commit = await asyncio.to_thread(commit_of, version)
    expected = Words(
        frozenset(OrderType) - _words(commit, "contracts/vocabulary.py", "OrderType"),
        frozenset(Phase) - _words(commit, "order_saga/core/saga.py", "Phase"),
        frozenset(ReasonCode) - _words(commit, "contracts/vocabulary.py", "ReasonCode"),
    )
    assert expected == CAME_AFTER.get(version, Words())


def _words(commit: str, path: str, name: str) -> set[str]:
    """Read the words of a class in the sources of a commit."""
    body = git("show", f"{commit}:{path}").partition(f"class {name}(")[2].partition("\nclass ")[0]
    words = set(re.findall(r'^    ([A-Z_]+) = "\1"', body, re.MULTILINE))
    assert words, f"{path} has no class {name}"
    return words
