"""The parts of the SHELF-1 code one by one, at the edges of what they take and beyond."""

from collections.abc import Callable
from zlib import crc32

import pytest

from durus.error import DamageError, FormatError, UnsoundTailError
from durus.files.entry_index import PLACE
from durus.files.file import File
from durus.files.forward_reader import CHUNK_SIZE, FIRST_CHUNK_SIZE, ForwardReader, Unsound
from durus.files.shelf import recover
from durus.files.shelf.block_table import locate_block_table
from durus.files.shelf.layout import (
    MAGIC,
    NAME,
    SEAL_SIZE,
    Seal,
    has_seal_layout,
    pack_entry,
    pack_seal,
    pack_transaction,
    parse_seal,
    parse_seal_text,
)
from durus.files.shelf.new_shelf import NewShelf
from durus.files.shelf.offset_map import OffsetMap, build_offset_map, no_offsets
from durus.files.shelf.scan import Transaction, scan_transactions
from durus.files.shelf.shelf import EMPTY_FILE, Shelf, checksum_of, read_header
from durus.files.snapshot import FileSnapshot
from durus.oid import FIRST_RESERVED_OID, SEAL_OID, oid_from_int
from durus.progress import Progress
from durus.records.record import pack_record
from tests.in_memory_file import MemoryFile
from tests.model.histories import Item, unsealed_packed_file

TIME = "2026-01-02T03:04:05.000006Z"
ROOT, ONE, TWO = (oid_from_int(n) for n in range(3))


def file_of(data: bytes) -> File:
    return MemoryFile("/f", bytearray(data))


def entry_of(oid: bytes, data: bytes = b"a", refs: bytes = b"") -> bytes:
    return pack_entry(oid, pack_record(oid, data, refs))


