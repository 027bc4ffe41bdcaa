"""Looking for all faults of a SHELF-1 file, and going on behind each where that can be done.

What is sound is decided by scan.py, offset_map.py and stand_in.py; here is only the going through.
"""

from collections.abc import Iterator
from typing import NamedTuple

from durus.error import DamageError, RecordError, UnsoundTailError
from durus.file import File
from durus.oid import ROOT_OID, format_oid
from durus.record import split_oids, unpack_record
from durus.shelf import recover
from durus.shelf.layout import BASE_START, SEAL_SIZE, U64, parse_seal
from durus.shelf.offset_map import OffsetMap
from durus.shelf.scan import ForwardReader, Transaction, Unsound, scan_entries, scan_transactions
from durus.shelf.shelf import checksum_of, open_base, read_entry
from durus.stand_in import read_contents


class Fault(NamedTuple):
    """Something in the file that can't be right."""

    offset: int
    oid: bytes | None
    problem: str

    def __str__(self) -> str:
        whose = "" if self.oid is None else f", oid {format_oid(self.oid)}"
        return f"byte {self.offset}{whose}: {self.problem}"


class Check:
    """One check of a file; its figures are complete when faults() has come to its end."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._size = file.size()
        self._positions: dict[bytes, int] = {}
        self._is_complete = True
        """False once a part of the file could not be read, so that objects may be missing here."""
        self.transactions = 0
        self.objects = 0
        self.unsealed_size = 0
        """How many bytes stand behind the last seal, covered by none. [SHELF-16]"""

    def faults(self) -> Iterator[Fault]:
        """Yield all faults, in the order in which they are met. FormatError if it is no SHELF-1 file."""
        try:
            offset_map = open_base(self._file)
        except DamageError as error:
            yield Fault(error.offset, None, error.problem)
            return
        yield from self._base_faults(offset_map)
        yield from self._transaction_faults(offset_map.end)
        yield from self._record_faults()

    def _base_faults(self, offset_map: OffsetMap) -> Iterator[Fault]:
        reader = ForwardReader(self._file, 0, offset_map.start, 0)
        reader.advance(BASE_START + U64.size)
        try:
            entries, _ = scan_entries(reader, BASE_START, offset_map.start)
        except Unsound as unsound:
            self._is_complete = False
            yield Fault(unsound.place, None, unsound.problem)
            return
        self._positions = dict(entries)
        mapped = dict(offset_map.positions())
        for oid, offset in entries:
            if mapped.get(oid) != offset:
                yield Fault(offset, oid, "the offset map does not lead to this entry of the first transaction")
        for oid, offset in mapped.items():
            if oid not in self._positions:
                yield Fault(offset, oid, "the offset map leads here, but no entry of this oid starts here")
        free = [number for number in range(offset_map.count) if number.to_bytes(8, "big") not in mapped]
        try:
            if list(offset_map.holes()) != free[::-1]:
                yield Fault(offset_map.start, None, "the chain of free oids in the offset map is not complete")
        except DamageError as error:
            yield Fault(error.offset, None, error.problem)

    def _transaction_faults(self, start: int) -> Iterator[Fault]:
        checksum = checksum_of(self._file, start)
        unsealed_from = 0
        last: Transaction | None = None
        resume: int | None = start
        while resume is not None:
            try:
                for last in scan_transactions(self._file, resume, self._size, checksum):
                    self.transactions += 1
                    self._positions.update(last.entries)
                    if last.seal is not None:
                        unsealed_from = last.end
                resume = None
            except Unsound as unsound:
                self._is_complete = False
                error = recover.explain(self._file, unsound, last)
                remedy = "; `durus -c --repair` cuts it off" if isinstance(error, UnsoundTailError) else ""
                yield Fault(error.offset, None, error.problem + remedy)
                resume = next((end for end in recover.seals_behind(self._file, unsound.offset, self._size)), None)
                if resume is not None:
                    seal = parse_seal(self._file.read_at(resume - SEAL_SIZE, SEAL_SIZE))
                    checksum = seal.checksum if seal is not None else 0
                    unsealed_from = resume
        self.unsealed_size = self._size - unsealed_from

    def _record_faults(self) -> Iterator[Fault]:
        self.objects = len(self._positions)
        if self._positions and self._is_complete and ROOT_OID not in self._positions:
            yield Fault(0, ROOT_OID, "there is no root object")
        for oid, offset in sorted(self._positions.items(), key=lambda pair: pair[1]):
            try:
                _, data, refs = unpack_record(read_entry(self._file, self._size, oid, offset))
                stored = split_oids(refs)
                contents = read_contents(data)
            except (RecordError, DamageError) as error:
                yield Fault(offset, oid, str(error))
                continue
            if stored != sorted(contents.refs - {oid}):
                yield Fault(offset, oid, "the references beside its state are not those in its state")
            for ref in stored:
                if self._is_complete and ref not in self._positions:
                    yield Fault(offset, oid, f"it refers to oid {format_oid(ref)}, which has no record")
