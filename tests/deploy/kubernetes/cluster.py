"""An API server of Kubernetes for the tests: that of `KUBECONFIG`, or one that is started from `KUBEBUILDER_ASSETS`.

The latter is etcd and kube-apiserver, and nothing else: it judges every object as a real cluster does, and no pod ever
starts. Both end by their process ids, the API server first: one whose etcd is gone ignores SIGTERM for a minute.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import local_stack.child
from docs.generate.kubernetes import program
from local_stack.ports import free_ports
from tests.deploy.kubernetes.kinds import crds

READY_WITHIN_S: Final = 120.0
"""A server that is ready in 8 s on an idle machine."""
ENDS_WITHIN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.2
RESTRICTED: Final = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
"""Pods that break the rules of Pod Security are refused; Deployments and Jobs with such pods are warned of."""

Ran = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by its kubeconfig."""

    kubeconfig: str

    def kubectl(self, *words: str, given: Sequence[Mapping[str, Any]] = ()) -> Ran:
        """Run kubectl; `given` are objects for its standard input. A warning is an error."""
        command = [str(program("kubectl")), "--warnings-as-errors", *words]
        return self._run(command, yaml.safe_dump_all(given) if given else "")

    def helm(self, *words: str, values: Mapping[str, Any] | None = None) -> Ran:
        """Run Helm with these values."""
        command = [str(program("helm")), *words, *(["--values", "-"] if values else [])]
        return self._run(command, yaml.safe_dump(dict(values)) if values else "")

    @contextmanager
    def helm_at_work(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run Helm beside this block, which plays what a cluster does meanwhile; it is ended when the block fails."""
        command = [str(program("helm")), *words]
        pipe, environment = subprocess.PIPE, {**os.environ, "KUBECONFIG": self.kubeconfig}
        with subprocess.Popen(  # noqa: S603 - our own words
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    def judge(self, namespace: str, objects: Sequence[Mapping[str, Any]]) -> Ran:
        """Have the server judge objects as if they were applied: by all of its rules, unknown fields included."""
        words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename", "-")
        return self.kubectl("--namespace", namespace, *words, given=objects)

    def get(self, namespace: str, what: str, selector: str = "") -> list[dict[str, Any]]:
        """Read objects of a kind."""
        asked = self.kubectl("--namespace", namespace, "get", what, "--selector", selector, "--output", "json")
        assert asked.returncode == 0, asked.stderr
        return list(json.loads(asked.stdout)["items"])

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """Make a namespace that is as strict as Pod Security can be, and remove it afterwards."""
        name = f"order-saga-{secrets.token_hex(4)}"
        made = self.kubectl(
            *("create", "--filename", "-"),
            given=[{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}],
        )
        assert made.returncode == 0, made.stderr
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def _run(self, command: list[str], text: str) -> Ran:
        environment = {**os.environ, "KUBECONFIG": self.kubeconfig}
        return subprocess.run(  # noqa: S603 - our own words
            command, input=text, env=environment, capture_output=True, text=True, check=False
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Use the cluster that KUBECONFIG names, or start an API server."""
    if there := os.environ.get("KUBECONFIG"):
        yield Cluster(there)
        return
    with tempfile.TemporaryDirectory(prefix="order-saga-kubernetes-") as name, ExitStack() as running:
        folder = Path(name)
        etcd_port, peer_port, api_port = free_ports(3)
        etcd, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
        running.enter_context(_running(folder / "etcd.log", _etcd(folder, etcd, peer)))
        token = secrets.token_hex(16)
        server = running.enter_context(_running(folder / "server.log", _server(folder, etcd, api_port, token)))
        _wait(server, folder / "server.log", api_port, token)
        one = Cluster(str(_kubeconfig(folder, api_port, token)))
        _add_kinds(one)
        yield one


def _etcd(folder: Path, address: str, peer: str) -> list[str]:
    return [
        *(str(program("etcd")), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", address, "--advertise-client-urls", address),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
    ]


def _server(folder: Path, etcd: str, port: int, token: str) -> list[str]:
    key = folder / "service-account.pem"
    private = rsa.generate_private_key(65537, 2048)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tokens.csv").write_text(f'{token},tester,tester,"system:masters"\n')
    return [
        *(str(program("kube-apiserver")), "--etcd-servers", etcd, "--cert-dir", str(folder / "certificates")),
        *("--secure-port", str(port), "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
        *("--service-account-key-file", str(key), "--service-account-signing-key-file", str(key)),
        *("--service-account-issuer=https://kubernetes.test", "--token-auth-file", str(folder / "tokens.csv")),
        # No controller runs here that would make the service accounts and endpoints that these wait for.
        *("--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"),
        "--authorization-mode=RBAC",
    ]


@contextmanager
def _running(log: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that ends with this block, or with this process, however that ends."""
    child = [sys.executable, local_stack.child.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "0", "0"]
    with log.open("wb") as file, subprocess.Popen([*child, *command], stdout=file, stderr=file) as process:  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDS_WITHIN_S)
            process.kill()


def _wait(server: subprocess.Popen[bytes], log: Path, port: int, token: str) -> None:
    """Return when the server is ready; raise with the end of its log when it ends or takes too long."""
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not _is_ready(port, token):
        with suppress(subprocess.TimeoutExpired):
            server.wait(LOOK_EVERY_S)
        if server.returncode is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"kube-apiserver does not answer: {log.read_text()[-2000:]}")


def _is_ready(port: int, token: str) -> bool:
    # Nobody else listens at this address of this machine, and the server has made its own certificate.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    asked = HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        asked.request("GET", "/readyz", headers={"Authorization": f"Bearer {token}"})
        return asked.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        asked.close()


def _kubeconfig(folder: Path, port: int, token: str) -> Path:
    file = folder / "kubeconfig"
    address = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "certificates/apiserver.crt"}
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tester"}}],
        "clusters": [{"name": "tests", "cluster": address}],
        "users": [{"name": "tester", "user": {"token": token}}],
    }
    file.write_text(yaml.safe_dump(told))
    return file


def _add_kinds(one: Cluster) -> None:
    files = [word for path in crds() for word in ("--filename", str(path))]
    made = one.kubectl("create", *files)
    assert made.returncode == 0, made.stderr
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not all(map(_is_established, kinds := one.get("default", "crds"))):  # kubectl wait fails before it is judged
        assert time.monotonic() < give_up_at, kinds


def _is_established(kind: dict[str, Any]) -> bool:
    told = kind.get("status", {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Established", "True") for one in told)
