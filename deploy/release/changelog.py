"""The changelog as text: what `[Unreleased]` holds becomes the notes of a version. It reads and writes no file."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

UNRELEASED: Final = "## [Unreleased]"
_SECTION: Final = re.compile(r"^## \[(?P<name>[^\]]+)\].*\n(?P<notes>(?:(?!## \[|\[[^\]]+\]: ).*\n?)*)", re.MULTILINE)
_LINK: Final = re.compile(r"^\[Unreleased\]: (?P<compare>\S+/compare/)(?P<last>v\S+)\.\.\.HEAD$", re.MULTILINE)


def notes(text: str, name: str) -> str:
    """Return what a section holds; empty when there is no such section."""
    return next((section["notes"].strip() for section in _SECTION.finditer(text) if section["name"] == name), "")


def released(text: str, version: str, day: date) -> str:
    """Give the entries of `[Unreleased]` to a version, with its link; raises ValueError for a text of another form."""
    link = _LINK.search(text)
    if text.count(UNRELEASED + "\n") != 1 or link is None:
        raise ValueError(f"it needs one line `{UNRELEASED}` and one link `[Unreleased]: .../compare/vA.B.C...HEAD`")
    links = (
        f"[Unreleased]: {link['compare']}v{version}...HEAD\n[{version}]: {link['compare']}{link['last']}...v{version}"
    )
    text = text[: link.start()] + links + text[link.end() :]
    return text.replace(UNRELEASED + "\n", f"{UNRELEASED}\n\n## [{version}] - {day.isoformat()}\n", 1)
