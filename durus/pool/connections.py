"""The connections of a Database, each of which serves one transaction at a time. Statements DB-30 to DB-32.

Between two transactions a connection sleeps: its serial is negative, so every use of an object is passed to the
connection, which refuses it.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar

from durus.concurrency.call_guard import guarded
from durus.concurrency.connecting_again import BY_NEXT_TRANSACTION
from durus.connection import Connection
from durus.error import (
    ConcurrentUseError,
    DurusError,
    ReadConflictError,
    ReadonlyError,
    TransactionError,
    UnnotedChangeError,
)
from durus.objects.trust import Entry
from durus.oid import ROOT_OID
from durus.persistent import PersistentBase, PersistentObject
from durus.storage import Storage
from durus.transactions.blocks import Block
from durus.transactions.pending_commit import PendingCommit
from durus.transactions.unnoted import Debug, UnnotedChanges

R = TypeVar("R", bound=PersistentObject)


class PooledConnection(Connection[R], Generic[R]):
    """A connection that is asleep, and refuses all use, outside the transactions of its Database."""

    is_snapshot = False
    has_lost_root = False
    """True if there is no longer a root, since the server was started again with another file. [DB-40]"""
    before_commit: Callable[[], None] | None = None
    """Raises an error if a commit with changes would wait for itself."""

    def __init__(
        self,
        storage: Storage,
        cache_size: int,
        root_class: type[R] | None,
        cache_bytes: int | None = None,
        debug: Debug | None = None,
        classes: Iterable[Entry] | None = None,
    ) -> None:
        self._cache_bytes = cache_bytes
        self._bytes = 0
        """If `cache_bytes` is set: how many bytes the records of the loaded objects have at most."""
        self._is_closed = False
        self._thread: int | None = None
        """The only thread that may use the connection now; None for any."""
        storage.connect_again = BY_NEXT_TRANSACTION
        super().__init__(storage, cache_size, root_class, debug=debug, snapshot=self.is_snapshot, classes=classes)

    def wake(self, thread: int | None) -> None:
        """Wake up, for the use of this thread only, or of one thread at a time if it is None."""
        self._thread = thread
        if self.transaction_serial < 0:
            self.transaction_serial = -self.transaction_serial

    def sleep(self) -> None:
        """Go to sleep. There must be no changes."""
        self.accessed.clear()
        if self._cache_bytes is not None and self._bytes > self._cache_bytes:
            self._bytes = self.cache.shrink_bytes(self._cache_bytes)
        if self.transaction_serial > 0:
            self.transaction_serial = -self.transaction_serial

    def end(self, block: Block[R], error: BaseException | None) -> None:
        """End a transaction: commit its changes, or abort it because of an error."""
        if error is None and self.is_usable and self._unnoted is None and not block.has_lost_changes:
            self._blocks.end_transaction()  # nothing has changed, and the next transaction syncs when it begins
            self.storage.release()
        else:
            self._end_block(block, error)

    @property
    def trouble(self) -> DurusError | None:
        """The lost connection or conflict that the transaction has seen, or None."""
        failure = self.storage.failure
        return self._invalid.conflict() if failure is None and self._invalid.has_conflict() else failure

    @property
    def is_usable(self) -> bool:
        """True if it can serve the next transaction."""
        is_left_over = self._guard.is_interrupted or self._was_interrupted or self.storage.is_interrupted
        return not (self._is_closed or self._guard.is_foreign or is_left_over or self.changed or self.has_lost_root)

    def close(self) -> None:
        self._is_closed = True
        super().close()

    def load_state(self, obj: PersistentBase) -> None:
        self._check_is_own(obj)
        try:
            super().load_state(obj)
        except ReadConflictError:
            if obj is self.root:
                with suppress(DurusError):
                    self.has_lost_root = not self.storage.has_record(ROOT_OID)
            raise

    def commit(self) -> None:
        self._check_is_own(None)
        if self.before_commit is not None and self.changed:
            self.before_commit()
        super().commit()

    def abort(self) -> None:
        self._check_is_own(None)
        super().abort()

    def _load(self, oid: bytes) -> bytes:
        if self.transaction_serial < 0:
            self._refuse(None)
        record = super()._load(oid)
        self._note_size(oid, record)
        return record

    def _store(self, commit: PendingCommit) -> None:
        super()._store(commit)
        for _, oid, record in commit.records:
            self._note_size(oid, record)

    def _note_size(self, oid: bytes, record: bytes) -> None:
        if self._cache_bytes is not None:
            self._bytes += self.cache.note_size(oid, len(record))

    def _check_is_own(self, obj: PersistentBase | None) -> None:
        if self.transaction_serial < 0:
            self._refuse(obj)
        if self._thread is not None and self._thread != threading.get_ident():
            self._guard.check_process()
            raise ConcurrentUseError(
                f"{_name_of(obj)} belongs to a transaction of another thread: begin one here, and find the object "
                "from its root"
            )

    def _refuse(self, obj: PersistentBase | None) -> NoReturn:
        self._guard.check_process()
        raise TransactionError(
            f"{_name_of(obj)} belongs to a transaction that has ended: copy what is needed before it ends, or begin "
            "another one and find the object from its root"
        )


class SnapshotConnection(PooledConnection[R], Generic[R]):
    """A connection for reading only."""

    is_snapshot = True

    def end(self, block: Block[R], error: BaseException | None) -> None:
        self._blocks.end_transaction()
        self.storage.release()
        if self._unnoted is not None and self.is_usable:
            self._end_unnoted(self._unnoted, error)

    @guarded
    def _end_unnoted(self, unnoted: UnnotedChanges, error: BaseException | None) -> None:
        """Forget and report changes that were not noted, as a commit or an abort does. [OBJ-86]"""
        found = self._forget_unnoted(unnoted)
        if error is None:
            unnoted.report(found)
        elif found:
            with suppress(UnnotedChangeError):  # it would hide the first error
                unnoted.warn(found)

    def commit(self) -> None:
        self._check_is_own(None)
        raise ReadonlyError("a snapshot or a readonly database can't be changed, so it has no commits")

    def note_change(self, obj: PersistentBase) -> None:
        raise ReadonlyError(f"{_name_of(obj)} is of a snapshot or a readonly database, which can't be changed")


def _name_of(obj: PersistentBase | None) -> str:
    if not isinstance(obj, PersistentObject):
        return "this connection"
    return f"the {type(obj).__name__} with oid {obj._p_format_oid()}"
