"""`durus info`: what a file holds."""

import argparse
import os
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol, cast

from durus import __version__
from durus.cli.output import tell
from durus.error import RecordError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.dfs20 import layout as dfs20_layout
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.dfs20.scan import scan_transactions as scan_dfs20
from durus.files.file import OperatingSystem
from durus.files.shelf.layout import BASE_START, ENTRY_FRAME_SIZE, SEAL_SIZE, U64
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import Shelf
from durus.files.snapshot import snapshot_of
from durus.oid import ROOT_OID, format_oid
from durus.open_file import storage_class_of
from durus.persistent import PersistentObject, implementation
from durus.records.contents import read_contents
from durus.records.record import parse_class_pickle, split_oids, unpack_record
from durus.storage import Storage

_MOST_OIDS = 100
"""How many broken objects of one class are named."""
_UNREADABLE = "(unreadable)"
"""What stands for the class of a record that can't be read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to look at; it may be in use")
    parser.add_argument(
        "--broken",
        action="store_true",
        help="import all classes in the file, and list the objects whose class can't be imported",
    )


class _Records(Protocol):
    """Where the records of a file are found, whatever its format."""

    def offsets(self) -> Iterable[tuple[bytes, int]]: ...

    def read_entry(self, oid: bytes, offset: int) -> bytes: ...

    def read(self, oid: bytes) -> bytes | None: ...


class _StorageRecords:
    """The records of a storage that has no offsets to tell."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def offsets(self) -> Iterable[tuple[bytes, int]]:
        return ((oid, 0) for oid, _ in self._storage.gen_oid_record())

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        return self._storage.load(oid)

    def read(self, oid: bytes) -> bytes | None:
        return self._storage.load(oid) if self._storage.has_record(oid) else None


def run(options: argparse.Namespace) -> int:
    storage_class = storage_class_of(options.file)
    if not issubclass(storage_class, FileStorage | FileStorage2):
        storage = storage_class(options.file, readonly=True)
        try:
            _print_all(_StorageRecords(storage), _print_sqlite(options.file), options.broken)
        finally:
            storage.close()
        return 0
    file = OperatingSystem().open(options.file, "read")
    try:
        if storage_class is FileStorage:
            shelf = Shelf(snapshot_of(file))
            _print_all(shelf, _print_file(shelf), options.broken)
        else:
            found = Dfs20(snapshot_of(file))
            _print_all(found, _print_dfs20(found), options.broken)
    finally:
        file.close()
    return 0


def _print_all(records: _Records, sizes: tuple[int, int | None], with_broken: bool) -> None:
    _print_objects(records, *sizes)
    if with_broken:
        _print_broken(records)


def _print_head(path: str, format_name: str) -> None:
    tell(f"durus         {__version__}, its base classes in {implementation}")
    tell(f"file          {path}")
    tell(f"format        {format_name}")


def _print_sqlite(path: str) -> tuple[int, None]:
    _print_head(path, "SQLite")
    tell(f"size          {os.path.getsize(path)} bytes, without what is in {path}-wal")
    tell("sealed        no, the format has no checksums")
    return 0, None


def _print_dfs20(found: Dfs20) -> tuple[int, int]:
    transactions = list(scan_dfs20(found.file, found.base_end, found.end))
    (packed_end,) = U64.unpack(found.file.read_at(len(dfs20_layout.MAGIC), U64.size))
    entries_size = max(0, packed_end - dfs20_layout.BASE_START - len(dfs20_layout.END))
    entries_size += sum(each.end - each.start - len(dfs20_layout.END) for each in transactions)
    _print_head(found.file.path, "DFS20")
    tell(f"size          {found.file.size()} bytes, {found.base_end} of them packed")
    tell(f"transactions  {len(transactions)} behind the packed part")
    tell("sealed        no, the format has no checksums")
    if found.tail is not None:
        tell(f"tail          not whole: {found.tail.problem}")
    return dfs20_layout.U32.size, entries_size


