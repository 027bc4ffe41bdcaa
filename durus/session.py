"""The session core: many clients over one storage. spec/transactions.md, statements TXN-20 to TXN-27.

Who has not heard of which change, whose turn it is to commit, which oids were given to whom, and what
waits until it is durable is decided here and nowhere else.  No sockets, no threads, no clocks: what
takes time is handed to the caller (Core.begin_write), and what has to wait gets a callback.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from durus.error import DurusError, ProtocolError, TransactionError, WriteConflictError
from durus.oid import ROOT_OID, format_oid, oid_to_int
from durus.progress import Progress
from durus.record import split_oids, unpack_record
from durus.storage import Conclusion, Storage, check_record

MAX_UNUSED_OIDS = 1 << 24
"""The most oids that one client may ask for and not use. [TXN-24]"""

Granted = Callable[[list[bytes] | None], None]
"""Takes the oids that are invalid for a client when it is its turn to commit, None for any."""

Done = Callable[[DurusError | None], None]
"""Takes None when a commit is durable, or else why it is not stored: a WriteConflictError for a conflict."""


class _Ready(NamedTuple):
    """A commit whose place in the order is taken."""

    session: "Session"
    records: dict[bytes, bytes]
    done: Done


class Core:
    """The clients of a storage, and the commits that are under way."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._sessions: set[Session] = set()
        self._turn: Session | None = None
        self._waiting_for_turn: deque[tuple[Session, Granted]] = deque()
        self._ready: list[_Ready] = []
        self._writing: list[_Ready] = []
        self._undurable: dict[bytes, int] = {}
        """How many commits that are not durable yet write an oid."""
        self._waiting_for_write: list[Callable[[], None]] = []

    def connect(self) -> "Session":
        """Return the session of a new client."""
        session = Session(self)
        self._sessions.add(session)
        return session

    @property
    def turn(self) -> "Session | None":
        """The client whose turn it is to send the data of its commit. [TXN-21]"""
        return self._turn

    def has_record(self, oid: bytes) -> bool:
        """Tell if an oid has a record, durable or on its way."""
        return oid in self._undurable or self.storage.has_record(oid)

    def is_undurable(self, oid: bytes) -> bool:
        """Tell if a commit that is not durable yet writes this oid. [TXN-23]"""
        return oid in self._undurable

    def when_written(self, proceed: Callable[[], None]) -> None:
        """Call `proceed` when the present or the next write has ended."""
        self._waiting_for_write.append(proceed)

    # Writing

    @property
    def has_ready_commits(self) -> bool:
        """True if begin_write() has something to do."""
        return bool(self._ready) and not self._writing

    @property
    def is_writing(self) -> bool:
        """True between begin_write() and finish()."""
        return bool(self._writing)

    def begin_write(self) -> "Write":
        """Take all commits that are ready into one transaction of the storage. [TXN-22]

        The caller calls write() of what it gets, in whatever thread, and then finish() of it.
        """
        self._writing, self._ready = self._ready, []
        merged: dict[bytes, bytes] = {}
        for ready in self._writing:
            merged.update(ready.records)
        try:
            return Write(self, self.storage.conclude(merged))
        except DurusError as error:
            return Write(self, _failing(error))

    def _finish_write(self, error: DurusError | None) -> None:
        written, self._writing = self._writing, []
        for ready in written:
            self._end(ready, error)
        waiting, self._waiting_for_write = self._waiting_for_write, []
        for proceed in waiting:
            proceed()

    def _end(self, ready: _Ready, error: DurusError | None) -> None:
        """Tell a client the outcome of its commit, and others if theirs need what it was to store."""
        self._refuse_ready(self._tell(ready, error))

    def _tell(self, ready: _Ready, error: DurusError | None) -> set[bytes]:
        """Tell a client the outcome of its commit; return the oids that have no record because it failed."""
        for oid in ready.records:
            self._undurable[oid] -= 1
            if not self._undurable[oid]:
                del self._undurable[oid]
        if error is None:
            ready.session._forget_given(ready.records)
        ready.done(error)
        return set() if error is None else {oid for oid in ready.records if not self.has_record(oid)}

    # Packing

    def gen_pack(self) -> Generator[Progress, None, None]:
        """Pack in steps; what one of them removed is invalid for all clients when it is over. [TXN-25]

        No step is done while commits are being written: they count neither as stored nor as not.
        """
        steps = self.storage.get_packer()
        progress = Progress("mark", 0, None)
        try:
            while True:
                while self._writing:
                    yield progress
                try:
                    progress = next(steps)
                except StopIteration:
                    return
                self._take_removed()
                yield progress
        finally:  # an error may come when it has removed them already
            if isinstance(steps, Generator):
                steps.close()
            self._take_removed()

    def _take_removed(self) -> None:
        removed = self.storage.sync()
        if removed is None:
            self.start_anew(is_write_lost=False)
        elif removed:
            self._invalidate(removed, None)
            self._refuse_ready(set(removed))

    def _refuse_ready(self, lost: set[bytes]) -> None:
        """Take the commits back that wait for the disk, and store or refer to what has no record any more."""
        found = lost
        while found:
            found = set()
            waiting, self._ready = self._ready, []
            for ready in waiting:
                conflicts = lost & (ready.records.keys() | _references(ready.records))
                if conflicts:
                    found |= self._tell(ready, WriteConflictError(sorted(conflicts)))
                else:
                    self._ready.append(ready)
            lost = lost | found

    def start_anew(self, is_write_lost: bool) -> None:
        """Give up all that is under way, after an exception that may have come between any two steps of it. [TXN-31]

        Commits that are being written go on, unless the write was lost with its thread.
        """
        unwritten = self._ready + (self._writing if is_write_lost else [])
        self._ready, self._turn, self._waiting_for_turn = [], None, deque()
        self._writing = [] if is_write_lost else self._writing
        self._undurable = {}
        for ready in self._writing:
            for oid in ready.records:
                self._undurable[oid] = self._undurable.get(oid, 0) + 1
        for session in self._sessions.copy():
            session.lose_track()
        for ready in unwritten:
            ready.done(WriteConflictError(sorted(ready.records)))
        waiting, self._waiting_for_write = self._waiting_for_write, []
        for proceed in waiting:
            proceed()

    # What sessions call

    def _ask_for_turn(self, session: "Session", granted: Granted) -> None:
        self._waiting_for_turn.append((session, granted))
        self._pass_turn()

    def _give_up_turn(self, session: "Session") -> None:
        self._waiting_for_turn = deque(pair for pair in self._waiting_for_turn if pair[0] is not session)
        if self._turn is session:
            self._turn = None
            self._pass_turn()

    def _pass_turn(self) -> None:
        if self._turn is None and self._waiting_for_turn:
            self._turn, granted = self._waiting_for_turn.popleft()
            granted(self._turn._take_invalid())

    def _take(self, ready: _Ready) -> None:
        """Give a commit its place: from here on it comes before every commit that is taken later."""
        self._ready.append(ready)
        for oid in ready.records:
            self._undurable[oid] = self._undurable.get(oid, 0) + 1
        self._invalidate(ready.records, ready.session)

    def _take_back(self, session: "Session") -> bool:
        for ready in self._ready:
            if ready.session is session:
                self._ready = [other for other in self._ready if other is not ready]
                self._end(ready, TransactionError("the commit was taken back"))
                return True
        return False

    def _invalidate(self, oids: Iterable[bytes], writer: "Session | None") -> None:
        found = list(oids)
        for session in self._sessions:
            if session is not writer:
                session.invalid.update(found)

    def _drop(self, session: "Session") -> None:
        self._sessions.discard(session)
        self._give_up_turn(session)


