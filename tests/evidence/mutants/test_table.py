"""The table of mutants is up to date: every text occurs once in its file, and every killer exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.evidence.mutants.mutant import Mutant
from tests.evidence.mutants.run import stale
from tests.evidence.mutants.table import MUTANTS
from tests.support.project import ROOT


def test_every_text_stands_once_in_its_file() -> None:
    """Every mutant can be applied, because its text occurs exactly once."""
    assert [] == stale(MUTANTS)


def test_there_are_enough_and_none_twice() -> None:
    """There are at least forty mutants, and no two are the same."""
    assert 40 <= len(MUTANTS) == len({mutant.name for mutant in MUTANTS})
    assert len(MUTANTS) == len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_python_and_its_killers_exist(mutant: Mutant) -> None:
    """A mutant is valid Python, and its killers exist."""
    source = (ROOT / mutant.file).read_text()
    ast.parse(source.replace(mutant.old, mutant.new))
    missing = [killer for killer in mutant.killers if killer.partition("::")[2] not in _tests(killer)]
    assert mutant.killers
    assert [] == missing


def test_a_text_that_is_gone_is_told(tmp_path: Path) -> None:
    """A mutant whose text is gone from its file is reported as an error."""
    (tmp_path / "code.py").write_text("a = 1\n")
    there, gone = (Mutant(name, "", "code.py", text, "", ()) for name, text in (("there", "a = 1"), ("gone", "b")))

    assert ["gone: its text stands 0 times in code.py"] == stale([there, gone], tmp_path)


def _tests(killer: str) -> set[str]:
    tree = ast.parse((ROOT / killer.partition("::")[0]).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
