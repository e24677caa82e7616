"""What the architecture page, the glossary and the recipes name is there, and private words do not come back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from contracts.codec import MESSAGES
from contracts.topics import TOPICS
from migrations.logins import GROUPS, PREFIX
from operations.access.settings import settings
from order_api.orders.tables import SCHEMA as API
from order_saga.core.phases import PHASES
from order_saga.worker.tables import SCHEMA as ORDERS
from participants.assets.tables import SCHEMA as ASSETS
from participants.balance.tables import SCHEMA as BALANCES
from projections.webhooks.tables import SCHEMA as WEBHOOKS
from tests.support.project import ROOT
from tests.test_design import MAY_IMPORT

DOCS: Final = ROOT / "docs"
ARCHITECTURE: Final = (DOCS / "architecture.md").read_text()
NAMING: Final = (DOCS / "architecture.md", DOCS / "glossary.md", ROOT / "CONTRIBUTING.md")
RECORDED: Final = {DOCS / "evidence.md"}  # its words are those of records of earlier versions
PAGES: Final = sorted(
    {
        *ROOT.glob("[RS]*.md"),
        ROOT / "CONTRIBUTING.md",
        *DOCS.glob("*.md"),
        *DOCS.glob("orders/*.md"),
        *DOCS.glob("problems/*.md"),
    }
    - RECORDED
)

PRIVATE: Final = {
    r"\bsilence\b": "timeout, no answer",
    r"\bbookmarks?\b": "offset commit",
    r"\bdoors?\b": "the API, the outermost middleware",
    r"\bgates?\b": "authentication",
    r"\bbells?\b": "notification",
    r"(?<!dead )(?<!dead-)(?<!to the )\bletters?\b": "dead letter",
    r"\bstrangers?\b": "somebody who is not trusted",
    r"\bintake window\b": "admission limit",
}
"""Words that only this project used, and what to say instead."""

PROCESSES: Final = {"api": API, "orchestrator": ORDERS, "balance": BALANCES, "assets": ASSETS, "webhooks": WEBHOOKS}


def _table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose head begins with a cell."""
    lines = text[text.index(f"| {first} |") :].split("\n\n", maxsplit=1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """A path in the text of a page is a file or a folder of the project."""
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+(?:\.[a-z]+)?)`", page.read_text()))
    assert named
    assert [] == sorted(path for path in named if not (ROOT / path).exists())


def test_every_process_has_the_topics_that_it_may_use() -> None:
    """The table's topics are those of the rights on the broker, and all topics of the contract are there."""
    told: dict[tuple[str, str], set[str]] = {}
    for started, reads, writes, *_ in _table(ARCHITECTURE, "process"):
        name = started.strip("`").removeprefix("order-saga ")
        told |= {(name, "read"): set(re.findall(r"[\w.]+", reads)), (name, "write"): set(re.findall(r"[\w.]+", writes))}
    rights: dict[tuple[str, str], set[str]] = {}
    for line in (ROOT / "deploy" / "acls.txt").read_text().splitlines():
        login, *right = line.split()
        if login in PROCESSES and right[0] in {"read", "write"}:
            rights.setdefault((login, right[0]), set()).update(right[1:])
    assert rights == {key: topics for key, topics in told.items() if key[0] in PROCESSES and topics}
    assert {topic.name for topic in TOPICS} == set().union(*told.values())


def test_every_process_has_its_schema_login_and_port() -> None:
    """They are those of the tables, of the migrations and of the settings."""
    rows = [[cell.strip("`") for cell in row] for row in _table(ARCHITECTURE, "process")]
    told = {row[0].removeprefix("order-saga "): row[3:] for row in rows}
    ports = next(one.default for one in settings() if one.variable == "HTTP_PORT")
    assert {name: cells[0] for name, cells in told.items()} == PROCESSES | {"audit": "audit"}
    assert {cells[1] for cells in told.values()} == {PREFIX + login for login in GROUPS}
    assert [told[name][2] for name in PROCESSES] == ["8000", "8001", "8002", "8003", "8006"]
    assert "8000 to 8003, 8006" == ports


def test_messages_statuses_and_phases_are_real() -> None:
    """Each word in capitals and each message's name on the page is one of the wire or of the saga."""
    words = set(re.findall(r"`([A-Z]{3,})`", ARCHITECTURE))
    statuses = {status for row in PHASES.values() for status in (*row.via, row.status)}
    assert words <= {*PHASES, *statuses}
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", ARCHITECTURE))
    assert (True, set()) == (len(named) > 5, named - MESSAGES.keys())


def test_the_rooms_are_those_of_the_design() -> None:
    """Each room of the page is a folder; each room of the design is on the page, by itself or within another one."""
    rooms = {row[0].strip("`") for row in _table(ARCHITECTURE, "room")}
    assert [] == [room for room in rooms if not (ROOT / room).is_dir()]
    law = {room.replace(".", "/") for room in MAY_IMPORT if "docs" not in room}
    law = {room for room in law if (ROOT / room).is_dir()}
    known = {room for room in law for one in rooms if f"{room}/".startswith(f"{one}/") or one.startswith(f"{room}/")}
    assert set() == law - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_private_words_do_not_come_back(page: Path) -> None:
    """A page says things by the words of the glossary."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`|\]\([^)]*\)", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = {
        word[0]: instead for private, instead in PRIVATE.items() for word in re.finditer(private, text, re.IGNORECASE)
    }
    assert {} == found
