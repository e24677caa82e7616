"""The design rules: which room may import which, what the core must not do, no dead module, no long function."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "contracts", "saga_kit", "order_saga", "order_api", "order_client", "participants", "projections", "local_stack",
    "migrations", "operations", "docs.generate",
)  # fmt: skip
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room.replace(".", "/")).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FUNCTION_LINES_MAX = 60

MAY_IMPORT = {
    "contracts": set(),
    "saga_kit.runtime": {"contracts.envelope"},
    "saga_kit.messaging": {"contracts.envelope", "saga_kit.runtime"},
    "saga_kit.participant": {
        "contracts.decimals", "contracts.envelope", "contracts.vocabulary", "saga_kit.messaging", "saga_kit.runtime",
    },
    # The one module of the kit that knows a conversation: see docs/adr/0029.
    "saga_kit.participant.balance": {
        "contracts.balance", "contracts.codec", "contracts.decimals", "contracts.envelope", "contracts.topics",
        "contracts.vocabulary", "saga_kit.messaging", "saga_kit.participant",
    },
    "saga_kit": {"contracts.envelope"},
    "order_saga.core": {"contracts"},
    "order_saga.worker": {"contracts", "saga_kit", "order_saga.core"},
    "order_saga.triggers": {"contracts", "saga_kit", "order_saga.core"},
    # The composition root of the process that runs both.
    "order_saga.worker.app": {"contracts", "saga_kit", "order_saga.core", "order_saga.worker", "order_saga.triggers"},
    "order_saga": set(),
    "order_api.settings": {"contracts", "saga_kit"},
    "order_api.http": {"contracts", "saga_kit"},
    "order_api.openapi": {"contracts", "saga_kit", "order_api.http"},
    "order_api.holds": {"contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi"},
    "order_api.orders": {
        *("contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi"),
        "order_api.holds.tables",  # of the same schema
    },
    "order_api.market": {
        "contracts", "saga_kit", "order_api.http", "order_api.openapi", "order_api.orders",
    },
    "order_api.live": {
        "contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi", "order_api.orders",
    },
    "order_api.webhooks": {
        "contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi", "order_api.orders",
    },
    "order_api.notifications": {
        "contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi", "order_api.orders",
        "order_api.webhooks.store",  # of the same tables
    },
    # It works out what the saga would do, by the saga's own pure functions: see docs/adr/0043.
    "order_api.preview": {
        "contracts", "saga_kit", "order_api.http", "order_api.openapi", "order_api.orders", "order_saga.core",
    },
    # It shows every problem, whoever raises it.
    "order_api.orders.description.problem_examples": {
        *("contracts", "saga_kit", "order_api.settings", "order_api.http", "order_api.openapi"),
        *("order_api.orders", "order_api.holds"),
    },
    "order_api": {"contracts", "saga_kit"},
    "order_client": {"contracts"},
    "participants.balance": {"contracts", "saga_kit"},
    "participants.assets": {"contracts", "saga_kit"},
    "participants": set(),
    "projections.webhooks": {"contracts", "saga_kit"},
    "projections": set(),
    "local_stack": {"contracts.topics", "saga_kit.runtime.settings"},
    "migrations": {
        "contracts", "saga_kit.runtime", "order_saga.worker.tables", "order_api.orders.tables",
        "participants.balance.tables", "participants.assets.tables", "projections.webhooks.tables",
    },
    "operations": {
        "contracts", "saga_kit", "order_saga", "order_api", "order_client", "participants", "projections",
        "local_stack", "migrations",
    },
    "docs.generate": {"contracts", "order_saga", "order_api", "operations"},
}  # fmt: skip
"""Rooms and what each may import besides itself; for a module, the longest matching name counts."""

STARTED_BY_NAME = {
    "operations.__main__",  # the command order-saga
    "operations.cli.__main__",  # python -m operations.cli
    "local_stack.broker",  # python -m local_stack.broker
    "local_stack.child",
    "migrations.env",  # alembic
    "docs.generate.chart",  # make docs
    "docs.generate.client",
    "docs.generate.contracts",
    "docs.generate.dashboards",
    "docs.generate.kubernetes",  # make kubernetes
    "docs.generate.openapi",
    "docs.generate.pictures",
    "docs.generate.saga",
    "docs.generate.settings",
    "docs.generate.topics",
    "docs.generate.site.__main__",  # make docs-site
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports between our modules, lazy ones included."""
    return grimp.build_graph(*ROOMS, cache_dir=None)


