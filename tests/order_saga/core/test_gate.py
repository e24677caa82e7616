"""An asset's gate is a pair of PostgreSQL's int4, the same in every process."""

from __future__ import annotations

from order_saga.core.gate import GATE, gate_key


def test_a_gate_is_two_signed_numbers() -> None:
    """Keys are CRC-32 as a signed int4, so that no process, restart or version sees another number."""
    assert -2_147_483_648 <= GATE < 2_147_483_648
    keys = {f"A{number}": gate_key(f"A{number}") for number in range(2_000)}
    assert all(-2_147_483_648 <= key < 2_147_483_648 for key in keys.values())
    assert min(keys.values()) < 0 < max(keys.values())
    assert (-1_117_976_378, 801_163_211) == (gate_key("BTC"), gate_key("ETH"))
