"""The session core's rules, one at a time; tests/model has them in any order."""

from collections.abc import Iterator

import pytest

from durus.error import DurusError, DurusKeyError, ProtocolError, WriteConflictError
from durus.oid import ROOT_OID
from durus.progress import Progress
from durus.record import pack_record
from durus.session import Core, Session
from durus.storage import NOTHING_TO_DO, MemoryStorage


def record(oid: bytes, *refs: bytes, data: bytes = b"data") -> bytes:
    return pack_record(oid, data, b"".join(sorted(refs)))


class Attempt:
    """A commit under way: what the core has told of it so far."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.invalid: list[bytes] | None = None
        self.outcomes: list[DurusError | None] = []
        session.begin_commit(self._granted)

    def _granted(self, invalid: list[bytes]) -> None:
        self.invalid = invalid

    def give(self, *records: bytes) -> None:
        self.session.commit({each[:8]: each for each in records}, self.outcomes.append)


@pytest.fixture
def core() -> Core:
    return Core(MemoryStorage())


def write_all(core: Core) -> None:
    write = core.begin_write()
    write.write()
    write.finish(None)


def store(core: Core, session: Session, *records: bytes) -> None:
    attempt = Attempt(session)
    attempt.give(*records)
    if core.has_ready_commits:
        write_all(core)
    assert attempt.outcomes == [None]


@pytest.mark.spec("TXN-21")
def test_turns_come_in_the_order_in_which_they_were_asked_for(core: Core) -> None:
    first, second, third = (Attempt(core.connect()) for _ in range(3))
    assert (first.invalid, second.invalid, third.invalid) == ([], None, None)
    second.session.give_up_commit()
    first.give()
    assert (second.invalid, third.invalid) == (None, [])
    with pytest.raises(ProtocolError, match="out of turn"):
        first.give()
    assert core.turn is third.session


@pytest.mark.spec("TXN-20", "TXN-22")
def test_oids_are_invalid_from_the_moment_at_which_a_commit_is_taken(core: Core) -> None:
    writer, reader = core.connect(), core.connect()
    attempt = Attempt(writer)
    waiting = Attempt(reader)
    attempt.give(record(*writer.new_oids(1)))
    assert waiting.invalid == [ROOT_OID]
    assert attempt.outcomes == []
    assert writer.sync() == []


@pytest.mark.spec("TXN-23")
def test_who_has_synced_waits_for_the_disk_and_who_has_not_is_told_that_it_is_invalid(core: Core) -> None:
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
def test_a_failed_write_is_told_to_all_whose_commits_were_in_it(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = core.connect(), core.connect()
    oids = one.new_oids(2)
    first, second = Attempt(one), Attempt(two)
    first.give(record(oids[0]), record(oids[1]))
    second.give(record(*two.new_oids(1), oids[1]))
    error = DurusError("the disk is gone")
    with monkeypatch.context() as broken:
        broken.setattr(core.storage, "conclude", lambda records: NOTHING_TO_DO)
        core.begin_write().finish(error)
    assert first.outcomes == second.outcomes == [error]
    assert not one.must_wait(oids[0])
    with pytest.raises(DurusKeyError):
        one.load(oids[0])
    store(core, one, record(oids[0]), record(oids[1]))


@pytest.mark.spec("TXN-24")
def test_an_oid_is_for_the_client_that_it_was_given_to(core: Core) -> None:
    owner, thief = core.connect(), core.connect()
    store(core, owner, record(*owner.new_oids(1)))
    (oid,) = owner.new_oids(1)
    with pytest.raises(ProtocolError, match="oid 1, which was not given"):
        Attempt(thief).give(record(oid))
    assert core.turn is None
    store(core, owner, record(oid))
    store(core, thief, record(oid, data=b"changed"))


@pytest.mark.spec("TXN-24")
def test_the_root_is_of_who_commits_it_first(core: Core) -> None:
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
def test_an_oid_is_nobody_elses_while_its_first_record_is_on_its_way(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, thief = core.connect(), core.connect()
    store(core, owner, record(*owner.new_oids(1)))
    (oid,) = owner.new_oids(1)
    first = Attempt(owner)
    first.give(record(oid))
    with pytest.raises(ProtocolError, match="oid 1, which was not given"):
        Attempt(thief).give(record(oid))
    monkeypatch.setattr(core.storage, "conclude", lambda records: NOTHING_TO_DO)
    core.begin_write().finish(DurusError("the disk is gone"))
    assert not core.has_ready_commits
    assert not core.has_record(oid)


@pytest.mark.spec("TXN-24")
def test_who_gives_up_a_commit_knows_of_the_root_if_it_had_its_turn(core: Core) -> None:
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
def test_a_commit_that_waits_for_the_disk_is_a_conflict_if_a_pack_removes_what_it_needs(core: Core, needs: str) -> None:
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
    core: Core, monkeypatch: pytest.MonkeyPatch
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


def test_a_commit_that_waits_for_the_disk_can_be_taken_back(core: Core) -> None:
    session, other = core.connect(), core.connect()
    attempt = Attempt(session)
    attempt.give(record(*session.new_oids(1)))
    assert session.take_back_commit()
    assert not session.take_back_commit()
    assert not core.has_ready_commits
    assert not core.has_record(ROOT_OID)
    other.sync()
    assert not other.must_wait(ROOT_OID)
    store(core, session, record(ROOT_OID))


@pytest.mark.spec("TXN-25")
def test_a_commit_of_what_a_pack_removed_during_its_turn_is_a_conflict(core: Core) -> None:
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
def test_a_taken_commit_is_stored_though_its_client_has_gone(core: Core) -> None:
    session, other = core.connect(), core.connect()
    Attempt(session).give(record(*session.new_oids(1)))
    session.close()
    write_all(core)
    assert other.sync() == [ROOT_OID]
    assert other.load(ROOT_OID) == record(ROOT_OID)


@pytest.mark.spec("TXN-25")
def test_however_many_commits_wait_for_the_disk_each_is_told_what_it_lost(core: Core) -> None:
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
