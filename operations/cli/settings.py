"""Prints the settings of all services as one table."""

from __future__ import annotations

from rich.table import Table

from operations.cli.reach import print_table
from operations.settings import settings


def print_settings() -> None:
    """Print the table."""
    table = Table("variable", "read by", "default", "meaning")
    for setting in settings():
        table.add_row(*setting)
    print_table(table)
