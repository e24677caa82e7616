"""The partitioner's hash equals that of other producers."""

from __future__ import annotations

from uuid import UUID

from aiokafka.partitioner import murmur2 as reference
from hypothesis import example, given
from hypothesis import strategies as st

from saga_kit.messaging.murmur2 import murmur2


@given(st.binary(max_size=80))
@example(b"")
@example(b"\xff" * 7)
def test_keys_have_the_client_librarys_hash(key: bytes) -> None:
    """The hash equals the client library's for keys of any length, including all remainders."""
    assert murmur2(key) == reference(key) & 0xFFFFFFFF


@given(st.uuids())
def test_order_ids_have_the_client_librarys_hash(order_id: UUID) -> None:
    """The hash equals the client library's for order ids, our usual keys."""
    key = str(order_id).encode()
    assert murmur2(key) == reference(key) & 0xFFFFFFFF
