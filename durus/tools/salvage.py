"""Copy what is sound in a damaged file into a new one, and report what is lost. Statements SALV-7 to SALV-12."""

import os
import pickle
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from durus.error import FormatError, RecordError
from durus.file_storage import FileStorage, utc_now
from durus.files.file import FileSystem, OperatingSystem, Path, path_text
from durus.files.packer import MAX_PACKABLE_OIDS
from durus.files.publishing import publishing
from durus.files.shelf.layout import NAME
from durus.files.shelf.salvage import Damage, DamagedShelf, Entry, is_plausible
from durus.files.writer import NewFile
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, oid_to_int
from durus.progress import STEP_RECORDS, Progress
from durus.records.contents import class_name_of, read_contents
from durus.records.record import data_of, pack_record, refs_of

LOST_CLASS = b"\x80\x02cdurus_salvage\nLostObject\n."
"""The class of the record in place of a lost object. No program has this class, so the object is a broken one."""
_EMPTY_ROOT = b"\x80\x02cdurus.persistent_dict\nPersistentDict\n." + pickle.dumps({"data": {}}, 2)
_ENTRY_FRAME = 16


class Older(NamedTuple):
    """An object whose state in the new file is older than that in the damaged file."""

    oid: bytes
    class_name: str
    offset: int
    """The offset in the damaged file of the state that was taken."""
    damaged_offset: int
    """The offset of the newer state, which is not sound."""


class Doubtful(NamedTuple):
    """An object that was copied with a state that no checksum vouches for."""

    oid: bytes
    class_name: str
    offset: int
    """The offset of the state in the damaged file."""


class Lost(NamedTuple):
    """An object for which no state could be taken."""

    oid: bytes
    class_name: str | None
    """None if no reference names it."""
    referrers: tuple[bytes, ...]
    """The objects that refer to it."""


