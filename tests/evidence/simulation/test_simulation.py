"""A short simulation for every change, and the reasons to trust it: it is repeatable, and it finds planted defects."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

import pytest

from contracts.vocabulary import HoldState
from order_saga.core import advance, judgement
from order_saga.triggers.process import TriggerPoint
from order_saga.worker import store
from order_saga.worker.market import RestingPoint
from order_saga.worker.process import SagaHandler
from saga_kit.messaging.outbox import Outbox
from saga_kit.messaging.poller import Poller
from saga_kit.participant import barrier, handler
from saga_kit.participant.barrier import CommandKind
from saga_kit.runtime.crash_points import CrashPoint
from tests.evidence.simulation.draw import draw
from tests.evidence.simulation.run import Tally, add, quiet, run, run_many
from tests.evidence.simulation.scenario import Fault, How, OrderPlan, Rates, Scenario
from tests.evidence.simulation.scenario import Kind as FaultKind
from tests.evidence.simulation.shrink import shrink

HISTORIES: Final = int(os.environ.get("SIMULATED_HISTORIES", "1500"))
FIRST_SEED: Final = 1
FIRES: Final = (
    "fires at a tick", "is triggered", "fires after its trigger", "trailing stop fires", "fires on entry",
    "bracket fires up", "bracket fires down", "fires at the opening",
)  # fmt: skip
CHANGES: Final = (
    *(f"order {what}" for what in ("is suspended", "is released", "is RAISING", "is LOWERING", "fires when amended")),
    *(f"change ignored {why}" for why in ("duplicate", "not_allowed", "too_early", "too_late")),
    *("change before its order", "amend that is asked about ends", "amend APPLIED"),
    *(f"amend REFUSED {code}" for code in ("AMEND_IN_PROGRESS", "EXPIRED", "INSUFFICIENT_BALANCE", "INVALID_ORDER")),
    *(f"amend REFUSED {code}" for code in ("NOTIONAL_OUT_OF_RANGE", "NOT_AMENDABLE", "QUANTITY_OUT_OF_RANGE")),
    *(f"amend REFUSED {code}" for code in ("TOO_LATE", "VERSION_MISMATCH", "WOULD_TRIGGER_IMMEDIATELY")),
)
SEEDS_MAX: Final = 600
"""Within so many histories a planted defect must show."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture(scope="module")
def tally() -> Tally:
    """Run the histories once for all tests here."""
    return add(list(run_many(FIRST_SEED, HISTORIES)))


@pytest.mark.timeout(900)
def test_no_history_loses_or_doubles_anything(tally: Tally) -> None:
    """I1 to I13 hold after every commit and at the end of each history, and every order ends."""
    assert {} == tally.failed
    assert HISTORIES == tally.histories


def test_everything_that_can_go_wrong_did(tally: Tally) -> None:
    """The histories hold every kind of fault and change, a death at every crash point, and every end of an order."""
    chances = {
        "message lost",
        "message late",
        "publish of unknown outcome",
        "commit of unknown outcome",
        "connection lost",
    }
    chances |= {f"tick {how}" for how in How if how is not How.WELL} | {"tick in a halt", "full round of ticks"}
    chances |= {f"order {what}" for what in FIRES} | {*CHANGES}
    points = (*CrashPoint, *TriggerPoint, *RestingPoint)
    missing = {*map(str, FaultKind), *map(str, points), *chances} - {str(name) for name in tally.seen}
    assert {FaultKind.CRASH.value} == missing, "a crash is counted by its point"
    ends = {
        "COMPLETED",
        "FAILED TIMED_OUT",
        "FAILED INSUFFICIENT_BALANCE",
        "FAILED STALE_PRICE",
        "FAILED SLIPPAGE_EXCEEDED",
    }
    ends |= {"CANCELLED USER_REQUESTED", "CANCELLED OPERATOR", "CANCELLED EXPIRED", "FAILED DUPLICATE_CLIENT_ORDER_ID"}
    ends |= {"CANCELLED UNFILLED", "FAILED WOULD_TRIGGER_IMMEDIATELY"}
    assert set() == ends - tally.ends.keys()


