"""The Helm chart of a release: its version, and the archive that Helm installs from (`helm package` makes the same)."""

from __future__ import annotations

import gzip
import re
import tarfile
from pathlib import Path
from typing import Final

NAME: Final = "order-saga"
CHART: Final = Path("deploy", "helm", NAME)
FILES: Final = (CHART / "Chart.yaml", Path("deploy", "kubernetes.yaml"))
"""What has the version in it."""
_PLACES: Final = re.compile(
    r'(?P<before>^version: |^appVersion: "|helm\.sh/chart: order-saga-|\.io/version: "|image: "order-saga:)'
    r"\d+\.\d+\.\d+",
    re.MULTILINE,
)


def set_version(root: Path, version: str) -> None:
    """Give the chart, and what is generated from it, the version of the project."""
    for name in FILES:
        file = root / name
        file.write_text(_PLACES.sub(rf"\g<before>{version}", file.read_text()))


def pack(root: Path, dist: Path, version: str, at: int) -> None:
    """Put the chart into an archive, the same bytes for the same commit. `at`: seconds since the epoch."""
    target = dist / f"{NAME}-{version}.tgz"
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=at) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for file in sorted(path for path in (root / CHART).rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"{NAME}/{file.relative_to(root / CHART).as_posix()}")
            entry.size, entry.mtime = file.stat().st_size, at
            with file.open("rb") as content:
                archive.addfile(entry, content)
