"""Opening a packed file does not read it all, and still no byte is used that was not checked."""

import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durus.connection import Connection
from durus.error import DamageError, DurusWarning, FormatError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.files.shelf import block_table, new_shelf
from durus.files.shelf.block_checked import block_checked
from durus.files.shelf.block_table import BlockTable
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.layout import pack_transaction
from durus.files.shelf.new_shelf import NewShelf
from durus.files.shelf.shelf import Shelf
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.record import pack_record
from tests.in_memory_file import CountingFile, MemoryFile, MemoryFileSystem

TIME = "2026-01-02T03:04:05.000006Z"
BLOCK = 16384
COVER = 140
"""The bytes of a transaction that holds nothing but a seal."""
CLASS = b"\x80\x02cdurus.persistent\nPersistent\n."
TABLE_OID = b"\xff" * 7 + b"\xfe"


def base_of(*sizes: int) -> bytes:
    """Return a packed part as NewShelf writes it, with objects whose entries have these sizes."""
    data = packed(*sizes)
    return data[: end_of_base(data)]


def packed(*sizes: int) -> bytes:
    """Return a packed file of objects whose entries have these sizes, at least 29."""
    file = MemoryFile("f", bytearray())
    chance = Random(0)
    records = [
        (oid_from_int(n), pack_record(oid_from_int(n), chance.randbytes(size - 28), b""))
        for n, size in enumerate(sizes)
    ]
    for _ in NewShelf(file, TIME).write_base(records, len(sizes), sum(sizes) - 16 * len(sizes), len(sizes) - 1):
        pass
    return bytes(file.data)


def end_of_base(data: bytes) -> int:
    start = 16 + int.from_bytes(data[8:16], "big")
    return start + 8 + int.from_bytes(data[start : start + 8], "big")


def table_entry(base_checksum: int, blocks: list[int]) -> bytes:
    """Return a block table as the specification shows it. [SHELF-41]"""
    count = len(blocks)
    return (
        struct.pack(">Q8s8sI", 77 + 4 * count, TABLE_OID, TABLE_OID, 57 + 4 * count)
        + CLASS
        + b"\x80\x03\x7d\x58\x06\x00\x00\x00blocks\x42"
        + struct.pack("<I", 4 + 4 * count)
        + struct.pack(f">{1 + count}I", base_checksum, *blocks)
        + b"s."
    )


def block_checksums(base: bytes) -> list[int]:
    return [crc32(base[start : start + BLOCK]) for start in range(0, len(base), BLOCK)]


def with_table(base: bytes, base_checksum: int | None = None, blocks: list[int] | None = None) -> bytes:
    """Return a packed file, whose seals are right whatever its table says."""
    cover, checksum = pack_transaction(b"", len(base), TIME, crc32(base))
    entry = table_entry(
        crc32(base) if base_checksum is None else base_checksum, block_checksums(base) if blocks is None else blocks
    )
    return base + cover + pack_transaction(entry, len(base) + len(cover), TIME, checksum)[0]


