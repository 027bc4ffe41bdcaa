"""An open file of records, as every format has it."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from durus.error import UnsoundTailError
from durus.files.file import ReadableFile


class PreparedTransaction(NamedTuple):
    """A transaction that is to be appended to a file."""

    pieces: list[bytes]
    """Its bytes: each piece must be durable before the next one is appended."""
    accept: Callable[[], None]
    """Makes its records current, when it is in the file. It may be called again. [SHELF-46]"""


class Replaced(dict[bytes, int | None]):
    """Where the entries of some oids stood before they were replaced, None for an oid that had none."""


class RecordFile:
    """An open file that was read up to the end of its last sound transaction."""

    file: ReadableFile
    index: dict[bytes, int]
    """File offsets of entries by oid: at least of all that were not packed."""
    end: int
    """Where the last sound transaction ends."""
    tail: UnsoundTailError | None
    """The error that tells of the bytes after the end, None where there are none."""
    _watcher: "weakref.ref[Replaced] | None" = None

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the current entry of `oid`, None if there is none."""
        raise NotImplementedError

    def read(self, oid: bytes) -> bytes | None:
        """Return the current record of `oid`, None if there is none."""
        offset = self.offset_of(oid)
        return None if offset is None else self.read_entry(oid, offset)

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record in the entry at `offset`, which must be of `oid`; DamageError if it is not."""
        raise NotImplementedError

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for all current entries, in the order of the file."""
        raise NotImplementedError

    def holes(self) -> Iterator[int]:
        """Yield the numbers of oids that the format calls free, in the order in which they are to be given out."""
        return iter(())

    @property
    def oid_count(self) -> int:
        """The number from which on oids are given out when there are no more holes."""
        raise NotImplementedError

    def prepare(self, records: Sequence[tuple[bytes, bytes]], time: str) -> PreparedTransaction:
        """Return the transaction that holds these (oid, record) pairs at the end of this file."""
        raise NotImplementedError

    def watch(self) -> Replaced:
        """Return the dict to which accepted transactions add the entries that they replace, as long as it is held."""
        replaced = Replaced()
        self._watcher = weakref.ref(replaced)
        return replaced

    def _note_replaced(self, offsets: Iterable[tuple[bytes, int]]) -> None:
        replaced = None if self._watcher is None else self._watcher()
        if replaced is not None:
            for oid, _ in offsets:
                replaced.setdefault(oid, self.offset_of(oid))


F = TypeVar("F", bound=RecordFile)


def is_unfinished_creation(file: ReadableFile, empty_file: bytes) -> bool:
    """Tell if the file is empty, or was left by a creation that did not come to its end. [SHELF-3]

    `empty_file` is what a creation of this format writes.
    """
    size = file.size()
    if size > len(empty_file):
        return False
    data = file.read_at(0, size)
    return data != empty_file and data in (empty_file[:size], bytes(size))
