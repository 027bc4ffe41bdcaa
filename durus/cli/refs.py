"""`durus refs`: the objects that refer to one. Statement CMD-16."""

import argparse
import json
from contextlib import closing

from durus import __version__
from durus.cli.options import add_inspected_argument, inspect
from durus.cli.output import tell
from durus.cli.progress import show_progress
from durus.cli.report import add_json_argument
from durus.cli.values import oid_of_number
from durus.oid import format_oid, oid_to_int
from durus.records.contents import class_name_of
from durus.records.record import data_of
from durus.text import listed, without_password
from durus.tools.referrers import Referrers

_SHOWN_PATHS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inspected_argument(parser, "look at")
    parser.add_argument(
        "oid", type=oid_of_number, metavar="OID", help="the oid of the object to which the others refer"
    )
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    oid: bytes = options.oid
    path = without_password(options.file)
    with closing(inspect(options.file)) as inspection:
        record = inspection.records.read(oid)
        name = None if record is None else class_name_of(data_of(record))
        work = Referrers(inspection.records, oid)
        show_progress(work.steps())
        format_name = inspection.format_name
    if options.json:
        shown = {
            "durus": __version__,
            "file": path,
            "format": format_name,
            "oid": oid_to_int(oid),
            "class": name,
            "referrers": [
                {"oid": oid_to_int(each.oid), "class": each.class_name, "paths": each.paths} for each in work.found
            ],
        }
        tell(json.dumps(shown))
        return 0
    for each in work.found:
        tell(f"oid {format_oid(each.oid)} ({each.class_name}): {_shown(each.paths)}")
    what = "which does not exist" if name is None else name
    count = "1 object refers" if len(work.found) == 1 else f"{len(work.found)} objects refer"
    tell(f"{path}: {count} to oid {format_oid(oid)}, {what}")
    return 0


def _shown(paths: list[str]) -> str:
    return listed(paths, _SHOWN_PATHS) if paths else "its state can't be read"
