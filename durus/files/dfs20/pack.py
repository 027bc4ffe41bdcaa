"""The packed copy of a DFS20 file: its packed part and its index record. Statement DFS-13."""

from collections.abc import Iterable, Iterator
from itertools import islice

from durus.error import DamageError
from durus.files.dfs20.dfs20 import Dfs20, if_damaged, pack_entry
from durus.files.dfs20.layout import BASE_START, END, MAGIC, U32, U64, IndexPickle
from durus.files.dfs20.scan import scan_entries
from durus.files.file import File
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.packer import Entry, LateCommit, Packer
from durus.files.writer import NewFile
from durus.progress import STEP_RECORDS, Progress


class NewDfs20(NewFile):
    """A file that is written as a whole: its packed part, and its index record."""

    def __init__(self, file: File, time: str) -> None:
        super().__init__(file, time)
        self.index: dict[bytes, int] = {}
        self.base_start = self.base_end = 0
        """Where the index record starts and ends."""

    def write_base(
        self, records: Iterable[tuple[bytes, bytes] | None], count: int, records_size: int, highest_oid: int
    ) -> Iterator[Progress]:
        self.base_start = BASE_START + records_size + U32.size * count + len(END)
        self._write(MAGIC + U64.pack(self.base_start))
        yield from self._write_records(records, count, pack_entry, self.index.__setitem__)
        self._write(END)
        index_pickle = IndexPickle()
        offsets = iter(self.index.items())
        while some := list(islice(offsets, 10 * STEP_RECORDS)):
            index_pickle.add(some)
            yield Progress("copy", count, count)
        self._write(index_pickle.record())
        self.base_end = self._end
        yield Progress("copy", count, count)


class Dfs20Packer(Packer[Dfs20]):
    """A Packer from a DFS20 file into one."""

    def __init__(self, source: Dfs20, target: File, time: str) -> None:
        self._new_dfs20 = NewDfs20(target, time)
        super().__init__(source, target, self._new_dfs20, time)

    def _gen_entries(self) -> Iterator[list[Entry]]:
        source = self._source
        for start, end in ((BASE_START, source.base_start), (source.base_end, self._snapshot_end)):
            reader = ForwardReader(source.file, start, end, 0)
            while reader.offset < end:
                try:
                    entries = scan_entries(reader, reader.offset, end)
                    while some := list(islice(entries, STEP_RECORDS)):
                        yield some
                except Unsound as unsound:
                    raise DamageError(source.file.path, unsound.fault_offset, unsound.problem, if_damaged) from None

    def _gen_late_commits(self) -> Iterator[LateCommit]:
        source = self._source
        stop = source.end
        while self._followed_to < stop:
            reader = ForwardReader(source.file, self._followed_to, source.end, 0)
            records = {oid: record for oid, _, record in scan_entries(reader, self._followed_to, source.end)}
            yield LateCommit(records, reader.offset)

    def _open_target(self) -> Dfs20:
        new = self._new_dfs20
        return Dfs20(self._target, (new.index, new.base_start, new.base_end))
