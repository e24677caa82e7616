"""The published evidence: a JSON record of what each long run did and found, and the page generated from the records.

With `--record` a run writes its record, so nobody types a figure. `python -m tests.evidence.record` generates
`docs/evidence.md` from the records, and a test fails when the page is stale.
"""

from __future__ import annotations

import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.support.project import ROOT, git

RECORDS: Final = ROOT / "docs" / "evidence"
PAGE: Final = ROOT / "docs" / "evidence.md"


class Table(msgspec.Struct, frozen=True):
    """A table of a record: its heading, the names of its columns, and its rows as text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class Spread(msgspec.Struct, frozen=True):
    """A figure that was measured in several rounds."""

    median: float
    least: float
    most: float
    rounds: list[float]


class Record(msgspec.Struct, frozen=True):
    """What one run did and found. `counts` are figures by their names, in the order in which they are shown."""

    name: str
    """The file's name: simulation, crash-matrix, chaos, mutants, pressure, restart; or a benchmark's."""
    title: str
    what: str
    """What was done, in a sentence or two, without figures."""
    command: str
    """The command that repeats it."""
    commit: str
    changed: bool
    """Whether the working tree differed from that commit."""
    began_at: str
    duration_s: float
    machine: str
    counts: dict[str, int | float | str]
    tables: list[Table] = []
    found: list[str] = []
    """The faults found, a line each; empty when all was well."""
    figures: dict[str, dict[str, Spread]] = {}
    """For a benchmark: the figures measured in rounds, by group and name."""


class Run:
    """Times a run and writes its record."""

    def __init__(self, name: str, title: str, what: str, command: str) -> None:
        self._head = {"name": name, "title": title, "what": what, "command": command}
        self._commit, self._changed = _commit()
        self._began_at, self._began = datetime.now(UTC), time.monotonic()

    def record(
        self,
        counts: dict[str, int | float | str],
        *,
        servers: str = "",
        tables: list[Table] | None = None,
        found: list[str] | None = None,
        figures: dict[str, dict[str, Spread]] | None = None,
    ) -> Record:
        """Make the record; `servers` says which PostgreSQL and broker were used, if any."""
        machine = f"{os.cpu_count()} CPUs, Python {platform.python_version()}"
        return Record(
            **self._head,
            commit=self._commit,
            changed=self._changed,
            began_at=self._began_at.strftime("%Y-%m-%d %H:%M UTC"),
            duration_s=round(time.monotonic() - self._began, 1),
            machine=f"{machine}, {servers}" if servers else machine,
            counts=counts,
            tables=tables or [],
            found=found or [],
            figures=figures or {},
        )


def write(record: Record, folder: Path = RECORDS) -> Path:
    """Write a record; it replaces the one of an earlier run."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{record.name}.json"
    path.write_text(json.dumps(msgspec.to_builtins(record), indent=1, ensure_ascii=False) + "\n")
    return path


def page(records: list[Record]) -> str:
    """Generate the page from the records."""
    parts = [_HEAD, *(_section(record) for record in records)]
    return "\n\n".join(parts) + "\n"


def read(folder: Path) -> list[Record]:
    """Read the records of a folder, by name."""
    return [msgspec.json.decode(path.read_bytes(), type=Record) for path in sorted(folder.glob("*.json"))]


def records() -> list[Record]:
    """Read the records, in the order of the page."""
    known = read(RECORDS)
    return sorted(known, key=lambda record: (_ORDER.index(record.name) if record.name in _ORDER else 99, record.name))


_ORDER: Final = ("simulation", "crash-matrix", "chaos", "upheavals", "mutants", "pressure", "restart", "audit")
_HEAD: Final = """# Evidence

Generated from the records of the last full runs (`docs/evidence/*.json`); nothing here is typed by hand. Each section
says what was run, at which commit, for how long, and what it found."""


def _section(record: Record) -> str:
    lines = [f"## {record.title}", record.what, f"`{record.command}`", circumstances(record)]
    lines.append(table_of(["figure", ""], [[name, figure(value)] for name, value in record.counts.items()]))
    for table in record.tables:
        lines += [f"### {table.title}", table_of(table.columns, table.rows)]
    lines.append("Found wrong:" if record.found else "Nothing was found wrong.")
    lines += ["\n".join(f"- {one}" for one in record.found)] if record.found else []
    return "\n\n".join(lines)


def circumstances(record: Record) -> str:
    """Describe a run: its commit, time, duration and machine."""
    commit = f"`{record.commit}`" + (" with changes that were not committed" if record.changed else "")
    return f"Commit {commit}, {record.began_at}, {_duration(record.duration_s)}; {record.machine}."


def table_of(columns: list[str], rows: list[list[str]]) -> str:
    """Draw a table."""
    cells = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def figure(value: float | str) -> str:
    """Write a figure for people."""
    return value if isinstance(value, str) else f"{value:,}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _commit() -> tuple[str, bool]:
    own = [
        f":!{folder}" for folder in ("docs/evidence", "docs/performance")
    ]  # the run before may have written its record
    changed = git("status", "--porcelain", "-uno", "--", ".", *own)
    return git("rev-parse", "--short=12", "HEAD") or "unknown", bool(changed)


if __name__ == "__main__":
    PAGE.write_text(page(records()))
