"""What clients have not heard of, kept once for all of them."""

import random

import pytest

from durus.error import TransactionError
from durus.oid import oid_from_int
from durus.records.record import pack_record
from durus.sharing import change_log
from durus.sharing.change_log import ChangeLog, LatestCommits, LogReader
from durus.sharing.protocol import Commit, Load, NewOids, Sync, encode_commit, encode_request
from durus.sharing.session import SessionCore
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryServer

ROOT = bytes(8)


def oids(*numbers: int) -> list[bytes]:
    return [oid_from_int(number) for number in numbers]


@pytest.mark.spec("TXN-40")
@pytest.mark.parametrize("seed", range(20))
def test_the_log_tells_what_changed_after_any_place(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(change_log, "_MAX_MERGED", chance.choice([1, 8, 1000]))
    monkeypatch.setattr(change_log, "_SMALLEST_BY_AGE", chance.choice([1, 64]))
    monkeypatch.setattr(change_log, "_LARGEST_BY_AGE", chance.choice([20, 1000]))
    log = ChangeLog()
    last: dict[int, int] = {}
    for place in range(1, 120):
        changed = chance.sample(range(40), chance.choice([0, 1, 1, 2, 20]))
        log.add(oids(*changed))
        last.update(dict.fromkeys(changed, place))
        since, own = chance.randrange(place + 1), chance.choice([0, chance.randrange(1, place + 1)])
        expected = [number for number in sorted(last) if last[number] > since and last[number] != own]
        assert list(log.changes_after(since, own)) == oids(*expected)
        for number in range(40):
            found = log.changed_after(oid_from_int(number), since)
            assert found == (last.get(number, 0) if last.get(number, 0) > since else 0)


@pytest.mark.spec("TXN-41")
def test_the_log_is_bounded_and_forgets_the_oldest_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert change_log.MAX_CHANGES * 16 == 16 << 20
    monkeypatch.setattr(change_log, "MAX_CHANGES", 100)
    monkeypatch.setattr(change_log, "_MAX_MERGED", 10)
    log = ChangeLog()
    for place in range(1000):
        log.add(oids(place, 5000))
        assert len(log) <= 100
    assert 0 < log.end - log.start <= 100
    assert list(log.changes_after(log.end - 3, 0)) == oids(997, 998, 999, 5000)


@pytest.mark.spec("TXN-40")
def test_many_small_changes_are_few_runs() -> None:
    log = ChangeLog()
    for number in range(5000):
        log.add(oids(number))
    assert len(log._runs) < 20


@pytest.mark.spec("TXN-41")
def test_a_log_that_starts_anew_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "_TRIM_SLACK", 1)
    log = ChangeLog(5)
    reader = LogReader(log)
    log.add(oids(1, 2))
    log.trim(0)
    log.start_anew()
    assert (log.start, log.end, len(log), list(log.changes_after(0, 0))) == (7, 7, 0, [])
    assert reader.has_lost_track
    assert not LogReader(log).has_lost_track
    log.add(oids(1, 2))
    assert log.is_long


@pytest.mark.spec("TXN-40")
def test_a_change_that_no_client_needs_is_counted_only() -> None:
    log = ChangeLog()
    log.skip()
    assert (log.start, log.end) == (1, 1)
    log.add(oids(7))
    log.skip()
    assert (log.start, log.end) == (1, 3)
    assert list(log.changes_after(1, 0)) == oids(7)


@pytest.mark.spec("TXN-40")
def test_a_log_is_trimmed_when_it_has_twice_what_clients_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "_TRIM_SLACK", 10)
    monkeypatch.setattr(change_log, "_MAX_MERGED", 1)
    log = ChangeLog()
    log._trim_at = 10
    for number in range(11):
        assert not log.is_long
        log.add(oids(number))
    assert log.is_long
    log.trim(6)
    assert (log.start, len(log)) == (6, 5)
    assert list(log.changes_after(6, 0)) == oids(*range(6, 11))
    for number in range(15):
        log.add(oids(number))
        assert not log.is_long
    log.add(oids(99))
    assert log.is_long


@pytest.mark.spec("TXN-20", "TXN-40")
def test_a_reader_that_knows_the_first_serial_hears_of_the_next() -> None:
    log = ChangeLog()
    new, synced = LogReader(log), LogReader(log)
    assert synced.take_invalid() == []
    seven, eight = oids(7, 8)
    for reader in new, synced:
        assert not reader.has_lost_track
        assert reader.is_invalid(seven) is False
    log.add([seven])
    for reader in new, synced:
        assert reader.is_invalid(seven)
        assert not reader.is_invalid(eight)
        assert reader.take_invalid() == [seven]


@pytest.mark.spec("TXN-20")
def test_a_reader_goes_back_to_earlier_changes_and_never_to_later_ones() -> None:
    log = ChangeLog()
    reader = LogReader(log)
    first, second = oids(1, 2)
    log.add([first])
    log.add([second])
    assert reader.take_invalid() == [first, second]
    reader.go_back_to(1)
    assert reader.invalid() == [second]
    reader.own_serial = 2
    for later in 1, 2:
        reader.go_back_to(later)
        assert (reader.serial, reader.invalid()) == (1, [])
    reader.go_back_to(0)
    assert reader.invalid() == [first, second]
    reader.lose_track()
    assert reader.has_lost_track


