"""The session core over an engine that has other clients, too, one rule at a time; the engine is in memory."""

from collections.abc import Callable, Collection

import pytest

from durus.error import (
    ArgumentError,
    DisconnectedError,
    DurusError,
    InterruptedTransactionError,
    LimitError,
    WriteConflictError,
)
from durus.oid import ROOT_OID, oid_from_int
from durus.records.record import pack_record
from durus.sharing.session import Session, SessionCore
from durus.storage import GroupNews, GroupOutcome
from tests.interrupts import each_line
from tests.model.engine import Engine, EngineState, EngineStorage

ONE, TWO, THREE, FOUR = (oid_from_int(number) for number in range(1, 5))


def record(oid: bytes, data: bytes = b"data", refs: bytes = b"") -> bytes:
    return pack_record(oid, data, refs)


@pytest.fixture
def engine() -> Engine:
    engine = Engine(next_oid=4)
    engine.commit({oid: record(oid) for oid in (ROOT_OID, ONE, TWO, THREE)})
    return engine


@pytest.fixture
def storage(engine: Engine) -> EngineStorage:
    return EngineStorage(engine)


@pytest.fixture
def core(storage: EngineStorage) -> SessionCore:
    return SessionCore(storage)


class Whole:
    """A commit that a client sends as a whole: what the core has told of it."""

    def __init__(self, session: Session, accessed: set[bytes] | None, *records: bytes) -> None:
        self.outcomes: list[DurusError | None] = []
        self.invalid: list[bytes] | None = []
        session.commit_whole(session.serial, accessed, {each[:8]: each for each in records}, self._tell)

    def _tell(self, invalid: Collection[bytes] | None, error: DurusError | None) -> None:
        self.invalid = None if invalid is None else list(invalid)
        self.outcomes.append(error)

    @property
    def conflict(self) -> list[bytes]:
        (error,) = self.outcomes
        assert isinstance(error, WriteConflictError), error
        return list(error.oids)


def take_news(core: SessionCore) -> list[DurusError | None]:
    told: list[DurusError | None] = []
    core.when_fresh(told.append)
    core.take_news()
    return told


def write_all(core: SessionCore) -> None:
    write = core.begin_write()
    write.write()
    write.finish(None)


@pytest.mark.spec("PG-63")
def test_no_change_is_told_twice(engine: Engine, core: SessionCore) -> None:
    writer, reader = core.connect(), core.connect()
    Whole(writer, {ONE}, record(ONE, b"a"))
    write = core.begin_write()
    engine.commit({TWO: record(TWO, b"others")})
    assert take_news(core) == [None]
    assert reader.sync() == [ONE, TWO]
    write.write()
    write.finish(None)
    assert reader.sync() == []
    assert reader.load(ONE) == record(ONE, b"a")


@pytest.mark.spec("PG-60")
def test_a_group_has_the_records_of_all_its_members(engine: Engine, core: SessionCore) -> None:
    assert core.has_others
    first, second = Whole(core.connect(), set(), record(ONE, b"a")), Whole(core.connect(), set(), record(TWO, b"bb"))
    write = core.begin_write()
    assert write.size == len(record(ONE, b"a")) + len(record(TWO, b"bb"))
    assert core.is_writing
    write.write()
    assert (first.outcomes, second.outcomes) == ([], [])
    write.finish(None)
    assert (first.outcomes, second.outcomes) == ([None], [None])
    assert not core.is_writing
    assert engine.tid == 2
    assert engine.log[-1] == [{ONE: record(ONE, b"a")}, {TWO: record(TWO, b"bb")}]


@pytest.mark.spec("PG-62")
def test_only_members_that_have_used_what_others_changed_are_refused(engine: Engine, core: SessionCore) -> None:
    reader, writer = core.connect(), core.connect()
    refused = Whole(core.connect(), {THREE}, record(ONE, b"a"))
    stored = Whole(writer, set(), record(TWO, b"b"))
    write = core.begin_write()
    engine.commit({THREE: record(THREE, b"others")})
    write.write()
    write.finish(None)
    assert refused.conflict == [THREE]
    assert stored.outcomes == [None]
    assert reader.sync() == [ONE, TWO, THREE]
    assert set(stored.invalid or ()) == {ONE, THREE}, "all but its own"
    assert writer.sync() == []
    assert reader.load(ONE) == record(ONE)


