"""What Helm makes of the chart, without any cluster: it agrees with the code, the documents, and itself."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network
from itertools import chain
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft7Validator

from contracts.topics import TOPICS
from contracts.webhooks import is_public
from docs.generate import chart, kubernetes
from migrations.logins import GROUPS
from operations.access.settings import SERVICES
from operations.access.settings import settings as all_settings
from operations.audit.serve import serve
from operations.deployment.acls import read
from order_api.live.streams import BYE_S
from order_api.process import DRAIN_S, LAST_ANSWERS_S
from saga_kit.runtime.watchdog import BLOCKED_S
from tests.deploy.kubernetes.chart import (
    COMBINATIONS,
    DEFAULTS,
    README,
    RELEASE,
    environment,
    helm,
    of_kind,
    pods,
    rendered,
)
from tests.deploy.kubernetes.formula import results
from tests.support.project import ROOT

pytestmark = pytest.mark.helm

ALL: Final = pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS.keys())
RIGHTS: Final = read((ROOT / "deploy" / "acls.txt").read_text())
OF_COMMANDS: Final = {
    *("DB_LOGIN_PREFIX", "LEDGER_VIEWS", "NOTIFY_URLS"),
    *(f"{login.upper()}_DB_PASSWORD" for login in GROUPS),
}
"""What the commands of the hooks and the audit read of the environment, beside the settings of services."""


@ALL
def test_helm_finds_nothing_wrong(values: dict[str, Any]) -> None:
    """`helm lint --strict` has no complaint about any documented combination of values."""
    linted = helm("lint", "--strict", str(kubernetes.CHART), values=values)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_readme_shows_a_combination_for_each_part_of_the_values() -> None:
    """Every value at the top, except those that are numbers and names only, stands in an example."""
    shown = set(chain.from_iterable(COMBINATIONS.values()))
    assert (True, {"secret", "log", "resources"}) == (len(COMBINATIONS) > 12, DEFAULTS.keys() - shown)


@ALL
def test_every_variable_is_a_setting_that_exists(values: dict[str, Any]) -> None:
    """Each environment variable of a process is read by it: a misspelled one would change nothing and say nothing."""
    for name, pod in pods(rendered(values)).items():
        known = {field.upper() for field in SERVICES[name].model_fields} if name in SERVICES else OF_COMMANDS
        known |= {each.variable for each in all_settings()} if name not in SERVICES else set()
        given = [variable for variable, _, _ in environment(pod)]
        assert [] == [one for one in given if one not in known and not one.startswith("OTEL_")], name
        assert len(given) == len(set(given)), name


def test_what_the_commands_read_stands_in_their_code() -> None:
    """The variables that are no settings of a service are read by the module that reads the environment."""
    text = (ROOT / "operations" / "access" / "system.py").read_text()
    assert {"LEDGER_VIEWS", "NOTIFY_URLS", "DB_LOGIN_PREFIX"} <= set(re.findall(r'"([A-Z_]+)"', text))
    assert 'f"{service.upper()}_DB_PASSWORD"' in text


def test_every_process_of_the_compose_file_is_there_and_started_alike() -> None:
    """The chart has the services of docker-compose.yml, with their commands and ports."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ours = {name: one for name, one in compose.items() if "HTTP_PORT" in one.get("environment", {})}
    told = {name: (one["command"], int(one["environment"]["HTTP_PORT"])) for name, one in ours.items()}
    chart_has = {name: (one["args"], one["port"]) for name, one in DEFAULTS["services"].items()}
    audits = [each.pop("audit") for each in (told, chart_has)]
    assert told == chart_has
    assert [(["audit", "--watch"], 8004)] * 2 == [(words[:2], port) for words, port in audits]
    assert {"host", "port", "every_s"} <= serve.__annotations__.keys()


@ALL
def test_every_key_of_the_secret_is_documented(values: dict[str, Any]) -> None:
    """The README lists each key, or it is one that these values name themselves."""
    listed = set(re.findall(r"`([a-z-]+)`", README[README.index("| key |") : README.index("Pods take a changed")]))
    named = {value for one in values.get("services", {}).values() for value in one.get("secretSettings", {}).values()}
    named |= {values.get(part, {}).get("caKey") for part in ("kafka", "database")}
    objects = rendered(values)
    used = {key for pod in pods(objects).values() for _, _, key in environment(pod) if key}
    used |= {item["key"] for pod in pods(objects).values() for one in pod["volumes"] for item in _items(one)}
    for one in of_kind(objects, "TriggerAuthentication").values():
        used |= {ref["key"] for ref in one["spec"]["secretTargetRef"]}
    assert set() == used - listed - named


