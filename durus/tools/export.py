"""Writes what a database holds into a file for other programs. spec/export.md.

Nothing that the records name is imported or run. Records are read one after another, in the order of the file, and
written in batches, so memory does not grow with the database.
"""

import base64
import json
import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from durus.error import ArgumentError, RecordError
from durus.files.file import File, FileSystem, OperatingSystem, Path
from durus.files.inspection import Records
from durus.files.publishing import publishing
from durus.files.record_file import RecordFile
from durus.oid import format_oid, oid_to_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import class_name_of
from durus.records.plain import PlainState, class_text, read_plain
from durus.records.record import parse_class_pickle, split_oids, unpack_record

HEADER = '{"durus": "export", "form": 1}'
"""The first line. [EXP-20]"""
_WRITE_SIZE = 1 << 18


class Exported(NamedTuple):
    """One object, as it is exported."""

    oid: bytes
    state: PlainState | None
    """None if there is no form for it."""
    data: bytes
    refs: bytes
    problem: str | None
    """Why there is none."""


class Target(Protocol):
    """Where objects are exported to."""

    def add(self, exported: Exported) -> None:
        """Add one object."""

    def finish(self) -> Iterator[Progress]:
        """Complete the file, and make it durable, in steps."""

    def close(self) -> None:
        """Release what is held open."""


class Export:
    """Writes a new file: steps() does the work, and the other attributes then tell the result."""

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
        self._kind = os.path.splitext(self._path)[1]
        if self._kind not in _KINDS:
            raise ArgumentError(
                f"{os.fsdecode(path)}: the name must end in {', '.join(_KINDS)}, which says the kind of file"
            )

    def steps(self) -> Iterator[Progress]:
        """Export, one step at a time. The file gets its name in the last step. [EXP-22]"""
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
                    yield from target.finish()
                finally:
                    target.close()
                file.sync()
            finally:
                file.close()

    def _target(self, file: File, path: str) -> Target:
        if self._kind == ".jsonl":
            return _Lines(file)
        raise NotImplementedError(self._kind)

    def _count(self, exported: Exported) -> None:
        self.objects += 1
        if exported.problem is not None:
            self.unreadable += 1
            self.problem = self.problem or f"oid {format_oid(exported.oid)}: {exported.problem}"

    def _exported(self) -> Iterator[Exported]:
        records = self._records
        for oid, offset in records.walk() if isinstance(records, RecordFile) else records.offsets():
            _, data, refs = unpack_record(records.read_entry(oid, offset))
            if self._class_name is None or class_name_of(data) == self._class_name:
                yield exported_of(oid, data, refs)


_KINDS = (".jsonl", ".sqlite", ".csv")


def exported_of(oid: bytes, data: bytes, refs: bytes) -> Exported:
    """Return a record as it is exported."""
    try:
        return Exported(oid, read_plain(data), data, refs, None)
    except RecordError as error:
        return Exported(oid, None, data, refs, str(error))


def line_of(exported: Exported) -> str:
    """Return the line of one object. [EXP-21]"""
    number = oid_to_int(exported.oid)
    if exported.state is not None:
        return f'{{"oid": {number}, "class": {json.dumps(exported.state.cls)}, "state": {exported.state.json()}}}'
    known = parse_class_pickle(exported.data)
    line = {
        "oid": number,
        "class": None if known is None else class_text(known.module, known.name),
        "data": base64.b64encode(exported.data).decode(),
        "refs": [oid_to_int(ref) for ref in split_oids(exported.refs)],
        "problem": exported.problem,
    }
    return json.dumps(line)


class Appender:
    """Appends to a new file in large pieces."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._pending: list[str] = []
        self._size = self._end = 0

    def add(self, text: str) -> None:
        """Append a text, some time before the end of flush()."""
        self._pending.append(text)
        self._size += len(text)
        if self._size >= _WRITE_SIZE:
            self.flush()

    def flush(self) -> None:
        """Append what is pending."""
        data = "".join(self._pending).encode("utf-8", "backslashreplace")
        self._file.append(data, self._end)
        self._end += len(data)
        self._pending, self._size = [], 0


class _Lines:
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
