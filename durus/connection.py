"""Transactions over a storage: read set, commit, abort, conflicts. Statements TXN-1 to TXN-18."""

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar
from weakref import WeakSet

from durus.cache import Cache
from durus.contents import split_data
from durus.error import DurusKeyError, ReadConflictError, StateError, TransactionError, WriteConflictError
from durus.file import Path
from durus.oid import ROOT_OID, oid_from_int
from durus.open_file import open_file_storage
from durus.persistent import SAVED, ConnectionBase, PersistentBase, PersistentObject, Watch, set_slot
from durus.persistent_dict import PersistentDict
from durus.record import split_oids, unpack_record
from durus.serialize import ObjectReader, ObjectWriter
from durus.storage import Storage

T = TypeVar("T")

_open_connections: "WeakSet[Connection]" = WeakSet()


class Connection(ConnectionBase):
    """The objects of a storage, in transactions that run from one commit() or abort() to the next.

    `storage` is a Storage, or the path of a file of any format, made as a SHELF-1 file if it is not there;
    `cache_size` is how many objects may stay loaded beyond a transaction; `root_class` is the class of a
    new root, PersistentDict if None.
    A connection and its objects may be used by one thread at a time.
    """

    def __init__(
        self,
        storage: Storage | Path,
        cache_size: int = 100000,
        root_class: type[PersistentObject] | None = None,
    ) -> None:
        super().__init__()
        self.storage = storage if isinstance(storage, Storage) else open_file_storage(storage)
        self.cache = Cache(cache_size)
        self.invalid_oids: set[bytes] = set()
        """Oids that others changed, and whose states here could not be dropped for a conflict."""
        self.transaction_serial = 1
        self._watches: WeakSet[Watch] = WeakSet()
        self._spare_oids: list[bytes] = []
        self._in_transaction = False
        self._reader = ObjectReader(self, self.cache, self.get)
        self.storage.set_is_loaded(self.cache.is_loaded)
        try:
            self._open_root(root_class)
        except BaseException:
            if self.storage is not storage:
                self.storage.close()
            raise
        _open_connections.add(self)

    def get_root(self) -> PersistentDict[object, object]:
        """Return the root object: the one with oid 0, from which all that is stored is reached."""
        return self.root  # type: ignore[return-value]  # root_class is the application's own choice

    def get_storage(self) -> Storage:
        return self.storage

    def get_cache(self) -> Cache:
        return self.cache

    def get_cache_count(self) -> int:
        """Return how many objects are in memory, ghosts among them."""
        return self.cache.get_count()

    def get_cache_size(self) -> int:
        """Return how many objects may stay loaded beyond a transaction."""
        return self.cache.get_size()

    def set_cache_size(self, size: int) -> None:
        """Set how many objects may stay loaded beyond a transaction."""
        self.cache.set_size(size)

    def shrink_cache(self) -> None:
        """Make ghosts of the least recently used objects beyond the cache size."""
        self.cache.shrink(self.transaction_serial)

    def get_load_count(self) -> int:
        """Return how many states this connection has loaded."""
        return self._reader.load_count

    def get_transaction_serial(self) -> int:
        """Return the number of the transaction under way."""
        return self.transaction_serial

    def get_stored_pickle(self, oid: bytes) -> bytes:
        """Return the data of the current record of `oid`; DurusKeyError if there is none."""
        return unpack_record(self._load(oid))[1]

    def get(self, oid: bytes | int) -> PersistentObject | None:
        """Return the object of `oid`, None if there is none. It does not count as an access."""
        if isinstance(oid, int):
            oid = oid_from_int(oid)
        obj = self.cache.get(oid)
        if obj is None:
            try:
                data = self.get_stored_pickle(oid)
            except DurusKeyError:
                return None
            obj = self._reader.ghost_of_record(oid, data)
        return obj

    __getitem__ = get

    def get_crawler(self, start_oid: bytes = ROOT_OID, batch_size: int = 100) -> Iterator[PersistentObject]:
        """Yield all objects reached from `start_oid`, breadth first, fetched and loaded `batch_size` at a time.

        Errors as a load has them; transactions may begin and end meanwhile.
        """
        pending = deque([start_oid])
        seen = set(pending)
        while pending:
            batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
            objects = []
            for oid, record in zip(batch, self._load_all(batch), strict=True):
                _, data, refs = unpack_record(record)
                obj = self._reader.ghost_of_record(oid, data)
                if obj._p_is_ghost():
                    self._reader.load_state(obj, data)
                    self.cache.note_loaded(oid, obj)
                objects.append(obj)
                new = [ref for ref in split_oids(refs) if ref not in seen]
                seen.update(new)
                pending.extend(new)
            yield from objects

    # What objects call

    def load_state(self, obj: PersistentBase) -> None:
        """Load the state of a ghost. ReadConflictError if it would not fit what was read before."""
        oid = obj._p_oid
        if oid is None or not isinstance(obj, PersistentObject):
            raise StateError(f"{obj!r} is not an object of this connection")
        try:
            data = unpack_record(self._load(oid))[1]
        except DurusKeyError:
            raise ReadConflictError([oid]) from None
        self._reader.load_state(obj, data)
        self.cache.note_loaded(oid, obj)

    def watch(self) -> Watch:
        watch = Watch()
        self._watches.add(watch)
        return watch

    def let_go(self, obj: PersistentBase) -> None:
        oid = obj._p_oid
        if oid is not None and obj._p_status == SAVED and self.cache.is_overfull():
            self.cache.make_ghost(oid)

    # Transactions

    def commit(self) -> None:
        """Store all changes of this transaction in one step, and begin the next one.

        WriteConflictError if others changed what it used. If it raises, nothing was stored and the
        transaction stays open: mend what the error names, or call abort().
        """
        if self.changed:
            self._store(self._gen_changed())  # which has synced, and a second time could fail behind it
            self._begin_next()
        else:
            self._sync_and_begin_next()

    def abort(self) -> None:
        """Forget all changes of this transaction, and begin the next one."""
        self._drop_states(list(self.changed))
        self._sync_and_begin_next()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[PersistentDict[object, object]]:
        """Run a block as one transaction on the root: commit at its end, abort if it raises.

        TransactionError if there are changes that were not committed before.
        """
        if self.changed or self._in_transaction:
            raise TransactionError("a transaction is open already; commit() or abort() it first")
        self.abort()
        self._in_transaction = True
        try:
            yield self.get_root()
            self.commit()
        except BaseException:
            self.abort()
            raise
        finally:
            self._in_transaction = False

    def pack(self) -> None:
        """Abort this transaction, then remove from the storage what the root does not reach."""
        self.abort()
        self.storage.pack()
        self.abort()

    def close(self) -> None:
        """Close the storage; changes that were not committed are lost."""
        _open_connections.discard(self)
        self.storage.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_root(self, root_class: type[PersistentObject] | None) -> None:
        root = self.get(ROOT_OID)
        if root is None:
            with contextlib.suppress(WriteConflictError):  # another client was first [TXN-24]
                self._make_root(root_class or PersistentDict)
            self._sync_and_begin_next()
            root = self.get(ROOT_OID)
        if root is None:
            raise StateError("the storage has no root object, and does not take one")
        self.root: PersistentObject = root
        if root_class is not None and type(self.root) is not root_class:
            raise StateError(f"the root is a {type(self.root).__name__}, not a {root_class.__name__}")

    def _make_root(self, root_class: type[PersistentObject]) -> None:
        root = root_class()
        oid = self.storage.new_oid()
        if oid != ROOT_OID:
            self._spare_oids.append(oid)
            raise WriteConflictError([ROOT_OID])  # if nobody was first, then the storage can't have a root
        set_slot(root, "_p_oid", oid)
        set_slot(root, "_p_connection", self)
        self.root = root
        self._store([(root, oid)])

    def _store(self, changed: Iterable[tuple[PersistentObject, bytes]]) -> None:
        writer = ObjectWriter(self, self.root, self._new_oid, self._reader.has_broken_classes())
        try:
            records = list(writer.records(changed))
            if not self.invalid_oids.isdisjoint(self.accessed):
                raise WriteConflictError(sorted(self.invalid_oids & self.accessed))
            self.storage.begin()
            for _, oid, record in records:
                self.storage.store(oid, record)
            self.storage.end(self._handle_invalidations)
        except BaseException:
            self._spare_oids.extend(oid for oid, _ in writer.new_objects.values())
            raise
        for oid, obj in writer.new_objects.values():
            set_slot(obj, "_p_oid", oid)
            set_slot(obj, "_p_connection", self)
        for obj, oid, _ in records:
            set_slot(obj, "_p_status", SAVED)
            self.note_access(obj)
            self.cache.note_loaded(oid, obj)

    def _gen_changed(self) -> Iterator[tuple[PersistentObject, bytes]]:
        """Yield (object, oid) for all changed objects, those that a __getstate__ changes meanwhile too."""
        done: set[bytes] = set()
        while pending := [(obj, oid) for oid, obj in self.changed.items() if oid not in done]:
            done.update(oid for _, oid in pending)
            yield from pending

    def _sync_and_begin_next(self) -> None:
        self._drop_states(self.invalid_oids.union(self._known(self.storage.sync())))
        self.invalid_oids = set()
        self._begin_next()

    def _begin_next(self) -> None:
        self.changed.clear()
        self.accessed.clear()
        self.transaction_serial += 1
        self.shrink_cache()

    def _new_oid(self) -> bytes:
        return self._spare_oids.pop() if self._spare_oids else self.storage.new_oid()

    def _load(self, oid: bytes) -> bytes:
        if oid in self.invalid_oids:  # [TXN-15]
            raise ReadConflictError([oid])
        try:
            return self.storage.load(oid)
        except ReadConflictError as conflict:
            self._sync_for(conflict)
            return self._read(lambda: self.storage.load(oid))

    def _load_all(self, oids: list[bytes]) -> list[bytes]:
        return self._read(lambda: list(self.storage.bulk_load(oids)))

    def _read(self, read: Callable[[], T]) -> T:
        """Return what a call of the storage gives, after a sync if that is asked for. [TXN-14]"""
        while True:
            try:
                return read()
            except ReadConflictError as conflict:  # maybe not for the last time, if others go on changing it
                self._sync_for(conflict)

    def _sync_for(self, conflict: ReadConflictError) -> None:
        """Sync because a load came upon an invalid oid; raise the conflict if that can't help."""
        invalid = self._known(self.storage.sync())
        self._handle_invalidations(invalid, conflict.oids[0])
        if conflict.oids[0] not in invalid:
            raise conflict

    def _known(self, oids: list[bytes] | None) -> list[bytes]:
        """Return the oids that a storage calls invalid: those of all states that are loaded, if it can't tell."""
        return [obj._p_oid for obj in self.cache.loaded_objects() if obj._p_oid] if oids is None else oids

    def _handle_invalidations(self, oids: list[bytes] | None, read_oid: bytes | None = None) -> None:
        """Drop the states that others changed; a conflict if this transaction has used one of them."""
        self.invalid_oids.update(self._known(oids))
        conflicts = self.invalid_oids & self.accessed
        if conflicts:
            raise WriteConflictError(sorted(conflicts)) if read_oid is None else ReadConflictError([read_oid])
        self._drop_states(self.invalid_oids)
        self.invalid_oids = set()

    def _drop_states(self, oids: Collection[bytes]) -> None:
        """Make ghosts of the objects whose states are no longer those that the storage has."""
        for oid in oids:
            self.cache.make_ghost(oid)
        if oids:
            for watch in self._watches:
                watch.note_dropped(oids)


