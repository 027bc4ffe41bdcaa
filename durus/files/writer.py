"""Writing a new file from its first byte on, in small steps, whatever its format."""

from collections.abc import Callable, Iterable, Iterator

from durus.files.file import File
from durus.progress import Progress

STEP_RECORDS = 100
"""How many records one step handles at the most."""

_WRITE_SIZE = 1 << 18
_SYNC_SIZE = 1 << 22
"""Bytes after which the file is synced: one sync of all of it would hold up who waits for the step."""


class NewFile:
    """A file that is written as a whole."""

    def __init__(self, file: File) -> None:
        self.file = file
        self._end = 0
        self._synced_to = 0

    def _write(self, data: bytes) -> None:
        self.file.append(data, self._end)
        self._end += len(data)
        if self._end - self._synced_to >= _SYNC_SIZE:
            self.file.sync()
            self._synced_to = self._end

    def _write_records(
        self,
        records: Iterable[tuple[bytes, bytes] | None],
        count: int,
        pack_entry: Callable[[bytes, bytes], bytes],
        note_offset: Callable[[bytes, int], None],
    ) -> Iterator[Progress]:
        """Write the entries of these (oid, record) pairs, of which there are `count`, and note where each stands.

        A None among them is a piece of work, too.
        """
        pending = bytearray()
        number = 0
        for work, found in enumerate(records, 1):
            if found is not None:
                oid, record = found
                note_offset(oid, self._end + len(pending))
                pending += pack_entry(oid, record)
                number += 1
            if len(pending) >= _WRITE_SIZE:
                self._write(bytes(pending))
                pending.clear()
            if work % STEP_RECORDS == 0:
                yield Progress("copy", number, count)
        self._write(bytes(pending))