def _items(volume: dict[str, Any]) -> list[dict[str, str]]:
    return volume.get("secret", {}).get("items", [])  # type: ignore[no-any-return]


def test_each_process_logs_in_as_itself() -> None:
    """To the database and to Kafka, by names that migrations and the list of rights know."""
    for name, pod in pods(rendered(COMBINATIONS["secure Kafka"])).items():
        given = {variable: (value, key) for variable, value, key in environment(pod)}
        login = {"audit": "auditor", "migrate": "owner", "check-deploy": "owner", "topics": "admin"}.get(name, name)
        if name != "topics":
            assert (None, f"{login}-database-url") == given["DATABASE_URL"]
        if name in {"audit", "migrate", "check-deploy"}:
            assert not {variable for variable in given if variable.startswith("KAFKA")}
            continue
        assert ("cluster-admin" if login == "admin" else login, None) == given["KAFKA_SASL_USERNAME"]
        assert (None, f"{login}-kafka-password") == given["KAFKA_SASL_PASSWORD"]
        assert login == "admin" or login in {right.login for right in RIGHTS}
    assert GROUPS.keys() == {*SERVICES, "auditor"}


def test_keda_looks_at_what_each_process_consumes() -> None:
    """The groups that a login joins, with all topics that its process reads in them, and no other."""
    scaled = of_kind(rendered(COMBINATIONS["a cell"]), "ScaledObject")
    for name, one in scaled.items():
        triggers = [each["metadata"] for each in one["spec"]["triggers"]]
        joined = {f"c7.{right.name}" for right in RIGHTS if (right.login, right.may) == (name, "join")}
        topics = {f"c7.{right.name}" for right in RIGHTS if (right.login, right.may) == (name, "read")}
        assert (joined, topics) == ({each["consumerGroup"] for each in triggers}, {each["topic"] for each in triggers})
        assert len(topics) == len(triggers)
    assert scaled.keys() == {right.login for right in RIGHTS if right.may == "join"} & SERVICES.keys()


@pytest.mark.kubernetes
def test_the_formula_of_scaling_gives_the_steps() -> None:
    """By KEDA's own library: what all topics have waiting together decides, and each number divides the partitions."""
    scaled = of_kind(rendered({"keda": {"enabled": True}}), "ScaledObject")["balance"]["spec"]
    steps = {(0, 0): 2, (1999, 2000): 2, (2000, 2000): 3, (12_000, 0): 4, (20_000, 10_000): 6, (48_000, 48_000): 12}
    names = [trigger["name"] for trigger in scaled["triggers"]]
    given = [dict(zip(names, lags, strict=True)) for lags in steps]
    assert list(steps.values()) == results(scaled["advanced"]["scalingModifiers"]["formula"], given)
    assert {0} == {TOPICS[0].partitions % number for number in steps.values()}


@ALL
def test_there_are_never_fewer_than_two_processes_of_a_service(values: dict[str, Any]) -> None:
    """Whatever scales, a floor of two stays: timers and the relay have no lag, and one may be restarted."""
    objects = rendered(values)
    scalers = of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")
    for name, one in of_kind(objects, "Deployment").items():
        floor = scalers[name]["spec"] if name in scalers else {}
        least = floor.get("minReplicaCount") or floor.get("minReplicas") or one["spec"]["replicas"]
        assert least >= 2 or name == "audit", name
        assert ("replicas" in one["spec"]) is (name not in scalers), "a scaler and the chart would both set it"


def test_one_replica_scaled_by_load_is_two() -> None:
    """KEDA is never told of fewer than two."""
    values = {"keda": {"enabled": True}, "services": {"orchestrator": {"replicas": 1}}}
    assert 2 == of_kind(rendered(values), "ScaledObject")["orchestrator"]["spec"]["minReplicaCount"]


