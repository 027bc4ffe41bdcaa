"""The packed copy of a DFS20 file: its packed part and its index record. Statement DFS-13."""

from collections.abc import Iterable, Iterator
from itertools import islice

from durus.dfs20.dfs20 import Dfs20, pack_entry
from durus.dfs20.layout import BASE_START, END, MAGIC, U32, U64, IndexPickle
from durus.dfs20.scan import scan_transactions
from durus.file import File
from durus.new_file import STEP_RECORDS, NewFile
from durus.packer import Committed, Packer
from durus.progress import Progress


class NewDfs20(NewFile):
    """A file that is written as a whole: its packed part, its index record, then transactions."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self.index: dict[bytes, int] = {}
        self.base_end = 0

    def write_base(self, records: Iterable[tuple[bytes, bytes]], count: int, size: int) -> Iterator[Progress]:
        """Write the packed part of `count` (oid, record) pairs, `size` bytes in all, and the index, in small steps."""
        entries_size = size + U32.size * count
        self._write(MAGIC + U64.pack(BASE_START + entries_size + len(END)))
        yield from self._write_records(records, count, pack_entry, self.index.__setitem__)
        self._write(END)
        index_pickle = IndexPickle()
        places = iter(self.index.items())
        while some := list(islice(places, 10 * STEP_RECORDS)):
            index_pickle.add(some)
            yield Progress("copy", count, count)
        self._write(index_pickle.record())
        self.base_end = self._end
        yield Progress("copy", count, count)

    def append(self, records: dict[bytes, bytes]) -> None:
        """Append a transaction of these records."""
        self._write(b"".join([*(pack_entry(oid, record) for oid, record in records.items()), END]))


class Dfs20Packer(Packer[Dfs20]):
    """A Packer from a DFS20 file into one."""

    def __init__(self, source: Dfs20, target: File) -> None:
        super().__init__(source, target)
        self._new = NewDfs20(target)

    def _copy(self) -> Iterator[Progress]:
        return self._new.write_base(self._live_records(), self._live_count, self._live_size)

    def _gen_committed(self) -> Iterator[Committed]:
        for found in scan_transactions(self._source.file, self._followed_to, self._source.end):
            yield Committed(found.entries, found.end, "")

    def _append(self, records: dict[bytes, bytes], time: str) -> None:
        self._new.append(records)

    def open_target(self) -> Dfs20:
        return Dfs20(self._target, (self._new.index, self._new.base_end))
