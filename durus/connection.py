"""Transactions over a storage: read set, commit, abort, conflicts. Statements TXN-1 to TXN-18, TXN-30 to TXN-36,
TXN-50 to TXN-54.

A connection remembers which objects the transaction has accessed, and which it has changed. A commit pickles the
changed ones and hands them to the storage, which says what others have changed since the last sync. Where that meets
an accessed object, the transaction has a conflict; all other changed objects become ghosts, and load again.

What has a rule of its own is in durus/transactions: `invalidations` has the conflicts, `pending_commit` the objects of
a commit, `blocks` the open blocks, `savepoint` the states to go back to.
"""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload
from weakref import ref

from durus.concurrency.call_guard import CALL, CallGuard, guarded, guarded_load
from durus.concurrency.uncopied import Uncopied
from durus.error import (
    ArgumentError,
    ConflictError,
    DurusError,
    DurusKeyError,
    InterruptedTransactionError,
    NetworkError,
    ReadConflictError,
    ReadonlyError,
    StateError,
    TransactionError,
    WriteConflictError,
)
from durus.files.file import Path
from durus.objects.cache import Cache
from durus.objects.trust import Entry, Trust, checked_entries
from durus.oid import ROOT_OID, format_oid, oid_from_int
from durus.open_file import open_file_storage
from durus.persistent import SAVED, ConnectionBase, PersistentBase, PersistentObject, Watch, set_slot
from durus.persistent_dict import PersistentDict
from durus.records.contents import split_data
from durus.records.record import split_oids, unpack_record
from durus.serialize import ObjectReader, ObjectWriter
from durus.storage import Moment, Storage, require_storage
from durus.transactions.blocks import Block, OpenBlocks, Savepoint
from durus.transactions.invalidations import Invalidations
from durus.transactions.looking_back import Version as Version
from durus.transactions.looking_back import copy_of, give_state, states_at
from durus.transactions.open_connections import OpenConnections
from durus.transactions.pending_commit import PendingCommit, count_as_changed
from durus.transactions.savepoint import KeptStates
from durus.transactions.unnoted import Debug, UnnotedChange, UnnotedChanges, debug_mode

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # type checkers have it built in

    Root_co = TypeVarWithDefault("Root_co", bound=PersistentObject, default=PersistentDict[str, Any], covariant=True)
    """The type of a root object. [OBJ-91]"""
else:
    Root_co = TypeVar("Root_co", covariant=True)

_getframe = sys._getframe
_open_connections: "OpenConnections[Connection[Any]]" = OpenConnections()


