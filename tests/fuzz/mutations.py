"""Bytes for the readers: sound ones, and what becomes of them when some are changed, in or against the structure."""

import pickle
import random
import zlib
from collections.abc import Callable, Sequence
from zlib import crc32

from durus.files.shelf.block_table import BlockTable, BlockTableBuilder, pack_block_table
from durus.files.shelf.layout import MAGIC, U64, pack_entry, pack_seal, pack_transaction
from durus.files.shelf.offset_map import build_offset_map
from durus.oid import SEAL_OID, oid_from_int
from durus.records.record import pack_record
from durus.serialize import compress_state
from durus.sharing import protocol2 as messages
from durus.sharing.protocol import (
    INVALID,
    NOT_FOUND,
    OKAY,
    BulkLoad,
    Commit,
    Goodbye,
    Load,
    Loaded,
    NewOids,
    Pack,
    Quit,
    Request,
    Sync,
    Version,
    encode_commit,
    encode_loaded,
    encode_oids,
    encode_request,
)

NUMBERS = (0, 1, 7, 8, 12, 16, 20, 255, 256, 1 << 16, 1 << 20, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
LARGE = (1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 9, (1 << 64) - 1)
CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
STEPS = (
    [bytes([code]) for code in b"()}]0.12NtudasbRQe\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"]
    + [b"K\x07", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"C\x08" + bytes(8), b"C\x08\0\0\0\0\0\0\0\1", b"U\x01a"]
    + [b"r\xff\xff\xff\x7f", b"p2000000000\n", b"\x8c\x01a", b"\x8c\x01b", b"cos\nsystem\n", b"cbuiltins\nlist\n"]
    + [b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x8e\0\0\0\0\x01\0\0\0", b"\x96\0\0\0\0\x01\0\0\0", b"B\xff\xff\xff\x7f"]
    + [b"\x95\xff\xff\xff\xff\0\0\0\0", b"\x8b\xff\xff\xff\x7f", b"cdurus.persistent\nPersistent\n", b"\x80\x04"]
    + [b"c_codecs\nencode\n", b"X\x08\0\0\0abcdefgh", b"cbuiltins\ngetattr\n", b"cbuiltins\nbytes\n", b"I999\n"]
    + [b"X\xff\xff\xff\xff", b"F1e999\n", b"Pid\n", b"i__main__\nA\n", b"o", b"\x82\x01"]
)
"""Steps of pickles."""


def mutate(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return the data with a few changes that know nothing of its structure."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        place, end = sorted(chance.randrange(len(changed) + 1) for _ in range(2))
        end = min(end, place + chance.choice([1, 4, 8, 100, 10_000]))
        match chance.randrange(8):
            case 0 if place < len(changed):
                changed[place] ^= 1 << chance.randrange(8)
            case 1 if place < len(changed):
                changed[place] = chance.randrange(256)
            case 2:
                changed[place : place + 4] = chance.choice(NUMBERS).to_bytes(4, "big")
            case 3:
                changed[place : place + 8] = chance.choice(NUMBERS + LARGE).to_bytes(8, "big")
            case 4:
                del changed[place:end]
            case 5:
                changed[place:place] = changed[place:end]
            case 6:
                changed[place:place] = chance.choice(STEPS)
            case 7 if others:
                changed[place:] = chance.choice(others)[place:]
    return bytes(changed)


def number(true: int, chance: random.Random) -> int:
    """Return the true number, or rarely another one that is near it or large."""
    if chance.random() > 0.03:
        return true
    return max(0, chance.choice([true - 1, true + 1, true + 8, true * 2, *NUMBERS, *LARGE]))


def an_oid(chance: random.Random) -> bytes:
    return oid_from_int(chance.choice([0, 1, 2, 3, 3, 4, 5, 9, 200, (1 << 40), (1 << 64) - 2, (1 << 64) - 1]))


def a_state(chance: random.Random) -> bytes:
    """Return a state pickle, sound or made of random steps."""
    if chance.random() < 0.5:
        steps = b"".join(chance.choice(STEPS) for _ in range(chance.randrange(40)))
        return b"\x80\x04" + steps + b"."
    value = {
        "n": chance.randrange(1 << 40),
        "s": "text" * chance.randrange(200),
        "l": [(1, (2.5, None)), {3}, b"bytes"],
    }
    return pickle.dumps(value, chance.randrange(6))


def a_content(chance: random.Random) -> bytes:
    cls = CLASS if chance.random() < 0.9 else pickle.dumps(random.Random, chance.randrange(6))
    state = a_state(chance)
    return cls + chance.choice([state, compress_state(state), zlib.compress(state)])


def a_record(chance: random.Random, oid: bytes | None = None) -> bytes:
    refs = b"".join(an_oid(chance) for _ in range(chance.randrange(3)))
    return pack_record(an_oid(chance) if oid is None else oid, a_content(chance), refs)


def an_entry(chance: random.Random) -> bytes:
    oid = an_oid(chance)
    record = a_record(chance, oid) if chance.random() < 0.95 else mutate(a_record(chance), chance)
    return number(8 + len(record), chance).to_bytes(8, "big") + oid + record


def a_shelf(chance: random.Random) -> bytes:
    """Return a file whose checksums are right, whatever else is not."""
    oids = sorted(chance.sample(range(6), chance.randrange(6)))
    base = bytearray()
    offsets = [0] * (oids[-1] + 1 if oids else 0)
    for oid in oids:
        offsets[oid] = number(len(MAGIC) + 8 + len(base), chance)
        refs = b"".join(oid_from_int(chance.randrange(6)) for _ in range(chance.randrange(3)))
        base += pack_entry(oid_from_int(oid), pack_record(oid_from_int(oid), a_content(chance), refs))
    data = bytearray(MAGIC + U64.pack(number(len(base), chance)) + base)
    offset_map = b"".join(build_offset_map([min(each, len(data)) for each in offsets], len(data)))
    data += offset_map if chance.random() < 0.9 else mutate(offset_map, chance)
    checksum = crc32(data)
    if chance.random() < 0.5:
        checksum = _append_block_table(data, chance)
    for _ in range(chance.randrange(5)):
        body = b"".join(an_entry(chance) for _ in range(chance.randrange(4)))
        start = len(data)
        is_sealed = chance.random() < 0.8
        size = len(body) + (len(pack_seal(0, "", 0)[0]) + 27 if is_sealed else 0)
        data += U64.pack(number(size, chance)) + body
        checksum = crc32(data[start:], checksum)
        if is_sealed:
            seal, checksum = pack_seal(number(len(data), chance), "2026-01-02T03:04:05.000006Z", checksum)
            data += seal if chance.random() < 0.97 else seal.replace(SEAL_OID, bytes(8))
    return bytes(data)


def _append_block_table(data: bytearray, chance: random.Random) -> int:
    """Append what a pack writes after the packed part in `data`, sometimes something else; return its checksum."""
    sums = BlockTableBuilder()
    sums.add(bytes(data))
    table = sums.table()
    blocks = table.blocks if chance.random() < 0.9 else mutate(table.blocks, chance)
    entry = pack_block_table(BlockTable(table.checksum, blocks))
    checksum = table.checksum
    for entries in [], [entry if chance.random() < 0.9 else mutate(entry, chance)]:
        transaction, checksum = pack_transaction(b"".join(entries), len(data), "2026-01-02T03:04:05.000006Z", checksum)
        data += transaction
    return checksum


def a_conversation(chance: random.Random) -> bytes:
    """Return what a client may send."""
    messages = bytearray()
    for _ in range(chance.randrange(1, 8)):
        requests: list[Request] = [Version(number(1, chance) & 0xFFFFFFFF), NewOids(chance.randrange(256))]
        requests += [Load(an_oid(chance)), BulkLoad([an_oid(chance) for _ in range(chance.randrange(9))])]
        requests += [Sync(), Commit(), Commit(), Commit(), Pack()]
        if chance.random() < 0.1:
            requests += [Quit(), Goodbye()]
        request = chance.choice(requests)
        messages += encode_request(request)
        if isinstance(request, Commit):
            messages += a_commit(chance)
    return bytes(messages)


def a_commit(chance: random.Random) -> bytes:
    oids = [oid_from_int(chance.randrange(8)) for _ in range(chance.randrange(4))]
    data = encode_commit([(oid, a_record(chance, oid)) for oid in oids])
    return data if chance.random() < 0.7 else mutate(data, chance)


def an_answer(chance: random.Random) -> bytes:
    """Return what a server may send."""
    loaded = Loaded(
        chance.choice([OKAY, OKAY, INVALID, NOT_FOUND]), a_record(chance, oid_from_int(chance.randrange(3)))
    )
    return chance.choice(
        [
            encode_loaded(loaded),
            encode_loaded(loaded),
            encode_oids([an_oid(chance) for _ in range(chance.randrange(40))]),
            chance.choice([OKAY, INVALID]),
            bytes(4),
        ]
    )


def answers(chance: random.Random) -> bytes:
    return b"".join(an_answer(chance) for _ in range(chance.randrange(12)))


def a_conversation_2(chance: random.Random) -> bytes:
    """Return requests of version 2, which may be wrong in what they mean."""
    data = b""
    for _ in range(chance.randrange(8)):
        oids = [an_oid(chance) for _ in range(chance.randrange(1, 4))]
        requests: list[messages.Request] = [
            messages.Options(chance.randrange(20), number(1000, chance) % 2**32, chance.choice([0, 0, 1, 2, 9])),
            messages.Load(oids, chance.randrange(20)),
            messages.LoadAhead(oids, chance.randrange(20)),
            messages.Sync(),
            messages.TakeSnapshot(),
            messages.TakeTurn(chance.random() < 0.5),
            messages.Release(),
            messages.NewOids(chance.choice([0, 1, 5, 300]) if chance.random() < 0.98 else 60_000),
            messages.Pack(chance.random() < 0.5),
            messages.Ping(chance.randbytes(4)),
            messages.AskStatus(),
            messages.Follow(chance.choice([b"", b"0" * 53])),
            messages.Unknown(b"?"),
            messages.Goodbye(),
        ]
        if chance.random() < 0.5:
            records = [a_record(chance, oid) for oid in oids]
            accessed = None if chance.random() < 0.2 else oids
            method = chance.choice([0, 0, 1])
            data += messages.encode_commit(chance.choice([0, 1, 2, 2**63]), accessed, records, method)
        else:
            data += messages.encode_request(chance.choice(requests))
    return data


def a_body(chance: random.Random) -> bytes:
    """Return the body of an answer of version 2."""
    oids = [an_oid(chance) for _ in range(chance.randrange(4))]
    records = [a_record(chance, oid) for oid in oids]
    point = messages.SyncPoint(chance.randrange(5), chance.choice([None, oids]), records)
    return chance.choice(
        [
            messages.encode_point(point),
            messages.encode_conflict(messages.Conflict(oids, "text", point)),
            messages.encode_failure(messages.Failure(chance.randrange(9), "text")),
            b"".join(messages.encode_found(record) for record in records),
        ]
    )


def answers_of_version_2(chance: random.Random) -> bytes:
    """Return answers, in whatever order."""
    kinds = [b"R", b"r", b"Y", b"C", b"X", b"E", b"N", b"O", b"G", b"F", b"D", b"W", b"\x80"]
    return b"".join(messages.encode(chance.choice(kinds), a_body(chance)) for _ in range(chance.randrange(12)))


SOUND: dict[str, Callable[[random.Random], bytes]] = {
    "record": a_record,
    "contents": a_content,
    "shelf": a_shelf,
    "server": a_conversation,
    "requests": a_conversation,
    "client": answers,
    "server_2": a_conversation_2,
    "requests_2": a_conversation_2,
    "client_2": answers_of_version_2,
    "answers_2": a_body,
}
"""What makes an input for a target that is sound, or nearly."""


def an_input(target: str, chance: random.Random, corpus: Sequence[bytes] = ()) -> bytes:
    """Return an input for a target: made for it, changed, or nothing but random bytes."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(200))
    data = chance.choice(corpus) if corpus and chance.random() < 0.3 else SOUND[target](chance)
    return data if chance.random() < 0.3 else mutate(data, chance, corpus)