@pytest.mark.spec("PG-62")
def test_queued_commits_are_compared_with_each_answer(engine: Engine, core: SessionCore) -> None:
    reader = core.connect()
    refused, unknown = Whole(core.connect(), {THREE}, record(ONE)), Whole(core.connect(), set(), record(TWO))
    engine.commit({THREE: record(THREE, b"others")})
    assert take_news(core) == [None]
    assert refused.conflict == [THREE]
    assert unknown.outcomes == []
    assert reader.sync() == [ONE, TWO, THREE]
    write_all(core)
    assert unknown.outcomes == [None]
    assert reader.sync() == []
    assert core.is_undurable(ONE) is False


@pytest.mark.spec("PG-62")
def test_a_turn_ends_when_others_change_anything(engine: Engine, core: SessionCore) -> None:
    session, told = core.connect(), list[DurusError | None]()
    session.begin_commit(lambda invalid: None)
    session.store(ONE, record(ONE, b"a"))
    engine.commit({THREE: record(THREE, b"others")})
    take_news(core)
    session.commit({TWO: record(TWO, b"b")}, told.append)
    assert [type(error) for error in told] == [WriteConflictError]
    assert not core.has_ready_commits


@pytest.mark.spec("PG-64")
def test_an_error_of_the_write_is_told_to_all_members(engine: Engine, core: SessionCore) -> None:
    reader = core.connect()
    members = [Whole(core.connect(), set(), record(oid, b"a")) for oid in (ONE, TWO)]
    write = core.begin_write()
    error = DisconnectedError("a test has cut the connection")
    write.finish(error)
    assert [each.outcomes for each in members] == [[error], [error]]
    assert engine.tid == 1
    assert not core.is_undurable(ONE)
    assert reader.load(THREE) == record(THREE)


@pytest.mark.spec("PG-65")
def test_a_commit_is_told_what_came_before_it(engine: Engine, core: SessionCore) -> None:
    engine.commit({TWO: record(TWO, b"others")})
    stored = Whole(core.connect(), set(), record(ONE, b"a"))
    write_all(core)
    assert stored.outcomes == [None]
    assert stored.invalid == [TWO]


@pytest.mark.spec("PG-62")
def test_the_engine_decides_which_oids_and_references_there_are(core: SessionCore) -> None:
    session = core.connect()
    (new,) = session.new_oids(1)
    stored = Whole(session, set(), record(ONE, b"a", new), record(new))
    write_all(core)
    assert stored.outcomes == [None]
    unknown = Whole(session, set(), record(ONE, b"b", FOUR + oid_from_int(99)))
    write_all(core)
    assert unknown.conflict == [oid_from_int(99)]
    never_given = Whole(session, set(), record(oid_from_int(98)))
    write_all(core)
    assert never_given.conflict == [oid_from_int(98)]


@pytest.mark.spec("PG-62")
def test_the_engine_decides_what_needs_a_member_that_was_refused(engine: Engine, core: SessionCore) -> None:
    session = core.connect()
    (new,) = session.new_oids(1)
    refused = Whole(session, {THREE}, record(ONE, b"a", new), record(new))
    needing = Whole(core.connect(), set(), record(TWO, b"b", new))
    engine.commit({THREE: record(THREE, b"others")})
    take_news(core)
    assert refused.conflict == [THREE]
    assert needing.outcomes == []
    write_all(core)
    assert needing.conflict == [new]


@pytest.mark.spec("PG-61")
def test_all_that_wait_for_news_are_answered_by_one_question(storage: EngineStorage, core: SessionCore) -> None:
    told: list[DurusError | None] = []
    assert not core.is_news_due
    core.when_fresh(told.append)
    core.when_fresh(told.append)
    assert core.is_news_due
    core.take_news()
    assert told == [None, None]
    assert storage.questions == 1
    assert not core.is_news_due


@pytest.mark.spec("PG-61")
def test_an_error_of_the_question_is_told_to_all_that_wait(storage: EngineStorage, core: SessionCore) -> None:
    storage.failure_of_news = DisconnectedError("a test has cut the connection")
    assert take_news(core) == [storage.failure_of_news]
    storage.failure_of_news = None
    assert take_news(core) == [None]


