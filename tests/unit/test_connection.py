"""Transactions of one connection, over a storage that plays the part of other clients."""

import copy
import pickle
from pathlib import Path

import pytest

from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.error import ForeignReferenceError, ReadConflictError, TransactionError, UnstorableError, WriteConflictError
from durus.file_storage import FileStorage
from durus.persistent import GHOST, ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.storage import MemoryStorage, get_census


class Person(Persistent):
    city = "unknown"

    def __init__(self, name: str) -> None:
        self.name = name


class Point(PersistentObject):
    __slots__ = ("__hidden", "x")

    def __init__(self, x: int, hidden: int) -> None:
        self.x = x
        self.__hidden = hidden

    def hidden(self) -> int:
        return self.__hidden


class InvalidatingStorage(MemoryStorage):
    """A memory storage in which a test can play another client's commit."""

    def __init__(self) -> None:
        super().__init__()
        self.invalid: list[bytes] = []

    def load(self, oid: bytes) -> bytes:
        if oid in self.invalid:
            raise ReadConflictError([oid])
        return super().load(oid)

    def sync(self) -> list[bytes]:
        invalid, self.invalid = self.invalid, []
        return invalid + super().sync()

    def end(self, handle_invalidations: object = None) -> None:
        if callable(handle_invalidations):
            handle_invalidations(self.sync())
        super().end()


def reopened(path: Path) -> Connection:
    return Connection(str(path))


def test_committed_objects_are_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "people.durus"
    with Connection(path) as connection:
        ann = Person("Ann")
        connection.get_root()["people"] = PersistentList([ann, ann])
        connection.get_root()["point"] = Point(3, 4)
        connection.commit()
    with reopened(path) as connection:
        people = connection.get_root()["people"]
        assert isinstance(people, PersistentList)
        first, second = people
        assert first is second
        assert first._p_status == GHOST
        assert (first.name, first.city) == ("Ann", "unknown")
        point = connection.get_root()["point"]
        assert isinstance(point, Point)
        assert (point.x, point.hidden()) == (3, 4)


def test_abort_brings_back_the_committed_state() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["a"] = 1
    connection.commit()
    root["a"] = 2
    assert root._p_is_unsaved()
    connection.abort()
    assert root["a"] == 1
    assert root._p_is_saved()


def test_transaction_block_commits_at_its_end_and_aborts_on_an_exception() -> None:
    connection = Connection(MemoryStorage())
    with connection.transaction() as root:
        root["a"] = 1
    with pytest.raises(ZeroDivisionError), connection.transaction() as root:
        root["a"] = 1 / 0
    assert connection.get_root()["a"] == 1
    connection.get_root()["b"] = 1
    with pytest.raises(TransactionError), connection.transaction():
        pass


def test_commit_fails_if_what_was_read_was_changed_by_another() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    root = connection.get_root()
    read, written = Person("r"), Person("w")
    root["x"] = [read, written]
    connection.commit()
    assert read.name == "r"
    written.name = "new"
    storage.invalid = [read._p_oid or b""]
    with pytest.raises(WriteConflictError) as caught:
        connection.commit()
    assert caught.value.oids == [read._p_oid]
    with pytest.raises(WriteConflictError):
        connection.commit()
    connection.abort()
    assert written.name == "w"
    written.name = "again"
    connection.commit()


def test_load_conflicts_only_if_what_was_read_is_out_of_date() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage, cache_size=1)
    root = connection.get_root()
    first, second = Person("1"), Person("2")
    root["x"] = [first, second]
    connection.commit()
    connection.set_cache_size(1)
    first._p_set_status_ghost()
    second._p_set_status_ghost()
    oids = [first._p_oid or b"", second._p_oid or b""]
    storage.invalid = list(oids)
    assert first.name == "1"
    storage.invalid = list(oids)
    with pytest.raises(ReadConflictError):
        second.name  # noqa: B018 (reading is the point)
    with pytest.raises(ReadConflictError):
        second.name  # noqa: B018 (it stays a conflict until abort)
    connection.abort()
    assert second.name == "2"


def test_what_cannot_be_pickled_leaves_nothing_behind() -> None:
    connection = Connection(MemoryStorage())
    person = Person("x")
    connection.get_root()["p"] = person
    person.call = lambda: None
    with pytest.raises(UnstorableError):
        connection.commit()
    assert person._p_oid is None
    del person.call
    connection.commit()
    assert person._p_oid is not None
    assert get_census(connection.storage) == {"PersistentDict": 1, "Person": 1}


def test_reference_into_another_connection_is_refused_by_name() -> None:
    one, other = Connection(MemoryStorage()), Connection(MemoryStorage())
    one.get_root()["x"] = other.get_root()
    with pytest.raises(ForeignReferenceError, match=r"PersistentDict 0.*PersistentDict 0"):
        one.commit()


def test_cache_keeps_its_target_size_between_transactions() -> None:
    connection = Connection(MemoryStorage(), cache_size=10)
    people = [Person(str(i)) for i in range(50)]
    connection.get_root()["p"] = people
    connection.commit()
    assert connection.cache.get_loaded_count() == 10
    assert [p.name for p in people] == [str(i) for i in range(50)]
    connection.shrink_cache()
    assert connection.cache.get_loaded_count() == 50
    connection.abort()
    assert connection.cache.get_loaded_count() == 10


def test_copies_and_plain_pickles_are_new_objects() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["p"] = Person("Ann")
    connection.commit()
    for made in (copy.copy(root), copy.deepcopy(root), pickle.loads(pickle.dumps(root))):
        assert made._p_oid is None
        person = made["p"]
        assert isinstance(person, Person)
        assert person.name == "Ann"


def test_pack_removes_garbage_and_a_later_touch_of_it_is_a_conflict(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "f")
    root = connection.get_root()
    person = Person("gone")
    root["p"] = person
    connection.commit()
    del root["p"]
    connection.commit()
    connection.pack()
    with pytest.raises(ReadConflictError):
        person.name  # noqa: B018 (reading is the point)
    connection.abort()
    root["again"] = person
    with pytest.raises(WriteConflictError):
        connection.commit()
    connection.close()


def test_commits_between_the_steps_of_a_pack_are_kept(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    connection = Connection(storage)
    root = connection.get_root()
    for i in range(250):
        root[i] = Person(str(i))
    dropped = root[7]
    connection.commit()
    del root[7]
    connection.commit()
    for step, _ in enumerate(storage.get_packer()):
        root[f"during {step}"] = Person("new")
        if step == 1:
            root["back"] = dropped
        connection.commit()
    connection.close()
    with reopened(tmp_path / "f") as connection:
        root = connection.get_root()
        back = root["back"]
        assert isinstance(back, Person)
        assert back.name == "7"
        assert f"during {step}" in root
        assert len(list(gen_every_instance(connection, Person))) == 250 + step + 1


def test_crawler_touching_and_computed_attribute() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["c"] = ComputedAttribute()
    root["d"] = PersistentDict(a=1)
    connection.commit()
    assert [obj._p_format_oid() for obj in connection.get_crawler()] == ["0", "1", "2"]
    computed = root["c"]
    assert isinstance(computed, ComputedAttribute)
    assert computed.get(lambda: 5) == computed.get(lambda: 6) == 5
    computed.invalidate()
    assert computed.get(lambda: 7) == 7
    connection.commit()
    touch_every_reference(connection, "ComputedAttribute")
    assert set(connection.changed) == {root._p_oid, computed._p_oid}
