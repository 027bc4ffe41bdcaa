"""`durus info`: show what a file contains."""

import argparse
import pkgutil
import sys
from collections import Counter
from contextlib import closing
from functools import lru_cache
from typing import cast

from durus import __version__
from durus.cli.options import add_inspected_argument, inspect
from durus.cli.report import Report, add_json_argument
from durus.cli.values import file_name
from durus.error import RecordError
from durus.files.inspection import Heading, Inspection, Records
from durus.oid import ROOT_OID, oid_to_int
from durus.persistent import PersistentObject, implementation
from durus.records.contents import class_name_of, read_contents
from durus.records.reachable import mark_reachable
from durus.records.record import data_of
from durus.text import listed, without_password

_MAX_OIDS = 100
"""How many broken objects of one class are listed."""
_KEYS = (
    "implementation",
    "size",
    "packed_size",
    "unsealed_transactions",
    "first_seal",
    "last_seal",
    "tail",
    "unreached_objects",
    "unreached_size",
    "superseded_size",
    "classes",
    "broken",
    "missing_values",
)
"""The keys of the JSON that `check` does not print. [CMD-13]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inspected_argument(parser, "look at")
    add_json_argument(parser)
    parser.add_argument(
        "--broken",
        action="store_true",
        help="import all classes in the file, and list the objects whose class can't be imported",
    )
    parser.add_argument(
        "--plot",
        type=_svg_name,
        metavar="NEW.svg",
        help="write a new file that plots the largest classes and the growth",
    )


def _svg_name(text: str) -> str:
    """Check the name of a new file of SVG."""
    if not file_name(text).endswith(".svg"):
        raise argparse.ArgumentTypeError(f"{text!r}: the name must end in .svg")
    return text


def run(options: argparse.Namespace) -> int:
    report = Report(options, _KEYS)
    with closing(inspect(options.file)) as inspection:
        heading = inspection.heading()
        _print_heading(without_password(options.file), heading, report)
        _print_objects(inspection, heading.entries_size, report)
        if options.broken:
            _print_broken(inspection.records, report)
        if options.plot is not None:
            from durus.cli.plot import write_plot  # only if needed, because of its imports

            write_plot(options.file, inspection.records, options.plot)
    report.end()
    return 0


def _print_heading(path: str, heading: Heading, report: Report) -> None:
    report.note(f"durus         {__version__}, its base classes in {implementation}", implementation=implementation)
    report.note(f"file          {path}")
    for name, text in heading.lines():
        report.note(f"{name:<13} {text}")
    report.note(
        None,
        format=heading.format,
        size=heading.size,
        packed_size=heading.packed_size,
        transactions=heading.transactions,
        unsealed_transactions=heading.unsealed_transactions,
        sealed=heading.sealed,
        first_seal=heading.first_seal,
        last_seal=heading.last_seal,
        tail=heading.tail,
    )


def _print_objects(inspection: Inspection, entries_size: int | None, report: Report) -> None:
    records, frame_size = inspection.records, inspection.frame_size
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    reached = _reached_oids(records)
    unreached_count = unreached_size = current_size = 0
    for oid, offset in records.offsets():
        record = records.read_entry(oid, offset)
        name = class_name_of(data_of(record))
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
    report.note(
        f"objects       {counts.total()}, {unreached_count} of them not reached from the root",
        objects=counts.total(),
        unreached_objects=unreached_count,
    )
    report.note(
        f"garbage       {share:.1f} %: {unreached_size} bytes not reached, {superseded_size} bytes superseded",
        unreached_size=unreached_size,
        superseded_size=superseded_size,
    )
    names = sorted(counts, key=lambda name: (-counts[name], name))
    classes = [{"name": name, "objects": counts[name], "size": sizes[name]} for name in names]
    report.note("classes         objects        bytes" if counts else None, classes=classes)
    for name in names:
        report.note(f"{counts[name]:>23} {sizes[name]:>12}  {name}")


def _print_broken(records: Records, report: Report) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as in the console
    broken: dict[str, list[int]] = {}
    holders: dict[str, list[int]] = {}
    for oid, offset in records.offsets():
        try:
            contents = read_contents(data_of(records.read_entry(oid, offset)))
        except RecordError:
            continue
        if not _is_persistent_class(contents.class_name):
            broken.setdefault(contents.class_name, []).append(oid_to_int(oid))
        for name in contents.value_names:
            if _imported(f"{name.module}:{name.qualname}") is None:
                holders.setdefault(f"{name.module}.{name.qualname}", []).append(oid_to_int(oid))
    count = sum(map(len, broken.values()))
    report.note(f"broken        {count} objects whose class can't be imported", broken=broken, missing_values=holders)
    _print_oids(broken, report)
    if holders:
        report.note(
            f"values        of {len(holders)} classes or functions that can't be imported, held by these objects"
        )
        _print_oids(holders, report)


def _print_oids(oids_by_name: dict[str, list[int]], report: Report) -> None:
    for name, oids in sorted(oids_by_name.items()):
        report.note(f"  {name}: oid {listed(oids, _MAX_OIDS)}")


def _is_persistent_class(name: str) -> bool:
    found = _imported(name)
    return isinstance(found, type) and issubclass(found, PersistentObject)


@lru_cache(maxsize=10_000)
def _imported(name: str) -> object:
    """Return the object of a name, None if it can't be imported."""
    try:
        return cast(object, pkgutil.resolve_name(name))
    except (Exception, SystemExit):  # an application's module may raise anything when it is imported
        return None


def _reached_oids(records: Records) -> set[bytes]:
    reached: set[bytes] = set()
    for _ in mark_reachable([ROOT_OID], reached, records.read):
        pass
    return reached
