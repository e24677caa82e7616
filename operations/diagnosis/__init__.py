"""Why something does not move, in words: stuck orders, one order's story, locks that others hold."""
