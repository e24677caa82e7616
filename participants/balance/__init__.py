"""The balance service: who owns what, what is held for which order, and a double-entry journal of every movement."""
