"""Looking for all faults of a SHELF-1 file, and going on behind each where that can be done.

What is sound is decided by scan.py, offset_map.py and contents.py; here is only the going through.
Nothing is written, no lock is taken, and what others append meanwhile is left alone.
"""

from collections.abc import Iterable, Iterator

from durus.error import DamageError, UnsoundTailError
from durus.files.file import File
from durus.files.file_format import is_unfinished_creation
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.inspection import Finding, record_findings
from durus.files.read_ahead import ReadAhead
from durus.files.shelf import recover
from durus.files.shelf.block_table import BLOCK_SIZE, locate_block_table, parse_block_table
from durus.files.shelf.layout import BASE_START, ENTRY_HEAD, SEAL_SIZE, U64, parse_seal
from durus.files.shelf.offset_map import OffsetMap
from durus.files.shelf.scan import Transaction, scan_entries, scan_transactions
from durus.files.shelf.shelf import EMPTY_FILE, checksum_of, read_entry, read_header
from durus.files.snapshot import snapshot_of
from durus.oid import BLOCK_TABLE_OID, ROOT_OID, SEAL_OID, oid_from_int, oid_to_int

_WORDS_START = 24
"""Where in an offset map its words start."""


class ShelfInspection:
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
        self.unsealed_size = 0
        """How many bytes stand behind the last seal, covered by none. [SHELF-16]"""

    def findings(self) -> Iterator[Finding]:
        """Yield all findings, in the order in which they are met. FormatError if it is no SHELF-1 file."""
        if is_unfinished_creation(self._file, EMPTY_FILE):
            problem = "the file was made and nothing put into it yet; opening it for writing makes it a database"
            yield Finding(self.size, None, problem)
            return
        resume: tuple[int, int] | None
        try:
            offset_map = read_header(self._file)
        except DamageError as error:
            self._is_complete = False
            yield Finding(error.offset, None, error.problem)
            resume = self._resume_after(0)
        else:
            checksum = checksum_of(self._file, offset_map.end)
            yield from self._base_findings(offset_map)
            yield from self._block_findings(offset_map.end, checksum)
            resume = offset_map.end, checksum
        yield from self._transaction_findings(resume)
        yield from self._record_findings()

    def _base_findings(self, offset_map: OffsetMap) -> Iterator[Finding]:
        mapped = dict(offset_map.offsets())
        reader = ForwardReader(self._file, 0, offset_map.start, 0)
        reader.advance(BASE_START + U64.size)
        try:
            entries, _ = scan_entries(reader, BASE_START, offset_map.start)
        except Unsound as unsound:
            self._is_complete = False
            yield Finding(unsound.fault_offset, None, unsound.problem)
            self._positions = mapped
        else:
            self._positions = dict(entries)
            yield from self._reserved_findings(BASE_START + U64.size, offset_map.start, entries)
            yield from self._map_findings(offset_map, entries, mapped)
        yield from self._hole_findings(offset_map, mapped)

    def _map_findings(
        self, offset_map: OffsetMap, entries: Iterable[tuple[bytes, int]], mapped: dict[bytes, int]
    ) -> Iterator[Finding]:
        for oid, offset in entries:
            if mapped.get(oid) != offset:
                yield Finding(offset, oid, "the offset map does not lead to this entry of the first transaction")
        for oid, offset in mapped.items():
            if oid not in self._positions:
                place = offset_map.start + _WORDS_START + oid_to_int(oid) * offset_map.word_size
                yield Finding(place, oid, f"the offset map leads to byte {offset}, where no entry of this oid starts")

    def _hole_findings(self, offset_map: OffsetMap, mapped: dict[bytes, int]) -> Iterator[Finding]:
        free = [number for number in range(offset_map.count) if oid_from_int(number) not in mapped]
        try:
            if list(offset_map.holes()) != free[::-1]:
                yield Finding(offset_map.start, None, "the chain of free oids in the offset map is not complete")
        except DamageError as error:
            yield Finding(error.offset, None, error.problem)

    def _reserved_findings(self, start: int, end: int, entries: Iterable[tuple[bytes, int]]) -> Iterator[Finding]:
        """Note what stands among the entries from `start` to `end` and is no object, seal or block table. [REC-3]"""
        objects = {offset for _, offset in entries}
        place = start
        while place < end and len(head := self._file.read_at(place, ENTRY_HEAD.size)) == ENTRY_HEAD.size:
            length, oid, _, _ = ENTRY_HEAD.unpack(head)
            if place not in objects and oid not in (SEAL_OID, BLOCK_TABLE_OID):
                yield Finding(place, oid, "an entry of a reserved oid that is not known is passed over", is_fault=False)
            place += U64.size + length

    def _block_findings(self, end: int, checksum: int) -> Iterator[Finding]:
        """Compare the packed part, which ends at `end` and has this checksum, with its block table. [SHELF-45]"""
        place, size = locate_block_table(end)
        entry = self._file.read_at(place, size)
        if not entry.startswith(BLOCK_TABLE_OID, U64.size):
            return
        table = parse_block_table(entry, end)
        if table is None:
            yield Finding(place, BLOCK_TABLE_OID, "what stands here is no block table of the packed part")
            return
        if table.checksum != checksum:
            problem = f"it says {table.checksum:08x} of the packed part, whose checksum is {checksum:08x}"
            yield Finding(place, BLOCK_TABLE_OID, problem)
        for number, offset in enumerate(range(0, end, BLOCK_SIZE)):
            block = self._file.read_at(offset, min(BLOCK_SIZE, end - offset))
            if fault := table.fault(number, block):
                yield Finding(offset, None, fault)

    def _transaction_findings(self, resume: tuple[int, int] | None) -> Iterator[Finding]:
        """Go through the transactions from (file offset, running checksum) on, if there is such a place."""
        unsealed_from = 0
        may_be_repaired = self._is_complete
        while resume is not None:
            last: Transaction | None = None
            try:
                for last in scan_transactions(self._file, resume[0], self.size, resume[1]):
                    self.transactions += 1
                    self._positions.update(last.entries)
                    if last.seal is not None:
                        unsealed_from = last.end
                    yield from self._reserved_findings(last.start + U64.size, last.end, last.entries)
                resume = None
            except Unsound as unsound:
                yield self._unsound_finding(unsound, last, may_be_repaired)
                self._positions.update(self._doubtful_entries(unsound))
                self._is_complete = may_be_repaired = False
                resume = self._resume_after(unsound.start)
                if resume is not None:
                    unsealed_from = resume[0]
        self.unsealed_size = self.size - unsealed_from

    def _unsound_finding(self, unsound: Unsound, before: Transaction | None, may_be_repaired: bool) -> Finding:
        error = recover.explain(self._file, unsound, before)
        if not isinstance(error, UnsoundTailError):
            return Finding(error.offset, None, error.problem)
        if self._live_file.size() > self.size:
            problem = "a commit was under way when the check began; what stands behind this place was not looked at"
            return Finding(error.offset, None, problem, is_fault=False)
        remedy = "; `durus -c --repair` cuts it off" if may_be_repaired else ""
        return Finding(error.offset, None, error.problem + remedy)

    def _doubtful_entries(self, unsound: Unsound) -> list[tuple[bytes, int]]:
        """Return the entries of a transaction that has only a wrong checksum: a look at them can tell which is hurt."""
        if not unsound.is_checksum_mismatch:
            return []
        end = unsound.end - SEAL_SIZE
        reader = ForwardReader(self._file, unsound.start, end, 0)
        reader.advance(U64.size)
        return scan_entries(reader, unsound.start, end)[0]

    def _resume_after(self, offset: int) -> tuple[int, int] | None:
        """Return end and checksum of the first seal in its own place at or behind `offset`. [SHELF-25]"""
        for end in recover.seals_after(self._file, offset, self.size):
            seal = parse_seal(self._file.read_at(end - SEAL_SIZE, SEAL_SIZE))
            if seal is not None:
                return end, seal.checksum
        return None

    def _record_findings(self) -> Iterator[Finding]:
        self.objects = len(self._positions)
        if self._positions and self._is_complete and ROOT_OID not in self._positions:
            yield Finding(0, ROOT_OID, "there is no root object")
        source = ReadAhead(self._file)
        yield from record_findings(
            sorted(self._positions.items(), key=lambda pair: pair[1]),
            lambda oid, offset: read_entry(source, self.size, oid, offset),
            self._positions.keys() if self._is_complete else None,
        )
