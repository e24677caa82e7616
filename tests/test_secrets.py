"""No tracked file holds a secret that nobody has looked at; `.secrets.baseline` lists, as hashes, what was."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

ROOT = Path(__file__).parents[1]
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


def test_no_tracked_file_holds_a_secret() -> None:
    """A finding is a secret: remove it, and change it where it is used. Or it is none: see the README."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: S607
    if listed.returncode:
        pytest.skip("this is no git checkout: which files are the project's is not known")
    tracked = [file for file in listed.stdout.split("\0") if file and file != BASELINE.name and (ROOT / file).is_file()]
    assert [] == _found(tracked, ROOT)


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
