"""What the chart says of a process's life, read from `deploy/kubernetes.yaml`, which is made of it. No process."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import yaml

from tests.support.project import ROOT

MANIFEST: Final = ROOT / "deploy" / "kubernetes.yaml"


class Life(NamedTuple):
    """How a Deployment treats its processes. Seconds."""

    replicas: int
    surge: int
    """How many more than `replicas` there may be while they are replaced."""
    unavailable: int
    grace_s: float
    """From the beginning of the end until it is killed; `pre_stop_s` is part of it."""
    pre_stop_s: float
    """How long it goes on serving, while the Service no longer names it, before it gets SIGTERM."""


def lives() -> dict[str, Life]:
    """Return what the chart's defaults say, by service."""
    documents = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one and one["kind"] == "Deployment"]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: _life(one["spec"]) for one in documents}


def _life(spec: dict[str, Any]) -> Life:
    pod, rolling = spec["template"]["spec"], spec["strategy"].get("rollingUpdate", {})
    [container] = pod["containers"]
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return Life(
        replicas=spec["replicas"],
        surge=rolling.get("maxSurge", 1),
        unavailable=rolling.get("maxUnavailable", 0),
        grace_s=float(pod["terminationGracePeriodSeconds"]),
        pre_stop_s=float(pause),
    )
