"""Helm waits for each hook, and an upgrade whose check fails changes nothing. The test plays who runs the Jobs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import yaml

from docs.generate.kubernetes import CHART
from tests.deploy.kubernetes.chart import RELEASE
from tests.deploy.kubernetes.cluster import LOOK_EVERY_S, Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

OLD: Final = f"order-saga:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
WITHIN_S: Final = 120.0
ENDED_WELL: Final = ("SuccessCriteriaMet", "Complete")
FAILED: Final = ("FailureTarget", "Failed")
"""The conditions that the controller of Jobs sets, in its order."""


def _play(
    cluster: Cluster, namespace: str, helm: subprocess.Popen[str], ends: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """End each Job that Helm creates as `ends` says, until Helm has ended; return the Jobs in their order."""
    played: dict[str, str] = {}
    give_up_at = time.monotonic() + WITHIN_S
    while helm.poll() is None:
        assert time.monotonic() < give_up_at, f"Helm waits after {list(played)}"
        for job in cluster.get(namespace, "jobs"):
            name, uid = job["metadata"]["labels"]["app.kubernetes.io/component"], job["metadata"]["uid"]
            if uid not in played and not job["status"].get("conditions"):
                _end(cluster, namespace, job["metadata"]["name"], ends[name])
                played[uid] = name
        with suppress(subprocess.TimeoutExpired):
            helm.wait(LOOK_EVERY_S)
    return list(played.values())


def _end(cluster: Cluster, namespace: str, job: str, conditions: tuple[str, ...]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    told = [{"type": one, "status": "True", "lastTransitionTime": now, "lastProbeTime": now} for one in conditions]
    status: dict[str, Any] = {"startTime": now, "conditions": told}
    status |= {"succeeded": 1, "completionTime": now} if conditions == ENDED_WELL else {"failed": 1}
    words = ("--namespace", namespace, "patch", "job", job, "--subresource=status", "--type=merge", "--patch")
    patched = cluster.kubectl(*words, json.dumps({"status": status}))
    assert patched.returncode == 0, patched.stderr


def _images(cluster: Cluster, namespace: str) -> set[str]:
    there = cluster.get(namespace, "deployments")
    return {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in there}


def test_an_upgrade_whose_check_fails_does_not_begin(cluster: Cluster, namespace: str) -> None:
    """Hooks run one after the other, each waited for; when check-deploy says no, every process stays as it is."""
    well: dict[str, tuple[str, ...]] = {"migrate": ENDED_WELL, "topics": ENDED_WELL, "check-deploy": ENDED_WELL}
    where = ("--namespace", namespace, "--timeout", "120s")
    with cluster.helm_at_work("install", RELEASE, str(CHART), *where) as helm:
        assert ["migrate", "topics"] == _play(cluster, namespace, helm, well)
    assert (0, {OLD}) == (helm.returncode, _images(cluster, namespace))

    new = ("upgrade", RELEASE, str(CHART), "--set", "image.tag=9.9.9", *where)
    with cluster.helm_at_work(*new) as helm:
        assert ["migrate", "topics", "check-deploy"] == _play(cluster, namespace, helm, well | {"check-deploy": FAILED})
        assert helm.stdout is not None
        said = helm.stdout.read()
    assert helm.returncode != 0
    assert "check-deploy" in said or "pre-upgrade hooks failed" in said, said
    assert {OLD} == _images(cluster, namespace)
    (job,) = cluster.get(namespace, "jobs", "app.kubernetes.io/component=check-deploy")  # for its log
    assert ["check-deploy"] == job["spec"]["template"]["spec"]["containers"][0]["args"]

    with cluster.helm_at_work(*new) as helm:
        assert ["migrate", "topics", "check-deploy"] == _play(cluster, namespace, helm, well)
    assert (0, {"order-saga:9.9.9"}) == (helm.returncode, _images(cluster, namespace))


def test_a_schema_that_can_not_be_migrated_ends_an_install(cluster: Cluster, namespace: str) -> None:
    """Nothing is started, and the later hooks are not, either."""
    with cluster.helm_at_work("install", RELEASE, str(CHART), "--namespace", namespace) as helm:
        assert ["migrate"] == _play(cluster, namespace, helm, {"migrate": FAILED})
    assert helm.returncode != 0
    assert [] == cluster.get(namespace, "deployments")
