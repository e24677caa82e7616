"""The files that tools and the project's host read: they are well formed, and say what the Makefile says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.project import ROOT, project_files

FORMS: Final = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KINDS: Final = {"markdown", "input", "textarea", "checkboxes", "dropdown"}


def test_the_hooks_before_a_commit_are_make_lint() -> None:
    """One hook, which calls the verb; nothing is fetched for it, and pre-commit takes the file as it is."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert ["local"] == [one["repo"] for one in config["repos"]]
    (hook,) = config["repos"][0]["hooks"]
    assert ("make --silent lint", "system", False) == (hook["entry"], hook["language"], hook["pass_filenames"])
    asked = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (0, "", "") == (asked.returncode, asked.stdout, asked.stderr)


def test_the_devcontainer_is_made_by_the_makefile() -> None:
    """It has a Python that is supported and a container engine, and gets what .ci/run asks for by the same names."""
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert re.fullmatch(r"python:3\.1[1-3]-\w+", container["image"])
    assert any("docker-in-docker" in feature for feature in container["features"])
    verb, rule = container["postCreateCommand"].split()
    assert ("make", True) == (
        verb,
        f"DEVELOPMENT := {rule.replace('.venv', '$(VENV)')}" in (ROOT / "Makefile").read_text(),
    )
    wanted = set(re.findall(r"missing\+=\(([\w-]+)\)", (ROOT / ".ci" / "run").read_text()))
    assert (7, set()) == (len(wanted), wanted - set(container["onCreateCommand"].split()))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_forms_for_issues_are_well_formed(form: Path) -> None:
    """A form has a name, says what it is for, and asks under ids that differ; no more is needed to be shown."""
    told: dict[str, Any] = yaml.safe_load(form.read_text())
    if form.name == "config.yml":
        assert {"blank_issues_enabled": False} == told
        return
    assert {"name", "description", "labels", "body"} == told.keys()
    assert KINDS >= {part["type"] for part in told["body"]}
    asked = [part["id"] for part in told["body"] if part["type"] != "markdown"]
    assert (True, len(asked)) == (bool(asked), len(set(asked)))
    assert all(part["attributes"].get("label") for part in told["body"] if part["type"] != "markdown")


@pytest.mark.parametrize(
    "file",
    [file for file in project_files() if file.suffix in {".yml", ".yaml", ".json"} and "templates" not in file.parts],
    ids=str,
)
def test_yaml_and_json_can_be_read(file: Path) -> None:
    """Each such file of the project is what its name says; the templates of the chart are what Helm makes YAML of."""
    text = (ROOT / file).read_text()
    assert json.loads(text) if file.suffix == ".json" else all(yaml.load_all(text, yaml.CSafeLoader))


def test_the_template_for_changes_names_verbs_that_exist() -> None:
    """What it asks for can be done."""
    template = (ROOT / ".github" / "pull_request_template.md").read_text()
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"lint", "docs"} <= set(re.findall(r"`make ([a-z-]+)`", template)) <= rules
