"""Puts lines into the journal, of which each entry is one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

Line = tuple[str, object, str, str, str]
"""The entry's id, the order's (None: none), account, asset and amount."""

_INSERT: Final = """
    INSERT INTO balances.journal (entry_id, order_id, accounts, asset_ids, amounts)
    SELECT entry_id, order_id::uuid, array_agg(account ORDER BY asset_id COLLATE "C", account COLLATE "C"),
        array_agg(asset_id ORDER BY asset_id COLLATE "C", account COLLATE "C"),
        array_agg(amount::numeric ORDER BY asset_id COLLATE "C", account COLLATE "C")
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS line (entry_id, order_id, account, asset_id, amount)
    GROUP BY entry_id, order_id"""
WITHOUT_CHECK: Final = "ALTER TABLE balances.journal DROP CONSTRAINT journal_entry"


async def insert_lines(owner: asyncpg.Connection, lines: Sequence[Line]) -> None:
    """Make entries of lines, whatever their order."""
    texts = [[None if value is None else str(value) for value in column] for column in zip(*lines, strict=True)]
    await owner.execute(_INSERT, *texts)
