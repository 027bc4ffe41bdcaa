"""Writing the packed copy of a shelf, step by step, while commits go on. Statements SHELF-30 to SHELF-38.

Three passes, each in small steps: mark what the root reaches, copy that in the order of the file
into the first transaction of the new one, then follow with the transactions that were committed
meanwhile.  A step is over at each yield; between two steps the shelf may be read and appended to.
"""

from collections.abc import Iterator

from durus.error import DamageError, FormatError
from durus.file import File
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, format_oid, oid_to_int
from durus.progress import Progress
from durus.record import split_oids, unpack_record
from durus.shelf import new_shelf
from durus.shelf.layout import ENTRY_FRAME_SIZE, pack_entry
from durus.shelf.new_shelf import NewShelf
from durus.shelf.scan import Unsound, scan_transactions
from durus.shelf.shelf import Shelf

_HIGHEST_PACKABLE = 1 << 40


class ShelfPacker:
    """Writes into `target`, a new empty file, what `shelf` holds and its root reaches.

    steps() does all but the last piece of the work; finish() does that piece, and nothing may be
    appended to the shelf between it and the replacing of the file.
    """

    def __init__(self, shelf: Shelf, target: File, time: str) -> None:
        self._shelf = shelf
        self._target = target
        self._new = NewShelf(target)
        self._time = time
        self._snapshot = dict(shelf.index)
        self._snapshot_end = shelf.end
        self._followed_to = shelf.end
        self._followed_checksum = shelf.checksum
        self._live = bytearray()
        self._live_count = 0
        self._live_size = 0
        self._garbage: list[bytes] = []
        self._followed: set[bytes] = set()
        """Oids with a record behind the offset map of the target."""

    @property
    def base_checksum(self) -> int:
        """The running checksum of the target at the end of its offset map."""
        return self._new.base_checksum

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
                self._live_size += ENTRY_FRAME_SIZE + len(record)
                for ref in split_oids(unpack_record(record)[2]):
                    if not self._is_live(ref):
                        generation.setdefault(ref, oid)
                if self._live_count % new_shelf.STEP_RECORDS == 0:
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
        yield from self._new.write_base(
            self._live_records(), self._live_count, self._live_size, self._highest_live(), self._time
        )

    def _live_records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for what is marked, and take note of what is not."""
        for oid, offset in self._snapshot_positions():
            if self._is_live(oid):
                yield oid, self._shelf.read_entry(oid, offset)
            elif oid < FIRST_RESERVED_OID:
                self._garbage.append(oid)

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
                    self._new.append(entries, transaction.seal.time if transaction.seal else self._time)
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
        return self._live.rfind(b"\x01")
