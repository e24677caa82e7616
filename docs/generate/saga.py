"""Draws the saga for people from the core's own table: `docs/saga.md`, and the diagram in the README.

`python -m docs.generate.saga` writes, `--check` compares and exits 1 when something is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts.terms import EXPIRES_WITHIN
from contracts.vocabulary import REASONS, Side
from order_saga.core.phases import (
    BY_OUTCOME,
    LOOK_AGAIN_S,
    MAX_QUOTE_AGE_S,
    MAX_REQUEST_AGE_S,
    MAX_TICK_AGE_S,
    MOVES,
    PHASES,
    QUESTIONS,
    RESTING,
    TERMINAL,
    PhaseRow,
    Way,
    steps,
)
from order_saga.core.saga import Phase, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "saga.md"
README: Final = ROOT / "README.md"
BEGIN, END = "<!-- the saga, drawn from order_saga/core/phases.py -->", "<!-- end of the saga -->"


ORIGIN: Final = """\
Generated from `order_saga/core/phases.py` by `make docs`. Times are in seconds and scale with
`ORDER_SAGA_TIME_SCALE`."""
PHASE_HEAD: Final = (
    *("phase", "on entry", "public status", "a buy asks", "a sell asks", "all yes"),
    *("a no", "timeout", "a cancel", "left at once", "a tick fires it", "its expires_at", "cannot be filled on entry"),
)
QUESTION_HEAD: Final = (
    *("question", "asks", "yes", "no", "asked again after", "at most every"),
    *("attempts", "given up after", "overdue after"),
)
AGES: Final = f"""\
An order cannot be filled on entry to SETTLING when no tick has fired it and its quote is older than
{MAX_QUOTE_AGE_S:g} s there; when the tick that fired it is above what its slippage allows; or when the fee would take
all that its sale brings. A request for an order that does not wait has expired when it is first handled more than
{MAX_REQUEST_AGE_S:g} s after it was made. A tick that is older than {MAX_TICK_AGE_S:g} s when it is judged fires
nothing. These two do not scale."""
RESTS: Final = f"""\
An order with a price rests in {", ".join(sorted(RESTING))}: its money is held, nobody is asked, and it waits for a
tick, a cancel or its `expires_at`, which is at most {EXPIRES_WITHIN.days} days away. What it waits for stands on
[the page of its type](orders/README.md). A tick that fires it is binding: whatever comes after it is too late. ENTRY
asks nothing and is left in the decision that reaches it: "the market meets it" means that the order is filled, because
it is a market order, or because a price that counts meets its own."""
PAUSE: Final = f"""\
An operator may pause a participant (`order-saga pause`). Then an order that still needs it, in its phase or in those
that a yes leads to, asks nobody anything: a quote that is taken now would be stale when the money can move. Its
questions are held back, or, if they were asked before, not asked again; it looks every {LOOK_AGAIN_S:g} s whether it
must still wait. Nothing times out against a pause and nothing is overdue: patience and attempts begin anew when it is
over. Answers that come all the same count. A cancel ends an order whose reserve was never sent at once; any other waits
for its refund. A buy in RESERVING whose quote grows older than {MAX_QUOTE_AGE_S:g} s meanwhile ends FAILED,
STALE_PRICE, with its money back; one that may rest does so instead. An order that rests needs nobody, so it goes on to
rest and to fire. If the balance service is paused then, its settlement waits, at the price that fired it."""


def diagram() -> str:
    """Draw the phases and what leads from one to the next."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for phase, row in PHASES.items():
        lines += [line for side, to in row.yes for line in _arrows(phase, side, to)]
        lines += [f"    {phase} --> {to}: {entry}" for entry, to in row.entry]
        leads: dict[Phase, list[str]] = {}
        for why, to in _ways(row):
            leads.setdefault(to, []).append(why)
        lines += [f"    {phase} --> {to}: {', '.join(whys)}" for to, whys in leads.items()]
    lines += [f"    {phase} --> [*]" for phase in PHASES if phase in TERMINAL]
    return "\n".join([*dict.fromkeys(lines), "```"])


