"""One object as it is exported, and what writes it. Statements EXP-1, EXP-10."""

import base64
import json
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from durus.error import RecordError
from durus.files.file import File
from durus.oid import oid_to_int
from durus.progress import Progress
from durus.records.plain import PlainState, read_plain
from durus.records.plain_forms import class_text
from durus.records.record import parse_class_pickle, split_oids

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

    @property
    def class_name(self) -> str | tuple[str, str] | None:
        """The class, None if it can't be read."""
        if self.state is not None:
            return self.state.cls
        known = parse_class_pickle(self.data)
        return None if known is None else class_text(known.module, known.name)


def exported_of(oid: bytes, data: bytes, refs: bytes) -> Exported:
    """Return a record as it is exported."""
    try:
        return Exported(oid, read_plain(data), data, refs, None)
    except RecordError as error:
        return Exported(oid, None, data, refs, str(error))


def stored_form(exported: Exported) -> str:
    """Return as JSON what is stored of an object that has no form. [EXP-10]"""
    return json.dumps(
        {
            "data": base64.b64encode(exported.data).decode(),
            "refs": [oid_to_int(ref) for ref in split_oids(exported.refs)],
            "problem": exported.problem,
        }
    )


class Target(Protocol):
    """Where objects are exported to."""

    def add(self, exported: Exported) -> None:
        """Add one object."""

    def finish(self) -> Iterator[Progress]:
        """Complete the file, and make it durable, in steps."""

    def close(self) -> None:
        """Release what is held open."""


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
