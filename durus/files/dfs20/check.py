"""Looking for all faults of a DFS20 file that can be noticed without checksums.

Nothing is written, no lock is taken, and what others append meanwhile is left alone.
"""

from collections.abc import Iterator

from durus.error import DamageError, UnsoundTailError
from durus.files.dfs20.dfs20 import read_base, read_entry
from durus.files.dfs20.layout import BASE_START, EMPTY_FILE, MAGIC, U64
from durus.files.dfs20.scan import explain, find_sound_suffix, scan_transactions
from durus.files.file import File
from durus.files.file_format import is_unfinished_creation
from durus.files.forward_reader import Unsound
from durus.files.inspection import Finding, record_findings
from durus.files.read_ahead import ReadAhead
from durus.files.snapshot import snapshot_of
from durus.oid import ROOT_OID


class Dfs20Inspection:
    """One check of a file; its figures are complete when findings() has come to its end."""

    def __init__(self, file: File) -> None:
        self._live_file = file
        self._file = snapshot_of(file)
        self.size = self._file.size()
        """The bytes of the file when the check began; what is appended later is not looked at."""
        self._positions: dict[bytes, int] = {}
        self._is_complete = True
        """False once a part of the file could not be read, so that objects may be missing here."""
        self.transactions = 0
        self.objects = 0

    def findings(self) -> Iterator[Finding]:
        """Yield all findings, in the order in which they are met. FormatError if it is no DFS20 file."""
        if is_unfinished_creation(self._file, EMPTY_FILE):
            problem = "the file was made and nothing put into it yet; opening it for writing makes it a database"
            yield Finding(self.size, None, problem)
            return
        try:
            index, _, base_end = read_base(self._file)
        except DamageError as error:
            yield Finding(error.offset, None, error.problem)
            return  # what stands where can't be told without the index
        yield from self._base_findings(index)
        yield from self._transaction_findings(base_end)
        yield from self._record_findings()

    def _base_findings(self, index: dict[bytes, int]) -> Iterator[Finding]:
        self._positions = index.copy()
        (start,) = U64.unpack(self._file.read_at(len(MAGIC), U64.size))
        entries: dict[bytes, int] = {}
        try:
            for transaction in scan_transactions(self._file, BASE_START, start):
                entries.update(transaction.entries)
        except Unsound as unsound:
            yield Finding(unsound.fault_offset, None, f"in the packed part: {unsound.problem}")
            return
        for oid, offset in entries.items():
            if index.get(oid) != offset:
                yield Finding(offset, oid, "the index does not lead to this entry of the packed part")

    def _transaction_findings(self, offset: int) -> Iterator[Finding]:
        start: int | None = offset
        while start is not None:
            try:
                for transaction in scan_transactions(self._file, start, self.size):
                    self.transactions += 1
                    self._positions.update(transaction.entries)
                start = None
            except Unsound as unsound:
                self._is_complete = False
                yield self._unsound_finding(explain(self._file, unsound))
                start = find_sound_suffix(self._file, unsound.fault_offset + 1, self.size)

    def _unsound_finding(self, error: DamageError) -> Finding:
        if not isinstance(error, UnsoundTailError):
            return Finding(error.offset, None, error.problem)
        if self._live_file.size() > self.size:
            problem = "a commit was under way when the check began; what stands behind this place was not looked at"
            return Finding(error.offset, None, problem, is_fault=False)
        return Finding(error.offset, None, f"{error.problem}; `durus -c --repair` cuts it off")

    def _record_findings(self) -> Iterator[Finding]:
        positions = self._positions
        self.objects = len(positions)
        if positions and self._is_complete and ROOT_OID not in positions:
            yield Finding(0, ROOT_OID, "there is no root object")
        source = ReadAhead(self._file)
        yield from record_findings(
            sorted(positions.items(), key=lambda pair: pair[1]),
            lambda oid, offset: read_entry(source, self.size, oid, offset),
            positions.keys() if self._is_complete else None,
        )