@ALL
def test_the_hooks_run_in_their_order_with_the_new_image(values: dict[str, Any]) -> None:
    """The schema, the topics, then what is in flight: an upgrade that could not handle it does not begin."""
    objects = rendered(values)
    jobs = sorted(
        of_kind(objects, "Job").items(), key=lambda job: job[1]["metadata"]["annotations"]["helm.sh/hook-weight"]
    )
    assert ["migrate", "topics", "check-deploy"] == [name for name, _ in jobs]
    when = [one["metadata"]["annotations"]["helm.sh/hook"] for _, one in jobs]
    assert ["pre-install,pre-upgrade", "pre-install,pre-upgrade", "pre-upgrade"] == when
    assert 1 == len({pod["containers"][0]["image"] for pod in pods(objects).values()})
    assert 0 == jobs[2][1]["spec"]["backoffLimit"]


@ALL
def test_hooks_use_nothing_that_the_chart_makes(values: dict[str, Any]) -> None:
    """A hook runs before all else is there: whatever it names is the Secret, which is not the chart's."""
    objects = rendered(values)
    made = {(one["kind"], one["metadata"]["name"]) for one in objects}
    assert not {kind for kind, _ in made} & {"Secret", "ServiceAccount"}
    for name, pod in pods(objects).items():
        asked = {one["valueFrom"]["secretKeyRef"]["name"] for one in pod["containers"][0]["env"] if "valueFrom" in one}
        assert asked <= {f"order-saga-{values['cell']}" if "cell" in values else "order-saga"}, name
        assert not any("configMap" in one for one in pod["volumes"])


@ALL
def test_every_pod_is_as_bounded_as_in_the_compose_file(values: dict[str, Any]) -> None:
    """No root, nothing to write to, no capability, no token, bounded memory, and no bound on the processor."""
    for name, pod in pods(rendered(values)).items():
        (container,) = pod["containers"]
        assert (False, False) == (pod["automountServiceAccountToken"], pod["enableServiceLinks"]), name
        assert (True, 10001) == (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"])
        assert {"drop": ["ALL"]} == container["securityContext"]["capabilities"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {"memory"} == container["resources"]["limits"].keys()
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()


def test_probes_are_as_patient_as_the_process() -> None:
    """A process is restarted no sooner than its own watchdog ends it, and has the time to end that it needs."""
    for name, pod in pods(rendered()).items():
        (container,) = pod["containers"]
        if "livenessProbe" not in container:
            assert name in {"migrate", "topics", "check-deploy"}
            continue
        live, ready, start = (container[f"{kind}Probe"] for kind in ("liveness", "readiness", "startup"))
        assert live["periodSeconds"] * live["failureThreshold"] >= BLOCKED_S
        assert ready["timeoutSeconds"] > 5  # what readiness takes while the database hangs: docs/observability.md
        assert 60 == start["periodSeconds"] * start["failureThreshold"]
        assert ["/health/live", "/health/ready"] == [one["httpGet"]["path"] for one in (live, ready)]
        first = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] > first + LAST_ANSWERS_S + DRAIN_S + BYE_S


def test_selectors_never_change() -> None:
    """A Deployment's selector is immutable: with another one, no release could be upgraded."""
    for name, one in of_kind(rendered(), "Deployment").items():
        assert one["spec"]["selector"]["matchLabels"] == {
            "app.kubernetes.io/name": "order-saga",
            "app.kubernetes.io/instance": RELEASE,
            "app.kubernetes.io/component": name,
        }
        assert f"{RELEASE}-{name}" == one["metadata"]["name"]


@ALL
def test_services_budgets_and_policies_choose_pods_that_exist(values: dict[str, Any]) -> None:
    """Whatever chooses by labels chooses pods of this release."""
    objects = rendered(values)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(objects, "Deployment", "Job").values()]
    for one in objects:
        spec = one.get("spec", {})
        chosen = spec.get("podSelector") or spec.get("selector")
        if one["kind"] in {"Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"}:
            asked = chosen.get("matchLabels", chosen).items()
            assert any(asked <= each.items() for each in labels), one["metadata"]["name"]


def test_long_names_of_releases_are_cut() -> None:
    """Names of objects have at most 63 characters, whatever the release is called."""
    objects = rendered(COMBINATIONS["a cell"], release="a" * 53)
    assert 63 >= max(len(one["metadata"]["name"]) for one in objects)
    assert len(objects) == len({(one["kind"], one["metadata"]["name"]) for one in objects})


