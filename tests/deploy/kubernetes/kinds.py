"""The kinds that the chart uses and Kubernetes does not have: KEDA's and the Prometheus operator's, as their CRDs.

They are data of dependencies, so none is committed. KEDA's lie in its Go module; the Prometheus operator's are made of
its Go types, by the tool of the Kubernetes project. What was made is kept in the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

KEDA: Final = "github.com/kedacore/keda/v2@v2.21.0"
KEDA_KINDS: Final = ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml")
OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring"
OPERATOR_VERSION: Final = "v0.95.2"
OPERATOR_KINDS: Final = ("monitoring.coreos.com_servicemonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml")
GENERATOR: Final = "sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0"
MODULE: Final = f"module kinds\n\ngo 1.25.0\n\nrequire {OPERATOR} {OPERATOR_VERSION}\n"
IMPORTS: Final = f'package kinds\n\nimport _ "{OPERATOR}/v1"\n'


def crds() -> list[Path]:
    """Return the files with the CRDs; make them the first time, with Go, which takes a minute or two."""
    versions = "-".join(one.rpartition("v")[2] for one in (KEDA, OPERATOR_VERSION, GENERATOR))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "order-saga", f"kinds-{versions}")
    if not cache.is_dir():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as name:
            made = Path(name, "made")
            made.mkdir()
            _take_keda(made)
            _make_operator(Path(name), made)
            if not cache.is_dir():  # nobody was faster
                made.rename(cache)
    return [cache / kind for kind in (*KEDA_KINDS, *OPERATOR_KINDS)]


def _take_keda(made: Path) -> None:
    module = json.loads(go("mod", "download", "-json", KEDA, folder=made))
    for kind in KEDA_KINDS:
        shutil.copyfile(Path(module["Dir"], "config", "crd", "bases", kind), made / kind)


def _make_operator(folder: Path, made: Path) -> None:
    (folder / "go.mod").write_text(MODULE)
    (folder / "kinds.go").write_text(IMPORTS)
    go("mod", "tidy", folder=folder)
    words = ("crd:crdVersions=v1,maxDescLen=0", f"paths={OPERATOR}/v1", f"output:crd:dir={made}")
    go("run", GENERATOR, *words, folder=folder)


def go(*words: str, folder: Path, text: str = "") -> str:
    """Run Go in a folder; return what it prints. Raises `RuntimeError` with what it says when it fails."""
    # Its own settings would else choose another toolchain, which it would have to fetch.
    settings = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0", "GOWORK": "off"}
    ran = subprocess.run(  # noqa: S603 - our own words
        ["go", *words],  # noqa: S607
        cwd=folder, env={**os.environ, **settings}, input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"go {' '.join(words)}: {ran.stderr.strip()[-2000:]}")
    return ran.stdout
