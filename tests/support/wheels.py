"""The project's packages as wheels, and environments of their own in which they are installed without any index."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release import packages
from tests.support.project import ROOT, project_files

OURS = frozenset({"order-saga", "order-saga-client", "order-saga-contracts", "saga-kit"})


def build_ours(folder: Path) -> dict[str, Path]:
    """Build all our packages from the tracked files; return the wheels by the names of their packages."""
    source, dist = folder / "source", folder / "dist"
    for path in project_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    dist.mkdir()
    packages.build(source, dist)
    return {canonicalize_name(file.name.partition("-")[0]): file for file in dist.glob("*.whl")}


def installed(folder: Path, ours: Mapping[str, Path], name: str) -> Path:
    """Install one of our packages into an empty environment, by its own metadata; return the environment's Python.

    pip finds our wheels, and what the development environment has of what they need, packed again.
    """
    links, environment = folder / "links", folder / "environment"
    links.mkdir(parents=True)
    for wheel in ours.values():
        shutil.copy(wheel, links)
    for needed in needed_by(ours, name) - OURS:
        pack_again(links, needed)
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = environment / "bin" / "python"
    words = ("--python", str(python), "--disable-pip-version-check", "install", "--quiet", "--no-index")
    _run(sys.executable, "-m", "pip", *words, "--find-links", str(links), name)
    return python


def needed_by(ours: Mapping[str, Path], name: str) -> set[str]:
    """Return the names of all distributions that one of our packages needs, through extras as well."""
    found: set[str] = set()
    wanted = [(Requirement(name), "")]
    done: set[tuple[str, str]] = set()
    while wanted:
        needed, extra = wanted.pop()
        if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(needed.name)
        found.add(name)
        for inner in {"", *needed.extras}:
            if (name, inner) not in done:
                done.add((name, inner))
                wanted += [(Requirement(one), inner) for one in _requires(ours, name)]
    return found


def _requires(ours: Mapping[str, Path], name: str) -> list[str]:
    if name not in ours:
        return importlib.metadata.requires(name) or []
    with zipfile.ZipFile(ours[name]) as wheel:
        (metadata,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
        lines = wheel.read(metadata).decode().partition("\n\n")[0].splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]


def pack_again(folder: Path, name: str) -> Path:
    """Pack an installed distribution as a wheel again."""
    distribution = importlib.metadata.distribution(name)
    left_out = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    members = {
        file.as_posix(): Path(str(file.locate())).read_bytes()
        for file in distribution.files or ()
        if file.name not in left_out and ".." not in file.parts and file.suffix != ".pyc"
    }
    return pack(folder, name, distribution.version, members)


def pack(folder: Path, name: str, version: str, members: Mapping[str, bytes]) -> Path:
    """Pack a wheel of these files."""
    # The files of a wheel have the name of their folder of metadata, which is not always the normal one.
    info = next(
        (member.partition("/")[0] for member in members if ".dist-info/" in member), f"{name}-{version}.dist-info"
    )
    file = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    record = f"{info}/RECORD"
    rows = "".join(f"{member},sha256={_digest(data)},{len(data)}\n" for member, data in members.items())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, data in {**members, record: f"{rows}{record},,\n".encode()}.items():
            archive.writestr(member, data)
    return file


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _run(*words: str) -> None:
    """Run one of our programs, with no settings of whoever runs the tests."""
    environment = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_USER": "0"}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert ran.returncode == 0, ran.stdout + ran.stderr


def run_in(python: Path, program: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment; it sees nothing of this checkout."""
    words = (str(python), "-I", "-c", program, *arguments)
    return subprocess.run(  # noqa: S603 - our own
        words, cwd=python.parent, capture_output=True, text=True, check=False, timeout=timeout_s
    )
