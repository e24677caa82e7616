"""A real API server takes what the chart makes, and finds each defect that is planted in it.

No pod runs here, so hooks are left out of installs (`--no-hooks`); the server judges their Jobs like all else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from docs.generate.kubernetes import CHART
from tests.deploy.kubernetes.chart import COMBINATIONS, DEFAULTS, RELEASE, Object, last_released, rendered
from tests.deploy.kubernetes.cluster import Cluster
from tests.deploy.kubernetes.defects import DEFECTS, Defect

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SCALED: Final = "app.kubernetes.io/component!=audit"
EVERYTHING: Final[dict[str, Any]] = {
    **COMBINATIONS["scaled by load, secure Kafka"],
    "autoscaling": {"enabled": True},
    "monitoring": {"enabled": True},
    "ingress": {"enabled": True, "host": "orders.example"},
}
"""Values with which the chart makes objects of every kind that it knows."""


@pytest.fixture(scope="module")
def shared_namespace(cluster: Cluster) -> Iterator[str]:
    """Give all judgements of this module, which change nothing, one namespace."""
    with cluster.namespace() as name:
        yield name


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_the_server_takes_every_documented_combination(
    cluster: Cluster, shared_namespace: str, values: dict[str, Any]
) -> None:
    """No error, no unknown field, and no warning, in a namespace with Pod Security `restricted`."""
    judged = cluster.judge(shared_namespace, _in(shared_namespace, rendered(values)))
    assert judged.returncode == 0, judged.stderr


def test_everything_together_has_every_kind(cluster: Cluster, shared_namespace: str) -> None:
    """Defects are planted into objects of all kinds that the chart has."""
    objects = rendered(EVERYTHING)
    kinds = {
        kind
        for path in CHART.glob("templates/*.yaml")
        for kind in re.findall("^kind: (.+)$", path.read_text(), re.MULTILINE)
    }
    assert kinds == {one["kind"] for one in objects}
    assert cluster.judge(shared_namespace, _in(shared_namespace, objects)).returncode == 0


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_planted_defect_is_found(cluster: Cluster, shared_namespace: str, defect: Defect) -> None:
    """The server refuses the object, or warns of it, and says what is wrong; without the defect it takes it."""
    one = _chosen(defect)
    assert cluster.judge(shared_namespace, _in(shared_namespace, [one])).returncode == 0
    defect.plant(one)
    judged = cluster.judge(shared_namespace, _in(shared_namespace, [one]))
    assert judged.returncode != 0, judged.stdout
    assert defect.complaint in judged.stderr


def test_there_are_twenty_defects_at_least() -> None:
    """And among them one of each kind of object that the chart makes."""
    assert (True, {one["kind"] for one in rendered(EVERYTHING)}) == (
        len(DEFECTS) >= 20,
        {d.kind for d in DEFECTS.values()},
    )


def _chosen(defect: Defect) -> Object:
    component = "app.kubernetes.io/component"
    (one,) = (
        one
        for one in rendered(EVERYTHING)
        if (one["kind"], one["metadata"]["labels"][component]) == (defect.kind, defect.component)
    )
    return one


def _in(namespace: str, objects: list[Object]) -> list[Object]:
    """Put objects into a namespace, as Helm does when it installs them."""
    return [{**one, "metadata": {**one["metadata"], "namespace": namespace}} for one in objects]


def test_a_release_lives_through_install_upgrade_rollback_and_uninstall(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """From the last released chart to this one and back: each step leaves the objects that it should."""

    def helm(*words: str, values: dict[str, Any] | None = None) -> None:
        ran = cluster.helm(*words, "--no-hooks", "--namespace", namespace, values=values)
        assert ran.returncode == 0, ran.stderr

    def images() -> dict[str, str]:
        there = cluster.get(namespace, "deployments", f"app.kubernetes.io/instance={RELEASE}")
        return {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["image"] for one in there}

    helm("install", RELEASE, str(last_released(tmp_path)))
    first = images()
    assert {f"{RELEASE}-{name}" for name in DEFAULTS["services"]} >= first.keys() >= {f"{RELEASE}-orchestrator"}
    # From fixed numbers of processes to numbers by load, with a new image, and without one of the processes.
    values = {**EVERYTHING, "image": {"tag": "9.9.9"}, "services": {"webhooks": {"enabled": False}}}
    helm("upgrade", RELEASE, str(CHART), values=values)
    wanted = {f"{RELEASE}-{name}": "order-saga:9.9.9" for name in DEFAULTS["services"] if name != "webhooks"}
    assert wanted == images()
    assert 3 == len(cluster.get(namespace, "scaledobjects"))
    helm("rollback", RELEASE, "1")
    assert (first, []) == (images(), cluster.get(namespace, "scaledobjects"))
    helm("uninstall", RELEASE)
    left = "deployments,services,poddisruptionbudgets,networkpolicies,scaledobjects,prometheusrules,jobs"
    assert [] == cluster.get(namespace, left)


def test_scaling_is_switched_on_and_off_for_a_release_that_runs(cluster: Cluster, namespace: str) -> None:
    """As the README says: processes that were scaled by hand before stay, and so does what a scaler has set since."""
    scaled = {"keda": {"enabled": True}, "autoscaling": {"enabled": True}}
    of_release = f"app.kubernetes.io/instance={RELEASE}"

    def upgrade(*words: str, values: dict[str, Any] | None = None) -> int:
        return cluster.helm(
            "upgrade", "--install", RELEASE, str(CHART), "--no-hooks", "--namespace", namespace, *words, values=values
        ).returncode

    def scale(choice: str, number: int) -> None:
        words = ("--namespace", namespace, "scale", "deployment", "--selector", f"{of_release},{choice}")
        assert cluster.kubectl(*words, f"--replicas={number}").returncode == 0

    def numbers() -> set[int]:
        there = cluster.get(namespace, "deployments", f"{of_release},{SCALED}")
        return {one["spec"]["replicas"] for one in there}

    assert (0, {2}) == (upgrade(), numbers())
    scale(SCALED, 3)
    assert (0, {3}) == (upgrade(values=scaled), numbers())
    scale(SCALED, 6)  # as a scaler does
    assert (0, {6}) == (upgrade(values={**scaled, "image": {"tag": "9.9.9"}}), numbers())
    assert 0 != upgrade("--reset-values"), "two would set the same number"
    assert (0, {2}) == (upgrade("--reset-values", "--force-conflicts"), numbers())


def test_two_cells_live_in_one_namespace(cluster: Cluster, namespace: str) -> None:
    """No object of one release has the name of another's, and none chooses the pods of another."""
    for cell in ("c1", "c2"):
        values = {"cell": cell, "keda": {"enabled": True}, "monitoring": {"enabled": True}}
        made = cluster.helm("install", cell, str(CHART), "--no-hooks", "--namespace", namespace, values=values)
        assert made.returncode == 0, made.stderr
    selectors = [one["spec"]["selector"] for one in cluster.get(namespace, "services")]
    assert len(selectors) == len({tuple(sorted(one.items())) for one in selectors}) == 12


def test_a_pod_of_each_deployment_would_be_admitted(cluster: Cluster, shared_namespace: str) -> None:
    """Pod Security judges pods only, so a pod of each Deployment and Job is shown to the server as well."""
    for one in rendered(EVERYTHING):
        if one["kind"] in {"Deployment", "Job"}:
            template = one["spec"]["template"]
            name = one["metadata"]["name"]
            pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": name}}
            judged = cluster.judge(shared_namespace, _in(shared_namespace, [pod]))
            assert judged.returncode == 0, judged.stderr
