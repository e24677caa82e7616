"""The product's command line with a crash-point watcher; run as a module, in the place of `operations.cli`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from operations.cli import main
from saga_kit.runtime.crash_points import watch
from tests.evidence.crash_matrix.cells import SERVICES
from tests.evidence.crash_matrix.watcher import Armoury, Watcher

FOLDER = "CRASH_MATRIX_FOLDER"
"""The environment variable with the folder of the armoury."""

if __name__ == "__main__":
    if sys.argv[1] in SERVICES:
        watch(Watcher(sys.argv[1], Armoury(Path(os.environ[FOLDER])), os.environ["DATABASE_URL"]))
    main()
