"""The command `demo --here` runs where the images run: without the packages that start a system on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from operations.cli.failures import EXTRAS

ROOT: Final = Path(__file__).parents[3]


def test_it_needs_no_package_of_the_extra_local() -> None:
    """Its module can be imported while no package of that extra can."""
    absent = [module for module, extra in EXTRAS.items() if extra == "local"]
    assert absent
    program = f"import sys; sys.modules |= dict.fromkeys({absent}); import operations.cli.demo; print('ready')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)  # noqa: S603 - our own program
    assert (run.returncode, run.stdout) == (0, "ready\n"), run.stderr
