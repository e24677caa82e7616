"""Defects of manifests that an API server must find, at least one of each kind of object that the chart makes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tests.deploy.kubernetes.chart import Object

GONE: Final = object()
"""Instead of a value: what is there is taken away."""
OFF, ON = False, True
POD: Final = "spec/template/spec"
CONTAINER: Final = f"{POD}/containers/0"


class Defect(NamedTuple):
    """What is planted: into which object, where (`-` is the end of a list), and a word of the server's complaint."""

    kind: str
    component: str
    place: str
    value: Any
    complaint: str

    def plant(self, one: Object) -> None:
        """Change the object."""
        inside: Any = one
        *way, last = self.place.split("/")
        for step in way:
            inside = inside[int(step)] if isinstance(inside, list) else inside[step.replace("~", "/")]
        if isinstance(inside, list):
            inside.append(self.value)
        elif self.value is GONE:
            del inside[last]
        else:
            inside[last.replace("~", "/")] = self.value


_SELECTOR: Final = "spec/selector/matchLabels/app.kubernetes.io~component"
_HTTP_PORT: Final = {"name": "HTTP_PORT", "value": "1"}
_TCP: Final = {"port": "http"}

DEFECTS: Final = {
    "a field that is misspelled":
        Defect("Deployment", "api", f"{CONTAINER}/readynessProbe", {"tcpSocket": _TCP}, "not declared in schema"),
    "a field at the wrong place":
        Defect("Deployment", "api", "spec/args", ["api"], "not declared in schema"),
    "a text instead of a number":
        Defect("Deployment", "audit", "spec/replicas", "two", "replicas"),
    "a selector that chooses other pods":
        Defect("Deployment", "balance", _SELECTOR, "assets", "selector"),
    "a mount of a volume that is not there":
        Defect("Deployment", "assets", f"{CONTAINER}/volumeMounts/0/name", "temp", "volumeMounts"),
    "a volume whose source is misspelled":
        Defect("Deployment", "assets", f"{POD}/volumes/-", {"name": "x", "emptydir": {}}, "not declared in schema"),
    "a probe of two kinds":
        Defect("Deployment", "api", f"{CONTAINER}/livenessProbe/tcpSocket", _TCP, "more than 1 handler"),
    "a restart that waits for two good answers":
        Defect("Deployment", "api", f"{CONTAINER}/livenessProbe/successThreshold", 2, "successThreshold"),
    "a sleep that is longer than the time to end":
        Defect("Deployment", "api", f"{CONTAINER}/lifecycle/preStop/sleep/seconds", 60, "terminationGrace"),
    "an action before the end that is unknown":
        Defect("Deployment", "api", f"{CONTAINER}/lifecycle/preStop/wait", {"seconds": 1}, "not declared in schema"),
    "a request above its limit":
        Defect("Deployment", "orchestrator", f"{CONTAINER}/resources/requests/memory", "1Gi", "memory"),
    "an amount whose unit does not exist":
        Defect("Deployment", "orchestrator", f"{CONTAINER}/resources/limits/memory", "512MB", "quantities"),
    "a variable that is given twice":
        Defect("Deployment", "webhooks", f"{CONTAINER}/env/-", _HTTP_PORT, "HTTP_PORT"),
    "a variable of two sources":
        Defect("Deployment", "webhooks", f"{CONTAINER}/env/4/value", "postgresql://", "valueFrom"),
    "an update that can't begin":
        Defect("Deployment", "api", "spec/strategy/rollingUpdate/maxSurge", 0, "maxUnavailable"),
    "a process that may be root":
        Defect("Deployment", "api", f"{POD}/securityContext/runAsNonRoot", OFF, "restricted"),
    "a capability":
        Defect("Deployment", "api", f"{CONTAINER}/securityContext/capabilities/add", ["NET_ADMIN"], "restricted"),
    "a process that may gain rights":
        Defect("Job", "migrate", f"{CONTAINER}/securityContext/allowPrivilegeEscalation", ON, "restricted"),
    "a Job that is started for ever":
        Defect("Job", "topics", f"{POD}/restartPolicy", "Always", "restartPolicy"),
    "a Job that ends before it begins":
        Defect("Job", "check-deploy", "spec/activeDeadlineSeconds", -1, "activeDeadlineSeconds"),
    "a port whose name is too long":
        Defect("Service", "api", "spec/ports/0/targetPort", "http-of-the-orders", "targetPort"),
    "a budget of two kinds":
        Defect("PodDisruptionBudget", "api", "spec/minAvailable", 1, "cannot be both set"),
    "ports from high to low":
        Defect("NetworkPolicy", "default", "spec/egress/2/ports/0/endPort", 9000, "endPort"),
    "an exception outside of its network":
        Defect("NetworkPolicy", "webhooks", "spec/egress/0/to/1/ipBlock/except/-", "fc00::/7", "except"),
    "a floor above the ceiling":
        Defect("HorizontalPodAutoscaler", "api", "spec/minReplicas", 11, "maxReplicas"),
    "a path that begins nowhere":
        Defect("Ingress", "api", "spec/rules/0/http/paths/1/path", "orders", "absolute path"),
    "a label that is no label":
        Defect("ConfigMap", "monitoring", "metadata/labels/part", "Order Saga", "labels"),
    "a misspelled setting of KEDA":
        Defect("ScaledObject", "balance", "spec/minReplicasCount", 2, "not declared in schema"),
    "metadata of KEDA that is no text":
        Defect("ScaledObject", "balance", "spec/triggers/0/metadata/lagThreshold", 4000, "lagThreshold"),
    "a fallback of KEDA that does not exist":
        Defect("ScaledObject", "assets", "spec/fallback/behavior", "keep", "behavior"),
    "a login of KEDA without a parameter":
        Defect("TriggerAuthentication", "assets", "spec/env/0/parameter", GONE, "parameter"),
    "an interval that is no duration":
        Defect("ServiceMonitor", "monitoring", "spec/endpoints/0/interval", "15 seconds", "interval"),
    "an alert that waits for no duration":
        Defect("PrometheusRule", "monitoring", "spec/groups/1/rules/0/for", "1 minute", "for"),
    "an alert without an expression":
        Defect("PrometheusRule", "monitoring", "spec/groups/1/rules/0/expr", GONE, "expr"),
}  # fmt: skip
