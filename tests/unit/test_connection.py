"""Transactions of one connection, over a storage that plays the part of other clients."""

import abc
import copy
import dataclasses
import gc
import os
import pickle
import sys
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from durus import connection as connection_module
from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.error import (
    ArgumentError,
    ForeignReferenceError,
    ReadConflictError,
    StateError,
    TransactionError,
    UnstorableError,
    WriteConflictError,
)
from durus.file_storage import FileStorage
from durus.oid import ROOT_OID
from durus.persistent import GHOST, ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.records.record import pack_record, unpack_record
from durus.shared_storage import SharedStorage
from durus.storage import InvalidationHandler, MemoryStorage, get_census
from durus.transactions.open_connections import OpenConnections


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


class Plain:
    pass


class Counted(Persistent):
    """Has a state of its own form, and may refuse it."""

    refuses = False

    def __init__(self, n: int) -> None:
        self.n = n

    def __getstate__(self) -> int:
        return self.n

    def __setstate__(self, state: int) -> None:
        if Counted.refuses:
            raise ValueError("not today")
        self.n = state
        self.doubled = 2 * self.n


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
        return [*invalid, *super().sync()]

    def end(self, handle_invalidations: object = None) -> None:
        if callable(handle_invalidations):
            handle_invalidations(self.sync())
        super().end()


def reopened(path: Path) -> Connection:
    return Connection(str(path))


@pytest.mark.spec("OBJ-1", "OBJ-2", "OBJ-5", "OBJ-11", "TXN-5")
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


@pytest.mark.spec("TXN-1", "TXN-4", "OBJ-3", "OBJ-4")
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


@pytest.mark.spec("TXN-17")
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


@pytest.mark.spec("TXN-12", "TXN-13", "TXN-15")
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


@pytest.mark.spec("TXN-2", "TXN-13")
def test_what_was_accessed_remains_so_when_it_has_left_memory() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["x"] = Person("x")
    connection.commit()
    person = root["x"]
    assert isinstance(person, Person)
    assert person.name == "x"
    oid = person._p_oid or b""
    for obj in connection.cache.loaded_objects():
        connection.cache.make_ghost(obj._p_oid or b"")
    del obj, person
    assert connection.cache.get(oid) is None, "it is still in memory"
    storage.invalid = [oid]
    root["y"] = 1
    with pytest.raises(WriteConflictError) as caught:
        connection.commit()
    assert caught.value.oids == [oid]


@pytest.mark.spec("TXN-14", "TXN-15")
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


@pytest.mark.spec("TXN-6", "TXN-8")
def test_what_cannot_be_pickled_leaves_nothing_behind() -> None:
    connection = Connection(MemoryStorage())
    person: Any = Person("x")
    connection.get_root()["p"] = person
    person.call = lambda: None
    with pytest.raises(UnstorableError):
        connection.commit()
    assert person._p_oid is None
    del person.call
    connection.commit()
    assert person._p_oid is not None
    assert get_census(connection.storage) == {"PersistentDict": 1, "Person": 1}


@pytest.mark.spec("TXN-11")
def test_reference_into_another_connection_is_refused_by_name() -> None:
    one, other = Connection(MemoryStorage()), Connection(MemoryStorage())
    one.get_root()["x"] = other.get_root()
    with pytest.raises(ForeignReferenceError, match=r"PersistentDict 0.*PersistentDict 0"):
        one.commit()


@pytest.mark.spec("OBJ-21", "OBJ-23")
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


@pytest.mark.spec("OBJ-14")
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


@pytest.mark.spec("TXN-10", "TXN-16")
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


@pytest.mark.spec("SHELF-30", "SHELF-35")
def test_commits_between_the_steps_of_a_pack_are_kept(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "f")
    connection = Connection(storage)
    root: Any = connection.get_root()
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


@pytest.mark.spec("OBJ-25")
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


