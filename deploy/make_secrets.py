# ruff: noqa: INP001 - a script of its own, without anything but the standard library
"""Make each secret that `secure.env` asks for: `python3 deploy/make_secrets.py` writes `deploy/secrets.env`.

Secrets that exist stay as they are, because servers and volumes have them. Only the owner may read the file (0600).
"""

from __future__ import annotations

import re
import sys
from base64 import urlsafe_b64encode
from pathlib import Path
from secrets import token_bytes, token_hex

HERE = Path(__file__).parent
ASKED = re.compile(r"^(\w+)=\$\{\1:\?", re.MULTILINE)
BYTES = 24


def main(target: Path) -> None:
    """Add what is missing."""
    text = target.read_text() if target.exists() else ""
    there = {line.partition("=")[0] for line in text.splitlines()}
    missing = [name for name in ASKED.findall((HERE / "secure.env").read_text()) if name not in there]
    target.touch(mode=0o600)
    target.chmod(0o600)
    with target.open("a") as file:
        file.writelines(f"{name}={_secret(name)}\n" for name in missing)
    sys.stdout.write(f"{target}: {len(missing)} secrets made\n")


def _secret(name: str) -> str:
    """Make a password or, where keys are asked for, a Fernet key: 32 bytes in URL-safe base64."""
    return urlsafe_b64encode(token_bytes(32)).decode() if name.endswith("_KEYS") else token_hex(BYTES)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "secrets.env")
