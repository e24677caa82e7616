"""The benchmark: the whole system and its peers, measured alternately on the same broker and database."""