@pytest.mark.spec("OBJ-16")
def test_error_for_an_unstorable_object_names_it_and_its_part_and_the_way_to_it() -> None:
    connection = Connection(MemoryStorage())
    person: Any = Person("x")
    plain: Any = Plain()
    plain.call = lambda: None
    person.data = {"k": [1, (plain,)]}
    connection.get_root()["people"] = PersistentList([0, {"a": person}])
    with pytest.raises(UnstorableError) as caught:
        connection.commit()
    message = str(caught.value)
    assert message.startswith("<Person @")
    assert ".data['k'][1][0].call" in message
    assert "root['people'][1]['a']" in message


@pytest.mark.spec("OBJ-16")
def test_the_part_in_that_error_is_one_that_pickle_reads() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()["v"] = {"module": os}
    with pytest.raises(UnstorableError, match=r"its part \['v'\]\['module'\], <module 'os'"):
        connection.commit()


@pytest.mark.spec("OBJ-16")
def test_error_for_a_class_that_was_defined_anew_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["p"] = Person("x")
    connection.commit()
    monkeypatch.setattr(sys.modules[__name__], "Person", type("Person", (Persistent,), {"__module__": __name__}))
    root["n"] = 1
    with pytest.raises(UnstorableError, match=r"its part \['p'\], <Person 1.*importlib\.reload\(\)"):
        connection.commit()


@pytest.mark.spec("OBJ-16")
def test_object_of_a_class_that_is_not_importable_is_unstorable() -> None:
    class Local(Persistent):
        pass

    connection = Connection(MemoryStorage())
    connection.get_root()["x"] = Local()
    with pytest.raises(UnstorableError, match="Local"):
        connection.commit()


@pytest.mark.spec("OBJ-10", "OBJ-13", "OBJ-15")
def test_a_class_may_have_a_state_of_its_own_form() -> None:
    connection = Connection(MemoryStorage())
    counted = Counted(4)
    connection.get_root()["x"] = counted
    connection.commit()
    counted._p_set_status_ghost()
    Counted.refuses = True
    with pytest.raises(StateError, match=r"oid 1 .*Counted.*not today"):
        counted.n  # noqa: B018 (reading is the point)
    assert counted._p_is_ghost()
    Counted.refuses = False
    assert counted.doubled == 8
    assert counted._p_is_saved()
    assert not connection.changed


@pytest.mark.spec("OBJ-6", "TXN-3")
def test_what_is_no_access_loads_nothing_and_conflicts_with_nothing() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    person = Person("x")
    connection.get_root()["x"] = person
    connection.commit()
    person._p_set_status_ghost()
    assert isinstance(person, Person)
    assert repr(person) == "<Person 1 ghost>"
    assert person.__class__ is Person
    assert connection.get(1) is connection[person._p_oid or b""] is person
    assert person._p_is_ghost()
    connection.get_root()["y"] = 1
    storage.invalid = [person._p_oid or b""]
    connection.commit()


@pytest.mark.spec("OBJ-7", "OBJ-8", "OBJ-9", "TXN-2")
def test_writes_deletions_and_noted_changes_are_stored() -> None:
    connection = Connection(MemoryStorage())
    person: Any = Person("x")
    person.items = [1]
    connection.get_root()["x"] = person
    connection.commit()
    person.items.append(2)
    connection.abort()
    assert not connection.changed
    person.items.append(3)
    person._p_note_change()
    del person.name
    connection.commit()
    person._p_set_status_ghost()
    assert person.items == [1, 2, 3]
    assert not hasattr(person, "name")


@pytest.mark.spec("OBJ-20", "OBJ-22")
def test_ghosts_nobody_holds_leave_memory_and_unsaved_objects_stay() -> None:
    connection = Connection(MemoryStorage(), cache_size=1)
    root: Any = connection.get_root()
    for i in range(20):
        root[i] = Person(str(i))
    connection.commit()
    connection.abort()
    gc.collect()
    assert connection.get_cache_count() <= 2
    changed = root[3]
    assert isinstance(changed, Person)
    changed.name = "changed"
    connection.shrink_cache()
    assert changed._p_is_unsaved()
    connection.commit()
    changed._p_set_status_ghost()
    assert changed.name == "changed"


