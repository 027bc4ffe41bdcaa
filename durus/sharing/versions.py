"""Snapshots of a storage that others keep changing, each of the state after one commit. Statements TXN-60 to TXN-64.

Commits are numbered. A record that a commit replaces is kept once for all snapshots, with the number of that commit, so
a snapshot finds its version of a record by a binary search. A version that no open snapshot can show any more is
dropped. A pack removes only records that no state since its beginning can reach: older snapshots continue with the
storage as it was then, in their own era. All callers hold one monitor, except for write().
"""

import weakref
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from durus.error import DurusKeyError
from durus.progress import Progress
from durus.storage import StagedCommit, StagedSync, Storage

_BYTES_PER_VERSION = 300
"""About how many bytes a version takes in memory besides its record."""


class Snapshot:
    """The state of a storage after one commit, as long as somebody holds it."""

    __slots__ = ("__weakref__", "_era", "_serial")

    def __init__(self, era: "_Era", serial: int) -> None:
        self._era = era
        self._serial = serial

    def load(self, oid: bytes) -> bytes:
        """Return the record of `oid`; DurusKeyError if there is none. [TXN-60]"""
        version = self._era.find(oid, self._serial)
        if version is None:
            return self._era.storage.load(oid)
        if version.record is None:
            raise DurusKeyError(oid)
        return version.record

    def has_record(self, oid: bytes) -> bool:
        """Return whether there is a record of `oid`."""
        version = self._era.find(oid, self._serial)
        return self._era.storage.has_record(oid) if version is None else version.record is not None

    def expect_loads(self, oids: list[bytes]) -> None:
        """Do nothing: nothing is loaded ahead."""


class _Version(NamedTuple):
    """A record that was replaced."""

    until: int
    """The number of the commit that replaced it."""
    record: bytes | None
    """None if there was none."""

    @property
    def size(self) -> int:
        return _BYTES_PER_VERSION + len(self.record or b"")


def _until(version: _Version) -> int:
    return version.until


