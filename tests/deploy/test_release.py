"""`make release` in a scratch repository: what it refuses, what it leaves behind, and that a failure leaves nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.release import changelog, chart, packages, sbom
from tests.support.project import ROOT, git, project_files
from tests.support.wheels import OURS

VERSION: Final = "9.0.0"
LOCK: Final = ROOT / "requirements-runtime.lock"
AT: Final = datetime(2026, 1, 2, tzinfo=UTC)
CHANGELOG: Final = """\
# Changelog

## [Unreleased]

### Added

- A thing.

## [0.2.0] - 2026-01-01

### Fixed

- A fault.

[Unreleased]: ../../compare/v0.2.0...HEAD
[0.2.0]: ../../releases/tag/v0.2.0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a repository of all our files, with something unreleased, on main."""
    folder = tmp_path / "checkout"
    for path in project_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    git("init", "--quiet", "--initial-branch", "main", folder=folder)
    git("config", "user.name", "Ann", folder=folder)
    git("config", "user.email", "ann@example.com", folder=folder)
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", "All there is", folder=folder)
    return folder


def _release(checkout: Path, *words: str, version: str = VERSION) -> subprocess.CompletedProcess[str]:
    """Ask for a release as the Makefile does, without an image, after a check that needs nothing."""
    command = (sys.executable, "-m", "deploy.release", version, "--checks", "help", "--image", "no", *words)
    return subprocess.run(  # noqa: S603 - the project's own module
        command, cwd=checkout, capture_output=True, text=True, timeout=200, check=False
    )


def _state(checkout: Path) -> tuple[str, str, str]:
    return (
        git("rev-parse", "HEAD", folder=checkout),
        git("tag", folder=checkout),
        git("status", "--porcelain", folder=checkout),
    )


def test_a_release_is_a_commit_a_tag_and_files(checkout: Path) -> None:
    """The changelog has the version, the tag its notes; dist/ has what can be installed, and the sums of all of it."""
    made = _release(checkout)
    assert made.returncode == 0, made.stdout + made.stderr
    log = (checkout / "CHANGELOG.md").read_text()
    assert ("", "### Added\n\n- A thing.") == (changelog.notes(log, "Unreleased"), changelog.notes(log, VERSION))
    assert f'\nversion = "{VERSION}"\n' in (checkout / "pyproject.toml").read_text()
    assert f"Release {VERSION}" == git("log", "-1", "--format=%s", folder=checkout)
    changed = {"CHANGELOG.md", *(f"{folder}/pyproject.toml".removeprefix("./") for folder in packages.FOLDERS)}
    changed |= {str(file) for file in chart.FILES}
    assert changed == set(git("diff", "--name-only", "HEAD~1", folder=checkout).split())
    assert (f"v{VERSION}", "") == _state(checkout)[1:]
    told = git("tag", "--list", "--format=%(objecttype) %(contents)", folder=checkout)
    assert told.startswith(f"tag {VERSION}\n\n### Added\n\n- A thing.")
    files = {file.name: file.read_bytes() for file in (checkout / "dist").iterdir()}
    sums = files.pop("SHA256SUMS").decode()
    assert sums == "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    wheel, archive = f"order_saga-{VERSION}-py3-none-any.whl", f"order_saga-{VERSION}.tar.gz"
    names = [name.replace("-", "_") for name in OURS]
    packed = {f"{name}-{VERSION}{end}" for name in names for end in ("-py3-none-any.whl", ".tar.gz")}
    assert {*packed, f"order_saga-{VERSION}.cdx.json", f"order-saga-{VERSION}.tgz"} == files.keys()
    inside = zipfile.ZipFile(checkout / "dist" / wheel).namelist()
    assert {"order_saga/core/phases.py", "operations/cli/__init__.py"} <= set(inside)
    assert [] == [name for name in inside if name.startswith(("tests/", "docs/", "deploy/"))]
    with tarfile.open(checkout / "dist" / archive) as inner:
        assert f"order_saga-{VERSION}/pyproject.toml" in inner.getnames()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(checkout: Path) -> None:
    """Each step in a line, and the checkout as it was."""
    before = _state(checkout)
    told = _release(checkout, "--dry-run")
    assert (0, True) == (told.returncode, all(line.startswith("would ") for line in told.stdout.splitlines()))
    assert re.search(rf"make help.*\n.*{VERSION}.*tag v{VERSION}.*\n.*packages.*checksums", told.stdout)
    assert (before, False) == (_state(checkout), (checkout / "dist").exists())


@pytest.mark.parametrize(
    ("spoil", "version", "why"),
    [
        pytest.param("git switch --quiet --create other", VERSION, "and this is other", id="branch"),
        pytest.param("touch new.txt", VERSION, "not clean", id="unclean"),
        pytest.param("true", "0.1.0", "newer than", id="older"),
        pytest.param("git tag v9.0.0", VERSION, "newer than 9.0.0", id="again"),
        pytest.param("true", "9.0", "no version A.B.C", id="two numbers"),
        pytest.param("true", "", "no version A.B.C", id="none"),
        pytest.param(
            "sed -i '/A thing/d' CHANGELOG.md && git commit -qam x", VERSION, "nothing under", id="no entries"
        ),
    ],
)
def test_what_stands_against_a_release(checkout: Path, spoil: str, version: str, why: str) -> None:
    """It is refused in words, before anything is done."""
    subprocess.run(["/bin/sh", "-ec", spoil], cwd=checkout, check=True)  # noqa: S603 - our own words
    before = _state(checkout)
    refused = _release(checkout, version=version)
    assert (1, "") == (refused.returncode, refused.stdout)
    assert why in refused.stderr
    assert before == _state(checkout)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param("printf 'help:\\n\\tfalse\\n' > Makefile", id="a check fails"),
        pytest.param("sed -i '/^\\[Unreleased\\]: /d' CHANGELOG.md", id="no link in the changelog"),
        pytest.param("rm requirements-runtime.lock", id="no bill of materials"),
        pytest.param("sed -i 's/^name = .*/name = 7/' pyproject.toml", id="no package"),
    ],
)
def test_a_release_that_fails_leaves_the_checkout_as_it_was(checkout: Path, spoil: str) -> None:
    """No commit, no tag, and no changed file is left of it."""
    subprocess.run(["/bin/sh", "-ec", f"{spoil}; git commit -qam x"], cwd=checkout, check=True)  # noqa: S603
    before = _state(checkout)
    assert 1 == _release(checkout).returncode
    assert before == _state(checkout)


@pytest.mark.parametrize(
    ("meanwhile", "why"),
    [
        pytest.param("echo mine >> README.md", "not clean", id="an edit"),
        pytest.param("git commit --quiet --allow-empty --message mine", "a commit that was not checked", id="a commit"),
    ],
)
def test_work_that_was_done_during_the_checks_is_neither_released_nor_lost(
    checkout: Path, meanwhile: str, why: str
) -> None:
    """The release ends before it writes anything."""
    (checkout / "Makefile").write_text(f"help:\n\t{meanwhile}\n")
    subprocess.run(["git", "commit", "--quiet", "--all", "--message", "x"], cwd=checkout, check=True)  # noqa: S607
    before = _state(checkout)
    refused = _release(checkout)
    after = _state(checkout)
    assert (1, True) == (refused.returncode, why in refused.stderr)
    assert (before[1], False) == (after[1], "Release" in git("log", "-1", "--format=%s", folder=checkout))
    assert before != after


def test_without_a_container_engine_only_a_release_without_image_is_made(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `docker info` fails, the release with an image is refused, and says how to go without."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    refused = _release(checkout, "--image", "yes")
    assert (1, True) == (refused.returncode, "IMAGE=no" in refused.stderr)


def test_the_bill_lists_what_the_image_installs() -> None:
    """It is valid CycloneDX, names each package of the lock file once with its version, and is the same each time."""
    text = sbom.bill(LOCK.read_text(), VERSION, AT)
    assert text == sbom.bill(LOCK.read_text(), VERSION, AT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {part["name"]: part for part in json.loads(text)["components"]}
    pinned = re.findall(r"^([a-z0-9.-]+)(?:\[[^\]]*\])?==(\S+) \\$", LOCK.read_text(), re.MULTILINE)
    assert pinned
    assert {(name, f"pkg:pypi/{name}@{version}") for name, version in pinned} <= {
        (name, part["purl"]) for name, part in parts.items()
    }
    assert parts["pydantic"]["licenses"][0]["expression"] == "MIT"
    assert "setuptools" in parts


def test_only_what_the_image_gets_is_listed() -> None:
    """Of a lock file for all platforms, the lines for this image's."""
    lock = "one==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:0\ntwo[more]==2.0 \\\n"
    lock += "three==3 ; python_version >= '3.12'\n"
    assert [("two", "2.0"), ("three", "3")] == sbom.installed(lock)
    assert f"FROM python:{sbom.IMAGE['python_version']}-slim" in (ROOT / "Dockerfile").read_text()


