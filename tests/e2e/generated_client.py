"""A Python client that `openapi-python-client` generates from docs/openapi.json, without any code of ours."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.project import ROOT

LOCK = ROOT / "tests" / "clients" / "requirements.lock"
NAME = "order_saga_client"


def install_generator(folder: Path) -> Path:
    """Install what the lock file names into an environment of its own; return the program."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet")
    installed = _run(*pip, "--no-deps", "--require-hashes", "-r", LOCK)
    assert 0 == installed.returncode, installed.stderr
    return folder / "bin" / "openapi-python-client"


def generate(generator: Path, document: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Write the package into a folder. A warning is an error, because the generator leaves out what it warns about."""
    config = folder / "config.yml"
    config.write_text("post_hooks: []\n")  # nobody reads the code, so it needs no formatting
    into = ("--meta", "none", "--output-path", folder / NAME, "--config", config)
    return _run(generator, "generate", "--path", document, *into, "--fail-on-warning")


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    # The programs are our own and those of the lock file.
    return subprocess.run(words, env={**os.environ, "PIP_USER": "0"}, capture_output=True, text=True, check=False)  # noqa: S603
