"""The released version is found by the changelog and by git, whichever it is."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from deploy.release.changelog import released
from tests.support.project import ROOT, git
from tests.support.released import commit_of, newest_release

IDENTITY = ("-c", "user.name=somebody", "-c", "user.email=somebody@host.example")
CHANGELOG = """# Changelog

## [Unreleased]

- More.

## [1.10.0] - 2026-03-01

- Some.

## [1.9.0] - 2026-02-01

[Unreleased]: https://host.example/compare/v1.10.0...HEAD
"""


def test_the_newest_section_with_a_version_counts() -> None:
    """Whatever is unreleased, and whichever version comes next: `make release` needs no change of a test."""
    assert "1.10.0" == newest_release(CHANGELOG)
    assert "1.11.0" == newest_release(released(CHANGELOG, "1.11.0", date(2026, 4, 1)))
    with pytest.raises(ValueError, match="no section of a released version"):
        newest_release("# Changelog\n\n## [Unreleased]\n")


def _commit(folder: Path, changelog: str, message: str) -> str:
    (folder / "CHANGELOG.md").write_text(changelog)
    git("add", ".", folder=folder)
    git(*IDENTITY, "commit", "--quiet", "--message", message, folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


def test_a_tag_is_preferred_to_the_commit_of_the_section(tmp_path: Path) -> None:
    """Without a tag it is the first commit that has the section; other text of that version changes nothing."""
    git("init", "--quiet", ".", folder=tmp_path)
    _commit(tmp_path, "## [Unreleased]\n", "begin")
    release = _commit(tmp_path, CHANGELOG, "release")
    later = _commit(tmp_path, CHANGELOG + "More\n", "go on")

    assert release == commit_of("1.10.0", tmp_path)

    git(*IDENTITY, "tag", "--annotate", "v1.10.0", "--message", "notes", later, folder=tmp_path)
    assert later == commit_of("1.10.0", tmp_path)
    with pytest.raises(LookupError, match=r"released version 2.0.0 are not here: .* tag v2.0.0"):
        commit_of("2.0.0", tmp_path)


def test_a_shallow_clone_is_told_what_is_missing(tmp_path: Path) -> None:
    """Its oldest commit has everything, and would be taken for the release."""
    whole, shallow = tmp_path / "whole", tmp_path / "shallow"
    whole.mkdir()
    git("init", "--quiet", ".", folder=whole)
    _commit(whole, CHANGELOG, "release")
    _commit(whole, CHANGELOG + "More\n", "go on")
    git("clone", "--quiet", "--depth=1", whole.as_uri(), str(shallow), folder=whole)
    with pytest.raises(LookupError, match="git fetch --unshallow --tags"):
        commit_of("1.10.0", shallow)


def test_this_checkout_has_its_released_version() -> None:
    """Its sources are an older version's: they name it, and have the lock file that an environment is made of."""
    version = newest_release((ROOT / "CHANGELOG.md").read_text())
    commit = commit_of(version)
    assert f'version = "{version}"' in git("show", f"{commit}:pyproject.toml")
    assert git("show", f"{commit}:requirements-runtime.lock")
