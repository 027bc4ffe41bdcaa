"""Finds all damage in a DFS20 file that can be noticed without checksums."""

from collections.abc import Iterator

from durus.error import DamageError
from durus.files.dfs20.dfs20 import Dfs20, read_base, read_entry
from durus.files.dfs20.layout import BASE_START, EMPTY_FILE, END, NAME, U32
from durus.files.dfs20.scan import explain, find_sound_suffix, scan_transactions
from durus.files.file import ReadableFile
from durus.files.forward_reader import Unsound
from durus.files.inspection import Figures, FileInspection, Finding, Heading
from durus.files.read_ahead import ReadAhead


class Dfs20Inspection(FileInspection[Dfs20]):
    """One inspection of a DFS20 file."""

    empty_file = EMPTY_FILE
    format_name = NAME
    frame_size = U32.size

    def _open(self, file: ReadableFile) -> Dfs20:
        return Dfs20(file)

    def _read_entry(self, source: ReadAhead, oid: bytes, offset: int) -> bytes:
        return read_entry(source, self.size, oid, offset)

    def figures(self) -> Figures:
        remark = "no checksums, so changed bytes inside an object are not detected"
        return Figures(self.objects, self.transactions, None, remark)

    def heading(self) -> Heading:
        dfs20 = self.records
        transactions = list(scan_transactions(dfs20.file, dfs20.base_end, dfs20.end))
        entries_size = max(0, dfs20.base_start - BASE_START - len(END))
        entries_size += sum(each.end - each.start - len(END) for each in transactions)
        return Heading(
            format=NAME,
            size=self.size,
            packed_size=dfs20.base_end,
            entries_size=entries_size,
            transactions=sum(bool(each.entries) for each in transactions),
            tail=None if dfs20.tail is None else dfs20.tail.problem,
        )

    def _layout_findings(self) -> Iterator[Finding]:
        try:
            index, start, end = read_base(self._file)
        except DamageError as error:
            yield Finding(error.offset, None, error.problem)
            return  # without the index the layout is unknown
        yield from self._base_findings(index, start)
        yield from self._transaction_findings(end)

    def _base_findings(self, index: dict[bytes, int], end: int) -> Iterator[Finding]:
        """Compare the index with the packed part, which ends at `end`."""
        self._offsets = index.copy()
        entries: dict[bytes, int] = {}
        try:
            for transaction in scan_transactions(self._file, BASE_START, end):
                entries.update(transaction.entries)
        except Unsound as unsound:
            yield Finding(unsound.fault_offset, None, f"in the packed part: {unsound.problem}")
            return
        for oid, offset in entries.items():
            if index.get(oid) != offset:
                yield Finding(offset, oid, "the index does not lead to this entry of the packed part")

    def _transaction_findings(self, offset: int) -> Iterator[Finding]:
        start: int | None = offset
        written_to = offset
        while start is not None:
            written_to = start
            try:
                for transaction in scan_transactions(self._file, start, self.size):
                    if transaction.entries:
                        self.transactions += 1
                        self._offsets.update(transaction.entries)
                        written_to = transaction.end
                start = None
            except Unsound as unsound:
                self._is_complete = False
                yield self._unsound_finding(explain(self._file, unsound))
                start = find_sound_suffix(self._file, unsound.fault_offset + 1, self.size)
        yield from self._zeros_findings(written_to)
