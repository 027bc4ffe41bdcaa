"""The wire protocol, version 2, for both sides: bytes in, messages out. spec/wire-2.md.

As in protocol.py there are no sockets here: a reader is a generator that yields how many bytes it needs next. Each
message has a length, a kind and a body, so that a reader can skip unknown ones.
"""

import json
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from durus.error import (
    DisconnectedError,
    DurusError,
    LimitError,
    NotAllowedError,
    ProtocolError,
    ReadonlyError,
    ServerError,
    SnapshotEndedError,
    TransactionError,
)
from durus.oid_array import OidArray, encoded
from durus.sharing.compression import COMPRESSED_FROM, KNOWN, NONE, compress, decompress
from durus.sharing.protocol import MAX_COMMIT, MAX_REQUEST_OIDS, NOT_FOUND, OKAY, Loaded, Reader

VERSION_2 = 2

MAX_ACCESSED = 1 << 16
"""How many accessed oids a commit may list; a client with more takes its turn. [WIRE2-21]"""
MAX_SECONDS = 4_000_000
"""The longest time of a server's options, in seconds: about 46 days, so that milliseconds fit in 32 bits."""
SEAL_TEXT = 53
"""How many bytes the text of a seal has. [BACKUP-4]"""
MAX_REQUEST = 8 * MAX_REQUEST_OIDS + 64
"""How many bytes a request other than a commit may have. [WIRE2-5]"""
_BESIDE_RECORDS = 8 * MAX_ACCESSED + 64
MAX_COMMIT_MESSAGE = MAX_COMMIT + _BESIDE_RECORDS
_SKIPPED_AT_A_TIME = 1 << 16

ANY = 1
AT_TURN = 1
"""Bits of the flags of a sync point and of a commit."""

_HEAD = struct.Struct(">Ic")
_LOAD = struct.Struct(">IcH")
_OID = struct.Struct("8s")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_COMPRESSED = struct.Struct(">BI")
_OPTIONS = struct.Struct(">HIB")
_COMMIT = struct.Struct(">BQBI")
_SYNC_POINT = struct.Struct(">BQI")
_HELLO = struct.Struct(">QIIIIIQB")

COMPRESSED = b"Z"
WAIT = b"W"
_NOT_AT_ONCE = (COMPRESSED, WAIT)
_FIRST_IGNORED = b"\x80"
"""A client ignores unknown answers of this kind and above. [WIRE2-4]"""


# Messages


def encode(kind: bytes, body: bytes = b"", method: int = NONE) -> bytes:
    """Return the bytes of a message, compressed by this method if that makes a long one shorter. [WIRE2-3]"""
    if method != NONE and len(body) >= COMPRESSED_FROM:
        squeezed = compress(method, kind + body)
        if len(squeezed) < len(body):
            head = _COMPRESSED.pack(method, 1 + len(body))
            return _HEAD.pack(1 + len(head) + len(squeezed), COMPRESSED) + head + squeezed
    return _HEAD.pack(1 + len(body), kind) + body


def _decompressed(body: bytes, limit: int, max_commit: int = MAX_COMMIT) -> bytes:
    """Return the message in a compressed one, which may be a commit of `max_commit` bytes."""
    if len(body) < _COMPRESSED.size:
        raise ProtocolError("a compressed message has no head")
    method, size = _COMPRESSED.unpack_from(body)
    if not 1 <= size <= limit:
        raise ProtocolError(f"a compressed message of {size} bytes is longer than the limit of {limit}")
    if size > max_commit + _BESIDE_RECORDS:
        raise _too_long(size, max_commit)
    return decompress(method, body[_COMPRESSED.size :], size)


def _part(body: bytes, start: int, size: int) -> bytes:
    end = start + size
    if end > len(body):
        raise ProtocolError(f"a message ends inside of a part of {size} bytes")
    return body[start:end]


# Requests


class Options(NamedTuple):
    """O: what the server may send without being asked. [WIRE2-10]"""

    changed_count: int
    """How many records of changed objects may come with a sync point."""
    extra_bytes: int
    """How many bytes of records may come that were not asked for."""
    compression: int


