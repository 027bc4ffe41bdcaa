"""What a Connection needs of a storage, and tools that work on any. spec/transactions.md.

A storage keeps records by oid and replaces or adds a set of them in one step.
"""

import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple, Protocol

from durus.concurrency.call_guard import CallGuard
from durus.error import DurusError, DurusKeyError, RecordError, TransactionError, WriteConflictError
from durus.oid import FIRST_RESERVED_OID, ROOT_OID, format_oid, oid_from_int
from durus.progress import STEP_REFS, Progress
from durus.records.reachable import dangling_reference_error, mark_reachable
from durus.records.record import extract_class_name, gen_refs, refs_of, refs_of_sound, unpack_record

InvalidationHandler = Callable[[list[bytes] | None], None]
"""Takes the oids that others changed, None for any; raises a ConflictError if the commit must not go on."""


class Accesses(Protocol):
    """What a storage that finds conflicts itself asks of the connection that commits."""

    @property
    def accessed(self) -> Collection[bytes]:
        """The oids that the transaction has used."""

    def note_invalid(self, oids: list[bytes] | None) -> None:
        """Take note of oids that others changed, and that the transaction has not used; None for any."""


class StagedCommit(NamedTuple):
    """A commit whose records are known, and which ends in two steps."""

    write: Callable[[], None]
    """Makes the records durable. It may take its time, and may run in another thread while the storage is read."""
    accept: Callable[[], None]
    """Makes the records those that are current; called when write() has returned."""


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


EMPTY_COMMIT = StagedCommit(lambda: None, lambda: None)


