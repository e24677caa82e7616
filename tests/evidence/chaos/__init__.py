"""Chaos: a seeded schedule injects faults into a whole system under load, and an independent checker judges it."""
