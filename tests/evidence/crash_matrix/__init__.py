"""The crash-point matrix: each service is killed at every crash point, with every type of message."""
