"""Whether one busy account limits the balance service: one user of a million sends half of all orders."""

from __future__ import annotations

from typing import Final

from tests.bench.ground import Ground
from tests.bench.load import ACCOUNTS, Users
from tests.bench.peers import Crowd
from tests.bench.rounds import Round, figures_of, likeness, rounds_of
from tests.bench.scenario import RATIOS, SPEED, Options, Outcome, Scenario, Target

STRIDE: Final = 7919
"""A prime step, which visits all accounts and never two neighbours one after the other."""


def even(accounts: int) -> Users:
    """Let all accounts order one after the other, in steps of `STRIDE`."""
    return lambda number: f"bench-{number * STRIDE % accounts}"


def hot(accounts: int) -> Users:
    """Let the first account send every second order, and all accounts the others."""
    others = even(accounts)
    return lambda number: "bench-0" if number % 2 == 0 else others(number)


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure the two loads alternately."""
    system = (await ground.system(users=options.accounts)).contender
    crowds = [Crowd("hot", system, hot(options.accounts)), Crowd("even", system, even(options.accounts))]
    rounds = await rounds_of(ground, options, crowds)
    figures = figures_of(rounds, [("hot", "even")])
    figures[RATIOS] |= likeness(rounds, "hot", "even")
    for crowd in crowds:
        figures[RATIOS][f"{crowd.name}: orders for a core of balance / of the orchestrator"] = [
            _cpu(measured, crowd.name, "orchestrator") / _cpu(measured, crowd.name, "balance") for measured in rounds
        ]
        for process in ("balance", "orchestrator"):
            figures[SPEED][f"{crowd.name}: orders/s for a core of {process}"] = [
                1e6 / _cpu(measured, crowd.name, process) for measured in rounds
            ]
    return Outcome(figures, {"accounts": options.accounts})


def _cpu(measured: Round, name: str, process: str) -> float:
    return max(1.0, measured[name].cpu_us_per_order[process])


SCENARIO: Final = Scenario(
    name="hot",
    title="One hot account",
    what=(
        "A million accounts. In turn: orders of all of them evenly, and orders half of which are one account's. One "
        "orchestrator, one balance service."
    ),
    reading=(
        "All commands of an account go through one partition, to one balance service, one after another: what a core "
        "of it carries is what the busiest account can have. While that is more than a core of the orchestrator "
        "carries, an account is not what stops one of each. A batch moves an account once, however many of its "
        "orders are in it, so a hot account should cost less rather than more."
    ),
    takes="4 min",
    sizes=("rounds", "seconds", "accounts", "in_flight"),
    full=Options(rounds=4, accounts=1_000_000),
    quick=Options(1, 0.4, accounts=ACCOUNTS, in_flight=100, warm_up=100),
    systems=("system",),
    targets=(
        Target(
            "a hot account costs the balance service nothing more",
            "hot / even, CPU per order of balance",
            "at most",
            1.0,
        ),
        Target("as many orders a second", "hot / even, orders/s", "at least", 1.0),
        Target(
            "the balance service is not the first to be full",
            "hot: orders for a core of balance / of the orchestrator",
            "at least",
            1.0,
        ),
    ),
    measure=measure,
)
