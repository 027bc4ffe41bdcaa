"""What a testee has written, read by a reader of the kit's own: SHELF-1 and DFS20 files.

It is stricter than a reader has to be: it takes only sound files, and says which transactions have no seal.
"""

import io
import pickle
import re
import struct
import zlib
from typing import Any

SHELF, DFS20 = b"SHELF-1\n", b"DFS20\0"
_NEW_FILES = (
    SHELF + struct.pack(">QQQQ", 0, 16, 1, 0),
    DFS20 + struct.pack(">QQ", 14, 12) + bytes.fromhex("789c6b60a9d5030003380130"),
)
"""Files without any object, as SHELF-3 and DFS-7 have them."""
_SEAL_OID = 2**64 - 1
_RESERVED = 2**64 - 256
SEAL_HEAD = (
    struct.pack(">Q", 124)
    + b"\xff" * 16
    + struct.pack(">L", 104)
    + b"\x80\x02cdurus.persistent\nPersistent\n.\x80\x02}X\x04\0\0\0sealX5\0\0\0"
)
_SEAL_TEXT = re.compile(rb"([0-9a-f]{16}) \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ([0-9a-f]{8})s\.")


class Unsound(Exception):
    """The file has a fault."""


def contents(data: bytes, new_from: int = 0) -> dict[str, Any]:
    """Return what a file holds, as the JSON of an example has it, or `{"fault": text}`.

    Args:
        data: the whole file.
        new_from: where the transactions begin that must have seals.
    """
    try:
        return _dfs20(data) if data.startswith(DFS20) else _shelf(data, new_from)
    except Unsound as fault:
        return {"fault": str(fault)}


def is_interrupted(data: bytes) -> bool:
    """Return whether a file is one whose creation was interrupted, and that a writer rewrites: SHELF-3 and DFS-7."""
    return data not in _NEW_FILES and any(data in (new[: len(data)], bytes(len(data))) for new in _NEW_FILES)


def new_oids(data: bytes, count: int) -> list[str]:
    """Return the oids that a writer of a sound file gives out first: SHELF-52 and DFS-8."""
    found = contents(data, new_from=len(data))
    used = {int(oid) for oid in found["objects"]}
    if data.startswith(DFS20):
        first = max(used, default=-1) + 1
        return [str(oid) for oid in range(first, first + count)]
    words = _u64(data, 16 + _u64(data, 8) + 16)
    above = range(words, words + len(used) + count)
    return [str(oid) for oid in [*found["free"], *above] if oid not in used][:count]


def _shelf(data: bytes, new_from: int) -> dict[str, Any]:
    if not data.startswith(SHELF):
        raise Unsound("it does not start as a file of Durus does")
    start = 16 + _u64(data, 8)
    size, width, count = _u64(data, start), _u64(data, start + 8), _u64(data, start + 16)
    end = start + 8 + size
    if not 1 <= width <= 8 or size != 16 + width * count or end > len(data):
        raise Unsound(f"the offset map at {start} has lengths that do not fit")
    words = [int.from_bytes(data[at : at + width]) for at in range(start + 24, end, width)]
    records = {}
    for oid, word in enumerate(words):
        if word < start:
            found, records[oid], _ = _entry(data, word, start)
            if found != oid:
                raise Unsound(f"the word of oid {oid} leads to oid {found}")
    free = _holes(words, start)
    transactions, covered, running = 0, 0, 0
    position = end
    while position < len(data):
        finish = position + 8 + _u64(data, position)
        if finish > len(data):
            raise Unsound(f"the transaction at {position} extends beyond the end of the file")
        at = position + 8
        has_seal, is_covered = False, covered == position
        entries = 0
        while at < finish:
            oid, record, after = _entry(data, at, finish)
            if oid == _SEAL_OID:
                running = _checked_seal(data, at, covered, running)
                covered, has_seal = after, True
                if after != finish:
                    raise Unsound(f"the seal at {at} is not the last entry")
            elif data[at : at + 8] == SEAL_HEAD[:8] and data[at + 24 : at + 77] == SEAL_HEAD[24:]:
                raise Unsound(f"the entry at {at} is a seal that lost its oid")
            elif oid < _RESERVED:
                records[oid] = record
            entries += 1
            at = after
        if position >= new_from and not has_seal:
            raise Unsound(f"the transaction at {position} has no seal")
        if position >= new_from and not is_covered and entries > 1:
            raise Unsound(f"the transaction at {position} follows bytes that no seal covers")
        transactions += 1
        position = finish
    return {
        "objects": _texts(records),
        "transactions": transactions,
        "sealed": transactions > 0 and covered == len(data),
        "free": free,
    }