class Load(NamedTuple):
    """L: load the records of some oids, and `ahead` of those that they refer to. [WIRE2-11]"""

    oids: list[bytes]
    ahead: int


class LoadAhead(NamedTuple):
    """A: load those of these records, and of `ahead` that they refer to, that can be had at once. [WIRE2-17]"""

    oids: list[bytes]
    ahead: int


class Sync(NamedTuple):
    """S: ask for the invalid oids. [WIRE2-13]"""


class TakeSnapshot(NamedTuple):
    """B: sync, and load from this state from now on. [WIRE2-14]"""


class TakeTurn(NamedTuple):
    """T: sync, and take the turn to commit. [WIRE2-15]"""

    is_exclusive: bool


class Release(NamedTuple):
    """U: give up the snapshot and the turn. [WIRE2-16]"""


class NewOids(NamedTuple):
    """N: give new oids. [WIRE2-12]"""

    number: int


class Commit(NamedTuple):
    """C: a commit; the reader has passed its records to the caller. [WIRE2-20]"""

    serial: int
    accessed: OidArray | None
    """None if the client has checked for conflicts itself, in its turn."""


class Follow(NamedTuple):
    """F: send what the file of the server has after a seal. [WIRE2-50]"""

    after: bytes
    """The seal, as text; empty for all of the file."""


class Pack(NamedTuple):
    """P: pack, and answer when it begins or when it has ended. [WIRE2-30]"""

    is_awaited: bool


class Ping(NamedTuple):
    """G: send these bytes back. [WIRE2-31]"""

    data: bytes


class AskStatus(NamedTuple):
    """I: ask what the server does. [WIRE2-34]"""


class Quit(NamedTuple):
    """Q: stop the server. [WIRE2-32]"""


class Goodbye(NamedTuple):
    """'.': the client disconnects. [WIRE2-32]"""


class Unknown(NamedTuple):
    """A request of an unknown kind. [WIRE2-4]"""

    kind: bytes


WITHOUT_DATABASE = (Options, Release, Pack, Ping, AskStatus, Quit, Goodbye, Unknown)
"""Requests that do not use the database, and may come from a client that has the last place. [WIRE2-42]"""

Request = (
    Options
    | Load
    | LoadAhead
    | Sync
    | TakeSnapshot
    | TakeTurn
    | Release
    | NewOids
    | Commit
    | Follow
    | Pack
    | Ping
    | AskStatus
    | Quit
    | Goodbye
    | Unknown
)

_WITHOUT_BODY: dict[bytes, Request] = {
    b"S": Sync(),
    b"B": TakeSnapshot(),
    b"U": Release(),
    b"I": AskStatus(),
    b"Q": Quit(),
    b".": Goodbye(),
}
_KIND_WITHOUT_BODY = {type(request): kind for kind, request in _WITHOUT_BODY.items()}
_BODY_SIZES = {b"N": _U16.size, b"O": _OPTIONS.size, b"T": 1, b"P": 1, **dict.fromkeys(_WITHOUT_BODY, 0)}
"""How many bytes the bodies of these requests have."""


def encode_request(request: Request) -> bytes:
    """Return the bytes of a request other than a commit."""
    match request:
        case Options():
            return encode(b"O", _OPTIONS.pack(*request))
        case Load(oids, ahead):
            return encode_load(oids, ahead)
        case LoadAhead(oids, ahead):
            return encode_load(oids, ahead, b"A")
        case NewOids(number):
            return encode(b"N", _U16.pack(number))
        case TakeTurn(is_exclusive):
            return encode(b"T", bytes([is_exclusive]))
        case Follow(after):
            return encode(b"F", after)
        case Pack(is_awaited):
            return encode(b"P", bytes([is_awaited]))
        case Ping(data):
            return encode(b"G", data)
        case Unknown(kind):
            return encode(kind)
        case Commit():
            raise TypeError("a commit has records: use encode_commit()")
    return encode(_KIND_WITHOUT_BODY[type(request)])


