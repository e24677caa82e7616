"""What services may do with holds, and what they may not: terms, destinations, the clock, and who else is at work."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.decimals import Money, Quantity
from contracts.envelope import Envelope, UnreadableMessage
from contracts.holds import (
    HELD_AT_MOST,
    HoldCaptured,
    HoldCaptureRefused,
    HoldExpired,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    HoldReleaseRefused,
    HoldRequest,
)
from contracts.vocabulary import HoldState
from participants.balance.hold_store import ServiceLedger, due
from participants.balance.service_holds import End, Expiry, ServiceHold, is_over, judge
from saga_kit.participant.barrier import Hold
from tests.participants.support import (
    NOW,
    HoldService,
    capture,
    held_until,
    hold_id,
    place,
    received,
    release,
)
from tests.saga_kit.support import FakeRecord
from tests.support.transactions import OnEngine

ONE = hold_id(1)
TERMS = (ONE, "alice", "USD", "100")
SCAN = Expiry(f"hold:{ONE}", "alice", "USD", Decimal(100))


async def journal(holds: HoldService) -> list[tuple[Any, ...]]:
    """Return the lines of the journal that deposits did not make."""
    return await holds.rows(
        """SELECT entry_id, order_id, account, asset_id, trim_scale(amount)::text FROM balances.journal_lines
           WHERE entry_id NOT LIKE 'deposit:%' ORDER BY account DESC"""
    )


async def test_a_withdrawal_leaves_the_house_once(holds: HoldService) -> None:
    """A capture pays out of the hold and returns the rest; the journal has one entry, however often it is asked for."""
    await holds.deposit("alice", USD="250")
    placed, paid, again = await holds.work(place(*TERMS), *[capture(*TERMS, capture="97.5")] * 2)
    assert HoldPlaced(*TERMS[:3], Quantity("100"), held_until()) == placed
    assert HoldCaptured(*TERMS[:3], Quantity("100"), Money("97.5"), "@external", Money("2.5")) == paid == again
    assert {"USD": (Decimal("152.5"), Decimal(0))} == await holds.accounts("alice")
    entry = f"hold:{ONE}:capture"
    assert [
        (entry, None, "alice", "USD", "-97.5"),
        (entry, None, "@external", "USD", "97.5"),
    ] == await journal(holds)
    assert [] == await holds.faults()


@pytest.mark.parametrize("before", ["hold", "capture", "release"])
@pytest.mark.parametrize(
    "other",
    [
        *(place(ONE, "bob", "USD", "100"), place(ONE, "alice", "BTC", "100"), place(ONE, "alice", "USD", "99")),
        place(*TERMS, expires_at=held_until(timedelta(days=2))),
        *(capture(ONE, "bob", "USD", "100", capture="1"), capture(ONE, "alice", "USD", "99", capture="1")),
        *(release(ONE, "bob", "USD", "100"), release(ONE, "alice", "BTC", "100")),
    ],
    ids=lambda other: f"{type(other).__name__}-{other.user_id}-{other.asset_id}-{other.amount}",
)
async def test_other_terms_under_a_known_id_change_nothing(holds: HoldService, before: str, other: HoldRequest) -> None:
    """Another user, asset, amount or expires_at is a conflict, whatever has become of the hold."""
    for who in ("alice", "bob"):
        await holds.deposit(who, USD="1000", BTC="1000")
    ends: dict[str, list[HoldRequest]] = {
        "hold": [],
        "capture": [capture(*TERMS, capture="1")],
        "release": [release(*TERMS)],
    }
    await holds.work(place(*TERMS), *ends[before])
    was = await holds.all_accounts(), await holds.ends()
    (event,) = await holds.work(other)
    assert HoldRefusal.HOLD_CONFLICT == event.reason_code
    assert (other.user_id, other.asset_id, other.amount) == (event.user_id, event.asset_id, event.amount)
    assert was == (await holds.all_accounts(), await holds.ends())


@pytest.mark.parametrize(
    "other", [capture(*TERMS, capture="97"), capture(*TERMS, capture="97.5", to="@fees")], ids=["amount", "account"]
)
async def test_a_second_capture_is_a_conflict(holds: HoldService, other: HoldRequest) -> None:
    """A hold is captured once: another part of it, or to another account, is refused, and the first answer stays."""
    await holds.deposit("alice", USD="100")
    first = capture(*TERMS, capture="97.5")
    _, paid, event, again = await holds.work(place(*TERMS), first, other, first)
    assert (HoldCaptureRefused, HoldRefusal.HOLD_CONFLICT) == (type(event), event.reason_code)
    assert paid == again
    assert {"USD": (Decimal("2.5"), Decimal(0))} == await holds.accounts("alice")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (capture(*TERMS, capture="100.01"), "EXCEEDS_HOLD"),
        (capture(*TERMS, capture="1", to="@market"), "DESTINATION_NOT_ALLOWED"),
        (capture(*TERMS, capture="1", to="@operator.ann"), "DESTINATION_NOT_ALLOWED"),
    ],
    ids=["too-much", "market", "operator"],
)
async def test_a_capture_that_is_refused_leaves_the_hold(holds: HoldService, wrong: HoldRequest, code: str) -> None:
    """Whoever captures too much, or to a wrong account, is told so and may capture rightly; before a hold, too."""
    await holds.deposit("alice", USD="100")
    early, _, late, paid = await holds.work(wrong, place(*TERMS), wrong, capture(*TERMS, capture="1"))
    assert early == late
    assert (HoldCaptureRefused, code) == (type(late), late.reason_code)
    assert HoldCaptured is type(paid)


@pytest.mark.parametrize(
    ("away", "answer"),
    [
        (-timedelta(seconds=1), HoldRefused),
        (HELD_AT_MOST + timedelta(days=1), HoldRefused),
        (HELD_AT_MOST, HoldPlaced),
    ],
    ids=["past", "too-far", "farthest"],
)
async def test_a_hold_has_an_end_in_sight(holds: HoldService, away: timedelta, answer: type) -> None:
    """`expires_at` must be ahead, and not too far: nobody's money is held for ever. A refusal is final."""
    await holds.deposit("alice", USD="100")
    asked = place(*TERMS, expires_at=held_until(away))
    first, again = await holds.work(asked, asked)
    assert first == again
    assert answer is type(first)
    assert getattr(first, "reason_code", None) == (
        HoldRefusal.EXPIRY_OUT_OF_RANGE if isinstance(first, HoldRefused) else None
    )


