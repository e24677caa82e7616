"""Lets `python -m order_saga.cli` be the command line."""

from __future__ import annotations

from order_saga.cli import main

if __name__ == "__main__":
    main()
