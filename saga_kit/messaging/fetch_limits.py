"""Bounds the memory that a fetch may take: unpacked batches, records, headers, and the records of one poll.

A broker limits the compressed size of a batch; a few hundred kilobytes of gzip can be gigabytes. aiokafka unpacks whole
batches without any limit. So this module replaces two parts of it, once in a process. The codecs stop at a limit. The
reader of a partition's batches puts a `LostRecord` in the place of a record that is too large or can't be parsed, and
goes on after it; good records before it in the same batch are read.

A missing codec and a wrong checksum are no fault of a record: they are raised, and nothing is skipped.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.errors import UnsupportedCodecError

from saga_kit.runtime.errors import describe

UNPACKED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a batch, unpacked: sixteen of our own largest messages."""
RECORD_BYTES_MAX: Final = 1024 * 1024
"""Of a record with its headers: what a broker takes uncompressed by default. A larger one is cut."""
CUT_BYTES: Final = 16 * 1024
"""How much of the key, and of the value, of a record that is too large is stored."""
HEADERS_MAX: Final = 128
"""Headers of a record. In memory one takes about forty times as much as on the wire."""
TAKEN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of the records of one poll; the last record may exceed it."""
FETCHED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of one fetch response, as it is sent."""
LOST_MAX: Final = 500
"""When more records of one batch are lost than this, a single `LostRecord` stands for all of them."""
NOT_WHOLE: Final = "not kept whole: "
"""A reason begins with this when the stored bytes are not the whole record, so that it can't be published again."""

_HEADER_COST: Final = 150
"""Bytes of the objects that hold one header."""
_SNAPPY_BLOCKS: Final = b"\x82SNAPPY\0"
_SNAPPY_HEAD: Final = 16
_WORD: Final = 4


class LostRecord(NamedTuple):
    """Stands for a record that the client library can't parse, or that is too large: where it is, and why.

    With `last`, it stands for all records of its partition up to that offset. `key`, `value` and `headers` may be cut.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    last: int | None = None

    @property
    def next_offset(self) -> int:
        """The offset at which its partition goes on."""
        return (self.offset if self.last is None else self.last) + 1


class UnpackedTooLarge(ValueError):  # noqa: N818 - it is what was found
    """A batch that is larger than `UNPACKED_BYTES_MAX` when it is unpacked."""

    def __init__(self) -> None:
        super().__init__(f"it has more than {UNPACKED_BYTES_MAX} bytes unpacked")


class _Budget:
    def __init__(self, left: int) -> None:
        self.left = left


_BUDGET: Final[ContextVar[_Budget | None]] = ContextVar("bytes that may be taken", default=None)


def bound_fetches() -> None:
    """Bound every consumer of this process; a second call changes nothing."""
    fetcher.PartitionRecords = _Records
    fetcher.FetchResult = _Result
    for name in ("default_records", "legacy_records"):
        for package in ("aiokafka.record", "aiokafka.record._crecords"):
            with suppress(ImportError):  # the compiled modules do not exist on every platform
                module = import_module(f"{package}.{name}")
                for function in (gzip_decode, snappy_decode, lz4_decode, zstd_decode):
                    if hasattr(module, function.__name__):
                        setattr(module, function.__name__, function)


@contextmanager
def taking() -> Iterator[None]:
    """Limit the records that are taken inside this context to `TAKEN_BYTES_MAX` bytes."""
    token = _BUDGET.set(_Budget(TAKEN_BYTES_MAX))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def size_of(record: Any) -> int:
    """Estimate the bytes that a record takes in memory."""
    size = len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += _HEADER_COST + len(name) + (len(value) if value else 0)
    return size


# The codecs, as aiokafka calls them --------------------------------------------------------------------------------


def gzip_decode(payload: Any) -> bytes:
    """Unpack; raises `UnpackedTooLarge`, and whatever `gzip` raises for broken bytes."""
    with gzip.GzipFile(fileobj=io.BytesIO(payload), mode="r") as stream:
        unpacked = stream.read(UNPACKED_BYTES_MAX + 1)
    if len(unpacked) > UNPACKED_BYTES_MAX:
        raise UnpackedTooLarge
    return unpacked


def snappy_decode(payload: Any) -> bytes:
    """Unpack, in the blocks of Java's clients or in one; raises as `gzip_decode` does."""
    payload = bytes(payload)
    if not payload.startswith(_SNAPPY_BLOCKS):
        return _snappy_block(payload, UNPACKED_BYTES_MAX)
    unpacked, place = bytearray(), _SNAPPY_HEAD
    while place < len(payload):
        length = int.from_bytes(payload[place : place + _WORD])
        place += _WORD
        if length == 0 or place + length > len(payload):
            raise ValueError(f"a block of snappy says that it has {length} bytes")
        unpacked += _snappy_block(payload[place : place + length], UNPACKED_BYTES_MAX - len(unpacked))
        place += length
    return bytes(unpacked)


