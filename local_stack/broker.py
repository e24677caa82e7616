"""A broker that speaks Kafka's protocol and keeps everything in memory: librdkafka's mock cluster, in a process.

It needs nothing but the wheel of `confluent-kafka`, whose library is called by ctypes: that can create topics with a
number of partitions, which the protocol's own request cannot here. Clients see one broker on a port of 127.0.0.1 that
the system chooses anew at each start.

For a stack on one machine it does what Kafka does: idempotent producers, groups, commits, headers, keys. It is no
evidence for durability, and these are its limits:
- all is lost when it ends: records, offsets and groups; so its clients must be started again with it;
- one member per group: the join of a second one fails with error 42 and disturbs the first;
- a member that left or was killed is waited for: the next one joins after the session timeout less one second;
- a partition keeps its latest 5 MB or 100,000 batches; the oldest is dropped without a word, read or unread;
- an empty fetch sleeps its whole wait and holds up its connection: clients ask for small waits;
- a topic that is asked for and missing is made, with 4 partitions;
- of the admin's requests, only those that list or describe topics and the cluster are answered.
"""

import argparse
import asyncio
import ctypes
import ctypes.util
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_stack.errors import StackError
from local_stack.files import write_private
from local_stack.supervisor import ProcessSpec

_PRODUCER = 0
_OK, _TOPIC_EXISTS = 0, 36
_PARENT_POLL_S = 0.5
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


def process_spec(address_file: Path, topics: Mapping[str, int]) -> ProcessSpec:
    """Describe the broker's process; `topics` maps names to partitions. Once ready, its address is in the file."""
    address_file.unlink(missing_ok=True)  # that of a broker of before
    return ProcessSpec(
        name="broker",
        argv=[
            *(sys.executable, "-m", "local_stack.broker", "--address-file", str(address_file), "--topics"),
            *(f"{name}={partitions}" for name, partitions in topics.items()),
        ],
        ready=lambda: _is_ready(address_file),
        vital=True,
    )


def read_address(address_file: Path) -> str:
    """Return the address that clients of a ready broker connect to."""
    return address_file.read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a broker until SIGTERM, SIGINT or the death of the parent process."""
    parser = argparse.ArgumentParser(prog="python -m local_stack.broker", description=main.__doc__)
    parser.add_argument("--address-file", type=Path, required=True, help="where to write the address, when ready")
    parser.add_argument("--topics", nargs="*", default=[], metavar="NAME=PARTITIONS", type=_topic)
    options = parser.parse_args(arguments)
    parent, stopping = os.getppid(), threading.Event()
    for wish in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wish, lambda *_: stopping.set())
    try:
        cluster = MockCluster()
        for name, partitions in options.topics:
            cluster.create_topic(name, partitions)
    except StackError as error:
        sys.exit(f"error: {error}")
    write_private(options.address_file, cluster.bootstrap_servers)
    while not stopping.wait(_PARENT_POLL_S) and os.getppid() == parent:
        pass


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


async def _is_ready(address_file: Path) -> bool:
    return await asyncio.to_thread(address_file.exists)


if __name__ == "__main__":
    main()
