"""One storage for several connections of a process, each in its own thread. Statements TXN-20 to TXN-31.

The session core decides; this module makes its clients wait. All calls run inside of one monitor, and leave it only
while they write to the disk or wait. An exception can come from outside at any line, so every wait also asks whether
the thread that it waits for still runs.
"""

import functools
import gc
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from types import FrameType
from typing import Concatenate, ParamSpec, TypeVar

from durus.concurrency.call_guard import CallGuard, guarded, is_running
from durus.concurrency.lost import LostHolders
from durus.concurrency.monitor import Monitor
from durus.concurrency.uncopied import Uncopied
from durus.error import ClosedError, ConflictError, DurusError, ReadConflictError, ReadonlyError
from durus.progress import Progress
from durus.sharing.session import Session, SessionCore
from durus.storage import Accesses, Commit, GuardedStorage, InvalidationHandler, Moment, Storage

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="SharedStorageClient")

_getframe = sys._getframe
_COLLECT_FROM = 100
"""From how many clients on the collector looks for unreachable ones."""


class SharedStorage(Uncopied):
    """Shares one storage among several connections of a process: each gets a client of its own.

        shared = SharedStorage(FileStorage("my.durus"))
        connection = Connection(shared.new_client())

    new_client() may be called in any thread; each client is for one thread at a time. A client ends when it is closed,
    or when it becomes unreachable.

    Args:
        storage: the storage, which nothing else may use.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._guard: CallGuard = CallGuard("shared storage")
        self._core = SessionCore(storage, commit_clock=time.monotonic)  # no other clock: turns last as long as needed
        self._monitor = Monitor(self._start_anew)
        self._abandoned: deque[Session] = deque()
        """The sessions of clients that no longer exist."""
        self._lost_holders = LostHolders()
        self._client_count = 0
        self._collect_at = _COLLECT_FROM
        self._writer: FrameType | None = None
        """The call that writes all commits that are ready."""
        self._packer: FrameType | None = None
        """The call that runs a step of a pack, or waits to run it."""

    def new_client(self) -> "SharedStorageClient":
        """Return a storage for one more connection; WrongProcessError after a fork."""
        self._guard.check_process()
        if self._client_count - len(self._abandoned) >= self._collect_at:
            gc.collect()  # connections are reference cycles, and a thread may have made one for each request
            self._collect_at = 2 * (self._client_count - len(self._abandoned)) + _COLLECT_FROM
        return SharedStorageClient(self)

    def close(self) -> None:
        """Write the accepted commits and close the storage; its clients cannot be used any more.

        In the child of a fork this does nothing.
        """
        if self._guard.is_foreign:
            return
        is_first = self._monitor.enter(_getframe())
        try:
            while self._core.is_writing or self._core.has_ready_commits:
                self._write_or_wait()
            self._storage.close()
        except DurusError:
            if is_first:
                self._monitor.leave()
            raise
        self._monitor.notify_all()
        if is_first:
            self._monitor.leave()

    def _abandon(self, session: Session, frame: FrameType) -> None:
        """End a session, now or later. The garbage collector calls this in any thread and call, so it must not wait."""
        self._abandoned.append(session)
        if self._monitor.enter_if_free(frame):
            self._drop_abandoned()
            self._monitor.leave()

    # Called by clients, inside of the monitor

    def _connect(self) -> Session:
        self._drop_abandoned()
        self._client_count += 1
        return self._core.connect()

    def _freshen(self) -> None:
        """Learn what others have committed, if the storage has other clients. [PG-61]"""
        if not self._core.has_others:
            return
        outcomes: list[DurusError | None] = []
        self._core.when_fresh(outcomes.append)
        while not outcomes:
            if self._core.is_news_due:
                self._core.take_news()
                self._monitor.notify_all()
            else:
                self._wait()
        if outcomes[0] is not None:
            raise outcomes[0]

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            self._drop(self._abandoned.popleft())

    def _drop(self, session: Session) -> None:
        self._client_count -= 1
        session.close()
        self._monitor.notify_all()

    def _write_or_wait(self) -> None:
        """Write the commits that are ready, outside of the monitor; if another thread writes, wait for it."""
        if self._core.is_writing or self._is_step_due() or not self._core.has_ready_commits:
            self._wait()
            return
        inside = self._monitor.holder
        self._writer = _getframe()
        write = self._core.begin_write()
        error: DurusError | None = None
        self._monitor.leave()
        try:
            write.write()
        except DurusError as failure:
            error = failure
        self._monitor.enter(inside)
        write.finish(error)
        self._writer = None
        self._monitor.notify_all()

    def _wait(self) -> None:
        """Wait until something may have changed; start anew if the thread that was writing was interrupted."""
        self._monitor.wait()
        self._settle()

    def _wait_for_turns(self, since: float) -> None:
        self._wait()
        self._lost_holders.look(since)
        self._drop_abandoned()

    def _settle(self) -> None:
        if self._core.is_writing and not is_running(self._writer):
            self._start_anew()

    def _begin_step(self, frame: FrameType) -> None:
        """Wait until a step of a pack may run; no write begins before its end. [TXN-28]"""
        while self._is_step_due():
            self._wait()
        self._packer = frame
        while self._core.is_writing:
            self._wait()

    def _is_step_due(self) -> bool:
        return self._packer is not None and is_running(self._packer)

    def _end_step(self) -> None:
        self._packer = None
        self._monitor.notify_all()

    def _start_anew(self) -> None:
        self._core.start_anew(self._core.is_writing and not is_running(self._writer))
        self._monitor.notify_all()


def _exclusive(
    call: Callable[Concatenate[C, P], T],
) -> Callable[Concatenate[C, P], T]:
    """Guard a method of a client, and run it inside of the monitor."""

    @functools.wraps(call)
    def exclusive(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        monitor = self._shared._monitor
        is_first = monitor.enter(_getframe())
        try:
            result = call(self, *args, **kwargs)
        except DurusError:
            if is_first:
                monitor.leave()
            raise
        if is_first:
            monitor.leave()
        return result

    return guarded(exclusive)


class SharedStorageClient(GuardedStorage):
    """A client of a shared storage. Its calls wait for what they need."""

    _session: Session | None = None
    _shows_snapshots = False

    def __init__(self, shared: SharedStorage) -> None:
        self._shared = shared
        self._guard = CallGuard("client of a shared storage")
        self._is_closed = False
        self._shows_snapshots = False
        self._accesses: Callable[[], Accesses | None] = lambda: None
        self._connect()

    def __del__(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        session, self._session = self._session, None
        if session is not None and not self._guard.is_foreign:
            self._shared._abandon(session, _getframe())

    @_exclusive
    def _connect(self) -> None:
        self._shared._freshen()
        self._session = self._shared._connect()

    def _start_anew(self) -> None:
        """Begin a new session after an interrupt, in which every oid is invalid. [TXN-30]"""
        monitor = self._shared._monitor
        is_first = monitor.enter(_getframe())
        self._shared._settle()
        session, self._session = self._session, None
        if session is not None:
            session.withdraw_commit()  # unless it is too late
            self._shared._drop(session)
        if not self._is_closed:
            self._session = self._shared._connect()
            self._session.lose_track()
        if is_first:
            monitor.leave()

    def _require_open(self) -> Session:
        if self._session is None:
            raise ClosedError("this client of the storage is closed; make another one with new_client()")
        return self._session

    @_exclusive
    def load(self, oid: bytes) -> bytes:
        session = self._require_open()
        if self._shows_snapshots:
            return session.load_from_snapshot(oid)
        while session.must_wait(oid):
            self._shared._write_or_wait()
        record = session.load(oid)
        if record is None:
            raise ReadConflictError([oid])
        return record

    @_exclusive
    def has_record(self, oid: bytes) -> bool:
        if self._shows_snapshots:
            return self._require_open().has_in_snapshot(oid)
        return self._shared._core.has_record(oid)

    @guarded
    def use_snapshots(self) -> bool:
        self._require_open()
        self._shows_snapshots = True
        return True

    def set_accesses(self, accesses: Accesses) -> None:
        self._accesses = weakref.ref(accesses)

    def _require_writable(self) -> Session:
        session = self._require_open()
        if self._shows_snapshots:
            raise ReadonlyError(
                "a snapshot can't be changed: make changes in a transaction, or with a connection without snapshot=True"
            )
        return session

    @_exclusive
    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        records = self._take_pending()
        self._shared._drop_abandoned()
        session = self._require_open()
        session.name = f"the thread {threading.current_thread().name}"  # for those who have a conflict with it
        accesses = self._accesses()
        if self._shared._core.has_others and records and accesses is not None:
            self._commit_whole(session, records, accesses)
            return
        outcomes: list[DurusError | None] = []
        # If the turn was taken before, this is what a pack has removed since.
        invalid = session.sync() if session.has_turn else self._wait_for_turn(session)
        try:
            if (invalid is None or invalid) and handle_invalidations is not None:
                handle_invalidations(invalid)
            session.commit(records, outcomes.append)
        except DurusError as error:
            session.give_up_commit()
            if isinstance(error, ConflictError):
                error.detail = session.describe_changes(error.oids)
            raise
        finally:
            self._shared._monitor.notify_all()
        while not outcomes:
            self._shared._write_or_wait()
        if outcomes[0] is not None:
            raise outcomes[0]

    def _commit_whole(self, session: Session, records: dict[bytes, bytes], accesses: Accesses) -> None:
        """Commit with what the transaction has used, which is compared with what others change up to the end. [PG-62]

        It is copied, since another thread compares it, and this one may be interrupted, and continue.
        """
        outcomes: list[tuple[Collection[bytes] | None, DurusError | None]] = []
        accessed = frozenset(accesses.accessed)
        session.commit_whole(session.serial, accessed, records, lambda *outcome: outcomes.append(outcome))
        self._shared._monitor.notify_all()
        since = time.monotonic()
        while not outcomes:
            if session.is_in_line:
                self._shared._wait_for_turns(since)
            else:
                self._shared._write_or_wait()
        invalid, error = outcomes[0]
        if session.has_lost_track:
            invalid = session.sync()
        accesses.note_invalid(invalid)
        if isinstance(error, ConflictError):
            error.detail = session.describe_changes(error.oids)
        if error is not None:
            raise error

    def _wait_for_turn(self, session: Session) -> list[bytes] | None:
        grants: list[list[bytes] | None] = []
        session.begin_commit(grants.append)
        since = time.monotonic()
        while not session.has_turn:
            if session.is_in_line:
                self._shared._wait_for_turns(since)
            else:  # the core has started anew meanwhile, possibly after it gave the turn
                session.begin_commit(grants.append)
        return grants[-1]

    @_exclusive
    def sync(self) -> list[bytes] | None:
        self._shared._settle()  # now, otherwise a load of the transaction that begins would do it, and be a conflict
        session = self._require_open()
        self._shared._freshen()
        return session.take_snapshot() if self._shows_snapshots else session.sync()

    @_exclusive
    def take_turn(self) -> list[bytes] | None:
        self._shared._settle()  # as in sync()
        session = self._require_writable()
        if session.has_turn:  # that of a transaction that ended without releasing it
            self._give_up_turn(session)
        self._shared._drop_abandoned()
        self._shared._freshen()
        return self._wait_for_turn(session)

    @_exclusive
    def release(self) -> None:
        session = self._session
        if session is not None and session.has_turn:
            self._give_up_turn(session)
        if session is not None and self._shows_snapshots:
            session.drop_snapshot()

    def _give_up_turn(self, session: Session) -> None:
        session.give_up_commit()
        self._shared._monitor.notify_all()

    @_exclusive
    def new_oid(self) -> bytes:
        return self._require_writable().new_oids(1)[0]

    def commits(self) -> Iterator[Commit]:
        return self._storage_below().commits()

    def records_of(self, oid: bytes) -> Iterator[tuple[Commit, bytes]]:
        return self._storage_below().records_of(oid)

    def records_in(self, commit: Commit) -> Iterator[tuple[bytes, bytes]]:
        return self._storage_below().records_in(commit)

    def as_of(self, at: Moment) -> Storage:
        return self._storage_below().as_of(at)

    @guarded
    def _storage_below(self) -> Storage:
        """Return the storage of all clients, whose file may be read beside them. [HIST-8]"""
        self._require_open()
        return self._shared._storage

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the storage, and lets all clients work between its steps.

        A step waits for at most one write, and a write for at most one step. [TXN-28]
        """
        steps = self._shared._core.gen_pack()
        try:
            while (progress := self._pack_a_step(steps)) is not None:
                time.sleep(0)  # otherwise this thread would enter the monitor again before another can
                yield progress
        finally:
            self._end_pack(steps)

    @_exclusive
    def _pack_a_step(self, steps: Generator[Progress, None, None]) -> Progress | None:
        self._require_open()
        self._shared._begin_step(_getframe())
        try:
            return next(steps, None)
        finally:
            self._shared._end_step()

    @_exclusive
    def _end_pack(self, steps: Generator[Progress, None, None]) -> None:
        steps.close()

    def close(self) -> None:
        """End the session; further calls do nothing."""
        if not self._guard.is_foreign:
            self._close()

    @_exclusive
    def _close(self) -> None:
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            self._shared._drop(session)
