"""Writing the packed copy of a file, step by step, while commits go on. Statements SHELF-30 to SHELF-38.

Three passes, each in small steps: mark what the root reaches, copy that in the order of the file
into the packed part of the new one, then follow with the transactions that were committed
meanwhile.  A step is over at each yield; between two steps the file may be read and appended to.
What differs between formats stands in their subclasses.
"""

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from durus import new_file
from durus.error import DamageError, FormatError
from durus.file import File
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, format_oid, oid_to_int
from durus.progress import Progress
from durus.record import split_oids, unpack_record
from durus.record_file import RecordFile
from durus.shelf.scan import Unsound

_HIGHEST_PACKABLE = 1 << 40


class Committed(NamedTuple):
    """A transaction that was committed since the pack began."""

    entries: list[tuple[bytes, int]]
    """(oid, file offset of the entry) of each object in it."""
    end: int
    time: str
    """When it was committed, in a format that tells it."""


F = TypeVar("F", bound=RecordFile)


class Packer(Generic[F]):
    """Writes into `target`, a new empty file, what `source` holds and its root reaches.

    steps() does all but the last piece of the work; finish() does that piece, and nothing may be
    appended to the source between it and the replacing of the file.
    """

    def __init__(self, source: F, target: File) -> None:
        self._source = source
        self._target = target
        self._snapshot = dict(source.index)
        self._snapshot_end = source.end
        self._followed_to = source.end
        self._live = bytearray()
        self._live_count = 0
        self._live_size = 0
        """The bytes of the records that are live."""
        self._garbage: list[bytes] = []
        self._followed: set[bytes] = set()
        """Oids with a record behind the packed part of the target."""

    # What a format says

    def _position(self, oid: bytes) -> int | None:
        """Return where the entry of `oid` stands that was current when the pack began."""
        return self._snapshot.get(oid)

    def _snapshot_positions(self) -> Iterator[tuple[bytes, int]]:
        """Yield (oid, file offset) of all entries that were current when the pack began, in the order of the file."""
        yield from sorted(self._snapshot.items(), key=lambda pair: pair[1])

    def _copy(self) -> Iterator[Progress]:
        """Write the packed part, of _live_records()."""
        raise NotImplementedError

    def _gen_committed(self) -> Iterator[Committed]:
        """Yield the transactions of the source that stand behind those followed already. Unsound if one is."""
        raise NotImplementedError

    def _append(self, records: dict[bytes, bytes], time: str) -> None:
        """Write a transaction of these records behind the packed part."""
        raise NotImplementedError

    # Packing

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

    def open_target(self) -> F:
        """Return the target, when it is finished, as it is used from then on."""
        raise NotImplementedError

    def removed(self) -> list[bytes]:
        """Return the oids that the source has and the target does not."""
        return [oid for oid in self._garbage if oid not in self._followed]

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
                record = self._source.read_entry(oid, offset)
                self._live_count += 1
                self._live_size += len(record)
                for ref in split_oids(unpack_record(record)[2]):
                    if not self._is_live(ref):
                        generation.setdefault(ref, oid)
                if self._live_count % new_file.STEP_RECORDS == 0:
                    yield Progress("mark", self._live_count, None)

    def _require(self, oid: bytes, referrer: bytes) -> int:
        offset = self._position(oid)
        if offset is None or oid >= FIRST_RESERVED_OID:
            raise FormatError(
                f"{self._source.file.path}: the object {format_oid(referrer)} refers to oid {format_oid(oid)}, which "
                "does not exist, so the file is not packed; take that reference out first (`durus check` lists all)"
            )
        return offset

    def _live_records(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for what is marked, and take note of what is not."""
        for oid, offset in self._snapshot_positions():
            if self._is_live(oid):
                yield oid, self._source.read_entry(oid, offset)
            elif oid < FIRST_RESERVED_OID:
                self._garbage.append(oid)

    def _follow(self) -> Iterator[Progress]:
        """Append the transactions that were committed since, each with what it brings back. [SHELF-35]"""
        source = self._source
        try:
            for committed in self._gen_committed():
                records = {oid: source.read_entry(oid, offset) for oid, offset in committed.entries}
                self._followed.update(records)
                self._bring_back(records)
                if records:
                    self._append(records, committed.time)
                self._followed_to = committed.end
                yield Progress("follow", self._followed_to - self._snapshot_end, None)
        except Unsound as unsound:
            raise DamageError(
                source.file.path,
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
                    found = self._source.read_entry(oid, self._require(oid, referrer))
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
                f"{self._source.file.path}: the oid {format_oid(oid)} is too high for a pack, which needs room "
                "for every oid below it; copy the objects into a new file"
            )
        if number >= len(self._live):
            self._live.extend(bytes(max(number + 1 - len(self._live), len(self._live) // 8)))
        self._live[number] = 1

    def _highest_live(self) -> int:
        return self._live.rfind(b"\x01")
