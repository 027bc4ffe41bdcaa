"""What a Connection needs of a storage, and tools that work on any. spec/transactions.md.

A storage keeps records by oid and replaces or adds a set of them in one step.
"""

import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple, Protocol

from durus.concurrency.call_guard import CallGuard, guarded
from durus.concurrency.connecting_again import BY_ABORT, ConnectAgain
from durus.concurrency.uncopied import Uncopied
from durus.error import ArgumentError, DurusError, DurusKeyError, RecordError, TransactionError, WriteConflictError
from durus.oid import ROOT_OID, format_oid, oid_from_int
from durus.oid_array import OidArray, OidSet, joined
from durus.progress import STEP_REFS, Progress
from durus.records.reachable import dangling_reference_error, mark_reachable
from durus.records.record import extract_class_name, gen_refs, is_record_of, oid_of, refs_of, refs_outside

InvalidationHandler = Callable[[Collection[bytes] | None], None]
"""Takes the oids that others changed, None for any; raises a ConflictError if the commit must not continue."""


class Accesses(Protocol):
    """What a storage that finds conflicts itself asks of the connection that commits."""

    @property
    def accessed(self) -> Collection[bytes]:
        """The oids that the transaction has used."""

    def note_invalid(self, oids: Collection[bytes] | None) -> None:
        """Take note of oids that others changed, and that the transaction has not used; None for any."""


class StagedCommit(NamedTuple):
    """A commit with known records that ends in two steps."""

    write: Callable[[], None]
    """Makes the records durable. This may take long, and may run in another thread while the storage is read."""
    accept: Callable[[], None]
    """Makes the records the current ones; called after write() has returned."""


class StagedSync(NamedTuple):
    """What others have written, before a storage shows it."""

    oids: list[bytes] | None
    """What they have changed; None for anything, because the file was replaced."""
    accept: Callable[[], None]
    """Shows it from now on."""
    before: "Storage | None" = None
    """If the file was replaced: what the storage shows before accept(). The caller closes it."""


class SealedPart(Protocol):
    """What a SHELF-1 file has up to a seal, from its beginning or from an earlier seal on. [WIRE2-50]"""

    start: int
    """The offset of its first byte: the end of the earlier seal, or 0."""
    end: int
    """The end of the seal."""
    seal: str
    """The seal, as 53 characters [BACKUP-4]; empty if the file has none."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, which must be before the end."""

    def close(self) -> None: ...


class Member(NamedTuple):
    """One commit of a group that is stored as one transaction of an engine. [PG-60]"""

    records: dict[bytes, bytes]
    """The records by oid; check_record() has accepted all of them."""
    new: frozenset[bytes]
    """Which of these oids were given to its client, and not used yet."""
    accessed: OidSet | None
    """What its transaction has used; None for any oid."""


class GroupOutcome(NamedTuple):
    """What became of a group."""

    changed: list[bytes] | None
    """What others have changed before the group, and take_news() has not reported; None for any oid."""
    errors: dict[int, DurusError]
    """Why members are not stored, by their places in the group; the others are."""


class StagedGroup(Protocol):
    """A group of commits that ends in two steps, like StagedCommit."""

    def write(self) -> None:
        """Store the members that are not in conflict, in any thread. DurusError if none is stored, or it is unknown."""

    def accept(self) -> GroupOutcome:
        """Make their records the current ones, after write() has returned."""


class GroupNews(NamedTuple):
    """An answer to the question what others have changed."""

    is_complete: bool
    """False if that is unknown before the group that is being written has ended; then nothing is reported. [PG-63]"""
    changed: list[bytes] | None = None
    """The oids; None for any."""


class HeldState(Protocol):
    """A state that later commits do not change, for those who hold it. [TXN-60]"""

    def load(self, oid: bytes) -> bytes:
        """Return a record; DurusKeyError if there is none, SnapshotEndedError if the state can't be shown any more."""

    def has_record(self, oid: bytes) -> bool:
        """Return whether there is a record; SnapshotEndedError as for load()."""

    def expect_loads(self, oids: list[bytes]) -> None:
        """Tell what is loaded next. [PG-70]"""


