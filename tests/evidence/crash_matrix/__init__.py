"""The crash-point matrix: a process is killed at every place where it can die, under every type of message."""
