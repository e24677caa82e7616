"""Deliberate defects in the protocol, and the tests that catch them: `make mutants`."""
