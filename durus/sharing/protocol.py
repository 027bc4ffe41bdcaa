"""The wire protocol, version 1, for both sides: bytes in, messages out. spec/wire.md.

No sockets here.  A reader is a generator that yields how many bytes it needs next, is sent just
those, and returns a message; who drives it decides where the bytes come from.  A length that the
other side declares is checked against a limit before a byte of it is asked for.  For 0 bytes it is
sent none.
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
"""The most oids in one request. [WIRE-20]"""
MAX_COMMIT = 1 << 30
"""The most bytes of one commit. [WIRE-20]"""

_U32 = struct.Struct(">I")
_ENTRY_HEAD = struct.Struct(">I8s")

T = TypeVar("T")
Reader = Generator[int, bytes, T]
"""Yields numbers of bytes, is sent as many, returns a T."""


# Requests


class Version(NamedTuple):
    """V: which protocol the client speaks. [WIRE-4]"""

    version: int


class NewOids(NamedTuple):
    """N and M: give new oids. [WIRE-5]"""

    number: int


class Load(NamedTuple):
    """L: the record of an oid. [WIRE-6]"""

    oid: bytes


class BulkLoad(NamedTuple):
    """B: the records of many oids. [WIRE-7]"""

    oids: list[bytes]


class Sync(NamedTuple):
    """S: which oids are invalid. [WIRE-8]"""


class Commit(NamedTuple):
    """C: a commit begins. [WIRE-9]"""


class Pack(NamedTuple):
    """P: begin to pack. [WIRE-12]"""


class Quit(NamedTuple):
    """Q: the server is to end. [WIRE-13]"""


class Goodbye(NamedTuple):
    """'.': the client goes. [WIRE-14]"""


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
    """Read one request. ProtocolError for a command that the protocol does not have."""
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
    raise ProtocolError(f"there is no command {command!r}")


# Commits


def encode_commit(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the data of a commit: these (oid, record) pairs, none to give it up. [WIRE-10]

    TransactionError if they are too long for one commit.
    """
    entries = [_ENTRY_HEAD.pack(8 + len(record), oid) + record for oid, record in records]
    data = b"".join(entries)
    if len(data) > MAX_COMMIT:
        raise TransactionError(
            f"a commit of {len(data)} bytes is longer than the {MAX_COMMIT} that a server takes; commit in parts"
        )
    return _U32.pack(len(data)) + data


def read_commit(take: Callable[[bytes, bytes], None]) -> Reader[int]:
    """Read the data of a commit, giving `take` each oid and its record. [WIRE-10]

    Return how many there were: 0 if the commit was given up.
    """
    size = yield from read_u32()
    if size > MAX_COMMIT:
        raise ProtocolError(f"a commit of {size} bytes is longer than the limit of {MAX_COMMIT}")
    count = offset = 0
    while offset < size:
        if offset + _ENTRY_HEAD.size > size:
            raise ProtocolError(f"the data of a commit ends inside an entry's head, at byte {offset}")
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
    """Return a u32: the server's answer to V."""
    return _U32.pack(number)


def encode_oids(oids: Sequence[bytes]) -> bytes:
    """Return a count and oids: the answer to S and C, and the arguments of B."""
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
    """Read a count, `limit` at the most, and oids."""
    count = yield from read_u32()
    if limit is not None and count > limit:
        raise ProtocolError(f"{count} oids in one message are more than the limit of {limit}")
    return _split((yield 8 * count))


def read_loaded() -> Reader[Loaded]:
    """Read a load answer."""
    status = yield 1
    if status in (INVALID, NOT_FOUND):
        return Loaded(status)
    if status != OKAY:
        raise ProtocolError(f"there is no answer {status!r} to a load")
    size = yield from read_u32()
    return Loaded(OKAY, (yield size))


def read_all_loaded(count: int) -> Reader[list[Loaded]]:
    """Read the answer to B of `count` oids."""
    answers = []
    for _ in range(count):
        answers.append((yield from read_loaded()))
    return answers


def read_status() -> Reader[bytes]:
    """Read the answer to the data of a commit, or to P."""
    status = yield 1
    if status not in (OKAY, INVALID):
        raise ProtocolError(f"there is no answer {status!r} to a commit or a pack")
    return status


def _split(oids: bytes) -> list[bytes]:
    return [oids[start : start + 8] for start in range(0, len(oids), 8)]


# Driving a reader


def receive(reader: Reader[T], receive_exactly: Callable[[int], bytes]) -> T:
    """Run a reader on a function that returns as many bytes as it is asked for."""
    try:
        wanted = next(reader)
        while True:
            wanted = reader.send(receive_exactly(wanted))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration does not tell its type
