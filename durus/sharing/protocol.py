"""The wire protocol, version 1, for both sides: bytes in, messages out. spec/wire.md.

No sockets here. A reader is a generator that yields how many bytes it needs next, is sent exactly those, and returns
a message; its caller decides where the bytes come from. A length that the other side declares is checked against a
limit before a byte of it is requested. A reader that needs 0 bytes is sent b"".
"""

import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple, TypeVar

from durus.error import ProtocolError, TransactionError

VERSION = 1
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 2972

OKAY = b"O"
INVALID = b"I"
NOT_FOUND = b"K"

MAX_REQUEST_OIDS = 1 << 18
"""How many oids one request has at most. [WIRE-20]"""
MAX_COMMIT = 1 << 30
"""How many bytes one commit has at most. [WIRE-20]"""

_U32 = struct.Struct(">I")
_ENTRY_HEAD = struct.Struct(">I8s")

T = TypeVar("T")
Reader = Generator[int, bytes, T]
"""Yields how many bytes it needs, is sent them, and returns a T."""


# Requests


class Version(NamedTuple):
    """V: the version of the protocol that the client uses. [WIRE-4]"""

    version: int


class NewOids(NamedTuple):
    """N and M: give new oids. [WIRE-5]"""

    number: int


class Load(NamedTuple):
    """L: load the record of an oid. [WIRE-6]"""

    oid: bytes


class BulkLoad(NamedTuple):
    """B: load the records of several oids. [WIRE-7]"""

    oids: list[bytes]


class Sync(NamedTuple):
    """S: ask for the invalid oids. [WIRE-8]"""


class Commit(NamedTuple):
    """C: begin a commit. [WIRE-9]"""


class Pack(NamedTuple):
    """P: start a pack. [WIRE-12]"""


class Quit(NamedTuple):
    """Q: stop the server. [WIRE-13]"""


class Goodbye(NamedTuple):
    """'.': the client disconnects. [WIRE-14]"""


Request = Version | NewOids | Load | BulkLoad | Sync | Commit | Pack | Quit | Goodbye


def encode_request(request: Request) -> bytes:
    """Return the bytes of a request."""
    match request:
        case Version(version):
            return b"V" + _U32.pack(version)
        case NewOids(1):
            return b"N"
        case NewOids(number):
            return b"M" + bytes([number])
        case Load(oid):
            return b"L" + oid
        case BulkLoad(oids):
            return b"B" + encode_oids(oids)
        case Sync():
            return b"S"
        case Commit():
            return b"C"
        case Pack():
            return b"P"
        case Quit():
            return b"Q"
        case Goodbye():
            return b"."


def read_request() -> Reader[Request]:
    """Read one request; ProtocolError for an unknown command."""
    command = yield 1
    match command:
        case b"V":
            return Version((yield from read_u32()))
        case b"N":
            return NewOids(1)
        case b"M":
            return NewOids((yield 1)[0])
        case b"L":
            return Load((yield 8))
        case b"B":
            return BulkLoad((yield from read_oids(MAX_REQUEST_OIDS)))
        case b"S":
            return Sync()
        case b"C":
            return Commit()
        case b"P":
            return Pack()
        case b"Q":
            return Quit()
        case b".":
            return Goodbye()
    advice = "; it begins TLS, which this server does not speak" if command == b"\x16" else ""
    raise ProtocolError(f"{command!r} is not a command{advice}")


# Commits


def encode_commit(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the data of a commit. [WIRE-10]

    Args:
        records: (oid, record) pairs; none gives the commit up.

    Raises:
        TransactionError: they are too long for one commit.
    """
    entries = [_ENTRY_HEAD.pack(8 + len(record), oid) + record for oid, record in records]
    data = b"".join(entries)
    if len(data) > MAX_COMMIT:
        raise TransactionError(
            f"a commit of {len(data)} bytes exceeds the {MAX_COMMIT} that a server accepts; commit in parts"
        )
    return _U32.pack(len(data)) + data


def read_commit(take: Callable[[bytes, bytes], None], max_commit: int | None = None) -> Reader[int]:
    """Read the data of a commit. [WIRE-10]

    Args:
        take: called with each oid and its record.
        max_commit: how many bytes are accepted; None for MAX_COMMIT.

    Returns:
        How many records there were; 0 if the commit was given up.

    Raises:
        ProtocolError: the data is malformed or too long.
    """
    size = yield from read_u32()
    limit = MAX_COMMIT if max_commit is None else max_commit
    if size > limit:
        raise ProtocolError(f"a commit of {size} bytes exceeds the limit of {limit}")
    count = offset = 0
    while offset < size:
        if offset + _ENTRY_HEAD.size > size:
            raise ProtocolError(f"the data of a commit ends inside the head of an entry, at byte {offset}")
        length, oid = _ENTRY_HEAD.unpack((yield _ENTRY_HEAD.size))
        if length < 8 or offset + 4 + length > size:
            raise ProtocolError(
                f"an entry of {length} bytes at byte {offset} does not fit the {size} bytes of a commit"
            )
        take(oid, (yield length - 8))
        offset += 4 + length
        count += 1
    return count


# Answers


class Loaded(NamedTuple):
    """The answer to a load: `record` where `status` is OKAY. [WIRE-6]"""

    status: bytes
    record: bytes = b""


def encode_u32(number: int) -> bytes:
    """Return the bytes of a u32: the answer to V."""
    return _U32.pack(number)


def encode_oids(oids: Sequence[bytes]) -> bytes:
    """Return the bytes of a count and oids: the answer to S and C, and the arguments of B."""
    return _U32.pack(len(oids)) + b"".join(oids)


def encode_loaded(answer: Loaded) -> bytes:
    """Return the bytes of a load answer."""
    if answer.status != OKAY:
        return answer.status
    return OKAY + _U32.pack(len(answer.record)) + answer.record


def read_u32() -> Reader[int]:
    """Read a u32: the answer to V."""
    return int(_U32.unpack((yield 4))[0])


def read_new_oids(count: int) -> Reader[list[bytes]]:
    """Read the answer to N or M."""
    return _split((yield 8 * count))


def read_oids(limit: int | None = None) -> Reader[list[bytes]]:
    """Read a count, at most `limit`, and as many oids."""
    count = yield from read_u32()
    if limit is not None and count > limit:
        raise ProtocolError(f"{count} oids in one message exceed the limit of {limit}")
    return _split((yield 8 * count))


def read_loaded() -> Reader[Loaded]:
    """Read a load answer."""
    status = yield 1
    if status in (INVALID, NOT_FOUND):
        return Loaded(status)
    if status != OKAY:
        raise ProtocolError(f"{status!r} is not an answer to a load")
    size = yield from read_u32()
    return Loaded(OKAY, (yield size))


def read_all_loaded(count: int) -> Reader[list[Loaded]]:
    """Read the answer to B with `count` oids."""
    answers = []
    for _ in range(count):
        answers.append((yield from read_loaded()))
    return answers


def read_status() -> Reader[bytes]:
    """Read the answer to the data of a commit, or to P."""
    status = yield 1
    if status not in (OKAY, INVALID):
        raise ProtocolError(f"{status!r} is not an answer to a commit or a pack")
    return status


def _split(oids: bytes) -> list[bytes]:
    return [oids[start : start + 8] for start in range(0, len(oids), 8)]


# Running a reader


def receive(reader: Reader[T], receive_exactly: Callable[[int], bytes]) -> T:
    """Run a reader on a function that returns as many bytes as it is asked for."""
    try:
        wanted = next(reader)
        while True:
            wanted = reader.send(receive_exactly(wanted))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration does not tell its type
