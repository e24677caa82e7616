"""The page about holds shows its example as it stands; `tests/e2e/test_holds.py` runs it."""

from __future__ import annotations

import re

from contracts.holds import HELD_AT_MOST, HoldRefusal
from participants.balance.service_holds import DESTINATIONS
from tests.support.project import ROOT

PAGE = (ROOT / "docs" / "holds.md").read_text()
EXAMPLE = (ROOT / "docs" / "examples" / "withdrawal.py").read_text()


def test_the_page_shows_the_example_as_it_is() -> None:
    """The block of the page is a part of the file, to the letter."""
    block = re.search(r"<!-- example -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert block[1] in EXAMPLE


def test_the_page_has_what_the_ledger_allows() -> None:
    """Where a capture may pay, how far away `expires_at` may be, and the refusals that need words."""
    assert all(f"`{account}`" in PAGE for account in DESTINATIONS)
    assert f"at most {HELD_AT_MOST.days} days" in PAGE
    told = {"HOLD_CONFLICT", "EXCEEDS_HOLD", "DESTINATION_NOT_ALLOWED", "NOT_HELD", "CLOSED"}
    assert told <= {code for code in HoldRefusal if f"`{code}`" in PAGE}
