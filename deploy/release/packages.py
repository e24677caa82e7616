"""Builds the distributions of the project, each of the folders that its pyproject.toml names, all under one version.

The root's pyproject.toml is that of `order-saga`; those in `packaging/` ship what others need without the services. No
module is in two of them. `make packages` builds them from the checkout; a release from its commit, and the image, too.
It needs setuptools and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

FOLDERS: Final = (".", "packaging/contracts", "packaging/kit", "packaging/client")
"""Where the pyproject.toml of each distribution is."""
HOOKS: Final = ("build_sdist", "build_wheel")
_BUILD: Final = "import sys; from setuptools.build_meta import {hook}; {hook}(sys.argv[1])"
_VERSION: Final = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)
_PIN: Final = r'"({names})(\[[a-z,]+\])?==[^"]+"'
_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "*.pyc")


class PackageError(Exception):
    """A distribution can't be built; says which, and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build all distributions of the checkout into a folder, which is emptied before."""
    words = sys.argv[1:] if arguments is None else arguments
    dist = Path(words[0] if words else "dist").absolute()
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    try:
        build(Path.cwd(), dist)
    except PackageError as error:
        sys.stderr.write(f"make packages: {error}\n")
        return 1
    sys.stdout.writelines(f"{file.name}\n" for file in sorted(dist.iterdir()))
    return 0


def build(root: Path, dist: Path, **environment: str) -> None:
    """Build source archive and wheel of every distribution into a folder. Raises `PackageError`."""
    check(root)
    for folder in FOLDERS:
        with tempfile.TemporaryDirectory() as name:
            staged = Path(name)
            stage(root, folder, staged)
            for hook in HOOKS:
                _run(staged, folder, hook, dist, environment)


def stage(root: Path, folder: str, staged: Path) -> None:
    """Copy what a distribution is made of into an empty folder, so that nothing else can get in."""
    own = root / folder
    for file in (own / "pyproject.toml", own / "README.md", root / "LICENSE"):
        if file.exists():
            shutil.copy(file, staged)
    for room in rooms(root, folder):
        shutil.copytree(root / room, staged / room, ignore=_LEFT_OUT)


def rooms(root: Path, folder: str) -> list[str]:
    """List the folders that a distribution ships."""
    found: list[str] = project(root, folder)["tool"]["setuptools"]["packages"]["find"]["include"]
    return [name.removesuffix("*") for name in found]


def project(root: Path, folder: str) -> dict[str, Any]:
    """Read the pyproject.toml of a distribution."""
    return tomllib.loads((root / folder / "pyproject.toml").read_text())


def check(root: Path) -> None:
    """Raise `PackageError` when the distributions differ in their versions, or ship the same module."""
    version = project(root, ".")["project"]["version"]
    shipped: dict[str, str] = {}
    for folder in FOLDERS:
        text = (root / folder / "pyproject.toml").read_text()
        if (other := project(root, folder)["project"]["version"]) != version:
            raise PackageError(f"{folder}/pyproject.toml has version {other}, and the project {version}")
        if text != with_version(root, text, version):
            raise PackageError(f"{folder}/pyproject.toml needs another version of the project's than {version}")
        for room in rooms(root, folder):
            if room in shipped:
                raise PackageError(f"{folder} and {shipped[room]} both ship {room}")
            shipped[room] = folder


def set_version(root: Path, version: str) -> None:
    """Give all distributions a version, and the needs of one for another with it."""
    for folder in FOLDERS:
        file = root / folder / "pyproject.toml"
        file.write_text(with_version(root, file.read_text(), version))


def with_version(root: Path, text: str, version: str) -> str:
    """Return the text of a pyproject.toml with another version of the project."""
    names = "|".join(re.escape(str(project(root, folder)["project"]["name"])) for folder in FOLDERS)
    text = _VERSION.sub(f'version = "{version}"', text, count=1)
    return re.sub(_PIN.format(names=names), rf'"\g<1>\g<2>=={version}"', text)


def _run(staged: Path, folder: str, hook: str, dist: Path, environment: dict[str, str]) -> None:
    # The interpreter's own setuptools: the one that the lock file pins.
    words = (sys.executable, "-c", _BUILD.format(hook=hook), str(dist))
    ran = subprocess.run(  # noqa: S603 - our own words
        words, cwd=staged, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise PackageError(f"{folder}/pyproject.toml: {hook} failed:\n{ran.stdout}{ran.stderr}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