def test_a_seed_tells_the_same_history_in_every_process() -> None:
    """Only the seed decides a history: neither Python's hash seed nor the time of day changes it."""
    program = (
        "from tests.evidence.simulation.run import *; be_quiet(); print(*run(draw(77), traced=True).history, sep='\\n')"
    )
    told = {
        subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert 1 == len(told)
    assert b"OrderRequested" in told.pop()


def _forget_the_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = barrier.apply

    def apply(command: Any, hold: Any, ledger: Any) -> Any:
        buried = hold is not None and hold.state is HoldState.TOMBSTONE and command.kind is CommandKind.RESERVE
        return real(command, None if buried else hold, ledger)

    monkeypatch.setattr(handler, "apply", apply)


def _keep_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_self: Outbox, _tx: Any, _messages: Sequence[Any], _sent_ids: Sequence[int] = ()) -> list[int]:
        return []

    monkeypatch.setattr(Outbox, "write", write)


def _acknowledge_first(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Poller.poll

    async def poll(self: Poller, consumer: Any) -> Any:
        records = await real(self, consumer)
        self.handled(records)
        await consumer.commit(self.offsets(consumer))
        return records

    monkeypatch.setattr(Poller, "poll", poll)


def _forget_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.take

    async def take(tx: Any, order_ids: Any, names: Any = ()) -> Any:
        return (await real(tx, order_ids, names))._replace(archived=frozenset())

    async def archived(_tx: Any, _order_ids: Any) -> frozenset[UUID]:
        return frozenset()

    monkeypatch.setattr(store, "take", take)
    monkeypatch.setattr(store, "archived", archived)


def _drop_what_meets_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SagaHandler, "comes_again", lambda _self, _message: True)


def _believe_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "patience_over", lambda _draft, _question: False)
    for module in (advance, judgement):
        monkeypatch.setattr(module, "made_at", lambda _message, now: now)


def test_a_price_of_before_a_stand_still_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defect planted, the judge finds a fill at an old price: the answer waits while the price changes."""
    order = OrderPlan(UUID(int=5), "alice", "BTC", "SELL", "0.01", None, None, at=30.0)
    faults = (
        Fault(FaultKind.SILENT, "assets", 29.0, 8.0),
        Fault(FaultKind.SILENT, "orchestrator", 32.0, 80.0),
        Fault(FaultKind.PRICE, "BTC", 50.0, amount=49_000.0),
    )
    history = Scenario(5, (order,), faults, Rates())
    good = run(history)
    assert ({"FAILED TIMED_OUT": 1}, []) == (dict(good.ends), good.faults)
    _believe_what_waited(monkeypatch)
    assert ["price"] == [fault.partition(":")[0] for fault in run(history).faults]


@pytest.mark.parametrize(
    "defect",
    [_forget_the_tombstone, _keep_no_event, _acknowledge_first, _forget_the_archive, _drop_what_meets_a_lock],
)
def test_a_defect_shows(monkeypatch: pytest.MonkeyPatch, defect: Callable[[pytest.MonkeyPatch], None]) -> None:
    """A planted defect in the protocol breaks a history, and so does the history that `shrink` makes of it."""
    defect(monkeypatch)
    seed = next((seed for seed in range(SEEDS_MAX) if run(draw(seed)).faults), None)
    assert seed is not None, "no history shows the defect"
    small = shrink(draw(seed))
    outcome = run(small, traced=True)
    assert outcome.faults
    assert outcome.history
    assert len(small.orders) + len(small.faults) <= len(draw(seed).orders) + len(draw(seed).faults)


async def test_a_loop_that_stands_still_says_so() -> None:
    """When no task can go on, the loop raises an error instead of waiting."""
    from tests.evidence.simulation.loop import StandingStill, VirtualLoop  # noqa: PLC0415 - of this test alone

    def stand_still() -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(asyncio.Event().wait())

    with pytest.raises(StandingStill):
        await asyncio.to_thread(stand_still)
