"""The table of mutants: deliberate defects in the protocol, each with the rule that it breaks and the tests that fail.

A mutant replaces one text, which must occur in its file exactly once. Its killers are tests of the broken rule; at
least one of them must fail with the defect, or no test guards the rule. They stand by the room that they break.
"""

from __future__ import annotations

from typing import Final

from tests.evidence.mutants.changes import CHANGE_MUTANTS
from tests.evidence.mutants.client import CLIENT_MUTANTS
from tests.evidence.mutants.core import CORE_MUTANTS
from tests.evidence.mutants.kit import KIT_MUTANTS
from tests.evidence.mutants.live import LIVE_MUTANTS
from tests.evidence.mutants.market import MARKET_MUTANTS
from tests.evidence.mutants.services import SERVICES_MUTANTS
from tests.evidence.mutants.sessions import SESSION_MUTANTS
from tests.evidence.mutants.webhooks import WEBHOOK_MUTANTS
from tests.evidence.mutants.worker import WORKER_MUTANTS

MUTANTS: Final = (
    *CORE_MUTANTS, *CHANGE_MUTANTS, *WORKER_MUTANTS, *KIT_MUTANTS, *SERVICES_MUTANTS, *MARKET_MUTANTS, *SESSION_MUTANTS,
    *LIVE_MUTANTS, *WEBHOOK_MUTANTS, *CLIENT_MUTANTS,
)  # fmt: skip
