"""Snapshots of a storage that goes on: a reader keeps the state after one commit. Statement DB-15.

Before a commit replaces a record, the one that it replaces is kept for each snapshot that is open, so a snapshot costs
what changed since.  A pack removes only what no state from its beginning on can reach; a snapshot that is older goes on
with the storage as it was right before the pack.  Whoever calls is inside of one monitor, but for write().
"""

import weakref
from collections.abc import Iterator
from weakref import WeakSet

from durus.error import DurusKeyError
from durus.progress import Progress
from durus.storage import StagedCommit, Storage


class Snapshot:
    """The state of a storage when this was made. It lasts for as long as somebody holds it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._frozen: _Frozen | None = None
        self._replaced: dict[bytes, bytes | None] = {}
        """What the storage had when this was made and may not have any more, None for no record."""

    def load(self, oid: bytes) -> bytes:
        """Return the record of `oid`; DurusKeyError if there is none."""
        if oid not in self._replaced:
            return self._storage.load(oid)
        record = self._replaced[oid]
        if record is None:
            raise DurusKeyError(oid)
        return record

    def has_record(self, oid: bytes) -> bool:
        """Tell if there is a record of `oid`."""
        return self._replaced[oid] is not None if oid in self._replaced else self._storage.has_record(oid)

    def keep_as_replaced(self, replaced: dict[bytes, bytes | None]) -> None:
        """Take over the records that are about to be replaced, None for no record."""
        self._replaced.update(replaced)

    def keep(self, oid: bytes) -> None:
        """Keep the record of `oid`, which is about to be replaced."""
        if oid not in self._replaced:
            try:
                self._replaced[oid] = self._storage.load(oid)
            except DurusKeyError:
                self._replaced[oid] = None

    def go_on_with(self, frozen: "_Frozen") -> None:
        """Read what was not replaced from another storage, which has the same records now."""
        if self._frozen is None:  # else it reads from an earlier one
            self._storage, self._frozen = frozen.storage, frozen


class _Frozen:
    """What a storage had when it was packed, for the snapshots that are older."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        weakref.finalize(self, storage.close)


class Versions(Storage):
    """A storage, and the snapshots of it that are open."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._snapshots: WeakSet[Snapshot] = WeakSet()
        self._under_way: dict[bytes, bytes | None] = {}
        """What a commit replaces that may not be current yet: the records before it, None for no record."""
        # The same methods, without a call more.
        self.load = storage.load  # type: ignore[method-assign]  # see above
        self.has_record = storage.has_record  # type: ignore[method-assign]  # see above
        self.new_oid = storage.new_oid  # type: ignore[method-assign]  # see above
        self.begin = storage.begin  # type: ignore[method-assign]  # see above
        self.gen_oid_record = storage.gen_oid_record  # type: ignore[method-assign]  # see above

    def new_snapshot(self) -> Snapshot:
        """Return the state of the last commit that was accepted."""
        snapshot = Snapshot(self._storage)
        if self._storage.shows_early:
            snapshot.keep_as_replaced(self._under_way)
        else:
            for oid in self._under_way:
                snapshot.keep(oid)
        self._snapshots.add(snapshot)
        return snapshot

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        if self._storage.shows_early:
            self._under_way = {oid: self._load(oid) for oid in records}
        else:
            self._under_way = dict.fromkeys(records)  # first: a snapshot may keep more than it needs, and never less
        for snapshot in list(self._snapshots):
            for oid in records:
                snapshot.keep(oid)
        staged = self._storage.stage_commit(records)

        def accept() -> None:
            staged.accept()
            self._under_way = {}

        return StagedCommit(staged.write, accept)

    def _load(self, oid: bytes) -> bytes | None:
        try:
            return self._storage.load(oid)
        except DurusKeyError:
            return None

    def sync(self) -> list[bytes] | None:
        """Sync the storage. No commit may be under way, but for one whose thread was interrupted."""
        self._under_way = {}
        return self._storage.sync()

    def get_packer(self) -> Iterator[Progress]:
        if self._snapshots:
            frozen = _Frozen(self._storage.as_of_now())
            for snapshot in list(self._snapshots):
                snapshot.go_on_with(frozen)
        return self._storage.get_packer()
