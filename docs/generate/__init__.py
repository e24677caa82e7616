"""What `make docs` writes: the parts of `docs/` and of the README that the code itself can say."""
