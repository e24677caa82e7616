"""The profile `monitoring` of the compose file: Prometheus reads every process, under the name that alerts expect."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.monitoring.rules import ALERTS
from tests.support.project import ROOT

FOLDER: Final = ROOT / "deploy" / "monitoring"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS: Final = {
    name: int(one["environment"]["HTTP_PORT"])
    for name, one in COMPOSE.items()
    if "HTTP_PORT" in one.get("environment", {})
}


@pytest.mark.promtool
def test_prometheus_takes_its_configuration_and_rules(tmp_path: Path) -> None:
    """Laid out as in its container, all of it is right by Prometheus' own checker."""
    for file in (FOLDER / "prometheus.yml", FOLDER / "processes.yaml", ALERTS):
        shutil.copy(file, tmp_path)
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_reads_every_process_of_the_compose_file() -> None:
    """At its port, with its name as the label `job`, and one of each is wanted."""
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    read = {one["labels"]["job"]: one["targets"] for one in job["static_configs"]}
    assert {name: [f"{name}:{port}"] for name, port in OURS.items()} == read
    assert {"order-saga"} == {one["labels"]["release"] for one in job["static_configs"]}
    (group,) = yaml.safe_load((FOLDER / "processes.yaml").read_text())["groups"]
    assert OURS.keys() == {rule["labels"]["job"] for rule in group["rules"]}


def test_what_the_profile_mounts_is_there() -> None:
    """Each file that a container gets exists; nothing is started without the profile, or reachable from elsewhere."""
    for name in ("prometheus", "grafana", "collector", "audit"):
        one = COMPOSE[name]
        assert ["monitoring"] == one["profiles"]
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", ()))
        for volume in one.get("volumes", ()):
            source, _, mode = volume.split(":")
            assert (True, "ro") == (not source.startswith("./") or (ROOT / source).exists(), mode)
