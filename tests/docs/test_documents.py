"""What the documentation takes from the code is fresh, and the README's own promises hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import client, settings, topics
from docs.generate import openapi as api_documents
from docs.generate import saga as documents
from operations.access.settings import settings as all_settings
from operations.audit.checks import LOOKS
from order_saga.core.phases import BY_OUTCOME, PHASES, Way
from order_saga.core.saga import Phase
from tests.bench import page as performance
from tests.bench import scaling
from tests.evidence import record as evidence

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_saga_is_drawn_from_its_table() -> None:
    """`docs/saga.md` is what the table of phases says today."""
    assert documents.page() == documents.PAGE.read_text()


def test_the_readme_draws_the_saga_from_its_table() -> None:
    """The README's diagram is what the table of phases says today."""
    text = documents.README.read_text()
    assert documents.diagram() in text
    assert documents.readme(text) == text


def test_the_diagram_shows_every_phase_that_anybody_can_see() -> None:
    """No phase is left out of the drawing but the hidden one."""
    assert {phase for phase in PHASES if phase in documents.diagram()} == PHASES.keys() - {"NEW"}


def test_the_diagram_has_an_arrow_for_every_way_out_of_a_phase() -> None:
    """Wherever the table leads by an answer, a timeout, a cancel, a tick, a time or the market, an arrow leads too."""
    drawn = set(re.findall(r"^    ([A-Z]+) --> ([A-Z]+): ", documents.diagram(), re.MULTILINE))
    assert drawn == {
        (str(phase), str(to))
        for phase, row in PHASES.items()
        for to in (
            *(to for ways in (row.yes, row.entry) for _, to in ways),
            *(row.no, row.timeout, row.cancel, row.fired, row.expiry, row.stale),
            *(BY_OUTCOME if Way.BY_OUTCOME in dict(row.yes).values() else ()),
        )
        if phase is not Phase.NEW and isinstance(to, Phase)
    }


def test_the_table_of_phases_says_what_ends_the_wait_for_a_price() -> None:
    """Each phase has its row, with the way of a tick, of `expires_at`, and of the market on entry, in their columns."""
    head, _, *rows = re.findall(r"^\| (.*) \|$", documents.page().partition("## Questions")[0], re.MULTILINE)
    told = {cells[0]: dict(zip(head.split(" | "), cells, strict=True)) for row in rows if (cells := row.split(" | "))}
    assert told.keys() == PHASES.keys()
    for phase, row in PHASES.items():
        cells = told[phase]
        assert (row.fired or "", row.expiry or "") == (cells["a tick fires it"], cells["its expires_at"])
        assert ", ".join(f"{entry}: {to}" for entry, to in row.entry) == cells["left at once"]


def test_the_page_of_settings_is_made_from_the_classes_that_check_them() -> None:
    """`docs/settings.md` lists each variable that a service reads, and says what each means."""
    assert settings.page() == settings.PAGE.read_text()
    assert [] == [setting.variable for setting in all_settings() if not setting.meaning]


def test_the_page_of_topics_is_made_from_what_creates_and_checks_them() -> None:
    """`docs/topics.md` says how each topic must be, as the command that creates it does."""
    assert topics.page() == topics.PAGE.read_text()


def test_the_page_of_evidence_is_made_from_the_records_of_runs() -> None:
    """`docs/evidence.md` says what the records say, and nothing else."""
    assert evidence.page(evidence.records()) == evidence.PAGE.read_text()


def test_the_pages_of_performance_are_made_from_the_records_of_the_benchmark() -> None:
    """`docs/performance.md` and `docs/scaling.md` say what the records say, and nothing else."""
    records = evidence.read(performance.RECORDS)
    assert performance.page(records) == performance.PAGE.read_text()
    assert scaling.page(records) == scaling.PAGE.read_text()
    text = documents.README.read_text()
    assert (
        performance.claim(records).split() == text.partition(performance.BEGIN)[2].partition(performance.END)[0].split()
    )
    assert performance.readme(text, records) == text


def test_the_documents_of_the_api_are_made_from_its_tables() -> None:
    """`docs/openapi.json` and the pages of the problems are what the tables say today, and there is no other page."""
    assert [] == api_documents.stale(api_documents.documents())


def test_every_invariant_is_explained() -> None:
    """`docs/invariants.md` says what I1 to I13 are: those that the audit checks, in a row each."""
    explained = re.findall(r"^\| (I\d+) \|", (ROOT / "docs" / "invariants.md").read_text(), re.MULTILINE)
    assert [f"I{number}" for number in range(1, 14)] == explained
    assert set(explained) == {check.invariant for look in LOOKS for check in look.checks}


@pytest.mark.parametrize(
    "page",
    [path for place in ("*.md", "docs/**/*.md", "deploy/**/*.md") for path in sorted(ROOT.glob(place))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the project finds it."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_the_ledger_on_the_page_is_the_one_that_is_tested() -> None:
    """The page on balance services shows the ledger of `docs/examples/wallet_service.py`, to the letter."""
    example = (ROOT / "docs" / "examples" / "wallet_service.py").read_text()
    page = (ROOT / "docs" / "own-balance-service.md").read_text()
    shown = re.search(r"<!-- example -->\n```python\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert shown.group(1).rstrip() in example


def test_the_exceptions_of_the_client_are_those_of_the_table_of_problems() -> None:
    """`order_client/problems.py` is what the table says today."""
    assert client.module() == client.MODULE.read_text()


def test_decisions_are_short_and_complete() -> None:
    """An ADR has its number, under 50 lines, context, decision, consequences, alternatives and what enforces it."""
    wanted = ("**Context.**", "**Decision.**", "**Consequences.**", "**Alternatives.**", "**Enforced by.**")
    for page in sorted((ROOT / "docs" / "adr").glob("0*.md")):
        text = page.read_text()
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        assert (True, len(text.splitlines()) < 50) == (all(part in text for part in wanted), True), page.name