class Write:
    """Commits on their way to the disk."""

    def __init__(self, core: Core, conclusion: Conclusion) -> None:
        self._core = core
        self._conclusion = conclusion

    def write(self) -> None:
        """Make them durable; may be called in another thread. DurusError if that fails."""
        self._conclusion.write()

    def finish(self, error: DurusError | None) -> None:
        """Make them current and tell their clients, or tell them that write() raised `error`."""
        if error is None:
            try:
                self._conclusion.accept()
            except DurusError as failure:
                error = failure
        self._core._finish_write(error)


class Session:
    """One client: what it has not heard of, and what it may do now."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.invalid: set[bytes] = set()
        """Oids that changed since this client last synced. [TXN-20]"""
        self._is_track_lost = False
        """True if that may be any oid."""
        self._given: dict[int, int] = {}
        """The oids that this client got and has not used: bit n of item i stands for oid 1024 * i + n."""
        self._given_count = 0
        self._staged: dict[bytes, bytes] = {}
        """The records of the commit whose turn it is."""
        self._unresolved: set[bytes] = set()
        """What they refer to and was not among them at that moment."""
        self._conflicts: set[bytes] = set()

    def load(self, oid: bytes) -> bytes | None:
        """Return the record of an oid, None if the oid is invalid for this client. [TXN-20]

        DurusKeyError if there is no record.  must_wait(oid) is to be asked before.
        """
        return None if oid in self.invalid or self._is_track_lost else self._core.storage.load(oid)

    def must_wait(self, oid: bytes) -> bool:
        """Tell if the record that this client is to see is not durable yet. [TXN-23]"""
        return oid not in self.invalid and not self._is_track_lost and self._core.is_undurable(oid)

    def lose_track(self) -> None:
        """Have any oid be invalid, and nothing begun. [TXN-31]"""
        self._is_track_lost = True
        self.invalid = set()
        self._staged, self._unresolved, self._conflicts = {}, set(), set()

    def sync(self) -> list[bytes] | None:
        """Return the invalid oids, None for any; they are forgotten for this client then. [TXN-20] [TXN-31]"""
        self._forget_root()
        return self._take_invalid()

    def _take_invalid(self) -> list[bytes] | None:
        if self._is_track_lost:
            self._is_track_lost = False
            self.invalid = set()
            return None
        invalid, self.invalid = sorted(self.invalid), set()
        return invalid

    def new_oids(self, number: int) -> list[bytes]:
        """Return oids that no object has and that only this client may commit. [TXN-24]

        The first is ROOT_OID as long as there is no root.  ProtocolError if too many are unused.
        """
        if self._given_count + number > MAX_UNUSED_OIDS:
            raise ProtocolError(f"this client asked for more than {MAX_UNUSED_OIDS} oids and did not use them")
        oids: list[bytes] = []
        if number and not self._core.has_record(ROOT_OID) and not self._was_given(ROOT_OID):
            oids.append(ROOT_OID)
        while len(oids) < number:
            oid = self._core.storage.new_oid()
            if oid != ROOT_OID:
                oids.append(oid)
        for oid in oids:
            block, bit = _place(oid)
            self._given[block] = self._given.get(block, 0) | bit
        self._given_count += number
        return oids

    def _was_given(self, oid: bytes) -> bool:
        block, bit = _place(oid)
        return bool(self._given.get(block, 0) & bit)

    def _forget_given(self, oids: Iterable[bytes]) -> None:
        for oid in oids:
            block, bit = _place(oid)
            given = self._given.get(block, 0)
            if given & bit:
                self._given_count -= 1
                if given == bit:
                    del self._given[block]
                else:
                    self._given[block] = given ^ bit

    def _forget_root(self) -> None:
        """If another client has made the root, this one has heard of it now. [TXN-24]"""
        if self._core.has_record(ROOT_OID):
            self._forget_given([ROOT_OID])

    @property
    def is_in_line(self) -> bool:
        """True while this client waits for its turn, or has it."""
        return self._core.turn is self or any(session is self for session, _ in self._core._waiting_for_turn)

    def begin_commit(self, granted: Granted) -> None:
        """Ask for the turn to commit; `granted` is called with the invalid oids, now or later. [TXN-21]

        ReadonlyError or ClosedError if the storage takes no commits.
        """
        self._core.storage.begin()
        self._core._ask_for_turn(self, granted)

    def store(self, oid: bytes, record: bytes) -> None:
        """Take a record into the commit; what is wrong with it ends the turn.

        RecordError if it is unsound, ProtocolError if it is not this client's turn, the oid was not
        given to this client, or the commit has a record of it already.
        """
        try:
            if self._core.turn is not self:
                raise ProtocolError("a commit came out of turn")
            self._check(oid, record)
        except DurusError:
            self.give_up_commit()
            raise
        self._staged[oid] = record
        self._unresolved.update(ref for ref in split_oids(unpack_record(record)[2]) if ref not in self._staged)

    def _check(self, oid: bytes, record: bytes) -> None:
        check_record(oid, record)
        if oid in self._staged:
            raise ProtocolError(f"a commit has two records of oid {format_oid(oid)}")
        if oid == ROOT_OID and self._was_given(oid):
            if self._core.has_record(oid):
                self._conflicts.add(oid)  # another client was first to make the root [TXN-24]
        elif not (self._was_given(oid) or self._core.storage.has_record(oid)):
            if oid not in self.invalid:
                raise ProtocolError(f"a commit of oid {format_oid(oid)}, which was not given to this client")
            self._conflicts.add(oid)  # a pack removed it since this client got its turn [TXN-25]

    def commit(self, records: dict[bytes, bytes], done: Done) -> None:
        """Commit these records and those that store() took; `done` is called with the outcome.

        Without any record the commit is given up.  Errors as store() has them, and nothing is stored.
        """
        if self._core.turn is not self:
            raise ProtocolError("a commit came out of turn")
        for oid, record in records.items():
            self.store(oid, record)
        staged, conflicts = self._staged, self._conflicts | self._missing()
        self._forget_root()
        if staged and not conflicts:
            self._core._take(_Ready(self, staged, done))
        self._end_commit()
        if conflicts:
            done(WriteConflictError(sorted(conflicts)))
        elif not staged:
            done(None)

    def _missing(self) -> set[bytes]:
        """Return the oids without a record that the commit needs. [TXN-10] [TXN-25]"""
        if self.invalid:  # a pack has ended since records were looked at
            self._unresolved = _references(self._staged)
            self._conflicts.update(
                oid for oid in self._staged if oid in self.invalid and not self._core.has_record(oid)
            )
        return {ref for ref in self._unresolved if ref not in self._staged and not self._core.has_record(ref)}

    def give_up_commit(self) -> None:
        """Ask no longer for the turn to commit, or give it up."""
        if self._core.turn is self:
            self._forget_root()
        self._end_commit()

    def _end_commit(self) -> None:
        self._staged, self._unresolved, self._conflicts = {}, set(), set()
        self._core._give_up_turn(self)

    def take_back_commit(self) -> bool:
        """Take back a commit that was given and is not being written yet; False if there is none."""
        return self._core._take_back(self)

    def close(self) -> None:
        """Forget this client; a commit that it gave whole goes on."""
        self._core._drop(self)


def _place(oid: bytes) -> tuple[int, int]:
    number = oid_to_int(oid)
    return number >> 10, 1 << (number & 1023)


def _references(records: dict[bytes, bytes]) -> set[bytes]:
    return {ref for record in records.values() for ref in split_oids(unpack_record(record)[2])}


def _failing(error: DurusError) -> Conclusion:
    def write() -> None:
        raise error

    return Conclusion(write, lambda: None)