@pytest.mark.spec("OBJ-12", "OBJ-11")
def test_setstate_replaces_all_attributes() -> None:
    point = Point(1, 2)
    point.__setstate__({"x": 5})
    assert point.__getstate__() == {"x": 5}
    person: Any = Person("a")
    person.other = 1
    person.__setstate__({"name": "b"})
    assert vars(person) == {"name": "b"}


@pytest.mark.spec("TXN-7", "TXN-9", "TXN-18")
def test_commit_without_changes_and_pack_begin_the_next_transaction(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        connection.commit()
        size = (tmp_path / "f").stat().st_size
        serial = connection.transaction_serial
        connection.commit()
        assert connection.get_transaction_serial() == serial + 1
        assert (tmp_path / "f").stat().st_size == size
        connection.get_root()["x"] = 1
        with pytest.raises(TransactionError, match="1 changed objects are not committed"):
            connection.pack()
        assert connection.get_root()["x"] == 1
        connection.commit()
        serial = connection.transaction_serial
        connection.pack()
        assert connection.transaction_serial > serial


def test_root_class_is_that_of_a_new_root_and_checked_for_an_old_one() -> None:
    storage = MemoryStorage()
    assert isinstance(Connection(storage, root_class=Person0).root, Person0)
    with pytest.raises(StateError, match="Person0"):
        Connection(storage, root_class=PersistentDict)


class Person0(Persistent):
    pass


@dataclasses.dataclass
class Data(Persistent):
    n: int
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class SlotData(PersistentObject):
    n: int


@dataclasses.dataclass(frozen=True)
class FrozenData(Persistent):
    n: int


T = TypeVar("T")


class Box(Persistent, Generic[T]):
    def __init__(self, inside: T) -> None:
        self.inside = inside


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> int: ...


class Square(Persistent, Shape):
    __slots__ = ("side",)

    def __init__(self, side: int) -> None:
        self.side = side
        self.colour = "red"

    def area(self) -> int:
        return self.side**2


def test_all_kinds_of_classes_are_stored_and_loaded(tmp_path: Path) -> None:
    with Connection(tmp_path / "f") as connection:
        root = connection.get_root()
        root["x"] = [Data(1, ["t"]), SlotData(2), FrozenData(3), Box[int](4), Square(5)]
        connection.commit()
    with Connection(tmp_path / "f") as connection:
        found = connection.get_root()["x"]
        assert isinstance(found, list)
        data, slots, frozen, box, square = found
        assert all(each._p_is_ghost() for each in found)
        assert (data.tags, slots.n, frozen.n, box.inside, square.area(), square.colour) == (["t"], 2, 3, 4, 25, "red")
        assert data == Data(1, ["t"])
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.n = 5
        slots.n = 7
        square.side = 6
        connection.commit()
        connection.cache.set_size(1)
        connection.abort()
        assert (slots.n, square.area()) == (7, 36)


class Counting(Persistent):
    """Counts in another object how often it was stored."""

    def __init__(self, counter: Person) -> None:
        self.counter = counter

    def __getstate__(self) -> object:
        self.counter.name += "+"
        return super().__getstate__()


def test_what_a_getstate_changes_is_stored_in_the_same_commit() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    counter = Person("c")
    root["counter"] = counter
    connection.commit()
    root["counting"] = Counting(counter)
    connection.commit()
    assert counter._p_is_saved()
    counter._p_set_status_ghost()
    assert counter.name == "c+"


@pytest.mark.spec("OBJ-21")
def test_the_least_recently_used_objects_leave_first() -> None:
    connection = Connection(MemoryStorage())
    people = [Person(str(i)) for i in range(5)]
    connection.get_root()["p"] = people
    connection.commit()
    for i in (3, 1, 4, 0, 2):
        assert people[i].name
        connection.abort()
    connection.set_cache_size(2)
    connection.abort()
    assert [i for i in range(5) if people[i]._p_is_saved()] == [0, 2]


def test_oids_of_a_failed_commit_are_used_by_the_next() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["x"] = [Person("a"), lambda: None]
    for _ in range(3):
        with pytest.raises(UnstorableError):
            connection.commit()
    person = Person("b")
    root["x"] = person
    connection.commit()
    assert person._p_format_oid() == "1"


@pytest.mark.spec("TXN-12", "TXN-13")
def test_pack_that_removes_what_the_transaction_has_read_is_a_conflict(tmp_path: Path) -> None:
    for storage in (MemoryStorage(), FileStorage(tmp_path / "f")):
        connection = Connection(storage)
        root = connection.get_root()
        person = Person("gone")
        root["x"] = person
        connection.commit()
        del root["x"]
        connection.commit()
        root["copy"] = person.name
        storage.pack()
        with pytest.raises(WriteConflictError) as caught:
            connection.commit()
        assert caught.value.oids == [person._p_oid]
        connection.abort()
        assert "copy" not in root
        storage.close()


class Replaced(Persistent):
    pass


@pytest.mark.spec("REC-10")
def test_a_class_that_another_takes_the_place_of_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    writing = Connection(storage)
    for name in "ab":
        writing.get_root()[name] = Replaced()
    writing.commit()
    writing.close()
    connection = Connection(storage)
    a, b = (connection.get_root()[name]._p_oid for name in "ab")
    reader = connection._reader
    assert reader.class_of_record(a, connection.get_stored_pickle(a)) is Replaced

    class New(Persistent):
        pass

    monkeypatch.setattr(sys.modules[__name__], "Replaced", New)
    assert reader.class_of_record(b, connection.get_stored_pickle(b)) is New


def test_references_are_touched_in_the_only_connection_or_in_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "_open_connections", OpenConnections())
    connection = Connection(MemoryStorage())
    connection.get_root()["person"] = Person("Ann")
    connection.get_root()["other"] = Persistent()
    connection.commit()
    touch_every_reference("Person")
    assert connection.root in connection.changed.values()
    connection.abort()
    with Connection(MemoryStorage()):
        with pytest.raises(ArgumentError, match="2 connections are open"):
            touch_every_reference("Person")
        touch_every_reference(connection, "Person")
        assert connection.changed
    connection.abort()
    touch_every_reference("no class has this name", "Person")
    assert connection.changed
    connection.close()
    with pytest.raises(ArgumentError, match="0 connections are open"):
        touch_every_reference("Person")


