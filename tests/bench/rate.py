"""Latency under a load with a fixed rate: low, and near the peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.bench.bar import bar
from tests.bench.ground import Ground
from tests.bench.hop import PATH, hop_ms
from tests.bench.load import Result
from tests.bench.rounds import Meter, in_words, per_order_us
from tests.bench.scenario import CPU, RATIOS, SPEED, Figures, Options, Outcome, Scenario, Target

LOW, HIGH = 0.15, 0.85
FEW_PER_S: Final = 10.0
FEW: Final = f"{FEW_PER_S:g} orders/s"
SMALL_BATCHES: Final = "CPU of the system for an order, at 15 % / at the peak"
HOPS: Final = f"p50 at 15 % of the peak / {len(PATH)} hops"
TOPIC: Final = "hop"
HOPS_MEASURED: Final = 40


async def measure(ground: Ground, options: Options) -> Outcome:
    """Measure in each round a hop on the idle broker, the peak, and orders at two shares of the peak."""
    contender = (await ground.system()).contender
    meter = Meter(ground)
    figures: Figures = {RATIOS: {}, SPEED: {}, CPU: {}}
    peak = await contender.run(options.warm_up, options.in_flight)
    with bar(ground.out, options.rounds * 5, "steps") as done:
        for number in range(1, options.rounds + 1):
            hop = await hop_ms(ground.kafka_bootstrap_servers, f"{ground.prefix}{TOPIC}", HOPS_MEASURED)
            _add(figures, SPEED, "one hop, p50 ms", hop)
            ground.out.print(f"round {number}: a hop {hop:.1f} ms")
            done()
            orders = max(options.in_flight, round(peak.orders_per_s * options.seconds))
            before, _ = await meter.read(contender.pids)
            peak = await contender.run(orders, options.in_flight)
            after, _ = await meter.read(contender.pids)
            at_peak = _of_system(per_order_us(before, after, peak.orders))
            _tell(figures, "peak", peak)
            ground.out.print(f"round {number}: peak {in_words(peak)}")
            done()
            few = await contender.carry(lambda load: load.paced(FEW_PER_S, options.seconds))
            _tell(figures, FEW, few)
            ground.out.print(f"round {number}: few  {in_words(few)}")
            done()
            for share in (LOW, HIGH):
                name, per_s = f"{share:.0%}".replace("%", " %"), share * peak.orders_per_s
                before, _ = await meter.read(contender.pids)
                result = await contender.carry(lambda load, per_s=per_s: load.paced(per_s, options.seconds))  # type: ignore[misc]  # one type it can't infer
                after, _ = await meter.read(contender.pids)
                _tell(figures, name, result)
                _add(figures, RATIOS, f"p99 / p50 at {name} of the peak", result.p99_ms / result.p50_ms)
                costs = per_order_us(before, after, result.orders)
                for process, used in costs.items():
                    _add(figures, CPU, f"at {name}: {process}", used)
                if share == LOW:
                    _add(figures, RATIOS, SMALL_BATCHES, _of_system(costs) / at_peak)
                    _add(figures, RATIOS, HOPS, result.p50_ms / (len(PATH) * hop))
                ground.out.print(f"round {number}: {name} {in_words(result)}")
                done()
    return Outcome(figures)


def _of_system(costs: Mapping[str, float]) -> float:
    """Sum up what the services and the servers cost, without the load."""
    return sum(cost for process, cost in costs.items() if process != "load")


def _add(figures: Figures, group: str, name: str, value: float) -> None:
    figures[group].setdefault(name, []).append(value)


def _tell(figures: Figures, name: str, result: Result) -> None:
    _add(figures, SPEED, f"{name}, orders/s", result.orders_per_s)
    _add(figures, SPEED, f"{name}, p50 ms", result.p50_ms)
    _add(figures, SPEED, f"{name}, p99 ms", result.p99_ms)


SCENARIO: Final = Scenario(
    name="rate",
    title="Latency at a rate",
    what=(
        "Orders come by chance, independent of each other and of what becomes of them (Poisson), ten a second, and at "
        "15 % and 85 % of the peak that was measured a moment before. Latency counts from the moment when an order was "
        "due. A hop is one message from sending to receiving on the same broker, quiet, with the system's own client "
        "settings."
    ),
    reading=(
        f"An order's path is {len(PATH)} messages that wait for one another. At 15 % nothing queues, so p50 divided "
        "by so many hops says how much the system adds to the broker: 1 would be nothing. At 85 % the ratio of p99 "
        "to p50 says how much of the waiting is bad luck."
    ),
    takes="4 min",
    sizes=("rounds", "seconds", "in_flight"),
    full=Options(seconds=15),
    quick=Options(1, 1, in_flight=100, warm_up=100),
    systems=("system",),
    topics=(TOPIC,),
    targets=(
        Target("unhurried, an order costs little more than its hops", HOPS, "at most", 1.3),
        Target("a few orders a second: hardly more than their commits", f"{FEW}, p50 ms", "at most", 35.0, SPEED),
        Target("an order in a small batch costs twice what it costs at the peak", SMALL_BATCHES, "at most", 2.0),
        Target("near the peak, no order has much bad luck", "p99 / p50 at 85 % of the peak", "at most", 2.0),
    ),
    measure=measure,
)
