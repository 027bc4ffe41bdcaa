"""The session core's rules, one at a time; tests/model has them in any order."""

import functools
from collections.abc import Callable, Collection, Iterator

import pytest

from durus.error import (
    DurusError,
    DurusKeyError,
    InterruptedTransactionError,
    LimitError,
    ProtocolError,
    ReadonlyError,
    TransactionError,
    WriteConflictError,
)
from durus.oid import ROOT_OID
from durus.progress import Progress
from durus.records.record import pack_record
from durus.sharing import session as session_module
from durus.sharing.session import Session, SessionCore
from durus.storage import EMPTY_COMMIT, MemoryStorage, StagedCommit
from tests.interrupts import each_line


def record(oid: bytes, *refs: bytes, data: bytes = b"data") -> bytes:
    return pack_record(oid, data, b"".join(sorted(refs)))


class Attempt:
    """A commit in progress: what the core has reported about it so far."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.invalid: list[bytes] | None = None
        self.outcomes: list[DurusError | None] = []
        session.begin_commit(self._granted)

    def _granted(self, invalid: list[bytes] | None) -> None:
        self.invalid = invalid

    def give(self, *records: bytes) -> None:
        self.session.commit({each[:8]: each for each in records}, self.outcomes.append)


@pytest.fixture
def core() -> SessionCore:
    return SessionCore(MemoryStorage())


def write_all(core: SessionCore) -> None:
    write = core.begin_write()
    write.write()
    write.finish(None)


def store(core: SessionCore, session: Session, *records: bytes) -> None:
    attempt = Attempt(session)
    attempt.give(*records)
    if core.has_ready_commits:
        write_all(core)
    assert attempt.outcomes == [None]


@pytest.mark.spec("TXN-21")
def test_turns_come_in_the_order_in_which_they_were_asked_for(core: SessionCore) -> None:
    first, second, third = (Attempt(core.connect()) for _ in range(3))
    assert (first.invalid, second.invalid, third.invalid) == ([], None, None)
    second.session.give_up_commit()
    first.give()
    assert (second.invalid, third.invalid) == (None, [])
    with pytest.raises(ProtocolError, match="out of turn"):
        first.give()
    assert core.turn is third.session


def test_a_client_that_has_asked_for_its_turn_cannot_ask_again(core: SessionCore) -> None:
    first, second = Attempt(core.connect()), Attempt(core.connect())
    for each in first, second:
        with pytest.raises(ProtocolError, match="twice"):
            each.session.begin_commit(lambda invalid: None)
    first.give()
    assert second.invalid == []


class WholeCommit:
    """A commit that arrives as a whole, and what the core has reported about it."""

    def __init__(self, session: Session, serial: int, accessed: set[bytes] | None, *records: bytes) -> None:
        self.outcomes: list[tuple[list[bytes] | None, DurusError | None]] = []
        session.commit_whole(serial, accessed, {each[:8]: each for each in records}, self._done)

    def _done(self, invalid: Collection[bytes] | None, error: DurusError | None) -> None:
        self.outcomes.append((None if invalid is None else list(invalid), error))

    def is_conflict(self) -> bool:
        return [type(error) for _, error in self.outcomes] == [WriteConflictError]


@pytest.mark.spec("TXN-47")
def test_a_whole_commit_is_compared_with_what_has_changed_since_its_serial(core: SessionCore) -> None:
    first, second = core.connect(), core.connect()
    store(core, first, record(*first.new_oids(1)))
    second.sync()
    before = second.serial
    store(core, first, record(ROOT_OID, data=b"first"))
    second.sync()
    assert WholeCommit(second, before, {ROOT_OID}, record(ROOT_OID)).is_conflict()
    accepted = WholeCommit(second, second.serial, {ROOT_OID}, record(ROOT_OID, data=b"second"))
    write_all(core)
    assert accepted.outcomes == [([], None)]
    assert first.load(ROOT_OID) is None
    with pytest.raises(ProtocolError, match="does not exist yet"):
        WholeCommit(first, second.serial + 2, {ROOT_OID}, record(ROOT_OID))


@pytest.mark.spec("TXN-21", "TXN-47")
def test_a_whole_commit_that_does_not_say_what_it_has_accessed_needs_a_turn(core: SessionCore) -> None:
    session = core.connect()
    new = record(*session.new_oids(1))
    with pytest.raises(ProtocolError, match="out of turn"):
        WholeCommit(session, session.serial, None, new)
    Attempt(session)
    accepted = WholeCommit(session, session.serial, None, new)
    write_all(core)
    assert accepted.outcomes == [([], None)]
    Attempt(session)
    core.start_anew(is_write_lost=False)
    assert WholeCommit(session, 0, None, new).is_conflict()


@pytest.mark.spec("TXN-20", "TXN-22")
def test_oids_are_invalid_from_the_moment_at_which_a_commit_is_taken(core: SessionCore) -> None:
    writer, reader = core.connect(), core.connect()
    attempt = Attempt(writer)
    waiting = Attempt(reader)
    attempt.give(record(*writer.new_oids(1)))
    assert waiting.invalid == [ROOT_OID]
    assert attempt.outcomes == []
    assert writer.sync() == []


@pytest.mark.spec("TXN-23")
def test_who_has_synced_waits_for_the_disk_and_who_has_not_is_told_that_it_is_invalid(core: SessionCore) -> None:
    writer, reader = core.connect(), core.connect()
    Attempt(writer).give(record(*writer.new_oids(1)))
    assert not reader.must_wait(ROOT_OID)
    assert reader.load(ROOT_OID) is None
    reader.sync()
    assert reader.must_wait(ROOT_OID)
    proceeded: list[bool] = []
    core.when_written(lambda: proceeded.append(True))
    write = core.begin_write()
    assert reader.must_wait(ROOT_OID)
    write.write()
    write.finish(None)
    assert proceeded == [True]
    assert not reader.must_wait(ROOT_OID)
    assert reader.load(ROOT_OID) == record(ROOT_OID)


@pytest.mark.spec("TXN-22")
def test_a_failed_write_is_told_to_all_whose_commits_were_in_it(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = core.connect(), core.connect()
    oids = one.new_oids(2)
    first, second = Attempt(one), Attempt(two)
    first.give(record(oids[0]), record(oids[1]))
    second.give(record(*two.new_oids(1), oids[1]))
    error = DurusError("the disk is gone")
    with monkeypatch.context() as broken:
        broken.setattr(core.storage, "stage_commit", lambda records: EMPTY_COMMIT)
        core.begin_write().finish(error)
    assert first.outcomes == second.outcomes == [error]
    assert not one.must_wait(oids[0])
    with pytest.raises(DurusKeyError):
        one.load(oids[0])
    store(core, one, record(oids[0]), record(oids[1]))


@pytest.mark.spec("TXN-24")
def test_an_oid_is_for_the_client_that_it_was_given_to(core: SessionCore) -> None:
    owner, thief = core.connect(), core.connect()
    store(core, owner, record(*owner.new_oids(1)))
    (oid,) = owner.new_oids(1)
    with pytest.raises(ProtocolError, match="oid 1, which this client was not given"):
        Attempt(thief).give(record(oid))
    assert core.turn is None
    store(core, owner, record(oid))
    store(core, thief, record(oid, data=b"changed"))


@pytest.mark.spec("TXN-24")
def test_a_root_by_a_client_that_knows_of_one_which_is_being_written_is_a_conflict(core: SessionCore) -> None:
    one, two = core.connect(), core.connect()
    assert one.new_oids(1) == two.new_oids(1) == [ROOT_OID]
    first = Attempt(one)
    first.give(record(ROOT_OID))
    assert core.has_ready_commits
    assert two.sync() == [ROOT_OID]
    second = Attempt(two)
    second.give(record(ROOT_OID))
    assert [type(each) for each in second.outcomes] == [WriteConflictError]
    write_all(core)
    assert first.outcomes == [None]
    store(core, two, record(ROOT_OID))


@pytest.mark.spec("TXN-24")
def test_the_root_is_of_who_commits_it_first(core: SessionCore) -> None:
    first, second, third = core.connect(), core.connect(), core.connect()
    assert first.new_oids(1) == second.new_oids(1) == third.new_oids(1) == [ROOT_OID]
    assert first.new_oids(1) != [ROOT_OID]
    store(core, first, record(ROOT_OID))
    late = Attempt(second)
    late.give(record(ROOT_OID, data=b"late"))
    assert isinstance(late.outcomes[0], WriteConflictError)
    store(core, second, record(ROOT_OID, data=b"it knows of the root now"))
    third.sync()
    store(core, third, record(ROOT_OID, data=b"so does this"))


@pytest.mark.spec("TXN-24")
def test_a_commit_that_is_refused_as_a_whole_tells_its_client_of_the_root(core: SessionCore) -> None:
    first, second = core.connect(), core.connect()
    assert first.new_oids(1) == second.new_oids(1) == [ROOT_OID]
    store(core, first, record(ROOT_OID))
    outcomes: list[DurusError | None] = []
    for data in (b"late", b"it knows of the root now"):
        records = {ROOT_OID: record(ROOT_OID, data=data)}
        second.commit_whole(second.serial, {ROOT_OID}, records, lambda invalid, error: outcomes.append(error))
    write_all(core)
    refused, stored = outcomes
    assert isinstance(refused, WriteConflictError)
    assert stored is None


@pytest.mark.spec("TXN-24")
def test_an_oid_is_nobody_elses_while_its_first_record_is_on_its_way(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, thief = core.connect(), core.connect()
    store(core, owner, record(*owner.new_oids(1)))
    (oid,) = owner.new_oids(1)
    first = Attempt(owner)
    first.give(record(oid))
    with pytest.raises(ProtocolError, match="oid 1, which this client was not given"):
        Attempt(thief).give(record(oid))
    monkeypatch.setattr(core.storage, "stage_commit", lambda records: EMPTY_COMMIT)
    core.begin_write().finish(DurusError("the disk is gone"))
    assert not core.has_ready_commits
    assert not core.has_record(oid)


@pytest.mark.spec("TXN-24")
def test_who_gives_up_a_commit_knows_of_the_root_if_it_had_its_turn(core: SessionCore) -> None:
    first, second, third = core.connect(), core.connect(), core.connect()
    assert first.new_oids(1) == second.new_oids(1) == third.new_oids(1) == [ROOT_OID]
    given = Attempt(first)
    waiting = Attempt(third)
    third.give_up_commit()
    given.give(record(ROOT_OID))
    write_all(core)
    assert waiting.invalid is None
    Attempt(second)
    second.give_up_commit()
    store(core, second, record(ROOT_OID, data=b"it knows of the root now"))
    late = Attempt(third)
    late.give(record(ROOT_OID, data=b"late"))
    assert isinstance(late.outcomes[0], WriteConflictError)


@pytest.mark.spec("TXN-25")
@pytest.mark.parametrize("needs", ["refers to", "stores"])
def test_a_commit_that_waits_for_the_disk_is_a_conflict_if_a_pack_removes_what_it_needs(
    core: SessionCore, needs: str
) -> None:
    session, other = core.connect(), core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    needing, not_needing = Attempt(session), Attempt(other)
    needing.give(record(root, garbage) if needs == "refers to" else record(garbage))
    not_needing.give(record(other.new_oids(1)[0]))
    for _ in core.gen_pack():
        pass
    assert isinstance(needing.outcomes[0], WriteConflictError)
    assert needing.outcomes[0].oids == [garbage]
    write_all(core)
    assert not_needing.outcomes == [None]


@pytest.mark.spec("TXN-25")
def test_what_a_pack_removed_is_invalid_though_it_ended_in_an_error(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))

    def failing_packer() -> Iterator[Progress]:
        yield from MemoryStorage.get_packer(core.storage)  # type: ignore[arg-type]  # it is one
        raise DurusError("the directory could not be synced")

    monkeypatch.setattr(core.storage, "get_packer", failing_packer)
    with pytest.raises(DurusError):
        for _ in core.gen_pack():
            pass
    assert session.sync() == [garbage]


def test_a_commit_that_waits_for_the_disk_can_be_taken_back(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    attempt = Attempt(session)
    attempt.give(record(*session.new_oids(1)))
    assert session.withdraw_commit()
    assert session.withdraw_commit() is False
    assert not core.has_ready_commits
    assert not core.has_record(ROOT_OID)
    other.sync()
    assert not other.must_wait(ROOT_OID)
    store(core, session, record(ROOT_OID))


@pytest.mark.spec("TXN-25")
def test_a_commit_of_what_a_pack_removed_during_its_turn_is_a_conflict(core: SessionCore) -> None:
    session = core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    attempt = Attempt(session)
    for _ in core.gen_pack():
        pass
    attempt.give(record(garbage, data=b"changed"))
    assert isinstance(attempt.outcomes[0], WriteConflictError)
    assert attempt.outcomes[0].oids == [garbage]


@pytest.mark.spec("TXN-27")
def test_a_taken_commit_is_stored_though_its_client_has_gone(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    Attempt(session).give(record(*session.new_oids(1)))
    session.close()
    write_all(core)
    assert other.sync() == [ROOT_OID]
    assert other.load(ROOT_OID) == record(ROOT_OID)


@pytest.mark.spec("TXN-25")
def test_however_many_commits_wait_for_the_disk_each_is_told_what_it_lost(core: SessionCore) -> None:
    first = core.connect()
    root, garbage = first.new_oids(2)
    store(core, first, record(root), record(garbage))
    attempts = []
    for _ in range(1200):
        session = core.connect()
        session.sync()
        attempts.append(Attempt(session))
        attempts[-1].give(record(*session.new_oids(1), garbage))
    for _ in core.gen_pack():
        pass
    assert all(isinstance(each.outcomes[0], WriteConflictError) for each in attempts)
    assert not core.has_ready_commits


@pytest.mark.spec("TXN-24")
def test_a_client_may_have_just_so_many_unused_oids(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_module.MAX_UNUSED_OIDS == 1 << 24
    monkeypatch.setattr(session_module, "MAX_UNUSED_OIDS", 5)
    session = core.connect()
    oids = session.new_oids(2) + session.new_oids(3)
    assert len(set(oids)) == 5
    for _ in range(2):
        with pytest.raises(LimitError, match="more than 5 oids"):
            session.new_oids(1)
    store(core, session, record(oids[0]), record(oids[3]))
    oids += session.new_oids(2)
    with pytest.raises(LimitError, match="more than 5 oids"):
        session.new_oids(1)
    store(core, session, record(oids[0], data=b"used twice counts once"))
    with pytest.raises(LimitError, match="more than 5 oids"):
        session.new_oids(1)
    assert session.new_oids(0) == []
    assert len(set(oids)) == 7


@pytest.mark.spec("TXN-24")
def test_of_thousands_of_oids_each_is_for_one_client_only(core: SessionCore) -> None:
    one, two = core.connect(), core.connect()
    given: dict[Session, list[bytes]] = {one: one.new_oids(1), two: []}
    store(core, one, record(ROOT_OID))
    two.sync()
    for number in range(1500):
        for session, oids in given.items():
            oids += session.new_oids(1 + number % 2)
    for session, others in (one, given[two]), (two, given[one][1:]):
        for oid in others:
            with pytest.raises(ProtocolError, match="not given"):
                Attempt(session).give(record(oid))
    for session, oids in given.items():
        store(core, session, *(record(oid) for oid in oids))


@pytest.mark.spec("TXN-22")
def test_commits_that_come_during_a_write_wait_for_the_next(core: SessionCore) -> None:
    one, two = core.connect(), core.connect()
    assert not core.has_ready_commits
    assert not core.is_writing
    first = Attempt(one)
    first.give(record(*one.new_oids(1)))
    assert core.has_ready_commits
    write = core.begin_write()
    assert core.is_writing
    second = Attempt(two)
    (oid,) = two.new_oids(1)
    second.give(record(oid))
    assert not core.has_ready_commits
    write.write()
    write.finish(None)
    assert (first.outcomes, second.outcomes) == ([None], [])
    assert core.has_ready_commits
    assert not core.is_writing
    assert core.is_undurable(oid)
    write_all(core)
    assert second.outcomes == [None]
    assert not core.is_undurable(oid)


@pytest.mark.spec("TXN-23")
def test_oid_is_undurable_until_each_commit_that_writes_it_is_over(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    (root,) = session.new_oids(1)
    Attempt(session).give(record(root))
    write = core.begin_write()
    other.sync()
    Attempt(other).give(record(root, data=b"second"))
    proceeded: list[str] = []
    core.when_written(lambda: proceeded.append("first"))
    write.write()
    write.finish(None)
    core.when_written(lambda: proceeded.append("second"))
    assert core.is_undurable(root)
    write_all(core)
    assert proceeded == ["first", "second"]
    assert not core.is_undurable(root)
    assert session.load(root) is None
    assert other.load(root) == record(root, data=b"second")


@pytest.mark.spec("TXN-22")
def test_storage_that_refuses_commits_fails_all_that_were_ready(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = core.connect()
    attempt = Attempt(session)
    attempt.give(record(*session.new_oids(1)))
    error = DurusError("no more")

    def refuse(records: object) -> StagedCommit:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(core.storage, "stage_commit", refuse)
        write = core.begin_write()
    with pytest.raises(DurusError) as caught:
        write.write()
    assert caught.value is error
    write.finish(error)
    assert attempt.outcomes == [error]
    assert not core.has_record(ROOT_OID)


@pytest.mark.spec("TXN-22")
def test_write_that_can_not_be_accepted_fails_its_commits(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = core.connect()
    attempt = Attempt(session)
    attempt.give(record(*session.new_oids(1)))
    error = DurusError("not accepted")

    def refuse() -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(core.storage, "stage_commit", lambda records: StagedCommit(lambda: None, refuse))
        write_all(core)
    assert attempt.outcomes == [error]
    assert not core.is_writing


@pytest.mark.spec("TXN-10")
def test_commit_that_refers_to_what_has_no_record_is_a_conflict(core: SessionCore) -> None:
    session = core.connect()
    root, one, two = session.new_oids(3)
    attempt = Attempt(session)
    attempt.give(record(root, one, two), record(two))
    assert isinstance(attempt.outcomes[0], WriteConflictError)
    assert attempt.outcomes[0].oids == [one]
    assert core.turn is None
    store(core, session, record(root, one), record(one))


@pytest.mark.spec("TXN-21")
def test_records_that_are_given_one_by_one_are_one_commit(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    root, one = session.new_oids(2)
    with pytest.raises(ProtocolError, match="out of turn"):
        session.store(root, record(root))
    attempt = Attempt(session)
    waiting = Attempt(other)
    session.store(root, record(root, one))
    session.store(one, record(one))
    attempt.give()
    assert waiting.invalid == [root, one]
    write_all(core)
    assert attempt.outcomes == [None]


@pytest.mark.spec("TXN-21")
def test_record_that_is_refused_ends_the_turn(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    root, one = session.new_oids(2)
    for wrong in (root, record(root)), (one, record(root)):
        attempt = Attempt(session)
        waiting = Attempt(other)
        session.store(root, record(root))
        with pytest.raises(DurusError):
            session.store(*wrong)
        assert core.turn is other
        assert waiting.invalid == []
        other.give_up_commit()
        assert attempt.outcomes == []
    store(core, session, record(root))


@pytest.mark.spec("TXN-21")
def test_client_that_goes_gives_up_its_turn_and_its_place_in_the_queue(core: SessionCore) -> None:
    first, second, third = (Attempt(core.connect()) for _ in range(3))
    second.session.close()
    first.session.close()
    assert core.turn is third.session
    assert second.invalid is None
    assert third.invalid == []


@pytest.mark.spec("TXN-25")
def test_pack_does_no_step_while_commits_are_written(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    other.sync()
    Attempt(session).give(record(root, data=b"changed"))
    write = core.begin_write()
    pack = core.gen_pack()
    for _ in range(5):
        assert next(pack) == Progress("mark", 0, None)
    assert core.storage.has_record(garbage)
    write.write()
    write.finish(None)
    for _ in pack:
        pass
    assert not core.storage.has_record(garbage)
    assert (session.sync(), other.sync()) == ([garbage], [root, garbage])


@pytest.mark.spec("TXN-25")
def test_commit_is_a_conflict_if_a_pack_removes_what_it_refers_to_during_its_turn(core: SessionCore) -> None:
    session = core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    attempt = Attempt(session)
    session.store(root, record(root, garbage))
    for _ in core.gen_pack():
        pass
    attempt.give()
    assert isinstance(attempt.outcomes[0], WriteConflictError)
    assert attempt.outcomes[0].oids == [garbage]
    store(core, session, record(root, data=b"without it"))


@pytest.mark.spec("TXN-25")
def test_who_refers_to_a_commit_that_fails_fails_with_it(core: SessionCore) -> None:
    sessions = [core.connect() for _ in range(4)]
    root, *oids = sessions[0].new_oids(5)
    store(core, sessions[0], record(root))
    for session in sessions:
        session.sync()
    mine = [session.new_oids(1)[0] for session in sessions]
    attempts = []
    for number, session in enumerate(sessions[:3]):
        attempts.append(Attempt(session))
        attempts[-1].give(record(mine[number], *mine[number - 1 : number]) if number else record(mine[0]))
    independent = Attempt(sessions[3])
    independent.give(record(mine[3]))
    assert sessions[0].withdraw_commit()
    assert [type(each.outcomes[0]) for each in attempts] == [TransactionError, WriteConflictError, WriteConflictError]
    assert [each.outcomes[0].oids for each in attempts[1:] if isinstance(each.outcomes[0], WriteConflictError)] == [
        [mine[0]],
        [mine[1]],
    ]
    write_all(core)
    assert independent.outcomes == [None]
    assert not any(map(core.has_record, [*mine[:3], *oids]))


@pytest.mark.spec("TXN-25")
def test_what_a_step_of_a_pack_removed_is_invalid_when_the_step_is_over(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    ended: list[bool] = []

    def packer() -> Iterator[Progress]:
        try:
            yield Progress("mark", 1, 2)
            yield from MemoryStorage.get_packer(core.storage)  # type: ignore[arg-type]  # it is one
            yield Progress("copy", 2, 2)
        finally:
            ended.append(True)

    steps = packer()  # which lives on here, and so is not closed by being let go of
    monkeypatch.setattr(core.storage, "get_packer", lambda: steps)
    pack = core.gen_pack()
    assert next(pack) == Progress("mark", 1, 2)
    assert session.invalid == set()
    for step in pack:
        if step == Progress("copy", 2, 2):
            break
    assert session.invalid == {garbage}
    assert ended == []
    pack.close()
    assert ended == [True]


@pytest.mark.spec("TXN-20")
def test_client_that_has_gone_is_told_of_nothing_more(core: SessionCore) -> None:
    gone, writer = core.connect(), core.connect()
    gone.close()
    store(core, writer, record(*writer.new_oids(1)))
    assert gone.invalid == set()


@pytest.mark.spec("TXN-25")
def test_commit_is_a_conflict_if_a_pack_removes_what_it_stores_during_its_turn(core: SessionCore) -> None:
    session, other = core.connect(), core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    attempt = Attempt(session)
    (new,) = session.new_oids(1)
    for each in record(root), record(garbage, data=b"changed"), record(new):
        session.store(each[:8], each)
    for _ in core.gen_pack():
        pass
    attempt.give()
    assert isinstance(attempt.outcomes[0], WriteConflictError)
    assert attempt.outcomes[0].oids == [garbage]
    assert not core.has_ready_commits
    store(core, other, record(root, data=b"changed"))


@pytest.mark.spec("TXN-25")
def test_commit_of_what_a_pack_kept_during_its_turn_is_no_conflict(core: SessionCore) -> None:
    session = core.connect()
    root, garbage = session.new_oids(2)
    store(core, session, record(root), record(garbage))
    attempt = Attempt(session)
    (new,) = session.new_oids(1)
    for each in record(root, new), record(new):
        session.store(each[:8], each)
    for _ in core.gen_pack():
        pass
    attempt.give()
    write_all(core)
    assert attempt.outcomes == [None]


@pytest.mark.spec("TXN-21")
def test_commit_without_a_record_is_over_at_once(core: SessionCore) -> None:
    attempt = Attempt(core.connect())
    attempt.give()
    assert attempt.outcomes == [None]
    assert core.turn is None
    assert not core.has_ready_commits


@pytest.mark.spec("TXN-21")
def test_no_turn_is_given_where_the_storage_takes_no_commits(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ReadonlyError("this storage is open for reading only")

    monkeypatch.setattr(core.storage, "begin", refuse)
    with pytest.raises(ReadonlyError):
        Attempt(core.connect())
    assert core.turn is None


@pytest.mark.spec("TXN-31")
def test_the_outcome_of_a_commit_whose_write_was_lost_with_its_thread_is_unknown(core: SessionCore) -> None:
    sessions = [core.connect() for _ in range(2)]
    attempts = []
    for session in sessions:
        attempts.append(Attempt(session))
        attempts[-1].give(record(*session.new_oids(1)))
        if len(attempts) == 1:
            core.begin_write()
    core.start_anew(is_write_lost=True)
    core.start_anew(is_write_lost=False)
    (first,), second = attempts[0].outcomes, attempts[1].outcomes
    assert isinstance(first, InterruptedTransactionError)
    assert all(isinstance(each, WriteConflictError) for each in second)


@pytest.mark.spec("TXN-31")
def test_the_outcome_of_a_stored_commit_is_no_conflict_if_the_end_of_its_write_was_interrupted(
    core: SessionCore,
) -> None:
    told: list[DurusError | None] = []

    def interrupted_once(outcome: DurusError | None) -> None:
        told.append(outcome)
        if len(told) == 1:
            raise KeyboardInterrupt

    first = core.connect()
    first.begin_commit(lambda invalid: None)
    (oid,) = first.new_oids(1)
    first.commit({oid: record(oid)}, interrupted_once)
    session = core.connect()
    second = Attempt(session)
    second.give(record(*session.new_oids(1)))
    write = core.begin_write()
    write.write()
    with pytest.raises(KeyboardInterrupt):
        write.finish(None)
    core.start_anew(core.is_writing)
    (outcome,) = second.outcomes
    assert isinstance(outcome, InterruptedTransactionError)


@pytest.mark.spec("TXN-47")
def test_one_client_may_hold_all_that_may_be_held(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_module.MAX_WAITING == 1 << 30
    monkeypatch.setattr(session_module, "MAX_WAITING", 100)
    first, second = core.connect(), core.connect()
    assert first.hold(101)
    assert not second.hold(1)
    assert first.held_bytes == 101
    first.release_bytes()
    assert first.held_bytes == 0
    assert second.hold(60)
    assert first.hold(40)
    assert not first.hold(1)
    first.close()
    assert second.hold(40)


@pytest.mark.spec("TXN-82")
def test_a_conflict_names_who_has_changed_an_oid_last(core: SessionCore) -> None:
    named, nameless = core.connect("tester"), core.connect()
    (oid,) = named.new_oids(1)
    assert nameless.describe_changes([oid]) == ""
    store(core, named, record(oid))
    assert nameless.describe_changes([oid]) == "changed 0 s ago by tester"
    store(core, nameless, record(oid))
    assert named.describe_changes([oid]) == "changed 0 s ago by another client"
    assert named.describe_changes([]) == ""


@pytest.mark.spec("TXN-25")
def test_a_pack_makes_no_step_while_commits_are_written(core: SessionCore) -> None:
    session = core.connect()
    (oid,) = session.new_oids(1)
    store(core, session, record(oid))
    steps = core.gen_pack()
    progress = next(steps)
    Attempt(session).give(record(oid))
    write = core.begin_write()
    assert next(steps) is progress
    assert next(steps) is progress
    write.write()
    write.finish(None)
    assert progress not in list(steps)


@pytest.mark.spec("TXN-31")
def test_all_who_wait_are_told_wherever_the_start_anew_is_interrupted() -> None:
    told: list[list[object]] = []
    cores: list[SessionCore] = []

    def wait() -> Callable[[], None]:
        core = SessionCore(MemoryStorage())
        cores[:] = [core]
        told[:] = [[], [], [], []]
        queued, first, second = core.connect(), core.connect(), core.connect()
        queued.begin_commit(lambda invalid: None)
        queued.commit({oid: record(oid) for oid in queued.new_oids(1)}, told[0].append)
        first.begin_commit(lambda invalid: None)
        second.begin_commit(lambda invalid: None, functools.partial(told[1].append, None))
        core.when_written(functools.partial(told[2].append, None))
        core.when_fresh(told[3].append)
        assert not any(told)
        return functools.partial(core.start_anew, is_write_lost=False)

    for where in each_line(wait):
        cores[0].start_anew(is_write_lost=False)
        assert all(told), where


@pytest.mark.spec("TXN-31")
def test_a_core_that_starts_anew_tells_all_who_wait_once(core: SessionCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_WAITING", 100)
    first, second = core.connect(), core.connect()
    told: list[str] = []
    for name, session in (("first", first), ("second", second)):
        session.begin_commit(lambda invalid: None, functools.partial(told.append, name))
    core.when_written(lambda: told.append("written"))
    assert first.hold(60)
    for _ in range(2):
        core.start_anew(is_write_lost=False)
    assert sorted(told) == ["first", "second", "written"]
    assert core.turn is None
    assert not first.is_in_line
    assert first.held_bytes == 0
    assert second.hold(101)
    assert (first.sync(), second.sync()) == (None, None)
    attempt = Attempt(second)
    assert attempt.invalid == []
    attempt.give(record(*second.new_oids(1)))
    write_all(core)
    assert attempt.outcomes == [None]


@pytest.mark.spec("TXN-40")
def test_each_commit_of_a_client_that_is_alone_has_a_serial(core: SessionCore) -> None:
    session = core.connect()
    (oid,) = session.new_oids(1)
    for serial in 1, 2:
        store(core, session, record(oid))
        assert session.serial == serial


@pytest.mark.spec("TXN-20", "TXN-25")
def test_a_client_is_told_of_what_a_pack_removed_in_its_turn_and_not_of_its_own_commit(core: SessionCore) -> None:
    session = core.connect()
    kept, removed = session.new_oids(2)
    store(core, session, record(kept), record(removed))
    attempt = Attempt(session)
    core._make_invalid([removed])
    attempt.give(record(kept))
    write_all(core)
    assert attempt.outcomes == [None]
    assert session.sync() == [removed]


@pytest.mark.spec("TXN-62")
def test_a_client_that_is_closed_holds_no_snapshot(core: SessionCore) -> None:
    session = core.connect()
    store(core, session, record(*session.new_oids(1)))
    session.take_snapshot()
    assert session.holds_snapshot
    session.close()
    assert not session.holds_snapshot


@pytest.mark.spec("TXN-31")
def test_to_a_client_that_lost_track_any_oid_may_be_invalid(core: SessionCore) -> None:
    session = core.connect()
    assert session.sync() == []
    session.lose_track()
    assert session.has_lost_track
    assert session.sync() is None
    assert session.sync() == []
