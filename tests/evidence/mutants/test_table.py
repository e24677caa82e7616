"""The table of mutants is fresh: every text stands where it should, and every killer exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.evidence.mutants.run import stale
from tests.evidence.mutants.table import MUTANTS, Mutant
from tests.support.project import ROOT


def test_every_text_stands_once_in_its_file() -> None:
    """A mutant that can't be applied would catch nothing and say nothing."""
    assert [] == stale(MUTANTS)


def test_there_are_enough_and_none_twice() -> None:
    """At least forty defects, each another one."""
    assert 40 <= len(MUTANTS) == len({mutant.name for mutant in MUTANTS})
    assert len(MUTANTS) == len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_python_and_its_killers_exist(mutant: Mutant) -> None:
    """It breaks the protocol and not the syntax; and whoever must catch it is there."""
    source = (ROOT / mutant.file).read_text()
    ast.parse(source.replace(mutant.old, mutant.new))
    missing = [killer for killer in mutant.killers if killer.partition("::")[2] not in _tests(killer)]
    assert mutant.killers
    assert [] == missing


def test_a_text_that_is_gone_is_told(tmp_path: Path) -> None:
    """A table that was left behind by the code is an error and no success."""
    (tmp_path / "code.py").write_text("a = 1\n")
    there, gone = (Mutant(name, "", "code.py", text, "", ()) for name, text in (("there", "a = 1"), ("gone", "b")))

    assert ["gone: its text stands 0 times in code.py"] == stale([there, gone], tmp_path)


def _tests(killer: str) -> set[str]:
    tree = ast.parse((ROOT / killer.partition("::")[0]).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