class _Era:
    """The snapshots of one storage, and what was replaced since they were taken.

    After an interrupt recount() restores consistency: everything else follows from the snapshots and the versions.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.kept_bytes = 0
        self._snapshots: dict[int, weakref.ref[Snapshot]] = {}
        """By the number of the commit whose state they show."""
        self._versions: dict[bytes, list[_Version]] = {}
        """By oid, in the order of the commits that replaced them."""
        self._serials: list[int] = []
        """The numbers of the snapshots, ascending."""
        self._kept_for: dict[int, set[bytes]] = {}
        """By snapshot: the oids of the versions that it shows, and no newer snapshot does."""
        self._ended: deque[int] = deque()
        """Snapshots that nobody holds any more."""

    @property
    def is_in_use(self) -> bool:
        """True while there is a snapshot."""
        return bool(self._serials)

    def snapshot_of(self, serial: int) -> Snapshot:
        """Return the snapshot of the state after the commit of this number, which is the newest one."""
        known = self._snapshots.get(serial)
        snapshot = None if known is None else known()
        if snapshot is None:
            snapshot, ended = Snapshot(self, serial), self._ended
            self._snapshots[serial] = weakref.ref(snapshot, lambda _: ended.append(serial))
            if serial not in self._kept_for:
                self._kept_for[serial] = set()
                self._serials.append(serial)
        return snapshot

    def find(self, oid: bytes, serial: int) -> _Version | None:
        """Return what a snapshot shows for an oid that was replaced since; None if it shows what the storage has."""
        versions = self._versions.get(oid)
        if versions is None:
            return None
        index = bisect_right(versions, serial, key=_until)
        return versions[index] if index < len(versions) else None

    def keep(self, oids: Iterable[bytes], until: int, record_before: Callable[[bytes], bytes | None]) -> None:
        """Keep what the commit with the number `until` will replace, if a snapshot shows it."""
        if not self._serials:
            return
        newest = self._serials[-1]
        kept = self._kept_for[newest]
        for oid in oids:
            versions = self._versions.get(oid)
            if versions is not None and versions[-1].until > newest:
                if oid not in kept:  # it was kept for the snapshot before, and this one was taken since
                    self._kept_for[self._serials[-2]].discard(oid)
                    kept.add(oid)
                continue
            version = _Version(until, record_before(oid))
            if versions is None:
                self._versions[oid] = [version]
            else:
                versions.append(version)
            kept.add(oid)
            self.kept_bytes += version.size

    def forget_ended(self) -> None:
        """Drop the versions that only released snapshots have shown."""
        while self._ended:
            serial = self._ended.popleft()
            known = self._snapshots.get(serial)
            if known is not None and known() is None:  # otherwise it was taken again
                self._end(serial)

    def _end(self, serial: int) -> None:
        del self._snapshots[serial]
        index = bisect_left(self._serials, serial)
        oids = self._kept_for.pop(serial)
        if index == 0:
            for oid in oids:
                self._drop(oid, serial)
        else:
            older_serial = self._serials[index - 1]
            older = self._kept_for[older_serial]
            for oid in older & oids:
                self._drop(oid, serial)  # the older snapshot shows an earlier version
            if len(older) < len(oids):
                older, oids = oids, older
            older |= oids
            self._kept_for[older_serial] = older
        del self._serials[index]

    def _drop(self, oid: bytes, serial: int) -> None:
        versions = self._versions[oid]
        version = versions.pop(bisect_right(versions, serial, key=_until))
        self.kept_bytes -= version.size
        if not versions:
            del self._versions[oid]

    def recount(self) -> None:
        """Compute again which snapshots are held, and which versions they need."""
        self._ended.clear()
        snapshots = {serial: known for serial, known in self._snapshots.items() if known() is not None}
        serials = sorted(snapshots)
        kept_for: dict[int, set[bytes]] = {serial: set() for serial in serials}
        kept: dict[bytes, list[_Version]] = {}
        for oid, versions in self._versions.items():
            since = -1
            for version in versions:
                index = bisect_left(serials, version.until) - 1
                if index >= 0 and serials[index] >= since:
                    kept.setdefault(oid, []).append(version)
                    kept_for[serials[index]].add(oid)
                since = version.until
        self._snapshots, self._serials, self._kept_for, self._versions = snapshots, serials, kept_for, kept
        self.kept_bytes = sum(version.size for versions in kept.values() for version in versions)


class News(NamedTuple):
    """What another process has written, before a storage shows it."""

    staged: StagedSync
    before: dict[bytes, bytes | None]
    """The records that it replaces, as far as snapshots needed them when it was read; None for an oid that had none."""


class Versions:
    """A storage whose commits and packs leave its snapshots unchanged."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._serial = 0
        """The number of the last commit that was accepted."""
        self._under_way: dict[bytes, bytes | None] = {}
        """The oids of a commit in progress, with the records before it if the storage shows the new ones early."""
        self._eras = [_Era(storage)]
        """The last one is that of the present storage."""

    def take_snapshot(self) -> Snapshot:
        """Return the state after the last commit that was accepted. [TXN-60]

        Until the next commit, each call returns the same snapshot while somebody holds it.
        """
        self._forget_ended()
        era = self._eras[-1]
        snapshot = era.snapshot_of(self._serial)
        era.keep(self._under_way, self._serial + 1, self._record_before)
        return snapshot

    @property
    def kept_bytes(self) -> int:
        """About how many bytes are kept for the snapshots that are held. [TXN-64]"""
        self._forget_ended()
        return sum(era.kept_bytes for era in self._eras)

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Stage a commit of the storage, and keep what it replaces for the snapshots. [TXN-62]"""
        self._forget_ended()
        serial = self._serial + 1
        if self._storage.shows_early:
            self._under_way = {oid: self._load(oid) for oid in records}
        else:
            self._under_way = dict.fromkeys(records)
        self._eras[-1].keep(records, serial, self._record_before)
        staged = self._storage.stage_commit(records)

        def accept() -> None:
            staged.accept()
            self._serial, self._under_way = serial, {}

        return StagedCommit(staged.write, accept)

    def _record_before(self, oid: bytes) -> bytes | None:
        """Return the record that a commit in progress replaces."""
        return self._under_way[oid] if self._storage.shows_early else self._load(oid)

    def _load(self, oid: bytes) -> bytes | None:
        try:
            return self._storage.load(oid)
        except DurusKeyError:
            return None

    def sync(self) -> Collection[bytes] | None:
        """Sync the storage. No commit may be in progress, except one whose thread was interrupted."""
        if self._under_way:  # it may be stored, which makes another state
            self._serial, self._under_way = self._serial + 1, {}
        return self._storage.sync()

    def look_ahead(self) -> News:
        """Read what another process has written, and show nothing of it yet; in any thread. [CMD-67]

        FileError or DamageError if the storage can't read on.
        """
        staged = self._storage.stage_sync()
        before = {oid: self._load(oid) for oid in staged.oids or ()} if self._eras[-1].is_in_use else {}
        return News(staged, before)

    def follow(self, news: News) -> list[bytes] | None:
        """Show what another process has written, and return the oids that it changes, None for any. [CMD-63]

        Open snapshots continue with what they show.
        """
        self._forget_ended()
        staged, before = news
        era = self._eras[-1]
        if staged.oids:
            era.keep(staged.oids, self._serial + 1, lambda oid: before[oid] if oid in before else self._load(oid))
        if staged.before is not None and era.is_in_use:
            era.storage = staged.before
            self._eras = [*self._eras, _Era(self._storage)]
        staged.accept()
        if staged.oids != []:
            self._serial += 1
        if staged.before is not None and era.storage is not staged.before:
            staged.before.close()
        return staged.oids

    def get_packer(self) -> Iterator[Progress]:
        """Return a packer of the storage; open snapshots continue with the storage before the pack. [TXN-63]"""
        steps = self._storage.get_packer()
        self._forget_ended()
        if self._eras[-1].is_in_use:
            frozen = self._storage.as_of_now()
            before, self._eras = self._eras[-1], [*self._eras, _Era(self._storage)]
            before.storage = frozen
        return steps

    def start_anew(self) -> None:
        """Restore consistency after an interrupt. [TXN-31]"""
        for era in self._eras:
            era.recount()

    def _forget_ended(self) -> None:
        for era in self._eras:
            era.forget_ended()
        if len(self._eras) > 1:
            unused = [era for era in self._eras[:-1] if not era.is_in_use]
            self._eras = [era for era in self._eras if era not in unused]
            for era in unused:
                era.storage.close()
