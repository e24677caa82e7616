"""The benchmark: the whole system against a floor, in one interleaved run on the same broker and database."""
