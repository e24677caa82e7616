"""The product's command line with a crash-point watcher; run as a module, in the place of `operations.cli`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from operations.cli import main
from order_saga.triggers.process import TriggerHandler
from saga_kit.runtime.crash_points import watch
from tests.evidence.crash_matrix.cells import SERVICES
from tests.evidence.crash_matrix.watcher import Armoury, Watcher

FOLDER = "CRASH_MATRIX_FOLDER"
"""The environment variable with the folder of the armoury."""

if __name__ == "__main__":
    if sys.argv[1] in SERVICES:
        # Rounds of two rows, so that the three orders of a tick need more than one.
        defaults = TriggerHandler.__init__.__kwdefaults__
        assert defaults is not None
        defaults["round_max"] = 2
        watch(Watcher(sys.argv[1], Armoury(Path(os.environ[FOLDER])), os.environ["DATABASE_URL"]))
    main()
