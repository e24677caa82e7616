"""Free ports of this machine."""

from __future__ import annotations

import pytest

from local_stack import ports
from local_stack.ports import free_ports


def test_a_port_is_not_chosen_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was given one may not listen there yet. When half of them were chosen, all are there to choose from again."""
    monkeypatch.setattr(ports, "_CHOICE", range(20_000, 21_000))
    monkeypatch.setattr(ports, "_chosen", set())
    first, second = free_ports(200), free_ports(200)
    assert [200, 200, 400] == [len(first), len(second), len({*first, *second})]
    assert [100] * 20 == [len(free_ports(100)) for _ in range(20)]
