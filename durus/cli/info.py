"""`durus info`: what a file holds."""

import argparse
import pkgutil
import sys
from collections import Counter

from durus.contents import read_contents
from durus.error import RecordError
from durus.file import OperatingSystem
from durus.oid import ROOT_OID, format_oid
from durus.record import parse_class_pickle, split_oids, unpack_record
from durus.shelf.as_of_now import as_of_now
from durus.shelf.layout import BASE_START, ENTRY_FRAME_SIZE, SEAL_SIZE, U64
from durus.shelf.scan import scan_transactions
from durus.shelf.shelf import Shelf, checksum_of

_MOST_OIDS = 100
"""How many broken objects of one class are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to look at; it may be in use")
    parser.add_argument(
        "--broken",
        action="store_true",
        help="import all classes in the file, and list the objects whose class can't be imported",
    )


def run(options: argparse.Namespace) -> int:
    file = OperatingSystem().open(options.file, "read")
    try:
        shelf = Shelf(as_of_now(file))
        _print_objects(shelf, _print_file(shelf))
        if options.broken:
            _print_broken(shelf)
    finally:
        file.close()
    return 0


def _print_file(shelf: Shelf) -> int:
    """Print what holds of the file as a whole; return how many bytes of it are object entries."""
    start = shelf.map.end
    transactions = seals = 0
    first_seal = last_seal = None
    entries_size = shelf.map.start - BASE_START - U64.size
    for transaction in scan_transactions(shelf.file, start, shelf.end, checksum_of(shelf.file, start)):
        transactions += 1
        entries_size += transaction.end - transaction.offset - U64.size
        if transaction.seal is not None:
            seals += 1
            entries_size -= SEAL_SIZE
            last_seal = transaction.seal.time
            first_seal = first_seal or last_seal
    print(f"file          {shelf.file.path}")
    print("format        SHELF-1")
    print(f"size          {shelf.file.size()} bytes, {start} of them packed")
    print(f"transactions  {transactions} behind the packed part, {transactions - seals} of them without a seal")
    if first_seal is None:
        print("sealed        no")
    else:
        print(f"sealed        {'to its end' if shelf.is_sealed else 'not at its end'}")
        print(f"first seal    {first_seal}")
        print(f"last seal     {last_seal}")
    if shelf.tail is not None:
        print(f"tail          not whole: {shelf.tail.problem}")
    return entries_size


def _print_objects(shelf: Shelf, entries_size: int) -> None:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    reached = _reached_oids(shelf)
    unreached_count = unreached_size = current_size = 0
    for oid, offset in shelf.positions():
        record = shelf.read_entry(oid, offset)
        name = _class_name(unpack_record(record)[1])
        counts[name] += 1
        sizes[name] += len(record)
        current_size += len(record) + ENTRY_FRAME_SIZE
        if oid not in reached:
            unreached_count += 1
            unreached_size += len(record) + ENTRY_FRAME_SIZE
    superseded_size = entries_size - current_size
    share = 100 * (unreached_size + superseded_size) / entries_size if entries_size else 0
    print(f"objects       {counts.total()}, {unreached_count} of them not reached from the root")
    print(f"garbage       {share:.1f} %: {unreached_size} bytes not reached, {superseded_size} bytes superseded")
    if counts:
        print("classes         objects        bytes")
    for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        print(f"{counts[name]:>23} {sizes[name]:>12}  {name}")


def _print_broken(shelf: Shelf) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as the console has it
    is_there: dict[str, bool] = {}
    broken: dict[str, list[str]] = {}
    for oid, offset in shelf.positions():
        name = _class_name(unpack_record(shelf.read_entry(oid, offset))[1])
        if name not in is_there:
            is_there[name] = _can_be_imported(name)
        if not is_there[name]:
            broken.setdefault(name, []).append(format_oid(oid))
    print(f"broken        {sum(map(len, broken.values()))} objects whose class can't be imported")
    for name, oids in sorted(broken.items()):
        more = f" and {len(oids) - _MOST_OIDS} more" if len(oids) > _MOST_OIDS else ""
        print(f"  {name}: oid {', '.join(oids[:_MOST_OIDS])}{more}")


def _can_be_imported(class_name: str) -> bool:
    try:
        return isinstance(pkgutil.resolve_name(class_name), type)
    except Exception:  # an application's module may raise anything when it is imported
        return False


def _reached_oids(shelf: Shelf) -> set[bytes]:
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
        return "(unreadable)"
