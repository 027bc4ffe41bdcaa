"""The many clients of a session core as one client of an engine. Statements PG-60 to PG-70.

Two connections: one reads, in the thread of the core; the other one commits, in whatever thread waits for it. A pack
has one of its own, and so has each state that snapshots show.

A group of commits is one transaction of the engine, in which the members are compared with what others have changed
meanwhile.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Protocol, Self, TypeVar

from durus.error import (
    DisconnectedError,
    DurusError,
    NetworkError,
    OutcomeUnknownError,
    RecordError,
    SnapshotEndedError,
    WriteConflictError,
)
from durus.oid import oid_from_int, oid_to_int
from durus.postgres.decisions import (
    MAX_ACCESSED,
    Candidate,
    Existing,
    News,
    Seen,
    Turn,
    check_values,
    invalid_oids,
    needed_oids,
    refusals,
)
from durus.postgres.rows import Row, row_of
from durus.progress import Progress
from durus.storage import GroupNews, GroupOutcome, GroupSnapshot, HeldState, Member

T = TypeVar("T")

_sleep = time.sleep

FIRST_PAUSE = 0.05
MAX_PAUSE = 1.0
"""In seconds: between two tries to commit, or to find out what became of a commit."""
MAX_STATES = 16
"""How many different states are held, at most; each has a connection."""
MAX_IDLE = 4
"""How many connections wait for further ones."""


class GroupWrite:
    """A group on its way to the engine."""

    def __init__(self, group: "PostgresGroup", members: list[Member], seen: Seen) -> None:
        self._group = group
        self.seen = seen
        """What the core knew of when the group was staged."""
        self.errors: dict[int, DurusError] = {}
        """Why members are refused, by their numbers."""
        self.candidates: dict[int, Candidate] = {}
        """The other members."""
        for number, member in enumerate(members):
            try:
                rows = [row_of(record) for record in member.records.values()]
            except RecordError as error:  # it does not fit the engine
                self.errors[number] = error
            else:
                self.candidates[number] = Candidate(rows, member.new, member.accessed)
        new = {oid for each in self.candidates.values() for oid in _oids(each.rows) if oid in each.new}
        self.is_given: Callable[[bytes], bool] = new.__contains__
        """Tells whether a member is the first to store this oid, which was given to its client."""
        self.tid: int | None = None
        """The number of the transaction that may be committed now, or a lower one; set before it can be, by the thread
        that writes.
        """
        self.news: News | None = None
        self.turn: Turn | None = None
        """The turn in which something was stored."""
        self.refused: dict[int, list[bytes]] = {}
        """The members that are in conflict, and the oids because of which they are."""

    def check_values(self) -> tuple[object, ...] | None:
        """Return the values with which the engine finds out if no member is in conflict; None if it can't. [PG-62]"""
        candidates = self.candidates.values()
        used = [candidate.accessed for candidate in candidates if candidate.accessed is not None]
        if len(used) < len(candidates) or sum(map(len, used)) > MAX_ACCESSED:
            return None
        there = [Existing(oid, 0, True) for oid in self.needed_oids() if not self.is_given(oid_from_int(oid))]
        if refusals(self.candidates, there, 0, []):
            return None  # because of the members before them
        accessed = {oid_to_int(oid) for oids in used for oid in oids}
        return check_values(self._rows(), self.seen, accessed, self.is_given)

    def compare(self, turn: Turn, news: News, existing: list[Existing]) -> list[Row]:
        """Find out which members are in conflict; return the rows of the others. [PG-62]"""
        self.news = news
        changed = invalid_oids(self.seen, news.after(self.seen.tid))
        if changed is None:  # any oid may have changed
            self.refused = {number: _oids(candidate.rows) for number, candidate in self.candidates.items()}
        else:
            self.refused = refusals(self.candidates, existing, turn.sweep_tid, changed)
        return self.kept_rows()

    def needed_oids(self) -> list[int]:
        """Return the oids whose rows decide whether members are accepted."""
        return needed_oids(self._rows())

    def _rows(self) -> list[Row]:
        return [row for candidate in self.candidates.values() for row in candidate.rows]

    def kept_rows(self) -> list[Row]:
        """Return what is stored: of each object, the row of the last member that has one."""
        kept = [candidate.rows for number, candidate in self.candidates.items() if number not in self.refused]
        return list({row.oid: row for rows in kept for row in rows}.values())

    def write(self) -> None:
        self._group.write(self)

    def accept(self) -> GroupOutcome:
        return self._group.accept(self)