def test_connection_tells_of_its_parts_and_figures(tmp_path: Path) -> None:
    storage = MemoryStorage()
    connection = Connection(storage, cache_size=17)
    assert connection.get_storage() is storage
    assert connection.get_cache() is connection.cache
    assert connection.get_cache_size() == 17
    connection.set_cache_size(23)
    assert connection.get_cache_size() == 23
    connection.get_root()["person"] = Person("Ann")
    connection.commit()
    connection.close()
    again = Connection(storage)
    assert again.get_cache_size() == 100000
    loaded = again.get_load_count()
    assert loaded == 1
    person = again.get_root()["person"]
    assert isinstance(person, Person)
    assert again.get_load_count() == loaded
    assert person.name == "Ann"
    assert again.get_load_count() == loaded + 1
    assert again.get_cache_count() == 2


def test_connection_that_can_not_be_made_closes_only_a_storage_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "f"
    Connection(path).close()
    with pytest.raises(StateError, match="the root is a PersistentDict, not a Person"):
        Connection(path, root_class=Person)
    storage = FileStorage(path)  # which the failed connection would hold the lock of
    with pytest.raises(StateError):
        Connection(storage, root_class=Person)
    assert storage.has_record(bytes(8))
    storage.close()


def test_storage_may_ask_what_is_loaded() -> None:
    asked: list[object] = []

    class Asking(MemoryStorage):
        def set_is_loaded(self, is_loaded: object) -> None:
            asked.append(is_loaded)

    Connection(Asking())
    (is_loaded,) = asked
    assert callable(is_loaded)
    assert is_loaded(bytes(8))
    assert not is_loaded(b"\0" * 7 + b"\1")


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_crawler_loads_each_object_once(batch_size: int) -> None:
    storage = MemoryStorage()
    writer = Connection(storage)
    shared: PersistentDict[str, object] = PersistentDict(name="shared")
    writer.get_root()["both"] = [PersistentDict(name=1, shared=shared), PersistentDict(name=2, shared=shared)]
    shared["root"] = writer.get_root()
    writer.commit()
    writer.close()
    connection = Connection(storage)
    root = connection.get_root()
    before = connection.get_load_count()
    batches: list[int] = []
    bulk_load = storage.bulk_load
    storage.bulk_load = lambda oids: batches.append(len(list(oids))) or bulk_load(oids)  # type: ignore[method-assign,func-returns-value]  # counts
    found = list(connection.get_crawler(batch_size=batch_size))
    assert found[0] is root
    assert sorted(obj._p_format_oid() for obj in found) == ["0", "1", "2", "3"]
    assert not any(obj._p_is_ghost() for obj in found)
    assert connection.get_load_count() - before == 3
    assert list(connection.get_crawler(batch_size=batch_size)) == found
    assert connection.get_load_count() - before == 3
    assert max(batches) == min(batch_size, 2)