class GroupSnapshot(NamedTuple):
    """The state after the last commit of an engine. [PG-66]"""

    state: HeldState
    changed: list[bytes] | None
    """What others have changed before it since take_news() or accept() last reported changes; None for any oid."""


class GroupStorage(Protocol):
    """What a storage that has other clients does for the many clients of a session core. [PG-60]

    The storage itself loads records: none that others have changed since take_news() or accept() last reported changes.
    """

    def take_news(self) -> GroupNews:
        """Return what others have changed. DisconnectedError if the engine can't be reached now."""

    def stage(self, members: list[Member]) -> StagedGroup:
        """Prepare a group; the next one may be staged when this one was accepted, or has failed."""

    def start_anew(self) -> None:
        """Give up a group whose thread was interrupted."""

    def take_snapshot(self) -> GroupSnapshot:
        """Have the engine keep its last state. DisconnectedError if the engine can't be reached now. [PG-66]"""

    def keep_snapshots(self, held: Collection[HeldState]) -> None:
        """Give up all states but those that somebody holds. [PG-66]"""

    def gen_pack(self) -> Generator[Progress, None, None]:
        """Pack in steps on a connection of its own. Any thread may run them, one step after the other. [PG-68]"""

    def break_off_pack(self) -> None:
        """Have the step of a pack that may be running end now, in whatever thread it is. [PG-68]"""


class Commit(NamedTuple):
    """A commit that a file still has. [HIST-1]"""

    number: int
    """Commits are counted from 1, since the last pack; 0 is what the pack has kept."""
    time: str | None
    """When it was made, in UTC, as `2026-11-23T19:11:01.123456Z`; None if that is not known. [HIST-2]"""
    offset: int
    """Where in the file its transaction starts."""
    size: int
    """The bytes of its transaction."""
    oids: tuple[bytes, ...]
    """The objects that it has changed or added; empty for number 0, which has all that were reached then."""


Moment = int | str | datetime
"""A commit: by its number, or the last one at a time or before. A text is in ISO 8601, and in UTC without an offset."""


class Usage(NamedTuple):
    """How much of a file a pack would remove."""

    size: int
    """The bytes of the file."""
    garbage: int
    """About how many of them are records that newer ones have replaced. [CMD-61]"""


EMPTY_COMMIT = StagedCommit(lambda: None, lambda: None)