class Engine(Protocol):
    """What a PostgresStorage does for a group."""

    @property
    def seen(self) -> Seen:
        """The last commit that it knows of; loads show nothing newer."""

    @property
    def timeout(self) -> float:
        """How many seconds a commit may wait."""

    def open_beside(self) -> Self:
        """Open another storage of this database."""

    def take_news_of_group(self, is_late: Callable[[int], bool]) -> GroupNews:
        """Take in what others have changed, unless `is_late` refuses the number of the last commit."""

    def try_group(self, write: "GroupWrite", deadline: float) -> None:
        """Store the group of `write`, by the `deadline` on the monotonic clock, in seconds.

        NetworkError, but no OutcomeUnknownError, if nothing is stored and it may be tried again.
        """

    def take_group(self, news: News, turn: Turn | None, oids: list[bytes]) -> list[bytes] | None:
        """Take in what others committed before a group, as `news` have it, and what the group has stored in its `turn`,
        the records of these `oids`; return the oids that others changed, None for any.
        """

    def open_for_snapshots(self) -> Self:
        """Open another storage of this database, which loads ahead as this one does."""

    def ask_news_after(self, seen: Seen) -> News:
        """Return what was committed after `seen`, and take nothing of it in."""

    def show_state(self, seen: Seen) -> News:
        """Show the last state until release(); return what was committed after `seen`."""

    def load(self, oid: bytes) -> bytes:
        """Return a record."""

    def has_record(self, oid: bytes) -> bool:
        """Return whether there is a record."""

    def expect_loads(self, oids: list[bytes]) -> None:
        """Tell what is loaded next."""

    def release(self) -> None:
        """Give up the state that is shown."""

    @property
    def failure(self) -> DurusError | None:
        """Why the storage can't be used; None if it can."""

    def get_packer(self) -> Iterator[Progress]:
        """Return an iterator that packs in steps. [PG-40]"""

    def break_off(self) -> None:
        """End the connection, in any thread: a call that waits for an answer gets DisconnectedError."""

    def abandon(self) -> None:
        """Give up what others wait for."""

    def close(self) -> None:
        """End the connection."""


class EngineSnapshot:
    """The state of an engine after the commit `seen`, on a connection of its own. [PG-66]"""

    def __init__(self, storage: Engine, seen: Seen) -> None:
        self.storage = storage
        self.seen = seen
        self.why_ended: str | None = None

    def load(self, oid: bytes) -> bytes:
        return self._shown(self.storage.load, oid)

    def has_record(self, oid: bytes) -> bool:
        return self._shown(self.storage.has_record, oid)

    def expect_loads(self, oids: list[bytes]) -> None:
        self.storage.expect_loads(oids)

    def _shown(self, ask: Callable[[bytes], T], oid: bytes) -> T:
        if self.why_ended is None:
            try:
                return ask(oid)
            except NetworkError as error:
                self.why_ended = f"the engine that kept it can't be reached: {error}"
        raise SnapshotEndedError(self.why_ended)


