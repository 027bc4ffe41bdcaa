"""Commits of a file, the file as it was, histories of objects, and going back. spec/history.md."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durus.btree import BTree
from durus.cli.main import main
from durus.connection import Connection
from durus.error import (
    ArgumentError,
    ClosedError,
    ConflictError,
    DamageError,
    DurusError,
    ReadonlyError,
    StateError,
)
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files.moment import seal_time
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import Commit, MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer
from tests.model.histories import ROOT, UNSEALED_EMPTY_FILE, Item, unsealed_transaction

START = datetime(2026, 1, 2, tzinfo=UTC)


def minute(number: int) -> str:
    return seal_time(START + timedelta(minutes=number))


class Account(Persistent):
    def __init__(self, balance: int) -> None:
        self.balance = balance


class Other(Persistent):
    pass


class Database:
    """A database that is open for writing, with a clock that tells the minutes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.minutes = 0
        self.storage = FileStorage(path, clock=lambda: minute(self.minutes))
        self.connection = Connection(self.storage)
        self.root: Any = self.connection.get_root()

    def commit(self, **values: object) -> None:
        """Commit values of the root, a minute later."""
        self.minutes += 1
        self.root.update(values)
        self.connection.commit()

    def close(self) -> None:
        self.storage.close()

    def at(self, at: Any) -> dict[str, object]:
        return root_of(FileStorage(self.path, at=at))


def root_of(storage: Storage) -> dict[str, object]:
    """Return the contents of the root in a storage, and close the storage."""
    connection = Connection(storage)
    root: Any = connection.get_root()
    values = dict(root)
    storage.close()
    return values


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "f.durus")
    yield database
    database.close()


# Commits


@pytest.mark.spec("HIST-1", "HIST-2", "HIST-6")
def test_commits_have_number_time_place_and_oids(database: Database) -> None:
    size = database.path.stat().st_size
    database.commit(a=1)
    database.commit(b=Account(2))
    made, *commits = database.storage.commits()
    assert (made.number, made.time, made.oids) == (1, minute(0), (bytes(8),))
    assert [(each.number, each.time) for each in commits] == [(2, minute(1)), (3, minute(2))]
    assert [sorted(each.oids) for each in commits] == [[bytes(8)], [bytes(8), oid_from_int(1)]]
    assert commits[0].offset == size == made.offset + made.size
    assert commits[1].offset == commits[0].offset + commits[0].size
    assert commits[1].offset + commits[1].size == database.path.stat().st_size


@pytest.mark.spec("HIST-1", "HIST-2", "HIST-6")
def test_pack_begins_the_numbers_anew_with_what_it_keeps(database: Database) -> None:
    database.commit(a=1)
    database.minutes = 10
    packer = database.storage.get_packer()
    next(packer)
    database.commit(a=2)
    database.minutes = 20
    for _ in packer:
        pass
    database.commit(a=3)
    packed, *commits = database.storage.commits()
    assert (packed.number, packed.time, packed.oids, packed.offset) == (0, minute(10), (), 0)
    assert [(each.number, each.time) for each in commits] == [(1, minute(11)), (2, minute(21))]
    assert [database.at(number)["a"] for number in range(3)] == [1, 2, 3]
    with pytest.raises(ArgumentError, match=r"no commit was made at .* or before; commit 0, .*\.prepack"):
        database.at(minute(9))
    assert root_of(FileStorage(f"{database.path}.prepack", at=minute(9)))["a"] == 1


@pytest.mark.spec("HIST-1", "HIST-2", "HIST-4")
def test_commits_of_4_3_have_the_time_of_the_seal_that_covers_them(tmp_path: Path) -> None:
    path = tmp_path / "f.durus"
    oids = {ROOT: 0}
    values = [unsealed_transaction(oids, {ROOT: Item(text, ())}) for text in (b"a", b"b", b"c")]
    path.write_bytes(UNSEALED_EMPTY_FILE + values[0] + bytes(8) + values[1])
    storage = FileStorage(path, readonly=True)
    assert [(each.number, each.time) for each in storage.commits()] == [(1, None), (2, None)]
    storage.close()
    with pytest.raises(ArgumentError, match="an unknown time"):
        FileStorage(path, at="2030-01-01")
    assert root_of(FileStorage(path, at=1))["text"] == b"a"
    database = Database(path)
    database.commit(text=b"new")
    database.close()
    path.write_bytes(path.read_bytes() + values[2])
    storage = FileStorage(path, readonly=True)
    assert [(each.number, each.time) for each in storage.commits()] == [
        (1, minute(1)),
        (2, minute(1)),
        (3, minute(1)),
        (4, None),
    ]
    storage.close()
    assert [root_of(FileStorage(path, at=number))["text"] for number in range(1, 5)] == [b"a", b"b", b"new", b"c"]
    assert root_of(FileStorage(path, at="2030-01-01"))["text"] == b"new"


