"""The system as it was before there were conditional orders: its source, out of the repository's history."""

from __future__ import annotations

import asyncio
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Final

from tests.support.project import ROOT

COMMIT: Final = "1acba55"
"""The last commit without them."""


def why_absent() -> str:
    """Say why there is no such source here; empty when there is."""
    found = _git("cat-file", "-e", f"{COMMIT}^{{commit}}")
    return "" if found is not None else f"it needs the repository's history back to {COMMIT}, which is not here"


async def source(folder: Path) -> Path:
    """Write the source into a folder; return the folder. Raises `RuntimeError` when there is none."""
    packed = await asyncio.to_thread(_git, "archive", "--format=tar", COMMIT)
    if packed is None:
        raise RuntimeError(why_absent())
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        await asyncio.to_thread(archive.extractall, folder, filter="data")
    return folder


def _git(*words: str) -> bytes | None:
    """Run git in the project's folder; return what it prints, None when it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], check=False, capture_output=True)  # noqa: S603, S607
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