def test_the_webhook_process_reaches_the_internet_and_no_private_network() -> None:
    """What the policy lets through is public by the rule of the process itself, wherever one looks in IPv4."""
    policy = [
        one for one in rendered() if one["metadata"]["name"] == f"{RELEASE}-webhooks" and one["kind"] == "NetworkPolicy"
    ]
    (rule,) = policy[0]["spec"]["egress"]
    assert [{"port": 443}] == rule["ports"]
    blocks = [
        (ip_network(to["ipBlock"]["cidr"]), [ip_network(one) for one in to["ipBlock"]["except"]]) for to in rule["to"]
    ]
    (everything, private), (six, private_six) = blocks
    assert ("0.0.0.0/0", "2000::/3") == (str(everything), str(six))

    def allowed(address: str) -> bool:
        ip = ip_address(address)
        within = private if ip.version == 4 else private_six
        return ip in (everything if ip.version == 4 else six) and not any(ip in one for one in within)

    looked_at = [
        f"{first}.{second}.{third}.7" for first in range(256) for second in range(256) for third in (0, 2, 99, 100, 113)
    ]
    looked_at += [
        "2606:4700::1111",
        "2001:db8::1",
        "2001::1",
        "2002:a00:1::1",
        "fc00::1",
        "fe80::1",
        "::1",
        "64:ff9b::a00:1",
    ]
    through = [address for address in looked_at if allowed(address)]
    assert [] == [address for address in through if not is_public(ip_address(address))]
    assert ["2606:4700::1111"] == [address for address in through if ":" in address]
    assert len(through) > 0.8 * len(looked_at)


def test_the_network_lets_nothing_in_but_requests_and_readers_of_metrics() -> None:
    """All pods are chosen by a policy of both directions; only the API has callers."""
    policies = {one["metadata"]["name"]: one["spec"] for one in rendered() if one["kind"] == "NetworkPolicy"}
    default = policies.pop(f"{RELEASE}-default")
    assert ["Ingress", "Egress"] == default["policyTypes"]
    assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} == default["podSelector"]["matchLabels"].keys()
    (metrics,) = default["ingress"]
    assert DEFAULTS["networkPolicy"]["monitoringFrom"] == metrics["from"]
    assert {f"{RELEASE}-api"} == {name for name, one in policies.items() if "ingress" in one}


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://id.example/keys", 443), ("https://id.example:8443/keys", 8443), ("http://keycloak:8080/keys", 8080)],
)
def test_the_api_reaches_its_issuer(url: str, port: int) -> None:
    """Its keys are fetched through the policy, at the port that the address has."""
    values = {"auth": {"jwksUrl": url, "issuer": "i", "audience": "a"}}
    (policy,) = (
        one for one in rendered(values) if (one["kind"], one["metadata"]["name"]) == ("NetworkPolicy", "shop-api")
    )
    assert ([{"ports": [{"port": port}]}], ["Ingress", "Egress"]) == (
        policy["spec"]["egress"],
        policy["spec"]["policyTypes"],
    )


