"""Makes a release of the commit at hand: checks, changelog, version, commit, packages, bill of materials, image, tag.

Nothing is pushed or uploaded. What is built is built from the release's commit alone, in a folder of its own. The tag
comes last; when something fails before it, the commit is taken back and the checkout is as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from deploy.release import changelog, chart, packages, sbom

BRANCH: Final = "main"
LOCK: Final = "requirements-runtime.lock"
_VERSION: Final = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


class ReleaseError(Exception):
    """A release can't be made; says why, in a line for the person who asked for it."""


@dataclass(frozen=True, slots=True)
class Release:
    """What is asked for. `root`: the checkout; `checks`: verbs of the Makefile; `dist`: where the files go."""

    root: Path
    version: str
    checks: tuple[str, ...]
    image: bool
    dist: Path

    @property
    def tag(self) -> str:
        """The tag of the release."""
        return f"v{self.version}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a release, or say what would be done (`--dry-run`)."""
    parser = argparse.ArgumentParser(prog="make release VERSION=... ARGS=...", description=main.__doc__)
    parser.add_argument("version", help="the new version, such as 0.3.0")
    parser.add_argument("--checks", default="lint test", help="verbs of the Makefile that must succeed first")
    parser.add_argument("--image", choices=("yes", "no"), default="yes", help="build the container image too")
    parser.add_argument("--dry-run", action="store_true", help="check and say what would be done, and change nothing")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    release = Release(root, options.version, tuple(options.checks.split()), options.image == "yes", root / "dist")
    try:
        refuse(release)
        for what, step in steps(release):
            _say(f"{'would ' if options.dry_run else ''}{what}")
            if not options.dry_run:
                step()
    except ReleaseError as error:
        sys.stderr.write(f"make release: {error}\n")
        return 1
    return 0


def refuse(release: Release) -> None:
    """Raise `ReleaseError` for whatever stands against the release, before anything is done."""
    branch = _git(release, "branch", "--show-current")
    if branch != BRANCH:
        raise ReleaseError(f"releases are made on the branch {BRANCH}, and this is {branch or 'no branch'}")
    _refuse_changes(release)
    versions = [current(release), *(tag.removeprefix("v") for tag in _git(release, "tag", "--list", "v*").split())]
    try:
        newest = max(map(Version, versions))
        newer = Version(release.version) > newest and re.fullmatch(r"\d+\.\d+\.\d+", release.version)
    except InvalidVersion:
        newer = newest = None
    if not newer:
        raise ReleaseError(f"{release.version!r} is no version A.B.C that is newer than {newest or versions}")
    text = (release.root / "CHANGELOG.md").read_text()
    if not re.search(r"^- ", changelog.notes(text, "Unreleased"), re.MULTILINE):
        raise ReleaseError("CHANGELOG.md has nothing under [Unreleased]")
    if release.image and _run(release, "docker", "info", check=False).returncode:
        raise ReleaseError("no container engine answers `docker info`; IMAGE=no makes a release without the image")


def _refuse_changes(release: Release) -> None:
    if changes := _git(release, "status", "--porcelain"):
        raise ReleaseError(f"the checkout is not clean:\n{changes}")


def current(release: Release) -> str:
    """Return the version in pyproject.toml."""
    found = _VERSION.search((release.root / "pyproject.toml").read_text())
    if found is None:
        raise ReleaseError("pyproject.toml has no line `version = ...`")
    return found[1]


def steps(release: Release) -> list[tuple[str, Callable[[], object]]]:
    """Tell what is done, in order: a line each, and what does it. The commit at hand is the one that is released."""
    checked = _git(release, "rev-parse", "HEAD")
    image = "the image order-saga:" + release.version if release.image else "no image"
    return [
        *((f"run `make {verb}`", lambda verb=verb: _check(release, verb)) for verb in release.checks),
        (
            f"date the changelog, set version {release.version}, commit, build, tag {release.tag}",
            lambda: make(release, checked),
        ),
        (
            f"have in {release.dist}: packages, chart, bill of materials, checksums; and {image}",
            lambda: _report(release),
        ),
    ]


