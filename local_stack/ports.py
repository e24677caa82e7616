"""TCP ports of 127.0.0.1: which are free, which were chosen before, and which program uses one."""

import json
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil

from local_stack.errors import StackError

_CHOICE = range(20_000, 32_000)
"""Below the ports of outgoing connections: so none of these takes a service's port while it restarts."""
_chosen: set[int] = set()
"""By this process. Who will listen there may not do so yet, or may be starting again."""


def free_ports(count: int) -> list[int]:
    """Choose free ports at random, so that stacks that start at the same time seldom choose the same ones."""
    if 2 * len(_chosen) > len(_CHOICE):
        _chosen.clear()
    candidates = secrets.SystemRandom().sample(_CHOICE, len(_CHOICE))
    found = list(islice((port for port in candidates if port not in _chosen and not _in_use(port)), count))
    _chosen.update(found)
    return found


def kept_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Choose a port for each name: the one in `file`, or a free one where that is in use or missing."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = {}
    fresh = iter(free_ports(len(names)))
    if not isinstance(kept, dict):
        kept = {}
    return {
        name: kept[name] if kept.get(name) in _CHOICE and not _in_use(kept[name]) else next(fresh) for name in names
    }


def require_free(port: int, purpose: str) -> None:
    """Raise `StackError` unless `port` is free; it names the program that listens there, and what to type."""
    if _in_use(port):
        raise StackError(
            f"port {port}, needed for {purpose}, is in use by {_listener(port)}: stop that, or take other ports with "
            "'make run ARGS=--free-ports' ('order-saga up --free-ports')"
        )


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections don't count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _listener(port: int) -> str:
    with suppress(psutil.Error):  # some systems tell root only
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if local and local.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"