def _print_file(shelf: Shelf) -> tuple[int, int]:
    """Print what holds of the file as a whole; return the bytes around a record, and those of all object entries."""
    start = shelf.map.end
    transactions = seals = 0
    first_seal = last_seal = None
    entries_size = shelf.map.start - BASE_START - U64.size
    for transaction in scan_transactions(shelf.file, start, shelf.end, shelf.base_checksum):
        transactions += 1
        if transaction.entries:
            entries_size += transaction.end - transaction.start - U64.size - (SEAL_SIZE if transaction.seal else 0)
        if transaction.seal is not None:
            seals += 1
            last_seal = transaction.seal.time
            first_seal = first_seal or last_seal
    _print_head(shelf.file.path, "SHELF-1")
    tell(f"size          {shelf.file.size()} bytes, {start} of them packed")
    tell(f"transactions  {transactions} behind the packed part, {transactions - seals} of them without a seal")
    if first_seal is None:
        tell("sealed        no")
    else:
        tell(f"sealed        {'to its end' if shelf.is_sealed else 'not at its end'}")
        tell(f"first seal    {first_seal}")
        tell(f"last seal     {last_seal}")
    if shelf.tail is not None:
        tell(f"tail          not whole: {shelf.tail.problem}")
    return ENTRY_FRAME_SIZE, entries_size


def _print_objects(shelf: _Records, frame_size: int, entries_size: int | None) -> None:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    reached = _reached_oids(shelf)
    unreached_count = unreached_size = current_size = 0
    for oid, offset in shelf.offsets():
        record = shelf.read_entry(oid, offset)
        name = _class_name(unpack_record(record)[1])
        counts[name] += 1
        sizes[name] += len(record)
        current_size += len(record) + frame_size
        if oid not in reached:
            unreached_count += 1
            unreached_size += len(record) + frame_size
    if entries_size is None:
        entries_size = current_size
    superseded_size = entries_size - current_size
    share = 100 * (unreached_size + superseded_size) / entries_size if entries_size else 0
    tell(f"objects       {counts.total()}, {unreached_count} of them not reached from the root")
    tell(f"garbage       {share:.1f} %: {unreached_size} bytes not reached, {superseded_size} bytes superseded")
    if counts:
        tell("classes         objects        bytes")
    for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        tell(f"{counts[name]:>23} {sizes[name]:>12}  {name}")


def _print_broken(shelf: _Records) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as the console has it
    broken: dict[str, list[str]] = {}
    holders: dict[str, list[str]] = {}
    for oid, offset in shelf.offsets():
        try:
            contents = read_contents(unpack_record(shelf.read_entry(oid, offset))[1])
        except RecordError:
            continue
        if not _is_persistent_class(contents.class_name):
            broken.setdefault(contents.class_name, []).append(format_oid(oid))
        for name in contents.value_names:
            if _imported(f"{name.module}:{name.qualname}") is None:
                holders.setdefault(f"{name.module}.{name.qualname}", []).append(format_oid(oid))
    tell(f"broken        {sum(map(len, broken.values()))} objects whose class can't be imported")
    _print_oids(broken)
    if holders:
        tell(f"values        of {len(holders)} classes or functions that can't be imported, held by these objects")
        _print_oids(holders)


def _print_oids(oids_by_name: dict[str, list[str]]) -> None:
    for name, oids in sorted(oids_by_name.items()):
        more = f" and {len(oids) - _MOST_OIDS} more" if len(oids) > _MOST_OIDS else ""
        tell(f"  {name}: oid {', '.join(oids[:_MOST_OIDS])}{more}")


def _is_persistent_class(name: str) -> bool:
    found = _imported(name)
    return isinstance(found, type) and issubclass(found, PersistentObject)


@lru_cache(maxsize=10_000)
def _imported(name: str) -> object:
    """Return what has a name, None if nothing that can be imported."""
    try:
        return cast(object, pkgutil.resolve_name(name))
    except (Exception, SystemExit):  # an application's module may raise anything when it is imported
        return None


def _reached_oids(shelf: _Records) -> set[bytes]:
    reached: set[bytes] = set()
    seen = {ROOT_OID}
    pending = [ROOT_OID]
    while pending:
        oid = pending.pop()
        record = shelf.read(oid)
        if record is not None:
            reached.add(oid)
            found = [ref for ref in split_oids(unpack_record(record)[2]) if ref not in seen]
            seen.update(found)
            pending.extend(found)
    return reached


def _class_name(data: bytes) -> str:
    known = parse_class_pickle(data)
    if known is not None:
        return f"{known.module}.{known.name}"
    try:
        return read_contents(data).class_name
    except RecordError:
        return _UNREADABLE
