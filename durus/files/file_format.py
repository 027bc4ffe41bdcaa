"""What the storages in one file need of its format, whichever it is."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from durus.error import UnsoundTailError
from durus.files.file import File


class PreparedTransaction(NamedTuple):
    """The bytes of a transaction, and what holds once they are in the file."""

    covering_seal: bytes
    """What must be durable before the transaction is written; empty where there is no such thing."""
    data: bytes
    offsets: list[tuple[bytes, int]]
    """(oid, file offset of its entry) of each record."""
    end: int
    """Where it ends in the file."""
    checksum: int
    """The running checksum there, 0 in a format without checksums."""


class Replaced(dict[bytes, int | None]):
    """Where the entries of some oids stood before they were replaced, None for an oid that had none."""


class Watched:
    """What has entries that are replaced, and can tell a pack of it."""

    _watcher: "weakref.ref[Replaced] | None" = None

    def watch(self) -> Replaced:
        """Return what accept() adds the entries to that it replaces, as long as that is held."""
        replaced = Replaced()
        self._watcher = weakref.ref(replaced)
        return replaced

    def _note_replaced(self, prepared: PreparedTransaction, offset_of: Callable[[bytes], int | None]) -> None:
        replaced = None if self._watcher is None else self._watcher()
        if replaced is not None:
            for oid, _ in prepared.offsets:
                replaced.setdefault(oid, offset_of(oid))


class RecordFile(Protocol):
    """An open file that was read up to the end of its last sound transaction."""

    file: File
    index: dict[bytes, int]
    """File offsets of entries by oid: at least of all that were not packed."""
    end: int
    """Where the last sound transaction ends."""
    tail: UnsoundTailError | None
    """The error that tells of the bytes behind the end, None where there are none."""

    def offset_of(self, oid: bytes) -> int | None:
        """Return the file offset of the current entry of `oid`, None if there is none."""

    def watch(self) -> "Replaced":
        """Return what accept() adds the entries to that it replaces, as long as that is held."""

    def read(self, oid: bytes) -> bytes | None:
        """Return the current record of `oid`, None if there is none."""

    def read_entry(self, oid: bytes, offset: int) -> bytes:
        """Return the record in the entry at `offset`, which must be of `oid`; DamageError if it is not."""

    def offsets(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) for all current entries, in the order of the file."""

    def holes(self) -> Iterator[int]:
        """Yield the numbers of oids that the format calls free, in the order in which they are to be given out."""

    @property
    def oid_count(self) -> int:
        """The number from which on oids are given out when there are no more holes."""

    def prepare(self, records: Sequence[tuple[bytes, bytes]], time: str) -> PreparedTransaction:
        """Return the transaction that holds these (oid, record) pairs at the end of this file."""

    def accept(self, prepared: PreparedTransaction) -> None:
        """Take a transaction into account that was written at the end. It may be called again. [SHELF-46]"""


def is_unfinished_creation(file: File, empty_file: bytes) -> bool:
    """Tell if the file is empty, or was left by a creation that did not come to its end. [SHELF-3]

    `empty_file` is what a creation of this format writes.
    """
    size = file.size()
    if size > len(empty_file):
        return False
    data = file.read_at(0, size)
    return data != empty_file and data in (empty_file[:size], bytes(size))
