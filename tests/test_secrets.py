"""No tracked file holds an unreviewed secret; `.secrets.baseline` lists the hashes of the reviewed findings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

from tests.support.project import ROOT, project_files

BASELINE = ROOT / ".secrets.baseline"
SCAN = json.loads(BASELINE.read_text())
LOOKED_AT = {(file, one["type"], one["hashed_secret"]) for file, found in SCAN["results"].items() for one in found}


def _found(files: Iterable[str], root: Path) -> list[str]:
    """Return where files hold something that looks like a secret and is not in the baseline."""
    with transient_settings({name: SCAN[name] for name in ("plugins_used", "filters_used")}):
        secrets = SecretsCollection(root=str(root))
        secrets.scan_files(*files)
    return [
        f"{file}:{secret.line_number}: {secret.type}"
        for file, secret in secrets
        if (file, secret.type, secret.secret_hash) not in LOOKED_AT
    ]


def test_no_file_of_the_project_holds_a_secret() -> None:
    """The scan finds nothing new. A real secret must be removed and replaced; for a false alarm see SECURITY.md."""
    assert [] == _found((str(file) for file in project_files() if file.name != BASELINE.name), ROOT)


def test_the_projects_files_are_known_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a source archive, or without git, the list holds all tracked files and nothing that was installed."""
    tracked = project_files()
    monkeypatch.setenv("PATH", "")
    known = project_files()
    assert set() == set(tracked) - set(known)
    assert Path("tests", "test_secrets.py") in known
    assert [] == [file for file in known if file.parts[0] in {".venv", ".git", ".local"}]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("aws = '" + "AKIA" + "Q3EGRZXVYJ5T2PLK'", "AWS Access Key"),
        ("-----BEGIN " + "PRIVATE KEY-----", "Private Key"),
        ("DATABASE_URL=postgresql://api:" + "hunter2" + "@db.internal/orders", "Basic Auth Credentials"),
        ('KAFKA_SASL_PASSWORD = "' + "correct-horse" + '"', "Secret Keyword"),
    ],
)
def test_a_planted_secret_is_found(tmp_path: Path, line: str, kind: str) -> None:
    """Each kind of secret that this project could leak makes the scan fail, with its place."""
    (tmp_path / "planted.py").write_text(f"\n{line}\n")
    assert f"planted.py:2: {kind}" in _found(["planted.py"], tmp_path)
