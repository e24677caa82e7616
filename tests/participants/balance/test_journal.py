"""What the ledger books is stored as it is, whatever its names and amounts; and the database takes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from contracts.decimals import ZERO, Money
from contracts.vocabulary import HoldState
from participants.balance.ledger import Account, JournalEntry, JournalLeg
from participants.balance.store import StoredLedger
from saga_kit.participant.barrier import CommandKind, Hold, HoldCommand
from saga_kit.runtime.transactions import begin
from tests.participants.support import Balance, order, settle

NO_END: Final = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
UNIT: Final = Decimal("0.000000000000000001")
NAMES: Final = st.one_of(
    st.sampled_from(["NULL", "null", "alice", "Bob", "a.b", "a:b-c", "_", "0", "x" * 64]),
    st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
)
MONEY: Final = st.one_of(
    st.sampled_from([ZERO, UNIT, Decimal(1), Decimal("999999999999999999.999999999999999999")]),
    st.integers(0, 10**20).map(lambda units: units * UNIT),
)
ENTRIES: Final = """
    SELECT entry_id, order_id::text, accounts, asset_ids, amounts FROM balances.journal
    WHERE entry_id = ANY ($1) ORDER BY array_position($1, entry_id)"""


async def stored(balance: Balance, entries: list[JournalEntry]) -> list[JournalEntry]:
    """Write entries as the service does, and read them."""
    ledger = StoredLedger(entries=entries)
    async with begin(balance.engine) as tx:
        await ledger.save(tx)
    rows = await balance.rows(ENTRIES, [entry.entry_id for entry in entries])
    return [
        JournalEntry(entry_id, order_id, [JournalLeg(*leg) for leg in zip(asset_ids, accounts, amounts, strict=True)])
        for entry_id, order_id, accounts, asset_ids, amounts in rows
    ]


def booked(user_id: str, assets: tuple[str, str, str], amounts: tuple[Decimal, Decimal, Decimal]) -> StoredLedger:
    """Let the ledger settle an order and take a deposit."""
    (paid, gained, charged), (capture, credit, fee) = assets, amounts
    order_id = order(uuid4())
    ledger = StoredLedger({(user_id, asset): Account(held=capture) for asset in assets}, {user_id})
    terms = {"capture": capture, "credit": (gained, credit), "fee": (charged, fee)}
    message = settle(order_id, user_id, paid, max(capture, UNIT), **terms)  # type: ignore[arg-type]
    hold = Hold(message.hold_id, str(order_id), user_id, paid, max(capture, UNIT), HoldState.HELD)
    ledger.settle(
        HoldCommand(CommandKind.SETTLE, hold.hold_id, hold.saga_id, user_id, paid, hold.amount, message), hold
    )
    ledger.deposit(uuid4().hex, user_id, gained, credit + UNIT if credit < 1 else Money(1))
    ledger.accounts.clear()
    return ledger


@NO_END
@given(NAMES, st.tuples(NAMES, NAMES, NAMES), st.tuples(MONEY, MONEY, MONEY))
async def test_every_entry_that_the_ledger_makes_is_stored_as_it_is(
    balance: Balance, user_id: str, assets: tuple[str, str, str], amounts: tuple[Decimal, Decimal, Decimal]
) -> None:
    """Of any user, assets (the same ones too) and amounts, a deposit and a settlement, unless nothing was moved."""
    entries = booked(user_id, assets, amounts).entries
    assert entries
    assert entries == await stored(balance, entries)


def test_what_moves_nothing_makes_no_entry() -> None:
    """A settlement that gives back what it takes, and costs nothing, leaves the deposit's entry alone."""
    ledger = booked("alice", ("USD", "USD", "USD"), (Decimal(5), Decimal(5), ZERO))
    assert [None] == [entry.order_id for entry in ledger.entries]


def test_legs_are_in_their_order() -> None:
    """By asset, then account, as bytes: capitals before `@` would be another order in many languages."""
    entry, _ = booked("alice", ("USD", "btc", "USD"), (Decimal(5), Decimal(1), Decimal(1))).entries
    assert [
        ("USD", "@fees", 1),
        ("USD", "@market", 4),
        ("USD", "alice", -5),
        ("btc", "@market", -1),
        ("btc", "alice", 1),
    ] == list(map(tuple, entry.legs))


ODD: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", " ", "NULL", "a,b", '"', "\\", '\\"', '","', "{", "}", "{}", "'", "$1", "%s", "a\nb", "\x1f", "é"]
)


@NO_END
@given(st.lists(st.tuples(ODD, ODD, st.none() | st.uuids().map(str)), min_size=1, max_size=5))
async def test_names_are_quoted(balance: Balance, names: list[tuple[str, str, str | None]]) -> None:
    """No text in a name is taken for syntax: several entries of a batch come back to the letter, each with its own."""
    entries = []
    for account, asset_id, order_id in names:
        legs = [JournalLeg(asset_id, account, Decimal(1)), JournalLeg(asset_id, account + "+", Decimal(-1))]
        entries.append(JournalEntry(uuid4().hex, order_id, legs))
    assert entries == await stored(balance, entries)


# What is refused ------------------------------------------------------------------------------------------------------

INSERT: Final = """
    INSERT INTO balances.journal (entry_id, accounts, asset_ids, amounts)
    VALUES ($1, $2::text::text[], $3::text::text[], $4::text::numeric[])"""