def lz4_decode(payload: Any) -> bytes:
    """Unpack; raises as `gzip_decode` does."""
    return _unpack_into(cramjam.lz4.decompress_into, bytes(payload))


def zstd_decode(payload: Any) -> bytes:
    """Unpack; raises as `gzip_decode` does."""
    return _unpack_into(cramjam.zstd.decompress_into, bytes(payload))


def _snappy_block(block: bytes, room: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > room:
        raise UnpackedTooLarge
    return bytes(cramjam.snappy.decompress_raw(block))


def _unpack_into(decompress_into: Callable[[bytes, bytearray], int], payload: bytes) -> bytes:
    size = min(16 * len(payload) + 1024, UNPACKED_BYTES_MAX)
    while True:
        room = bytearray(size)
        try:
            length = decompress_into(payload, room)
            return bytes(memoryview(room)[:length])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        if size == UNPACKED_BYTES_MAX:
            raise UnpackedTooLarge
        size = min(4 * size, UNPACKED_BYTES_MAX)


# The reader of a partition ------------------------------------------------------------------------------------------


class _Lost(NamedTuple):
    """Takes the place of records in a batch, from `first` to `offset`; the reader goes on after `offset`."""

    offset: int
    first: int
    reason: str
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class _Records(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Reads a partition's batches as the library does, and makes a `LostRecord` of each `_Lost`."""

    def __init__(self, tp: Any, records: Any, *more: Any, **options: Any) -> None:
        super().__init__(tp, _Batches(records), *more, **options)

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if not isinstance(record, _Lost):
            return super()._consumer_record(tp, record)
        first = max(record.first, self.next_fetch_offset)
        last = record.offset if record.offset > first else None
        return LostRecord(tp.topic, tp.partition, first, NOT_WHOLE + record.reason, *record[3:], last)


class _Batches:
    """The batches of a fetch."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.has_next = records.has_next

    def next_batch(self) -> _Batch:
        return _Batch(self._records.next_batch())


class _Batch:
    """A batch whose records are bounded, and which ends with a stand-in for records that can't be read."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        offset = self._batch.base_offset
        try:
            for record in self._batch:
                offset = record.offset + 1
                yield _bounded(record)
        except (UnsupportedCodecError, MemoryError):  # no fault of the records
            raise
        except Exception as error:  # noqa: BLE001 - the library's parser; its errors are of no one type
            yield from _stand_ins(offset, max(offset, self._batch.next_offset - 1), error)


class _Result(fetcher.FetchResult):  # type: ignore[misc]  # aiokafka has no types
    """The fetched records of a partition; it gives them while `taking` has bytes left."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        budget = _BUDGET.get()
        if budget is None:
            return list(super().getall(max_records))
        taken: list[Any] = []
        if not self.has_more() or not self.check_assignment(self._topic_partition):
            return taken
        records = self._partition_records
        while budget.left > 0 and (max_records is None or len(taken) < max_records):
            record = next(records, None)
            if record is None:
                self._update_position()
                self._partition_records = None
                return taken
            taken.append(record)
            budget.left -= size_of(record)
        self._update_position()
        return taken


def _stand_ins(first: int, last: int, error: Exception) -> Iterator[_Lost]:
    if isinstance(error, UnpackedTooLarge):
        reason = f"its batch, {first} to {last}, is too large: {error}"
    else:
        reason = f"can't be parsed: {describe(error)}"
    if last - first < LOST_MAX:
        for offset in range(first, last + 1):
            yield _Lost(offset, offset, reason)
    else:
        yield _Lost(last, first, f"{reason} (this stands for {first} to {last})")


def _bounded(record: Any) -> Any:
    """Return the record, or a stand-in with the beginning of one that is too large."""
    count, key, value = len(record.headers), record.key, record.value
    size = size_of(record) if count <= HEADERS_MAX else 0
    if count <= HEADERS_MAX and size <= RECORD_BYTES_MAX:
        return record
    if count > HEADERS_MAX:
        reason = f"it has {count} headers, at most {HEADERS_MAX} are taken"
    else:
        reason = f"it has {size} bytes, at most {RECORD_BYTES_MAX} are taken"
    digest = "" if value is None else f"; its value has {len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()}"
    headers, taken_bytes = [], 0
    for name, content in record.headers[:HEADERS_MAX]:
        taken_bytes += len(name) + len(content or b"")
        if taken_bytes > CUT_BYTES:
            break
        headers.append((name, content))
    return _Lost(
        record.offset,
        record.offset,
        reason + digest,
        record.timestamp,
        None if key is None else key[:CUT_BYTES],
        None if value is None else value[:CUT_BYTES],
        tuple(headers),
    )