def encode_load(oids: list[bytes], ahead: int, kind: bytes = b"L") -> bytes:
    """Return the bytes of a load, the most frequent request, or of a LoadAhead, whose kind is A."""
    return _LOAD.pack(3 + 8 * len(oids), kind, ahead) + b"".join(oids)


def encode_commit(
    serial: int,
    accessed: Collection[bytes] | None,
    records: Collection[bytes],
    method: int = NONE,
    limit: int = MAX_COMMIT,
) -> bytes:
    """Return the bytes of a commit; `accessed` is None in a turn. [WIRE2-20]

    TransactionError if the records are longer than the limit of the server. [WIRE2-2]
    """
    width, oids = OidArray.of(accessed or ()).to_bytes()
    head = _COMMIT.pack(AT_TURN if accessed is None else 0, serial, width, len(oids) // width)
    body = b"".join([head, oids, *_gen_sized(records)])
    size = len(body) - _COMMIT.size - len(oids)
    if size > limit:
        raise TransactionError(
            f"a commit of {size} bytes is longer than the {limit} that the server takes; commit in parts"
        )
    return encode(b"C", body, method)


def read_request(take: Callable[[bytes], None], max_commit: int = MAX_COMMIT) -> Reader[Request]:
    """Read one request, giving `take` the records of a commit one by one.

    ProtocolError if it is malformed; LimitError, after its end, for a commit with more than `max_commit` bytes.
    """
    (size,) = _U32.unpack((yield _U32.size))
    kind = yield from _read_kind(size)
    limit = MAX_COMMIT_MESSAGE if kind in (b"C", COMPRESSED) else MAX_REQUEST
    if size > limit:
        raise ProtocolError(f"a message {kind!r} of {size} bytes: at most {limit} are possible")
    if size > max_commit + _BESIDE_RECORDS and kind in (b"C", COMPRESSED):
        yield from _skip(size - 1)
        raise _too_long(size, max_commit)
    if kind == b"C":
        return (yield from _read_commit(size - 1, take, max_commit))
    return parse_request(kind + (yield size - 1), take, max_commit)


def _read_kind(size: int) -> Reader[bytes]:
    """Read the kind of a message of this size; ProtocolError if it has no bytes, and so no kind."""
    if not size:
        raise ProtocolError("a message of no bytes")
    return (yield 1)


def _skip(size: int) -> Reader[None]:
    """Read and drop bytes, a few at a time."""
    while size:
        size -= len((yield min(size, _SKIPPED_AT_A_TIME)))


def _too_long(size: int, max_commit: int) -> LimitError:
    return LimitError(
        f"a commit of {size} bytes is longer than the {max_commit} that this server takes (--max-commit, "
        "--max-memory); commit in parts"
    )


def parse_request(message: bytes, take: Callable[[bytes], None], max_commit: int = MAX_COMMIT) -> Request:
    """Return the request that a message is, without its size, after giving `take` the records of a commit one by one.

    ProtocolError if it is malformed; LimitError for a commit with more than `max_commit` bytes.
    """
    kind = message[:1]
    if kind == COMPRESSED:
        message = _decompressed(message[1:], MAX_COMMIT_MESSAGE, max_commit)
        kind = message[:1]
    if kind == b"L":
        return Load(_oids_of_load(message), _U16.unpack_from(message, 1)[0])
    if kind == b"C":
        return _parse_commit(message, take, max_commit)
    if kind in _BODY_SIZES and len(message) != 1 + _BODY_SIZES[kind]:
        raise ProtocolError(f"a message {kind!r} has a body of {_BODY_SIZES[kind]} bytes, not {len(message) - 1}")
    match kind:
        case b"A":
            return LoadAhead(_oids_of_load(message), _U16.unpack_from(message, 1)[0])
        case b"N":
            return NewOids(_U16.unpack_from(message, 1)[0])
        case b"O":
            return Options(*_OPTIONS.unpack_from(message, 1))
        case b"T":
            return TakeTurn(message[1] != 0)
        case b"F":
            if len(message) not in (1, 1 + SEAL_TEXT):
                raise ProtocolError(f"a message {kind!r} has a body of {SEAL_TEXT} bytes, not {len(message) - 1}")
            return Follow(message[1:])
        case b"P":
            return Pack(message[1] != 0)
        case b"G":
            return Ping(message[1:])
    return _WITHOUT_BODY[kind] if kind in _WITHOUT_BODY else Unknown(kind)


def _oids_of_load(message: bytes) -> list[bytes]:
    size = len(message)
    if size < 11 or size % 8 != 3 or size > 8 * MAX_REQUEST_OIDS + 3:
        raise ProtocolError(f"a load of {size - 1} bytes: it has 2 and 8 for each of 1 to {MAX_REQUEST_OIDS}")
    return _split(message[3:])


def _parse_commit(message: bytes, take: Callable[[bytes], None], max_commit: int) -> Commit:
    """Return the commit that a message is, as _read_commit() reads it."""
    flags, serial, width, count = _parse_commit_head(message[1 : 1 + _COMMIT.size], len(message) - 1)
    start = 1 + _COMMIT.size
    end = start + width * count
    oids = OidArray.from_bytes(width, message[start:end])
    if len(message) - end > max_commit:
        raise _too_long(len(message) - end, max_commit)
    for record in _records_in(message, end):
        take(record)
    return Commit(serial, None if flags & AT_TURN else oids)


def _parse_commit_head(head: bytes, size: int) -> tuple[int, int, int, int]:
    """Return the flags, the serial, the width and the number of accessed oids of a commit of `size` bytes."""
    if size < _COMMIT.size:
        raise ProtocolError(f"a commit of {size} bytes has no head")
    flags, serial, width, count = _COMMIT.unpack(head)
    if count > MAX_ACCESSED or _COMMIT.size + width * count > size:
        raise ProtocolError(f"{count} accessed oids do not fit the message, or the limit of {MAX_ACCESSED}")
    return flags, serial, width, count


def _read_commit(size: int, take: Callable[[bytes], None], max_commit: int) -> Reader[Commit]:
    """Read a commit of `size` bytes, record by record."""
    flags, serial, width, count = _parse_commit_head((yield _COMMIT.size), size)
    oids = OidArray.from_bytes(width, (yield width * count))
    left = size - _COMMIT.size - width * count
    if left > max_commit:
        yield from _skip(left)
        raise _too_long(left, max_commit)
    while left:
        if left < _U32.size:
            raise ProtocolError("a commit ends inside of the length of a record")
        (length,) = _U32.unpack((yield _U32.size))
        left -= _U32.size + length
        if left < 0:
            raise ProtocolError(f"a record of {length} bytes ends after its commit")
        take((yield length))
    return Commit(serial, None if flags & AT_TURN else oids)


# Answers


class Hello(NamedTuple):
    """H: the serial at which the client begins, and the limits of the server. [WIRE2-2]"""

    serial: int = 0
    max_commit: int = MAX_COMMIT
    max_oids: int = MAX_REQUEST_OIDS
    max_accessed: int = MAX_ACCESSED
    turn_milliseconds: int = 10_000
    """How long an exclusive turn lasts at most."""
    snapshot_seconds: int = 0
    snapshot_bytes: int = 0
    """The bounds of a snapshot, 0 for none."""
    compressions: int = KNOWN


class SyncPoint(NamedTuple):
    """A point in the order of commits, and what changed up to it. [WIRE2-13]"""

    serial: int
    invalid: Collection[bytes] | None
    """In ascending order; None for any oid."""
    records: list[bytes]
    """The current records of changed objects that the client seems to have."""


class Conflict(NamedTuple):
    """X: the commit is a conflict, and nothing of it is stored. [WIRE2-23]"""

    oids: list[bytes]
    text: str
    """Who changed them and when, as far as that is known."""
    point: SyncPoint


class FileHead(NamedTuple):
    """F: what comes of the file in the messages D after this one. [WIRE2-51]"""

    is_continued: bool
    """True if it begins after the seal that the client has named, False if at the beginning of the file."""
    seal: bytes
    """The last seal of it, as text; empty if the file has none."""


class Failure(NamedTuple):
    """E: the request was refused. [WIRE2-40]"""

    code: int
    text: str


UNSUPPORTED, MALFORMED, READONLY, FAILED, TOO_LARGE, SNAPSHOT_ENDED, NOT_ALLOWED, LIMIT, CUT_OFF = range(1, 10)
_ERRORS: dict[int, type[DurusError]] = {
    UNSUPPORTED: ProtocolError,
    MALFORMED: ProtocolError,
    READONLY: ReadonlyError,
    FAILED: ServerError,
    TOO_LARGE: TransactionError,
    SNAPSHOT_ENDED: SnapshotEndedError,
    NOT_ALLOWED: NotAllowedError,
    LIMIT: LimitError,
    CUT_OFF: DisconnectedError,
}


def failure_of(error: DurusError) -> Failure:
    """Return the answer that reports an error to a client."""
    if isinstance(error, SnapshotEndedError):
        return Failure(SNAPSHOT_ENDED, error.reason)
    for code in (READONLY, MALFORMED, NOT_ALLOWED, LIMIT, CUT_OFF):
        if isinstance(error, _ERRORS[code]):
            return Failure(code, str(error))
    return Failure(FAILED, str(error))


def error_of(failure: Failure) -> DurusError:
    """Return the error that an answer reports, for the application."""
    return _ERRORS.get(failure.code, ServerError)(failure.text)


def encode_hello(hello: Hello) -> bytes:
    """Return the bytes of the server's first message."""
    return encode(b"H", _HELLO.pack(*hello))


def encode_point(point: SyncPoint) -> bytes:
    """Return the body of a sync point."""
    oids = point.invalid or ()
    flags = ANY if point.invalid is None else 0
    return b"".join([_SYNC_POINT.pack(flags, point.serial, len(oids)), encoded(oids), *_gen_sized(point.records)])


def encode_records(records: list[bytes]) -> bytes:
    """Return the body of the answer to A."""
    return b"".join(_gen_sized(records))


def encode_conflict(conflict: Conflict) -> bytes:
    """Return the body of a conflict."""
    text = conflict.text.encode("utf-8", "replace")[:1000]
    head = _U32.pack(len(conflict.oids)) + b"".join(conflict.oids) + _U16.pack(len(text)) + text
    return head + encode_point(conflict.point)


def encode_failure(failure: Failure) -> bytes:
    """Return the body of a refusal."""
    return bytes([failure.code]) + failure.text.encode("utf-8", "replace")[:4000]


def encode_found(record: bytes) -> bytes:
    """Return the entry of a load answer that has a record."""
    return OKAY + _U32.pack(len(record)) + record


def encode_report(report: dict[str, object]) -> bytes:
    """Return the body of the answer to I. [WIRE2-34]"""
    return json.dumps(report, allow_nan=False).encode("ascii")


class Answer(NamedTuple):
    """A message from the server, not parsed yet."""

    kind: bytes
    body: bytes


def read_answer(on_wait: Callable[[], object] | None = None) -> Reader[Answer]:
    """Read the next answer; call `on_wait` for each message that announces it before. [WIRE2-33]"""
    while True:
        (size,) = _U32.unpack((yield _U32.size))
        kind = yield from _read_kind(size)
        body = yield size - 1
        if kind == COMPRESSED:
            message = _decompressed(body, MAX_COMMIT_MESSAGE)
            kind, body = message[:1], message[1:]
        if kind != WAIT and kind < _FIRST_IGNORED:
            return Answer(kind, body)
        if on_wait is not None:
            on_wait()


def whole_answer(data: bytes) -> Answer | None:
    """Return the answer that these bytes are, from the first to the last; None if read_answer() must look at them."""
    if len(data) < _HEAD.size:
        return None
    size, kind = _HEAD.unpack_from(data)
    if size != len(data) - _U32.size or kind in _NOT_AT_ONCE or kind >= _FIRST_IGNORED:
        return None
    return Answer(kind, data[_HEAD.size :])


def parse_file_head(body: bytes) -> FileHead:
    """Return what is said of a file in a body."""
    if len(body) not in (1, 1 + SEAL_TEXT):
        raise ProtocolError(f"the server describes its file with {len(body)} bytes")
    return FileHead(body[0] != 0, body[1:])


def parse_hello(answer: Answer) -> Hello | Failure:
    """Return the limits of the server, or why it has no place for this client. [WIRE2-42]

    Further limits, of a later version, are ignored.
    """
    if answer.kind == b"E":
        return parse_failure(answer.body)
    if answer.kind != b"H" or len(answer.body) < _HELLO.size:
        raise ProtocolError(f"the server began with {answer.kind!r} and {len(answer.body)} bytes, not with its limits")
    return Hello(*_HELLO.unpack_from(answer.body))


def parse_point(body: bytes) -> SyncPoint:
    """Return the sync point in a body."""
    start = _SYNC_POINT.size
    flags, serial, count = _SYNC_POINT.unpack(_part(body, 0, start))
    oids = _split(_part(body, start, 8 * count)) if count else []
    return SyncPoint(serial, None if flags & ANY else oids, _records_in(body, start + 8 * count))


def parse_conflict(body: bytes) -> Conflict:
    """Return the conflict in a body."""
    (count,) = _U32.unpack(_part(body, 0, _U32.size))
    oids = _split(_part(body, _U32.size, 8 * count))
    start = _U32.size + 8 * count
    (size,) = _U16.unpack(_part(body, start, _U16.size))
    start += _U16.size
    text = _part(body, start, size).decode("utf-8", "replace")
    return Conflict(oids, text, parse_point(body[start + size :]))


def parse_failure(body: bytes) -> Failure:
    """Return the refusal in a body."""
    if not body:
        raise ProtocolError("a refusal has no code")
    return Failure(body[0], body[1:].decode("utf-8", "replace"))


def parse_report(body: bytes) -> dict[str, object]:
    """Return what a server says about itself. [WIRE2-34]"""
    try:
        report = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"what the server tells of itself is not JSON: {error}") from error
    if not isinstance(report, dict):
        raise ProtocolError(f"what the server tells of itself is not an object of JSON, but {type(report).__name__}")
    return report


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def parse_loaded(body: bytes) -> list[Loaded]:
    """Return the entries of a load answer."""
    found = []
    index, size = 0, len(body)
    while index < size:
        status = body[index : index + 1]
        index += 1
        if status == OKAY:
            start = index + _U32.size
            length = int.from_bytes(body[index:start], "big")
            index = start + length
            if index > size:
                raise _cut_off(start, length, size, "answer")
            found.append(Loaded(OKAY, body[start:index]))
        elif status in (b"I", NOT_FOUND):
            found.append(Loaded(status))
        else:
            raise ProtocolError(f"there is no answer {status!r} to a load")
    return found


