"""The copy that a pack of a shelf makes, in memory: what it refuses, and what it follows."""

from zlib import crc32

import pytest

from durus import progress
from durus.error import DamageError, FormatError
from durus.files.shelf import pack
from durus.files.shelf.block_table import BLOCK_SIZE
from durus.files.shelf.layout import MAGIC, pack_entry, pack_seal, pack_transaction
from durus.files.shelf.new_shelf import NewShelf
from durus.files.shelf.pack import ShelfPacker
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import Shelf
from durus.oid import oid_from_int
from durus.records.record import pack_record
from tests.in_memory_file import MemoryFile

TIME = "2026-01-02T03:04:05.000006Z"
LATER = "2026-01-02T03:04:06.000006Z"
ROOT, ONE, TWO, GARBAGE = (oid_from_int(number) for number in range(4))


def entry_of(oid: bytes, data: bytes, *refs: bytes) -> bytes:
    return pack_entry(oid, pack_record(oid, data, b"".join(refs)))


def packed_file(*records: bytes) -> MemoryFile:
    """Return a file whose packed part has these records, and a block table."""
    file = MemoryFile("/f", bytearray())
    oids = [record[:8] for record in records]
    sizes = sum(map(len, records))
    list(NewShelf(file, TIME).write_base(zip(oids, records, strict=True), len(records), sizes, len(records)))
    return file


def append(file: MemoryFile, *entries: bytes, is_sealed: bool = True) -> int:
    """Append a transaction; return where it starts."""
    start, body = file.size(), b"".join(entries)
    checksum = Shelf(file).checksum
    file.append(pack_transaction(body, start, TIME, checksum)[0] if is_sealed else len(body).to_bytes(8, "big") + body)
    return start


@pytest.fixture
def file() -> MemoryFile:
    """A file with garbage in its packed part, in a transaction, and in one without a seal."""
    file = packed_file(
        pack_record(ROOT, b"root", ONE), pack_record(GARBAGE, b"packed garbage", b""), pack_record(ONE, b"one", b"")
    )
    append(file, entry_of(GARBAGE, b"garbage with a seal"), entry_of(TWO, b"two"))
    append(file, entry_of(ROOT, b"new root", ONE, TWO), entry_of(GARBAGE, b"garbage without a seal"), is_sealed=False)
    return file


def packed(shelf: Shelf) -> Shelf:
    """Pack it, and return what came of it."""
    packer = ShelfPacker(shelf, MemoryFile("/new", bytearray()), LATER)
    for _ in packer.steps():
        pass
    packer.finish()
    return packer.open_target()


def refusal(file: MemoryFile, offset: int, new: bytes) -> DamageError:
    """Return how a pack refuses a file in which these bytes have changed since it was opened."""
    shelf = Shelf(file)
    assert file.data[offset : offset + len(new)] != new
    file.data[offset : offset + len(new)] = new
    with pytest.raises(DamageError, match="so the file is not packed") as caught:
        packed(shelf)
    return caught.value


@pytest.mark.spec("SHELF-30")
def test_a_pack_copies_what_the_root_reaches(file: MemoryFile) -> None:
    new = packed(Shelf(file))
    assert dict(new.offsets()).keys() == {ROOT, ONE, TWO}
    assert new.read(ROOT) == pack_record(ROOT, b"new root", ONE + TWO)
    assert new.read(ONE) == pack_record(ONE, b"one", b"")
    assert new.read(TWO) == pack_record(TWO, b"two", b"")
    assert new.is_sealed


@pytest.mark.spec("SHELF-30")
def test_what_looks_like_a_seal_in_the_packed_part_is_passed_over() -> None:
    root = entry_of(ROOT, b"root")
    entries = root + pack_seal(16 + len(root), TIME, 0)[0]
    start = 16 + len(entries)
    numbers = len(entries), 16 + 2 * 2, 2, 2
    length, *head = (number.to_bytes(8, "big") for number in numbers)
    words = (16).to_bytes(2, "big") + (start + 1).to_bytes(2, "big")
    new = packed(Shelf(MemoryFile("/f", bytearray(MAGIC + length + entries + b"".join(head) + words))))
    assert new.read(ROOT) == pack_record(ROOT, b"root", b"")


@pytest.mark.spec("SHELF-50")
def test_each_byte_that_changed_since_it_was_verified_is_noticed(file: MemoryFile) -> None:
    whole = bytes(file.data)
    for offset in range(len(whole)):
        shelf = Shelf(MemoryFile("/f", bytearray(whole)))
        shelf.raw_file.data[offset] ^= 1  # type: ignore[attr-defined]  # a MemoryFile
        with pytest.raises(FormatError):  # DamageError, or a reference that leads nowhere
            packed(shelf)


