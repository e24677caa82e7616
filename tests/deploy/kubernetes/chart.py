"""The chart under test: Helm's commands, what it renders, and the combinations of values that its README documents."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from docs.generate.kubernetes import CHART, program
from tests.support.project import ROOT, git

README: Final = (CHART / "README.md").read_text()
DEFAULTS: Final[dict[str, Any]] = yaml.safe_load((CHART / "values.yaml").read_text())
COMBINATIONS: Final[dict[str, dict[str, Any]]] = {"defaults": {}} | {
    name: yaml.safe_load(text)
    for name, text in re.findall(r"^<!-- values: ([^\n]+) -->\n```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
}
"""What the README shows, by name."""
RELEASE: Final = "shop"
"""Not the chart's name, so that whatever is called by that instead of the release's shows."""

Object = dict[str, Any]


def helm(*words: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with these values, from the standard input."""
    text = yaml.safe_dump(dict(values)) if values else ""
    command = [str(program("helm")), *words, *(["--values", "-"] if values else [])]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603 - our own words


def rendered(values: Mapping[str, Any] | None = None, *words: str, release: str = RELEASE) -> list[Object]:
    """Have Helm render the chart; return its objects."""
    return deepcopy(_rendered(json.dumps(values or {}, sort_keys=True), words, release))


@cache
def _rendered(values: str, words: tuple[str, ...], release: str) -> list[Object]:
    made = helm("template", release, str(CHART), "--namespace", "trading", *words, values=json.loads(values))
    assert made.returncode == 0, made.stderr
    return [one for one in yaml.load_all(made.stdout, yaml.CSafeLoader) if one]


def of_kind(objects: Iterable[Object], *kinds: str) -> dict[str, Object]:
    """Choose objects by their kind; return them by the component that they belong to."""
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in objects if one["kind"] in kinds}


def pods(objects: Iterable[Object]) -> dict[str, Object]:
    """Return the pod of each Deployment and Job, by component."""
    return {name: one["spec"]["template"]["spec"] for name, one in of_kind(objects, "Deployment", "Job").items()}


def environment(pod: Object) -> Iterator[tuple[str, str | None, str | None]]:
    """Yield a pod's variables: name, value, and the key of the Secret that has it."""
    for one in pod["containers"][0]["env"]:
        yield one["name"], one.get("value"), one.get("valueFrom", {}).get("secretKeyRef", {}).get("key")


def files(folder: str, pattern: str = "*") -> list[Path]:
    """List files of the chart."""
    return sorted((CHART / folder).glob(pattern))


def last_released(folder: Path) -> Path:
    """Take the chart of the newest release into a folder; while no release has one, return the chart at hand."""
    tags = git("tag", "--list", "v*", "--sort=-version:refname").split()
    place = CHART.relative_to(ROOT).as_posix()
    for tag in tags:
        if git("ls-tree", "--name-only", tag, f"{place}/Chart.yaml"):
            archive = folder / "chart.tar"
            git("archive", "--output", str(archive), tag, place)
            with tarfile.open(archive) as content:
                content.extractall(folder, filter="data")
            return folder / place
    return CHART
