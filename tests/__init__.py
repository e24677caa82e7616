"""Tests of all rooms; what they run on is in `tests.support.infrastructure`."""
