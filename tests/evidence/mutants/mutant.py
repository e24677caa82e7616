"""The type of a mutant, a deliberate defect."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A defect: `old` in `file` becomes `new`. `why` is the rule of the protocol that it breaks."""

    name: str
    why: str
    file: str
    old: str
    new: str
    killers: tuple[str, ...]
    """Tests, one of which at least must fail: pytest's node ids."""
