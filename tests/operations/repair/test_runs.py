"""Doing one thing to many items: at a bounded rate, with a result for each, whatever one of them does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import pytest

from operations.access.errors import WrongRequest
from operations.repair.runs import DONE_BEFORE, ItemResult, Pace, Result, check_choice, name_run, work_off


class Item(NamedTuple):
    """Something with a name."""

    name: str


async def items(names: Iterable[str]) -> AsyncIterator[Item]:
    """Give items one by one."""
    for name in names:
        yield Item(name)


async def done(_: Item) -> Result:
    """Do it."""
    return Result(done=True, words="done")


async def test_a_rate_is_kept_and_a_limit_too() -> None:
    """So many a second, and no more than so many."""
    began = time.monotonic()
    results = [one async for one in work_off(items("abcdef"), done, Pace(rate=20, limit=5))]
    assert [ItemResult(name, done=True, result="done") for name in "abcde"] == results
    assert time.monotonic() - began >= 4 / 20


async def test_what_was_done_before_does_not_count_for_the_limit() -> None:
    """`rest_of` has taken it from the limit, so a run that is started again does all of what was left."""
    before = {"a", "b"}

    async def act(item: Item) -> Result:
        return DONE_BEFORE if item.name in before else await done(item)

    results = [one async for one in work_off(items("abcd"), act, Pace(limit=1))]
    assert ["done before", "done before", "done"] == [one.result for one in results]


async def test_an_item_that_can_not_be_done_stops_no_other() -> None:
    """Its failure is its result; a failure of the infrastructure is tried again."""
    tried: list[str] = []

    async def act(item: Item) -> Result:
        tried.append(item.name)
        if item.name == "bad":
            raise ValueError("a row of another shape")
        if tried.count("late") == 1:
            raise ConnectionResetError
        return await done(item)

    results = [one async for one in work_off(items(["bad", "late", "good"]), act, Pace())]
    assert [("bad", False), ("late", True), ("good", True)] == [(one.item, one.done) for one in results]
    assert results[0].result == "can't be done: ValueError: a row of another shape"
    assert ["bad", "late", "late", "good"] == tried


async def test_a_dry_run_does_nothing() -> None:
    """It goes over the items at once."""

    async def act(item: Item) -> Result:
        raise AssertionError(item)

    results = [one async for one in work_off(items("ab"), act, Pace(rate=0.01, dry_run=True))]
    assert [ItemResult(name, done=True, result="would be done") for name in "ab"] == results


@pytest.mark.parametrize(
    ("named", "filtered", "everything", "good"),
    [(True, False, False, True), (False, True, False, True), (False, False, True, True), (False, True, True, True),
     (True, True, False, False), (True, False, True, False), (False, False, False, False)],
)  # fmt: skip
def test_a_choice_is_names_or_a_filter(named: bool, filtered: bool, everything: bool, good: bool) -> None:  # noqa: FBT001
    """Never both, and never nothing by accident."""
    if good:
        check_choice(named=named, filtered=filtered, everything=everything)
    else:
        with pytest.raises(WrongRequest):
            check_choice(named=named, filtered=filtered, everything=everything)


def test_a_run_has_a_name() -> None:
    """Its own, or one by the time that no other run has."""
    assert ("mine", "ops") == name_run("mine", "ops")
    assert name_run("", "ops").run_id != name_run("", "ops").run_id
    for run_id, by in (("a b", "ops"), ("", "me and you")):
        with pytest.raises(WrongRequest):
            name_run(run_id, by)