@pytest.mark.spec("SHELF-50")
def test_garbage_of_the_packed_part_is_told_by_its_block(file: MemoryFile) -> None:
    end = Shelf(file).map.end
    error = refusal(file, file.data.index(b"packed garbage"), b"P")
    assert error.offset == 0
    assert f"the checksum of these {end} bytes is" in error.problem


@pytest.mark.spec("SHELF-50")
@pytest.mark.parametrize("block", [2, 3])
def test_garbage_of_a_later_block_is_told_by_that_one(block: int) -> None:
    file = packed_file(
        pack_record(ROOT, b"root", b""),
        *(pack_record(oid_from_int(n), b"x" * BLOCK_SIZE, b"") for n in range(1, 4)),
    )
    end = Shelf(file).map.end
    error = refusal(file, block * BLOCK_SIZE + 20, b"y")
    assert error.offset == block * BLOCK_SIZE
    assert f"these {min(BLOCK_SIZE, end - error.offset)} bytes" in error.problem


@pytest.mark.spec("SHELF-50")
def test_garbage_of_a_packed_part_without_blocks_is_told_by_its_checksum(file: MemoryFile) -> None:
    end = Shelf(file).map.end
    del file.data[end:]
    before = crc32(file.data)
    error = refusal(file, file.data.index(b"packed garbage"), b"P")
    assert error.offset == 0
    assert f"the checksum of the packed part is {crc32(file.data):08x}, not {before:08x}" in error.problem


@pytest.mark.spec("SHELF-50")
def test_garbage_under_a_seal_is_told_by_the_seal(file: MemoryFile) -> None:
    start = file.data.index(b"garbage with") - 28 - 8
    error = refusal(file, start + 36, b"G")
    assert error.offset == start
    assert f"but the seal of {TIME} says" in error.problem


@pytest.mark.spec("SHELF-50")
def test_garbage_after_the_last_seal_is_told_by_the_running_checksum(file: MemoryFile) -> None:
    before = Shelf(file).checksum
    error = refusal(file, file.data.index(b"garbage without"), b"G")
    assert error.offset == 0
    now = Shelf(file).checksum
    assert f"the checksum is {now:08x}, where it was {before:08x} at first" in error.problem


@pytest.mark.spec("SHELF-50")
def test_a_length_that_changed_is_told_at_its_entry(file: MemoryFile) -> None:
    offset = file.data.index(b"garbage without") - 28
    error = refusal(file, offset, b"\1")
    assert error.offset == offset
    assert "an object entry (oid 3) does not fit" in error.problem


@pytest.mark.spec("SHELF-50")
def test_a_file_that_became_shorter_is_told(file: MemoryFile) -> None:
    shelf = Shelf(file)
    offset = file.data.index(b"garbage without") - 28
    del file.data[offset + 27 :]
    with pytest.raises(DamageError, match="an object entry is cut off, so the file is not packed") as caught:
        packed(shelf)
    assert caught.value.offset == offset


@pytest.mark.spec("SHELF-30", "SHELF-50")
@pytest.mark.parametrize("size", [0, 1, 4095, 9000, 70_000])
def test_records_of_any_size_are_copied_some_at_a_time(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "STEP_RECORDS", 3)
    monkeypatch.setattr(pack, "_STEP_BYTES", 10)
    oids = [oid_from_int(number) for number in range(1, 24)]
    records = [pack_record(ROOT, b"root", b"".join(oids))]
    records += [pack_record(oid, b"x" * (size // number) + b"y", b"") for number, oid in enumerate(oids, 1)]
    file = packed_file(*records)
    packer = ShelfPacker(Shelf(file), MemoryFile("/new", bytearray()), LATER)
    batches = list(packer._gen_entries())
    assert max(map(len, batches)) <= 3
    assert [record for batch in batches for _, _, record in batch] == records
    assert sum(not batch for batch in batches) >= (Shelf(file).map.end - Shelf(file).map.start) // 10
    new = packed(Shelf(file))
    assert [new.read(record[:8]) for record in records] == records


@pytest.mark.spec("SHELF-35", "SHELF-36")
def test_later_commits_follow_with_their_times() -> None:
    file = packed_file(pack_record(ROOT, b"root", b""))
    shelf = Shelf(file)
    packer = ShelfPacker(shelf, MemoryFile("/new", bytearray()), LATER)
    for number, _ in enumerate(packer.steps()):
        for time in (TIME, LATER):
            data = b"%d" % number
            prepared = shelf.prepare([(ONE, pack_record(ONE, data, b"")), (TWO, pack_record(TWO, data * 2, b""))], time)
            file.append(b"".join((prepared.before, *prepared.pieces)))
            prepared.accept()
    packer.finish()
    new = packer.open_target()
    assert (new.read(ONE), new.read(TWO)) == (shelf.read(ONE), shelf.read(TWO))
    found = list(scan_transactions(new.file, new.map.end, new.end, new.base_checksum))
    times = [each.seal.time for each in found if each.seal is not None and each.entries]
    assert times == [TIME, LATER] * (number + 1)