def make(release: Release, checked: str) -> None:
    """Commit, build and tag; when something fails, take back what was written and committed.

    Raises `ReleaseError`, and changes nothing, when somebody has worked in the checkout since `checked` was checked.
    """
    _refuse_changes(release)
    if _git(release, "rev-parse", "HEAD") != checked:
        raise ReleaseError("there is a commit that was not checked: somebody committed while the checks ran")
    try:
        write(release)
        _git(release, "commit", "--quiet", "--all", "--message", f"Release {release.version}")
        build(release)
        notes = changelog.notes((release.root / "CHANGELOG.md").read_text(), release.version)
        message = f"{release.version}\n\n{notes}\n"
        _git(release, "tag", "--annotate", release.tag, "--cleanup", "whitespace", "--message", message)
    except BaseException:
        _git(release, "reset", "--quiet", "--hard", checked)
        raise


def write(release: Release) -> None:
    """Date the changelog and set the version."""
    day = datetime.now(UTC).date()
    log = release.root / "CHANGELOG.md"
    try:
        log.write_text(changelog.released(log.read_text(), release.version, day))
    except ValueError as error:
        raise ReleaseError(f"CHANGELOG.md: {error}") from error
    packages.set_version(release.root, release.version)
    chart.set_version(release.root, release.version)


def build(release: Release) -> None:
    """Build everything from the commit, and put it into an empty `dist`."""
    shutil.rmtree(release.dist, ignore_errors=True)
    release.dist.mkdir()
    at = int(_git(release, "log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        archive = source / "source.tar"
        _git(release, "archive", "--output", str(archive), "HEAD")
        _run(release, "tar", "-xf", str(archive), "-C", name)
        archive.unlink()
        try:
            packages.build(source, release.dist, SOURCE_DATE_EPOCH=str(at))
        except packages.PackageError as error:
            raise ReleaseError(str(error)) from error
        chart.pack(source, release.dist, release.version, at)
        lock = (source / LOCK).read_text()
        made = sbom.bill(lock, release.version, datetime.fromtimestamp(at, UTC))
        (release.dist / f"order_saga-{release.version}.cdx.json").write_text(made)
        if release.image:
            _image(release, source)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(release.dist.iterdir())
    ]
    (release.dist / "SHA256SUMS").write_text("".join(sums))


def _image(release: Release, source: Path) -> None:
    """Build the image, and note which one it is."""
    name = f"order-saga:{release.version}"
    _run(release, "docker", "build", "--quiet", "--tag", name, str(source))
    identity = _run(release, "docker", "image", "inspect", "--format", "{{.Id}}", name).stdout
    (release.dist / f"order_saga-{release.version}.image.txt").write_text(f"{name} {identity}")


def _check(release: Release, verb: str) -> None:
    if subprocess.run(["make", verb], cwd=release.root, check=False).returncode:  # noqa: S603, S607 - our own verbs
        raise ReleaseError(f"`make {verb}` failed")


def _report(release: Release) -> None:
    for file in sorted(release.dist.iterdir()):
        _say(f"  {file.name}")
    _say(f"publish it with: git push --atomic origin {BRANCH} {release.tag}")


def _git(release: Release, *words: str) -> str:
    return _run(release, "git", *words).stdout.strip()


def _run(release: Release, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program; raises `ReleaseError` with what it said when it fails."""
    try:
        ran = subprocess.run(  # noqa: S603 - our own words
            words, cwd=release.root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        ran = subprocess.CompletedProcess(words, 127, "", f"{words[0]} is not installed")
    if check and ran.returncode:
        raise ReleaseError(f"`{' '.join(words)}` failed:\n{ran.stdout}{ran.stderr}".rstrip())
    return ran


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
