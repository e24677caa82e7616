"""How a command finds the system: it uses a local stack's file only if no other user can have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from operations.access.errors import WrongRequest
from operations.access.system import jwt_secret, ledger_setting, setting, stack


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave a description of a stack in a folder above the one in which commands run."""
    for variable in ("DATABASE_URL", "LEDGER_VIEWS", "ORDER_SAGA_STACK", "JWT_SECRET"):
        monkeypatch.delenv(variable, raising=False)
    place = tmp_path / ".local" / "stack.json"
    place.parent.mkdir()
    (tmp_path / "secret").write_text("their secret")
    place.write_text(json.dumps({"database_url": "their database", "jwt_secret_file": str(tmp_path / "secret")}))
    place.chmod(0o600)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    return place


@pytest.mark.usefixtures("file")
def test_a_file_of_ones_own_is_believed() -> None:
    """The stack of this folder, or of a parent folder, is found without an option."""
    assert ("their database", "their secret") == (setting("DATABASE_URL", "database_url"), jwt_secret())


@pytest.mark.usefixtures("file")
def test_a_file_of_another_user_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user who leaves a file in a parent folder gets no password and no token; the error says why."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(WrongRequest, match=rf"another user's \(id {os.getuid()}\), so it is not believed"):
        setting("DATABASE_URL", "database_url")
    with pytest.raises(WrongRequest, match="not believed"):
        jwt_secret()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_not_believed(file: Path, mode: int) -> None:
    """Neither is an own file that others may write."""
    file.chmod(mode)
    with pytest.raises(WrongRequest, match=r"others may write .*: chmod 600 "):
        stack()


def test_a_file_that_is_named_is_no_exception(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a file that `ORDER_SAGA_STACK` names is checked, too."""
    monkeypatch.setenv("ORDER_SAGA_STACK", str(file))
    assert "their database" == stack()["database_url"]
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(WrongRequest, match="another user's"):
        stack()


def test_what_the_environment_names_needs_no_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment set, another user's file is not even read."""
    file.chmod(0o666)
    monkeypatch.setenv("DATABASE_URL", "mine")
    assert ("mine", "") == (setting("DATABASE_URL", "database_url"), ledger_setting())


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_describes_nothing_is_one_line(file: Path, text: str) -> None:
    """A broken file is trouble in one line, not a stack trace."""
    file.write_text(text)
    with pytest.raises(WrongRequest, match=r"stack\.json does not describe a local stack"):
        stack()