@pytest.mark.spec("HIST-3")
def test_commits_that_are_stored_together_are_one(database: Database) -> None:
    database.commit(a=Account(0), b=Account(0))
    shared = SharedStorage(database.storage)
    sessions = [shared._core.connect() for _ in range(2)]
    records = dict(database.storage.gen_oid_record())
    told: list[DurusError | None] = []
    for number, session in enumerate(sessions, 1):
        session.begin_commit(lambda invalid: None)
        session.commit({oid_from_int(number): records[oid_from_int(number)]}, told.append)
    writing = shared._core.begin_write()
    writing.write()
    writing.finish(None)
    assert told == [None, None]
    assert list(database.storage.commits())[-1].oids == (oid_from_int(1), oid_from_int(2))


@pytest.mark.spec("HIST-6")
def test_records_of_a_commit_are_those_that_it_has_stored(database: Database) -> None:
    database.commit(a=Account(1))
    database.commit(b=2)
    database.storage.pack()
    database.commit(c=3)
    for commit in database.storage.commits():
        records = dict(database.storage.records_in(commit))
        assert set(records) == (set(commit.oids) or {bytes(8), oid_from_int(1)})
        for oid, record in records.items():
            assert (commit, record) in list(database.storage.records_of(oid))
    size = database.path.stat().st_size
    for other in (
        Commit(1, None, 30, 100, ()),
        Commit(1, None, size - 18, 18, ()),
    ):  # which ends in the head of an entry
        with pytest.raises(DamageError):
            list(database.storage.records_in(other))


# The file as it was


