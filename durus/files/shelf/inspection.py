"""Find all faults of a SHELF-1 file, and continue after each where this is possible.

The modules scan, offset_map and contents decide what is sound; this module only goes through the file.
"""

from collections.abc import Iterable, Iterator

from durus.error import DamageError
from durus.files.entry_index import PLACE
from durus.files.file import ReadableFile, new_name
from durus.files.forward_reader import ForwardReader, Unsound
from durus.files.inspection import Figures, FileInspection, Finding, Heading, Sealed
from durus.files.read_ahead import ReadAhead
from durus.files.shelf import recover
from durus.files.shelf.block_table import BLOCK_SIZE, locate_block_table, parse_block_table
from durus.files.shelf.layout import BASE_START, ENTRY_FRAME_SIZE, ENTRY_HEAD, NAME, SEAL_SIZE, U64, parse_seal
from durus.files.shelf.offset_map import OffsetMap
from durus.files.shelf.scan import Transaction, scan_entries, scan_transactions
from durus.files.shelf.shelf import EMPTY_FILE, Shelf, checksum_of, read_entry, read_header
from durus.oid import BLOCK_TABLE_OID, SEAL_OID, oid_from_int, oid_to_int
from durus.text import command

_WORDS_START = 24
"""The offset of the words in an offset map."""