def test_crawler_counts_as_use_of_what_it_loads() -> None:
    storage = MemoryStorage()
    writer = Connection(storage)
    writer.get_root()["persons"] = [Person(str(n)) for n in range(10)]
    writer.commit()
    writer.close()
    connection = Connection(storage, cache_size=3)
    found = list(connection.get_crawler())
    connection.commit()
    assert sum(not obj._p_is_ghost() for obj in found) == 3


def test_object_that_is_not_stored_is_not_noted_and_not_loaded() -> None:
    connection = Connection(MemoryStorage())
    person = Person("Ann")
    connection.note_change(person)
    connection.note_access(person)
    assert connection.changed == {}
    connection.commit()
    with pytest.raises(StateError, match="not an object of this connection"):
        connection.load_state(person)


@pytest.mark.spec("TXN-1", "TXN-4")
def test_transaction_block_begins_with_the_current_state_and_holds_no_other() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["n"] = 1
    with pytest.raises(TransactionError, match="open already"), connection.transaction():
        pass
    connection.commit()
    storage.invalid = [bytes(8)]
    with connection.transaction() as current:  # though n was read before
        current["n"] = 2
    with connection.transaction() as outer:
        assert outer["n"] == 2
        with pytest.raises(TransactionError, match="open already"), connection.transaction():
            pass
    with pytest.raises(ValueError, match="no"), connection.transaction() as current:  # noqa: PT012 (a block is meant)
        current["n"] = 3
        raise ValueError("no")
    assert root["n"] == 2
    with connection.transaction() as current:
        current["n"] = 4
    connection.close()
    assert Connection(storage).get_root()["n"] == 4


def test_pack_syncs_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["n"] = 1
    connection.commit()
    calls: list[str] = []
    monkeypatch.setattr(connection, "abort", lambda: calls.append("abort"))
    monkeypatch.setattr(storage, "pack", lambda: calls.append("pack"))
    connection.pack()
    assert calls == ["abort", "pack", "abort"]


