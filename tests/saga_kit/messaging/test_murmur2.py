"""The partitioner's hash is the one that every other producer uses."""

from __future__ import annotations

from uuid import UUID

from aiokafka.partitioner import murmur2 as reference
from hypothesis import example, given
from hypothesis import strategies as st

from saga_kit.messaging.murmur2 import murmur2


@given(st.binary(max_size=80))
@example(b"")
@example(b"\xff" * 7)
def test_it_is_the_client_librarys(key: bytes) -> None:
    """Whatever the length, and whatever rest it leaves."""
    assert murmur2(key) == reference(key) & 0xFFFFFFFF


@given(st.uuids())
def test_so_it_is_for_order_ids(order_id: UUID) -> None:
    """The keys of our own messages."""
    key = str(order_id).encode()
    assert murmur2(key) == reference(key) & 0xFFFFFFFF