class Salvage:
    """Makes a new file from a damaged one: steps() does the work, and the other attributes then have the result."""

    format_name = NAME
    """The only format whose files can be salvaged."""

    def __init__(
        self, path: Path, new_path: Path, takes_newest: bool = False, file_system: FileSystem | None = None
    ) -> None:
        """With `takes_newest`, a newer state that no checksum vouches for is taken instead of an older sound one."""
        self._takes_newest = takes_newest
        self._file_system = file_system or OperatingSystem()
        self._path = os.path.abspath(path_text(path))
        self._new_path = os.path.realpath(path_text(new_path))
        self.objects = 0
        """The number of objects that were copied."""
        self.older: list[Older] = []
        self.doubtful: list[Doubtful] = []
        self.lost: list[Lost] = []
        self.damage: list[Damage] = []
        self.mended: list[int] = []
        """The offsets of bytes in which one bit is wrong."""
        self._taken: dict[bytes, Entry] = {}
        self._placeholders: dict[bytes, bytes] = {}
        """The records in place of lost objects, by oid."""

    @property
    def is_complete(self) -> bool:
        """True if each object has its newest state, and this state is sound."""
        return not (self.older or self.doubtful or self.lost or self.damage)

    def steps(self) -> Iterator[Progress]:
        """Salvage, one step at a time. The new file gets its name in the last step."""
        file = self._file_system.open(self._path, "read")
        try:
            shelf = DamagedShelf(file)
            with publishing(self._new_path, self._file_system) as part_path:
                yield from self._choose(shelf)
                yield from self._find_lost(shelf)
                part = self._file_system.open(part_path, "private")
                try:
                    part.copy_permissions(file)
                    yield from self._write(shelf, FileStorage.file_format.new_file(part, utc_now()))
                    part.sync()
                finally:
                    part.close()
        finally:
            file.close()

    def _choose(self, shelf: DamagedShelf) -> Iterator[Progress]:
        """Choose the newest sound state of each object, or the newest doubtful one where there is none. [SALV-7]"""
        newest: dict[bytes, Entry] = {}
        vouched: dict[bytes, Entry] = {}
        for count, entry in enumerate(shelf.entries(), 1):
            if entry.oid >= FIRST_RESERVED_OID:
                continue
            entry = shelf.judged(entry)
            newest[entry.oid] = entry
            if entry.quality != "doubtful":
                vouched[entry.oid] = entry
            if count % STEP_RECORDS == 0:
                yield Progress("read", count, None)
        self.damage, self.mended = shelf.damage, shelf.mended
        for oid, entry in newest.items():
            if entry.quality != "doubtful" or (self._takes_newest and is_plausible(_record(shelf, entry))):
                self._taken[oid] = entry
            elif oid in vouched:
                taken = self._taken[oid] = vouched[oid]
                self.older.append(Older(oid, _class_name(shelf, taken), taken.offset, entry.offset))
            elif is_plausible(_record(shelf, entry)):
                self._taken[oid] = entry
        self._leave_strangers(shelf)
        for oid, entry in self._taken.items():
            if entry.quality == "doubtful":
                self.doubtful.append(Doubtful(oid, _class_name(shelf, entry), entry.offset))

    def _leave_strangers(self, shelf: DamagedShelf) -> None:
        """Leave out doubtful entries to which no object refers: their oids may be wrong. [SALV-8]

        Without a root they are kept even if no object refers to them, except those whose oids are implausibly high.
        """
        if ROOT_OID not in self._taken:
            sound = [oid_to_int(oid) for oid, entry in self._taken.items() if entry.quality != "doubtful"]
            limit = max(sound, default=0) + 16 * len(self._taken) + 1000
            self._taken = {oid: each for oid, each in self._taken.items() if oid_to_int(oid) <= limit}
            return
        used = {ROOT_OID}
        pending = [oid for oid, entry in self._taken.items() if entry.quality != "doubtful"] + [ROOT_OID]
        seen = set(pending)
        while pending:
            entry = self._taken.get(pending.pop())
            if entry is not None:
                for ref in refs_of(_record(shelf, entry)):
                    used.add(ref)
                    if ref not in seen:
                        seen.add(ref)
                        pending.append(ref)
        for oid, entry in list(self._taken.items()):
            if entry.quality == "doubtful" and oid not in used:
                del self._taken[oid]

    def _find_lost(self, shelf: DamagedShelf) -> Iterator[Progress]:
        """Make a record for each object that a copied object refers to and that was not taken. [SALV-9]"""
        referrers: defaultdict[bytes, list[bytes]] = defaultdict(list)
        classes: dict[bytes, str] = {}
        if ROOT_OID not in self._taken and (self._taken or self.damage):
            referrers[ROOT_OID] = []
        for count, (oid, entry) in enumerate(sorted(self._taken.items()), 1):
            record = _record(shelf, entry)
            missing = {ref for ref in refs_of(record) if ref not in self._taken}
            for ref in missing:
                referrers[ref].append(oid)
            if missing:
                classes.update(_referred_classes(record, missing))
            if count % STEP_RECORDS == 0:
                yield Progress("look for what is lost", count, len(self._taken))
        for oid, found in sorted(referrers.items()):
            self.lost.append(Lost(oid, classes.get(oid), tuple(found)))
            self._placeholders[oid] = _placeholder(oid, classes.get(oid))
        self.objects = len(self._taken)

    def _write(self, shelf: DamagedShelf, new_file: NewFile) -> Iterator[Progress]:
        oids = sorted({*self._taken, *self._placeholders})
        highest = oid_to_int(oids[-1]) if oids else -1
        if highest >= MAX_PACKABLE_OIDS:
            raise FormatError(f"{self._path}: the oid {highest} is too high for a packed file")
        size = sum(map(len, self._placeholders.values()))
        size += sum(entry.end - entry.offset - _ENTRY_FRAME for entry in self._taken.values())
        records = (
            (oid, self._placeholders[oid] if oid in self._placeholders else _record(shelf, self._taken[oid]))
            for oid in oids
        )
        yield from new_file.write_base(records, len(oids), size, highest)


def _record(shelf: DamagedShelf, entry: Entry) -> bytes:
    return shelf.record_at(entry.offset)


def _class_name(shelf: DamagedShelf, entry: Entry) -> str:
    return class_name_of(data_of(_record(shelf, entry)))


def _referred_classes(record: bytes, oids: set[bytes]) -> Iterator[tuple[bytes, str]]:
    """Yield (oid, class name) for the references of a record to these oids."""
    try:
        references = read_contents(data_of(record)).machine.references
    except RecordError:
        return
    for each in references:
        if each.oid in oids and each.cls is not None:
            yield each.oid, f"{each.cls.module}.{each.cls.qualname}"


def _placeholder(oid: bytes, class_name: str | None) -> bytes:
    """Return the record in place of a lost object: that of a broken object, or of an empty root. [SALV-9]"""
    if oid == ROOT_OID:
        return pack_record(oid, _EMPTY_ROOT, b"")
    state = {"lost_oid": oid_to_int(oid), "lost_class": class_name}
    return pack_record(oid, LOST_CLASS + pickle.dumps(state, 2), b"")
