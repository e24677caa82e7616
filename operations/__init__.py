"""What operators do to the running system, as functions that need no terminal. `operations.cli` is the terminal."""