@pytest.mark.parametrize(("late_us", "over"), [(-1, False), (0, True), (1, True)])
def test_a_hold_is_over_at_its_very_time(late_us: int, over: bool) -> None:  # noqa: FBT001 - a row of the table
    """A hold whose `expires_at` is now has expired: neither a capture nor a scan sees it as held."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    hold = Hold(f"hold:{ONE}", str(ONE), "alice", "USD", Decimal(100), HoldState.HELD)
    known = ServiceHold(hold, at)
    assert over is is_over(known, at + timedelta(microseconds=late_us))
    assert not is_over(replace(known, ended=End.CAPTURED), at)
    if not over:
        assert [] == judge(SCAN, known, ServiceLedger(), at + timedelta(microseconds=late_us)).events


async def test_a_capture_that_meets_the_time_ends_the_hold(holds: HoldService) -> None:
    """However late the scanner is, a capture pays nothing once the time has come; the money returns with its answer."""
    await holds.deposit("alice", USD="100")
    await holds.work(place(*TERMS))
    await holds.pass_time([ONE])
    expired, refused = await holds.work(capture(*TERMS, capture="1"))
    assert (HoldExpired, Decimal(100)) == (type(expired), expired.returned)
    assert (HoldCaptureRefused, HoldRefusal.NOT_HELD) == (type(refused), refused.reason_code)
    assert [] == await holds.work(SCAN)
    assert {"USD": (Decimal(100), Decimal(0))} == await holds.accounts("alice")


async def test_the_scanner_finds_what_is_over_and_nothing_else(holds: HoldService) -> None:
    """Of held, ended and expired holds, exactly the expired ones are found, the oldest first, and each ends once."""
    await holds.deposit("alice", USD="500")
    ids = [hold_id(n) for n in range(5)]
    await holds.work(*(place(one, "alice", "USD", "100") for one in ids), release(ids[0], "alice", "USD", "100"))
    await holds.pass_time(ids[:4])
    await holds.work(capture(ids[1], "alice", "USD", "100", capture="1"))  # it finds itself that the time has come
    async with OnEngine(holds.engine).begin() as tx:
        found = await due(tx, 10)
        assert found[:1] == await due(tx, 1)
    assert {f"hold:{one}" for one in ids[2:4]} == {one.hold_id for one in found}
    assert [HoldExpired] * 2 == [type(event) for event in await holds.work(*found, *found)]
    async with OnEngine(holds.engine).begin() as tx:
        assert [] == await due(tx, 10)
    assert {"USD": (Decimal(400), Decimal(100))} == await holds.accounts("alice")


async def test_release_and_capture_of_two_instances_meet_once(holds: HoldService, more_holds: HoldService) -> None:
    """Two instances that get a capture and a release of each hold at the same time end each in one way."""
    ids = [hold_id(n) for n in range(40)]
    await holds.deposit("alice", USD="400")
    await holds.work(*(place(one, "alice", "USD", "10") for one in ids))
    captures = [capture(one, "alice", "USD", "10", capture="4") for one in ids]
    releases = [release(one, "alice", "USD", "10") for one in reversed(ids)]
    await asyncio.gather(holds.work(*captures), more_holds.work(*releases))
    ends = list((await holds.ends()).values())
    assert {"CAPTURED", "RELEASED"} >= set(ends)
    assert {"USD": (Decimal(400) - 4 * ends.count("CAPTURED"), Decimal(0))} == await holds.accounts("alice")
    assert [] == await holds.faults()


async def test_a_hold_and_an_order_share_an_account(holds: HoldService) -> None:
    """What is held for a service is not there for another one."""
    await holds.deposit("alice", USD="100")
    _, other = await holds.work(place(*TERMS), place(hold_id(2), "alice", "USD", "0.01"))
    assert (HoldRefused, HoldRefusal.INSUFFICIENT_BALANCE) == (type(other), other.reason_code)


async def test_what_another_ledger_may_hold_is_not_touched(holds: HoldService) -> None:
    """A ledger that began after a hold was asked for answers a conflict, and one that began after a request nothing."""
    await holds.deposit("alice", USD="100")
    async with OnEngine(holds.engine).begin() as tx:
        await holds.handler.prepare(tx)  # type: ignore[attr-defined]  # of this handler
    since = NOW + timedelta(days=3650)
    asked = [
        replace(capture(*TERMS, capture="1"), hold_asked_at=NOW),
        replace(release(*TERMS), hold_asked_at=NOW),
    ]
    messages = [received(holds.handler, one, n, at=since) for n, one in enumerate(asked)]
    old = [received(holds.handler, place(*TERMS), 2, at=NOW)]
    async with OnEngine(holds.engine).begin() as tx:
        effects = await holds.handler.handle(tx, [*messages, *old])
    assert ["HoldCaptureRefused:HOLD_CONFLICT:1:@external", "HoldReleaseRefused:HOLD_CONFLICT"] == [
        one.outgoing.id.partition(f"{ONE}:")[2] for one in effects.outbox
    ]
    assert {"before_start": 1} == effects.dropped
    assert {} == await holds.ends()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("HoldRequested", b'{"hold_id": "x"}'),
        ("HoldRequested", b"\xff"),
        ("HoldRequested", None),
        ("HoldCaptureRequested", b'{"hold_id":"%s","user_id":"a","asset_id":"b","amount":"1","capture":"0","to":"@x"}'),
        (
            "HoldCaptureRequested",
            b'{"hold_id":"%s","user_id":"a","asset_id":"b","amount":"1","capture":"1","to":"bob"}',
        ),
        ("HoldReleaseRequested", b'{"hold_id":"%s","user_id":"a","asset_id":"b","amount":"0"}'),
        ("ReserveBalance", b"{}"),
        ("HoldPlaced", b"{}"),
    ],
)
def test_what_is_no_request_is_a_dead_letter(holds: HoldService, kind: str, body: bytes | None) -> None:
    """Garbage, an amount of 0, a user as the destination, and other messages can't be read as a request."""
    value = None if body is None else body.replace(b"%s", str(ONE).encode())
    with pytest.raises(UnreadableMessage):
        holds.handler.decode(Envelope("x", kind, "/x", NOW), FakeRecord("holds.requests", 0, 0, 0, b"a", value, []))


