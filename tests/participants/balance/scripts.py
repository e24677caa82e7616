"""Runs the scripts of many holds against a balance service: the commands of each arrive in its own order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from contracts.balance import BalanceCommand
from contracts.codec import Message
from tests.participants.support import Balance


class Scripted(Protocol):
    """Whoever has commands that arrive in an order."""

    def commands(self) -> list[BalanceCommand]:
        """Return the commands in their order of arrival."""


S = TypeVar("S", bound=Scripted)


def written(reply: Message) -> tuple[str, ...]:
    """Write a reply as state, name and values."""
    fields = msgspec.to_builtins(reply, enc_hook=str)
    values = [fields[name] for name in ("amount", "captured", "returned", "refunded", "reason_code") if name in fields]
    return (fields["hold_state"], type(reply).__name__, *values)


async def run(balance: Balance, sagas: Sequence[S], cuts: tuple[int, ...]) -> dict[S, list[tuple[str, ...]]]:
    """Handle part k of every script in batch k; return the replies. A part ends at each of `cuts`."""
    replies: dict[S, list[tuple[str, ...]]] = {saga: [] for saga in sagas}
    for start, end in itertools.pairwise([0, *cuts, None]):
        batch = [(saga, command) for saga in sagas for command in saga.commands()[start:end]]
        answers = await balance.handle(*(command for _, command in batch))
        for (saga, _), answer in zip(batch, answers, strict=True):
            replies[saga].append(written(answer))
    return replies
