"""Chaos: a whole system under load is hurt by a seeded schedule, and judged by a checker that has none of its code."""
