"""Damaged files in memory, their salvage, and what must be true of it. spec/salvage.md."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache

from durus.file_storage import FileStorage
from durus.files.shelf.inspection import ShelfInspection
from durus.files.shelf.shelf import Shelf
from durus.tools.salvage import Salvage
from tests.in_memory_file import MemoryFile, MemoryFileSystem

_PATH, _NEW = "/f.durus", "/new.durus"


class Original:
    """A file before it is damaged: the bytes, and each record with its place, by oid, the oldest first."""

    def __init__(self, make: Callable[[FileStorage], None]) -> None:
        files = MemoryFileSystem()
        storage = FileStorage(_PATH, file_system=files)
        make(storage)
        self.data = bytes(files.files[_PATH])
        self.records: dict[bytes, list[tuple[int, int, bytes]]] = defaultdict(list)
        for commit in storage.commits():
            for oid, record in storage.records_in(commit):
                offset = self.data.index(oid + record, self.records[oid][-1][0] + 9 if self.records[oid] else 0)
                self.records[oid].append((offset - 8, offset + 8 + len(record), record))
        self.newest = dict(storage.gen_oid_record())
        storage.close()
        assert {oid: records[-1][2] for oid, records in self.records.items()} == self.newest

    def hit(self, start: int, end: int) -> set[bytes]:
        """Return the oids that have the newest or an older record in these bytes."""
        return {oid for oid, records in self.records.items() if any(a < end and start < b for a, b, _ in records)}


def salvaged(data: bytes, takes_newest: bool = False) -> tuple[Salvage, Mapping[bytes, bytes]]:
    """Salvage a file and check the new one; return the salvage, and the records of the new file."""
    files = MemoryFileSystem()
    files.files[_PATH] = bytearray(data)
    salvage = Salvage(_PATH, _NEW, takes_newest, files)
    for _ in salvage.steps():
        pass
    assert files.files[_PATH] == data
    return salvage, _records_in(bytes(files.files[_NEW]))


@lru_cache(maxsize=64)
def _records_in(data: bytes) -> Mapping[bytes, bytes]:
    """Check a file, and return its records."""
    file = MemoryFile(_NEW, bytearray(data))
    assert [str(each) for each in ShelfInspection(file).findings() if each.is_fault] == []
    shelf = Shelf(file)
    return {oid: shelf.read_entry(oid, offset) for oid, offset in shelf.offsets()}


def check(original: Original, data: bytes, may_be_hit: set[bytes]) -> Salvage:
    """Salvage a file; each object that was not hit has its newest state, and none has a wrong one that is not told."""
    salvage, records = salvaged(data)
    told = {each.oid for each in salvage.doubtful} | {each.oid for each in salvage.lost}
    older = {each.oid: each for each in salvage.older}
    assert told | older.keys() <= may_be_hit
    for oid, newest in original.newest.items():
        if oid not in may_be_hit:
            assert records[oid] == newest
        elif oid not in told and oid in records:
            assert records[oid] in [record for _, _, record in original.records[oid]]
        if oid in older:
            assert (older[oid].offset, records[oid]) in [(at, record) for at, _, record in original.records[oid][:-1]]
    return salvage


def check_flip(original: Original, offset: int, bit: int) -> None:
    """Flip one bit: the salvage puts it back, and nothing is lost. At most the object with the bit is in doubt."""
    damaged = bytearray(original.data)
    damaged[offset] ^= 1 << bit
    salvage = check(original, bytes(damaged), original.hit(offset, offset + 1))
    assert (salvage.mended, salvage.damage, salvage.lost) == ([offset], [], []), f"byte {offset}, bit {bit}"