@pytest.mark.spec("TXN-82")
def test_of_the_latest_commits_it_is_known_who_has_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "_REMEMBERED_COMMITS", 2)
    moments = iter([0.0, 1.0, 2.5, 3.0, 4.0, 4.0])
    latest = LatestCommits(lambda: next(moments))
    latest.note(1, "tester")
    latest.note(2, "")
    assert latest.describe(1) == "changed 2.5 s ago by tester"
    assert latest.describe(2) == "changed 2 s ago by another client"
    latest.note(3, "tester")
    assert [latest.describe(serial) for serial in (1, 3, 4)] == ["", "changed 0 s ago by tester", ""]


def commit(core: SessionCore, *numbers: int) -> None:
    session = core.connect()
    session.begin_commit(lambda invalid: None)
    session.commit({oid: pack_record(oid, b"data", b"") for oid in oids(*numbers)}, lambda error: None)
    write = core.begin_write()
    write.write()
    write.finish(None)
    session.close()


@pytest.fixture
def core() -> SessionCore:
    core = SessionCore(MemoryStorage())
    session = core.connect()
    session.new_oids(200)
    session.begin_commit(lambda invalid: None)
    session.commit({oid: pack_record(oid, b"data", b"") for oid in oids(*range(200))}, lambda error: None)
    write = core.begin_write()
    write.write()
    write.finish(None)
    session.close()
    return core


@pytest.mark.spec("TXN-40")
def test_a_commit_is_kept_once_however_many_clients_have_not_heard_of_it(core: SessionCore) -> None:
    silent = [core.connect() for _ in range(100)]
    commit(core, *range(50))
    assert len(core._log) == 50
    assert {len(session.invalid) for session in silent} == {50}


@pytest.mark.spec("TXN-40")
def test_what_all_have_heard_of_is_forgotten_and_nothing_else(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "_MAX_MERGED", 1)
    sessions = [core.connect(), core.connect()]
    for _ in range(5):
        commit(core, *range(100))
    assert len(core._log) == 500
    for _ in range(100):
        assert [session.sync() for session in sessions] == [oids(*range(100))] * 2
        commit(core, *range(100))
    assert len(core._log) <= 300


@pytest.mark.spec("TXN-41")
def test_a_client_that_lost_track_is_told_once_that_any_oid_may_be_invalid(
    core: SessionCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_log, "MAX_CHANGES", 100)
    monkeypatch.setattr(change_log, "_MAX_MERGED", 1)
    idle, other = core.connect(), core.connect()
    commit(core, 199)
    other.sync()
    commit(core, *range(100))
    assert idle.has_lost_track
    assert idle.load(oid_from_int(150)) is None
    assert not idle.must_wait(oid_from_int(150))
    assert idle.sync() is None
    assert idle.sync() == []
    assert idle.load(oid_from_int(150)) is not None
    assert other.sync() == oids(*range(100))


@pytest.mark.spec("TXN-41")
def test_a_client_of_version_1_that_lost_track_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_log, "MAX_CHANGES", 1)
    server = InMemoryServer(MemoryStorage())
    idle, asking, writer = server.connect(), server.connect(), server.connect()
    writer.sendall(encode_request(NewOids(2)))
    writer.sendall(encode_request(Commit()))
    writer.sendall(encode_commit([(oid, pack_record(oid, b"data", b"")) for oid in oids(0, 1)]))
    assert writer.received.endswith(b"O")
    idle.sendall(encode_request(Load(ROOT)))
    assert idle.received == b"I"
    for connection, request in (idle, Sync()), (asking, Commit()):
        connection.sendall(encode_request(request))
        assert connection.is_closed
        assert isinstance(connection.error, TransactionError)
        assert "no longer knows which changes this client has missed" in str(connection.error)
    assert not writer.is_closed
    assert server.core.turn is None


@pytest.mark.spec("TXN-45", "TXN-31")
def test_a_core_that_starts_anew_gives_up_all_that_is_under_way(core: SessionCore) -> None:
    sessions = [core.connect() for _ in range(4)]
    told: list[object] = []
    woken: list[str] = []
    sessions[0].begin_commit(lambda invalid: None)
    sessions[0].commit({oid_from_int(1): pack_record(oid_from_int(1), b"data", b"")}, told.append)
    sessions[1].begin_commit(lambda invalid: None, lambda: woken.append("in turn"))
    sessions[1].store(oid_from_int(2), pack_record(oid_from_int(2), b"data", b""))
    sessions[2].begin_commit(lambda invalid: None, lambda: woken.append("in line"))
    core.when_written(lambda: woken.append("waits for the disk"))
    core.start_anew(is_write_lost=False)
    assert [type(error).__name__ for error in told] == ["WriteConflictError"]
    assert sorted(woken) == ["in line", "in turn", "waits for the disk"]
    assert core.turn is None
    assert not core.has_ready_commits
    assert not core.is_undurable(oid_from_int(1))
    assert [session.sync() for session in sessions] == [None] * 4
    commit(core, 3)
    assert sessions[3].sync() == oids(3)