class ShelfInspection(FileInspection[Shelf]):
    """One inspection of a SHELF-1 file."""

    empty_file = EMPTY_FILE
    format_name = NAME
    frame_size = ENTRY_FRAME_SIZE
    unsealed_size = 0
    """The number of bytes after the last seal, which no seal covers. [SHELF-16]"""

    def _open(self, file: ReadableFile) -> Shelf:
        return Shelf(file)

    def _read_entry(self, source: ReadAhead, oid: bytes, offset: int) -> bytes:
        return read_entry(source, self.size, oid, offset)

    def figures(self) -> Figures:
        sealed: Sealed
        if not self.unsealed_size:
            sealed, remark = "all", "sealed to its end"
        elif self.unsealed_size < self.size:
            sealed, remark = "part", f"the last {self.unsealed_size} bytes have no seal yet"
        else:
            sealed, remark = "none", "no seals (as Durus 4.3 writes it)" if self.objects else "no seals"
        return Figures(self.objects, self.transactions, sealed, remark)

    def heading(self) -> Heading:
        shelf = self.records
        start = shelf.map.end
        transactions = unsealed = 0
        first_seal = last_seal = None
        entries_size = shelf.map.start - BASE_START - U64.size
        for each in scan_transactions(shelf.file, start, shelf.end, shelf.base_checksum):
            if each.places:
                transactions += 1
                unsealed += each.seal is None
                entries_size += each.end - each.start - U64.size - (SEAL_SIZE if each.seal else 0)
            if each.seal is not None:
                last_seal = each.seal.time
                first_seal = first_seal or last_seal
        sealed: Sealed = "all" if shelf.is_sealed else "part"
        return Heading(
            format=NAME,
            size=self.size,
            packed_size=start,
            entries_size=entries_size,
            transactions=transactions,
            unsealed_transactions=unsealed,
            sealed=sealed if last_seal else "none",
            first_seal=first_seal,
            last_seal=last_seal,
            tail=None if shelf.tail is None else shelf.tail.problem,
        )

    def _layout_findings(self) -> Iterator[Finding]:
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

    def _base_findings(self, offset_map: OffsetMap) -> Iterator[Finding]:
        mapped = dict(offset_map.offsets())
        reader = ForwardReader(self._file, 0, offset_map.start, 0)
        reader.advance(BASE_START + U64.size)
        try:
            entries = list(PLACE.iter_unpack(scan_entries(reader, BASE_START, offset_map.start)[0]))
        except Unsound as unsound:
            self._is_complete = False
            yield Finding(unsound.fault_offset, None, unsound.problem)
            self._offsets = mapped
        else:
            self._offsets = dict(entries)
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
            if oid not in self._offsets:
                word = offset_map.start + _WORDS_START + oid_to_int(oid) * offset_map.word_size
                yield Finding(word, oid, f"the offset map leads to byte {offset}, where no entry of this oid starts")

    def _hole_findings(self, offset_map: OffsetMap, mapped: dict[bytes, int]) -> Iterator[Finding]:
        free = [number for number in range(offset_map.count) if oid_from_int(number) not in mapped]
        try:
            if list(offset_map.holes()) != free[::-1]:
                yield Finding(offset_map.start, None, "the chain of free oids in the offset map is not complete")
        except DamageError as error:
            yield Finding(error.offset, None, error.problem)

    def _reserved_findings(self, start: int, end: int, entries: Iterable[tuple[bytes, int]]) -> Iterator[Finding]:
        """Note entries from `start` to `end` that are not an object, a seal or a block table. [REC-3]"""
        objects = {offset for _, offset in entries}
        offset = start
        while offset < end and len(head := self._file.read_at(offset, ENTRY_HEAD.size)) == ENTRY_HEAD.size:
            length, oid, _, _ = ENTRY_HEAD.unpack(head)
            if offset not in objects and oid not in (SEAL_OID, BLOCK_TABLE_OID):
                yield Finding(offset, oid, "an entry with an unknown reserved oid, which is ignored", is_fault=False)
            offset += U64.size + length

    def _block_findings(self, end: int, checksum: int) -> Iterator[Finding]:
        """Compare the packed part, which ends at `end` and has this checksum, with its block table. [SHELF-45]"""
        table_offset, size = locate_block_table(end)
        entry = self._file.read_at(table_offset, size)
        if not entry.startswith(BLOCK_TABLE_OID, U64.size):
            return
        table = parse_block_table(entry, end)
        if table is None:
            yield Finding(table_offset, BLOCK_TABLE_OID, "this is not the block table of the packed part")
            return
        if table.checksum != checksum:
            problem = (
                f"the checksum of the packed part is {checksum:08x}, but the block table says {table.checksum:08x}"
            )
            yield Finding(table_offset, BLOCK_TABLE_OID, problem)
        for number, offset in enumerate(range(0, end, BLOCK_SIZE)):
            block = self._file.read_at(offset, min(BLOCK_SIZE, end - offset))
            if fault := table.fault(number, block):
                yield Finding(offset, None, fault)

    def _tail_remedy(self, path: str) -> str:
        salvage = command("salvage", path, new_name(path, "salvaged"))
        return f"{super()._tail_remedy(path)}; if nothing has crashed, {salvage} copies what is sound"

    def _transaction_findings(self, resume: tuple[int, int] | None) -> Iterator[Finding]:
        """Go through the transactions from (file offset, running checksum) on, if there is such an offset."""
        unsealed_from = written_to = 0
        may_be_repaired = self._is_complete
        while resume is not None:
            written_to = resume[0]
            last: Transaction | None = None
            try:
                for last in scan_transactions(self._file, resume[0], self.size, resume[1]):
                    entries = last.entries
                    self.transactions += bool(entries)
                    self._offsets.update(entries)
                    if last.seal is not None:
                        unsealed_from = last.end
                    if entries or last.seal is not None:
                        written_to = last.end
                    yield from self._reserved_findings(last.start + U64.size, last.end, entries)
                resume = None
            except Unsound as unsound:
                yield self._unsound_finding(recover.explain(self._file, unsound, last), may_be_repaired)
                self._offsets.update(self._doubtful_entries(unsound))
                self._is_complete = may_be_repaired = False
                resume = self._resume_after(unsound.start)
                if resume is not None:
                    unsealed_from = resume[0]
        self.unsealed_size = self.size - unsealed_from
        if written_to:
            yield from self._zeros_findings(written_to)

    def _doubtful_entries(self, unsound: Unsound) -> list[tuple[bytes, int]]:
        """Return the entries of a transaction in which only the checksum is wrong: they may show what is damaged."""
        if not unsound.is_checksum_mismatch:
            return []
        end = unsound.end - SEAL_SIZE
        reader = ForwardReader(self._file, unsound.start, end, 0)
        reader.advance(U64.size)
        return list(PLACE.iter_unpack(scan_entries(reader, unsound.start, end)[0]))

    def _resume_after(self, offset: int) -> tuple[int, int] | None:
        """Return end and checksum of the first seal that is at its own offset, at or after `offset`. [SHELF-25]"""
        for end in recover.seals_after(self._file, offset, self.size):
            seal = parse_seal(self._file.read_at(end - SEAL_SIZE, SEAL_SIZE))
            if seal is not None:
                return end, seal.checksum
        return None
