"""The session core: many clients of one storage. Statements TXN-20 to TXN-28, TXN-40 to TXN-45, TXN-60 to TXN-64.

If the storage has other clients, too, what these commit comes in between [PG-60] to [PG-69].

Only this module decides which client knows which change (change_log.py), whose turn it is to commit (turns.py), which
oids belong to which client (oid_grants.py), what waits for the disk (commit_queue.py), and who holds which snapshot
(held_snapshots.py). No sockets, no threads, no clocks: slow work is handed to the caller (write.py), whatever must wait
gets a callback, and the caller's clock gives the time.

A commit in a turn goes through three states. It waits for its turn; then its records come in and are checked, and it is
queued with a serial, which fixes its place in the order of all commits; then a Write makes all queued commits durable
with one transaction of the storage, and their clients learn the outcome.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Generator

from durus.error import (
    ArgumentError,
    DurusError,
    LimitError,
    NetworkError,
    ProtocolError,
    ReadConflictError,
    WriteConflictError,
)
from durus.oid import ROOT_OID, format_oid
from durus.oid_array import OidSet
from durus.progress import Progress
from durus.records.record import refs_outside, split_oids, unpack_record
from durus.sharing.change_log import ChangeLog, LatestCommits, LogReader
from durus.sharing.commit_queue import CommitQueue, OnOutcome, QueuedCommit
from durus.sharing.held_snapshots import HeldSnapshots, SnapshotHolder
from durus.sharing.oid_grants import OidGrants
from durus.sharing.turns import Standing, Turn, Turns
from durus.sharing.versions import News, Versions
from durus.sharing.write import GroupWrite, Write, failing_write
from durus.storage import GroupOutcome, GroupSnapshot, Member, Storage, check_record, require_storage

MAX_UNUSED_OIDS = 1 << 24
"""How many oids one client may ask for and leave unused. [TXN-24]"""
MAX_WAITING = 1 << 30
"""How many bytes of records are kept for commits whose turn was passed on. [TXN-42]"""
OnTurn = Callable[[list[bytes] | None], None]
"""Takes the oids that are invalid for a client when its turn to commit comes, None for any."""

OnWholeOutcome = Callable[[Collection[bytes] | None, DurusError | None], None]
"""Takes the oids that were invalid for the client right before its commit, None for any, and the outcome."""


def _do_nothing() -> None:
    pass


class SessionCore:
    """The clients of a storage, and the commits in progress.

    Args:
        storage: the storage, to which nobody else commits, or only through its group_storage(). [PG-3]
        clock: returns the time in seconds; it need not begin at any special moment.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], float] = lambda: 0.0,
        max_snapshot_seconds: float | None = None,
        max_snapshot_bytes: int | None = None,
        commit_clock: Callable[[], float] | None = None,
        max_unused_oids: int | None = None,
    ) -> None:
        """Share `storage`. `max_snapshot_seconds` limits how long a snapshot may be held, and `max_snapshot_bytes` how
        many bytes are kept for all of them; None means no limit. [TXN-64] `commit_clock` says how long ago a commit
        was; None is `clock`. [TXN-82] `max_unused_oids` is how many oids one client may ask for and leave unused; None
        is MAX_UNUSED_OIDS.
        """
        self._group = require_storage(storage).group_storage()
        """What commits for all clients, if the storage has others, too. [PG-60]"""
        if storage.is_shared and self._group is None:
            raise ArgumentError(
                f"{storage} has other clients, whose commits a server or a SharedStorage would miss: give each "
                "connection a storage of its own, as durus.open() does"
            )
        self.storage = storage
        self._clock = clock
        self._max_unused_oids = max_unused_oids
        self._versions = Versions(storage)
        keep = None if self._group is None else self._group.keep_snapshots
        self._snapshots = HeldSnapshots(self._versions, clock, max_snapshot_seconds, max_snapshot_bytes, keep)
        self._sessions: set[Session] = set()
        self._log = ChangeLog()
        self._latest = LatestCommits(clock if commit_clock is None else commit_clock)
        self._turns = Turns(clock)
        self._in_turn: set[Session] = set()
        """The clients that have their turn, exclusive or passed on, and whose commit can still be accepted."""
        self._waiting_bytes = 0
        """How many bytes of records these have sent."""
        self._commits = CommitQueue(storage, knows_needs=self._group is not None)
        self._waiting_for_write: list[Callable[[], None]] = []
        self._waiting_for_news: list[OnOutcome] = []
        self._about_to_hear: list[OnOutcome] = []
        """Those who have waited since before take_news() asked; true wherever an exception comes."""
        self._must_news_wait = False
        """True if the news can't be reported before the present write has ended. [PG-63]"""
        self._to_tell: list[Callable[[], None]] = []
        """The calls that tell those whose wait start_anew() ends; kept until then, since it may be interrupted, too."""

    def connect(self, name: str = "") -> "Session":
        """Return the session of a new client, whose name appears in the conflicts that it causes."""
        session = Session(self, name)
        self._sessions.add(session)
        return session

    @property
    def turn(self) -> "Session | None":
        """The client that may send the data of its commit now. [TXN-21]"""
        turn = self._turns.holder
        return next((session for session in self._sessions if session._turn is turn), None) if turn else None

    @property
    def is_turn_exclusive(self) -> bool:
        """True while a client has the turn for a transaction that keeps all others from committing. [TXN-46]"""
        return self._turns.holder is not None and self._turns.holder.lease is not None

    @property
    def is_settled(self) -> bool:
        """True if there is nothing to write, to ask for or to pass on."""
        return not (self._commits.has_ready or self._turns.line or self._waiting_for_news)

    def pass_turn_on(self) -> float | None:
        """Pass the turn on if its client has held up others for too long. [TXN-42]

        Returns:
            In how many seconds to call this again, or None if nobody waits for the turn.
        """
        self._turns.pass_on()
        return self._turns.seconds_left()

    def has_record(self, oid: bytes) -> bool:
        """Return whether an oid has a record, durable or on its way to the disk."""
        return self._commits.has_record(oid)

    def is_undurable(self, oid: bytes) -> bool:
        """Return whether a commit that is not durable yet writes this oid. [TXN-23]"""
        return oid in self._commits.undurable

    def when_written(self, proceed: Callable[[], None]) -> None:
        """Call `proceed` when the present or the next write ends."""
        self._waiting_for_write.append(proceed)

    # Others

    @property
    def has_others(self) -> bool:
        """True if the storage has other clients than those of this core."""
        return self._group is not None

    def when_fresh(self, proceed: OnOutcome) -> None:
        """Call `proceed` when this core knows all that was committed before this call, or can't know it. [PG-61]

        The caller soon calls take_news(), if is_news_due.
        """
        self._waiting_for_news.append(proceed)

    @property
    def is_news_due(self) -> bool:
        """True if take_news() has something to do."""
        return bool(self._waiting_for_news) and not self._must_news_wait

    def take_news(self) -> None:
        """Ask once, for all that wait, what others have changed. [PG-61]"""
        self._about_to_hear += self._waiting_for_news
        self._waiting_for_news = []
        failure: DurusError | None = None
        try:
            if self._group is not None:
                news = self._group.take_news()
                if not news.is_complete:
                    self._waiting_for_news, self._about_to_hear = self._about_to_hear, []
                    self._must_news_wait = True
                    return
                self._take_in(news.changed)
        except DurusError as error:
            failure = error
        for proceed in self._about_to_hear:  # nobody, if the core has started anew
            proceed(failure)
        self._about_to_hear = []

    def _take_in(self, changed: list[bytes] | None) -> None:
        """Put what others have changed before everything that is not stored yet. [PG-62]"""
        if changed is None:
            self.start_anew(is_write_lost=False)
            for session in self._sessions:
                session._grants.clear()
        elif changed:
            refused = self._commits.take_conflicting(changed)
            for session in self._in_turn.copy():
                session._lose_turn()  # what it has accessed is not known here
            self._log.add(changed)
            for commit in self._commits.unstored:
                if not commit.conflicts_with(changed):  # else it is refused: nothing of it may hide what was changed
                    self._log_again(commit)
            self._trim_log()
            for commit, conflicts in refused:
                self._commits.settle(commit, WriteConflictError(conflicts))

    def _log_again(self, commit: QueuedCommit) -> None:
        """Give a commit a later serial, because others were first.

        Nobody has seen what it stores. Whoever was told of it before would otherwise see that without what came first.
        """
        self._log.add(commit.records)
        self._note_serial(commit)
        commit.reader.own_serial = commit.serial

    def _note_serial(self, commit: QueuedCommit) -> None:
        commit.serial = self._log.end
        self._latest.note(commit.serial, commit.name)

    # Writing

    @property
    def has_ready_commits(self) -> bool:
        """True if begin_write() has something to do."""
        return self._commits.has_ready

    @property
    def is_writing(self) -> bool:
        """True between begin_write() and finish()."""
        return bool(self._commits.writing)

    def begin_write(self) -> "Write":
        """Put all queued commits into one transaction of the storage. [TXN-22]

        Returns:
            The write. The caller calls its write(), in any thread, and then its finish().
        """
        writing = self._commits.begin_write()
        if self._group is not None:
            members = [Member(commit.records, commit.new, commit.accessed) for commit in writing]
            size = sum(len(record) for commit in writing for record in commit.records.values())
            on_outcome = functools.partial(self._finish_group, writing)
            return GroupWrite(self._group.stage(members), size, len(members), on_outcome)
        merged: dict[bytes, bytes] = {}
        for commit in writing:
            merged.update(commit.records)
        size = sum(map(len, merged.values()))
        try:
            staged = self._versions.stage_commit(merged)
        except DurusError as error:
            return failing_write(error, size, self._finish_write)
        self._snapshots.end_costly()
        return Write(staged, size, self._finish_write)

    def _finish_write(self, error: DurusError | None) -> None:
        self._commits.end_write(error)
        self._tell_of_end()

    def _finish_group(self, group: list[QueuedCommit], outcome: GroupOutcome) -> None:
        """Tell the members of a group what became of them. [PG-62]"""
        if outcome.changed is not None:
            self._commits.writing = [commit for number, commit in enumerate(group) if number not in outcome.errors]
            self._take_in(outcome.changed)
        self._commits.end_group(group, outcome.errors)
        if outcome.changed is None:
            self._take_in(None)
        self._tell_of_end()

    def _tell_of_end(self) -> None:
        """Call what waits for the end of a write."""
        self._must_news_wait = False
        waiting, self._waiting_for_write = self._waiting_for_write, []
        for proceed in waiting:
            proceed()

    # Packing

    def gen_pack(self) -> Generator[Progress, None, None]:
        """Pack in steps; what the pack removed is invalid for all clients at its end. [TXN-25]

        No step runs while commits are being written, because these are neither stored nor missing.

        Yields:
            The progress after each step.
        """
        progress = Progress("mark", 0, None)
        while self._commits.writing:  # otherwise older snapshots would continue with half of a commit
            yield progress
        steps = self._versions.get_packer()
        try:
            while True:
                while self._commits.writing:
                    yield progress
                try:
                    progress = next(steps)
                except StopIteration:
                    return
                self._take_removed()
                yield progress
        finally:  # even after an error: the pack may have removed them before it
            if isinstance(steps, Generator):
                steps.close()
            self._take_removed()

    def packer_beside(self) -> Generator[Progress, None, None] | None:
        """Return the steps of a pack that need no turns with the calls of this core, None if gen_pack() is needed.

        Any thread may run them, one step after the other. [PG-68]
        """
        return None if self._group is None else self._group.gen_pack()

    def break_off_pack(self) -> None:
        """Have the step of such a pack that may be running end now, with an error. [PG-68]"""
        if self._group is not None:
            self._group.break_off_pack()

    def _take_removed(self) -> None:
        if self._group is not None:
            return  # to an engine the removal is a commit of somebody else
        removed = self._versions.sync()
        self._make_invalid(removed)
        if removed:
            self._commits.withdraw_conflicting(removed)

    def _make_invalid(self, oids: Collection[bytes] | None) -> None:
        """Tell all clients at their next sync that these oids are invalid, None for any."""
        if oids is None:
            self.start_anew(is_write_lost=False)
        elif oids:
            self._log.add(oids)
            self._trim_log()

    # Following

    def look_ahead(self) -> News:
        """Read what another process has written to the file of the storage, which `follows` it. [CMD-67]

        Any thread may do this, while clients continue with what they see. FileError or DamageError if it can't be read.

        Returns:
            What follow() shows. The caller calls it before the next look.
        """
        return self._versions.look_ahead()

    def follow(self, news: News) -> None:
        """Show what another process has written to the file of the storage. [CMD-63]"""
        self._make_invalid(self._versions.follow(news))
        self._snapshots.end_costly()

    def start_anew(self, is_write_lost: bool) -> None:
        """Give up everything in progress, after an exception that may have come between any two steps of it. [TXN-31]

        Commits that are being written continue.

        Args:
            is_write_lost: True if the write was lost together with its thread.
        """
        if is_write_lost and self._group is not None:
            self._group.start_anew()
        elif is_write_lost:
            self._versions.sync()
        to_tell = self._to_tell
        for proceed in self._about_to_hear + self._waiting_for_news:
            to_tell.append(functools.partial(proceed, None))  # any oid may be invalid for them, so nothing is missed
        self._about_to_hear, self._waiting_for_news = [], []
        self._must_news_wait = False
        to_tell += self._waiting_for_write
        self._waiting_for_write = []
        self._versions.start_anew()
        self._snapshots.start_anew(session._snapshot for session in self._sessions)
        self._log.start_anew()
        self._turns = Turns(self._clock)
        self._in_turn, self._waiting_bytes = set(), 0
        self._commits.start_anew(is_write_lost, to_tell)
        for session in self._sessions.copy():
            session._start_anew(to_tell)
        for tell in to_tell:
            tell()
        self._to_tell = []

    # Snapshots

    def end_old_snapshots(self) -> int:
        """End the snapshots that are held for too long, and the oldest while too many bytes are kept. [TXN-64]

        Return how many were ended since the last call.
        """
        return self._snapshots.end_old()

    # Called by sessions

    def _take_state(self) -> GroupSnapshot:
        """Take the state after the last durable commit. [TXN-60] [PG-66]"""
        if self._group is None:
            return GroupSnapshot(self._versions.take_snapshot(), [])
        return self._group.take_snapshot()

    def _enqueue(self, session: "Session", commit: QueuedCommit) -> None:
        """Give a commit its serial: from now on it precedes every commit that is queued later."""
        self._commits.add(commit)
        for other in self._in_turn - {session}:
            other._lose_turn()
        reader, log = session._reader, self._log
        has_heard_of_all = reader.knows_all
        if has_heard_of_all and len(self._sessions) == 1:
            log.skip()
        else:
            log.add(commit.records)
            self._trim_log()
        self._note_serial(commit)
        if has_heard_of_all:
            reader.serial = log.end
        else:  # a pack removed records during its turn
            reader.own_serial = log.end

    def _trim_log(self) -> None:
        if self._log.is_long:
            serials = (session._reader.serial for session in self._sessions)
            self._log.trim(min((serial for serial in serials if serial >= self._log.start), default=self._log.end))

    def _drop(self, session: "Session") -> None:
        session._end_turn(has_committed=False)
        self._snapshots.end(session._snapshot)
        self._sessions.discard(session)