class Connection(ConnectionBase, Uncopied, Generic[Root_co]):
    """The objects of a storage, in transactions that run from one commit() or abort() to the next.

    One thread at a time may use a connection and its objects; ConcurrentUseError reports a second one. To type checkers
    a connection is generic in its root: a Connection[PersistentDict[str, Any]], or one of the `root_class`. [OBJ-91]

    Args:
        storage: a Storage, or the path of a file of any format. A file that does not exist is created as SHELF-1.
        cache_size: how many objects may stay loaded after a transaction.
        root_class: the class of the root object, PersistentDict if None.
        debug: True makes commit() and shrink_cache() raise UnnotedChangeError for changes that were not noted, "warn"
            gives an UnnotedChangeWarning instead; None follows the environment variable DURUS_DEBUG, which is `1`,
            `warn` or empty. [OBJ-85] to [OBJ-88]
        snapshot: only read; each transaction shows one state, whatever others commit, so that a read has no conflict,
            and a commit with changes raises ReadonlyError. A path is opened with readonly=True. A storage without
            snapshots, such as that of a server of Durus 4.3, may still raise ReadConflictError. [TXN-65]
        classes: what may be imported and called when objects are loaded, such as `["shop.*", *durus.trust.standard]`:
            names, in which each `*` stands for any characters, classes, and modules. Anything else is broken, as if it
            was missing. None trusts whatever the records name. [OBJ-100] to [OBJ-105]

    Raises:
        TransactionError: the storage already has an open connection. [TXN-35]
        ArgumentError: `storage` is neither a storage nor a path, `root_class` is not a class of persistent objects, or
            `classes` has something that is not a name, class or module. [TXN-38]
        StateError: the root is of another class.
        DurusError: the file can't be opened; see the storages.
    """

    @overload
    def __init__(
        self: "Connection[PersistentDict[str, Any]]",
        storage: Storage | Path,
        cache_size: int = 100000,
        root_class: None = None,
        *,
        debug: Debug | None = None,
        snapshot: bool = False,
        classes: Iterable[Entry] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        storage: Storage | Path,
        cache_size: int = 100000,
        *,
        root_class: type[Root_co],
        debug: Debug | None = None,
        snapshot: bool = False,
        classes: Iterable[Entry] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        storage: Storage | Path,
        cache_size: int,
        root_class: type[Root_co] | None,
        *,
        debug: Debug | None = None,
        snapshot: bool = False,
        classes: Iterable[Entry] | None = None,
    ) -> None: ...
    def __init__(
        self,
        storage: Storage | Path,
        cache_size: int = 100000,
        root_class: type[PersistentObject] | None = None,
        debug: Debug | None = None,
        *,
        snapshot: bool = False,
        classes: Iterable[Entry] | None = None,
    ) -> None:
        super().__init__()
        # All arguments are checked before a file is made.
        check_root_class(root_class)
        mode = debug_mode(debug)
        self.cache = Cache(cache_size)
        own = () if root_class is None else (root_class,)
        trust = None if classes is None else Trust([*checked_entries(classes), *own])
        self._guard: CallGuard = CallGuard("connection")
        self._marks = self._guard.marks
        self.storage = (
            open_file_storage(storage, readonly=snapshot)
            if isinstance(storage, str | bytes | os.PathLike)
            else require_storage(storage)
        )
        self._invalid = Invalidations(self, self.cache)
        self.invalid_oids = self._invalid.oids
        """Oids that others changed, and whose states are kept here because the transaction has a conflict."""
        self.transaction_serial = 1
        self._only_reads = snapshot
        self._spare_oids: list[bytes] = []
        self._was_interrupted = False
        """True if an interrupt has ended the transaction, and the application does not know it yet."""
        self._blocks = OpenBlocks()
        self._going_back: KeptStates | None = None
        """The states that are being restored."""
        self._unnoted = UnnotedChanges(self, self.cache, self.get, mode, trust) if mode else None
        self._reader = (
            ObjectReader(self, self.cache, self.get, trust=trust) if self._unnoted is None else self._unnoted.reader
        )
        try:
            _open_connections.claim(self.storage, self)
            self.storage.set_is_loaded(self.cache.is_loaded)
            self.storage.set_accesses(self)
            if snapshot and self.storage.use_snapshots():
                self._sync_and_begin_next()
            self._open_root(root_class)
        except BaseException:
            if self.storage is not storage:
                self.storage.close()
            raise
        _open_connections.add(self)

    def get_root(self) -> Root_co:
        """Return the root object: the one with oid 0, from which all stored objects are reached."""
        return self.root

    def get_storage(self) -> Storage:
        """Return the storage of this connection."""
        return self.storage

    def get_cache(self) -> Cache:
        return self.cache

    def get_cache_count(self) -> int:
        """Return how many objects are in memory, including ghosts."""
        return self.cache.get_count()

    def get_cache_size(self) -> int:
        """Return how many objects may stay loaded after a transaction."""
        return self.cache.get_size()

    def set_cache_size(self, size: int) -> None:
        """Set how many objects may stay loaded after a transaction.

        Args:
            size: the number of objects.
        """
        self.cache.set_size(size)

    @guarded
    def shrink_cache(self) -> None:
        """Turn the least recently used objects beyond the cache size into ghosts.

        Raises:
            UnnotedChangeError: in debug mode, an object was changed without being noted.
        """
        self._tell_of_interrupt()
        if self._unnoted is not None:
            self._unnoted.check()
        self.cache.shrink(self.transaction_serial)

    def get_load_count(self) -> int:
        """Return how many states this connection has loaded."""
        return self._reader.load_count

    def get_transaction_serial(self) -> int:
        """Return the number of the current transaction."""
        return self.transaction_serial

    # Loading

    @guarded_load
    def get_stored_pickle(self, oid: bytes) -> bytes:
        """Return the data of the current record of an object.

        Args:
            oid: the oid of the object.

        Returns:
            The pickles of its class and its state, one after the other.

        Raises:
            ArgumentError: `oid` is not bytes.
            DurusKeyError: there is no such record.
            ReadConflictError: the record does not fit what the transaction has read.
        """
        self._tell_of_interrupt()
        _check_oid(oid)
        return unpack_record(self._load(oid))[1]

    def get(self, oid: bytes | int) -> PersistentObject | None:
        """Return an object, loading its record if necessary. This does not count as an access.

        Args:
            oid: the oid, as bytes or as a number.

        Returns:
            The object, possibly a ghost, or None if there is none.

        Raises:
            ArgumentError: `oid` is neither bytes nor a number.
            ReadConflictError: the record does not fit what the transaction has read.
        """
        if isinstance(oid, int):
            if not 0 <= oid < 1 << 64:
                return None
            oid = oid_from_int(oid)
        _check_oid(oid)
        obj = self.cache.get(oid)
        return self._get_ghost(oid) if obj is None else obj

    __getitem__ = get

    @guarded_load
    def _get_ghost(self, oid: bytes) -> PersistentObject | None:
        self._tell_of_interrupt()
        try:
            data = unpack_record(self._load(oid))[1]
        except DurusKeyError:
            return None
        return self._reader.ghost_of_record(oid, data)

    def get_crawler(self, start_oid: bytes = ROOT_OID, batch_size: int = 100) -> Iterator[PersistentObject]:
        """Load all objects that can be reached from one, breadth first. Transactions may begin and end meanwhile.

        Args:
            start_oid: the oid of the first object.
            batch_size: how many objects are loaded at a time.

        Yields:
            The objects, loaded.

        Raises:
            DurusKeyError: an object does not exist.
            ReadConflictError: an object does not fit what the transaction has read.
        """
        pending = deque([start_oid])
        seen = set(pending)
        while pending:
            batch = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
            objects, refs = self._load_objects(batch)
            new = [ref for ref in dict.fromkeys(refs) if ref not in seen]
            seen.update(new)
            pending.extend(new)
            yield from objects

    @guarded_load
    def _load_objects(self, oids: list[bytes]) -> tuple[list[PersistentObject], list[bytes]]:
        """Return the objects of these oids, loaded, and the oids that they refer to, in order."""
        self._tell_of_interrupt()
        objects: list[PersistentObject] = []
        found: list[bytes] = []
        for oid, record in zip(oids, self._load_all(oids), strict=True):
            _, data, refs = unpack_record(record)
            obj = self._reader.ghost_of_record(oid, data)
            if obj._p_is_ghost():
                self._reader.load_record(obj, record)
                self._note_size(oid, record)
            objects.append(obj)
            found += split_oids(refs)
        return objects, found

    def _note_size(self, oid: bytes, record: bytes) -> None:
        """Do nothing: only the connections of a Database limit the bytes that they keep."""

    def _load(self, oid: bytes) -> bytes:
        if oid in self.invalid_oids or (self._invalid.is_many and self._invalid.has(oid)):  # [TXN-15]
            raise self._invalid.read_conflict(oid)
        try:
            return self.storage.load(oid)
        except ReadConflictError as conflict:
            self._sync_for(conflict)
            return self._read(lambda: self.storage.load(oid))

    def _load_all(self, oids: list[bytes]) -> list[bytes]:
        invalid = self._invalid.first_of(oids)
        if invalid is not None:
            raise self._invalid.read_conflict(invalid)
        return self._read(lambda: list(self.storage.bulk_load(oids)))

    def _read(self, read: Callable[[], T]) -> T:
        """Return the result of a call of the storage, after a sync if the call requires one. [TXN-14]"""
        while True:
            try:
                return read()
            except ReadConflictError as conflict:  # possibly several times, while others keep changing it
                self._sync_for(conflict)

    def _sync_for(self, conflict: ReadConflictError) -> None:
        """Sync because a load met an invalid oid; raise the conflict if that can't help."""
        invalid = self.storage.sync()
        self.note_invalid(invalid)
        if self._invalid.has_conflict():
            raise self._invalid.read_conflict(conflict.oids[0])
        self._invalid.drop()
        if invalid is not None and conflict.oids[0] not in invalid:
            raise self._invalid.name_classes(conflict)

    # Called by objects

    def load_state(self, obj: PersistentBase) -> None:
        """Load the state of the ghost `obj`; ReadConflictError if it does not fit what was read before."""
        # The same as guarded_load(), without another call.
        marks = self._marks
        frame = _getframe()
        is_first = marks.setdefault(CALL, frame) is frame or self.begin_steps(frame)
        del frame  # otherwise it would be a reference cycle
        try:
            oid = obj._p_oid
            if oid is None or not isinstance(obj, PersistentObject):
                raise StateError(f"{obj!r} is not an object of this connection")
            try:
                record = self._load(oid)
            except DurusKeyError:
                raise self._invalid.read_conflict(oid) from None
            self._reader.load_record(obj, record)
        except DurusError:
            self._guard.end(is_first)
            raise
        if is_first and len(marks) == 1:
            del marks[CALL]
        else:
            self._guard.end(is_first)

    def begin_steps(self, frame: FrameType) -> bool:
        is_first = self._guard.begin(frame, self._start_anew, may_nest=True)
        if self._was_interrupted:
            self._guard.end(is_first)
            self._tell_of_interrupt()
        return is_first

    def end_steps(self, is_first: bool) -> None:
        self._guard.end(is_first)

    def watch(self) -> Watch:
        return self._invalid.watch()

    def release(self, obj: PersistentBase) -> None:
        oid = obj._p_oid
        if oid is not None and obj._p_status == SAVED and self.cache.is_overfull():
            self.cache.make_ghost(oid)

    # Transactions

    def commit(self) -> None:
        """Store all changes of this transaction in one step, and begin the next one. [TXN-6]

        If it raises one of these errors, or an error of a __getstate__(), nothing is stored and the transaction stays
        open: remove the cause, or call abort(). Only OutcomeUnknownError leaves open whether the changes are stored.

        Raises:
            WriteConflictError: others have changed an object that the transaction used.
            UnstorableError: a state can't be pickled.
            ForeignReferenceError: an object refers to an object of another connection.
            UnnotedChangeError: in debug mode, an object was changed without being noted.
            ReadonlyError: there are changes, and the connection was made with snapshot=True. [TXN-65]
            InterruptedTransactionError: an earlier call was interrupted.
            OutcomeUnknownError: the answer of the server did not come.
        """
        if self._blocks.refs:
            self._note_lost_block()
        if self._unnoted is not None:
            self._check_unnoted(self._unnoted)
        if self._marks.setdefault(CALL, _getframe()) is not _getframe():  # as in guarded()
            self._guard.begin(_getframe(), self._start_anew)
        commit = self._new_commit()
        try:
            self._tell_of_interrupt()
            if self._blocks.refs:  # otherwise there is nothing to check
                self._blocks.check_task()
                self._blocks.check_thread()
                self._blocks.check_no_savepoint()
            if self._only_reads and self.changed:
                raise ReadonlyError(
                    "this connection was made with snapshot=True, so it only reads, and "
                    f"{len(self.changed)} changed objects are not stored; call abort(), and make the changes with "
                    "another connection"
                )
            commit.pickle_changes(self.storage.load)
        except BaseException:
            if not self.storage.is_interrupted:  # by an exception during new_oid()
                commit.take_back()
                self._spare_oids += commit.new_oids()
                self._guard.end()
            raise
        try:
            if commit.records:
                # store_all() has synced already; syncing again could fail after the commit has succeeded.
                self._store(commit)
                self._begin_next()
            else:
                self._sync_and_begin_next()
        except DurusError:
            self._guard.end()
            raise
        self._guard.end()

    @guarded
    def abort(self) -> None:
        """Discard all changes of this transaction, and begin the next one.

        Raises:
            DisconnectedError: the server can't be reached; the changes are discarded nevertheless.
        """
        self._blocks.check_task()
        self._blocks.check_thread()
        self._abort()

    def _abort(self, is_next_exclusive: bool = False) -> None:
        self._was_interrupted = False
        self._blocks.end_all()
        forgotten = [] if self._unnoted is None else self._forget_unnoted(self._unnoted)
        self._forget_changes()
        self._sync_and_begin_next(is_next_exclusive)
        if self._unnoted is not None and forgotten:
            self._unnoted.warn(forgotten)

    def transaction(self, exclusive: bool = False) -> contextlib.AbstractContextManager[Root_co]:
        """Run a block as one transaction on the root: commit at its end, abort if it raises.

        The block belongs to its thread, in a coroutine to its task: while it is open, commit() and abort() of another
        one raise ConcurrentUseError. Any thread may end it.

        Args:
            exclusive: take the turn to commit before the first read, so that there can be no conflict. All other
                commits wait until the block ends. [DB-12]

        Returns:
            A context manager that gives the root.

        Raises:
            TransactionError: there are uncommitted changes, or another block is open.
        """
        return Block(self, exclusive)

    @guarded
    def _begin_block(self, block: Block[PersistentObject]) -> None:
        self._blocks.check_task()
        if not self._was_interrupted and (self.changed or self._blocks.refs):
            raise TransactionError("a transaction is open already; commit() or abort() it first")
        self._abort(block.is_exclusive)
        self._blocks.refs.append(ref(block))

    def _note_lost_block(self) -> None:
        """Start anew if an interrupt kept a block from being closed: its changes must not get into another one."""
        if self._blocks.is_one_gone():
            self._guard.note_interrupt()

    def _end_block(self, block: Block[PersistentObject], error: BaseException | None) -> None:
        block.thread = threading.get_ident()
        try:
            if error is None:
                if block.has_lost_changes:
                    raise _interrupted_error()
                self.commit()
                self._blocks.end_transaction()
        except BaseException as failure:
            error = failure
            raise
        finally:
            if error is not None:
                # The first error says what is wrong; a second one, for example of a lost connection, would hide it.
                with contextlib.suppress(DurusError):
                    self.abort()
            if block.is_exclusive:
                with contextlib.suppress(DurusError):
                    self.storage.release()

    @guarded
    def _check_unnoted(self, unnoted: UnnotedChanges) -> None:
        """Report changes that were not noted. [OBJ-86] An interrupt in it makes the connection start anew."""
        self._tell_of_interrupt()
        unnoted.check()

    def _forget_unnoted(self, unnoted: UnnotedChanges) -> list[UnnotedChange]:
        """Forget the changes that were not noted, and return those that are not reported yet."""
        found = unnoted.find()
        self._invalid.drop_states([change.oid for change in found])
        return unnoted.take_untold(found)

    # Savepoints

    def savepoint(self) -> "contextlib.AbstractContextManager[None]":
        """Run a block whose changes are undone if it raises. [TXN-50] to [TXN-54]

        Changed objects, and the new ones that they reach, get back the states that they had at the start of the block;
        an object that was changed first in the block becomes a ghost. Savepoints may be nested. A savepoint costs as
        much as pickling what the transaction has changed so far.

        Returns:
            A context manager.

        Raises:
            TransactionError: the block commits, or opens a transaction().
            UnstorableError: a state can't be pickled.
        """
        return Savepoint(self)

    def _begin_savepoint(self, savepoint: Savepoint) -> None:
        self._note_lost_block()
        self._guard.begin(_getframe(), self._start_anew)
        changed: dict[bytes, PersistentObject] = {}
        try:
            self._tell_of_interrupt()
            self._blocks.check_task()
            savepoint.kept = KeptStates(self, self.root, changed, self._reader)
        except BaseException:
            count_as_changed(self, changed)
            self._guard.end()
            raise
        count_as_changed(self, changed)
        savepoint.serial = self.transaction_serial
        self._blocks.refs.append(ref(savepoint))
        self._guard.end()

    def _end_savepoint(self, savepoint: Savepoint, has_failed: bool) -> None:
        """End a block: keep its changes, or undo them."""
        index = self._blocks.index_of(savepoint)
        if not has_failed and index is not None and index + 1 < len(self._blocks.refs):
            self._guard.note_interrupt()  # it kept a savepoint inside this block from being closed
        self._guard.begin(_getframe(), self._start_anew)  # without end() after an error: the states are incomplete then
        index = self._blocks.index_of(savepoint)
        if index is not None:
            if has_failed:
                self._go_back(savepoint.kept)
            del self._blocks.refs[index:]
        elif has_failed and savepoint.serial != self.transaction_serial:
            self._forget_changes()  # those made after the abort() in the block
        self._guard.end()

    def _go_back(self, kept: KeptStates) -> None:
        self._going_back = kept
        dropped = self.changed.keys() - kept.changed.keys()
        self.changed = kept.changed.copy()
        self._invalid.drop_states(dropped)
        kept.restore(self)
        self._invalid.tell_watches(kept.changed.keys())
        self._going_back = None

    # Earlier states

    def history(self, oid: "bytes | int | PersistentObject") -> "Iterator[Version]":
        """Yield the states that commits have given to an object since the last pack, the oldest first. [HIST-7]

        Args:
            oid: An object of this connection, or its oid.

        Yields:
            Each state as an object that belongs to no connection, with its commit.

        Raises:
            DurusError: The storage keeps no history, such as that of a server.
            ArgumentError: `oid` is neither an oid nor a persistent object.
            StateError: A state can't be loaded, or the object is not a stored one of this connection.
            DamageError: The file is damaged.
        """
        if isinstance(oid, int) and 0 <= oid < 1 << 64:
            oid = oid_from_int(oid)
        elif not (isinstance(oid, bytes) and len(oid) == 8):
            oid = self._own_oid(oid)
        for commit, record in self.storage.records_of(oid):
            yield Version(commit, self._copy_of(oid, record))

    @guarded
    def restore(self, obj: PersistentObject, at: Moment | Storage) -> None:
        """Give an object the state that it had after a commit, as a change of this transaction. [HIST-9] [HIST-10]

        The object alone goes back, and what it refers to stays as it is now. A BTree goes back with its nodes, so that
        it has the keys that it had. Nothing is stored before commit().

        Args:
            obj: An object of this connection.
            at: The number of a commit, or a time; or a storage that shows an earlier state of the same database, such
                as that of a .prepack file or of a restored backup.

        Raises:
            DurusError: The storage keeps no history, such as that of a server.
            ArgumentError: There is no such commit, or `obj` is not a persistent object.
            StateError: The object is not a stored one of this connection, had no state then, or was of another class;
                or the state can't be loaded. Nothing is changed.
            ReadConflictError: Others have changed the object meanwhile.
            ReadonlyError: The connection only reads.
        """
        self._tell_of_interrupt()
        self._blocks.check_task()
        oid = self._own_oid(obj)
        if self._only_reads:
            raise ReadonlyError("this connection was made with snapshot=True, so it only reads")
        states = states_at(at, self.storage, self._reader, obj, oid)
        objects = [(self._part(each, data), data) for each, data in states.items()]
        for each, _ in objects:
            each._p_note_change()  # which loads it, so that a change of others is a conflict
        self._invalid.tell_watches(states)
        for each, data in objects:
            give_state(each, data, self._reader)

    @guarded_load
    def _copy_of(self, oid: bytes, record: bytes) -> PersistentObject:
        self._tell_of_interrupt()
        return copy_of(self, self._reader, oid, unpack_record(record)[1])

    def _own_oid(self, obj: object) -> bytes:
        if not isinstance(obj, PersistentObject):
            raise ArgumentError(f"a stored object of this connection is expected, not {obj!r}")
        oid = obj._p_oid
        if oid is None or obj._p_connection is not self:
            raise StateError(f"{obj!r} is not a stored object of this connection")
        return oid

    def _part(self, oid: bytes, data: bytes) -> PersistentObject:
        """Return an object whose state is to be restored. StateError if that can't be loaded, or it is gone."""
        copy_of(self, self._reader, oid, data)
        obj = self.get(oid)
        if obj is None or not self.storage.has_record(oid):  # it may be in memory still
            raise StateError(f"oid {format_oid(oid)} has no record any more: copy the values of the earlier state")
        return obj

    # The storage as a whole

    def pack(self) -> None:
        """Remove the objects that the root does not reach from the storage, and begin the next transaction.

        Raises:
            TransactionError: there are uncommitted changes. [TXN-18]
        """
        if self.changed:
            raise TransactionError(
                f"{len(self.changed)} changed objects are not committed, and a pack ends the transaction; "
                "call commit() or abort() first"
            )
        self.abort()
        self._pack()
        self.abort()

    @guarded
    def _pack(self) -> None:
        self.storage.pack()

    def close(self) -> None:
        """Close the storage; uncommitted changes are lost."""
        _open_connections.discard(self)
        self.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The root

    def _open_root(self, root_class: type[PersistentObject] | None) -> None:
        root = self.get(ROOT_OID)
        if root is None and self._only_reads:
            raise ReadonlyError(
                f"{self.storage} has no root object yet, and a connection with snapshot=True can't make it: open it "
                "for changes once"
            )
        if root is None:
            with contextlib.suppress(WriteConflictError):  # another client has made it first [TXN-24]
                self._make_root(PersistentDict if root_class is None else root_class)
            self._sync_and_begin_next()
            root = self.get(ROOT_OID)
        if root is None:
            raise StateError("the storage has no root object, and does not accept one")
        self.root: Root_co = cast("Root_co", root)  # for a root_class, the last line here makes sure of the type
        with contextlib.suppress(StateError):  # its first use raises it, too
            root._p_load_state()  # now, because the connection begins with the state of this moment [TXN-36]
        if root_class is not None and type(self.root) is not root_class:
            raise StateError(f"the root is a {type(self.root).__name__}, not a {root_class.__name__}")

    def _make_root(self, root_class: type[PersistentObject]) -> None:
        root = root_class()
        oid = self.storage.new_oid()
        if oid != ROOT_OID:
            self._spare_oids.append(oid)
            raise WriteConflictError([ROOT_OID])  # if nobody else has made it, the storage can't have a root
        set_slot(root, "_p_oid", oid)
        set_slot(root, "_p_connection", self)
        self.root = cast("Root_co", root)
        commit = self._new_commit()
        commit.pickle_root(root, oid)
        self._store(commit)
        self.cache.take_in(oid, root, self)

    # The steps of a transaction

    def _new_commit(self) -> PendingCommit:
        is_careful = self._reader.has_broken_classes()
        return PendingCommit(self, ObjectWriter(self, self.root, self._new_oid, is_careful, self._reader))

    def _new_oid(self) -> bytes:
        return self._spare_oids.pop() if self._spare_oids else self.storage.new_oid()

    def _store(self, commit: PendingCommit) -> None:
        """Store the records of a commit; after a DurusError nothing is stored, and all is as before the commit."""
        try:
            if self._invalid.is_all or self._invalid.has_conflict():
                raise self._invalid.conflict()
            self.storage.store_all({oid: record for _, oid, record in commit.records}, self._check_invalidations)
        except DurusError as error:
            if isinstance(error, ConflictError):
                self._invalid.name_classes(error)  # now, because a dropped object may leave memory
            commit.take_back()
            if not self._invalid.has_conflict():
                self._invalid.drop()
            self._spare_oids += commit.new_oids()
            raise
        commit.accept(self.cache)
        if self._unnoted is not None:
            self._unnoted.note_stored((oid, record) for _, oid, record in commit.records)
        self._invalid.drop()

    def _forget_changes(self) -> None:
        changed, self.changed = self.changed, {}
        self._invalid.drop_states(list(changed))

    def _sync_and_begin_next(self, is_exclusive: bool = False) -> None:
        try:
            invalid = self.storage.take_turn() if is_exclusive else self.storage.sync()
        except NetworkError:
            self._begin_next()
            raise
        self.note_invalid(invalid)
        self._invalid.drop()
        self._begin_next()

    def _begin_next(self) -> None:
        self.accessed.clear()
        self.transaction_serial += 1
        self.cache.shrink(self.transaction_serial)

    # Changes of others

    def _check_invalidations(self, oids: Collection[bytes] | None) -> None:
        """Note what others changed; raise a conflict if this transaction has used any of it."""
        self.note_invalid(oids)
        if self._invalid.has_conflict():
            raise self._invalid.conflict()

    def note_invalid(self, oids: Collection[bytes] | None) -> None:
        """Note the `oids` that others changed, None for any. Their states are dropped later."""
        self._invalid.note(oids)
        if oids is None:
            self._spare_oids = []  # they were given to a session that no longer exists

    # Interrupts

    def _start_anew(self) -> None:
        """Begin with only what is stored, after a call that was interrupted. [TXN-30]"""
        self._was_interrupted = True
        self._blocks.lose()
        self._reader.start_anew()
        if self._going_back is not None:
            self._going_back.release_new()
            self._going_back = None
        self.changed = {}
        self.note_invalid(None)
        self.storage.sync()
        self._invalid.drop()
        self._begin_next()

    def _tell_of_interrupt(self) -> None:
        if self._was_interrupted:
            self._was_interrupted = False
            raise _interrupted_error()