def _holes(words: list[int], start: int) -> list[int]:
    """Return the oids of the chain of holes; SHELF-9, and SHELF-10 for a chain that a writer made."""
    chain: list[int] = []
    oid = len(words) - 1
    while oid >= 0:
        chain.append(oid)
        following = words[oid] - start
        if following == len(words) - 1:
            break
        if not 0 <= following < oid:
            raise Unsound(f"the chain of holes goes from {oid} to {following}")
        oid = following
    if sorted(chain) != [oid for oid, word in enumerate(words) if word >= start]:
        raise Unsound("the chain of holes does not have all holes")
    return chain


def _checked_seal(data: bytes, at: int, covered: int, running: int) -> int:
    text = _SEAL_TEXT.fullmatch(data, at + 77, at + 132)
    if data[at : at + 77] != SEAL_HEAD or not text or int(text[1], 16) != at:
        raise Unsound(f"the seal at {at} does not have the layout of a seal at that offset")
    checksum = zlib.crc32(data[covered : at + 122], running)
    if int(text[2], 16) != checksum:
        raise Unsound(f"the seal at {at} has another checksum than {checksum:08x}")
    return checksum


def _entry(data: bytes, at: int, limit: int) -> tuple[int, bytes, int]:
    """Return the oid, the record, and the end of a SHELF-1 object entry."""
    end = at + 8 + _u64(data, at)
    if end > limit or end < at + 28:
        raise Unsound(f"the entry at {at} does not fit")
    record = data[at + 16 : end]
    if record[:8] != data[at + 8 : at + 16]:
        raise Unsound(f"the entry at {at} holds the record of another oid")
    _split(record, at)
    return _u64(record, 0), record, end


def _dfs20(data: bytes) -> dict[str, Any]:
    index = _u64(data, 6)
    after = index + 8 + _u64(data, index)
    if after > len(data):
        raise Unsound(f"the index record at {index} extends beyond the end of the file")
    try:
        stream = zlib.decompressobj()
        file = io.BytesIO(stream.decompress(data[index + 8 : after]))
        offsets = _PlainUnpickler(file, encoding="latin1").load()
        if stream.unused_data or file.read():
            raise Unsound("bytes follow it")
        known = {_oid(key): int(offset) for key, offset in offsets.items()}
    except Exception as error:
        raise Unsound(f"the index record at {index} can't be read: {error}") from error
    records = {}
    for oid, offset in known.items():
        records[oid], _ = _dfs20_record(data, offset, index)
        if _u64(records[oid], 0) != oid:
            raise Unsound(f"the index leads to {offset} for oid {oid}, where another one stands")
    transactions, position = 0, after
    while position < len(data):
        while _u32(data, position):
            record, position = _dfs20_record(data, position, len(data))
            records[_u64(record, 0)] = record
        position += 4
        transactions += 1
    return {"objects": _texts(records), "transactions": transactions}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise Unsound(f"it names {module}.{name}")


def _oid(key: object) -> int:
    if isinstance(key, str):
        key = key.encode("latin1")
    if not isinstance(key, bytes) or len(key) != 8:
        raise Unsound(f"it has the key {key!r}")
    return int.from_bytes(key)


def _dfs20_record(data: bytes, at: int, limit: int) -> tuple[bytes, int]:
    end = at + 4 + _u32(data, at)
    if end > limit:
        raise Unsound(f"the entry at {at} does not fit")
    _split(data[at + 4 : end], at)
    return data[at + 4 : end], end


def _split(record: bytes, at: int) -> tuple[bytes, bytes]:
    """Return the data and the references of a record; `at` is for the message."""
    length = _u32(record, 8)
    if length == 0 or 12 + length > len(record) or (len(record) - 12 - length) % 8:
        raise Unsound(f"the record in the entry at {at} is malformed")
    return record[12 : 12 + length], record[12 + length :]


def _texts(records: dict[int, bytes]) -> dict[str, str]:
    return {str(oid): _split(record, 0)[0].decode("latin1") for oid, record in sorted(records.items())}


def _u64(data: bytes, at: int) -> int:
    return _number(data, at, 8)


def _u32(data: bytes, at: int) -> int:
    return _number(data, at, 4)


def _number(data: bytes, at: int, size: int) -> int:
    if not 0 <= at <= len(data) - size:
        raise Unsound(f"there are no {size} bytes at {at}")
    return int.from_bytes(data[at : at + size])