@pytest.mark.spec("HIST-5")
@pytest.mark.parametrize("seed", range(6))
def test_each_commit_can_be_shown(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    database = Database(tmp_path / "f.durus")
    states: list[tuple[int, dict[str, object]]] = [(0, {})]
    for _ in range(40):
        if chance.random() < 0.1:
            database.minutes += 1
            database.storage.pack()
            states = [(database.minutes, dict(database.root))]
            first = 0
            continue
        if chance.random() < 0.2 and database.root:
            del database.root[chance.choice(list(database.root))]
        database.commit(**{chance.choice("abcd"): chance.randrange(1000)})
        states.append((database.minutes, dict(database.root)))
    first = next(iter(database.storage.commits())).number
    assert [each.time for each in database.storage.commits()] == [minute(time) for time, _ in states]
    for number, (time, state) in enumerate(states, first):
        assert database.at(number) == state
        assert database.at(START + timedelta(minutes=time, seconds=30)) == state
        earlier = database.storage.as_of(number)
        assert root_of(earlier) == state
    database.close()


@pytest.mark.spec("HIST-5")
def test_storage_at_a_commit_only_reads_and_stays_while_others_commit_and_pack(database: Database) -> None:
    database.commit(a=1)
    earlier = FileStorage(database.path, at=2)
    database.commit(a=2)
    database.storage.pack()
    assert [each.number for each in earlier.commits()] == [1, 2]
    connection = Connection(earlier)
    root: Any = connection.get_root()
    assert root["a"] == 1
    root["a"] = 3
    with pytest.raises(ReadonlyError):
        connection.commit()
    earlier.close()
    with pytest.raises(ClosedError):
        earlier.as_of(1)


@pytest.mark.spec("HIST-4")
def test_where_the_clock_went_back_the_order_of_commits_decides(database: Database) -> None:
    for minutes in (5, 60, 6):
        database.minutes = minutes - 1
        database.commit(a=minutes)
    assert [database.at(minute(number))["a"] for number in (5, 6, 59, 60)] == [5, 6, 6, 6]
    assert [database.at(number)["a"] for number in (2, 3, 4)] == [5, 60, 6]


@pytest.mark.spec("HIST-4")
@pytest.mark.parametrize("at", [True, 1.5, b"2026", ["2026"]])
def test_what_is_no_moment_is_refused(database: Database, at: Any) -> None:
    with pytest.raises(ArgumentError, match="at is the number of a commit"):
        FileStorage(database.path, at=at)


@pytest.mark.spec("HIST-4")
@pytest.mark.parametrize("number", [-1, 0, 3])
def test_commit_that_is_not_there_is_told_with_those_that_are(database: Database, number: int) -> None:
    database.commit(a=1)
    with pytest.raises(ArgumentError, match=f"there is no commit {number}; the file has those from 1 to 2"):
        database.at(number)


@pytest.mark.spec("HIST-4")
def test_file_without_commits_is_told(tmp_path: Path) -> None:
    FileStorage(tmp_path / "f.durus").close()
    with pytest.raises(ArgumentError, match="the file has no commits yet"):
        FileStorage(tmp_path / "f.durus", at=1)


def test_file_of_a_moment_is_not_repaired(database: Database) -> None:
    with pytest.raises(ArgumentError, match="can't repair"):
        FileStorage(database.path, repair=True, at=1)


@pytest.mark.spec("HIST-5")
def test_what_follows_the_commit_may_be_damaged(database: Database) -> None:
    database.commit(a=1)
    size = database.path.stat().st_size
    database.commit(a=2)
    database.commit(a=3)
    database.close()
    data = bytearray(database.path.read_bytes())
    database.path.write_bytes(data[:-10])
    assert database.at("2030-01-01")["a"] == 2
    data[size + 30] ^= 1
    database.path.write_bytes(data)
    assert database.at(2)["a"] == 1
    with pytest.raises(DamageError):
        database.at("2030-01-01")


@pytest.mark.spec("HIST-2", "HIST-5")
def test_what_follows_the_packed_part_may_be_damaged(database: Database) -> None:
    database.commit(a=1)
    database.storage.pack()
    (packed,) = database.storage.commits()
    database.close()
    database.path.write_bytes(database.path.read_bytes()[: packed.size + 5])
    assert database.at(0)["a"] == 1


# Histories of objects


@pytest.mark.spec("HIST-7")
def test_history_has_each_state_of_an_object_as_a_copy(database: Database) -> None:
    account = Account(1)
    database.commit(account=account)
    database.commit(a=1)
    account.balance = 2
    database.commit()
    database.storage.pack()
    account.balance = 3
    database.commit()
    versions = list(database.connection.history(account))
    assert [(each.commit.number, vars(each.object)["balance"]) for each in versions] == [(0, 2), (1, 3)]
    copy: Any = versions[0].object
    assert (copy._p_connection, copy._p_oid) == (None, None)
    copy.balance = 100
    database.commit()
    assert account.balance == 3
    assert len(list(database.connection.history(1))) == len(list(database.connection.history(oid_from_int(1)))) == 2
    assert list(database.connection.history(99)) == []


@pytest.mark.spec("HIST-7")
def test_references_of_an_earlier_state_lead_to_the_objects_as_they_are(database: Database) -> None:
    account = Account(1)
    database.commit(accounts=PersistentList([account]), other=account)
    database.root["accounts"].append(database.root["accounts"])
    account.balance = 2
    database.commit()
    first, second = database.connection.history(database.root["accounts"])
    assert (list(first.object), first.object[0].balance) == ([account], 2)  # type: ignore[call-overload, index]
    assert second.object[1] is database.root["accounts"]  # type: ignore[index]


@pytest.mark.spec("HIST-7")
def test_history_of_a_tree_has_trees_that_count_themselves(database: Database) -> None:
    tree: BTree[int, int] = BTree()
    tree[1] = 1
    database.commit(tree=tree)
    (version,) = database.connection.history(tree)
    copy: Any = version.object
    assert len(copy) == 1


@pytest.mark.spec("HIST-7")
def test_object_of_another_connection_has_no_history_here(database: Database) -> None:
    with pytest.raises(StateError, match="not a stored object of this connection"):
        next(database.connection.history(Account(1)))


@pytest.mark.spec("HIST-8")
def test_clients_of_a_shared_storage_see_the_history_of_the_file(database: Database) -> None:
    database.commit(a=Account(1))
    database.root["a"].balance = 2
    database.commit()
    connection = Connection(SharedStorage(database.storage).new_client())
    account = connection.get(1)
    assert isinstance(account, Account)
    assert [vars(each.object)["balance"] for each in connection.history(account)] == [1, 2]
    storage = connection.get_storage()
    assert list(storage.commits()) == list(database.storage.commits())
    commit = list(storage.commits())[-1]
    assert list(storage.records_in(commit)) == list(database.storage.records_in(commit))
    connection.restore(account, at=minute(1))
    connection.commit()
    assert database.at(4)["a"] is not None
    assert account.balance == 1
    storage.close()
    with pytest.raises(ClosedError):
        storage.commits()


@pytest.mark.spec("HIST-8")
@pytest.mark.parametrize("kind", ["memory", "client", "dfs20", "sqlite"])
def test_storage_without_earlier_states_says_what_helps(tmp_path: Path, kind: str) -> None:
    made: dict[str, Callable[[], Storage]] = {
        "memory": MemoryStorage,
        "client": lambda: InMemoryServer(MemoryStorage()).new_client(),
        "dfs20": lambda: FileStorage2(str(tmp_path / "f")),
        "sqlite": lambda: SqliteStorage(str(tmp_path / "f")),
    }
    storage = made[kind]()
    connection = Connection(storage)
    calls: list[Callable[[], object]] = [
        lambda: list(storage.commits()),
        lambda: list(storage.records_of(bytes(8))),
        lambda: list(storage.records_in(Commit(1, None, 0, 0, ()))),
        lambda: storage.as_of(1),
        lambda: list(connection.history(0)),
        lambda: connection.restore(connection.get_root(), at=1),
    ]
    for call in calls:
        with pytest.raises(DurusError, match=r"keeps no earlier states: open .* FileStorage\(path, readonly=True\)"):
            call()
    storage.close()


# Going back


@pytest.mark.spec("HIST-9")
def test_restoring_is_a_change_that_is_committed(database: Database) -> None:
    account = Account(1)
    database.commit(account=account)
    account.balance = 2
    account.owner = "Ann"  # type: ignore[attr-defined]
    database.commit()
    database.connection.restore(account, at=2)
    assert vars(account) == {"balance": 1}
    database.connection.abort()
    assert account.balance == 2
    database.connection.restore(account, at=minute(1))
    database.commit()
    assert [vars(each.object)["balance"] for each in database.connection.history(account)] == [1, 2, 1]
    database.connection.restore(account, at=3)
    database.commit()
    other = Connection(FileStorage(database.path, readonly=True))
    shown: Any = other.get(1)
    assert vars(shown) == {"balance": 2, "owner": "Ann"} or (shown.balance, shown.owner) == (2, "Ann")
    other.get_storage().close()


@pytest.mark.spec("HIST-9")
def test_restoring_takes_the_place_of_changes_of_the_transaction(database: Database) -> None:
    account = Account(1)
    database.commit(account=account)
    account.balance = 5
    database.connection.restore(account, at=2)
    database.commit()
    assert root_of(FileStorage(database.path, readonly=True)) is not None
    assert account.balance == 1


@pytest.mark.spec("HIST-9")
@pytest.mark.parametrize("other", [5, None, "a", b"a", 1 << 64, -1, object(), Account])
def test_what_is_no_persistent_object_is_refused_and_the_transaction_goes_on(database: Database, other: Any) -> None:
    database.commit(a=1)
    database.root["a"] = 2
    with pytest.raises(ArgumentError, match="a stored object of this connection is expected, not "):
        database.connection.restore(other, at=1)
    if other != 5:
        with pytest.raises(ArgumentError, match="a stored object of this connection is expected, not "):
            next(database.connection.history(other))
    database.connection.commit()
    assert database.root["a"] == 2


@pytest.mark.spec("HIST-9")
def test_state_of_another_storage_can_be_restored(database: Database) -> None:
    database.commit(a=1, account=Account(1))
    database.storage.pack()
    database.root["account"].balance = 2
    database.commit()
    database.storage.pack()
    earlier = FileStorage(f"{database.path}.prepack", at=0)
    database.connection.restore(database.root["account"], at=earlier)
    assert database.root["account"].balance == 1
    earlier.close()


@pytest.mark.spec("HIST-9")
def test_changes_of_others_are_conflicts(database: Database) -> None:
    database.commit(a=Account(1), b=Account(1))
    shared = SharedStorage(database.storage)
    one, other = (Connection(shared.new_client()) for _ in range(2))
    mine, theirs = one.get(1), other.get(1)
    assert isinstance(mine, Account)
    assert isinstance(theirs, Account)
    one.restore(mine, at=2)
    theirs.balance = 7
    other.commit()
    with pytest.raises(ConflictError):
        one.commit()
    one.abort()
    assert mine.balance == 7


@pytest.mark.spec("HIST-9")
def test_what_can_not_be_restored_changes_nothing(database: Database) -> None:
    database.commit(a=1)
    account = Account(1)
    database.commit(account=account)
    with pytest.raises(StateError, match="oid 1 has no state at that time"):
        database.connection.restore(account, at=2)
    with pytest.raises(StateError, match="not a stored object"):
        database.connection.restore(Account(1), at=2)
    with pytest.raises(ArgumentError, match="there is no commit 9"):
        database.connection.restore(account, at=9)
    assert not database.connection.changed
    with Connection(SharedStorage(database.storage).new_client(), snapshot=True) as reading:
        shown = reading.get(1)
        assert isinstance(shown, Account)
        with pytest.raises(ReadonlyError, match="only reads"):
            reading.restore(shown, at=3)


@pytest.mark.spec("HIST-9")
def test_object_that_was_of_another_class_is_not_restored(database: Database) -> None:
    from durus.records.record import pack_record

    account = Account(1)
    database.commit(account=account)
    data = f"\x80\x02c{__name__}\nOther\n.\x80\x02}}.".encode("latin-1")
    other = MemoryStorage()
    other.take_records([(oid_from_int(1), pack_record(oid_from_int(1), data, b""))])
    with pytest.raises(StateError, match="oid 1 was a Other at that time, and is a Account now"):
        database.connection.restore(account, at=other)


@pytest.mark.spec("HIST-9")
def test_state_that_refers_to_what_is_gone_is_not_restored(database: Database) -> None:
    tree: BTree[int, int] = BTree()
    for number in range(200):
        tree[number] = number
    database.commit(tree=tree)
    for number in range(200):
        del tree[number]
    database.commit()
    database.storage.pack()
    database.connection.abort()
    earlier = FileStorage(f"{database.path}.prepack", at=2)
    with pytest.raises(StateError, match="has no record any more"):
        database.connection.restore(tree, at=earlier)
    assert not database.connection.changed
    earlier.close()


@pytest.mark.spec("HIST-10")
@pytest.mark.parametrize("seed", range(5))
def test_tree_goes_back_with_its_nodes(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    tree: BTree[int, int] = BTree()
    database.commit(tree=tree)
    states = []
    for _ in range(8):
        for _ in range(80):
            number = chance.randrange(300)
            if number in tree and chance.random() < 0.5:
                del tree[number]
            else:
                tree[number] = chance.randrange(1000)
        database.commit()
        states.append(dict(tree.items()))
    for number in chance.sample(range(8), 8):
        len(tree)
        database.connection.restore(tree, at=number + 3)
        tree.check()
        assert (dict(tree.items()), len(tree)) == (states[number], len(states[number]))
        if chance.random() < 0.5:
            database.connection.commit()
        else:
            database.connection.abort()
            tree.check()
    database.connection.restore(tree, at=5)
    database.commit()
    storage = FileStorage(database.path, readonly=True)
    root: Any = Connection(storage).get_root()
    assert dict(root["tree"].items()) == states[2]
    storage.close()


@pytest.mark.spec("HIST-10")
def test_what_a_container_holds_stays_as_it_is(database: Database) -> None:
    account = Account(1)
    database.commit(accounts=PersistentDict(ann=account))
    account.balance = 2
    del database.root["accounts"]["ann"]
    database.root["accounts"]["bob"] = Account(3)
    database.commit()
    database.connection.restore(database.root["accounts"], at=2)
    assert dict(database.root["accounts"]) == {"ann": account}
    assert account.balance == 2


def test_commits_go_on_while_they_are_listed(database: Database) -> None:
    for number in range(20):
        database.commit(a=number)
    listed = database.storage.commits()
    next(listed)
    threads = [threading.Thread(target=list, args=(database.storage.commits(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    database.commit(a=20)
    for thread in threads:
        thread.join()
    assert [each.number for each in listed] == list(range(2, 22))


# The command


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["log", *map(str, arguments)]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.spec("CMD-1", "HIST-6")
def test_log_shows_commits_and_filters_them(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.commit(a=1)
    database.commit(b=Account(2))
    database.commit(**{f"c{number}": Account(number) for number in range(9)})
    path = database.path
    lines = lines_of(capsys, path)
    assert [line.split()[:2] for line in lines] == [[str(number + 1), minute(number)] for number in range(4)]
    name = f"{__name__}.Account"
    assert lines[2].endswith(f"bytes: 1 durus.persistent_dict.PersistentDict, 1 {name}; oid 0, 1")
    assert lines[3].endswith(f"bytes: 9 {name}, 1 durus.persistent_dict.PersistentDict; oid 0, 2, 3, 4, 5 and 5 more")
    assert lines_of(capsys, path, "--class", name) == lines[2:]
    assert lines_of(capsys, path, "--class", f"{__name__}:Account") == lines[2:]
    assert lines_of(capsys, path, "--last", 1) == lines[3:]
    assert lines_of(capsys, path, "--since", minute(1), "--until", minute(2)) == lines[1:3]
    database.storage.pack()
    (packed,) = lines_of(capsys, path)
    assert packed.startswith("0 ")
    assert packed.endswith("; what the last pack has kept")


@pytest.mark.spec("CMD-1", "HIST-7")
def test_log_of_an_object_shows_its_states(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    account = Account(1)
    database.commit(account=account)
    account.balance = 2
    database.commit()
    lines = lines_of(capsys, database.path, 1)
    assert [line.split()[:3] for line in lines] == [
        ["2", minute(1), f"{__name__}.Account,"],
        ["3", minute(2), f"{__name__}.Account,"],
    ]
    assert lines_of(capsys, database.path, 1, "--until", minute(1)) == lines[:1]
    assert lines_of(capsys, database.path, 1, "--class", "durus.Nothing") == []


@pytest.mark.spec("CMD-19")
@pytest.mark.parametrize(("arguments", "what"), [(["--class", "shop.Order"], "commit"), (["7"], "state")])
def test_log_that_shows_nothing_says_so(
    database: Database, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    assert main(["log", str(database.path), *arguments]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"durus: {database.path}: no {what} fits\n")


@pytest.mark.spec("CMD-18")
def test_log_as_json(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.commit(account=Account(1))
    database.storage.pack()
    database.commit(a=1)
    path, name = database.path, f"{__name__}.Account"
    (line,) = lines_of(capsys, path, "--json")
    shown = json.loads(line)
    assert list(shown) == ["durus", "file", "format", "commits", "states"]
    assert (shown["format"], shown["states"]) == ("SHELF-1", None)
    packed, last = shown["commits"]
    assert list(packed) == ["number", "time", "offset", "size", "classes", "oids"]
    assert (packed["number"], packed["oids"]) == (0, None)
    assert packed["classes"] == {"durus.persistent_dict.PersistentDict": 1, name: 1}
    assert (last["number"], last["oids"]) == (1, [0])
    (line,) = lines_of(capsys, path, "--json", "--last", 1)
    assert json.loads(line)["commits"] == [last]
    (line,) = lines_of(capsys, path, 1, "--json")
    shown = json.loads(line)
    assert shown["commits"] is None
    (state,) = shown["states"]
    assert (list(state), state["number"], state["class"]) == (["number", "time", "class", "size"], 0, name)


@pytest.mark.spec("CMD-1", "HIST-2")
def test_log_of_a_file_of_4_3_has_no_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.durus"
    path.write_bytes(UNSEALED_EMPTY_FILE + unsealed_transaction({ROOT: 0}, {ROOT: Item(b"a", ())}))
    (line,) = lines_of(capsys, path)
    assert line.startswith("1 (not sealed yet) ")
    assert lines_of(capsys, path, "--until", "2030-01-01") == []
    assert lines_of(capsys, path, "--since", "2000-01-01") == [line]


@pytest.mark.spec("CMD-2")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["f", "-5"], 2, ""),
        (["f", str(1 << 64)], 2, "is not a number from 0 to 18446744073709551615"),
        (["f", "--last", "0"], 2, "--last: '0' is not a number of at least 1"),
        (["f", "--since", "yesterday"], 2, "'yesterday' is not a time"),
        (["f.sqlite"], 1, "a SqliteStorage keeps no earlier states"),
    ],
)
def test_wrong_call_of_log_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    SqliteStorage("f.sqlite").close()
    assert main(["log", *arguments]) == status
    assert message in capsys.readouterr().err