@pytest.mark.spec("TXN-31", "PG-61")
def test_all_that_wait_for_news_are_told_wherever_the_question_is_interrupted(storage: EngineStorage) -> None:
    core = SessionCore(storage)
    told: list[list[DurusError | None]] = []

    def wait_for_news() -> Callable[[], None]:
        told[:] = [], []
        for outcomes in told:
            core.when_fresh(outcomes.append)
        return core.take_news

    for where in each_line(wait_for_news):
        core.start_anew(is_write_lost=False)
        assert all(told), where
        assert not core.is_news_due


@pytest.mark.spec("PG-63")
def test_news_that_show_a_group_on_its_way_wait_for_its_end(core: SessionCore) -> None:
    Whole(core.connect(), set(), record(ONE, b"a"))
    write = core.begin_write()
    write.write()
    told = take_news(core)
    assert told == []
    assert not core.is_news_due
    write.finish(None)
    assert core.is_news_due
    core.take_news()
    assert told == [None]


@pytest.mark.spec("PG-69")
def test_all_lose_track_and_their_oids_when_any_oid_may_have_changed(
    storage: EngineStorage, core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = core.connect(), core.connect()
    session.new_oids(3)
    queued = Whole(session, set(), record(ONE, b"a"))
    monkeypatch.setattr(storage, "take_news", lambda: GroupNews(is_complete=True, changed=None))
    assert take_news(core) == [None]
    assert queued.conflict == [ONE]
    assert queued.invalid is None
    assert other.sync() is None
    assert session._grants.count == 0
    assert session._grants.block_count == 0


@pytest.mark.spec("PG-69")
def test_members_are_told_before_all_lose_track(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Whole(core.connect(), set(), record(ONE, b"a"))
    other = core.connect()
    other.new_oids(1)
    write = core.begin_write()
    refusal = LimitError("no")
    monkeypatch.setattr(write._group, "accept", lambda: GroupOutcome(None, {0: refusal}))  # type: ignore[attr-defined]  # it is of a group
    write.write()
    write.finish(None)
    assert stored.outcomes == [refusal]
    assert other.sync() is None
    assert other._grants.count == 0
    assert not core.is_writing


@pytest.mark.spec("PG-64")
def test_a_write_that_is_lost_with_its_thread_gives_the_lock_back(engine: Engine, core: SessionCore) -> None:
    waiting = list[DurusError | None]()
    commit = Whole(core.connect(), set(), record(ONE, b"a"))
    write = core.begin_write()
    assert write._group.lock()  # type: ignore[attr-defined]  # it is of a group
    core.when_fresh(waiting.append)
    core.start_anew(is_write_lost=True)
    assert engine.holder is None
    assert [type(error) for error in commit.outcomes] == [InterruptedTransactionError]
    assert waiting == [None]
    assert not core.is_writing


@pytest.mark.spec("PG-62", "PG-63", "WIRE-43")
def test_client_is_told_what_others_changed_of_that_which_its_refused_commit_was_to_store(
    engine: Engine, core: SessionCore
) -> None:
    session = core.connect()
    outcomes: list[DurusError | None] = []
    session.begin_commit(lambda invalid: None)
    session.commit({ONE: record(ONE, b"a")}, outcomes.append)
    write = core.begin_write()
    engine.commit({ONE: record(ONE, b"others")})
    take_news(core)
    write.write()
    write.finish(None)
    assert [type(error) for error in outcomes] == [WriteConflictError]
    assert session.sync() == [ONE]


@pytest.mark.spec("PG-66", "TXN-61")
def test_what_a_snapshot_shows_before_the_core_knows_of_it_is_told_now_and_again(
    engine: Engine, core: SessionCore
) -> None:
    reader = core.connect()
    engine.commit({ONE: record(ONE, b"others")})
    assert reader.take_snapshot() == [ONE]
    assert reader.load_from_snapshot(ONE) == record(ONE, b"others")
    engine.commit({TWO: record(TWO, b"others")})
    take_news(core)
    assert reader.load_from_snapshot(TWO) == record(TWO)
    assert reader.sync() == [ONE, TWO]


@pytest.mark.spec("PG-66", "TXN-61")
def test_group_that_is_stored_after_a_snapshot_is_told_again(core: SessionCore) -> None:
    reader = core.connect()
    Whole(core.connect(), set(), record(ONE, b"a"))
    write = core.begin_write()
    assert reader.take_snapshot() == [ONE]
    write.write()
    write.finish(None)
    assert reader.load_from_snapshot(ONE) == record(ONE)
    assert reader.sync() == [ONE]


@pytest.mark.spec("PG-65", "PG-66", "WIRE2-13")
def test_oids_that_others_changed_are_told_in_ascending_order(engine: Engine, core: SessionCore) -> None:
    writer, reader = core.connect(), core.connect()
    Whole(core.connect(), set(), record(THREE, b"a"))
    write_all(core)
    engine.commit({ONE: record(ONE, b"others")})
    assert reader.take_snapshot() == [ONE, THREE]
    stored = Whole(writer, set(), record(TWO, b"b"))
    write_all(core)
    assert stored.outcomes == [None]
    assert stored.invalid == [ONE, THREE]


@pytest.mark.spec("PG-3")
def test_a_storage_with_other_clients_is_shared_only_in_groups(
    storage: EngineStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "group_storage", lambda: None)
    with pytest.raises(ArgumentError, match="has other clients"):
        SessionCore(storage)


@pytest.mark.spec("PG-62")
def test_who_was_told_of_a_queued_commit_is_told_again_after_what_came_first(engine: Engine, core: SessionCore) -> None:
    reader = core.connect()
    Whole(core.connect(), set(), record(ONE, b"a"))
    assert reader.sync() == [ONE]
    engine.commit({TWO: record(TWO, b"others")})
    take_news(core)
    assert reader.sync() == [ONE, TWO]


@pytest.mark.spec("PG-62")
def test_who_was_told_of_a_group_is_told_again_of_what_is_stored_of_it(engine: Engine, core: SessionCore) -> None:
    reader = core.connect()
    Whole(core.connect(), set(), record(ONE, b"a"))
    Whole(core.connect(), {TWO}, record(THREE, b"b"))
    assert reader.sync() == [ONE, THREE]
    write = core.begin_write()
    engine.commit({TWO: record(TWO, b"others")})
    write.write()
    write.finish(None)
    assert reader.sync() == [ONE, TWO]


@pytest.mark.spec("PG-69")
def test_a_group_on_its_way_goes_on_when_all_lose_track(
    storage: EngineStorage, core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Whole(core.connect(), set(), record(ONE, b"a"))
    write = core.begin_write()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "take_news", lambda: GroupNews(is_complete=True, changed=None))
        take_news(core)
    assert stored.outcomes == []
    write.write()
    write.finish(None)
    assert stored.outcomes == [None]


@pytest.mark.spec("TXN-41")
def test_the_log_keeps_only_what_a_client_does_not_know(engine: Engine, core: SessionCore) -> None:
    reader = core.connect()
    for number in range(300):
        engine.commit({oid_from_int(1000 + number): record(oid_from_int(1000 + number))})
        take_news(core)
        reader.sync()
    assert len(core._log) < 200


@pytest.mark.spec("TXN-21", "PG-65")
def test_the_first_commit_of_a_client_may_be_one_in_its_turn(core: SessionCore) -> None:
    session = core.connect()
    session.begin_commit(lambda invalid: None)
    told: list[DurusError | None] = []
    session.commit({TWO: record(TWO, b"b")}, told.append)
    write = core.begin_write()
    write.write()
    write.finish(None)
    assert told == [None]


@pytest.mark.spec("PG-70")
def test_the_engine_is_told_what_a_client_loads_next(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, list[bytes]]] = []

    def note(where: str) -> Callable[[object, list[bytes]], None]:
        return lambda self, oids: told.append((where, oids))

    monkeypatch.setattr(EngineStorage, "expect_loads", note("storage"))
    monkeypatch.setattr(EngineState, "expect_loads", note("snapshot"))
    session = core.connect()
    session.expect_loads([ONE], is_snapshot=False)
    session.expect_loads([TWO], is_snapshot=True)  # it holds none
    session.take_snapshot()
    session.expect_loads([THREE], is_snapshot=True)
    assert told == [("storage", [ONE]), ("snapshot", [THREE])]