def test_the_ingress_has_every_path_of_the_api_and_no_metrics() -> None:
    """The paths are those of the document and of the WebSocket; what asks for no token stays inside."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    inside = {"health", "metrics", ""}
    wanted = {f"/{first}" for path in paths if (first := path.split("/")[1]) not in inside} | {"/ws", "/docs"}
    assert wanted == set(DEFAULTS["ingress"]["paths"])
    (ingress,) = of_kind(rendered(COMBINATIONS["ingress"]), "Ingress").values()
    shown = {(one["path"], one["pathType"]) for one in ingress["spec"]["rules"][0]["http"]["paths"]}
    assert {("/", "Exact"), *((path, "Prefix") for path in wanted)} == shown


def test_a_cell_has_topics_and_a_secret_of_its_own() -> None:
    """Every process and hook of it works on topics that begin with the cell's name."""
    for name, pod in pods(rendered(COMBINATIONS["a cell"])).items():
        given = {variable: value for variable, value, _ in environment(pod)}
        assert given.get("KAFKA_TOPIC_PREFIX", "c7.") == "c7.", name
    assert {"c7."} == {
        value
        for pod in pods(rendered(COMBINATIONS["a cell"])).values()
        for variable, value, _ in environment(pod)
        if variable == "KAFKA_TOPIC_PREFIX"
    }


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"services": {"api": {"settings": {"API_RATE_LIMIT": 5}}}}, "API_RATE_LIMIT"),
        ({"services": {"assets": {"settings": {"API_RATE_LIMIT_PER_S": 5}}}}, "API_RATE_LIMIT_PER_S"),
        ({"services": {"api": {"settings": {"API_RATE_LIMIT_PER_S": 10**6}}}}, "maximum"),
        ({"services": {"api": {"settings": {"KAFKA_TOPIC_PREFIX": "x."}}}}, "KAFKA_TOPIC_PREFIX"),
        ({"services": {"webhooks": {"settings": {"NOTIFY_SMTP_URL": "smtp://relay"}}}}, "NOTIFY_SMTP_URL"),
        ({"services": {"ledger": {"enabled": True}}}, "ledger"),
        ({"services": {"balance": {"args": None}}}, "args"),
        ({"auth": {"jwksUrl": "https://id.example/keys"}}, "audience"),
        ({"ingress": {"enabled": True}}, "host"),
        ({"kafka": {"bootstrapServers": "kafka"}}, "bootstrapServers"),
        ({"kafka": {"securityProtocol": "TLS"}}, "securityProtocol"),
        ({"keda": {"steps": [{"lag": 4000, "replicas": 5}]}}, "replicas"),
        ({"keda": {"enabled": True, "steps": [{"lag": 10, "replicas": 3}, {"lag": 121, "replicas": 4}]}}, "keda.steps"),
        ({"image": {"tag": 1.1}}, "tag"),
        ({"otel": {"EXPORTER": "x"}}, "EXPORTER"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_value_that_can_not_be_meant_is_refused(values: dict[str, Any], named: str) -> None:
    """Helm names what is wrong, and renders nothing."""
    refused = helm("template", RELEASE, str(kubernetes.CHART), values=values)
    assert (True, "") == (refused.returncode != 0, refused.stdout)
    assert named in refused.stderr


def test_the_schema_is_made_from_the_classes_of_the_settings() -> None:
    """`values.schema.json` is fresh, valid, and knows every setting of every process in exactly one place."""
    assert chart.text() == chart.SCHEMA.read_text()
    Draft7Validator.check_schema(chart.schema())
    for name, settings in SERVICES.items():
        told = {*chart.variables(name, secret=False), *chart.variables(name, secret=True)}
        assert {field.upper() for field in settings.model_fields} - chart.GIVEN == told


def test_large_numbers_stay_numbers() -> None:
    """A million is written as its digits: 1e+06 would be no setting."""
    values = {"services": {"orchestrator": {"settings": {"ORDER_SAGA_MAX_OPEN_ORDERS": 1_000_000}}}}
    given = {variable: value for variable, value, _ in environment(pods(rendered(values))["orchestrator"])}
    assert "1000000" == given["ORDER_SAGA_MAX_OPEN_ORDERS"]


def test_the_manifest_is_what_helm_makes_of_the_defaults() -> None:
    """`deploy/kubernetes.yaml` is fresh; `make kubernetes` writes it."""
    made, kept = (list(yaml.safe_load_all(text)) for text in (kubernetes.manifest(), kubernetes.FILE.read_text()))
    assert made == kept


def test_the_chart_is_of_the_projects_version() -> None:
    """Chart and image are released together, under one number."""
    described = yaml.safe_load((kubernetes.CHART / "Chart.yaml").read_text())
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert (version, version) == (described["version"], described["appVersion"])


@ALL
def test_the_notes_warn_of_what_is_not_for_production(values: dict[str, Any]) -> None:
    """Whoever installs it without an issuer of tokens, or without logins on the broker, reads so."""
    shown = helm("install", RELEASE, str(kubernetes.CHART), "--dry-run=client", "--no-hooks", values=values).stdout
    notes = shown[shown.index("NOTES:") :]
    assert ("auth" in values) is not ("jwt-secret can sign" in notes)
    assert (values.get("kafka", {}).get("securityProtocol", "").startswith("SASL")) is not ("asks nobody" in notes)