def page() -> str:
    """Write the whole page: diagram, phases, questions, moves, reasons."""
    moves = ((before or "(new)", _listed(after)) for before, after in MOVES.items())
    reasons = ((code, reason.meaning, "yes" if reason.retryable else "") for code, reason in REASONS.items())
    parts = [
        "# The saga",
        ORIGIN,
        diagram(),
        "## Phases",
        _table(PHASE_HEAD, map(_phase, PHASES)),
        "## Questions",
        _table(QUESTION_HEAD, map(_question, QUESTIONS)),
        "## Waiting for a price",
        RESTS,
        AGES,
        "## Pauses",
        PAUSE,
        "## Moves of the public status",
        _table(("from", "to"), moves),
        "## Reasons",
        _table(("reason_code", "meaning", "the same order may succeed later"), reasons),
    ]
    return "\n\n".join(parts) + "\n"


def readme(text: str) -> str:
    """Put the diagram into the README, between its markers."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", f"{BEGIN}\n{diagram()}\n{END}", text, flags=re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    """Write or check both documents; return the exit status."""
    wanted = {PAGE: page(), README: readme(README.read_text())}
    if "--check" in arguments:
        stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
        sys.stderr.writelines(f"{name} is stale: run 'make docs'\n" for name in stale)
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text)
    return 0


def _phase(phase: Phase) -> tuple[object, ...]:
    row = PHASES[phase]
    shown = " → ".join((*row.via, row.status)) if row.status else "as before" if row.asks or row.entry else "none"
    return (
        phase,
        _listed(row.on_entry),
        shown,
        _listed(steps(phase, Side.BUY)),
        _listed(steps(phase, Side.SELL)),
        _targets(phase),
        row.no or "",
        row.timeout or "",
        row.cancel or "",
        _listed(f"{entry}: {to}" for entry, to in row.entry),
        row.fired or "",
        row.expiry or "",
        row.stale or "",
    )


def _ways(row: PhaseRow) -> Iterator[tuple[str, Phase]]:
    """Name what leads out of a phase besides a yes, and where to."""
    ways = (
        *(("no", row.no), ("timeout", row.timeout), ("cancel", row.cancel)),
        *(("a tick fires it", row.fired), ("expires_at", row.expiry), ("cannot be filled on entry", row.stale)),
    )
    yield from ((why, to) for why, to in ways if isinstance(to, Phase))


def _question(step: Step) -> tuple[object, ...]:
    row = QUESTIONS[step]
    return (
        step,
        row.participant,
        row.yes.__name__,
        row.no.__name__,
        f"{row.retry_s:g}",
        f"{row.retry_max_s:g}",
        _or_never(row.attempts_max, "no limit"),
        _or_never(row.patience_s, "never"),
        _or_never(row.overdue_s, ""),
    )


def _arrows(phase: Phase, side: Side, to: Phase | Way) -> list[str]:
    """Draw where a yes leads."""
    if phase is Phase.NEW:
        return [f"    [*] --> {to}: OrderRequested"]
    ends = BY_OUTCOME if to is Way.BY_OUTCOME else (to,)
    return [f"    {phase} --> {end}: {_asked(phase, side)} yes" for end in ends]


def _asked(phase: Phase, side: Side) -> str:
    word = "" if steps(phase, Side.BUY) == steps(phase, Side.SELL) else f"{side.lower()}: "
    return word + " and ".join(steps(phase, side))


def _targets(phase: Phase) -> str:
    row = dict(PHASES[phase].yes)
    same = len(set(row.values())) == 1
    return next(iter(row.values())) if same else ", ".join(f"{side.lower()}: {to}" for side, to in row.items())


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)


def _or_never(value: float | None, never: str) -> str:
    return never if value is None else f"{value:g}"


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
