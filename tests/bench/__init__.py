"""The benchmark: the whole system beside its peers, in one interleaved run on the same broker and database."""
