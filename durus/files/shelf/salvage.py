"""What can still be read in a damaged SHELF-1 file, and which checksums vouch for it. Statements SALV-1 to SALV-6.

The checksums divide the file into parts: the blocks of the packed part, and the bytes between two seals. Each part is
either sound or not. If one flipped bit explains a wrong checksum, the bit is corrected in memory, and only the entry
that contains it counts as damaged. Nothing here writes.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple
from zlib import crc32

from durus.error import DamageError, DurusError, FormatError
from durus.files.file import ReadableFile
from durus.files.forward_reader import CHUNK_SIZE, Unsound
from durus.files.shelf.block_table import BLOCK_SIZE, BlockTable, locate_block_table, parse_block_table
from durus.files.shelf.flipped_bit import find_flipped_bit
from durus.files.shelf.layout import (
    BASE_START,
    ENTRY_HEAD,
    SEAL_COVERED_SIZE,
    SEAL_SIZE,
    SMALLEST_ENTRY,
    U64,
    Seal,
    has_seal_layout,
    parse_seal,
)
from durus.files.shelf.offset_map import OffsetMap
from durus.files.shelf.recover import seals_after
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import read_header
from durus.files.snapshot import FileSnapshot
from durus.oid import BLOCK_TABLE_OID, FIRST_RESERVED_OID
from durus.records.contents import read_contents
from durus.records.plain import check_plain
from durus.records.record import join_refs, unpack_record

MAX_MENDED = 1 << 18
"""The largest part in which a flipped bit is searched for: in a larger one, a bit could too often explain other damage
by chance."""

_MAP_HEAD = re.compile(rb"(?=\0\0.{6}\0{7}[\x01-\x08])", re.DOTALL)
"""Matches a possible start of an offset map: the number of bytes that follow in it, and the size of a word."""
_MAP_HEAD_SIZE = 16

Quality = Literal["sound", "unsealed", "doubtful"]
"""All bytes of an entry match a checksum; no checksum covers the entry; or a checksum that covers it does not match."""


class Entry(NamedTuple):
    """An object entry that is complete as far as its lengths tell."""

    oid: bytes
    offset: int
    end: int
    quality: Quality


class Damage(NamedTuple):
    """Bytes of the file that do not match their checksum, or are not a transaction."""

    start: int
    end: int
    problem: str


class _Mended:
    """A file of fixed size, in which some flipped bits are corrected."""

    def __init__(self, file: FileSnapshot) -> None:
        self.path = file.path
        self._file = file
        self.bits: dict[int, int] = {}
        """The flipped bit of a byte, as a mask, by offset."""

    def size(self) -> int:
        return self._file.size()

    def read_at(self, offset: int, size: int) -> bytes:
        data = self._file.read_at(offset, size)
        hit = [each for each in self.bits if offset <= each < offset + len(data)]
        if not hit:
            return data
        changed = bytearray(data)
        for each in hit:
            changed[each - offset] ^= self.bits[each]
        return bytes(changed)

    def close(self) -> None:
        self._file.close()


class DamagedShelf:
    """A SHELF-1 file in any condition. Iterate over entries() once; the other attributes then say what was found."""

    def __init__(self, file: ReadableFile) -> None:
        self.file = _Mended(FileSnapshot(file))
        self.damage: list[Damage] = []
        self._bad_blocks: set[int] = set()

    @property
    def mended(self) -> list[int]:
        """The offsets of bytes in which a flipped bit was corrected."""
        return sorted(self.file.bits)

    def is_hit(self, start: int, end: int) -> bool:
        """Return whether a bit was corrected in one of these bytes."""
        return any(start <= offset < end for offset in self.file.bits)

    def judged(self, entry: Entry) -> Entry:
        """Return an entry as what it counts as: doubtful if a bit was corrected in it, or if it can't be read. [SALV-3]

        An entry that a checksum vouches for is not read.
        """
        is_doubtful = self.is_hit(entry.offset, entry.end) or (
            entry.quality == "unsealed" and not is_plausible(self.record_at(entry.offset))
        )
        return entry._replace(quality="doubtful") if is_doubtful else entry

    def record_at(self, offset: int) -> bytes:
        """Return the record in the entry at an offset."""
        length = U64.unpack(self.file.read_at(offset, U64.size))[0]
        return self.file.read_at(offset + 2 * U64.size, length - U64.size)

    def entries(self) -> Iterator[Entry]:
        """Yield the object entries, the oldest first. FormatError if nothing in the file is part of a SHELF-1 file."""
        offset_map, end, checksum, quality = self._packed_part()
        if end is None:
            seal = self._seal_after(0)
            if seal is None:
                raise FormatError(f"{self.file.path}: this is not a SHELF-1 file: it has neither a header nor a seal")
            self.damage.append(Damage(0, seal.end, "neither the header nor what follows it can be read"))
            end, checksum = seal.end, seal.checksum
        elif offset_map is not None:
            yield from self._packed_entries(offset_map.start, offset_map, quality)
        else:
            yield from self._packed_entries(end, None, quality)
        yield from self._later_entries(end, checksum)

    # The packed part

    def _packed_part(self) -> tuple[OffsetMap | None, int | None, int, Quality]:
        """Return the offset map, the end of the packed part, its checksum, and the quality of its bytes.

        The map is None if it can't be read, the end is None if it is not known.
        """
        end = self._end_of_packed_part()
        table = None if end is None else self._table_of(end)
        if table is None:
            end = self._find_block_table()
            table = None if end is None else self._table_of(end)
        if end is None or table is None:
            return self._packed_part_by_seal()
        checksum = _checksum(self.file, 0, end, 0)
        seal = self._seal_after(end)
        if seal is None or _checksum(self.file, end, seal.offset + SEAL_COVERED_SIZE, checksum) != seal.checksum:
            checksum = table.checksum
            self._look_at_blocks(end, table)
        return self._map_that_ends(end), end, checksum, "sound"

    def _table_of(self, end: int) -> BlockTable | None:
        """Return the block table of a packed part, vouched for by a seal or not: a block that matches it is sound."""
        offset, size = locate_block_table(end)
        return parse_block_table(self.file.read_at(offset, size), end)

    def _packed_part_by_seal(self) -> tuple[OffsetMap | None, int | None, int, Quality]:
        """Do the same without a block table."""
        seal = self._seal_after(0)
        quality = self._quality_without_seal(0)
        if seal is not None:
            quality = "sound" if self._vouches(0, seal, 0) or self._mend_first_seal() else "doubtful"
        end = self._end_of_packed_part()
        if end is None:
            return None, None, 0, quality
        if quality == "doubtful":
            self.damage.append(Damage(0, end, "no seal has the checksum of these bytes"))
        return self._map_that_ends(end), end, _checksum(self.file, 0, end, 0), quality

    def _mend_first_seal(self) -> bool:
        """Correct one flipped bit of the first seal; return whether everything before the seal is then sound."""
        end = self._end_of_packed_part()
        if end is None:
            return False
        try:
            for _ in scan_transactions(self.file, end, self.file.size(), _checksum(self.file, 0, end, 0)):
                pass
        except Unsound as unsound:
            return self._mend_seal(0, unsound.end - SEAL_SIZE, 0)
        return False

    def _end_of_packed_part(self) -> int | None:
        try:
            return int(read_header(self.file).end)
        except (FormatError, DamageError):
            return None

    def _map_that_ends(self, end: int) -> OffsetMap | None:
        """Return the offset map that ends at a byte: the one to which the header leads, or else one found by search."""
        try:
            offset_map = read_header(self.file)
            if offset_map.end == end:
                return offset_map
        except (FormatError, DamageError):
            pass  # the header is damaged
        view = FileSnapshot(self.file, end)
        for start in range(0, end, CHUNK_SIZE):
            for found in _MAP_HEAD.finditer(view.read_at(start, CHUNK_SIZE + _MAP_HEAD_SIZE)):
                offset = start + found.start()
                if U64.unpack(view.read_at(offset, U64.size))[0] == end - offset - U64.size:
                    with contextlib.suppress(DamageError):
                        return OffsetMap(view, offset)
        return None

    def _find_block_table(self) -> int | None:
        """Return the end of the packed part whose block table is in the file; None if the file has no block table."""
        head = BLOCK_TABLE_OID * 2
        before = locate_block_table(0)[0] + U64.size
        for start in range(0, self.file.size(), CHUNK_SIZE):
            data = self.file.read_at(start, CHUNK_SIZE + len(head))
            index = data.find(head)
            while index >= 0:
                end = start + index - before
                if end > 0 and self._table_of(end) is not None:
                    return end
                index = data.find(head, index + 1)
        return None

    def _look_at_blocks(self, end: int, table: BlockTable) -> None:
        for number, start in enumerate(range(0, end, BLOCK_SIZE)):
            block = self.file.read_at(start, min(BLOCK_SIZE, end - start))
            fault = table.fault(number, block)
            if fault is None:
                continue
            stated = int.from_bytes(table.blocks[4 * number : 4 * number + 4], "big")
            found = find_flipped_bit(len(block), crc32(block), stated)
            if found is None:
                self._bad_blocks.add(number)
                self.damage.append(Damage(start, start + len(block), fault))
            else:
                self.file.bits[start + found[0]] = 1 << found[1]

    def _packed_entries(self, stop: int, offset_map: OffsetMap | None, quality: Quality) -> Iterator[Entry]:
        """Yield the entries of the first transaction, which ends at `stop` at the latest.

        The map gives their offsets, and each one follows another: if one of these two sources is damaged, the other
        still finds the entry.
        """
        first = BASE_START + U64.size
        starts = {first: self._is_good(first, first + 1)}
        # True for an offset that is known from sound bytes.
        if offset_map is not None:
            words = offset_map.start + U64.size * 3
            for oid, offset in offset_map.offsets():
                word = words + int.from_bytes(oid, "big") * offset_map.word_size
                is_good = self._is_good(word, word + offset_map.word_size)
                starts[offset] = is_good or starts.get(offset, False)
        known: set[int] = set()
        for start, is_sure in sorted(starts.items(), key=lambda item: not item[1]):
            offset = start
            while offset not in known and (entry := self._entry_at(offset, stop, quality)) is not None:
                known.add(offset)
                is_sure = is_sure and self._is_good(offset, entry.end)
                yield entry if is_sure else entry._replace(quality="doubtful")
                offset = entry.end
                is_sure = is_sure or starts.get(offset, False)

    def _is_good(self, start: int, end: int) -> bool:
        return not self._bad_blocks or self._bad_blocks.isdisjoint(
            range(start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE + 1)
        )

    # What follows it

    def _later_entries(self, start: int, checksum: int) -> Iterator[Entry]:
        """Yield the entries from `start` on, which is the end of the packed part or of a seal."""
        size = self.file.size()
        while start < size:
            pending: list[Entry] = []
            last_start = start
            try:
                for each in scan_transactions(self.file, start, size, checksum):
                    entries = each.entries
                    for (_, offset), stop in zip(entries, _stops(entries, each.end), strict=True):
                        entry = self._entry_at(offset, stop, "unsealed")
                        if entry is not None:
                            pending.append(entry)
                    if each.seal is not None:
                        yield from (entry._replace(quality="sound") for entry in pending)
                        pending = []
                        start, checksum = each.end, each.checksum
                    last_start = each.end
                yield from pending
                return
            except Unsound as unsound:
                if self._mend_seal(start, unsound.end - SEAL_SIZE, checksum):
                    continue
                seal = self._seal_after(max(last_start, start))
                if seal is not None and self._vouches(start, seal, checksum):
                    continue
                if seal is None:
                    quality = self._quality_without_seal(start)
                    yield from (entry._replace(quality=quality) for entry in pending)
                    yield from self._doubtful_entries(last_start, size)
                    self.damage.append(Damage(unsound.start, size, unsound.problem))
                    return
                yield from self._doubtful_entries(start, seal.offset)
                self.damage.append(Damage(start, seal.end, unsound.problem))
                start, checksum = seal.end, seal.checksum

    def _doubtful_entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Yield what looks like entries in transactions from `start` on."""
        while start + U64.size <= stop:
            end = min(start + U64.size + U64.unpack(self.file.read_at(start, U64.size))[0], stop)
            offset = start + U64.size
            while (entry := self._entry_at(offset, end, "doubtful")) is not None:
                if entry.oid < FIRST_RESERVED_OID:
                    yield entry
                offset = entry.end
            start = end

    def _entry_at(self, offset: int, stop: int, quality: Quality) -> Entry | None:
        """Return the entry at an offset; None if there is none that ends at `stop` or before."""
        head = self.file.read_at(offset, ENTRY_HEAD.size)
        if len(head) < ENTRY_HEAD.size:
            return None
        length, oid, record_oid, data_size = ENTRY_HEAD.unpack(head)
        refs_size = length - SMALLEST_ENTRY - data_size
        end = offset + U64.size + length
        if oid != record_oid or not data_size or refs_size < 0 or refs_size & 7 or end > stop:
            return None
        return Entry(oid, offset, end, quality)

    def _quality_without_seal(self, start: int) -> Quality:
        """Return the quality of complete transactions from `start` on that no seal at its own offset follows."""
        for offset in range(start, self.file.size(), CHUNK_SIZE):
            if has_seal_layout(self.file.read_at(offset, CHUNK_SIZE + SEAL_SIZE - 1)):
                return "doubtful"  # bytes were lost or inserted, so the seal is not at its own offset
        return "unsealed"

    def _seal_after(self, start: int) -> Seal | None:
        for end in seals_after(self.file, start, self.file.size()):
            return parse_seal(self.file.read_at(end - SEAL_SIZE, SEAL_SIZE))
        return None

    # Flipped bits

    def _vouches(self, start: int, seal: Seal, checksum: int) -> bool:
        """Whether a seal has the checksum of the bytes from `start` on, perhaps after one flipped bit is corrected."""
        stop = seal.offset + SEAL_COVERED_SIZE
        computed = _checksum(self.file, start, stop, checksum)
        if computed == seal.checksum:
            return self._is_sound(start, seal.end, checksum)
        if stop - start > MAX_MENDED:
            return False
        found = find_flipped_bit(stop - start, computed, seal.checksum)
        return found is not None and self._try(start + found[0], 1 << found[1], start, seal.end, checksum)

    def _mend_seal(self, start: int, offset: int, checksum: int) -> bool:
        """Correct one flipped bit of the seal that should be at `offset`; True if all from `start` on is then sound."""
        data = self.file.read_at(offset, SEAL_SIZE) if offset > start else b""
        if len(data) < SEAL_SIZE:
            return False
        covered = _checksum(self.file, start, offset, checksum)
        for index in range(SEAL_SIZE):
            for bit in range(8):
                changed = bytearray(data)
                changed[index] ^= 1 << bit
                seal = parse_seal(bytes(changed))
                if (
                    seal is not None
                    and seal.offset == offset
                    and crc32(changed[:SEAL_COVERED_SIZE], covered) == seal.checksum
                ):
                    return self._try(offset + index, 1 << bit, start, seal.end, checksum)
        return False

    def _try(self, offset: int, bit: int, start: int, end: int, checksum: int) -> bool:
        """Flip a bit; return whether the bytes from `start` to `end` are then sound. If not, flip it back."""
        self.file.bits[offset] = bit
        if self._is_sound(start, end, checksum):
            return True
        del self.file.bits[offset]
        return False

    def _is_sound(self, start: int, end: int, checksum: int) -> bool:
        view = FileSnapshot(self.file, end)
        try:
            if not start:
                start = read_header(view).end
                checksum = _checksum(view, 0, start, 0)
            for _ in scan_transactions(view, start, end, checksum):
                pass
        except (Unsound, FormatError, DamageError):
            return False
        return True


def is_plausible(record: bytes) -> bool:
    """Whether a record that no checksum vouches for can be read, and lists the references in its state. [SALV-8]"""
    try:
        _, data, refs = unpack_record(record)
        used = read_contents(data).refs
        check_plain(data)
        return refs == join_refs(record[:8], used)
    except DurusError:
        return False


def _stops(entries: list[tuple[bytes, int]], end: int) -> list[int]:
    """Return the latest possible end of each entry of a transaction."""
    return [offset for _, offset in entries[1:]] + [end] if entries else []


def _checksum(file: ReadableFile, start: int, end: int, checksum: int) -> int:
    for offset in range(start, end, CHUNK_SIZE):
        checksum = crc32(file.read_at(offset, min(CHUNK_SIZE, end - offset)), checksum)
    return checksum