async def test_events_carry_the_trace_and_an_id_of_their_own(holds: HoldService) -> None:
    """The same event has the same id, whoever asks again; a release before a hold is told as such."""
    await holds.deposit("alice", USD="100")
    await holds.work(release(*TERMS), place(*TERMS), release(*TERMS), place(*TERMS))
    ids = [one.id for one in holds.publisher.published]
    assert [f"hold:{ONE}:HoldReleased", f"hold:{ONE}:HoldRefused:CLOSED"] * 2 == ids
    assert {b"alice"} == {one.key.encode() for one in holds.publisher.published}
    (released, refused) = await holds.work(release(*TERMS), place(*TERMS))
    assert (HoldReleased, Decimal(0)) == (type(released), released.returned)
    assert HoldRefused is type(refused)


async def test_a_captured_hold_can_not_be_released(holds: HoldService) -> None:
    """The release is refused, and says why; the hold's own place is still confirmed."""
    await holds.deposit("alice", USD="100")
    *_, refused, placed = await holds.work(
        place(*TERMS), capture(*TERMS, capture="100", to="@fees"), release(*TERMS), place(*TERMS)
    )
    assert (HoldReleaseRefused, HoldRefusal.CLOSED) == (type(refused), refused.reason_code)
    assert HoldPlaced is type(placed)
