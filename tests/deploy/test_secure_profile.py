"""The profile `secure` has no secret that the public knows: each is given or made, or compose refuses in one line."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import DEPLOY, variables

ROOT = DEPLOY.parent
SECRET = re.compile(r"\$\{(\w*(?:PASSWORD|SECRET|KEYS)\w*):-")


def _make(folder: Path) -> Path:
    target = folder / "secrets.env"
    subprocess.run([sys.executable, str(DEPLOY / "make_secrets.py"), str(target)], check=True, capture_output=True)  # noqa: S603
    return target


def test_every_secret_of_the_compose_file_is_asked_for() -> None:
    """Where the compose file has a default, for this machine only, the profile takes its operator's secret."""
    used = set(SECRET.findall((ROOT / "docker-compose.yml").read_text()))
    asked = re.findall(r"^(\w+)=\$\{\1:\?[^}]+\}$", (DEPLOY / "secure.env").read_text(), re.MULTILINE)
    assert (set(), sorted(set(asked))) == (used - set(asked), sorted(asked))


def test_secrets_are_random_private_and_made_once(tmp_path: Path) -> None:
    """The file is its owner's alone; a second run changes nothing; another file has other secrets; one can be given."""
    (tmp_path / "secrets.env").write_text("JWT_SECRET=given\n")
    target = _make(tmp_path)
    first = variables(target)
    assert first == variables(_make(tmp_path))
    assert "given" == first["JWT_SECRET"]
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    (tmp_path / "other").mkdir()
    assert not set(first.values()) & set(variables(_make(tmp_path / "other")).values())
    assert all(len(secret) >= 32 for name, secret in first.items() if name != "JWT_SECRET")


@pytest.mark.compose
def test_compose_refuses_without_secrets(tmp_path: Path) -> None:
    """One line that names what is missing and what makes it; with the secrets, no public one is left."""
    target = _make(tmp_path)
    ours = {name: value for name, value in os.environ.items() if name not in variables(target)}

    def compose(*files: Path) -> subprocess.CompletedProcess[str]:
        words = [word for file in files for word in ("--env-file", str(file))]
        return subprocess.run(  # noqa: S603 - our own words
            ["docker", "compose", *words, "config"],  # noqa: S607
            cwd=ROOT, env=ours, capture_output=True, text=True, check=False,
        )  # fmt: skip

    refused = compose(DEPLOY / "secure.env")
    assert refused.returncode != 0
    assert re.search(r"\w+_PASSWORD .*make it with deploy/make_secrets.py, or set it", refused.stderr)
    assert 1 == len(refused.stderr.strip().splitlines())
    taken = compose(target, DEPLOY / "secure.env")
    assert (0, False) == (taken.returncode, "local-only" in taken.stdout), taken.stderr
    public = ["for-this-machine-only", *re.findall(r"_KEYS:-([^}]+)\}", (ROOT / "docker-compose.yml").read_text())]
    assert [] == [one for one in public if one in taken.stdout]