class Storage(Uncopied):
    """Base class of storages. A subclass implements all methods that raise NotImplementedError here."""

    _guard: CallGuard | None = None
    """The guard of a storage that an interrupt can leave in the middle of a call, so that it starts anew. [TXN-30]"""

    is_shared = False
    """True if others may commit to what it stores, so that a server needs its group_storage(). [PG-3]"""

    format_name: str | None = None
    """What `durus check` and `durus info` call it, None for the name of its class."""

    connect_again: ConnectAgain = BY_ABORT
    """What errors about a lost connection say to do; a Database sets what its users do. [DB-25]"""

    keep_prepack = True
    """False if a pack that replaces the file is to remove the old one, and those of earlier packs. [CMD-62]"""

    keeps_history = False
    """True if commits() and the calls for one of them can answer. [HIST-1]"""

    shows_early = False
    """True if loads of others may see the records of stage_commit() before accept()."""

    @property
    def follows(self) -> bool:
        """True if sync() shows, and reports, what other processes have written since the last one. [SHELF-54]"""
        return False

    @property
    def failure(self) -> DurusError | None:
        """Why the connection to a server is lost, or None; the next sync() may connect again."""
        return None

    @property
    def is_interrupted(self) -> bool:
        """True if an exception interrupted the last call, so that the next one starts anew."""
        return self._guard is not None and self._guard.is_interrupted

    @property
    def usage(self) -> Usage | None:
        """How much of its file a pack would remove; None if that is not known."""
        return None

    def load(self, oid: bytes) -> bytes:
        """Return the current record of an object.

        Args:
            oid: the oid of the object.

        Raises:
            DurusKeyError: there is no such record.
            ReadConflictError: it has changed since the last sync().
        """
        raise NotImplementedError

    def has_record(self, oid: bytes) -> bool:
        """Return whether there is a record of `oid`."""
        try:
            self.load(oid)
        except DurusKeyError:
            return False
        return True

    def begin(self) -> None:
        """Begin a commit, and discard the records of an unfinished one."""
        raise NotImplementedError

    def store(self, oid: bytes, record: bytes) -> None:
        """Add a record to the commit.

        Args:
            oid: the oid of the object.
            record: its new record.

        Raises:
            RecordError: the record is malformed, or belongs to another oid.
            TransactionError: there was no begin().
        """
        raise NotImplementedError

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Finish the commit: if this returns, all its records are stored; if it raises, none is. [TXN-9]

        Args:
            handle_invalidations: called before anything is stored, if others have changed oids since the last sync();
                it may raise to refuse the commit.

        Raises:
            ConflictError: as `handle_invalidations` decides, or because a referenced object does not exist.
            OutcomeUnknownError: the server's answer did not come, so the records may be stored.
        """
        raise NotImplementedError

    def store_all(self, records: dict[bytes, bytes], handle_invalidations: InvalidationHandler | None = None) -> None:
        """Store records in one step: begin(), store() for each, and end(). A Connection commits with this.

        Args:
            records: the records by oid.
            handle_invalidations: as for end().

        Raises:
            RecordError: a record is malformed, or belongs to another oid.
            ConflictError: as for end().
            OutcomeUnknownError: as for end().
        """
        self.begin()
        for oid, record in records.items():
            self.store(oid, record)
        self.end(handle_invalidations)

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Prepare a commit in two steps, for callers that wait for the disk in another thread.

        check_record() must have accepted all records. Until accept() is called, no other commit may begin, and no step
        of a pack may run. A storage with nothing to wait for does everything here.

        Args:
            records: the records by oid.

        Returns:
            The two steps.
        """
        self.store_all(records)
        return EMPTY_COMMIT

    def sync(self) -> Collection[bytes] | None:
        """Return the oids that others changed, or a pack removed, since the last sync() or end().

        Returns:
            The oids; not in a list if a pack has removed very many. None means any oid, because the storage has started
            anew. [TXN-30]

        Raises:
            DisconnectedError: the server can't be reached.
        """
        raise NotImplementedError

    def stage_sync(self) -> StagedSync:
        """Do what sync() does in two steps, for a storage that `follows`. [CMD-63] [CMD-67]

        Any thread may make this call, the first step, while others load. A file that was cut, repaired or rewritten
        is opened again, with a DurusWarning.

        Raises:
            FileError: the file is missing, or can't be read.
            DamageError: the file is damaged.
        """
        raise NotImplementedError

    def take_turn(self) -> Collection[bytes] | None:
        """Sync, and keep others from committing until the next end() or release(). [DB-12]

        A storage with a single user, or with a protocol that has no turns, only syncs.

        Returns:
            What sync() returns.
        """
        return self.sync()

    def release(self) -> None:
        """Give up what a transaction that has ended holds: the turn to commit, or the state that it read."""

    def abandon(self) -> None:
        """Give up what others may wait for. A finalizer may call this in any thread, so it does not wait."""

    def use_snapshots(self) -> bool:
        """Show one state from each sync() to the next or to release(), and take no commits, from the next sync() on.

        Return False if the storage can't: then it behaves as before, and a load may raise ReadConflictError. [TXN-65]
        """
        return False

    def group_storage(self) -> GroupStorage | None:
        """Return what shares this storage among many clients beside others; None if it can't. [PG-3]"""
        return None

    def take_records(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Store the records of another database in this one, which is empty, in one step. [OBJ-44]

        Args:
            records: pairs of oid and record. Each reference must lead to one of them.
        """
        self.begin()
        for oid, record in records:
            self.store(oid, record)
        self.end()

    def as_of_now(self) -> "Storage":
        """Return a read-only storage of the present state, which no later commit or pack changes. [TXN-63]"""
        copied = MemoryStorage()
        copied.take_records(self.gen_oid_record())
        return copied

    def commits(self) -> Iterator[Commit]:
        """Yield the commits that are still there, the oldest first. [HIST-1]

        Raises:
            DurusError: The storage keeps no history, as all but a FileStorage.
            DamageError: The file is damaged.
        """
        raise self._no_history()

    def records_of(self, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
        """Yield each record of an object that is still there, the oldest first, with its commit. [HIST-7]

        Args:
            oid: the oid of the object.

        Raises:
            DurusError: as for commits().
        """
        raise self._no_history()

    def records_in(self, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for everything that a commit has stored. [HIST-6]

        Args:
            commit: one of commits().

        Raises:
            DurusError: as for commits().
        """
        raise self._no_history()

    def as_of(self, at: Moment) -> "Storage":
        """Return a read-only storage of the state after a commit; the caller closes it. [HIST-5]

        Args:
            at: the number of a commit, or a time.

        Raises:
            ArgumentError: there is no such commit.
            DurusError: as for commits().
        """
        raise self._no_history()

    def sealed_part(self, after: str) -> SealedPart:
        """Open what its file has now, up to its last seal, for one that follows; the caller closes it. [WIRE2-50]

        Args:
            after: the seal after which it is to begin, if the file has it; it may be empty.

        Raises:
            DurusError: the storage has no SHELF-1 file, or the file is read as it was earlier, or is damaged.
            ArgumentError: `after` is not a seal.
        """
        raise DurusError(f"a {type(self).__name__} has no SHELF-1 file, and only such a file can be followed")

    def _no_history(self) -> DurusError:
        return DurusError(
            f"a {type(self).__name__} keeps no earlier states: open the SHELF-1 file itself, with "
            "FileStorage(path, readonly=True), which may be in use meanwhile"
        )

    def new_oid(self) -> bytes:
        """Return an oid that no object has and that was not returned before; the first one is ROOT_OID."""
        raise NotImplementedError

    def set_is_loaded(self, is_loaded: Callable[[bytes], bool]) -> None:
        """Tell a storage that loads objects ahead how to find out which objects are loaded. [TXN-26]

        Args:
            is_loaded: takes an oid, and returns whether its object is loaded.
        """

    def expect_loads(self, oids: list[bytes]) -> None:
        """Tell a storage that loads objects ahead what is loaded next. [PG-70]

        Args:
            oids: the oids of the objects, which need not have records.
        """

    def set_accesses(self, accesses: Accesses) -> None:
        """Tell a storage that finds conflicts itself what transactions use. It keeps no reference to `accesses`."""

    def close(self) -> None:
        """Release what the storage holds open; further calls do nothing."""

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps. The storage may be used between them.

        Closing the iterator before its end leaves the storage unpacked. It is empty if the storage can't pack.
        """
        return iter(())

    def pack(self) -> None:
        """Remove the records that the root does not reach."""
        for _ in self.get_packer():
            pass

    def gen_pack(self) -> Iterator[Progress]:
        """Do what pack() does, and yield its progress if it has steps."""
        if type(self).pack is not Storage.pack:
            self.pack()
            return
        yield from self.get_packer()

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        """Load several records.

        Args:
            oids: the oids of the objects.

        Yields:
            Their records, in the same order.

        Raises:
            DurusKeyError: there is no such record.
            ReadConflictError: one has changed since the last sync().
        """
        for oid in oids:
            yield self.load(oid)

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Read all records that can be reached from an object, breadth first.

        Args:
            start_oid: the oid of the object. With None, the root; a storage may then also yield records that the root
                does not reach.
            batch_size: how many records are loaded at a time.

        Yields:
            Pairs of oid and record.
        """
        pending = deque([ROOT_OID if start_oid is None else start_oid])
        seen = set(pending)
        while pending:
            batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
            for oid, record in zip(batch, self.bulk_load(batch), strict=True):
                yield oid, record
                for ref in refs_of(record):
                    if ref not in seen:
                        seen.add(ref)
                        pending.append(ref)


class CollectingStorage(Storage):
    """A storage that collects the records of a commit until end()."""

    _pending: dict[bytes, bytes] | None = None

    def begin(self) -> None:
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        if self._pending is None:
            raise TransactionError("store() was called outside of begin() and end()")
        check_record(oid, record)
        self._pending[oid] = record

    def _take_pending(self) -> dict[bytes, bytes]:
        if self._pending is None:
            raise TransactionError("end() was called without begin()")
        pending, self._pending = self._pending, None
        return pending


class GuardedStorage(CollectingStorage):
    """A storage that collects the records of a commit, and whose calls must not overlap."""

    _guard: CallGuard

    @guarded
    def begin(self) -> None:
        self._require_writable()
        super().begin()

    def _require_writable(self) -> object:
        """Return what a commit needs; raise the error with which none is accepted."""
        raise NotImplementedError

    def _start_anew(self) -> None:
        """Make the storage fit for use after a call that was interrupted. [TXN-30]"""
        raise NotImplementedError


class _Sweep:
    """Finds, in steps, what the root did not reach at the beginning and no commit since has brought back."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self._records = records
        self._oids = list(records)
        self.garbage: set[bytes] = set()
        """After all steps: what to remove."""
        self._before: dict[bytes, bytes | None] = {}
        """The records that were replaced since, None for those that did not exist."""
        self._live: set[bytes] = set()
        """What the root reached at the beginning."""
        self._kept: set[bytes] = set()
        """What was committed since, and what that reaches."""
        self._brought: list[bytes] = []
        """What commits since refer to, and what was not followed yet."""

    def note(self, committed: dict[bytes, bytes]) -> None:
        """Note a commit before it is done."""
        for oid, record in committed.items():
            self._before.setdefault(oid, self._records.get(oid))
            self._brought.extend(gen_refs(record))
        self._kept.update(committed)
        self.garbage.difference_update(committed)

    def steps(self) -> Iterator[Progress]:
        """Do the work, one step at a time."""
        yield Progress("mark", 0, None)
        yield from self._mark()
        oids = iter(self._oids)
        while some := list(islice(oids, STEP_REFS)):
            dead = (oid for oid in some if oid not in self._live and oid not in self._kept)
            self.garbage.update(oid for oid in dead if oid in self._records)
            yield Progress("mark", len(self._live), None)
        yield from self._revive()
        for _ in self._revive():
            pass  # the rest was committed since the last step

    def _mark(self) -> Iterator[Progress]:
        pending = [ROOT_OID] if self._record_before(ROOT_OID) is not None else []
        yield from mark_reachable(pending, self._live, self._record_before, self._require)

    def _require(self, oid: bytes, referrer: bytes) -> None:
        if self._record_before(oid) is None:
            raise dangling_reference_error(referrer, oid)

    def _record_before(self, oid: bytes) -> bytes | None:
        return self._before[oid] if oid in self._before else self._records.get(oid)

    def _revive(self) -> Iterator[Progress]:
        work = 0
        while self._brought:
            oid = self._brought.pop()
            if oid not in self._live and oid not in self._kept:
                self._kept.add(oid)
                self.garbage.discard(oid)
                self._brought.extend(gen_refs(self._records[oid]))
            work += 1
            if work % STEP_REFS == 0:
                yield Progress("mark", len(self._live), None)


class MemoryStorage(CollectingStorage):
    """A storage for one connection that keeps its records in memory, as long as it exists."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._removed: Collection[bytes] = []
        self._next_oid = 0
        self._condemned: set[bytes] = set()
        """What a pack has removed, though its record may still be in memory."""
        self._sweep: weakref.ref[_Sweep] | None = None

    def take_records(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Add records that were stored elsewhere.

        Args:
            records: pairs of oid and record.
        """
        self._records.update(records)

    def load(self, oid: bytes) -> bytes:
        try:
            if self._condemned and oid in self._condemned:
                raise KeyError
            return self._records[oid]
        except KeyError:
            raise DurusKeyError(oid) from None

    def has_record(self, oid: bytes) -> bool:
        return oid in self._records and oid not in self._condemned

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        pending = self._take_pending()
        if self._removed and handle_invalidations is not None:
            handle_invalidations(self.sync())
        check_references(pending, self.has_record)
        sweep = None if self._sweep is None else self._sweep()
        if sweep is not None:
            sweep.note(pending)
        self._condemned.difference_update(pending)
        self._records.update(pending)
        self._remove_some()

    def sync(self) -> Collection[bytes]:
        removed, self._removed = self._removed, []
        return removed

    def use_snapshots(self) -> bool:
        return True  # nobody but its connection changes what it has

    def new_oid(self) -> bytes:
        self._next_oid += 1
        return oid_from_int(self._next_oid - 1)

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps, while commits continue between them."""
        sweep = _Sweep(self._records)
        self._sweep = weakref.ref(sweep)
        while self._condemned:  # by the pack before
            self._remove_some()
            yield Progress("mark", 0, None)
        yield from sweep.steps()
        self._removed, self._condemned = joined(self._removed, OidArray.of(sweep.garbage)), sweep.garbage

    def _remove_some(self) -> None:
        """Free the memory of some removed records; freeing all of them at once would take long."""
        for oid in list(islice(self._condemned, STEP_REFS)):
            self._records.pop(oid, None)
            self._condemned.discard(oid)

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record, or for those reached from `start_oid`, `batch_size` at a time."""
        if start_oid is None:
            return iter([pair for pair in self._records.items() if pair[0] not in self._condemned])
        return super().gen_oid_record(start_oid, batch_size)


def check_record(oid: bytes, record: bytes) -> None:
    """Raise RecordError unless `record` is a well-formed record of `oid`. [REC-5] [REC-6]"""
    if not is_record_of(oid, record):
        raise RecordError(f"a record of oid {format_oid(oid_of(record))} can't be stored as oid {format_oid(oid)}")


def check_references(records: dict[bytes, bytes], exists: Callable[[bytes], bool]) -> None:
    """Raise WriteConflictError if a well-formed record refers to an oid without a record. [TXN-10]

    Args:
        records: the records of a commit, by oid.
        exists: returns whether an oid that is not among them has a record.
    """
    missing = [ref for ref in refs_outside(records) if not exists(ref)]
    if missing:
        raise WriteConflictError(sorted(missing))


def gen_referring_oid_record(storage: Storage, referred_oid: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Find the records that refer to an object. This reads all records.

    Args:
        storage: the storage.
        referred_oid: the oid of the object.

    Yields:
        Pairs of oid and record.
    """
    for oid, record in storage.gen_oid_record():
        if referred_oid in refs_of(record):
            yield oid, record


def gen_oid_class(storage: Storage, *classes: str) -> Iterator[tuple[bytes, str]]:
    """Find the class of each record. This reads all records.

    Args:
        storage: the storage.
        classes: class names; without any, all records are of interest.

    Yields:
        Pairs of oid and class name.
    """
    for oid, record in storage.gen_oid_record():
        name = extract_class_name(record)
        if not classes or name in classes:
            yield oid, name


def get_census(storage: Storage) -> dict[str, int]:
    """Return how many records of each class name the `storage` has."""
    counts: dict[str, int] = {}
    for _, name in gen_oid_class(storage):
        counts[name] = counts.get(name, 0) + 1
    return counts


def get_reference_index(storage: Storage) -> dict[bytes, list[bytes]]:
    """Return, for each oid in the `storage` that is referred to, the oids of the records that refer to it."""
    index: dict[bytes, list[bytes]] = {}
    for oid, record in storage.gen_oid_record():
        for ref in refs_of(record):
            index.setdefault(ref, []).append(oid)
    return index


def require_storage(value: object) -> Storage:
    """Return a storage; ArgumentError for anything else. [TXN-38]"""
    if isinstance(value, Storage):
        return value
    hint = "its new_client() returns one for each connection" if hasattr(value, "new_client") else "open one"
    raise ArgumentError(f"{value!r} is not a storage, such as FileStorage(path); {hint}")