class Storage:
    """Base class of storages.  A subclass has all methods that raise NotImplementedError here."""

    _guard: CallGuard | None = None
    """Of a storage that an interrupt can leave half-way: what it needs to start anew. [TXN-30]"""

    shows_early = False
    """True if what stage_commit() returns may show the records, to loads of others, before they are accepted."""

    @property
    def failure(self) -> DurusError | None:
        """Why the connection to a server is lost, None if it is not; the next sync() may connect again."""
        return None

    @property
    def is_interrupted(self) -> bool:
        """True if the last call was interrupted by an exception, so that the next one starts anew."""
        return self._guard is not None and self._guard.is_interrupted

    def load(self, oid: bytes) -> bytes:
        """Return the current record of `oid`.

        DurusKeyError if there is none; ReadConflictError if it changed since the last sync().
        """
        raise NotImplementedError

    def has_record(self, oid: bytes) -> bool:
        """Tell if there is a record of `oid`."""
        try:
            self.load(oid)
        except DurusKeyError:
            return False
        return True

    def begin(self) -> None:
        """Begin a commit; what an unfinished one has stored is forgotten."""
        raise NotImplementedError

    def store(self, oid: bytes, record: bytes) -> None:
        """Take a record into the commit."""
        raise NotImplementedError

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Conclude the commit: when this returns, all its records are stored; if it raises, none is. [TXN-9]

        Where others changed oids since the last sync(), handle_invalidations(oids) is called first.
        """
        raise NotImplementedError

    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Store records, by oid, in two steps: a commit of its own, for who can wait for the disk elsewhere.

        check_record() must have taken all of them; before accept() is called no other commit may begin, and no
        step of a pack be done.
        A storage that has nothing to wait for does all of it here.
        """
        self.begin()
        for oid, record in records.items():
            self.store(oid, record)
        self.end()
        return EMPTY_COMMIT

    def sync(self) -> list[bytes] | None:
        """Return the oids that others changed, or a pack removed, since the last sync() or end().

        None means that it may be any: the storage has started anew. [TXN-30]
        """
        raise NotImplementedError

    def take_turn(self) -> list[bytes] | None:
        """Sync, and keep others from committing up to the next end() or release(). [DB-12]

        A storage that nobody else commits to, or whose protocol has no such thing, just syncs.
        """
        return self.sync()

    def release(self) -> None:
        """Give up what was held for a transaction that has ended: the turn to commit, or the state that it read."""

    def abandon(self) -> None:
        """Give up what others may wait for; a finalizer may call it, in any thread, so it waits for nothing."""

    def use_snapshots(self) -> bool:
        """Show one state from each sync() to the next or to release(), and take no commits, from the next sync() on.

        Return False if the storage can't: then it goes on as ever, and a load may raise ReadConflictError. [TXN-65]
        """
        return False

    def as_of_now(self) -> "Storage":
        """Return a storage, to be read only, of what is stored now; no later commit or pack changes it. [TXN-63]"""
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
        """Yield each record of an object that is still there, the oldest first, with the commit that it is of. [HIST-7]

        Errors as commits() has them.
        """
        raise self._no_history()

    def records_in(self, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for all that a commit has stored. Errors as commits() has them. [HIST-6]"""
        raise self._no_history()

    def as_of(self, at: Moment) -> "Storage":
        """Return a storage, to be read only, of what was stored after a commit; the caller closes it. [HIST-5]

        ArgumentError if there is no such commit; other errors as commits() has them.
        """
        raise self._no_history()

    def _no_history(self) -> DurusError:
        return DurusError(
            f"a {type(self).__name__} keeps no earlier states: open the SHELF-1 file itself, with "
            "FileStorage(path, readonly=True), which may be in use meanwhile"
        )

    def new_oid(self) -> bytes:
        """Return an oid that no object has and that was not handed out before; the first is ROOT_OID."""
        raise NotImplementedError

    def set_is_loaded(self, is_loaded: Callable[[bytes], bool]) -> None:
        """Let the storage know how to tell which objects are loaded, if it loads others ahead. [TXN-26]"""

    def set_accesses(self, accesses: Accesses) -> None:
        """Let the storage know what transactions use, if it finds conflicts itself. It keeps no reference to this."""

    def close(self) -> None:
        """Give up what the storage holds open; further calls of close() do nothing."""

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps, between which the storage can be used as ever.

        Closing it before its end leaves the storage unpacked.  It is empty where the storage can't.
        """
        return iter(())

    def pack(self) -> None:
        """Remove the records that the root does not reach."""
        for _ in self.get_packer():
            pass

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the records of `oids`, in their order; errors as load() has them."""
        for oid in oids:
            yield self.load(oid)

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for all that can be reached from `start_oid`, breadth first.

        With None a storage may yield all that it has, reachable or not; this one starts at the root.
        `batch_size` is how many records are asked for at a time.
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
    """A storage that collects the records of a commit up to its end()."""

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


class _Sweep:
    """Finds what the root does not reach when it begins, and no commit since has brought back, in steps."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self._records = records
        self._oids = list(records)
        self.garbage: set[bytes] = set()
        """When all steps are done: what is to be removed."""
        self._before: dict[bytes, bytes | None] = {}
        """What was replaced since, None for what was not there."""
        self._live: set[bytes] = set()
        """What the root reached when this began."""
        self._kept: set[bytes] = set()
        """What was committed since, or brought back by that."""
        self._brought: list[bytes] = []
        """What commits since have referred to."""

    def note(self, committed: dict[bytes, bytes]) -> None:
        """Take note of a commit, before it is done."""
        for oid, record in committed.items():
            self._before.setdefault(oid, self._records.get(oid))
            self._brought.extend(gen_refs(record))
        self._kept.update(committed)
        self.garbage.difference_update(committed)

    def steps(self) -> Iterator[Progress]:
        """Do the work, a step at a time."""
        yield Progress("mark", 0, None)
        yield from self._mark()
        oids = iter(self._oids)
        while some := list(islice(oids, STEP_REFS)):
            dead = (oid for oid in some if oid not in self._live and oid not in self._kept)
            self.garbage.update(oid for oid in dead if oid in self._records)
            yield Progress("mark", len(self._live), None)
        yield from self._revive()
        for _ in self._revive():
            pass  # what is left is what was committed since the last step

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
    """A storage for one connection that keeps its records in memory, and no longer than itself."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._removed: list[bytes] = []
        self._next_oid = 0
        self._condemned: set[bytes] = set()
        """What a pack has removed, and whose records may be there yet."""
        self._sweep: weakref.ref[_Sweep] | None = None

    def take_records(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Take over records that were stored elsewhere."""
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

    def sync(self) -> list[bytes]:
        removed, self._removed = self._removed, []
        return removed

    def use_snapshots(self) -> bool:
        return True  # nobody but its connection changes what it has

    def new_oid(self) -> bytes:
        self._next_oid += 1
        return oid_from_int(self._next_oid - 1)

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps, while commits go on between them."""
        sweep = _Sweep(self._records)
        self._sweep = weakref.ref(sweep)
        while self._condemned:  # by the pack before
            self._remove_some()
            yield Progress("mark", 0, None)
        yield from sweep.steps()
        self._removed, self._condemned = self._removed + list(sweep.garbage), sweep.garbage

    def _remove_some(self) -> None:
        """Give back the memory of some of what a pack has removed: of all, it would take its time."""
        for oid in list(islice(self._condemned, STEP_REFS)):
            self._records.pop(oid, None)
            self._condemned.discard(oid)

    def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Iterator[tuple[bytes, bytes]]:
        """Yield (oid, record) for every record, or for those reached from `start_oid`."""
        if start_oid is None:
            return iter([pair for pair in self._records.items() if pair[0] not in self._condemned])
        return super().gen_oid_record(start_oid, batch_size)


def check_record(oid: bytes, record: bytes) -> None:
    """Raise RecordError unless `record` is a sound record of `oid`. [REC-5] [REC-6]"""
    record_oid = unpack_record(record)[0]
    if len(oid) != 8 or record_oid != oid or oid >= FIRST_RESERVED_OID:
        raise RecordError(f"a record of oid {format_oid(record_oid)} can't be stored as oid {format_oid(oid)}")


def check_references(records: dict[bytes, bytes], exists: Callable[[bytes], bool]) -> None:
    """Raise WriteConflictError if a sound record refers to what is neither among them nor exists. [TXN-10]"""
    missing = {
        ref for record in records.values() for ref in refs_of_sound(record) if ref not in records and not exists(ref)
    }
    if missing:
        raise WriteConflictError(sorted(missing))


def gen_referring_oid_record(storage: Storage, referred_oid: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (oid, record) for every record that refers to `referred_oid`."""
    for oid, record in storage.gen_oid_record():
        if referred_oid in refs_of(record):
            yield oid, record


def gen_oid_class(storage: Storage, *classes: str) -> Iterator[tuple[bytes, str]]:
    """Yield (oid, class name) for every record, or for those whose class has one of the names given."""
    for oid, record in storage.gen_oid_record():
        name = extract_class_name(record)
        if not classes or name in classes:
            yield oid, name


def get_census(storage: Storage) -> dict[str, int]:
    """Return how many records there are of each class name."""
    counts: dict[str, int] = {}
    for _, name in gen_oid_class(storage):
        counts[name] = counts.get(name, 0) + 1
    return counts


def get_reference_index(storage: Storage) -> dict[bytes, list[bytes]]:
    """Return, for each oid that is referred to, the oids of the records that refer to it."""
    index: dict[bytes, list[bytes]] = {}
    for oid, record in storage.gen_oid_record():
        for ref in refs_of(record):
            index.setdefault(ref, []).append(oid)
    return index
