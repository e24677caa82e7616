"""Deterministic simulation: the real saga, batches and participants run in a simulated world that one seed decides."""
