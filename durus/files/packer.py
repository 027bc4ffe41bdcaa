"""Writing the packed copy of a file, step by step, while commits continue. Statements SHELF-30 to SHELF-38, SHELF-50.

Three passes, each in small steps: mark what the root reaches; read the file from its first byte to its end at the
beginning of the pack, and copy what is marked into the packed part of the new file; then follow with the transactions
that were committed meanwhile. A step ends at each yield; between two steps the file may be read and appended to.
Subclasses handle what differs between formats.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Generic, NamedTuple
from zlib import crc32

from durus import progress
from durus.error import DamageError, FormatError
from durus.files.file import File, new_name
from durus.files.forward_reader import Unsound
from durus.files.record_file import F
from durus.files.writer import NewFile
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, format_oid, oid_from_int, oid_to_int
from durus.oid_array import OidArray, OidCollector
from durus.progress import STEP_REFS, Progress
from durus.records.reachable import dangling_reference_error
from durus.records.record import gen_refs, refs_of
from durus.text import command

MAX_PACKABLE_OIDS = 1 << 40
"""The first oid of a reachable object that a pack refuses. [SHELF-51]"""

_REGION_SIZE = 1 << 20
"""Records within this many bytes of the file are read in the order of the file while marking."""


def _if_damaged(path: str) -> str:
    return f"the file is not packed; inspect it with {command('check', path)}"


Entry = tuple[bytes, int, bytes]
"""The oid, the offset and the record of an object entry.