def test_the_image_gets_every_package() -> None:
    """What is built for an image is all that a wheel has: no folder of the project is left outside of the build."""
    wanted = re.findall(r'^    "(\w+)\*",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert (True, set()) == (len(wanted) > 5, set(wanted) - let_in)


def test_the_changelog_of_this_project_can_be_released() -> None:
    """It has the sections, dates and links that a release needs; the newest version is the project's."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert re.search(rf'^version = "{versions[0][0]}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert [day for _, day in versions] == sorted((day for _, day in versions), reverse=True)
    after = changelog.released(text, VERSION, date(2030, 1, 1))
    assert changelog.notes(text, "Unreleased") == changelog.notes(after, VERSION)
    assert f"[{VERSION}]: ../../compare/v{versions[0][0]}...v{VERSION}\n" in after
    assert {name for name, _ in versions} == set(re.findall(r"^\[([\d.]+)\]: ", text, re.MULTILINE))


def test_the_chart_is_packed_as_helm_does(tmp_path: Path) -> None:
    """All its files, in a folder of its name; the same bytes each time; every place has the new version."""
    for name in (*chart.FILES, *(file for file in project_files() if chart.CHART in file.parents)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    chart.set_version(tmp_path, VERSION)
    old = re.escape(str(packages.project(ROOT, ".")["project"]["version"]))
    for name in chart.FILES:
        text = (tmp_path / name).read_text()
        assert ([], True) == (re.findall(rf"(?<![\d.]){old}(?![\d.])", text), VERSION in text)
    chart.pack(tmp_path, tmp_path, VERSION, 1_000_000)
    packed = tmp_path / f"order-saga-{VERSION}.tgz"
    first = packed.read_bytes()
    chart.pack(tmp_path, tmp_path, VERSION, 1_000_000)
    assert first == packed.read_bytes()
    with tarfile.open(packed) as archive:
        inside = {Path(name) for name in archive.getnames()}
    assert inside == {
        "order-saga" / file.relative_to(chart.CHART) for file in project_files() if chart.CHART in file.parents
    }