class PostgresGroup:
    """Shares a storage, which it reads from, among the clients of a session core.

    Everything but write() is called by one thread at a time, inside of what protects the core.
    """

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._writer: Engine | None = None
        self._packer: Engine | None = None
        self._states: list[EngineSnapshot] = []
        """Those that are held, the oldest one first."""
        self._idle: list[Engine] = []
        """Connections for further ones."""
        self._under_way: GroupWrite | None = None

    def take_news(self) -> GroupNews:
        """Return what others have changed, in one statement. [PG-61]

        The answer may show a group of this core whose end the core does not know of yet, or what came after it: then
        it waits for that end. [PG-63]
        """
        write = self._under_way

        def is_late(tid: int) -> bool:
            return write is not None and write.tid is not None and tid >= write.tid

        return self._reader.take_news_of_group(is_late)

    def stage(self, members: list[Member]) -> GroupWrite:
        self._under_way = GroupWrite(self, members, self._reader.seen)
        return self._under_way

    def write(self, write: GroupWrite) -> None:
        """Store a group; try again, for a limited time, after what leaves nothing of it. [PG-64]"""
        if not write.candidates:
            return
        deadline = time.monotonic() + self._reader.timeout
        pause = FIRST_PAUSE
        while True:
            try:
                self._open_writer().try_group(write, deadline)
                return
            except OutcomeUnknownError:
                raise
            except NetworkError:
                write.tid = None
                if time.monotonic() + pause >= deadline:
                    raise
                _sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    def _open_writer(self) -> Engine:
        if self._writer is None:
            self._writer = self._reader.open_beside()
        return self._writer

    def accept(self, write: GroupWrite) -> GroupOutcome:
        """Take in what a group has met and stored, which from now on is what the storage shows."""
        self._under_way = None
        errors = {**write.errors, **{number: WriteConflictError(oids) for number, oids in write.refused.items()}}
        changed: list[bytes] | None = []
        if write.news is not None:
            news = write.news.after(write.seen.tid)
            if invalid_oids(write.seen, news) is None:
                changed = None  # the next take_news() reports the same, and takes it in
            else:
                changed = self._reader.take_group(write.news, write.turn, _oids(write.kept_rows()))
        return GroupOutcome(changed, errors)

    def take_snapshot(self) -> GroupSnapshot:
        """Have the engine keep its last state: the newest one that is held, or a new one. [PG-66]"""
        seen = self._reader.seen
        if self._states:
            news, newest = self._reader.ask_news_after(seen), self._states[-1]
            if newest.why_ended is None and news.seen == newest.seen:
                return GroupSnapshot(newest, invalid_oids(seen, news))
        if len(self._states) >= MAX_STATES:
            oldest = self._states.pop(0)
            oldest.why_ended = f"{MAX_STATES} newer ones are held"
            self._give_up(oldest)
        try:
            storage = self._idle.pop() if self._idle else self._reader.open_for_snapshots()
        except NetworkError as error:
            raise DisconnectedError(str(error)) from error
        try:
            news = storage.show_state(seen)
        except BaseException:
            storage.close()
            raise
        state = EngineSnapshot(storage, news.seen)
        self._states.append(state)
        return GroupSnapshot(state, invalid_oids(seen, news))

    def keep_snapshots(self, held: Collection[HeldState]) -> None:
        """Give up all states but those that somebody holds."""
        given_up = [state for state in self._states if state not in held]
        self._states = [state for state in self._states if state in held]
        for state in given_up:
            self._give_up(state)

    def _give_up(self, state: EngineSnapshot) -> None:
        storage = state.storage
        storage.release()
        if storage.failure is None and len(self._idle) < MAX_IDLE:
            self._idle.append(storage)
        else:
            storage.close()

    def gen_pack(self) -> Generator[Progress, None, None]:
        """Pack in steps on a connection of its own. Any thread may run them, one step after the other. [PG-68]"""
        with contextlib.closing(self._reader.open_beside()) as self._packer:
            yield from self._packer.get_packer()

    def break_off_pack(self) -> None:
        """Have the step of a pack that may be running end now, in whatever thread it is. [PG-68]"""
        if self._packer is not None:
            self._packer.break_off()

    def start_anew(self) -> None:
        """Give up a group whose thread was interrupted, and the turn that it may still hold."""
        self._under_way = None
        if self._writer is not None:
            self._writer.abandon()

    def close(self) -> None:
        """End the connections beside that of the reader."""
        for beside in (self._writer, *self._idle, *(state.storage for state in self._states)):
            if beside is not None:
                beside.close()

    def abandon(self) -> None:
        with contextlib.suppress(DurusError):
            self.start_anew()


def _oids(rows: list[Row]) -> list[bytes]:
    return [oid_from_int(row.oid) for row in rows]