def flipped(data: bytes, place: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def shelf_in(data: bytes) -> Shelf:
    return Shelf(MemoryFile("f", bytearray(data)))


def reads_all(data: bytes) -> bool:
    """Return whether the opening of a file reads all of its packed part."""
    file = CountingFile("f", bytearray(data))
    Shelf(file)
    return file.bytes_read >= end_of_base(data)


def use_all_of(data: bytes) -> None:
    shelf = shelf_in(data)
    list(shelf.holes())
    for oid, _ in shelf.offsets():
        shelf.read(oid)


def objects_in(shelf: Shelf, count: int) -> list[bytes | int | None]:
    """Return the record of each object, or the offset that the error of its reading tells."""
    found: list[bytes | int | None] = []
    for number in range(count):
        try:
            found.append(shelf.read(oid_from_int(number)))
        except DamageError as error:
            found.append(error.offset)
    return found


def error_of(data: bytes) -> DamageError | None:
    """Return how the opening of a file to write fails."""
    try:
        return shelf_in(data).tail
    except DamageError as error:
        return error


def faults_in(data: bytes) -> list[tuple[int | None, str]]:
    found = ShelfInspection(MemoryFile("f", bytearray(data))).findings()
    return [(finding.offset, finding.problem) for finding in found if finding.is_fault]


@pytest.fixture(scope="module")
def database() -> bytes:
    """Return the file of a packed database of some blocks, with free oids."""
    system = MemoryFileSystem()
    with Connection(FileStorage("/f", file_system=system, clock=lambda: TIME)) as connection:
        root, chance = connection.get_root(), Random(0)
        root["a"] = [PersistentList([chance.randbytes(5000)]) for _ in range(12)]
        connection.commit()
        root["a"] = root["a"][:3] + root["a"][5:]
        connection.commit()
        connection.pack()
    return bytes(system.files["/f"])


# What is written


@pytest.mark.spec("SHELF-40", "SHELF-41", "SHELF-42")
@given(st.lists(st.integers(29, 2000) | st.integers(BLOCK - 40, BLOCK + 40), max_size=5))
@example([])
def test_packed_part_is_followed_by_its_seal_and_its_block_table(sizes: list[int]) -> None:
    data = packed(*sizes)
    assert data == with_table(data[: end_of_base(data)])


@pytest.mark.spec("SHELF-42")
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_packed_part_that_ends_near_the_end_of_a_block(blocks: int, more: int) -> None:
    size = BLOCK * blocks + more - len(base_of(29)) + 29
    size -= len(base_of(size)) - BLOCK * blocks - more  # a longer file has longer words in its map
    data = packed(size)
    assert end_of_base(data) == BLOCK * blocks + more
    assert data == with_table(base_of(size))
    assert shelf_in(data).read(oid_from_int(0)) == data[32 : 16 + size]
    for place in (16 + size - 1, end_of_base(data) - 1):
        with pytest.raises(DamageError) as caught:
            use_all_of(flipped(data, place))
        assert caught.value.offset == place // BLOCK * BLOCK


@pytest.mark.spec("SHELF-41")
def test_block_table_reads_as_a_record_of_a_persistent(database: bytes) -> None:
    base = database[: end_of_base(database)]
    start = len(base) + COVER + 8
    entry = database[start : start + 85 + 4 * len(block_checksums(base))]
    assert pickle.loads(entry[28:60]) is Persistent
    checksums = struct.pack(f">{1 + len(block_checksums(base))}I", crc32(base), *block_checksums(base))
    assert pickle.loads(entry[60:]) == {"blocks": checksums}


@pytest.mark.spec("REC-3", "SHELF-40")
def test_block_table_is_no_object(database: bytes) -> None:
    storage = FileStorage("/f", file_system=MemoryFileSystem(f=database))
    assert sorted(oid for oid, _ in storage.gen_oid_record()) == sorted(map(oid_from_int, [0, 1, 2, 3, *range(6, 13)]))
    assert not storage.has_record(TABLE_OID)
    assert storage.new_oid() == oid_from_int(13)
    assert storage.new_oid() == oid_from_int(5)
    storage.close()


@pytest.mark.spec("SHELF-40")
def test_packed_part_that_is_too_long_for_a_block_table_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert block_table.MAX_BYTES == 2**43
    data = packed(BLOCK * 9)
    end = end_of_base(data)
    for most, is_too_long in ((end, False), (end - 1, True)):
        monkeypatch.setattr(block_table, "MAX_BYTES", most)
        monkeypatch.setattr(new_shelf, "MAX_BYTES", most)
        assert reads_all(data) == is_too_long
        assert packed(BLOCK * 9) == (data[: end + COVER] if is_too_long else data)


# What is read


def bytes_read_at_opening(data: bytes) -> int:
    file = CountingFile("f", bytearray(data))
    Shelf(file)
    return file.bytes_read


@pytest.mark.spec("SHELF-43")
def test_opening_reads_as_much_of_a_file_that_is_a_hundred_times_larger() -> None:
    small, large = packed(*[1000] * 100), packed(*[1000] * 10_000)
    more_in_table = 4 * (len(block_checksums(large)) - len(block_checksums(small)))
    assert bytes_read_at_opening(small) < 3 * BLOCK
    assert bytes_read_at_opening(large) - bytes_read_at_opening(small) <= 3 * more_in_table + BLOCK
    assert bytes_read_at_opening(large) < len(large) / 100


@pytest.mark.spec("SHELF-43")
def test_opening_reads_what_was_committed_after_the_pack(database: bytes) -> None:
    system = MemoryFileSystem(f=database)
    storage = FileStorage("/f", file_system=system)
    storage.begin()
    storage.store(oid_from_int(1), pack_record(oid_from_int(1), bytes(3 * BLOCK), b""))
    storage.end()
    storage.close()
    whole = bytes(system.files["/f"])
    more = bytes_read_at_opening(whole) - bytes_read_at_opening(database)
    assert more == len(whole) - len(database)
    assert shelf_in(whole).read(oid_from_int(1)) == pack_record(oid_from_int(1), bytes(3 * BLOCK), b"")
    with pytest.raises(UnsoundTailError):
        FileStorage("/f", file_system=MemoryFileSystem(f=flipped(whole, len(whole) - 500)))
    with pytest.warns(DurusWarning, match="are ignored"):
        reader = FileStorage("/f", readonly=True, file_system=MemoryFileSystem(f=whole[:-1]))
    assert reader.load(oid_from_int(1)) == shelf_in(database).read(oid_from_int(1))


@pytest.mark.spec("SHELF-44")
@given(
    st.integers(1, 5 * BLOCK) | st.sampled_from([BLOCK, 2 * BLOCK, 3 * BLOCK + 1]),
    st.integers(0, 200),
    st.sets(st.integers(0, 4)),
    st.lists(st.tuples(st.integers(0, 5 * BLOCK + 300), st.integers(1, 3 * BLOCK) | st.integers(1, 9)), max_size=12),
)
@example(BLOCK + 9, 200, set(), [(0, 3 * BLOCK)])
@example(3 * BLOCK, 200, {1}, [(BLOCK - 5, 5), (2 * BLOCK, 5), (2 * BLOCK + 5, 2 * BLOCK), (5, 3 * BLOCK)])
def test_each_read_returns_what_is_there_or_tells_of_the_first_unsound_block(
    end: int, after: int, damaged: set[int], reads: list[tuple[int, int]]
) -> None:
    data = Random(end).randbytes(end + after)
    table = BlockTable(0, b"".join(each.to_bytes(4, "big") for each in block_checksums(data[:end])))
    for number in damaged:
        if number * BLOCK < end:
            data = flipped(data, min(number * BLOCK + 5000, end - 1))
    file = CountingFile("f", bytearray(data))
    checked = block_checked(file, end, table)
    for offset, size in reads:
        before = file.bytes_read
        wrong = sorted(n for n in damaged if max(n * BLOCK, offset) < min((n + 1) * BLOCK, offset + size, end))
        if wrong:
            with pytest.raises(DamageError) as caught:
                checked.read_at(offset, size)
            assert caught.value.offset == wrong[0] * BLOCK
        else:
            assert checked.read_at(offset, size) == data[offset : offset + size]
        assert file.bytes_read - before <= size + 2 * BLOCK


@pytest.mark.spec("SHELF-44")
def test_a_block_is_read_once_and_then_only_what_is_asked_for() -> None:
    data = Random(0).randbytes(2 * BLOCK)
    file = CountingFile("f", bytearray(data))
    table = BlockTable(0, b"".join(each.to_bytes(4, "big") for each in block_checksums(data)))
    checked = block_checked(file, len(data), table)
    amounts = []
    for offset, size in [(100, 10), (200, 20), (BLOCK - 5, 10), (BLOCK - 5, 10), (0, 2 * BLOCK)]:
        before = file.bytes_read
        assert checked.read_at(offset, size) == data[offset : offset + size]
        amounts.append(file.bytes_read - before)
    assert amounts == [BLOCK, 20, BLOCK + 5, 10, 2 * BLOCK]


def test_checked_file_has_the_name_of_its_file_and_closes_it() -> None:
    closed: list[str] = []

    class Closing(MemoryFile):
        def close(self) -> None:
            closed.append(self.path)

    file = Closing("f.pack", bytearray(10))
    checked = block_checked(file, 10, BlockTable(0, bytes(4)))
    file.path = "f"  # as at the end of a pack
    assert (checked.path, checked.size()) == ("f", 10)
    checked.close()
    assert closed == ["f"]


# Damage


def places_near_limits(data: bytes) -> Iterator[int]:
    """Yield places at both sides of where blocks, objects and the offset map begin, and some between them."""
    end = end_of_base(data)
    map_start = 16 + int.from_bytes(data[8:16], "big")
    for limit in [*range(0, end, BLOCK), map_start, end]:
        yield from range(max(0, limit - 30), min(limit + 30, end))
    yield from range(0, end, 997)


@pytest.mark.spec("SHELF-43", "SHELF-44")
def test_flipped_bit_in_the_packed_part_is_an_error_and_never_a_wrong_answer() -> None:
    count = 40
    data = packed(*[1500] * count)
    records = objects_in(shelf_in(data), count)
    map_block = end_of_base(data) // BLOCK * BLOCK
    for place in places_near_limits(data):
        block = place // BLOCK * BLOCK
        damaged = flipped(data, place, place % 8)
        if block in (0, map_block):  # where the fields stand by which it is opened
            with pytest.raises(FormatError):
                shelf_in(damaged)
            continue
        found = objects_in(shelf_in(damaged), count)
        for number, (record, answer) in enumerate(zip(records, found, strict=True)):
            start, stop = 16 + 1500 * number, 16 + 1500 * (number + 1)
            assert answer == (block if start < block + BLOCK and stop > block else record)


@pytest.mark.spec("SHELF-44")
def test_flipped_bit_in_the_offset_map_gives_no_oid_out_and_shows_no_object() -> None:
    data = packed(*[29] * 9000)
    map_start = 16 + 29 * 9000
    place = map_start + 24 + 3 * 8500  # the word of an oid in a block after that of the map's start
    assert place // BLOCK > map_start // BLOCK
    storage = FileStorage("/f", file_system=MemoryFileSystem(f=flipped(data, place)))
    calls: list[Callable[[], object]] = [
        lambda: storage.load(oid_from_int(8500)),
        lambda: storage.has_record(oid_from_int(8500)),
        lambda: list(storage.gen_oid_record()),
        storage.new_oid,
    ]
    for call in calls:
        with pytest.raises(DamageError, match="block table"):
            call()
    assert storage.load(oid_from_int(0)) == data[32 : 16 + 29]
    assert not storage.has_record(storage.new_oid())  # one that the map does not speak of
    storage.close()


@pytest.mark.spec("SHELF-44")
def test_pack_of_a_file_with_a_damaged_block_leaves_it_as_it_is(database: bytes) -> None:
    damaged = flipped(database, BLOCK + 9000)
    system = MemoryFileSystem(f=damaged)
    storage = FileStorage("/f", file_system=system)
    with pytest.raises(DamageError, match=f"at byte {BLOCK}: "):
        storage.pack()
    storage.close()
    assert {name: bytes(data) for name, data in system.files.items()} == {"/f": damaged}


@pytest.mark.spec("SHELF-24", "SHELF-43")
def test_flipped_bit_in_what_covers_the_packed_part_is_never_overlooked(database: bytes) -> None:
    end = end_of_base(database)
    for place in range(end, len(database)):
        for bit in range(8):
            damaged = flipped(database, place, bit)
            error = error_of(damaged)
            assert error is not None
            assert isinstance(error, UnsoundTailError) == (place >= end + COVER)
            assert error.offset >= end


@pytest.mark.spec("SHELF-23", "SHELF-24", "SHELF-43")
def test_file_cut_after_its_packed_part_has_a_tail_or_is_whole(database: bytes) -> None:
    end = end_of_base(database)
    for size in range(end, len(database) + 1):
        error = error_of(database[:size])
        assert bool(faults_in(database[:size])) == (error is not None)
        if size in (end, end + COVER, len(database)):
            assert error is None
        else:
            assert isinstance(error, UnsoundTailError)
            assert error.offset == (end if size < end + COVER else end + COVER)


@pytest.mark.spec("SHELF-26")
def test_repair_of_a_block_table_leaves_all_objects(database: bytes, tmp_path: Path) -> None:
    end = end_of_base(database) + COVER
    for damaged in (flipped(database, end + 100), database[:-1], database[: end + 10]):
        system = MemoryFileSystem(f=damaged)
        with pytest.warns(DurusWarning, match="were cut off"):
            storage = FileStorage("/f", repair=True, file_system=system)
        assert bytes(system.files["/f"]) == database[:end]
        assert dict(storage.gen_oid_record()) == dict(
            FileStorage("/f", readonly=True, file_system=MemoryFileSystem(f=database)).gen_oid_record()
        )
        storage.close()


@pytest.mark.spec("SHELF-43")
def test_error_of_a_file_whose_table_and_packed_part_are_damaged_is_that_of_one_without_table(database: bytes) -> None:
    end = end_of_base(database)
    damaged = flipped(flipped(database, BLOCK + 9000), end + COVER + 100)
    messages = []
    for data in (damaged, damaged[: end + COVER]):
        with pytest.raises(DamageError) as caught:
            shelf_in(data)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert f"at byte {end}: the checksum is" in messages[0]


# Tables that are not right, under seals that are


@pytest.mark.spec("SHELF-43", "SHELF-45")
def test_table_with_another_checksum_of_the_packed_part_is_not_used_and_the_check_tells_of_it(database: bytes) -> None:
    base = database[: end_of_base(database)]
    data = with_table(base, base_checksum=crc32(base) ^ 1)
    assert reads_all(data)
    assert objects_in(shelf_in(data), 13) == objects_in(shelf_in(database), 13)
    ((place, problem),) = faults_in(data)
    assert place == len(base) + COVER + 8
    assert f"but the block table says {crc32(base) ^ 1:08x}" in problem


@pytest.mark.spec("SHELF-45")
def test_check_tells_of_each_block_that_differs_from_the_table(database: bytes) -> None:
    base = database[: end_of_base(database)]
    assert faults_in(database) == []
    blocks = block_checksums(base)
    blocks[1] ^= 1
    blocks[3] ^= 1 << 31
    assert [place for place, _ in faults_in(with_table(base, blocks=blocks))] == [BLOCK, 3 * BLOCK]
    damaged = faults_in(flipped(database, 2 * BLOCK + 9000))
    assert (2 * BLOCK, True) in [(place, "but the block table says" in problem) for place, problem in damaged]
    assert (len(base), True) in [(place, "but the seal of" in problem) for place, problem in damaged]


def table_of_fewer_blocks(base: bytes) -> bytes:
    return with_table(base, blocks=block_checksums(base)[:-1])


def table_of_more_blocks(base: bytes) -> bytes:
    return with_table(base, blocks=[*block_checksums(base), 0])


def file_with(base: bytes, *transactions: list[bytes]) -> bytes:
    """Return a file of sealed transactions with these entries after a packed part."""
    data, checksum = base, crc32(base)
    for entries in transactions:
        transaction, checksum = pack_transaction(b"".join(entries), len(data), TIME, checksum)
        data += transaction
    return data


def right_table(base: bytes) -> bytes:
    return table_entry(crc32(base), block_checksums(base))


def table_in_the_covering_transaction(base: bytes) -> bytes:
    return file_with(base, [right_table(base)])


def table_with_an_object(base: bytes) -> bytes:
    oid = oid_from_int(1)
    record = pack_record(oid, b"a", b"")
    return file_with(base, [], [right_table(base), (8 + len(record)).to_bytes(8, "big") + oid + record])


def table_twice(base: bytes) -> bytes:
    return file_with(base, [], [right_table(base) * 2])


def table_without_a_seal(base: bytes) -> bytes:
    entry = right_table(base)
    return file_with(base, []) + len(entry).to_bytes(8, "big") + entry


def table_with_another_entry_in_place_of_its_seal(base: bytes) -> bytes:
    body = right_table(base) + entry_of_another_reserved_oid(132)
    return file_with(base, []) + len(body).to_bytes(8, "big") + body


def table_of_another_layout(base: bytes) -> bytes:
    return file_with(base, [], [right_table(base).replace(b"blocks", b"blocky")])


def table_of_another_oid(base: bytes) -> bytes:
    return file_with(base, [], [right_table(base).replace(TABLE_OID, b"\xff" * 7 + b"\xfd")])


def table_after_another_transaction(base: bytes) -> bytes:
    return file_with(base, [], [], [right_table(base)])


def entry_of_another_reserved_oid(size: int) -> bytes:
    oid = b"\xff" * 7 + b"\xfd"
    return (size - 8).to_bytes(8, "big") + oid + pack_record(oid, bytes(size - 28), b"")


def table_after_a_transaction_without_a_seal(base: bytes) -> bytes:
    entry = entry_of_another_reserved_oid(132)
    unsealed = base + len(entry).to_bytes(8, "big") + entry
    return file_with(unsealed, [right_table(base)])


def no_table(base: bytes) -> bytes:
    return file_with(base, [])


def no_seal(base: bytes) -> bytes:
    return base


OTHER_FILES = [table_of_fewer_blocks, table_of_more_blocks, table_in_the_covering_transaction, table_with_an_object]
OTHER_FILES += [table_twice, table_without_a_seal, table_of_another_layout, table_of_another_oid, no_table, no_seal]
OTHER_FILES += [
    table_with_another_entry_in_place_of_its_seal,
    table_after_another_transaction,
    table_after_a_transaction_without_a_seal,
]


@pytest.mark.spec("REC-3", "SHELF-43")
@pytest.mark.parametrize("make", OTHER_FILES)
def test_file_without_a_fitting_table_in_its_place_is_read_as_if_there_were_none(
    database: bytes, make: Callable[[bytes], bytes]
) -> None:
    base = database[: end_of_base(database)]
    data = make(base)
    assert not reads_all(with_table(base))
    assert reads_all(data)
    shelf = shelf_in(data)
    assert shelf.end == len(data)
    assert objects_in(shelf, 13)[2:] == objects_in(shelf_in(database), 13)[2:]
    assert (error_of(flipped(data, BLOCK + 9000)) is None) == (make is no_seal)


@pytest.mark.spec("SHELF-40")
@pytest.mark.parametrize("make", [no_table, no_seal])
def test_pack_gives_a_block_table_to_a_file_that_has_none(database: bytes, make: Callable[[bytes], bytes]) -> None:
    base = database[: end_of_base(database)]
    system = MemoryFileSystem(f=make(base))
    storage = FileStorage("/f", file_system=system, clock=lambda: TIME)
    storage.pack()
    storage.close()
    assert bytes(system.files["/f"]) == with_table(base)


@pytest.mark.spec("SHELF-45")
@pytest.mark.parametrize("make", [table_of_fewer_blocks, table_of_more_blocks, table_of_another_layout])
def test_check_tells_of_a_table_in_its_place_that_is_none(database: bytes, make: Callable[[bytes], bytes]) -> None:
    end = end_of_base(database)
    assert faults_in(make(database[:end])) == [(end + COVER + 8, "this is not the block table of the packed part")]
