"""Exports to CSV. Statements EXP-50 and EXP-51."""

import csv
from collections.abc import Iterable, Iterator

from durus.files.file import File
from durus.oid import oid_to_int
from durus.progress import Progress
from durus.records.plain_forms import Form, Plain, to_json
from durus.tools.export_cells import Cells, attributes_of
from durus.tools.exported import Appender, Exported, stored_form


def attribute_names(all_exported: Iterable[Exported]) -> list[str]:
    """Return the names of the attributes of these objects, in the order of their first use."""
    names: dict[str, None] = {}
    for exported in all_exported:
        if exported.state is not None:
            names.update(dict.fromkeys(attributes_of(exported.state)))
    return list(names)


class CsvTarget:
    """A row for each object, with a column for each of the names, or without names with its state as JSON."""

    def __init__(self, file: File, names: list[str] | None) -> None:
        self._out = Appender(file)
        self._rows = csv.writer(_Out(self._out))
        self._names = names
        self._rows.writerow(["oid", "class", "state"] if names is None else ["oid", *names])

    def add(self, exported: Exported) -> None:
        number = oid_to_int(exported.oid)
        if self._names is None:
            state = stored_form(exported) if exported.state is None else exported.state.json()
            name = exported.class_name
            self._rows.writerow(
                [number, name if isinstance(name, str) else "" if name is None else to_json(name), state]
            )
            return
        cells = Cells()
        values = {} if exported.state is None else attributes_of(exported.state)
        self._rows.writerow([number, *(_text(cells, values.get(name)) for name in self._names)])

    def finish(self) -> Iterator[Progress]:
        self._out.flush()
        return iter(())

    def close(self) -> None:
        """Do nothing: the file belongs to the export."""


class _Out:
    """What csv.writer() writes to."""

    def __init__(self, out: Appender) -> None:
        self.write = out.add


def _text(cells: Cells, value: Plain) -> str | int | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Form) and "$ref" in value and isinstance(value["$ref"], int):
        return value["$ref"]
    cell = cells.cell(value)
    return "" if cell is None else cell.hex() if isinstance(cell, bytes) else cell
