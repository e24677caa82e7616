"""A scaling formula, worked out as KEDA does: by the same library (expr), with a number for each trigger."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.deploy.kubernetes.kinds import go

MODULE: Final = "module formula\n\ngo 1.25.0\n\nrequire github.com/expr-lang/expr v1.17.8\n"
PROGRAM: Final = """\
package main

import (
	"encoding/json"
	"os"

	"github.com/expr-lang/expr"
)

func main() {
	var asked struct {
		Formula string
		Given   []map[string]float64
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	results := []any{}
	for _, given := range asked.Given {
		// KEDA puts float() around it, and compiles it against the names of the triggers.
		program, err := expr.Compile("float("+asked.Formula+")", expr.Env(given))
		if err != nil {
			panic(err)
		}
		result, err := expr.Run(program, given)
		if err != nil {
			panic(err)
		}
		results = append(results, result)
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}
"""


def results(formula: str, given: Sequence[Mapping[str, int]]) -> list[float]:
    """Return what the formula gives for each of these numbers. Raises `RuntimeError` for one that KEDA would refuse."""
    with tempfile.TemporaryDirectory(prefix="order-saga-formula-") as name:
        folder = Path(name)
        (folder / "go.mod").write_text(MODULE)
        (folder / "main.go").write_text(PROGRAM)
        go("mod", "tidy", folder=folder)
        asked = json.dumps({"Formula": formula, "Given": list(given)})
        return list(json.loads(go("run", ".", folder=folder, text=asked)))
