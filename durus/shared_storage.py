"""One storage for several connections of a process, each in a thread of its own. Statements TXN-20 to TXN-28."""

import threading
import time
from collections.abc import Iterator

from durus.error import ClosedError, DurusError, ReadConflictError, TransactionError
from durus.progress import Progress
from durus.session import Core, Session
from durus.storage import CollectingStorage, InvalidationHandler, Storage


class SharedStorage:
    """Gives each connection a storage of its own, all of which work on the one `storage`.

        shared = SharedStorage(FileStorage("my.durus"))
        connection = Connection(shared.new_client())

    new_client() may be called in any thread; what it returns is for one thread at a time.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._core = Core(storage)
        self._changed = threading.Condition()
        self._step_is_due = threading.Event()
        """A pack waits for the end of a write to go on."""

    def new_client(self) -> "SharedStorageClient":
        """Return a storage for one more connection."""
        with self._changed:
            return SharedStorageClient(self._core, self._changed, self._step_is_due)

    def close(self) -> None:
        """Close the storage below, when a commit that is being written is done; its clients are of no use then."""
        with self._changed:
            while self._core.is_writing:
                self._changed.wait()
            self._storage.close()
            self._changed.notify_all()


class SharedStorageClient(CollectingStorage):
    """A session, whose calls wait for what they need. `changed` is notified when anything may have come."""

    def __init__(self, core: Core, changed: threading.Condition, step_is_due: threading.Event) -> None:
        self._core = core
        self._changed = changed
        self._step_is_due = step_is_due
        self._session: Session | None = core.connect()

    def _open_session(self) -> Session:
        if self._session is None:
            raise ClosedError("this client of the storage is closed, or was interrupted in a commit that may be stored")
        return self._session

    def load(self, oid: bytes) -> bytes:
        with self._changed:
            session = self._open_session()
            while session.must_wait(oid):
                self._changed.wait()
            record = session.load(oid)
        if record is None:
            raise ReadConflictError([oid])
        return record

    def has_record(self, oid: bytes) -> bool:
        with self._changed:
            return self._core.has_record(oid)

    def begin(self) -> None:
        self._open_session()
        super().begin()

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        records = self._take_pending()
        session = self._open_session()
        grants: list[list[bytes]] = []
        outcomes: list[DurusError | None] = []
        with self._changed:
            session.begin_commit(grants.append)
            try:
                while not grants:
                    self._changed.wait()
                if grants[0] and handle_invalidations is not None:
                    handle_invalidations(grants[0])
                session.commit(records, outcomes.append)
            except BaseException:
                session.give_up_commit()
                raise
            finally:
                self._changed.notify_all()
            try:
                while not outcomes:
                    self._write_or_wait()
            except BaseException:
                has_failed = bool(outcomes) and outcomes[0] is not None
                if not has_failed and not session.take_back_commit():
                    self.close()  # it is stored, or may be yet, and nobody waits for that any more
                raise
        if outcomes[0] is not None:
            raise outcomes[0]

    def _write_or_wait(self) -> None:
        """Write the commits that are ready, if no other thread does, with the lock given up meanwhile."""
        if self._step_is_due.is_set() or not self._core.has_ready_commits:
            self._changed.wait()
            return
        write = self._core.begin_write()
        error: DurusError | None = None
        self._changed.release()
        try:
            write.write()
        except DurusError as failure:
            error = failure
        except BaseException:
            error = TransactionError(
                "the thread that wrote this commit for all was interrupted; nothing of it is stored"
            )
            raise
        finally:
            self._changed.acquire()
            write.finish(error)
            self._changed.notify_all()

    def sync(self) -> list[bytes]:
        with self._changed:
            return self._open_session().sync()

    def new_oid(self) -> bytes:
        with self._changed:
            return self._open_session().new_oids(1)[0]

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs the storage below, between whose steps all its clients go on.

        A step waits for one write at the most, and a write for one step. [TXN-28]
        """
        steps = self._core.gen_pack()
        try:
            while True:
                with self._changed:
                    self._open_session()
                    self._step_is_due.set()
                    try:
                        while self._core.is_writing:
                            self._changed.wait()
                        progress = next(steps)
                    except StopIteration:
                        return
                    finally:
                        self._step_is_due.clear()
                        self._changed.notify_all()
                time.sleep(0)  # or this thread would take the lock again before another can
                yield progress
        finally:
            with self._changed:
                steps.close()

    def close(self) -> None:
        with self._changed:
            if self._session is not None:
                self._session.close()
                self._session = None
                self._changed.notify_all()
