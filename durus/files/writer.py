"""Writing a new file from its first byte on, in small steps, whatever its format."""

from collections.abc import Callable, Iterable, Iterator

from durus import progress
from durus.files.file import File
from durus.progress import Progress

_WRITE_SIZE = 1 << 18
_SYNC_SIZE = 1 << 22
"""After how many bytes the file is synced: one sync of everything would make a step too long."""


class NewFile:
    """A file that is written as a whole into `file`, which is new and empty.

    `time` is the time of writing, for a format that stores it.
    """

    def __init__(self, file: File, time: str) -> None:
        self._file = file
        self._time = time
        self._end = 0
        self._synced_to = 0

    def write_base(
        self, records: Iterable[tuple[bytes, bytes] | None], count: int, records_size: int, highest_oid: int
    ) -> Iterator[Progress]:
        """Write the packed part of these (oid, record) pairs, in small steps; a None among them also counts as work.

        There are `count` pairs, with `records_size` bytes in total; `highest_oid` is their highest oid as a number, -1
        if there is none.
        """
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        self._file.append(data, self._end)
        self._end += len(data)
        if self._end - self._synced_to >= _SYNC_SIZE:
            self._file.sync()
            self._synced_to = self._end

    def _write_records(
        self,
        records: Iterable[tuple[bytes, bytes] | None],
        count: int,
        pack_entry: Callable[[bytes, bytes], bytes],
        note_offset: Callable[[bytes, int], None],
    ) -> Iterator[Progress]:
        """Write the entries of these (oid, record) pairs, `count` in number, and note the offset of each."""
        pending = bytearray()
        number = 0
        for work, pair in enumerate(records, 1):
            if pair is not None:
                oid, record = pair
                note_offset(oid, self._end + len(pending))
                pending += pack_entry(oid, record)
                number += 1
                if len(pending) >= _WRITE_SIZE:
                    self._write(bytes(pending))
                    pending.clear()
            if work % progress.STEP_RECORDS == 0:
                yield Progress("copy", number, count)
        self._write(bytes(pending))
