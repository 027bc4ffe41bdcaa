"""An open file of records, in any format."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from durus.error import UnsoundTailError
from durus.files.file import ReadableFile


class PreparedTransaction(NamedTuple):
    """A transaction that is ready to be appended to a file."""

    before: bytes
    """What must be durable before the transaction is appended; often nothing."""
    pieces: list[bytes]
    """The bytes of the transaction."""
    accept: Callable[[], None]
    """Makes its records current, after it is in the file. It may be called again. [SHELF-46]"""


class Appended(NamedTuple):
    """Transactions that another process has appended, before they are current."""

    oids: list[bytes]
    """What they change."""
    accept: Callable[[], None]
    """Makes their records current, without reading the file."""
    settled_end: int
    """The `settled_end` after that."""


class Replaced(dict[bytes, int | None]):
    """The former offsets of entries that were replaced, by oid; None for an oid that had none."""


class RecordFile:
    """An open file that was read up to the end of its last sound transaction."""

    file: ReadableFile
    end: int
    """Where the last sound transaction ends."""
    tail: UnsoundTailError | None
    """The error for the bytes after the end, None if there are none."""
    garbage = 0
    """About how many bytes are records that newer ones have replaced; 0 if the format does not count them. [CMD-61]"""
    _watcher: "weakref.ref[Replaced] | None" = None

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the current entry of `oid`, None if there is none."""
        raise NotImplementedError

    def read(self, oid: bytes) -> bytes | None:
        """Return the current record of `oid`, None if there is none."""
        offset = self.offset_of(oid)
        return None if offset is None else self.read_entry(oid, offset)

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record in the entry at `offset`; DamageError if it is not a record of `oid`."""
        raise NotImplementedError

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for all current entries, in the order of the file."""
        raise NotImplementedError

    def walk(self) -> Iterator[tuple[bytes, int]]:
        """Yield what offsets() yields, with memory that does not grow with the packed part; DamageError in damage."""
        return self.offsets()

    def holes(self) -> Iterator[int]:
        """Yield the numbers of the oids that the format calls free, in the order of their use."""
        return iter(())

    @property
    def oid_count(self) -> int:
        """The first number to give out when there are no more holes."""
        raise NotImplementedError

    def prepare(self, records: Sequence[tuple[bytes, bytes]], time: str) -> PreparedTransaction:
        """Return the transaction with these (oid, record) pairs, for the end of this file."""
        raise NotImplementedError

    @property
    def settled_end(self) -> int:
        """Where reading on begins: no writer changes anything before this offset."""
        raise NotImplementedError

    def look_ahead(self) -> Appended:
        """Read the transactions that another process has appended, and change nothing yet. [SHELF-54]

        DamageError if there is damage after them.
        """
        raise NotImplementedError

    def read_on(self) -> list[bytes]:
        """Make the transactions current that another process has appended; return the oids that they change."""
        appended = self.look_ahead()
        appended.accept()
        return appended.oids

    def watch(self) -> Replaced:
        """Return a dict to which accepted transactions add the entries that they replace, as long as it is held."""
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
    """Return whether the file is empty, or comes from an interrupted creation. [SHELF-3]

    `empty_file` is what the creation of a file in this format writes.
    """
    size = file.size()
    if size > len(empty_file):
        return False
    data = file.read_at(0, size)
    return data != empty_file and data in (empty_file[:size], bytes(size))
