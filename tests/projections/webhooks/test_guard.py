"""No webhook reaches a private network: whatever a name leads to, however often it changes, at every connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final

import httpcore2
import pytest

from projections.webhooks import guard
from projections.webhooks.guard import Forbidden, GuardedNetwork, Lookups, may_reach, networks_of
from tests.projections.webhooks.receivers import receiving

PRIVATE: Final = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),  # noqa: S104
    *("192.0.2.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fd00::1", "fe80::1%eth0", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1234::1", "2001:db8::1"),
    *("fec0::1", "64:ff9b:1::7f00:1", "::7f00:1", "5f00::1", "192.0.0.8"),
)
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Resolver:
    """Gives one answer after the other; the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        """Return the next answer."""
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize("address", PRIVATE)
async def test_no_private_address_is_dialled(address: str) -> None:
    """Of any family, and inside of whatever it is wrapped; nor is a public one beside it."""
    for answer in ([address], ["8.8.8.8", address]):
        network = GuardedNetwork(Resolver(answer), (), public=True)
        with pytest.raises(Forbidden, match="may not reach"):
            await network.connect_tcp("example.com", 443, 30.0)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
async def test_where_only_networks_are_allowed_the_internet_is_not(address: str) -> None:
    """`http` and odd ports are for those networks alone."""
    network = GuardedNetwork(Resolver([address]), LOOPBACK, public=False)
    with pytest.raises(Forbidden):
        await network.connect_tcp("example.com", 80, 30.0)


async def test_a_name_that_flips_is_looked_up_once_and_that_address_is_dialled() -> None:
    """The second answer is never asked for: what was judged is what is reached."""
    async with receiving() as receiver:
        resolver = Resolver(["127.0.0.1"], ["10.0.0.1"])
        network = GuardedNetwork(resolver, LOOPBACK, public=True)
        stream = await network.connect_tcp("rebind.example", receiver.port, 30.0)
        assert ("127.0.0.1", receiver.port) == stream.get_extra_info("server_addr")
        await stream.aclose()
        assert 1 == resolver.asked
        with pytest.raises(Forbidden):
            await network.connect_tcp("rebind.example", receiver.port, 30.0)


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    """A host with a broken IPv6 is reached by IPv4."""
    async with receiving() as receiver:
        network = GuardedNetwork(Resolver(["127.0.0.99", "::1", "127.0.0.1"]), LOOPBACK, public=True)
        stream = await network.connect_tcp("two.example", receiver.port, 30.0)
        await stream.aclose()


async def test_a_host_without_an_address_is_an_error_of_the_connection() -> None:
    """So is a label that no name may have."""

    async def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("Name or service not known")

    for look_up, host in ((unknown, "x.example"), (Lookups(), "a" * 64 + ".example"), (Resolver([]), "x.example")):
        with pytest.raises(httpcore2.ConnectError, match="no address"):
            await GuardedNetwork(look_up, (), public=True).connect_tcp(host, 443, 30.0)


async def test_no_webhook_goes_to_a_socket_of_this_machine() -> None:
    """Unix sockets are refused."""
    with pytest.raises(Forbidden):
        await GuardedNetwork(Resolver([]), LOOPBACK, public=True).connect_unix_socket("/run/docker.sock")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("8.8.8.8", False)],
)
def test_networks_are_allowed_by_name(address: str, *, allowed: bool) -> None:
    """Also where an IPv4 address is written as an IPv6 one."""
    assert allowed == may_reach(address, LOOPBACK, public=False)


def test_networks_are_read() -> None:
    """With commas between; a wrong one is named."""
    assert LOOPBACK == networks_of(" 127.0.0.0/8, ::1/128,")
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        networks_of("10.0.0.1/8")


async def test_a_lookup_that_hangs_holds_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty attempts at a host whose name servers say nothing take one thread; others are answered meanwhile."""
    answered = threading.Event()
    threads: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        threads.append(host)
        if host == "hangs.example":
            answered.wait(30)
        return ["8.8.8.8"]

    monkeypatch.setattr(guard, "_resolve", resolve)
    look_up = Lookups()
    waiting = [asyncio.create_task(look_up("hangs.example", 443)) for _ in range(20)]
    for number in range(100):
        async with asyncio.timeout(10):
            assert ["8.8.8.8"] == await look_up(f"{number}.example", 443)
    waiting.pop().cancel()  # its attempt has ended; the others still want to know
    answered.set()
    assert [["8.8.8.8"]] * 19 == await asyncio.gather(*waiting)
    assert 1 == threads.count("hangs.example")
    assert ["8.8.8.8"] == await look_up("hangs.example", 443)
    assert 2 == threads.count("hangs.example")
    look_up.close()