Its bytes were compared with the checksum that covers them, or will be before the end.
"""


class LateCommit(NamedTuple):
    """A transaction that was committed since the pack began."""

    records: dict[bytes, bytes]
    end: int
    time: str | None = None
    """When it was committed, None if the file does not have the time."""


class Packer(Generic[F]):
    """Writes into `target`, a new empty file, what the root of `source` reaches.

    steps() does everything except the last piece of the work; finish() does that, and nothing may be appended to the
    source between it and the replacement of the file.
    """

    def __init__(self, source: F, target: File, writer: NewFile, time: str) -> None:
        """`writer` writes the packed part of the target, `time` is the time of the pack."""
        self._source = source
        self._target = target
        self._writer = writer
        self._time = time
        self._new: F | None = None
        """The target, once its packed part is complete."""
        self._before = source.watch()
        """The offsets, at the beginning of the pack, of entries that were replaced since."""
        self._snapshot_end = source.end
        self._followed_to = source.end
        self._live = bytearray()
        self._live_count = 0
        self._live_size = 0
        """The size of the live records."""
        self._garbage = OidCollector()
        self._garbage_offsets = array("Q")
        self._garbage_sums = array("I")
        """The crc32 of each garbage record, which may be brought back."""
        self._followed: set[bytes] = set()
        """Oids with a record after the packed part of the target."""
        self._has_revived = False

    # Implemented by a format

    def _gen_entries(self) -> Iterator[list[Entry]]:
        """Yield all object entries up to the end of the source at the beginning of the pack, some at a time.

        There are as many as a step handles, or fewer. Every byte is read once; DamageError if it does not fit the
        checksum that covers it.
        """
        raise NotImplementedError

    def _gen_late_commits(self) -> Iterator[LateCommit]:
        """Yield the transactions of the source after those followed already; Unsound if one is damaged."""
        raise NotImplementedError

    def _open_target(self) -> F:
        """Return the open target, after its packed part is complete."""
        raise NotImplementedError

    # Packing

    def steps(self) -> Iterator[Progress]:
        """Do the work, one step at a time."""
        yield from self._mark()
        yield from self._writer.write_base(
            self._live_records(), self._live_count, self._live_size, self._highest_live()
        )
        self._target.sync()
        self._new = self._open_target()
        yield from self._follow()
        self._target.sync()
        yield from self._follow()

    def finish(self) -> None:
        """Follow with what was committed since the last step, and sync the target. [SHELF-36]"""
        for _ in self._follow():
            pass
        self._target.sync()

    def open_target(self) -> F:
        """Return the open target, after finish()."""
        return self._open_target() if self._new is None else self._new

    def removed(self) -> OidArray:
        """Return the oids that the source has and the target does not have."""
        return self._garbage.all_but(self._followed if self._has_revived else ())

    @property
    def max_garbage(self) -> int:
        """The highest oid of the garbage, as a number, -1 if there is none."""
        return self._garbage.highest

    def _offset_of(self, oid: bytes) -> int | None:
        """Return the offset of the entry of `oid` that was current at the beginning of the pack."""
        return self._before[oid] if oid in self._before else self._source.offset_of(oid)

    def _mark(self) -> Iterator[Progress]:
        """Mark what the root reaches, one region of the file after the other."""
        regions: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))
        due: deque[int] = deque()

        def note(oid: bytes, offset: int) -> None:
            self._set_live(oid)
            region = regions[offset // _REGION_SIZE]
            if not region:
                due.append(offset // _REGION_SIZE)
            region.extend((offset, oid_to_int(oid)))

        if (root := self._offset_of(ROOT_OID)) is not None:
            note(ROOT_OID, root)
        work = 0
        while due:
            region = regions.pop(due.popleft())
            for offset, number in sorted(zip(region[::2], region[1::2], strict=True)):
                referrer = oid_from_int(number)
                record = self._source.read_entry(referrer, offset)
                self._live_count += 1
                self._live_size += len(record)
                work += STEP_REFS // progress.STEP_RECORDS
                for ref in gen_refs(record):
                    if not self._is_live(ref):
                        note(ref, self._require(ref, referrer))
                    work += 1
                    if work >= STEP_REFS:
                        work = 0
                        yield Progress("mark", self._live_count, None)
                if work >= STEP_REFS:
                    work = 0
                    yield Progress("mark", self._live_count, None)

    def _require(self, oid: bytes, referrer: bytes) -> int:
        offset = self._offset_of(oid)
        if offset is None or oid >= FIRST_RESERVED_OID:
            raise dangling_reference_error(referrer, oid, self._source.file.path)
        return offset

    def _live_records(self) -> Iterator[tuple[bytes, bytes] | None]:
        """Yield (oid, record) for what is marked, and note the garbage; None where a step may end. [SHELF-50]

        DamageError if the copied bytes differ from those read while marking.
        """
        count = size = 0
        before, offset_of, live = self._before, self._source.offset_of, self._live
        for entries in self._gen_entries():
            if not entries:
                yield None
            for oid, offset, record in entries:
                number = oid_to_int(oid)
                if (before[oid] if oid in before else offset_of(oid)) != offset:  # the same as _offset_of()
                    yield None
                elif number < len(live) and live[number]:
                    count += 1
                    size += len(record)
                    if size > self._live_size:
                        raise self._changed(offset)
                    for number_of_refs, ref in enumerate(gen_refs(record), 1):
                        if not self._is_live(ref):
                            raise self._changed(offset)
                        if number_of_refs % (STEP_REFS // progress.STEP_RECORDS) == 0:
                            yield None
                    yield oid, record
                else:
                    self._garbage.add(number)
                    self._garbage_offsets.append(offset)
                    self._garbage_sums.append(crc32(record))
                    yield None
        if (count, size) != (self._live_count, self._live_size):
            raise self._changed(0)

    def _changed(self, offset: int) -> DamageError:
        problem = "the bytes to copy differ from those that the pack has read before"
        return DamageError(self._source.file.path, offset, problem, _if_damaged)

    def _follow(self) -> Iterator[Progress]:
        """Append the transactions that were committed since, each with the garbage that it brings back. [SHELF-35]"""
        source, new = self._source, self.open_target()
        try:
            for late in self._gen_late_commits():
                records = late.records
                if not self._has_revived:
                    self._has_revived = not all(self._is_live(oid) for oid in records)
                self._followed.update(records)
                self._revive(records)
                if records:
                    prepared = new.prepare(list(records.items()), late.time or self._time)
                    self._target.append(b"".join((prepared.before, *prepared.pieces)), new.end)
                    prepared.accept()
                self._followed_to = late.end
                yield Progress("follow", self._followed_to - self._snapshot_end, None)
        except Unsound as unsound:
            raise DamageError(source.file.path, unsound.fault_offset, unsound.problem, _if_damaged) from None

    def _revive(self, records: dict[bytes, bytes]) -> None:
        """Add to `records` the garbage of the beginning of the pack that they reach."""
        pending = list(records.items())
        while pending:
            referrer, record = pending.pop()
            for oid in refs_of(record):
                if not self._is_live(oid) and oid not in self._followed:
                    garbage = self._read_garbage(oid, self._require(oid, referrer))
                    self._has_revived = True
                    self._followed.add(oid)
                    records[oid] = garbage
                    pending.append((oid, garbage))

    def _read_garbage(self, oid: bytes, offset: int) -> bytes:
        record = self._source.read_entry(oid, offset)
        index = bisect_left(self._garbage_offsets, offset)
        if self._garbage_offsets[index : index + 1] != array("Q", [offset]) or (
            self._garbage_sums[index] != crc32(record)
        ):
            raise self._changed(offset)
        return record

    def _is_live(self, oid: bytes) -> bool:
        number = oid_to_int(oid)
        return number < len(self._live) and self._live[number] == 1

    def _set_live(self, oid: bytes) -> None:
        number = oid_to_int(oid)
        if number >= MAX_PACKABLE_OIDS:
            path = self._source.file.path
            raise FormatError(
                f"{path}: the oid {format_oid(oid)} is too high for a pack, which needs space "
                f"for every oid below it; copy the objects into a new file: {command('convert', path, new_name(path))}"
            )
        if number >= len(self._live):
            self._live.extend(bytes(max(number + 1 - len(self._live), len(self._live) // 8)))
        self._live[number] = 1

    def _highest_live(self) -> int:
        return self._live.rfind(b"\x01")
