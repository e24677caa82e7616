"""What README.md and docs/kafka.md tell a newcomer to type works to the letter, against what `make run` runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import transcripts
from tests.docs.transcripts import PAGES, ROOT, SCRIPT, Checkout, running, shape

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Run the system as README says, in a folder of its own."""
    with running(tmp_path_factory.mktemp("checkout")) as one:
        yield one


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_of_a_terminal_is_what_its_commands_print(page: Path, checkout: Checkout) -> None:
    """Each command of a transcript, typed as it stands, prints what stands there but for ids, times and durations."""
    text = page.read_text()
    assert shape(text) == shape(transcripts.played(text, checkout)), "python -m tests.docs.transcripts writes it again"


def test_an_order_of_the_readmes_own_producer_is_executed(checkout: Checkout) -> None:
    """Its script, saved and run against the broker of `make run`, is an order that completes."""
    sent = checkout.run("python order.py")
    order_id = sent.removesuffix(" is sent\n")
    deadline = time.monotonic() + transcripts.PATIENCE_S
    while "COMPLETED version 4" not in (told := checkout.run(f".venv/bin/order-saga inspect {order_id}")):
        assert time.monotonic() < deadline, sent + told
    assert "MARKET_BUY BTC of alice" in told


def test_the_readmes_producer_says_what_is_wrong_and_ends(tmp_path: Path) -> None:
    """With no broker at the address: within seconds one line that names the address and where the right one stands."""
    ((name, script),) = SCRIPT.findall(README)
    (tmp_path / name).write_text(script.replace("localhost:9092", "localhost:1"))
    ended = subprocess.run(  # noqa: S603 - the project's own page
        [sys.executable, name], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in ended.stderr.splitlines() if not line.startswith("%")]  # librdkafka's log
    assert (1, "", 1) == (ended.returncode, ended.stdout, len(said))
    assert said[0].startswith("order.py: localhost:1 did not take the order: ")
    assert said[0].endswith(". `make run` says at which address its broker is")


def test_every_verb_that_a_page_names_exists() -> None:
    """A `make` command on a page is a rule of the Makefile."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {verb for page in pages for verb in re.findall(r"^\$ make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (True, set()) == (len(named) > 5, named - rules)