def unsealed(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return len(body).to_bytes(8, "big") + body


def transactions_of(data: bytes) -> list[Transaction]:
    return list(scan_transactions(file_of(data), 0, len(data), 0))


def unsound_of(data: bytes) -> Unsound:
    with pytest.raises(Unsound) as caught:
        transactions_of(data)
    return caught.value


# Offset map


def map_of(size: int, word_size: int, count: int, words: bytes) -> OffsetMap:
    head = b"".join(number.to_bytes(8, "big") for number in (size, word_size, count))
    return OffsetMap(file_of(bytes(100) + head + words), 100)


@pytest.mark.spec("SHELF-7")
@pytest.mark.parametrize(
    ("size", "word_size", "count", "words", "problem"),
    [
        (16, 0, 0, 0, "can't have 0 words of 0 bytes"),
        (16 + 9, 9, 1, 9, "can't have 1 words of 9 bytes"),
        (16 + 5, 2, 3, 6, "an offset map of 21 bytes can't have 3 words of 2 bytes"),
        (16 + 6, 2, 3, 5, "claims to end at byte 130, past the end"),
    ],
)
def test_offset_map_whose_sizes_do_not_fit_is_refused(
    size: int, word_size: int, count: int, words: int, problem: str
) -> None:
    with pytest.raises(DamageError, match=problem) as caught:
        map_of(size, word_size, count, bytes(words))
    assert caught.value.offset == 100


@pytest.mark.spec("SHELF-7")
@pytest.mark.parametrize("size", range(24))
def test_offset_map_that_is_cut_in_its_head_is_refused(size: int) -> None:
    with pytest.raises(DamageError, match="the file ends where its offset map must stand") as caught:
        OffsetMap(file_of(bytes(100 + size)), 100)
    assert caught.value.offset == 100


@pytest.mark.spec("SHELF-6", "SHELF-8")
@pytest.mark.parametrize("word_size", [1, 8])
def test_offset_map_has_words_of_one_to_eight_bytes(word_size: int) -> None:
    words = (7).to_bytes(word_size, "big") + (101).to_bytes(word_size, "big")
    offset_map = map_of(16 + 2 * word_size, word_size, 2, words)
    assert (offset_map.end, offset_map.count) == (124 + 2 * word_size, 2)
    assert [offset_map.offset_of(oid) for oid in (ROOT, ONE, TWO)] == [7, None, None]
    assert list(offset_map.offsets()) == [(ROOT, 7)]
    assert list(offset_map.holes()) == [1]


@pytest.mark.spec("SHELF-8")
def test_word_that_is_the_start_of_the_map_is_a_hole() -> None:
    offset_map = map_of(16 + 2, 1, 2, bytes([101, 100]))
    assert offset_map.offset_of(ROOT) is None
    assert offset_map.offset_of(ONE) is None
    assert list(offset_map.offsets()) == []
    assert list(offset_map.holes()) == [1, 0]


@pytest.mark.spec("SHELF-9")
@pytest.mark.parametrize(
    ("words", "at", "problem"),
    [
        ([50, 50, 50, 102], 3, "leads to 2, which is not free"),
        ([50, 50, 102, 102], 2, "the free oid 2 is chained to 2,"),
        ([50, 102, 101, 102], 1, "the free oid 1 is chained to 2,"),
    ],
)
def test_chain_of_free_oids_that_does_not_go_down_is_damage(words: list[int], at: int, problem: str) -> None:
    holes = map_of(16 + 8, 2, 4, b"".join(word.to_bytes(2, "big") for word in words)).holes()
    with pytest.raises(DamageError, match=problem) as caught:
        list(holes)
    assert caught.value.offset == 124 + 2 * at


@pytest.mark.spec("SHELF-6", "SHELF-8", "SHELF-9", "SHELF-10")
@pytest.mark.parametrize("count", [8191, 8192, 8193, 20000])
def test_offset_map_of_very_many_oids(count: int) -> None:
    offsets = [16 + n if n % 3 else 0 for n in range(count)]
    offsets[-1] = 7
    start = 1 << 20
    data = b"".join(build_offset_map(offsets, start))
    offset_map = OffsetMap(file_of(bytes(start) + data), start)
    assert offset_map.end == start + len(data)
    assert dict(offset_map.offsets()) == {oid_from_int(n): place for n, place in enumerate(offsets) if place}
    assert list(offset_map.holes()) == [count, *(n for n in reversed(range(count)) if not offsets[n])]


@pytest.mark.spec("SHELF-10")
@pytest.mark.parametrize(
    ("start", "word_size"), [(252, 1), (253, 2), (65532, 2), (65533, 3), ((1 << 24) - 4, 3), ((1 << 24) - 3, 4)]
)
def test_words_are_the_fewest_bytes_that_hold_each_hole(start: int, word_size: int) -> None:
    (head, *words) = build_offset_map([16], start)
    assert head == b"".join(number.to_bytes(8, "big") for number in (16 + 2 * word_size, word_size, 2))
    assert b"".join(words) == (16).to_bytes(word_size, "big") + (start + 1).to_bytes(word_size, "big")


@pytest.mark.spec("SHELF-3")
def test_offset_map_of_no_oids_has_no_words_of_one_byte() -> None:
    assert b"".join(build_offset_map([], 16)) == b"".join(number.to_bytes(8, "big") for number in (16, 1, 0))


# Reading forward


@pytest.mark.spec("SHELF-15")
@pytest.mark.parametrize("step", [1000, FIRST_CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE])
def test_forward_reader_gives_all_bytes_and_their_checksum(step: int) -> None:
    data = bytes(range(251)) * (3 * CHUNK_SIZE // 251 + 1)
    start, end = 5, len(data) - 7
    reader = ForwardReader(file_of(data), start, end, 99)
    for place in range(start, end, step):
        size = min(step, end - place)
        assert reader.offset == place
        assert reader.peek(28) == data[place : min(place + 28, end)]
        if place % 3 == 0:
            assert reader.peek(size) == data[place : place + size]
        reader.advance(size)
    assert reader.offset == end
    assert reader.checksum == crc32(data[start:end], 99)
    assert reader.peek(1) == b""


@pytest.mark.parametrize("size", [1, 2, FIRST_CHUNK_SIZE + 1])
def test_forward_reader_reads_a_single_byte_that_is_left(size: int) -> None:
    reader = ForwardReader(file_of(bytes(size)), 0, size, 0)
    reader.advance(size - 1)
    assert reader.peek(1) == bytes(1)
    reader.advance(1)
    assert reader.offset == size


def test_forward_reader_tells_of_a_file_that_became_shorter() -> None:
    reader = ForwardReader(file_of(bytes(100)), 0, 101, 0)
    reader.advance(100)
    with pytest.raises(DamageError, match="became shorter than 101 bytes") as caught:
        reader.advance(1)
    assert caught.value.offset == 100


def test_scan_tells_of_a_file_that_became_shorter() -> None:
    data = unsealed(entry_of(ROOT), entry_of(ONE))
    with pytest.raises(DamageError, match=f"became shorter than {len(data)} bytes"):
        list(scan_transactions(file_of(data[:-20]), 0, len(data), 0))


class ReadsNoted(MemoryFile):
    """Notes how many bytes it was asked for at a time."""

    def __init__(self, size: int) -> None:
        super().__init__("/f", bytearray(size))
        self.sizes: list[int] = []

    def read_at(self, offset: int, size: int) -> bytes:
        self.sizes.append(size)
        return super().read_at(offset, size)


DOUBLING = [1 << n for n in range(12, 20)]
"""The sizes of the reads that come before those of 1 MiB."""


def test_forward_reader_reads_little_at_first_and_never_much() -> None:
    size = 4 << 20
    file = ReadsNoted(size)
    reader = ForwardReader(file, 0, size, 0)
    for _ in range(2):
        reader.peek(4096)
        assert file.sizes == [4096]
    reader.advance(size)
    assert reader.peek(1) == b""
    assert file.sizes == [*DOUBLING, *[1 << 20] * 3, 4096]


@pytest.mark.spec("SHELF-25")
def test_seals_are_looked_for_in_little_at_first_and_never_in_much() -> None:
    for count in 0, 3:
        sizes = [*DOUBLING, *[1 << 20] * count]
        file = ReadsNoted(sum(sizes))
        assert list(recover.seals_after(file, 0, file.size())) == []
        assert file.sizes == [size + SEAL_SIZE for size in sizes]


@pytest.mark.spec("SHELF-4", "SHELF-5")
def test_transaction_is_its_length_and_its_entries() -> None:
    entries = [entry_of(ROOT), entry_of(TWO, b"bc", ONE + TWO)]
    first = unsealed(*entries)
    assert transactions_of(first + unsealed()) == [
        Transaction(0, len(first), PLACE.pack(ROOT, 8) + PLACE.pack(TWO, 8 + len(entries[0])), None, crc32(first)),
        Transaction(len(first), len(first) + 8, b"", None, crc32(first + bytes(8))),
    ]


@pytest.mark.spec("SHELF-12", "SHELF-15")
def test_sealed_transaction_carries_the_checksum_of_its_seal_on() -> None:
    first, checksum = pack_transaction(entry_of(ROOT), 0, TIME, 0)
    second, second_checksum = pack_transaction(b"", len(first), TIME, checksum)
    found = transactions_of(first + second)
    assert [(each.start, each.end, each.checksum) for each in found] == [
        (0, len(first), checksum),
        (len(first), len(first + second), second_checksum),
    ]
    assert [each.seal and (each.seal.offset, each.seal.time) for each in found] == [
        (len(first) - SEAL_SIZE, TIME),
        (len(first + second) - SEAL_SIZE, TIME),
    ]


@pytest.mark.spec("REC-3")
def test_entries_of_reserved_oids_are_passed_over() -> None:
    highest = oid_from_int(int.from_bytes(FIRST_RESERVED_OID, "big") - 1)
    (found,) = transactions_of(unsealed(entry_of(FIRST_RESERVED_OID), entry_of(highest)))
    assert found.entries == [(highest, 8 + len(entry_of(ROOT)))]


@pytest.mark.spec("SHELF-14")
def test_object_that_is_as_long_as_a_seal_or_begins_like_one_is_an_object() -> None:
    as_long = entry_of(ROOT, b"a" * 104)
    begins_alike = entry_of(ONE, pack_seal(8, TIME, 0)[0][28:], TWO)
    assert len(as_long) == SEAL_SIZE
    (found,) = transactions_of(unsealed(as_long, begins_alike))
    assert found.entries == [(ROOT, 8), (ONE, 8 + SEAL_SIZE)]


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


ENTRY = entry_of(ROOT, b"a", ONE)


@pytest.mark.spec("SHELF-23")
@pytest.mark.parametrize(
    ("data", "problem", "place", "end"),
    [
        (bytes(7), "cut after 7 of its 8 bytes", 0, 8),
        (unsealed(ENTRY)[:-1], "would end at byte 45, 1 past the end of the file", 0, 45),
        (unsealed(ENTRY, bytes(27)), "27 bytes are too few for an object entry", 45, 72),
        (unsealed(changed(ENTRY, 15, b"\1")), "does not fit", 8, 45),  # another oid than the record's
        (unsealed(entry_of(ROOT, b"", ONE)), "does not fit", 8, 44),  # no data
        (unsealed(changed(ENTRY, 27, b"\2")), "does not fit", 8, 45),  # references of 7 bytes
        (unsealed(changed(ENTRY, 27, b"\x11")), "does not fit", 8, 45),  # references of -8 bytes
        (unsealed(changed(ENTRY, 7, b"\x25")), "does not fit", 8, 45),  # 8 bytes longer than the transaction
    ],
)
def test_transaction_that_is_not_sound_is_told_with_its_place(data: bytes, problem: str, place: int, end: int) -> None:
    unsound = unsound_of(data)
    assert problem in unsound.problem
    assert str(unsound) == unsound.problem
    assert (unsound.start, unsound.fault_offset, unsound.end) == (0, place, end)
    assert not unsound.is_checksum_mismatch
    assert not unsound.is_seal_only


@pytest.mark.spec("SHELF-14", "SHELF-23")
@pytest.mark.parametrize(("entries", "is_seal_only"), [([], True), ([entry_of(ROOT)], False)])
def test_other_checksum_than_the_seals_is_told(entries: list[bytes], is_seal_only: bool) -> None:
    data, _ = pack_transaction(b"".join(entries), 0, TIME, crc32(b"something that is not there"))
    unsound = unsound_of(data)
    assert unsound.problem.startswith("the checksum is ")
    assert (unsound.start, unsound.fault_offset, unsound.end) == (0, 0, len(data))
    assert (unsound.is_checksum_mismatch, unsound.is_seal_only) == (True, is_seal_only)


@pytest.mark.spec("SHELF-14")
@pytest.mark.parametrize(
    "seal",
    [
        pack_seal(8, TIME, 0)[0] + entry_of(ROOT),
        pack_seal(9, TIME, 0)[0],
        entry_of(SEAL_OID),
        changed(pack_seal(8, TIME, 0)[0], 8, bytes(16)),
    ],
    ids=["not at the end", "of another place", "no seal", "zeros for its oids"],
)
def test_what_stands_in_a_seals_place_must_be_its_seal(seal: bytes) -> None:
    unsound = unsound_of(unsealed(seal))
    assert "this should be the seal" in unsound.problem
    assert (unsound.start, unsound.fault_offset, unsound.end) == (0, 8, 8 + len(seal))


# Where the sound part ends


@pytest.mark.spec("SHELF-25")
@pytest.mark.parametrize("start", [0, 10])
def test_each_seal_is_found_once_wherever_reads_divide_it(start: int) -> None:
    for place in [start, *range(start + FIRST_CHUNK_SIZE - SEAL_SIZE - 1, start + FIRST_CHUNK_SIZE + 2)]:
        data = bytes(place) + pack_seal(place, TIME, 0)[0] + bytes(5)
        assert list(recover.seals_after(file_of(data), start, len(data))) == [place + SEAL_SIZE]


@pytest.mark.spec("SHELF-25")
def test_seals_are_found_far_after_the_start() -> None:
    data = b""
    ends = []
    while len(data) < 3 * CHUNK_SIZE:
        data += pack_seal(len(data), TIME, 0)[0]
        ends.append(len(data))
        data += bytes(70_001)
    assert list(recover.seals_after(file_of(data), 0, len(data))) == ends
    assert list(recover.seals_after(file_of(data), ends[0] - 1, len(data))) == ends[1:]


def explained(data: bytes, base: bytes = EMPTY_FILE) -> DamageError:
    """Return the error for these bytes after the base of a file."""
    file = file_of(base + data)
    last: Transaction | None = None
    try:
        for last in scan_transactions(file, len(base), file.size(), crc32(base)):  # noqa: B007 (what was last is wanted)
            pass
    except Unsound as unsound:
        return recover.explain(file, unsound, last)
    raise AssertionError("it is sound")


@pytest.mark.spec("SHELF-24")
def test_unsound_transaction_at_the_end_is_a_tail_from_its_start() -> None:
    sound = unsealed(entry_of(ROOT))
    error = explained(sound + unsealed(entry_of(ONE))[:-1])
    assert isinstance(error, UnsoundTailError)
    assert error.offset == len(EMPTY_FILE + sound)
    assert f"the last {len(unsealed(entry_of(ONE))) - 1} bytes" in str(error)


@pytest.mark.spec("SHELF-24")
def test_last_transaction_that_has_another_checksum_is_a_tail() -> None:
    data, _ = pack_transaction(entry_of(ROOT), len(EMPTY_FILE), TIME, 0)
    assert isinstance(explained(data), UnsoundTailError)


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_unsound_transaction_ahead_of_a_sound_one_is_damage() -> None:
    damaged = unsealed(changed(entry_of(ROOT), 15, b"\1"))
    for rest in unsealed(entry_of(ONE)), unsealed() + unsealed(entry_of(ONE)):
        error = explained(damaged + rest)
        assert not isinstance(error, UnsoundTailError)
        assert error.offset == len(EMPTY_FILE) + 8
    assert isinstance(explained(damaged + unsealed()), UnsoundTailError)


@pytest.mark.spec("SHELF-24", "SHELF-27")
def test_unsound_transaction_ahead_of_one_with_another_checksum_is_damage() -> None:
    damaged = unsealed(changed(entry_of(ROOT), 15, b"\1"))
    rest, _ = pack_transaction(entry_of(ONE), len(EMPTY_FILE + damaged), TIME, 0)
    for data in damaged + rest, damaged + rest[:-3] + b"0" + rest[-2:]:
        assert not isinstance(explained(data), UnsoundTailError)


@pytest.mark.spec("SHELF-24")
def test_length_of_zero_in_front_of_what_is_unsound_belongs_to_the_tail() -> None:
    entries = entry_of(ROOT, b"data") + entry_of(ONE)
    error = explained(unsealed(entry_of(TWO)) + bytes(8) + entries)
    assert isinstance(error, UnsoundTailError)
    assert error.offset == len(EMPTY_FILE + unsealed(entry_of(TWO)))


# An open file


@pytest.mark.spec("SHELF-3", "SHELF-10")
def test_file_without_an_object() -> None:
    numbers = (0, 16, 1, 0)
    assert b"SHELF-1\n" + b"".join(number.to_bytes(8, "big") for number in numbers) == EMPTY_FILE


@pytest.mark.spec("SHELF-1", "SHELF-3")
def test_header_that_is_cut_or_wrong_is_refused() -> None:
    for size in range(16):
        with pytest.raises(DamageError, match="ends inside its header") as caught:
            read_header(file_of(EMPTY_FILE[:size]))
        assert caught.value.offset == 8
    with pytest.raises(FormatError, match="not a Durus file: it starts with b'SHELF-2"):
        read_header(file_of(b"SHELF-2\n" + EMPTY_FILE[8:]))


@pytest.mark.spec("SHELF-1", "SHELF-4")
def test_first_transaction_that_goes_beyond_the_end_is_refused() -> None:
    with pytest.raises(DamageError, match="claims to end at byte 41, past the end of the file") as caught:
        read_header(file_of(b"SHELF-1\n" + (25).to_bytes(8, "big") + EMPTY_FILE[16:]))
    assert caught.value.offset == 8
    with pytest.raises(DamageError, match="where its offset map must stand"):
        read_header(file_of(b"SHELF-1\n" + (24).to_bytes(8, "big") + EMPTY_FILE[16:]))


@pytest.mark.spec("SHELF-15")
@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE + 5])
def test_checksum_of_the_beginning_of_a_file(size: int) -> None:
    data = bytes(range(256)) * (2 * CHUNK_SIZE // 256 + 1)
    assert checksum_of(file_of(data), size) == crc32(data[:size])


@pytest.mark.spec("SHELF-5", "SHELF-11")
@pytest.mark.parametrize("size", [1, 4067, 4068, 4069, 10_000])
def test_record_of_any_size_is_read_as_it_was_written(size: int) -> None:
    record = pack_record(ONE, b"a" * size, ROOT)
    shelf = Shelf(file_of(EMPTY_FILE + unsealed(pack_entry(ONE, record), entry_of(TWO))))
    assert shelf.read(ONE) == record
    assert shelf.read(TWO) == pack_record(TWO, b"a", b"")
    assert shelf.read(ROOT) is None


@pytest.mark.spec("SHELF-23")
@pytest.mark.parametrize(
    "entry",
    [
        changed(ENTRY, 15, b"\1"),
        changed(ENTRY, 23, b"\1"),
        entry_of(ROOT, b"", ONE) + b"a",
        changed(ENTRY, 27, b"\2"),
        changed(ENTRY, 27, b"\x11"),
        changed(ENTRY, 7, b"\x25"),
        ENTRY[:27],
        b"",
    ],
)
def test_entry_that_was_damaged_after_opening_is_not_shown(entry: bytes) -> None:
    file = MemoryFile("/f", bytearray(EMPTY_FILE + unsealed(ENTRY)))
    shelf = Shelf(file)
    file.data[len(EMPTY_FILE) + 8 :] = entry
    with pytest.raises(DamageError, match="there is no sound entry of oid 0 here") as caught:
        shelf.read(ROOT)
    assert caught.value.offset == len(EMPTY_FILE) + 8


@pytest.mark.spec("SHELF-12", "SHELF-17")
def test_prepared_transaction_is_found_again_where_it_says() -> None:
    file = MemoryFile("/f", bytearray(EMPTY_FILE))
    shelf = Shelf(file)
    for records in ([(ROOT, b"a"), (ONE, b"bcd")], [], [(TWO, b"e"), (ROOT, b"f")]):
        packed = [(oid, pack_record(oid, data, b"")) for oid, data in records]
        prepared = shelf.prepare(packed, TIME)
        assert bool(prepared.before) == (shelf.end == len(EMPTY_FILE))
        file.append(b"".join((prepared.before, *prepared.pieces)))
        replaced, before = shelf.watch(), {oid: shelf.offset_of(oid) for oid, _ in records}
        prepared.accept()
        assert replaced == before
        again = Shelf(file)
        assert (shelf.end, shelf.checksum, list(shelf.offsets())) == (again.end, again.checksum, list(again.offsets()))
        assert shelf.is_sealed
        assert again.is_sealed
        assert all(shelf.read(oid) == record for oid, record in packed)


@pytest.mark.spec("SHELF-24")
def test_shelf_ends_in_front_of_a_tail_that_begins_with_a_length_of_zero() -> None:
    sound, checksum = pack_transaction(entry_of(ROOT), len(EMPTY_FILE), TIME, crc32(EMPTY_FILE))
    for before in EMPTY_FILE, EMPTY_FILE + sound, EMPTY_FILE + unsealed(entry_of(ROOT)):
        shelf = Shelf(file_of(before + bytes(8) + entry_of(ONE, b"data") + entry_of(TWO)))
        expected = Shelf(file_of(before))
        assert isinstance(shelf.tail, UnsoundTailError)
        assert shelf.tail.offset == len(before)
        assert (shelf.end, shelf.checksum, shelf.is_sealed) == (expected.end, expected.checksum, expected.is_sealed)
        assert list(shelf.offsets()) == list(expected.offsets())
    assert Shelf(file_of(EMPTY_FILE + sound)).checksum == checksum


@pytest.mark.spec("SHELF-10")
@pytest.mark.parametrize("size", [1 << 32, (1 << 32) + 1, 1 << 63])
def test_there_is_room_for_all_offsets_of_a_file(size: int) -> None:
    offsets = no_offsets(3, size)
    assert list(offsets) == [0] * 3
    offsets[1] = size - 1
    assert list(offsets) == [0, size - 1, 0]


def packed_file(records: dict[int, bytes]) -> MemoryFile:
    """Return a file whose packed part has the records of these oids and data."""
    file = MemoryFile("/f", bytearray())
    new = NewShelf(file, TIME)
    packed = [(oid_from_int(n), pack_record(oid_from_int(n), data, b"")) for n, data in records.items()]
    size = sum(len(record) for _, record in packed)
    steps = list(new.write_base(packed, len(packed), size, max(records, default=-1)))
    assert steps == [Progress("copy", len(packed), len(packed))] * (3 if packed else 2)
    return file


def append(file: MemoryFile, *entries: bytes) -> None:
    """Append a sealed transaction of these entries."""
    file.append(pack_transaction(b"".join(entries), file.size(), TIME, Shelf(file).checksum)[0])


@pytest.mark.spec("SHELF-2", "SHELF-10", "SHELF-17", "SHELF-30", "SHELF-40")
@pytest.mark.parametrize("records", [{}, {0: b"a"}, {5: b"e", 0: b"a"}])
def test_new_file_is_its_packed_part_a_seal_that_covers_it_and_a_block_table(records: dict[int, bytes]) -> None:
    file = packed_file(records)
    shelf = Shelf(file)
    assert file.size() == sum(locate_block_table(shelf.map.end)) + SEAL_SIZE
    assert shelf.base_checksum == crc32(file.data[: shelf.map.end])
    assert shelf.is_sealed
    assert shelf.tail is None
    assert [oid for oid, _ in shelf.offsets()] == [oid_from_int(n) for n in records]
    assert {n: shelf.read(oid_from_int(n)) for n in records} == {
        n: pack_record(oid_from_int(n), data, b"") for n, data in records.items()
    }
    append(file, entry_of(TWO))
    assert Shelf(file).is_sealed
    assert Shelf(file).read(TWO) == pack_record(TWO, b"a", b"")


@pytest.mark.spec("SHELF-8", "SHELF-9", "SHELF-11")
def test_positions_are_in_the_order_of_the_file_and_newest_only() -> None:
    file = packed_file({5: b"e", 0: b"a", 1: b"b"})
    append(file, entry_of(TWO), entry_of(ROOT))
    shelf = Shelf(file)
    found = list(shelf.offsets())
    assert [oid for oid, _ in found] == [oid_from_int(5), ONE, TWO, ROOT]
    assert [place for _, place in found] == sorted(place for _, place in found)
    assert all(shelf.offset_of(oid) == place for oid, place in found)
    assert list(shelf.walk()) == found
    assert list(shelf.holes()) == [6, 4, 3, 2]
    assert shelf.oid_count == 7


@pytest.mark.spec("SHELF-4", "SHELF-8")
@pytest.mark.parametrize("more", [1, 8, 9, -10])
def test_a_walk_tells_of_an_entry_that_does_not_end_in_the_packed_part(more: int) -> None:
    data = unsealed_packed_file({"root": 0}, {"root": Item(b"\xff" * 30, ())})
    shelf = Shelf(file_of(data))
    ((oid, offset),) = shelf.walk()
    length = shelf.map.start - offset - 8
    assert (oid, shelf.offset_of(oid)) == (ROOT, offset)
    walk = Shelf(file_of(changed(data, offset, (length + more).to_bytes(8, "big")))).walk()
    with pytest.raises(DamageError, match="does not end in the packed part") as caught:
        list(walk)
    assert caught.value.offset == (shelf.map.start + more if more < 0 else offset)


def test_view_of_a_file_ends_where_the_file_ended_and_closes_it() -> None:
    closed: list[str] = []

    class Closing(MemoryFile):
        def close(self) -> None:
            closed.append(self.path)

    file = Closing("/f", bytearray(b"0123456789"))
    view = FileSnapshot(file)
    file.append(b"later")
    reads: dict[Callable[[], bytes], bytes] = {
        lambda: view.read_at(0, 100): b"0123456789",
        lambda: view.read_at(8, 2): b"89",
        lambda: view.read_at(8, 1): b"8",
        lambda: view.read_at(10, 3): b"",
        lambda: view.read_at(12, 3): b"",
    }
    for read, expected in reads.items():
        assert read() == expected
    assert (view.size(), view.path) == (10, "/f")
    view.close()
    assert closed == ["/f"]


# Seals


@pytest.mark.spec("SHELF-13")
def test_the_text_of_a_seal_stands_for_it() -> None:
    seal = Seal(0xABC, TIME, 0x1234)
    assert str(seal) == f"0000000000000abc {TIME} 00001234"
    assert parse_seal_text(str(seal)) == seal
    assert seal.end == 0xABC + SEAL_SIZE
    for text in ("", str(seal)[1:], str(seal) + " ", str(seal).upper(), str(seal).replace("0", "\u0660")):
        assert parse_seal_text(text) is None


@pytest.mark.spec("SHELF-13")
def test_a_seal_is_found_wherever_it_stands() -> None:
    entry, checksum = pack_seal(8, TIME, 0)
    assert parse_seal(b"x" + entry, 1) == Seal(8, TIME, checksum)
    assert has_seal_layout(b"x" + entry + b"y") is True
    assert has_seal_layout(entry[:-1]) is False


@pytest.mark.spec("SHELF-1")
def test_the_name_of_the_format_is_in_its_magic() -> None:
    assert f"{NAME}\n".encode() == MAGIC
