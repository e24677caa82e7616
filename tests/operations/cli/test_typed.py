"""Whatever is typed, the answer is a line and no stack trace: exit 2 for wrong usage, 1 for trouble."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
import typer.main
from sqlalchemy import make_url

from local_stack.ports import free_ports
from operations.cli import app, main
from order_client import Retry
from tests.e2e.system import Output
from tests.operations.cli.support import Terminal

GARBAGE: Final = (
    *("a b", "@market", "", "nan", "inf", "1e999", "\u0663", "x" * 300, "../../etc/passwd", "\udcff", "[red]", "%s"),
    *("00000000-0000-0000-0000-000000000000", "orders/\u00b2", "/5", "2026-13-01", "9" * 40),
)
LONG_LIVED: Final = frozenset({"up", "demo", "api", "orchestrator", "balance", "assets"})
"""They start something that runs on; their settings have tests of their own."""
GOOD: Final = {
    "order_type": "MARKET_BUY", "asset": "BTC", "quantity": "1", "user": "alice", "order_id": str(UUID(int=1)),
    "order_ids": str(UUID(int=1)), "participant": "balance", "letter": "orders/1", "letters": "orders/1",
    "successor": "ledger", "file": "pyproject.toml", "reason": "a test", "deposit_id": "d-1", "price": "50000",
    "timeout_s": "60", "hold_id": str(UUID(int=1)), "calendar": "pyproject.toml",
    "webhook_id": str(UUID(int=1)), "url": "https://bot.example/", "event_id": "x:v1", "since": "2026-01-31T12:00:00Z",
}  # fmt: skip


def _commands(group: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    subcommands: Mapping[str, Any] | None = getattr(group, "commands", None)
    if subcommands is None:
        yield name, group
        return
    for each, command in subcommands.items():
        yield from _commands(command, (*name, each))


COMMANDS: Final = dict(_commands(typer.main.get_command(app)))


def _takes_value(parameter: Any) -> bool:
    return parameter.param_type_name == "argument" or not parameter.is_flag


def _typings(name: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    """Give each argument and option each piece of garbage once, beside good values of the required ones."""
    valued = [one for one in command.params if _takes_value(one)]
    for wrong in valued:
        for garbage in GARBAGE:
            words = list(name)
            for one in valued:
                required = one.required or one.param_type_name == "argument"
                value = garbage if one is wrong else GOOD.get(one.name or "") if required else None
                if value is not None and one.param_type_name == "option":
                    words.append(f"{max(one.opts, key=len)}={value}")
            arguments = [one for one in valued if one.param_type_name == "argument"]
            words += ["--", *(garbage if one is wrong else GOOD[one.name or ""] for one in arguments)]
            yield tuple(words)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Point every address at a port on which nobody listens."""
    ports = dict(zip(("database", "broker", "API"), free_ports(3), strict=True))
    monkeypatch.setenv("DATABASE_URL", f"postgresql://a:b@127.0.0.1:{ports['database']}/c")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{ports['broker']}")
    monkeypatch.setenv("ORDER_API_URL", f"http://127.0.0.1:{ports['API']}")
    monkeypatch.setenv("JWT_SECRET", "x" * 32)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("operations.access.rest._RETRY", Retry(times=0))  # nobody will come
    return ports


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Type words at `order-saga`, in this process."""

    def type_(*words: str) -> Output:
        monkeypatch.setattr(sys, "argv", ["order-saga", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        printed = capfd.readouterr()
        return Output(code if isinstance(code, int) else int(bool(code)), printed.out, printed.err)

    return type_


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if name[0] not in LONG_LIVED), ids="-".join)
def test_garbage_is_answered_in_words(name: tuple[str, ...], away: dict[str, int], typed: Any) -> None:
    """Each argument of each command, with no server to connect to: exit 0, 1 or 2, and no stack trace."""
    assert away
    for words in _typings(name, COMMANDS[name]):
        output = typed(*words)
        assert (words, True, False) == (words, output.code in {0, 1, 2}, "Traceback" in output.err)
        assert output.code == 0 or output.err.strip()


@pytest.mark.parametrize("name", sorted(COMMANDS), ids="-".join)
def test_what_no_command_takes_is_exit_2(name: tuple[str, ...], away: dict[str, int], typed: Any) -> None:
    """An unknown option is wrong usage, everywhere."""
    assert away
    output = typed(*name, "--no-such-option")
    assert (2, "") == (output.code, output.out)
    assert "No such option: --no-such-option" in output.err


def test_what_a_cancel_by_rest_does_not_do_is_refused(away: dict[str, int], typed: Any) -> None:
    """With `--as` no other option is dropped without a word, a dry run above all: exit 2, and nobody is asked."""
    assert away
    others = [one for one in COMMANDS["cancel",].params if one.param_type_name == "option" and one.name != "as_user"]
    assert {"dry_run", "limit", "run_id", "phase", "parked_reason", "yes"} <= {one.name for one in others}
    for one in (one for one in others if one.name != "help"):
        words = [max(one.opts, key=len), *(["7"] if _takes_value(one) else [])]
        output = typed("cancel", GOOD["order_id"], "--as", "alice", *words)
        assert (words, 2, True) == (words, output.code, "takes no other option" in output.err)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("accounts", "alice"), "database"),
        (("stuck",), "database"),
        (("pauses",), "database"),
        (("audit",), "database"),
        (("check-deploy",), "database"),
        (("migrate",), "database"),
        (("sample-data",), "database"),
        (("topics",), "broker"),
        (("orders",), "API"),
        (("submit", "MARKET_BUY", "BTC", "1"), "API"),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_what_cannot_be_reached_is_named(words: tuple[str, ...], what: str, away: dict[str, int], typed: Any) -> None:
    """The last line names the server and its address; exit 1."""
    output = typed(*words)
    last = output.err.splitlines()[-1]
    assert (1, True, True) == (output.code, f"the {what} at" in last, f"127.0.0.1:{away[what]}" in last), last


async def test_a_deposit_that_is_known_with_another_amount_is_told(db: Terminal) -> None:
    """Exit 1 and the reason; the same deposit again is fine; names that are none are exit 2."""
    assert 0 == (await db.cli("deposit", "alice", "USD", "5", "--id", "d-1")).code
    assert 0 == (await db.cli("deposit", "alice", "USD", "5", "--id", "d-1")).code
    other = await db.cli("deposit", "alice", "USD", "6", "--id", "d-1")
    assert (1, "order-saga: deposit d-1 was already made, with other terms\n") == (other.code, other.err)
    for words in (("a b", "USD", "5"), ("@market", "USD", "5"), ("alice", "U D", "5"), ("alice", "USD", "five")):
        assert 2 == (await db.cli("deposit", *words)).code


async def test_a_user_whom_nobody_knows_is_not_erased(db: Terminal) -> None:
    """A mistyped user must not look like a success; a known user with nothing to erase is fine."""
    unknown = await db.cli("erase-user", "alcie")
    assert (1, True) == (unknown.code, "nobody knows a user alcie" in unknown.err)
    await db.cli("deposit", "alice", "USD", "5")
    assert 0 == (await db.cli("erase-user", "alice")).code


async def test_the_database_says_no_in_one_line(db: Terminal) -> None:
    """A login that it does not know: exit 1, and where that database is."""
    url = make_url(db.url).set(username="nobody", password="wrong").render_as_string(hide_password=False)
    output = await db.cli("accounts", "alice", DATABASE_URL=url)
    assert (1, 1) == (output.code, len(output.err.splitlines()))
    assert "nobody" in output.err


async def test_a_pause_is_named_and_what_it_hides_is_exit_1(db: Terminal) -> None:
    """However young the order is; `pauses` lists it, for people and for programs."""
    nobody = await db.cli("pauses")
    assert (0, "nobody is paused\n") == (nobody.code, nobody.out)
    assert 0 == (await db.cli("pause", "assets", "--reason", "new disks", "--by", "ops")).code
    empty = await db.cli("stuck")
    assert (0, True) == (empty.code, "assets is paused since " in empty.err)
    order_id = await db.begin(1)
    stuck = await db.cli("stuck", "--json")
    assert (1, [str(order_id)]) == (stuck.code, [one["order_id"] for one in json.loads(stuck.out)])
    told = await db.cli("pauses")
    assert (0, True) == (told.code, told.out.startswith("assets is paused since "))
    assert told.out.endswith(" by ops: new disks\n")
    [listed] = json.loads((await db.cli("pauses", "--json")).out)
    assert ("assets", "ops", "new disks") == (listed["participant"], listed["paused_by"], listed["reason"])


async def test_version_and_completion() -> None:
    """`--version` says which it is; a shell that asks for completions gets them."""
    script = Path(sys.executable).parent / "order-saga"
    assert f"order-saga {version('order-saga')}\n" == await asyncio.to_thread(_printed, script, "--version")
    asked = {"_ORDER_SAGA_COMPLETE": "complete_bash", "COMP_WORDS": "order-saga dead-", "COMP_CWORD": "1"}
    assert "dead-letters" == (await asyncio.to_thread(_printed, script, **asked)).strip()


def _printed(script: Path, *words: str, **environment: str) -> str:
    return subprocess.run(  # noqa: S603 - the project's own command
        [script, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    ).stdout
