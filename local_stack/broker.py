"""A broker that speaks Kafka's protocol and keeps everything in memory: librdkafka's mock cluster, in a process.

It needs nothing but the wheel of `confluent-kafka`. Its library is called by ctypes: that can create topics with a
number of partitions, which the mock cluster's own protocol can't. librdkafka lets the system choose the broker's port,
another one at each start. So a port of our choice, which stays the same, forwards to it: a client asks there for the
brokers, as it asks any bootstrap server, and gets the broker's actual port.

For a stack on one machine it does what Kafka does: idempotent producers, groups, commits, headers, keys. It is no
evidence for durability, and it has these limits:
- records, offsets and groups are lost when it ends, so its clients must be restarted with it;
- a group has one member: the join of a second one fails with error 42 and disturbs the first;
- after a member left or was killed, the next one joins only after the session timeout less one second;
- a partition has its latest 5 MB or 100,000 batches; the oldest is dropped silently, read or unread;
- an empty fetch blocks its connection for the whole wait: clients ask for short waits;
- a missing topic is created with 4 partitions when a client asks for it;
- of the admin requests, only those that list or describe topics and the cluster are answered.
"""

import argparse
import asyncio
import ctypes
import ctypes.util
import importlib.util
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from local_stack.errors import StackError
from local_stack.probes import tcp_ready
from local_stack.supervisor import ProcessSpec

_PRODUCER = 0
_OK, _TOPIC_EXISTS = 0, 36
_PARENT_POLL_S = 0.5
_READ_BYTES = 65_536
_ERROR_BYTES = 512


class MockCluster:
    """librdkafka's mock cluster of one broker, alive as long as this process."""

    def __init__(self) -> None:
        self._library = library = _load_library()
        message = ctypes.create_string_buffer(_ERROR_BYTES)
        configuration = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(configuration, b"log_level", b"3", message, _ERROR_BYTES)
        client = library.rd_kafka_new(_PRODUCER, configuration, message, _ERROR_BYTES)
        self._cluster = library.rd_kafka_mock_cluster_new(client, 1) if client else None
        if self._cluster is None:
            raise StackError(f"librdkafka does not start its mock cluster: {message.value.decode()}")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)  # else each first join takes 3 s

    @property
    def bootstrap_servers(self) -> str:
        """The address that clients connect to."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; one that exists already stays as it is."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code not in (_OK, _TOPIC_EXISTS):
            raise StackError(f"the broker refuses the topic {name} with {partitions} partitions: error {code}")


def process_spec(port: int, topics: Mapping[str, int]) -> ProcessSpec:
    """Describe the process of a broker that clients find at this port of 127.0.0.1; `topics`: names to partitions."""
    return ProcessSpec(
        name="broker",
        argv=[
            *(sys.executable, "-m", "local_stack.broker", "--port", str(port), "--topics"),
            *(f"{name}={partitions}" for name, partitions in topics.items()),
        ],
        ready=tcp_ready(port),
        vital=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a broker until SIGTERM, SIGINT or the death of the parent process."""
    parser = argparse.ArgumentParser(prog="python -m local_stack.broker", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True, help="where clients find it; open when it is ready")
    parser.add_argument("--topics", nargs="*", default=[], metavar="NAME=PARTITIONS", type=_topic)
    options = parser.parse_args(arguments)
    try:
        cluster = MockCluster()
        for name, partitions in options.topics:
            cluster.create_topic(name, partitions)
        asyncio.run(_forward(cluster.bootstrap_servers, options.port))
    except (StackError, OSError) as error:
        sys.exit(f"error: {error}")


async def _forward(address: str, port: int) -> None:
    """Forward connections from `port` until SIGTERM, SIGINT or the death of the parent process."""
    host, _, brokers_port = address.rpartition(":")
    parent, stopping = os.getppid(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection(host, int(brokers_port))
            await asyncio.gather(_copy(reader, back), _copy(there, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    while not stopping.is_set() and os.getppid() == parent:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARENT_POLL_S):
                await stopping.wait()
    server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


def _topic(text: str) -> tuple[str, int]:
    name, _, partitions = text.partition("=")
    if not name or not partitions.isdecimal() or int(partitions) == 0:  # librdkafka would take 0 for its own default
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PARTITIONS")
    return name, int(partitions)


def _load_library() -> ctypes.CDLL:
    """Load the library out of the wheel (Linux, macOS), else the system's, and declare what is called."""
    package = importlib.util.find_spec("confluent_kafka")
    folders = [Path(place) for place in (package.submodule_search_locations or ())] if package else []
    bundled = [
        file
        for folder in folders
        for pattern in ("../confluent_kafka.libs/librdkafka*.so*", ".dylibs/librdkafka*.dylib")
        for file in folder.glob(pattern)
    ]
    found = str(bundled[0]) if bundled else ctypes.util.find_library("rdkafka")
    if found is None:
        raise StackError("the embedded broker is missing: install the extra 'local' (confluent-kafka)")
    library = ctypes.CDLL(found)
    pointer, text, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, parameters in (
        ("conf_new", pointer, ()),
        ("conf_set", integer, (pointer, text, text, text, ctypes.c_size_t)),
        ("new", pointer, (integer, pointer, text, ctypes.c_size_t)),
        ("mock_cluster_new", pointer, (pointer, integer)),
        ("mock_cluster_bootstraps", text, (pointer,)),
        ("mock_group_initial_rebalance_delay_ms", None, (pointer, ctypes.c_int32)),
        ("mock_topic_create", integer, (pointer, text, integer, integer)),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, parameters
    return library


if __name__ == "__main__":
    main()
