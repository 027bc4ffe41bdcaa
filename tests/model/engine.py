"""An engine with several clients, in memory: what a session core asks of a PostgresStorage, as simple as it can be.

It shares no code with durus/postgres. Each write is made of steps, so that a test can do something else in between.
"""

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field

from durus.error import DurusError, DurusKeyError, OutcomeUnknownError, ReadConflictError, WriteConflictError
from durus.oid import oid_from_int
from durus.progress import Progress
from durus.records.record import split_oids, unpack_record
from durus.storage import GroupNews, GroupOutcome, GroupSnapshot, HeldState, Member, Storage

Records = dict[bytes, bytes]


@dataclass
class Engine:
    """What everybody sees that connects to it."""

    rows: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """The number of the transaction that wrote each record, and the record."""
    log: list[list[Records]] = field(default_factory=list)
    """The commits of each transaction, in order."""
    holder: object = None
    """Who has the lock."""
    next_oid: int = 1

    @property
    def tid(self) -> int:
        return len(self.log)

    def commit(self, *commits: Records) -> None:
        """Make one transaction of these commits."""
        self.log.append(list(commits))
        for records in commits:
            self.rows.update({oid: (self.tid, record) for oid, record in records.items()})

    def changed_after(self, tid: int, up_to: int | None = None) -> set[bytes]:
        return {oid for commits in self.log[tid:up_to] for records in commits for oid in records}


class EngineWrite:
    """A group, in three steps: lock(), store() and accept()."""

    def __init__(self, storage: "EngineStorage", members: list[Member]) -> None:
        self._storage = storage
        self._members = members
        self._seen = storage.seen
        self._met = storage.seen
        """The last transaction of others that it has met."""
        self._kept: list[Records] = []
        self._errors: dict[int, DurusError] = {}
        self._is_stored = False
        self.tid = 0
        """The number of its transaction, once it can be stored."""

    def lock(self) -> bool:
        """Take the lock, and compare; False if somebody else has it."""
        engine = self._storage.engine
        if engine.holder is not None:
            return False
        engine.holder = self
        self._met = engine.tid
        changed = engine.changed_after(self._seen)
        there = set(engine.rows)
        for number, (records, new, accessed) in enumerate(self._members):
            found = {oid for oid in changed if accessed is None or oid in accessed or oid in records}
            found |= {oid for oid in records if (oid in there) == (oid in new)}
            refs = {ref for record in records.values() for ref in split_oids(unpack_record(record)[2])}
            found |= refs - there - records.keys()
            if found:
                self._errors[number] = WriteConflictError(sorted(found))
            else:
                self._kept.append(records)
                there |= records.keys()
        return True

    def store(self, reason: str = "", is_stored: bool = True) -> None:
        """Commit, and give the lock back; with a `reason`, nobody is told whether it is stored."""
        engine = self._storage.engine
        if self._kept:
            self.tid = engine.tid + 1
            if is_stored:
                engine.commit(*self._kept)
        engine.holder = None
        if reason:
            raise OutcomeUnknownError(reason)
        self._is_stored = bool(self._kept)

    def write(self) -> None:
        assert self.lock()
        self.store()

    def accept(self) -> GroupOutcome:
        storage = self._storage
        storage.under_way = None
        changed = storage.engine.changed_after(storage.seen, self._met)
        storage.seen = max(storage.seen, self._met)
        if self._is_stored:
            storage.seen = max(storage.seen, self.tid)
        return GroupOutcome(sorted(changed), self._errors)


class EngineState:
    """What there was at one moment."""

    def __init__(self, rows: Records) -> None:
        self._rows = rows

    def load(self, oid: bytes) -> bytes:
        if oid not in self._rows:
            raise DurusKeyError(oid)
        return self._rows[oid]

    def has_record(self, oid: bytes) -> bool:
        return oid in self._rows

    def expect_loads(self, oids: list[bytes]) -> None:
        pass


class EngineStorage(Storage):
    """A client of an engine, for a session core."""

    is_shared = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seen = engine.tid
        self.under_way: EngineWrite | None = None
        self.questions = 0
        """How often it has asked the engine for news."""
        self.failure_of_news: DurusError | None = None

    def load(self, oid: bytes) -> bytes:
        if oid not in self.engine.rows:
            raise DurusKeyError(oid)
        tid, record = self.engine.rows[oid]
        if tid > self.seen:
            raise ReadConflictError([oid])
        return record

    def has_record(self, oid: bytes) -> bool:
        return oid in self.engine.rows

    def begin(self) -> None:
        pass

    def new_oid(self) -> bytes:
        self.engine.next_oid += 1
        return oid_from_int(self.engine.next_oid - 1)

    def get_packer(self) -> Iterator[Progress]:
        return iter(())

    def group_storage(self) -> "EngineStorage":
        return self

    def take_news(self) -> GroupNews:
        self.questions += 1
        if self.failure_of_news is not None:
            raise self.failure_of_news
        if self.under_way is not None and self.under_way.tid and self.engine.tid >= self.under_way.tid:
            return GroupNews(is_complete=False)
        changed = self.engine.changed_after(self.seen)
        self.seen = self.engine.tid
        return GroupNews(is_complete=True, changed=sorted(changed))

    def stage(self, members: list[Member]) -> EngineWrite:
        self.under_way = EngineWrite(self, members)
        return self.under_way

    def take_snapshot(self) -> GroupSnapshot:
        rows = {oid: record for oid, (_, record) in self.engine.rows.items()}
        return GroupSnapshot(EngineState(rows), sorted(self.engine.changed_after(self.seen)))

    def keep_snapshots(self, held: Collection[HeldState]) -> None:
        pass

    def gen_pack(self) -> Generator[Progress, None, None]:
        yield from ()

    def break_off_pack(self) -> None:
        pass

    def start_anew(self) -> None:
        if self.under_way is not None and self.engine.holder is self.under_way:
            self.engine.holder = None
        self.under_way = None
