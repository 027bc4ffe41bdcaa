"""`durus show`: one object of a database, without its class. Statement CMD-15."""

import argparse
import json
from contextlib import closing

from durus import __version__
from durus.cli.options import add_inspected_argument, inspect
from durus.cli.output import tell
from durus.cli.report import add_json_argument
from durus.cli.values import oid_of_number
from durus.error import DurusError
from durus.oid import format_oid, oid_to_int
from durus.records.contents import class_name_of
from durus.records.plain_forms import references, target_of, to_json
from durus.records.record import split_oids, unpack_record
from durus.text import without_password
from durus.tools.export_cells import attributes_of
from durus.tools.exported import Exported, exported_of

_SHOWN_CHARACTERS = 200
_SHOWN_REFS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inspected_argument(parser, "look at")
    parser.add_argument("oid", type=oid_of_number, metavar="OID", help="the oid of the object")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    oid: bytes = options.oid
    with closing(inspect(options.file)) as inspection:
        record = inspection.records.read(oid)
        format_name = inspection.format_name
    if record is None:
        raise DurusError(f"{without_password(options.file)}: no object has the oid {format_oid(oid)}")
    exported = exported_of(*unpack_record(record))
    refs = _refs(exported)
    if options.json:
        state = None if exported.state is None else json.loads(exported.state.json())
        shown = {
            "durus": __version__,
            "file": without_password(options.file),
            "format": format_name,
            "oid": oid_to_int(oid),
            "class": class_name_of(exported.data),
            "size": len(record),
            "state": state,
            "problem": exported.problem,
            "refs": [{"path": path, "oid": number, "class": name} for path, number, name in refs],
        }
        tell(json.dumps(shown))
        return 0
    tell(f"oid {format_oid(oid)}: {class_name_of(exported.data)}, {len(record)} bytes")
    if exported.problem is not None:
        tell(f"  its state has no readable form: {exported.problem}")
    if exported.state is not None:
        for name, value in attributes_of(exported.state).items():
            tell(f"  {name} = {_cut(to_json(value))}")
    for path, number, cls in refs[:_SHOWN_REFS]:
        tell(f"  refers to oid {number}{'' if cls is None else f' ({cls})'}{'' if path is None else f': {path}'}")
    if len(refs) > _SHOWN_REFS:
        tell(f"  refers to {len(refs) - _SHOWN_REFS} more")
    return 0


def _refs(exported: Exported) -> list[tuple[str | None, int, str | None]]:
    """Return path, oid and class of each reference; only the oids if the state can't be read."""
    if exported.state is None:
        return [(None, oid_to_int(ref), None) for ref in split_oids(exported.refs)]
    return [(path, *target_of(each)) for path, each in references(exported.state.state)]


def _cut(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters; --json shows all)"