def check_root_class(root_class: object) -> None:
    """Raise ArgumentError if a root can't be of this class. [DB-2]"""
    if root_class is not None and not (isinstance(root_class, type) and issubclass(root_class, PersistentObject)):
        raise ArgumentError(f"root_class is {root_class!r}; it must be a class that inherits from Persistent")


def _check_oid(oid: object) -> None:
    if not isinstance(oid, bytes):
        raise ArgumentError(f"an oid must be bytes, as in obj._p_oid, or a number, not {type(oid).__name__}")


def _interrupted_error() -> InterruptedTransactionError:
    return InterruptedTransactionError(
        "an earlier call of this connection was interrupted by an exception, so the transaction was aborted and its "
        "changes are lost; if that call was a commit, it is stored completely or not at all; run the transaction again"
    )


def gen_every_instance(connection: Connection[Any], *classes: type[T]) -> Iterator[T]:
    """Find all stored objects of some classes and their subclasses. This reads all records.

    Args:
        connection: the connection to which the objects belong.
        classes: the classes.

    Yields:
        The objects, which are ghosts unless they are loaded already.
    """
    for oid, record in connection.storage.gen_oid_record():
        if issubclass(connection._reader.class_of_record(oid, unpack_record(record)[1]), classes):
            obj = connection._reader.ghost_of_record(oid, unpack_record(record)[1])
            if isinstance(obj, classes):
                yield obj


def touch_every_reference(connection: Connection[Any] | str, *words: str) -> None:
    """Mark as changed every object whose record has one of the words in it. This reads all records.

    The record includes the names of the classes of references, so that a renamed class is stored again.

    Args:
        connection: the connection; it may be omitted if exactly one is open in the process.
        words: parts of class names or of other text.

    Raises:
        ArgumentError: the connection was omitted, and there is not exactly one.
    """
    if isinstance(connection, str):
        words = (connection, *words)
        found = _open_connections.reachable()
        if len(found) != 1:
            raise ArgumentError(
                f"{len(found)} connections are open in this process; name the right one: "
                "touch_every_reference(connection, ...)"
            )
        connection = found[0]
    wanted = [word.encode() for word in words]
    for oid, record in connection.storage.gen_oid_record():
        pickles = split_data(unpack_record(record)[1])
        if any(word in text for word in wanted for text in pickles):
            obj = connection.get(oid)
            if obj is not None:
                obj._p_note_change()