class Session:
    """One client: which changes it does not know yet, and what it may do now."""

    def __init__(self, core: SessionCore, name: str) -> None:
        self._core = core
        self.name = name
        self._reader = LogReader(core._log)
        self._snapshot = SnapshotHolder()
        self._standing = Standing()
        self._turn: Turn | None = None
        self._has_lost_turn = False
        """True if another commit was accepted after this client got its turn: its own is a conflict. [TXN-42]"""
        self._whole: OnOutcome | None = None
        """Takes the outcome of a complete commit that waits for the end of another client's turn."""
        self._abandoned: Callable[[], None] = _do_nothing
        self._has_given = False
        """True if a record came in this turn."""
        self._staged_bytes = 0
        self._held_bytes = 0
        """How many bytes of records the host holds for an incomplete commit."""
        self._grants = OidGrants()
        self._accessed: OidSet | None = None
        """What the transaction of the commit has used; None if it is not known here."""
        self._staged: dict[bytes, bytes] = {}
        """The records of the commit, so far."""
        self._unresolved: set[bytes] = set()
        """What these records refer to, and what was not among them when they came."""
        self._conflicts: set[bytes] = set()

    def load(self, oid: bytes) -> bytes | None:
        """Return the record of an oid. [TXN-20]

        The caller first waits until must_wait(oid) is False.

        Returns:
            The record, or None if the oid is invalid for this client, or will be with the next news. [PG-61]

        Raises:
            DurusKeyError: there is no record.
        """
        if self._reader.is_invalid(oid):
            return None
        try:
            return self._core.storage.load(oid)
        except ReadConflictError:
            return None

    def must_wait(self, oid: bytes) -> bool:
        """Return whether the record that this client should see is not durable yet. [TXN-23]"""
        return self._core.is_undurable(oid) and not self._reader.is_invalid(oid)

    @property
    def serial(self) -> int:
        """The serial of the last change that this client has heard of."""
        return self._reader.serial

    @property
    def has_lost_track(self) -> bool:
        """True if the next sync must report that any oid may be invalid. [TXN-41]"""
        return self._reader.has_lost_track

    @property
    def invalid(self) -> set[bytes]:
        """The oids that are invalid for this client, if it has not lost track. [TXN-20]"""
        return set(self._reader.invalid())

    def lose_track(self) -> None:
        """Make every oid invalid. [TXN-31]"""
        self._reader.lose_track()

    def _start_anew(self, to_tell: list[Callable[[], None]]) -> None:
        """Lose track, and drop a commit in progress, after `to_tell` has got what tells the client."""
        if self._whole is not None:
            to_tell.append(functools.partial(self._whole, WriteConflictError()))
        elif self._turn is not None:
            to_tell.append(self._abandoned)
        self.lose_track()
        self._turn = self._whole = None
        self._accessed = None
        self._reader.own_serial = 0
        self._has_lost_turn = False
        self._staged, self._unresolved, self._conflicts, self._staged_bytes = {}, set(), set(), 0
        self._has_given = False
        self._held_bytes = 0
        self._grants.recount()

    def sync(self) -> list[bytes] | None:
        """Return the invalid oids, None for any, and make them valid for this client. [TXN-20] [TXN-41]"""
        self._forget_root()
        return self._reader.take_invalid()

    def take_snapshot(self) -> list[bytes] | None:
        """Sync, and hold the state after the last durable commit, instead of an earlier one. [TXN-60]

        Return the oids by which it may differ from what this client has seen, None for any. [TXN-61]
        """
        core = self._core
        core._snapshots.end(self._snapshot)
        state, changed = core._take_state()
        invalid = self.sync()
        # The changes of a commit that is not durable yet, or that the next news report, are reported again.
        self._reader.serial = core._commits.durable_serial(core._log.end)
        core._snapshots.take(self._snapshot, state)
        return None if invalid is None or changed is None else sorted({*invalid, *changed})

    def load_from_snapshot(self, oid: bytes) -> bytes:
        """Return the record of an oid in the snapshot that is held. [TXN-60]

        DurusKeyError if there is none; SnapshotEndedError if no snapshot is held any more.
        """
        return self._snapshot.require().load(oid)

    def expect_loads(self, oids: list[bytes], is_snapshot: bool) -> None:
        """Tell the storage what this client loads next, from its snapshot if `is_snapshot`. [PG-70]"""
        if not self._core.has_others:
            return
        if not is_snapshot:
            self._core.storage.expect_loads(oids)
        elif self._snapshot.snapshot is not None:
            self._snapshot.snapshot.expect_loads(oids)

    def has_in_snapshot(self, oid: bytes) -> bool:
        """Return whether there is a record of an oid in the snapshot that is held; SnapshotEndedError if none is."""
        return self._snapshot.require().has_record(oid)

    def drop_snapshot(self) -> None:
        """Release the snapshot, so that nothing is kept for it. [TXN-62]"""
        self._core._snapshots.end(self._snapshot)

    @property
    def holds_snapshot(self) -> bool:
        """True while a snapshot is held for this client."""
        return self._snapshot.snapshot is not None

    def require_unused(self, number: int) -> None:
        """Raise LimitError if a client with this many more unused oids has too many. [TXN-24]"""
        limit = self._core._max_unused_oids or MAX_UNUSED_OIDS
        if self._grants.count + number > limit:
            raise LimitError(
                f"this client asked for more than {limit} oids without using them; commit the new objects, or connect "
                "again"
            )

    def new_oids(self, number: int) -> list[bytes]:
        """Return oids that no object has and that only this client may commit. [TXN-24]

        The first one is ROOT_OID as long as there is no root.

        Args:
            number: how many.

        Raises:
            LimitError: the client has too many unused oids.
        """
        self.require_unused(number)
        oids: list[bytes] = []
        if number and not self._core.has_record(ROOT_OID) and ROOT_OID not in self._grants:
            oids.append(ROOT_OID)
        while len(oids) < number:
            oid = self._core.storage.new_oid()
            if oid != ROOT_OID:
                oids.append(oid)
        self._grants.add(oids)
        return oids

    def _forget_root(self) -> None:
        """If another client has made the root, this client knows it now. [TXN-24]"""
        if ROOT_OID in self._grants:
            with contextlib.suppress(NetworkError):  # the next call forgets it
                if self._core.has_record(ROOT_OID):
                    self._grants.discard([ROOT_OID])

    @property
    def is_in_line(self) -> bool:
        """True while this client waits for its turn, or has it."""
        return self._turn is not None

    @property
    def has_turn(self) -> bool:
        """True while this client may send its commit, whether its turn is exclusive or passed on. [TXN-42]"""
        return self._turn is not None and self._turn.is_granted

    def note_received(self, size: int) -> None:
        """Note that the client has sent `size` bytes, for which others wait longer. [TXN-42]"""
        if self._turn is not None and self._turn.is_granted:
            self._turn.received += size

    def begin_commit(
        self, granted: OnTurn, abandoned: Callable[[], None] = _do_nothing, lease: float | None = None
    ) -> None:
        """Ask for the turn to commit. [TXN-21]

        Args:
            granted: called with the invalid oids when the turn comes, now or later.
            abandoned: called if the core starts anew before the commit is complete; then ask again.
            lease: how many seconds the turn is exclusive, if it is. [TXN-46]

        Raises:
            ReadonlyError: the storage is read-only.
            ClosedError: the storage is closed.
        """
        if self._turn is not None:
            raise ProtocolError("a client asked for the turn to commit twice")
        self._core.storage.begin()

        def grant() -> None:
            self._core._in_turn.add(self)
            granted(self._reader.take_invalid())

        self._abandoned = abandoned
        self._turn = Turn(self._standing, grant, lease=lease)
        self._core._turns.ask(self._turn)

    def store(self, oid: bytes, record: bytes) -> None:
        """Add a record to the commit; an error ends the turn.

        Raises:
            RecordError: the record is malformed.
            ProtocolError: this client does not have the turn, was not given the oid, or has stored it already.
        """
        try:
            if not self.has_turn:
                raise ProtocolError("a commit came out of turn")
            self._has_given = True
            if self._has_lost_turn:
                return
            self._check(oid, record)
        except DurusError:
            self.give_up_commit()
            raise
        self._staged[oid] = record
        self._unresolved.update(ref for ref in split_oids(unpack_record(record)[2]) if ref not in self._staged)
        self._staged_bytes += len(record)
        self._core._waiting_bytes += len(record)
        if self._core._waiting_bytes > MAX_WAITING and self._turn is not self._core._turns.holder:
            self._lose_turn()

    def _check(self, oid: bytes, record: bytes) -> None:
        check_record(oid, record)
        if oid in self._staged:
            raise ProtocolError(f"a commit has two records of oid {format_oid(oid)}")
        self._check_oid(oid)

    def _check_oid(self, oid: bytes) -> None:
        if self._core.has_others:
            return  # the engine reports it together with what others have changed [PG-62]
        is_granted = oid in self._grants
        if is_granted and oid != ROOT_OID:
            return
        is_known = self._core.storage.has_record(oid)
        if oid == ROOT_OID and self._core.has_record(oid) and (is_granted or not is_known):
            self._conflicts.add(oid)  # another client has made the root first, or is about to [TXN-24]
        elif not (is_granted or is_known):
            if not self._reader.is_invalid(oid):
                raise ProtocolError(f"a commit stores oid {format_oid(oid)}, which this client was not given")
            self._conflicts.add(oid)  # a pack removed it after this client got its turn [TXN-25]

    def commit(self, records: dict[bytes, bytes], done: OnOutcome) -> None:
        """Commit these records, and those that store() took.

        If the turn was passed on, the outcome comes after the commit of the client that has the turn now. [TXN-42]

        Args:
            records: records by oid; without any record, here or before, the commit is given up.
            done: called with the outcome.

        Raises:
            DurusError: as store() raises it, and nothing is stored.
        """
        if not self.has_turn:
            raise ProtocolError("a commit came out of turn")
        for oid, record in records.items():
            self.store(oid, record)
        self._end_sending(done)

    def _end_sending(self, done: OnOutcome) -> None:
        """Finish a complete commit, or let it wait for the client that has the turn now."""
        turns, turn = self._core._turns, self._turn
        if turn is None or turn is turns.holder or self._has_lost_turn or not self._staged:
            self._finish_commit(done)
        else:
            self._whole = done
            turns.ask_again_first(turn, lambda: self._finish_commit(done))

    def commit_whole(
        self, serial: int, accessed: OidSet | None, records: dict[bytes, bytes], done: OnWholeOutcome
    ) -> None:
        """Commit records that arrived as a whole, from a client that had synced to `serial`. [TXN-47]

        It is a conflict if any oid in `accessed` has changed since; with None, if the client's turn was lost.
        ReadonlyError or ClosedError if the storage takes no commits; ProtocolError for a serial that is yet to come.
        """
        if serial > self._core._log.end:
            raise ProtocolError(f"a commit from serial {serial}, which does not exist yet")
        has_started_anew = self.has_lost_track
        self.go_back_to(serial)
        if accessed is None and self.has_turn:
            self._commit_checked(self._reader.take_changes(), None, records, done)
        elif accessed is None and has_started_anew:  # the turn was lost, too
            done(None, WriteConflictError())
        elif accessed is None:
            raise ProtocolError("a commit came out of turn")
        elif self._turn is not None and self._turn is self._core._turns.holder:
            self._has_lost_turn = False  # others may have changed something, but this commit says what it has used
            self._commit_checked(self._reader.take_changes(), accessed, records, done)
        elif self._turn is None and self._core._turns.is_free:  # a turn would begin and end at once
            self._core.storage.begin()
            self._commit_checked(self._reader.take_changes(), accessed, records, done)
        else:
            self.give_up_commit()
            self.begin_commit(
                lambda invalid: self._commit_checked(invalid, accessed, records, done),
                abandoned=lambda: done(None, WriteConflictError()),
            )

    def go_back_to(self, serial: int) -> None:
        """Report the changes after this serial to the client again: the report of them was lost."""
        self._reader.go_back_to(serial)

    def _commit_checked(
        self,
        invalid: Collection[bytes] | None,
        accessed: OidSet | None,
        records: dict[bytes, bytes],
        done: OnWholeOutcome,
    ) -> None:
        """Commit in this client's turn, unless what it has accessed is invalid; None if it has looked itself."""
        self.release_bytes()
        self._accessed = accessed
        conflicts: list[bytes] = []
        if invalid and not (accessed is None or accessed.isdisjoint(invalid)):
            conflicts = [oid for oid in invalid if oid in accessed]
        if invalid is None or conflicts:
            self._refuse_whole(invalid, WriteConflictError(conflicts), done)
            return
        try:
            self._stage_all(records)
            if self._core.has_others:
                self._end_sending(lambda error: done(self._with_news(invalid), error))
            else:
                self._end_sending(lambda error: done(invalid, error))
        except DurusError as error:
            self._refuse_whole(invalid, error, done)

    def _refuse_whole(self, invalid: Collection[bytes] | None, error: DurusError, done: OnWholeOutcome) -> None:
        """End a commit that is refused as a turn ends, even if it has needed none: now its client knows of the root."""
        self._forget_root()
        self._end_turn(has_committed=False)
        done(invalid, error)

    def _with_news(self, invalid: Collection[bytes]) -> list[bytes] | None:
        """Add what others have changed before this commit: what comes next reads the state after it. [PG-65]"""
        more = self._reader.take_invalid()
        return None if more is None else sorted({*invalid, *more})

    def _stage_all(self, records: dict[bytes, bytes]) -> None:
        """Take the records of a commit that arrived as a whole; check_record() has accepted each of them."""
        for oid in records:
            self._check_oid(oid)
        self._has_given = True
        if not self._has_lost_turn:
            self._staged = records
            self._unresolved = refs_outside(records)

    def hold(self, size: int) -> bool:
        """Count bytes of a commit that is not complete; False if all clients together have too many. [TXN-47]"""
        if self._core._waiting_bytes + size > MAX_WAITING and self._core._waiting_bytes:
            return False
        self._held_bytes += size
        self._core._waiting_bytes += size
        return True

    @property
    def held_bytes(self) -> int:
        """How many bytes of records are held for a commit of this client that is not queued yet."""
        return self._held_bytes + self._staged_bytes

    def release_bytes(self) -> None:
        """Stop counting the bytes of this commit."""
        self._core._waiting_bytes -= self._held_bytes
        self._held_bytes = 0

    def describe_changes(self, oids: list[bytes]) -> str:
        """Return who has changed one of these last, and when, as far as it is known. [TXN-82]"""
        core = self._core
        serial = max((core._log.changed_after(oid, 0) for oid in oids), default=0)
        return core._latest.describe(serial)

    def _finish_commit(self, done: OnOutcome) -> None:
        if self._has_lost_turn and self._has_given:
            self._standing.losses += 1
            self.give_up_commit()
            done(WriteConflictError())
            return
        staged, conflicts = self._staged, self._conflicts | self._missing()
        self._forget_root()
        is_taken = bool(staged) and not conflicts
        if is_taken:
            commit = QueuedCommit(self.name, self._reader, self._grants, staged, done)
            if self._core.has_others:
                commit.accessed, commit.new = self._accessed, frozenset(oid for oid in staged if oid in self._grants)
            self._core._enqueue(self, commit)
        self._end_turn(is_taken)
        if conflicts:
            done(WriteConflictError(sorted(conflicts)))
        elif not staged:
            done(None)

    def _missing(self) -> set[bytes]:
        """Return the oids that the commit needs and that have no record. [TXN-10] [TXN-25]"""
        if self._core.has_others:
            return set()  # as in _check_oid()
        if not self._reader.knows_all:  # a pack has ended since the records were checked
            self._conflicts.update(
                oid for oid in self._staged if self._reader.is_invalid(oid) and not self._core.has_record(oid)
            )
        return {ref for ref in self._unresolved if ref not in self._staged and not self._core.has_record(ref)}

    def give_up_commit(self) -> None:
        """Withdraw from the queue for the turn to commit, or give up the turn."""
        if self.has_turn:
            self._forget_root()
        self._end_turn(has_committed=False)

    def _lose_turn(self) -> None:
        """Forget the records that came, because the commit cannot be accepted any more."""
        self._core._in_turn.discard(self)
        self._has_lost_turn = True
        self._core._waiting_bytes -= self._staged_bytes
        self._staged, self._unresolved, self._conflicts, self._staged_bytes = {}, set(), set(), 0

    def _end_turn(self, has_committed: bool) -> None:
        self._lose_turn()
        self._has_lost_turn = self._has_given = False
        self._whole = self._accessed = None
        turn, self._turn = self._turn, None
        if turn is not None:
            self._core._turns.end(turn, has_committed)
        elif has_committed:
            self._core._turns.note_commit(self._standing)

    def withdraw_commit(self) -> bool:
        """Withdraw a complete commit that is not being written yet; False if there is none."""
        return self._core._commits.withdraw(self._reader)

    def close(self) -> None:
        """Forget this client; a complete commit continues."""
        self.release_bytes()
        self._core._drop(self)
