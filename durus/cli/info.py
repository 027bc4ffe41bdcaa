"""`durus info`: what a file holds."""

import argparse
from collections import Counter

from durus.error import RecordError
from durus.file import OperatingSystem
from durus.oid import ROOT_OID
from durus.record import parse_class_pickle, split_oids, unpack_record
from durus.shelf.layout import SEAL_SIZE
from durus.shelf.scan import scan_transactions
from durus.shelf.shelf import Shelf, checksum_of
from durus.stand_in import read_contents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F", help="the file to look at; it may be in use")


def run(options: argparse.Namespace) -> int:
    file = OperatingSystem().open(options.file, "read")
    try:
        shelf = Shelf(file)
        _print_objects(shelf, _print_file(shelf))
    finally:
        file.close()
    return 0


def _print_file(shelf: Shelf) -> int:
    """Print what holds of the file as a whole; return how many bytes of it are object entries."""
    start = shelf.map.end
    scanned = list(scan_transactions(shelf.file, start, shelf.end, checksum_of(shelf.file, start)))
    times = [transaction.seal.time for transaction in scanned if transaction.seal is not None]
    unsealed = len(scanned) - len(times)
    print(f"file          {shelf.file.path}")
    print("format        SHELF-1")
    print(f"size          {shelf.file.size()} bytes, {start} of them packed")
    print(f"transactions  {len(scanned)} behind the packed part, {unsealed} of them without a seal of their own")
    print(f"sealed        {'to its end' if shelf.is_sealed else 'not at its end'}")
    if times:
        print(f"sealed from   {times[0]} to {times[-1]}")
    if shelf.tail is not None:
        print(f"tail          not whole: {shelf.tail.problem}")
    seals = SEAL_SIZE * len(times)
    return shelf.map.start - 16 + sum(each.end - each.offset - 8 for each in scanned) - seals


def _print_objects(shelf: Shelf, entries_size: int) -> None:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    live = _live_oids(shelf)
    live_size = 0
    for oid, offset in shelf.positions():
        record = shelf.read_entry(oid, offset)
        name = _class_name(unpack_record(record)[1])
        counts[name] += 1
        sizes[name] += len(record)
        if oid in live:
            live_size += len(record) + 16
    total = counts.total()
    print(f"objects       {total}, {total - len(live)} of them not reached from the root")
    garbage = entries_size - live_size
    share = 100 * garbage / entries_size if entries_size else 0
    print(f"garbage       {garbage} bytes ({share:.1f} %) in unreached objects and superseded records")
    if counts:
        print("classes         objects        bytes")
    for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        print(f"{counts[name]:>23} {sizes[name]:>12}  {name}")


def _live_oids(shelf: Shelf) -> set[bytes]:
    live: set[bytes] = set()
    pending = [ROOT_OID]
    while pending:
        oid = pending.pop()
        record = shelf.read(oid) if oid not in live else None
        if record is not None:
            live.add(oid)
            pending.extend(split_oids(unpack_record(record)[2]))
    return live


def _class_name(data: bytes) -> str:
    known = parse_class_pickle(data)
    if known is not None:
        return f"{known.module}.{known.name}"
    try:
        return read_contents(data).class_name
    except RecordError:
        return "(unreadable)"
