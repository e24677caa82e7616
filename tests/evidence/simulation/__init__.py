"""Deterministic simulation: the real saga, its real batches and participants, in a simulated world, from one seed."""
