"""The common part of storages that live in one file: names, failures, the end of a commit, the steps of a pack.

A subclass reads, stages and packs records. Statements TXN-9, TXN-30, SHELF-30, SHELF-46, SQL-8.
"""

import errno
import inspect
import os
import weakref
from collections.abc import Collection, Generator, Iterator
from typing import Any, Generic, TypeVar

from durus.concurrency.call_guard import CallGuard, guarded
from durus.concurrency.forked import note_held
from durus.error import ArgumentError, ClosedError, FileError, ReadonlyError, TransactionError
from durus.files.file import Path, path_text
from durus.progress import Progress
from durus.storage import GuardedStorage, InvalidationHandler, StagedCommit, Storage, check_record

R = TypeVar("R")


class SingleFileStorage(GuardedStorage, Generic[R]):
    """Base of storages in one file, which an `R` reads while it is open."""

    def __init__(self, readonly: bool, repair: bool) -> None:
        """A subclass calls _set_filename() next. ArgumentError if both `readonly` and `repair` are true."""
        if readonly and repair:
            raise ArgumentError(f"a readonly {type(self).__name__} can't repair its file")
        self._guard = CallGuard("storage")
        note_held(self)
        self._readonly = readonly
        self._failure: str | None = None
        """Why no further commit is accepted, None while commits are accepted."""
        self._removed: Collection[bytes] = []
        """What packs have removed, or other processes have changed, since the last sync()."""
        self._has_started_anew = False
        self._packing: weakref.ref[Generator[Progress, None, None]] | None = None
        """The running pack, which ends when nobody can continue it."""

    def _set_filename(self, filename: Path) -> None:
        self._filename = path_text(filename)
        self._name = os.path.abspath(self._filename)
        self._path = os.path.realpath(self._filename)

    def _moved_error(self) -> FileError:
        """Return the error for a file that others do not find under its name. [SHELF-47] [SQL-22]"""
        return FileError(
            errno.ESTALE,
            "another program has removed, renamed or replaced the file since it was opened, so nothing is written "
            "to it; restore its name, or close the storage and open it again",
            self._name,
        )

    def get_filename(self) -> str:
        """Return the name of the file, as it was given."""
        return self._filename

    def __str__(self) -> str:
        return f"{type(self).__name__}({self._filename!r})"

    __repr__ = __str__

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Have Connections call the begin(), store() and end() that a subclass has of its own, or from a mix-in."""
        super().__init_subclass__(**keywords)
        own = SingleFileStorage
        is_own = cls.begin is own.begin and cls.store is own.store and cls.end is own.end
        if not is_own and cls.store_all is own.store_all:
            cls.store_all = Storage.store_all  # type: ignore[method-assign]  # known only when the class is made

    # Implemented by a subclass

    def _require_open(self) -> R:
        """Return the reader of the file; ClosedError if the storage is closed."""
        raise NotImplementedError

    def _stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        """Return the commit of these records; ReadonlyError or ClosedError if no commit is accepted."""
        raise NotImplementedError

    def _pack(self) -> Generator[Progress, None, None]:
        """Pack the file, which is open for writing, in steps."""
        raise NotImplementedError

    def _release(self) -> None:
        """Release what is held open; it may be released already."""
        raise NotImplementedError

    def leave_to_parent(self) -> None:
        """In the child after a fork: release what is held open, without effects on the parent."""
        raise NotImplementedError

    # Errors

    def _closed_error(self) -> ClosedError:
        """Return the error of a closed storage; a WrongProcessError in a child of the process that opened it."""
        self._guard.check_process()
        return ClosedError(f"{self._path}: the storage is closed")

    def _require_writable(self) -> R:
        """Return the reader of the file; ReadonlyError or ClosedError if no commit is accepted."""
        opened = self._require_open()
        if self._readonly:
            raise ReadonlyError(f"{self._path}: the file is open with readonly=True and can't be changed")
        if self._failure is not None:
            raise ClosedError(
                f"{self._path}: no further commit is accepted ({self._failure}); close the storage and open it again"
            )
        return opened

    # Commits

    @guarded
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        """Finish the commit in one durable step. [SHELF-18] [SQL-3]

        FileError if the file can't be written: then nothing is stored. ClosedError after a failure that left the
        outcome of a commit unknown.
        """
        self._commit_all(self._take_pending(), handle_invalidations)

    @guarded
    def store_all(self, records: dict[bytes, bytes], handle_invalidations: InvalidationHandler | None = None) -> None:
        self._require_writable()
        self._pending = None
        for oid, record in records.items():
            check_record(oid, record)
        self._commit_all(records, handle_invalidations)

    def _commit_all(self, records: dict[bytes, bytes], handle_invalidations: InvalidationHandler | None) -> None:
        if (self._removed or self._has_started_anew) and handle_invalidations is not None:
            handle_invalidations(self._take_removed())
        staged = self._stage_commit(records)
        staged.write()
        staged.accept()

    @guarded
    def stage_commit(self, records: dict[bytes, bytes]) -> StagedCommit:
        return self._stage_commit(records)

    @guarded
    def sync(self) -> Collection[bytes] | None:
        return self._take_removed()

    def _take_removed(self) -> Collection[bytes] | None:
        if self._has_started_anew:
            self._has_started_anew, self._removed = False, []
            return None
        removed, self._removed = self._removed, []
        return removed

    def use_snapshots(self) -> bool:
        return True  # nobody but its connection changes what it shows before the next sync()

    # Packing

    @guarded
    def pack(self) -> None:
        steps = self._begin_pack()
        self._packing = weakref.ref(steps)
        for _ in steps:
            pass

    @guarded
    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the file in steps, while commits continue between them. [SHELF-30] [SQL-8]"""
        return self._gen_steps(self._begin_pack())

    def gen_pack(self) -> Iterator[Progress]:
        return self.get_packer()

    def _begin_pack(self) -> Generator[Progress, None, None]:
        self._require_writable()
        self._check_not_packing()
        return self._pack()

    def _pack_under_way(self) -> Generator[Progress, None, None] | None:
        steps = self._packing() if self._packing is not None else None
        return None if steps is None or inspect.getgeneratorstate(steps) == inspect.GEN_CLOSED else steps

    def _check_not_packing(self) -> None:
        if self._pack_under_way() is not None:
            raise TransactionError(f"{self._path}: a pack is running already")

    def _gen_steps(self, steps: Generator[Progress, None, None]) -> Generator[Progress, None, None]:
        try:
            while (progress := self._pack_step(steps)) is not None:
                yield progress
        finally:
            steps.close()

    @guarded
    def _pack_step(self, steps: Generator[Progress, None, None]) -> Progress | None:
        if self._pack_under_way() is not steps:
            self._check_not_packing()
            self._packing = weakref.ref(steps)
        return next(steps, None)

    def _give_up_pack(self) -> None:
        """End an incomplete pack."""
        steps = self._pack_under_way()
        if steps is not None and inspect.getgeneratorstate(steps) != inspect.GEN_RUNNING:
            steps.close()  # it would remove the file of a later one

    # Interrupts, and the end

    def _start_anew(self) -> None:
        """Clean up after an interrupted call. [TXN-30]"""
        self._has_started_anew = True
        self._pending = None

    def close(self) -> None:
        if not self._guard.is_foreign:  # otherwise it belongs to the parent
            self._close()

    @guarded
    def _close(self) -> None:
        self._give_up_pack()
        self._release()