@pytest.mark.spec("TXN-14", "TXN-15")
def test_state_that_others_changed_is_not_shown_after_a_conflict() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    root = connection.get_root()
    root["person"] = person = Person("Ann")
    connection.commit()
    assert person.name == "Ann"
    assert person._p_oid is not None
    storage._records[person._p_oid] = record_of(Person("Bea"), person._p_oid)
    storage.invalid = [person._p_oid]
    root["seen"] = person.name
    with pytest.raises(WriteConflictError) as caught:
        connection.commit()
    assert caught.value.oids == [person._p_oid]
    assert connection.invalid_oids == {person._p_oid}
    person._p_set_status_ghost()
    with pytest.raises(ReadConflictError):
        person.name  # noqa: B018 (reading is the point)
    connection.abort()
    assert connection.invalid_oids == set()
    assert person.name == "Bea"
    assert "seen" not in root


class BeatenStorage(MemoryStorage):
    """A storage in which another client's commit of the root comes just before ours."""

    def end(self, handle_invalidations: InvalidationHandler | None = None) -> None:
        if not self.has_record(ROOT_OID):
            assert handle_invalidations is not None
            self._records[ROOT_OID] = record_of_root(n=1)
            self._removed = [*self._removed, ROOT_OID]
        super().end(handle_invalidations)


def record_of(obj: Persistent, oid: bytes) -> bytes:
    """Return the record that makes an object that belongs to no connection the one of this oid."""
    with Connection(MemoryStorage()) as connection:
        connection.get_root()["it"] = obj
        connection.commit()
        _, data, refs = unpack_record(connection.storage.load(obj._p_oid or b""))
        return pack_record(oid, data, refs)


def record_of_root(**items: object) -> bytes:
    with Connection(MemoryStorage()) as connection:
        connection.get_root().update(items)
        connection.commit()
        return connection.storage.load(ROOT_OID)


@pytest.mark.spec("TXN-13", "TXN-24")
def test_root_that_another_client_stores_first_is_the_root() -> None:
    connection = Connection(BeatenStorage())
    root = connection.get_root()
    assert root["n"] == 1
    assert root is connection.root is connection.get(ROOT_OID)
    root["n"] = 2
    connection.commit()
    connection.close()
    assert Connection(connection.storage).get_root()["n"] == 2


@pytest.mark.spec("TXN-24")
def test_oid_that_came_in_place_of_the_roots_is_the_next_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedStorage(MemoryStorage())
    storage = shared.new_client()
    given: list[bytes] = []

    def new_oid() -> bytes:
        Connection(shared.new_client())  # which makes the root
        monkeypatch.undo()
        given.append(storage.new_oid())
        return given[0]

    monkeypatch.setattr(storage, "new_oid", new_oid)
    connection = Connection(storage)
    assert [oid for oid, _ in storage.gen_oid_record()] == [ROOT_OID]
    connection.get_root()["person"] = person = Person("Ann")
    connection.commit()
    assert [person._p_oid] == given


def test_storage_that_has_no_root_and_takes_none_is_refused() -> None:
    storage = MemoryStorage()
    storage.new_oid()  # and so the root's oid is not given out any more
    with pytest.raises(StateError, match="no root object, and does not accept one"):
        Connection(storage)
    assert list(storage.gen_oid_record()) == []


def test_new_root_is_an_object_of_the_connection() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    assert root._p_is_saved()
    assert connection.get(ROOT_OID) is root
    assert root._p_connection is connection
    assert connection.get_load_count() == 0
    assert connection.cache.loaded_objects() == [root]


