"""Lists the files of the project, for tests that read or copy all of them."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def git(*words: str, folder: Path = ROOT) -> str:
    """Return the output of a git command in this checkout; empty without git or without a checkout."""
    try:
        asked = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        return ""
    return asked.stdout.strip()


def project_files(folder: Path = ROOT) -> list[Path]:
    """List the tracked files; without git, as in a source archive, all files that `.gitignore` does not exclude."""
    if tracked := git("ls-files", "-z", folder=folder):
        return sorted(Path(name) for name in tracked.split("\0") if (folder / name).is_file())
    lines = (folder / ".gitignore").read_text().splitlines()
    ignored = [line.rstrip("/") for line in lines if line and not line.startswith("#")] + [".git"]
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in inside if not any(fnmatch(part, name) for part in path.parts for name in ignored)]
