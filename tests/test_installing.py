"""The lock files alone decide what `make` installs: neither the machine's pip nor later releases change it.

The tests run the Makefile's own recipes in a temporary folder, against a package index on the loopback interface.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.project import project_files
from tests.support.wheels import pack, pack_again

ROOT: Final = Path(__file__).parents[1]
LOCKS: Final = ("requirements.lock", "requirements-dev.lock", "requirements-runtime.lock")
OLD_PIP: Final = "pip==23.2.1 --hash=sha256:7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be"
PROJECT: Final = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stand-in"
version = "1.0"
[tool.setuptools]
packages = []
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _of_the_image() -> str:
    """Return the Dockerfile's command that installs its lock file."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    (command,) = (line.removeprefix("RUN ") for line in lines if line.startswith("RUN ") and ".lock" in line)
    return command


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder as a package index; yields the folder and the index's address."""
    folder = tmp_path / "index"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("recipe", "lock"),
    [
        pytest.param(["make", ".venv/.runtime.stamp"], "requirements.lock", id="demo"),
        pytest.param(["make", ".venv/.development.stamp"], "requirements-dev.lock", id="test"),
        pytest.param(["sh", "-ec", _of_the_image()], "requirements-runtime.lock", id="image"),
    ],
)
def test_later_releases_and_an_old_pip_change_nothing(
    tmp_path: Path, index: tuple[Path, str], recipe: list[str], lock: str
) -> None:
    """A newer release of a package that is required with an extra neither stops an installation nor gets installed.

    The environment starts with an old pip, which would fail so, and ends with the pinned one. Only pip.conf names the
    index, and it also holds a setting that pip can't obey in a virtual environment.
    """
    folder, address = index
    lines = [
        _publish(folder, "outer", "1.0", requires=["inner[more]>=1.0"]),
        _publish(folder, "inner", "1.0", requires=['extra>=1.0; extra == "more"']),
        _publish(folder, "extra", "1.0"),
        _publish_again(folder, "setuptools"),
    ]
    for name in ("outer", "inner", "extra"):
        _publish(folder, name, "2.0")
    project = tmp_path / "a project"
    project.mkdir()
    shutil.copy(ROOT / "Makefile", project)
    (project / "pyproject.toml").write_text(PROJECT)
    for each in LOCKS:
        (project / each).write_text("\n".join(lines) if each == lock else "")
    (project / "requirements-pip.lock").write_text(_publish_again(folder, "pip"))
    (project / "pip.conf").write_text(f"[global]\nindex-url = {address}\n[install]\nuser = {recipe[0] == 'make'}\n")
    bin_folder = _begin_with_an_old_pip(project)
    env = {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": str(project / "pip.conf"),
        "PIP_NO_CACHE_DIR": "1",
    }
    made = _run(*recipe, folder=project, env=env)
    assert made.returncode == 0, made.stdout + made.stderr
    names = ["outer", "inner", "extra", "pip"]
    assert ["1.0", "1.0", "1.0", importlib.metadata.version("pip")] == _versions(bin_folder, names)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_is_complete(lock: str) -> None:
    """Everything that a listed package requires is listed as well, because pip installs only what is listed.

    The exceptions are packages of which only files are used: pyproject.toml names them, and nothing imports them.
    """
    unpacked = {
        canonicalize_name(one["name"])
        for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["dependency-metadata"]
    }
    wanted = [Requirement(line.split("\\")[0]) for line in _requirements(ROOT / lock)]
    listed = {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate()}
    missing = {
        f"{name} needs {needed.name}"
        for name in listed - unpacked
        for needed in map(Requirement, importlib.metadata.requires(name) or [])
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in listed
    }
    assert set() == missing


def test_nothing_imports_a_package_of_which_only_files_are_taken() -> None:
    """Nothing needs the requirements of such a package, which the lock files leave out."""
    imports = re.compile(r"^\s*(?:import|from) nicegui\b", re.MULTILINE)
    ours = (path for path in project_files() if path.suffix == ".py")
    assert [] == [path for path in ours if imports.search((ROOT / path).read_text())]


def _run(*words: str | Path, folder: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # The program and its arguments are our own.
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)  # noqa: S603


def _versions(bin_folder: Path, names: list[str]) -> list[str]:
    words = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    return _run(bin_folder / "python", "-c", words, *names, folder=bin_folder).stdout.split()


def _begin_with_an_old_pip(project: Path) -> Path:
    """Make .venv with an old pip that takes a package with an extra for unpinned: the interpreter's, or a download."""
    made = _run("make", f"PYTHON={sys.executable}", ".venv/bin/python", folder=project)
    assert made.returncode == 0, made.stderr
    bin_folder = project / ".venv" / "bin"
    (own,) = _versions(bin_folder, ["pip"])
    if tuple(map(int, own.split(".")[:2])) >= (23, 3):
        (project / "old.txt").write_text(OLD_PIP)
        words = ("-m", "pip", "install", "--no-deps", "--require-hashes", "-r", "old.txt")
        if _run(bin_folder / "python", *words, folder=project).returncode:
            pytest.skip(f"{sys.executable} has pip {own}, and the old one that this is about could not be fetched")
    return bin_folder


def _requirements(lock: Path) -> list[str]:
    return re.findall(r"^[A-Za-z0-9].*$", lock.read_text(), re.MULTILINE)


def _publish(index: Path, name: str, version: str, *, requires: tuple[str, ...] | list[str] = ()) -> str:
    """Put an empty package into the index; return its line of a lock file."""
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    extra = "Provides-Extra: more\n" if any("extra ==" in one for one in requires) else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}{needs}"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{name}-{version}.dist-info"
    return _store(index, name, version, {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": wheel.encode()})


def _publish_again(index: Path, name: str) -> str:
    """Pack an installed package again and put it into the index; return its line of a lock file."""
    (index / name).mkdir(exist_ok=True)
    return _line(name, importlib.metadata.version(name), pack_again(index / name, name))


def _store(index: Path, name: str, version: str, members: Mapping[str, bytes]) -> str:
    (index / name).mkdir(exist_ok=True)
    return _line(name, version, pack(index / name, name, version, members))


def _line(name: str, version: str, file: Path) -> str:
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
