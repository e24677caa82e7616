"""What the pages show of a terminal, taken from real runs against `make run`; `make docs` writes it.

A console block behind the mark `<!-- transcript -->` holds commands (`$ ...`) and what they print. They run to the
letter, in a folder that looks like a checkout. Ids, times and durations differ from run to run: a page is written
again only when something else does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local_stack.errors import StackError
from local_stack.ports import require_free
from local_stack.stack import FIXED_PORTS

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "docs" / "kafka.md",
    ROOT / "docs" / "rest.md",
    ROOT / "docs" / "orders" / "README.md",
)
SCRIPT: Final = re.compile(r"<!-- (\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)
READY: Final = "Ctrl-C ends it"
PATIENCE_S: Final = 120.0
USUAL_ADDRESS: Final = "localhost:9092"
USUAL_API: Final = "http://127.0.0.1:8000"
_BLOCK: Final = re.compile(r"(<!-- transcript -->\n```console\n)(.*?)(```)", re.DOTALL)
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MASKS: Final = (
    (_ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\d\d:\d\d:\d\d(?:\.\d{3})?"), "TIME"),
    (re.compile(r"\+\d+\.\d{3} s"), "AFTER"),
    (re.compile(r", confirmed \d+(?:\.\d+)? s ago"), ""),  # once the price is old enough for the two to differ
    (re.compile(r"\d+(?:\.\d+)? s ago"), "AGO"),
)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder like a checkout in which `make run` runs.

    `address`, `api`: of its broker and its API, for which the pages name the usual ones.
    """

    folder: Path
    address: str
    api: str

    def run(self, command: str) -> str:
        """Run a command as it is typed there; return what it printed, to stderr too."""
        ended = subprocess.run(  # noqa: S603 - the project's own pages
            ["/bin/bash", "-c", command.replace(USUAL_API, self.api)],
            cwd=self.folder,
            env=_environment() | {"KAFKA_BOOTSTRAP_SERVERS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return str(ended.stdout)


@contextmanager
def running(folder: Path) -> Iterator[Checkout]:
    """Type `make run` in a folder that looks like a checkout, on the usual ports unless somebody has them."""
    for name in (".venv", "Makefile", "docs"):
        (folder / name).symlink_to(ROOT / name)
    try:
        for purpose, port in FIXED_PORTS.items():
            require_free(port, purpose)
        usual = True
    except StackError:
        usual = False
    said = folder / "make-run.log"
    with said.open("w") as log:
        # -o: what is installed is as it should be. More patience, so that no question is asked twice on a busy machine.
        words = "--time-scale 5" if usual else "--time-scale 5 --free-ports"
        command = ["make", "-o", ".venv/.runtime.stamp", "run", f"ARGS={words}"]
        make = subprocess.Popen(  # noqa: S603
            command, cwd=folder, env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while READY not in said.read_text():
            assert make.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        state = json.loads((folder / ".local" / "stack.json").read_text())
        address = USUAL_ADDRESS if usual else str(state["kafka_bootstrap_servers"])
        for page in PAGES:
            for name, script in SCRIPT.findall(page.read_text()):
                (folder / name).write_text(script.replace(USUAL_ADDRESS, address))
        yield Checkout(folder, address, str(state["api"]))
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        make.wait(PATIENCE_S)


def shape(text: str) -> str:
    """Mask what differs from run to run."""
    # Whether the last event is acknowledged yet when somebody looks is a matter of milliseconds.
    text = re.sub(r"^events not yet acknowledged by the broker: .*\n", "", text, flags=re.MULTILINE)
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    text = re.sub(r"[ ━─]+", " ", text)
    # Where the last cell of a row is folded follows from how wide its times are.
    return re.sub(r" │\n│ │ │ │ ([^│\n]*) │", r" \1 │", text)


def played(page: str, checkout: Checkout) -> str:
    """Run a page's transcripts; return the page with what they print now.

    An id that a command printed is the one that later commands of the page mean.
    """
    ids: dict[str, str] = {}

    def play(block: re.Match[str]) -> str:
        parts = re.split(r"^\$ (.*)\n", block[2], flags=re.MULTILINE)
        told = []
        for command, before in zip(parts[1::2], parts[2::2], strict=True):
            typed = _ID.sub(lambda found: ids.get(found[0], found[0]), command)
            after = checkout.run(typed)
            ids.update(zip(_ID.findall(before), _ID.findall(after), strict=False))
            told.append(f"$ {typed}\n{after.rstrip()}".rstrip() + "\n")
        return block[1] + "\n".join(told) + block[3]

    return _BLOCK.sub(play, page)


def _environment() -> dict[str, str]:
    """Return ours, with the programs of the environment first, and none of the settings of a system."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "PG", "MAKE"))}
    ours.pop("DATABASE_URL", None)
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return ours | {"PATH": path, "COLUMNS": "100", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def main() -> None:
    """Write the pages whose transcripts are not what their commands print."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as checkout:
        for page in PAGES:
            before = page.read_text()
            after = played(before, checkout)
            if shape(before) != shape(after):
                page.write_text(after)


if __name__ == "__main__":
    main()
