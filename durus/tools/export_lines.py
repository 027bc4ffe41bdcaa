"""Exports to lines of JSON. Statements EXP-20 and EXP-21."""

import json
from collections.abc import Iterator

from durus.files.file import File
from durus.oid import oid_to_int
from durus.progress import Progress
from durus.records.plain_forms import json_of_name
from durus.tools.exported import Appender, Exported, stored_form

HEADER = '{"durus": "export", "form": 1}'
"""The first line. [EXP-20]"""


def line_of(exported: Exported) -> str:
    """Return the line of one object. [EXP-21]"""
    number = oid_to_int(exported.oid)
    if exported.state is not None:
        return f'{{"oid": {number}, "class": {json_of_name(exported.state.cls)}, "state": {exported.state.json()}}}'
    return f'{{"oid": {number}, "class": {json.dumps(exported.class_name)}, {stored_form(exported)[1:]}'


class LinesTarget:
    """JSON lines: one for each object, between a first and a last one. [EXP-20]"""

    def __init__(self, file: File) -> None:
        self._out = Appender(file)
        self._out.add(HEADER + "\n")
        self._count = 0

    def add(self, exported: Exported) -> None:
        self._out.add(line_of(exported) + "\n")
        self._count += 1

    def finish(self) -> Iterator[Progress]:
        self._out.add(f'{{"objects": {self._count}}}\n')
        self._out.flush()
        return iter(())

    def close(self) -> None:
        """Do nothing: the file belongs to the export."""
