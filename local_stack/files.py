"""Files of the stack's folder: written whole or not at all, and readable by their owner only."""

import secrets
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, mode 0600: a reader sees the old file or the new one."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
    ) as file:
        file.write(text)
    Path(file.name).replace(path)


def secret(path: Path) -> str:
    """Return the secret that is kept at `path`; make one of 48 characters the first time."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(36))
    return path.read_text(encoding="utf-8")
