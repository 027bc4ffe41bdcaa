"""Follow a file to which another process appends. Statements SHELF-54 to SHELF-57."""

import errno
import functools
from collections.abc import Callable
from typing import Generic

from durus.error import DamageError, FileError
from durus.files.file import File
from durus.files.record_file import Appended, F
from durus.files.snapshot import FileSnapshot

_MARK_SIZE = 64
"""The number of bytes before the end that are compared to detect a rewritten file; a seal ends with its checksum."""


def _do_nothing() -> None:
    pass


class Follower(Generic[F]):
    """An open file that was read up to the end of its last sound transaction, and continues to be read from there."""

    def __init__(self, file: File, read: Callable[[FileSnapshot], F]) -> None:
        self._file = file
        self._snapshot = FileSnapshot(file)
        self.record_file = read(self._snapshot)
        self._size = self._snapshot.size()
        self._mark = self._read_mark(self.record_file.settled_end)

    def read_on(self) -> list[bytes]:
        """Make what was appended current, as look_ahead() finds it; return the oids that it changes."""
        appended = self.look_ahead()
        appended.accept()
        return appended.oids

    def look_ahead(self) -> Appended:
        """Read the complete, sound transactions that were appended, and change nothing before they are accepted.

        FileError with ESTALE if the file was truncated or rewritten, DamageError if it is damaged.
        """
        record_file = self.record_file
        while True:
            size = self._snapshot.look_again()
            end = record_file.settled_end
            if size < end:
                raise self._error(f"it ends at byte {size}, before byte {end}, up to which it was read")
            if self._read_mark(end) != self._mark:
                raise self._error(f"the bytes before byte {end} have changed")
            if size == self._size and record_file.tail is None:
                return Appended([], _do_nothing, end)
            try:
                appended = record_file.look_ahead()
            except DamageError:
                if self._file.size() < size:
                    continue  # an append that failed was cut off meanwhile
                raise
            mark = self._read_mark(appended.settled_end)  # now: when it is accepted, an error would come too late
            accept = functools.partial(self._accept, appended, size, mark)
            return Appended(appended.oids, accept, appended.settled_end)

    def _accept(self, appended: Appended, size: int, mark: bytes) -> None:
        appended.accept()
        self._size, self._mark = size, mark

    def _read_mark(self, end: int) -> bytes:
        start = max(0, end - _MARK_SIZE)
        return self._file.read_at(start, end - start)

    def _error(self, problem: str) -> FileError:
        return FileError(
            errno.ESTALE,
            f"the file has been cut, repaired or rewritten since it was opened: {problem}; close the storage and open "
            "it again",
            self._file.path,
        )
