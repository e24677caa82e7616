"""The OpenAPI document gives TypeScript types by `openapi-typescript`: right programs compile, wrong ones do not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import ROOT

pytestmark = pytest.mark.node
HERE = Path(__file__).parent
DOCUMENT = ROOT / "docs" / "openapi.json"
PROJECT = ("package.json", "package-lock.json", "usage.ts", "misuse.ts")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install what the lock file names; return the folder, with the samples in it."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in PROJECT:
        shutil.copy(HERE / name, folder)
    installed = _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    assert 0 == installed.returncode, installed.stderr
    return folder


def test_what_is_right_compiles_and_what_is_wrong_does_not(project: Path) -> None:
    """Optional fields may be missing, nullable ones may be null, and a problem's code decides its members."""
    generated = _generate(project, DOCUMENT)
    assert 0 == generated.returncode, generated.stderr
    lines = (project / "misuse.ts").read_text().splitlines()
    wrong = [f"misuse.ts({number}" for number, line in enumerate(lines, 1) if line.endswith("// wrong")]
    complaints = _compile(project, "usage.ts", "misuse.ts")
    assert wrong == [line.split(",")[0] for line in complaints.splitlines() if not line.startswith(" ")], complaints


def test_a_document_that_says_less_is_noticed(project: Path, tmp_path: Path) -> None:
    """The sample does not compile against a document in which its optional field is required, or null not allowed."""
    document = json.loads(DOCUMENT.read_text())
    fields = document["components"]["schemas"]["OrderBody"]["properties"]
    fields["price"]["default"] = None
    fields["user_id"] = {"type": "string"}
    assert 0 == _generate(project, _written(document, tmp_path)).returncode
    complaints = _compile(project, "usage.ts")
    assert "'price'" in complaints
    assert "'null' is not assignable to type 'string" in complaints


def test_a_document_that_is_none_is_refused(project: Path, tmp_path: Path) -> None:
    """A reference to a missing schema is an error."""
    document = json.loads(DOCUMENT.read_text())
    del document["components"]["schemas"]["OrderType"]
    assert 0 != _generate(project, _written(document, tmp_path)).returncode


def _written(document: Any, folder: Path) -> Path:
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    return file


def _generate(project: Path, document: Path) -> subprocess.CompletedProcess[str]:
    (project / "api.ts").unlink(missing_ok=True)
    return _run(project, "node_modules/.bin/openapi-typescript", document, "--output", "api.ts")


def _compile(project: Path, *names: str) -> str:
    """Compile samples; return what the compiler complains of."""
    modern = ("--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler")
    return _run(project, "node_modules/.bin/tsc", "--noEmit", "--strict", *modern, "--pretty", "false", *names).stdout


def _run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    # The programs are those of the lock file.
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
