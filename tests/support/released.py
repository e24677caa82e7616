"""The version that was released last, to run beside this one: its sources from git, and what its lock file names."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.project import ROOT, git

LOCK: Final = "requirements-runtime.lock"
_SECTION: Final = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)


class Released(NamedTuple):
    """A released version that can be run: `command` is `order-saga`, and goes with the variables of `environment`."""

    version: str
    commit: str
    python: Path
    sources: Path

    @property
    def command(self) -> tuple[str, ...]:
        """What runs its `order-saga`, in any folder: without `-P`, Python would look for its code there first."""
        return (str(self.python), "-P", "-m", "operations.cli")

    @property
    def environment(self) -> dict[str, str]:
        """Where Python finds its code."""
        return {"PYTHONPATH": str(self.sources)}


def newest_release(changelog: str) -> str:
    """Return the newest version that a changelog has a section for. Raises `ValueError` when there is none."""
    if (found := _SECTION.search(changelog)) is None:
        raise ValueError("CHANGELOG.md has no section of a released version, such as `## [1.2.3] - 2026-01-31`")
    return found[1]


def commit_of(version: str, folder: Path = ROOT) -> str:
    """Return the commit of a release: its tag, or in a clone without tags the commit that gave it its section.

    Raises `LookupError` for a checkout whose history has neither: a shallow clone, an unpacked archive.
    """
    if tagged := git("rev-parse", "--verify", "--quiet", f"refs/tags/v{version}^{{commit}}", folder=folder):
        return tagged
    commits = git("log", "--reverse", "--format=%H", f"-S## [{version}]", "--", "CHANGELOG.md", folder=folder)
    if not commits or git("rev-parse", "--is-shallow-repository", folder=folder) == "true":
        raise LookupError(
            f"the sources of the released version {version} are not here: this needs a clone with its history, "
            f"and best with the tag v{version} (git fetch --unshallow --tags)"
        )
    return commits.partition("\n")[0]


def released(folder: Path) -> Released:
    """Unpack the newest release into `folder`, and make or find its environment. It takes a minute the first time."""
    version = newest_release((ROOT / "CHANGELOG.md").read_text())
    commit = commit_of(version)
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout  # noqa: S603, S607
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return Released(version, commit, environment(folder / LOCK), folder)


def environment(lock: Path) -> Path:
    """Return the Python of an environment with exactly what a lock file names; make it the first time.

    It is kept by the lock file's content, in the user's cache. Two that make it at the same time do not meet.
    """
    name = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "order-saga", f"released-{name}")
    if not (cache / "complete").exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        # Where it stays, since an environment can't be moved; named when it is complete.
        made = Path(tempfile.mkdtemp(prefix=f"{cache.name}-", dir=cache.parent))
        _run(sys.executable, "-m", "venv", "--without-pip", str(made))
        _run(*_pip(made / "bin" / "python"), "--require-hashes", "-r", str(lock))
        (made / "complete").touch()
        link = made.with_suffix(".link")
        link.symlink_to(made.name)
        link.replace(cache)  # in one step: whoever was slower wins, and both are good
    return cache / "bin" / "python"


def _pip(python: Path) -> tuple[str, ...]:
    words = ("--disable-pip-version-check", "install", "--quiet", "--no-deps")
    return (sys.executable, "-m", "pip", "--python", str(python), *words)


def _run(*words: str) -> None:
    """Run pip or `venv`; whoever is asked for packages, the machine's settings of pip say."""
    ran = subprocess.run(words, env=os.environ | {"PIP_USER": "0"}, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode:
        raise RuntimeError(f"no environment for the released version: {(ran.stderr or ran.stdout).strip()}")


if __name__ == "__main__":  # `python -m tests.support.released` prepares it, for a test run that wants no minute of it
    with tempfile.TemporaryDirectory() as _name:
        sys.stdout.write(f"{released(Path(_name)).python}\n")