def _room_of(module: str) -> str:
    return max((room for room in MAY_IMPORT if module == room or module.startswith(room + ".")), key=len)


def _within(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def test_every_import_is_allowed_by_the_house(graph: grimp.ImportGraph) -> None:
    """A room imports only itself and what the table allows."""
    broken = [
        f"{importer} imports {imported}"
        for importer in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if not _within(imported, {_room_of(importer)} | MAY_IMPORT[_room_of(importer)])
    ]
    assert [] == broken


def test_data_flows_one_way_through_modules(graph: grimp.ImportGraph) -> None:
    """No module imports itself through others, so that a room can be read in one direction."""
    circles = [
        f"{module} -> {' -> '.join(chain[1:])}"
        for module in sorted(graph.modules)
        for imported in graph.find_modules_directly_imported_by(module)
        if (chain := graph.find_shortest_chain(imported, module))
    ]
    assert [] == circles


def test_every_module_is_used(graph: grimp.ImportGraph) -> None:
    """Every module is imported by another one or started by name."""
    dead = [
        module
        for module in sorted(graph.modules)
        if not graph.find_modules_that_directly_import(module)
        and not graph.find_children(module)
        and module not in STARTED_BY_NAME
    ]
    assert [] == dead


BESIDE_THE_ROOMS = {"bench", "clients", "deploy", "docs", "e2e", "evidence", "integration", "support"}
"""Folders of tests that mirror no room: they test several rooms together, or files that are not Python."""
EVERY_TEST_MAY_IMPORT = {"local_stack", "migrations"}
"""Servers of a test's own, and a migrated database."""
SOME_TESTS_MAY_IMPORT = {
    "migrations": {"order_saga.core", "operations", "saga_kit.participant"},  # orders and holds to migrate
    # Orders that are archived; previews that are judged; sessions that are shown.
    "order_api": {"operations", "participants.assets.rules", "participants.assets.sessions"},
}


def _imports(path: Path) -> Iterator[str]:
    """Give the modules of ours that a file imports."""
    own = {room.split(".")[0] for room in ROOMS}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        yield from (name for name in names if name.split(".")[0] in own)


def _mirrored(path: Path) -> str | None:
    """Name the room that a folder of tests mirrors."""
    parts = path.relative_to(ROOT / "tests").parts
    return None if not parts or parts[0] in BESIDE_THE_ROOMS else ".".join(parts)


def test_tests_mirror_the_rooms() -> None:
    """The tests of a room are in the folder of its name: every room has such a folder, and there is no other folder."""
    folders = {room for path in TESTS if (room := _mirrored(path.parent))}
    rooms = {room for room in MAY_IMPORT if (ROOT / room.replace(".", "/")).is_dir() and room != "docs.generate"}
    assert [] == sorted(room for room in folders if not (ROOT / room.replace(".", "/")).is_dir())
    assert [] == sorted(room for room in rooms if not any(_within(folder, {room}) for folder in folders))


@pytest.mark.parametrize(
    "path", [path for path in TESTS if _mirrored(path.parent)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_test_of_a_room_looks_at_no_room_above_it(path: Path) -> None:
    """A test imports only its room and what that room may import, so that a room is tested without those above it."""
    folder = _mirrored(path.parent) or ""
    top = folder.split(".")[0]
    allowed = {folder, top} | EVERY_TEST_MAY_IMPORT | SOME_TESTS_MAY_IMPORT.get(top, set())
    for room, may_import in MAY_IMPORT.items():
        if _within(room, {folder}) or _within(folder, {room}):
            allowed |= may_import
    assert [] == [name for name in _imports(path) if not _within(name, allowed)]


IMPURE_MODULES = {
    "asyncio",
    "logging",
    "os",
    "random",
    "secrets",
    "socket",
    "structlog",
    "subprocess",
    "threading",
    "time",
}
IMPURE_METHODS = {"now", "today", "utcnow", "uuid1", "uuid4", "uuid7", "getenv"}
IMPURE_FUNCTIONS = IMPURE_METHODS | {"open", "print", "input", "eval", "exec"}


@pytest.mark.parametrize("path", sorted((ROOT / "order_saga" / "core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    """The core imports nothing that does I/O, reads no clock, draws no random number, and never waits."""
    impure = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            impure += [alias.name for alias in node.names if alias.name.split(".")[0] in IMPURE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPURE_MODULES:
            impure.append(node.module or "")
        elif isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.Global)):
            impure.append(ast.unparse(node)[:60])
        elif isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS
            function = isinstance(node.func, ast.Name) and node.func.id in IMPURE_FUNCTIONS
            impure += [ast.unparse(node)[:60]] if method or function else []
    assert [] == impure


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    """No function is longer than a screen: at most 60 lines."""
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert [] == long


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_its_one_idea(path: Path) -> None:
    """Every module begins with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


SQL: re.Pattern[str] = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b [\w*(]+.*\b(FROM|SET|VALUES|INTO|WHERE)\b", re.DOTALL
)
SQL_MODULES = {
    "order_saga": {"worker/store.py", "worker/resting_store.py", "triggers/store.py"},
    "order_api": {
        "orders/store.py",
        "orders/changes/store.py",
        "orders/mass_cancels/store.py",
        "orders/publication/unread.py",
        "holds/store.py",
        "webhooks/store.py",
        "live/store.py",
        "market/store.py",
        "notifications/store.py",
    },
    "projections": {"webhooks/store.py"},
    "operations": {
        "access/accounts.py",
        "retention/archive.py",
        "audit/ledger.py",
        "audit/look.py",
        "audit/order_checks.py",
        "audit/query.py",
        "audit/told.py",
        "audit/total_checks.py",
        "deployment/check_deploy.py",
        "deployment/rollback.py",
        "recovery/forgotten.py",
        "recovery/kafka.py",
        "recovery/staging.py",
        "repair/dead_letters.py",
        "demo/play.py",
        "market/feed_reset.py",
        "market/prices.py",
        "retention/erase.py",
        "deployment/hand_over.py",
        "diagnosis/holds.py",
        "diagnosis/locks.py",
        "repair/order_filter.py",
        "repair/pauses.py",
        "repair/runs.py",
        "diagnosis/story.py",
        "diagnosis/stuck.py",
        "diagnosis/webhooks.py",
    },
}
"""In each of these rooms, the modules that hold SQL. The API has one, the orchestrator a few for its two rooms."""


def _texts(path: Path) -> Iterator[str]:
    """Yield every string of a module; of an f-string, its literal text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("room", SQL_MODULES)
def test_sql_stands_in_named_modules_only(room: str) -> None:
    """A room has SQL only in its listed modules, so that a reader finds all of it there."""
    holders = {
        str(path.relative_to(ROOT / room))
        for path in (ROOT / room).rglob("*.py")
        if any(SQL.search(text) for text in _texts(path))
    }
    assert SQL_MODULES[room] == holders


def test_operations_need_no_terminal(graph: grimp.ImportGraph) -> None:
    """Operations return values, so that a web page can call them, too: only `operations.cli` parses and prints."""
    terminal = {"rich", "typer", "click", "argparse"}
    outside = [path for path in (ROOT / "operations").rglob("*.py") if "cli" not in path.relative_to(ROOT).parts]
    uses = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in outside
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _terminal_uses(node, terminal)
    ]
    assert [] == uses
    cli = {module for module in graph.modules if _room_of(module) == "operations" and ".cli" in module}
    assert cli
    assert [] == [
        f"{importer} imports {module}"
        for module in sorted(cli)
        for importer in graph.find_modules_that_directly_import(module)
        if importer not in cli and importer != "operations.__main__"
    ]


def _terminal_uses(node: ast.AST, terminal: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in terminal)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in terminal:
        yield node.module or ""
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}:
        yield node.func.id
    elif isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr", "sys.argv"}:
        yield ast.unparse(node)


def test_only_one_module_of_operations_reads_the_environment() -> None:
    """Only `operations.access.system` reads how to find a system; all other modules get it as arguments."""
    readers = {
        str(path.relative_to(ROOT / "operations"))
        for path in (ROOT / "operations").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    }
    assert {"access/system.py", "cli/__init__.py"} == readers


def test_help_imports_no_heavy_module() -> None:
    """`order-saga --help` imports no heavy module: a command imports what it needs when it runs."""
    program = "import operations.cli, sys; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    own = {room.split(".")[0] for room in ROOMS} - {"operations"}
    heavy = {
        "aiokafka",
        "alembic",
        "fastapi",
        "httpx2",
        "msgspec",
        "prometheus_client",
        "pydantic",
        "sqlalchemy",
        "structlog",
    }
    assert set() == (own | heavy) & set(ran.stdout.split())