def parse_records(body: bytes) -> list[bytes]:
    """Return the records of the answer to A."""
    return _records_in(body, 0)


def parse_oids(body: bytes, count: int) -> list[bytes]:
    """Return the oids of an answer to N."""
    if len(body) != 8 * count:
        raise ProtocolError(f"{len(body)} bytes are not {count} oids")
    return _split(body)


def _records_in(body: bytes, index: int) -> list[bytes]:
    """Return the records from an index to the end, each of which has its length before it."""
    records = []
    size = len(body)
    while index < size:
        start = index + _U32.size
        length = int.from_bytes(body[index:start], "big")
        index = start + length
        if index > size:
            raise _cut_off(start, length, size, "message")
        records.append(body[start:index])
    return records


def _cut_off(start: int, length: int, size: int, whole: str) -> ProtocolError:
    """Return the error for a record that should have `length` bytes from `start` on, in a `whole` of `size` bytes."""
    if start > size:
        return ProtocolError(f"the {whole} ends inside of the length of a record")
    return ProtocolError(f"a record of {length} bytes ends after its {whole}")


def _gen_sized(records: Iterable[bytes]) -> Iterator[bytes]:
    """Yield each record after its length."""
    for record in records:
        yield _U32.pack(len(record))
        yield record


def _split(oids: bytes) -> list[bytes]:
    return [oid for (oid,) in _OID.iter_unpack(oids)]
