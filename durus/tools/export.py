"""Writes what a database holds into a file for other programs. spec/export.md.

Nothing that the records name is imported or run. Records are read one after another, in the order of the file, and
written in batches, so memory does not grow with the database.
"""

import difflib
import os
from collections.abc import Iterator

from durus.error import ArgumentError, DurusError
from durus.files.file import File, FileSystem, OperatingSystem, Path
from durus.files.inspection import Records
from durus.files.publishing import publishing
from durus.oid import format_oid
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import class_name_of
from durus.records.record import unpack_record
from durus.text import listed
from durus.tools.export_lines import LinesTarget
from durus.tools.exported import Exported, Target, exported_of


class Export:
    """Writes a new file: steps() does the work, and the other attributes then have the result."""

    def __init__(
        self,
        records: Records,
        path: Path,
        class_name: str | None = None,
        permissions_of: Path | None = None,
        file_system: FileSystem | None = None,
    ) -> None:
        """Export `records` to the file `path`, whose ending says its kind: .jsonl, .sqlite or .csv.

        With `class_name`, only the objects of this class are exported. The file gets the permissions of the file
        `permissions_of`, or it is private.
        """
        self._records = records
        self._path = os.path.realpath(os.fsdecode(path))
        self._class_name = None if class_name is None else class_name.replace(":", ".")
        self._permissions_of = permissions_of
        self._file_system = file_system or OperatingSystem()
        self.objects = 0
        """How many objects were exported."""
        self.unreadable = 0
        """How many of them have no form, and are exported as stored bytes."""
        self.problem: str | None = None
        """What is wrong with the first one of them."""
        self._other_classes: set[str] = set()
        self._kind = os.path.splitext(self._path)[1]
        if self._kind not in _KINDS:
            raise ArgumentError(
                f"{os.fsdecode(path)}: the name must end in {', '.join(_KINDS)}, which says the kind of file"
            )

    def steps(self) -> Iterator[Progress]:
        """Export, one step at a time. The file gets its name in the last step. [EXP-22]

        ArgumentError if there is no object of the class; then no file is made.
        """
        with publishing(self._path, self._file_system) as part:
            file = self._file_system.open(part, "private")
            try:
                if self._permissions_of is not None:
                    like = self._file_system.open(os.path.realpath(os.fsdecode(self._permissions_of)), "read")
                    try:
                        file.copy_permissions(like)
                    finally:
                        like.close()
                target = self._target(file, part)
                try:
                    for exported in self._exported():
                        target.add(exported)
                        self._count(exported)
                        if self.objects % STEP_RECORDS == 0:
                            yield Progress("export", self.objects, None)
                    self._require_objects_of_class()
                    yield from target.finish()
                finally:
                    target.close()
                file.sync()
            finally:
                file.close()

    def _target(self, file: File, path: str) -> Target:
        if self._kind == ".jsonl":
            return LinesTarget(file)
        if self._kind == ".csv":
            from durus.tools.export_csv import CsvTarget, attribute_names

            return CsvTarget(file, None if self._class_name is None else attribute_names(self._exported()))
        try:
            from durus.tools.export_sqlite import SqliteTarget
        except ImportError as error:  # Python can be built without SQLite
            raise DurusError("this Python has no SQLite; export to .jsonl or .csv") from error
        return SqliteTarget(path, self._file_system)

    def _count(self, exported: Exported) -> None:
        self.objects += 1
        if exported.problem is not None:
            self.unreadable += 1
            self.problem = self.problem or f"oid {format_oid(exported.oid)}: {exported.problem}"

    def _exported(self) -> Iterator[Exported]:
        records = self._records
        for oid, offset in records.walk():
            _, data, refs = unpack_record(records.read_entry(oid, offset))
            name = None if self._class_name is None else class_name_of(data)
            if name == self._class_name:
                yield exported_of(oid, data, refs)
            elif name is not None and not self.objects:
                self._other_classes.add(name)

    def _require_objects_of_class(self) -> None:
        """Raise ArgumentError if the database has no object of the class. [EXP-23]"""
        if self.objects or self._class_name is None:
            return
        last = self._class_name.rpartition(".")[2]
        meant = [name for name in self._other_classes if name.rpartition(".")[2] == last]
        meant = meant or difflib.get_close_matches(self._class_name, self._other_classes)
        names = listed(sorted(meant or self._other_classes), _MAX_SHOWN, repr)
        advice = f"did you mean {names}?" if meant else f"there are objects of {names or 'no class'}"
        raise ArgumentError(f"there is no object of the class {self._class_name!r}; {advice}")


_KINDS = (".jsonl", ".sqlite", ".csv")
_MAX_SHOWN = 5
"""How many names of classes an error shows."""
