"""`durus salvage`: copy what is sound in a damaged file into a new one. spec/salvage.md."""

import argparse
import json

from durus import __version__
from durus.cli.output import number_of_objects, tell
from durus.cli.progress import show_progress
from durus.cli.values import file_name
from durus.files.file import new_name
from durus.oid import format_oid, oid_to_int
from durus.text import command, listed
from durus.tools.salvage import Salvage

_MAX_OIDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=file_name, metavar="FILE", help="the damaged file, which is not changed")
    parser.add_argument("new", type=file_name, metavar="NEW", help="the file to make, which must not exist")
    parser.add_argument(
        "--newest",
        action="store_true",
        help="take the newest state that can be read, even if only an older one is sound",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(options: argparse.Namespace) -> int:
    salvage = Salvage(options.file, options.new, options.newest)
    show_progress(salvage.steps())
    if options.json:
        tell(json.dumps(_as_json(options.file, options.new, salvage)))
    else:
        for line in _lines(salvage):
            tell(f"{options.file}: {line}")
        tell(f"{options.file}: {_summary(salvage)} {options.new}")
        if salvage.older and not options.newest:
            again = command("salvage --newest", options.file, new_name(options.new, "newest"))
            tell(f"{options.file}: {again} takes the damaged states that can be read")
    return 0 if salvage.is_complete else 1


def _lines(salvage: Salvage) -> list[str]:
    lines = [f"byte {each.start} to {each.end}: {each.problem}" for each in salvage.damage]
    lines += [f"byte {offset}: one bit is wrong" for offset in salvage.mended]
    for older in salvage.older:
        lines.append(
            f"oid {format_oid(older.oid)} ({older.class_name}): the state at byte {older.damaged_offset} is damaged; "
            f"the older one at byte {older.offset} was taken"
        )
    for doubtful in salvage.doubtful:
        lines.append(
            f"oid {format_oid(doubtful.oid)} ({doubtful.class_name}): no checksum vouches for its state at byte "
            f"{doubtful.offset}; look at it"
        )
    for lost in salvage.lost:
        names = listed(lost.referrers, _MAX_OIDS, format_oid)
        referrers = f"oid {names} refer to it" if names else "it is the root, and empty now"
        lines.append(f"oid {format_oid(lost.oid)} ({lost.class_name or 'class not known'}) is lost; {referrers}")
    return lines


def _summary(salvage: Salvage) -> str:
    if salvage.is_complete:
        return f"{number_of_objects(salvage.objects)}, each with its newest state, copied to"
    return (
        f"{number_of_objects(salvage.objects)}, {len(salvage.older)} of them with an older state and "
        f"{len(salvage.doubtful)} with a doubtful one, and stand-ins for {len(salvage.lost)} lost ones copied to"
    )


def _as_json(path: str, new: str, salvage: Salvage) -> dict[str, object]:
    return {
        "durus": __version__,
        "file": path,
        "format": salvage.format_name,
        "new": new,
        "complete": salvage.is_complete,
        "objects": salvage.objects,
        "damage": [{"start": each.start, "end": each.end, "problem": each.problem} for each in salvage.damage],
        "mended": salvage.mended,
        "older": [
            {
                "oid": oid_to_int(each.oid),
                "class": each.class_name,
                "offset": each.offset,
                "damaged_offset": each.damaged_offset,
            }
            for each in salvage.older
        ],
        "doubtful": [
            {"oid": oid_to_int(each.oid), "class": each.class_name, "offset": each.offset} for each in salvage.doubtful
        ],
        "lost": [
            {
                "oid": oid_to_int(each.oid),
                "class": each.class_name,
                "referrers": [oid_to_int(oid) for oid in each.referrers],
            }
            for each in salvage.lost
        ],
    }
