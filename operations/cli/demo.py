"""The command `demo`: start a system if need be, play every scene, print what was shown."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table

from operations.access.system import api_url, database_url, kafka_settings, ledger_setting, signer
from operations.cli.inspect import print_story
from operations.cli.printing import err, log_to_stderr, out, print_json, print_table, status_colour
from operations.demo.play import PATIENCE_S, STARTING_S, TIME_SCALE, Target, play
from operations.demo.samples import load_samples
from saga_kit.runtime.settings import KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from local_stack.stack import LocalStack
    from operations.demo.live import Telling
    from operations.demo.play import Played
    from operations.demo.scenes import Scene

NEXT: Final = """\
next: make run    keeps such a system running; README.md, "Use it", goes on from there
      make test   all tests: most of an hour on two cores"""


async def run_here(*, json: bool) -> int:
    """Play against the system that runs already, at its own pace; 0 when everything came out as announced."""
    where = api_url(), database_url(), kafka_settings(), signer()
    target = Target(*where, PATIENCE_S, ledger_setting(), may_leave_out=True)
    return 0 if await _show(target, json=json) else 1


async def run_demo(*, keep: bool, json: bool) -> int:
    """Play against a system of its own, at a tenth of its pace; 0 when everything came out as announced."""
    from local_stack.errors import StackError  # it needs the extra `local`, which `run_here` does without
    from local_stack.stack import LocalStack, StackOptions

    began = time.monotonic()

    async def samples(logins: Mapping[str, str]) -> None:
        await load_samples(logins, TIME_SCALE)

    options = StackOptions(time_scale=TIME_SCALE, load_samples=samples)
    stack = LocalStack(Path(tempfile.mkdtemp(prefix="order-saga-demo-")), options, err if json else out)
    try:
        async with stack:
            good = await _show(_target(stack), json=json)
        (err if json else out).print(f"\n{time.monotonic() - began:.0f} s, nothing is left running\n{NEXT}")
    except StackError as error:
        err.print(f"[red]{escape(str(error))}[/]")
        return 1
    finally:
        if not keep:
            await stack.remove()
    return 0 if good else 1


def _target(stack: LocalStack) -> Target:
    kafka = KafkaSettings(  # all of it: the environment may be meant for another broker, with TLS and a login
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        kafka_topic_prefix="",
        kafka_security_protocol="PLAINTEXT",
        kafka_ssl_cafile=None,
    )
    patience_s = PATIENCE_S * TIME_SCALE + STARTING_S
    return Target(stack.api_url, stack.database_url, kafka, signer(stack.jwt_secret), patience_s, ledger_setting())


async def _show(target: Target, *, json: bool) -> bool:
    log_to_stderr()
    with err.status("orders are submitted ...") as status:
        played = await play(target, status.update)
    if json:
        shown = [{"title": s.title, "order_id": s.order_id, "announced": s.ends, "ended": e} for s, e in played.scenes]
        shown += [
            {"title": one.title, "order_id": one.order_id, "announced": one.announced, "ended": one.told}
            for one in played.tellings
        ]
        print_json(shown)
    else:
        print_scenes(played.scenes)
        print_tellings(played.tellings)
        _print_rest(played)
    verdict = "[green]everything came out as announced[/]" if played.good else "[red]not as announced[/]"
    (err if json else out).print(f"\n{verdict}")
    return played.good


def print_scenes(shown: list[tuple[Scene, str]]) -> None:
    """Print a table of the orders and how each ended."""
    table = Table("what", "order", "ended as announced", title="every way an order can end", title_justify="left")
    table.columns[2].no_wrap = True
    for scene, ended in shown:
        colour = status_colour(ended.split(" ")[0])
        good = f"[green]✓[/] [{colour}]{ended}[/]"
        verdict = good if ended == scene.ends else f"[red]✗ {ended}, not {scene.ends}[/]"
        side = scene.body["order_type"].removeprefix("MARKET_").lower().replace("_", " ")
        table.add_row(scene.title, f"{scene.user} {side} {scene.body['quantity']} {scene.body['asset_id']}", verdict)
    print_table(table)


def print_tellings(tellings: list[Telling]) -> None:
    """Print a table of what told of an order live, and what it said."""
    table = Table("what", "told as announced", title="whoever waits is told", title_justify="left")
    for one in tellings:
        as_announced = f"[green]✓[/] {escape(one.told)}"
        left_out = f"[yellow]○ {escape(one.told)}[/]"
        wrong = f"[red]✗ {escape(one.told)}, not {one.announced}[/]"
        table.add_row(one.title, (as_announced if one.told == one.announced else left_out) if one.good else wrong)
    print_table(table)


def _print_rest(played: Played) -> None:
    for title, good in played.extras:
        out.print(f"{'[green]✓[/]' if good else '[red]✗[/]'} {title}")
    print_story(played.story)
    for finding in played.findings:
        out.print(f"[red]{finding.invariant} {finding.order_id}: {escape(finding.what)}[/]")
    findings = len(played.findings)
    out.print(f"[red]audit: {findings} findings[/]" if findings else "[green]audit: I1 to I13 hold[/]")
