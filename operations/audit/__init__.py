"""The audit: do the invariants I1 to I13 hold on the live system? It reads the auditors' views and nothing else.

`checks` is all that may be wrong: `order_checks` and `total_checks`, each check as `query` has it. `look` runs them
once, `watch` again and again, `serve` as a process. `ledger` finds the ledger's views.
"""

from operations.audit.look import SETTLE_S, Finding, audit

__all__ = ["SETTLE_S", "Finding", "audit"]