SOUND: Final = ("{@market,a,@fees,@market,a}", "{BTC,BTC,USD,USD,USD}", "{-2,2,1,4,-5}")
BROKEN: Final = {
    "an asset's sum": (SOUND[0], SOUND[1], "{-2,2,1,4,-6}"),
    "the first asset's sum": (SOUND[0], SOUND[1], "{-2,3,1,4,-5}"),
    "sums that only cancel out across assets": (SOUND[0], SOUND[1], "{-2,3,1,3,-5}"),
    "an amount of zero": (SOUND[0], SOUND[1], "{-2,2,0,5,-5}"),
    "no number": (SOUND[0], SOUND[1], "{-2,2,NaN,4,-5}"),
    "an account too few": ("{@market,a,@fees,@market}", SOUND[1], SOUND[2]),
    "an asset too few": (SOUND[0], "{BTC,BTC,USD,USD}", SOUND[2]),
    "an asset too many": (SOUND[0], "{BTC,BTC,USD,USD,USD,USD}", SOUND[2]),
    "an amount too many": (SOUND[0], SOUND[1], "{-2,2,1,4,-5,0.5}"),
    "an account that is null": ("{@market,a,NULL,@market,a}", SOUND[1], SOUND[2]),
    "an asset that is null": (SOUND[0], "{BTC,BTC,NULL,USD,USD}", SOUND[2]),
    "an amount that is null": (SOUND[0], SOUND[1], "{-2,2,NULL,4,-5}"),
    "a pair twice": ("{@market,a,@market,@market,a}", SOUND[1], SOUND[2]),
    "another order of accounts": ("{a,@market,@fees,@market,a}", SOUND[1], SOUND[2]),
    "another order of assets": ("{@fees,@market,a,@market,a}", "{USD,USD,USD,BTC,BTC}", "{1,4,-5,-2,2}"),
    "an asset in two parts": ("{@market,a,@fees,@market}", "{BTC,USD,BTC,USD}", "{1,-1,-1,1}"),
    "no leg": ("{}", "{}", "{}"),
    "one leg": ("{a}", "{USD}", "{1}"),
    "two dimensions": ("{{@fees,a}}", "{{USD,USD}}", "{{1,-1}}"),
    "another first number": ("[0:2]={a,@fees,b}", "[0:2]={BTC,USD,USD}", "[0:2]={5,1,-1}"),
    "numbers that differ": ("{@fees,a}", "[2:3]={USD,USD}", "{1,-1}"),
}


async def _refusal(balance: Balance, legs: tuple[str | None, ...]) -> str:
    """Try to write an entry as the service; return the constraint that refuses it."""
    try:
        async with balance.engine.begin() as connection:
            await connection.exec_driver_sql(INSERT, (uuid4().hex, *legs))
    except DBAPIError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("legs", BROKEN.values(), ids=(name.replace(" ", "-") for name in BROKEN))
async def test_a_broken_entry_is_refused(balance: Balance, legs: tuple[str, str, str]) -> None:
    """By the database itself, whoever writes it; what is sound but for that is taken."""
    assert 'violates check constraint "journal_entry"' in await _refusal(balance, legs)
    assert not await _refusal(balance, SOUND)


@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_an_array_that_is_missing_is_refused(balance: Balance, missing: int) -> None:
    """A check that is neither true nor false would let it pass, so the columns are not null."""
    legs = [None if number == missing else text for number, text in enumerate(SOUND)]
    assert "violates not-null constraint" in await _refusal(balance, tuple(legs))


def _more(legs: list[JournalLeg], n: int) -> list[JournalLeg]:
    return [*legs[:n], legs[n]._replace(amount=legs[n].amount + UNIT), *legs[n + 1 :]]


def _without(legs: list[JournalLeg], n: int) -> list[JournalLeg]:
    return [*legs[:n], *legs[n + 1 :]]


def _zero(legs: list[JournalLeg], n: int) -> list[JournalLeg]:
    return sorted([*legs, legs[n]._replace(account=legs[n].account + "+", amount=ZERO)])


def _halves(legs: list[JournalLeg], n: int) -> list[JournalLeg]:
    half = legs[n]._replace(amount=legs[n].amount + 1)
    return [*legs[:n], half, half._replace(amount=Decimal(-1)), *legs[n + 1 :]]


def _turned(legs: list[JournalLeg], n: int) -> list[JournalLeg]:
    return [*legs[n + 1 :], *legs[: n + 1]] if n + 1 < len(legs) else legs[::-1]


@NO_END
@given(
    st.tuples(NAMES, NAMES, NAMES),
    st.tuples(*[st.integers(1, 10**20).map(lambda units: units * UNIT)] * 3),
    st.sampled_from([_more, _without, _zero, _halves, _turned]),
    st.data(),
)
async def test_any_entry_that_is_broken_anywhere_is_refused(
    balance: Balance,
    assets: tuple[str, str, str],
    amounts: tuple[Decimal, Decimal, Decimal],
    spoil: Callable[[list[JournalLeg], int], list[JournalLeg]],
    data: Any,
) -> None:
    """A bit more for one account, a leg too few or of zero, a leg in two halves, or legs in another order."""
    entry, _deposit = booked("alice", assets, amounts).entries
    legs = entry.legs
    broken = entry._replace(legs=spoil(legs, data.draw(st.integers(0, len(legs) - 1))))
    with pytest.raises(asyncpg.CheckViolationError, match='check constraint "journal_entry"'):
        await stored(balance, [broken])


@pytest.mark.parametrize("path", ["", "pg_catalog", "public, balances"])
async def test_the_check_does_not_depend_on_the_search_path(balance: Balance, path: str) -> None:
    """Entries are told from what is none in every session, the one of a restore included."""
    async with balance.engine.connect() as connection:
        await connection.exec_driver_sql("SELECT set_config('search_path', $1, false)", (path,))
        await connection.exec_driver_sql(INSERT, (uuid4().hex, *SOUND))
        with pytest.raises(DBAPIError, match="journal_entry"):
            await connection.exec_driver_sql(INSERT, (uuid4().hex, *BROKEN["a pair twice"]))