class StubbornStorage(InvalidatingStorage):
    """Goes on to call some oids invalid, a number of times."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = 0
        self.tells = True

    def load(self, oid: bytes) -> bytes:
        if self.refusals:
            self.refusals -= 1
            self.invalid = [oid] if self.tells else []
            raise ReadConflictError([oid])
        return super().load(oid)


@pytest.mark.spec("TXN-14")
@pytest.mark.parametrize("refusals", [1, 2, 3])
def test_load_is_tried_again_as_often_as_others_change_the_object(refusals: int) -> None:
    storage = StubbornStorage()
    connection = Connection(storage)
    connection.get_root()["person"] = person = Person("Ann")
    connection.commit()
    person._p_set_status_ghost()
    storage.refusals = refusals
    assert person.name == "Ann"
    storage.refusals = refusals
    connection.abort()
    assert [obj._p_oid for obj in connection.get_crawler()] == [ROOT_OID, person._p_oid]


@pytest.mark.spec("TXN-16")
def test_load_of_what_a_sync_does_not_bring_back_is_a_conflict() -> None:
    storage = StubbornStorage()
    connection = Connection(storage)
    connection.get_root()["person"] = person = Person("Ann")
    connection.commit()
    person._p_set_status_ghost()
    storage.refusals, storage.tells = 10, False
    with pytest.raises(ReadConflictError) as caught:
        person.name  # noqa: B018 (reading is the point)
    assert caught.value.oids == [person._p_oid]
    assert storage.refusals == 9


@pytest.mark.spec("TXN-12", "TXN-14")
def test_load_that_syncs_drops_the_states_of_all_that_others_changed() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    connection.get_root()["persons"] = first, second = Person("1"), Person("2")
    connection.commit()
    first._p_set_status_ghost()
    watch = connection.watch()
    storage.invalid = [oid for oid in (first._p_oid, second._p_oid) if oid is not None]
    assert first.name == "1"
    assert second._p_is_ghost()
    assert connection.invalid_oids == set()
    assert watch.dropped == {first._p_oid, second._p_oid}


@pytest.mark.spec("TXN-14")
def test_read_conflict_names_the_object_that_was_to_be_read() -> None:
    storage = InvalidatingStorage()
    connection = Connection(storage)
    connection.get_root()["persons"] = first, second = Person("1"), Person("2")
    connection.commit()
    assert first.name
    second._p_set_status_ghost()
    storage.invalid = [oid for oid in (first._p_oid, second._p_oid) if oid is not None]
    with pytest.raises(ReadConflictError) as caught:
        second.name  # noqa: B018 (reading is the point)
    assert caught.value.oids == [second._p_oid]
    assert connection.invalid_oids == {first._p_oid, second._p_oid}


@pytest.mark.spec("OBJ-21")
def test_state_that_was_loaded_and_not_accessed_leaves_memory_too() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()["persons"] = persons = [Person(str(n)) for n in range(5)]
    connection.commit()
    connection.set_cache_size(1)
    connection.abort()
    for person in persons:
        person._p_load_state()
    assert connection.cache.get_loaded_count() == 5
    connection.abort()
    assert connection.cache.get_loaded_count() == 1
    assert sum(person._p_is_ghost() for person in persons) == 4


def test_object_without_an_oid_is_not_kept_in_memory_for_an_access() -> None:
    connection = Connection(MemoryStorage())
    connection.note_access(Person("Ann"))
    assert connection.cache.loaded_objects() == [connection.root]


@pytest.mark.spec("OBJ-22", "OBJ-24")
def test_only_a_saved_object_is_let_go_and_only_where_too_many_are_loaded() -> None:
    connection = Connection(MemoryStorage())
    connection.get_root()["persons"] = saved, changed = Person("saved"), Person("old")
    connection.commit()
    new = Person("new")
    changed.name = "changed"
    for obj in saved, changed, new:
        connection.release(obj)
    assert not saved._p_is_ghost()
    connection.set_cache_size(1)
    for obj in saved, changed, new:
        connection.release(obj)
    assert saved._p_is_ghost()
    assert (changed.name, new.name) == ("changed", "new")


def test_connection_that_nobody_can_use_any_more_is_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_open_connections", OpenConnections())
    connection = Connection(MemoryStorage())
    connection.get_root()["person"] = Person("Ann")
    connection.commit()
    gc.collect()
    gc.disable()
    try:
        Connection(MemoryStorage())  # which its objects hold, and it them
        assert len(connection_module._open_connections._open) == 2
        touch_every_reference("Person")
    finally:
        gc.enable()
    assert connection.root in connection.changed.values()


def test_commit_leaves_nothing_that_only_the_collector_of_garbage_frees(tmp_path: Path) -> None:
    connection = Connection(FileStorage(tmp_path / "file", durability="os"))
    connection.commit()
    gc.collect()
    gc.disable()
    try:
        connection.get_root()["person"] = Person("Ann")
        connection.commit()
        connection.abort()
        assert gc.collect() == 0
    finally:
        gc.enable()


class Looker:
    """Uses an object when it is freed."""

    def __init__(self, root: Any, number: int) -> None:
        self.root = root
        self.number = number

    def __del__(self) -> None:
        self.root[self.number].name  # noqa: B018 (reading is the point)


@pytest.mark.spec("OBJ-21")
def test_a_finalizer_may_load_an_object_while_the_cache_shrinks() -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    root: Any = connection.get_root()
    for number in range(300):
        person = Person(str(number))
        root[number] = person
        person.__dict__["friend"] = Person("who comes into memory with the other")
    connection.commit()
    connection.close()
    connection = Connection(storage, cache_size=20)
    root = connection.get_root()
    for number in range(100):
        assert isinstance(root[number], Person)
        root[number].name  # noqa: B018 (reading is the point)
    root[7]._v_looker = Looker(root, 299)
    root["changed"] = True
    connection.commit()
    assert root[7]._p_is_ghost()
    assert root[299]._p_is_saved()
    assert connection.cache.get_loaded_count() <= 22


@pytest.mark.spec("TXN-36")
def test_a_connection_begins_with_the_state_of_the_moment_when_it_was_made() -> None:
    shared = SharedStorage(MemoryStorage())
    first = Connection(shared.new_client())
    second = Connection(shared.new_client())
    first.get_root()["n"] = 1
    first.commit()
    assert "n" not in second.get_root()
    second.abort()
    assert second.get_root()["n"] == 1


@pytest.mark.spec("TXN-15")
def test_a_crawler_shows_no_state_that_others_changed_after_a_conflict() -> None:
    shared = SharedStorage(MemoryStorage())
    first, second = Connection(shared.new_client()), Connection(shared.new_client())
    first.get_root()["a"], first.get_root()["b"] = Person("a"), Person("b")
    first.commit()
    second.abort()
    a, b = (second.get_root()[name] for name in "ab")
    assert isinstance(a, Person)
    assert isinstance(b, Person)
    assert a.name == "a"
    for name in "ab":
        first.get_root()[name].name = "changed"
    first.commit()
    with pytest.raises(ReadConflictError):
        b.name  # noqa: B018 (reading is the point)
    with pytest.raises(ReadConflictError):
        list(second.get_crawler())
    second.abort()
    assert [obj.name for obj in second.get_crawler() if isinstance(obj, Person)] == ["changed", "changed"]


@pytest.mark.spec("TXN-12", "TXN-13", "TXN-80")
def test_if_anything_may_have_changed_all_that_was_used_is_in_conflict_and_all_states_are_dropped() -> None:
    connection = Connection(MemoryStorage())
    root, person, other = connection.get_root(), Person("Ann"), Person("Bob")
    root["persons"] = [person, other]
    connection.commit()
    watch = connection.watch()
    person.name = "Anna"
    connection.note_invalid(None)
    with pytest.raises(WriteConflictError) as info:
        connection.commit()
    assert info.value.oids == [person._p_oid]
    assert info.value.classes == {person._p_oid: f"{__name__}.Person"}
    assert not watch.overflowed
    connection.abort()
    assert watch.overflowed
    assert person._p_is_ghost()
    assert other._p_is_ghost()
    assert person.name == "Ann"
    person.name = "Eve"
    connection.commit()