def gen_every_instance(connection: Connection, *classes: type[T]) -> Iterator[T]:
    """Yield every stored object of these classes and their subclasses; reads all records."""
    for oid, record in connection.storage.gen_oid_record():
        if issubclass(connection._reader.class_of_record(oid, unpack_record(record)[1]), classes):
            obj = connection.get(oid)
            if isinstance(obj, classes):
                yield obj


def touch_every_reference(connection: Connection | str, *words: str) -> None:
    """Mark as changed every object in whose record, classes of references included, a word occurs.

    The connection may be left out where the process has exactly one that is open: TransactionError otherwise.
    """
    if isinstance(connection, str):
        words = (connection, *words)
        connection = _only_connection()
    wanted = [word.encode() for word in words]
    for oid, record in connection.storage.gen_oid_record():
        pickles = split_data(unpack_record(record)[1])
        if any(word in text for word in wanted for text in pickles):
            obj = connection.get(oid)
            if obj is not None:
                obj._p_note_change()


def _only_connection() -> Connection:
    if len(_open_connections) > 1:  # maybe some that nobody can use any more
        gc.collect()
    found = list(_open_connections)
    if len(found) != 1:
        raise TransactionError(
            f"{len(found)} connections are open in this process: name the one that is meant, "
            "as touch_every_reference(connection, ...)"
        )
    return found[0]
