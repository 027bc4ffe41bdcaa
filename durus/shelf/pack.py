"""Writing the packed copy of a shelf, step by step, while commits go on. Statements SHELF-30 to SHELF-38.

Three passes, each in small steps: mark what the root reaches, copy that in the order of the file
into the first transaction of the new one, then follow with the transactions that were committed
meanwhile.  A step is over at each yield; between two steps the shelf may be read and appended to.
"""

from array import array
from collections.abc import Iterator
from zlib import crc32

from durus.error import DamageError, FormatError
from durus.file import File
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, format_oid, oid_to_int
from durus.progress import Progress
from durus.record import split_oids, unpack_record
from durus.shelf.layout import MAGIC, U64, pack_entry, pack_transaction
from durus.shelf.offset_map import build_offset_map
from durus.shelf.scan import Unsound, scan_transactions
from durus.shelf.shelf import Shelf

STEP_RECORDS = 100
"""How many records one step handles at the most."""

_WRITE_SIZE = 1 << 18
_SYNC_SIZE = 1 << 22
"""Bytes after which the target is synced: one sync of all of it would hold up who waits for the step."""
_HIGHEST_PACKABLE = 1 << 40


class ShelfPacker:
    """Writes into `target`, a new empty file, what `shelf` holds and its root reaches.

    steps() does all but the last piece of the work; finish() does that piece, and nothing may be
    appended to the shelf between it and the replacing of the file.
    """

    def __init__(self, shelf: Shelf, target: File, time: str) -> None:
        self._shelf = shelf
        self._target = target
        self._time = time
        self._snapshot = dict(shelf.index)
        self._snapshot_end = shelf.end
        self._followed_to = shelf.end
        self._followed_checksum = shelf.checksum
        self._live = bytearray()
        self._live_count = 0
        self._live_size = 0
        self._end = 0
        self._synced_to = 0
        self._checksum = 0
        self.base_checksum = 0
        """The running checksum of the target at the end of its offset map."""
        self._garbage: list[bytes] = []
        self._followed: set[bytes] = set()
        """Oids with a record behind the offset map of the target."""

    def steps(self) -> Iterator[Progress]:
        """Do the work, a step at a time."""
        yield from self._mark()
        yield from self._copy()
        self._target.sync()
        yield from self._follow()
        self._target.sync()
        yield from self._follow()

    def finish(self) -> None:
        """Follow with what was committed since the last step, and sync the target. [SHELF-36]"""
        for _ in self._follow():
            pass
        self._target.sync()

    def removed(self) -> list[bytes]:
        """Return the oids that the shelf has and the target does not."""
        return [oid for oid in self._garbage if oid not in self._followed]

    def _position(self, oid: bytes) -> int | None:
        """Return where the entry of `oid` stands that was current when the pack began."""
        offset = self._snapshot.get(oid)
        return self._shelf.map.position(oid) if offset is None else offset

    def _mark(self) -> Iterator[Progress]:
        """Mark what the root reaches, breadth first, each generation in the order of the file."""
        generation = {ROOT_OID: ROOT_OID} if self._position(ROOT_OID) is not None else {}
        while generation:
            found = [(self._require(oid, referrer), oid) for oid, referrer in generation.items()]
            found.sort()
            for oid in generation:
                self._set_live(oid)
            generation = {}
            for offset, oid in found:
                record = self._shelf.read_entry(oid, offset)
                self._live_count += 1
                self._live_size += 16 + len(record)
                for ref in split_oids(unpack_record(record)[2]):
                    if not self._is_live(ref):
                        generation.setdefault(ref, oid)
                if self._live_count % STEP_RECORDS == 0:
                    yield Progress("mark", self._live_count, None)

    def _require(self, oid: bytes, referrer: bytes) -> int:
        offset = self._position(oid)
        if offset is None or oid >= FIRST_RESERVED_OID:
            raise FormatError(
                f"{self._shelf.file.path}: the object {format_oid(referrer)} refers to oid {format_oid(oid)}, which "
                "does not exist, so the file is not packed; take that reference out first (`durus check` lists all)"
            )
        return offset

    def _copy(self) -> Iterator[Progress]:
        """Write the first transaction, the offset map and the seal that covers both."""
        self._write(MAGIC + U64.pack(self._live_size))
        offsets = array("Q", bytes(8 * self._highest_live()))
        copied = 0
        pending = bytearray()
        for oid, offset in self._snapshot_positions():
            if not self._is_live(oid):
                if oid < FIRST_RESERVED_OID:
                    self._garbage.append(oid)
                continue
            offsets[oid_to_int(oid)] = self._end + len(pending)
            pending += pack_entry(oid, self._shelf.read_entry(oid, offset))
            copied += 1
            if len(pending) >= _WRITE_SIZE:
                self._write(bytes(pending))
                pending.clear()
            if copied % STEP_RECORDS == 0:
                yield Progress("copy", copied, self._live_count)
        self._write(bytes(pending))
        for piece in build_offset_map(offsets, self._end):
            self._write(piece)
            yield Progress("copy", copied, self._live_count)
        self.base_checksum = self._checksum
        self._append([], self._time)
        yield Progress("copy", copied, self._live_count)

    def _snapshot_positions(self) -> Iterator[tuple[bytes, int]]:
        newer = self._snapshot
        yield from sorted(
            ((oid, offset) for oid, offset in self._shelf.map.positions() if oid not in newer),
            key=lambda pair: pair[1],
        )
        yield from sorted(newer.items(), key=lambda pair: pair[1])

    def _follow(self) -> Iterator[Progress]:
        """Append the transactions that were committed since, each with what it brings back. [SHELF-35]"""
        shelf = self._shelf
        transactions = scan_transactions(shelf.file, self._followed_to, shelf.end, self._followed_checksum)
        try:
            for transaction in transactions:
                records = {oid: shelf.read_entry(oid, offset) for oid, offset in transaction.entries}
                self._followed.update(records)
                self._bring_back(records)
                if records:
                    entries = [pack_entry(oid, record) for oid, record in records.items()]
                    self._append(entries, transaction.seal.time if transaction.seal else self._time)
                self._followed_to, self._followed_checksum = transaction.end, transaction.checksum
                yield Progress("follow", self._followed_to - self._snapshot_end, None)
        except Unsound as unsound:
            raise DamageError(
                shelf.file.path,
                unsound.place,
                unsound.problem,
                "the file is not packed; look at it with `durus check`",
            ) from None

    def _bring_back(self, records: dict[bytes, bytes]) -> None:
        """Add to `records` the objects they reach that were garbage when the pack began."""
        pending = list(records.items())
        while pending:
            referrer, record = pending.pop()
            for oid in split_oids(unpack_record(record)[2]):
                if not self._is_live(oid) and oid not in self._followed:
                    found = self._shelf.read_entry(oid, self._require(oid, referrer))
                    self._followed.add(oid)
                    records[oid] = found
                    pending.append((oid, found))

    def _append(self, entries: list[bytes], time: str) -> None:
        data, checksum = pack_transaction(entries, self._end, time, self._checksum)
        self._write(data)
        self._checksum = checksum

    def _write(self, data: bytes) -> None:
        self._target.append(data)
        self._checksum = crc32(data, self._checksum)
        self._end += len(data)
        if self._end - self._synced_to >= _SYNC_SIZE:
            self._target.sync()
            self._synced_to = self._end

    def _is_live(self, oid: bytes) -> bool:
        number = oid_to_int(oid)
        return number < len(self._live) and self._live[number] == 1

    def _set_live(self, oid: bytes) -> None:
        number = oid_to_int(oid)
        if number >= _HIGHEST_PACKABLE:
            raise FormatError(
                f"{self._shelf.file.path}: the oid {format_oid(oid)} is too high for an offset map, which has a word "
                "for every oid below it; copy the objects into a new file"
            )
        if number >= len(self._live):
            self._live.extend(bytes(max(number + 1 - len(self._live), len(self._live) // 8)))
        self._live[number] = 1

    def _highest_live(self) -> int:
        return self._live.rfind(b"\x01") + 1
