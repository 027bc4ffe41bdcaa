"""Savepoints: what a block changes is gone when it raises, whatever it was and whenever an interrupt comes."""

import asyncio
import enum
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from durus.btree import BNode, BTree
from durus.connection import Connection
from durus.error import (
    ConcurrentUseError,
    ForeignReferenceError,
    InterruptedTransactionError,
    TransactionError,
    UnstorableError,
)
from durus.persistent import UNSAVED, ComputedAttribute, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage
from tests.interrupts import Interrupt, commits, each_line, interrupted_at

pytestmark = pytest.mark.filterwarnings(  # an interrupt while a generator ends is reported in this way
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Doc(Persistent):
    def __init__(self, text: str) -> None:
        self.text = text
        self.tags: list[object] = []


class Slotted(PersistentObject):
    __slots__ = ("_v_n", "n")

    n: int
    _v_n: int


class Hashed(Persistent):
    """Is hashed by an attribute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: set[Hashed] = set()

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.name == other.name


class Failed(Exception):
    """Ends a block."""


Root = PersistentDict[Any, Any]


@pytest.fixture
def connection() -> Connection:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["old"] = Doc("old")
    connection.commit()
    return connection


def root_of(connection: Connection) -> Root:
    return connection.get_root()


def failing(connection: Connection, work: Callable[[], object], error: type[BaseException] = Failed) -> None:
    """Do something in the block of a savepoint, and raise an error at its end."""

    def run() -> None:
        with connection.savepoint():
            work()
            raise error

    with pytest.raises(error):
        run()


@pytest.mark.spec("TXN-50")
def test_an_exception_takes_back_what_the_block_did(connection: Connection) -> None:
    root = root_of(connection)
    old, changed, new = root["old"], Doc("changed"), Doc("new")
    root["changed"] = changed
    connection.commit()
    changed.text = "before"
    root["new"] = new
    new.tags.append("before")

    def work() -> None:
        old.text = changed.text = new.text = "inside"
        changed.tags.append("inside")
        new.tags.append("inside")
        root["made"] = Doc("made")
        del root["old"]

    failing(connection, work)
    assert old._p_is_ghost()
    assert connection.changed == {changed._p_oid: changed, root._p_oid: root}
    assert all(obj._p_status == UNSAVED for obj in (changed, root, new))
    assert (new._p_oid, new._p_connection) == (None, None)
    assert (old.text, changed.text, new.text) == ("old", "before", "new")
    assert (changed.tags, new.tags) == ([], ["before"])
    assert root.keys() == ["old", "changed", "new"]
    assert (root["new"], root["old"]) == (new, old)
    connection.commit()
    connection.cache.make_all_ghosts(connection)
    assert (old.text, changed.text, new.text, new.tags) == ("old", "before", "new", ["before"])


@pytest.mark.spec("TXN-50")
def test_new_objects_of_the_block_have_no_oid_and_no_connection(connection: Connection) -> None:
    made = Doc("made")
    failing(connection, lambda: root_of(connection).__setitem__("made", made))
    connection.commit()
    assert (made._p_oid, made._p_connection, made.text) == (None, None, "made")
    root_of(connection)["later"] = made
    connection.commit()
    assert made._p_is_saved()


@pytest.mark.spec("TXN-51")
def test_a_block_that_ends_leaves_its_changes(connection: Connection) -> None:
    with connection.savepoint():
        root_of(connection)["old"].text = "inside"
    connection.commit()
    assert root_of(connection)["old"].text == "inside"


@pytest.mark.spec("TXN-51")
def test_savepoints_in_savepoints(connection: Connection) -> None:
    old = root_of(connection)["old"]

    def outer() -> None:
        old.text = "outer"
        failing(connection, lambda: setattr(old, "text", "inner"))
        assert old.text == "outer"
        with connection.savepoint():
            old.text = "kept"
        failing(connection, lambda: setattr(old, "text", "inner"))
        assert old.text == "kept"

    old.text = "before"
    failing(connection, outer)
    assert old.text == "before"
    connection.abort()
    assert old.text == "old"


@pytest.mark.spec("TXN-50")
def test_a_change_that_was_noted_before_the_savepoint_is_taken_back(connection: Connection) -> None:
    old = root_of(connection)["old"]
    old._p_note_change()
    old.tags.append("before")
    failing(connection, lambda: old.tags.append("inside"))
    assert old.tags == ["before"]
    with connection.savepoint():
        pass
    old.tags.append("after")
    connection.commit()
    connection.cache.make_all_ghosts(connection)
    assert old.tags == ["before", "after"]


@pytest.mark.spec("TXN-50")
def test_what_the_block_has_read_stays_read(connection: Connection) -> None:
    old = root_of(connection)["old"]
    connection.abort()
    failing(connection, lambda: old.text)
    assert old._p_oid in connection.accessed


def tree_of(*keys: int) -> BTree[int, int]:
    tree: BTree[int, int] = BTree(BNode)
    for key in keys:
        tree[key] = key
    return tree


COLLECTIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], object]]] = {
    "dict": (lambda: PersistentDict({1: 1}), lambda it: it.update({2: 2}), lambda it: dict(it.items())),
    "list": (lambda: PersistentList([1]), lambda it: it.append(2), list),
    "set": (lambda: PersistentSet([1]), lambda it: it.add(2), set),
    "tree": (lambda: tree_of(*range(40)), lambda it: it.update({n + 0.5: n for n in range(40)}), lambda it: it.items()),
    "shrinking tree": (
        lambda: tree_of(*range(40)),
        lambda it: [it.__delitem__(key) for key in range(3, 30)],
        lambda it: it.items(),
    ),
}


@pytest.mark.spec("TXN-50")
@pytest.mark.parametrize("when", ["stored", "changed", "new"])
@pytest.mark.parametrize("kind", COLLECTIONS)
def test_collections_go_back(connection: Connection, kind: str, when: str) -> None:
    make, change, show = COLLECTIONS[kind]
    it = root_of(connection)["it"] = make()
    if when != "new":
        connection.commit()
    if when == "changed":
        it._p_note_change()
    before, count = show(it), len(it)
    failing(connection, lambda: (change(it), len(it)))
    assert show(it) == before
    assert len(it) == count
    if isinstance(it, BTree):
        it.check()
    change(it)
    after, count = show(it), len(it)
    assert after != before
    connection.commit()
    connection.cache.make_all_ghosts(connection)
    assert (show(it), len(it)) == (after, count)


@pytest.mark.spec("TXN-50")
def test_an_object_that_became_one_of_another_class_goes_back(connection: Connection) -> None:
    class Other(Doc):
        pass

    new = root_of(connection)["new"] = Doc("new")
    failing(connection, lambda: setattr(new, "__class__", Other))
    assert type(new) is Doc


@pytest.mark.spec("TXN-50", "OBJ-82")
def test_slots_go_back_and_volatile_attributes_go(connection: Connection) -> None:
    new = root_of(connection)["new"] = Slotted()
    new.n, new._v_n = 1, 2

    def work() -> None:
        new.n = 3
        new._v_n = 4

    failing(connection, work)
    assert new.n == 1
    assert not hasattr(new, "_v_n")


class Adding(Persistent):
    """Takes a state by adding it to the present one."""

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state)


@pytest.mark.spec("TXN-50")
def test_an_attribute_that_the_block_has_added_goes_whatever_the_class_does_with_a_state(
    connection: Connection,
) -> None:
    adding: Any = Adding()
    root_of(connection)["adding"] = adding
    adding.n = 1
    failing(connection, lambda: setattr(adding, "added", 2))
    assert vars(adding) == {"n": 1}


@pytest.mark.spec("TXN-50")
def test_objects_that_hold_one_another_by_their_hashes_go_back(connection: Connection) -> None:
    one, two = Hashed("one"), Hashed("two")
    one.others, two.others = {two}, {one}
    root_of(connection)["one"] = one

    def work() -> None:
        one.name = "first"
        two.others = set()

    failing(connection, work)
    assert one.name == "one"
    assert one in two.others
    assert two in one.others


@pytest.mark.spec("TXN-50")
def test_objects_whose_class_is_missing_go_back() -> None:
    class Colour(enum.Enum):
        RED = 1

    Colour.__qualname__ = "Colour"
    globals()["Colour"] = Colour
    connection = Connection(MemoryStorage())
    root = root_of(connection)
    root["doc"] = doc = Doc("a")
    doc.tags = [Colour.RED]
    connection.commit()
    connection.cache.make_all_ghosts(connection)
    del globals()["Colour"]
    doc.text = "b"
    shown = repr(doc.tags)
    assert "broken" in shown
    failing(connection, lambda: doc.tags.clear())
    assert (doc.text, repr(doc.tags)) == ("b", shown)
    connection.commit()
    globals()["Colour"] = Colour
    connection.abort()
    connection.cache.make_all_ghosts(connection)
    assert root_of(connection)["doc"].tags == [Colour.RED]
    del globals()["Colour"]


@pytest.mark.spec("TXN-50")
def test_a_computed_value_is_computed_anew(connection: Connection) -> None:
    total = root_of(connection)["total"] = ComputedAttribute()
    failing(connection, lambda: total.get(lambda: 1))
    assert total.get(lambda: 2) == 2


@pytest.mark.spec("TXN-52")
def test_a_commit_inside_is_refused(connection: Connection) -> None:
    with connection.savepoint():
        root_of(connection)["x"] = 1
        with pytest.raises(TransactionError, match="a savepoint"):
            connection.commit()
    failing(connection, lambda: root_of(connection).pop("x"))
    with pytest.raises(TransactionError), connection.savepoint():
        connection.commit()
    root_of(connection).pop("x")
    assert "x" not in root_of(connection)
    with pytest.raises(TransactionError), connection.savepoint(), connection.transaction():
        pass
    connection.commit()


@pytest.mark.spec("TXN-52")
def test_an_abort_inside_ends_it(connection: Connection) -> None:
    root = root_of(connection)

    def work() -> None:
        root["x"] = 1
        connection.abort()
        root["y"] = 2

    failing(connection, work)
    assert root.keys() == ["old"]
    root["before"] = 0  # is taken back by the abort, and stays so
    failing(connection, work)
    assert root.keys() == ["old"]
    assert not connection.changed
    with connection.savepoint():
        connection.abort()
        root["y"] = 2
        connection.commit()
    assert root.keys() == ["old", "y"]


@pytest.mark.spec("TXN-53")
def test_a_state_that_can_not_be_pickled_refuses_the_savepoint(connection: Connection) -> None:
    root = root_of(connection)
    root["lock"] = threading.Lock()
    old = root["old"]
    old.text = "changed"
    with pytest.raises(UnstorableError, match="'lock'"), connection.savepoint():
        raise AssertionError("it began")
    assert old._p_is_unsaved()
    assert root._p_is_unsaved()
    del root["lock"]
    connection.commit()
    assert old._p_is_saved()


@pytest.mark.spec("TXN-53")
def test_an_object_of_another_connection_refuses_the_savepoint(connection: Connection) -> None:
    root_of(connection)["foreign"] = Connection(MemoryStorage()).get_root()
    with pytest.raises(ForeignReferenceError), connection.savepoint():
        pass


class Changing(Persistent):
    """Changes another object when its state is asked for."""

    def __init__(self, other: Doc) -> None:
        self.other = other

    def __getstate__(self) -> dict[str, object]:
        self.other.text = "counted"
        return {"other": self.other}


@pytest.mark.spec("TXN-50")
def test_what_a_getstate_changes_meanwhile_is_kept_too(connection: Connection) -> None:
    root = root_of(connection)
    root["changing"] = Changing(root["old"])
    with connection.savepoint():
        pass
    root["old"].text = "x"
    failing(connection, lambda: setattr(root["old"], "text", "inside"))
    assert root["old"].text == "counted"


class Picky(Persistent):
    """Takes no state that has been asked for."""

    def __init__(self) -> None:
        self.n = 1

    def __setstate__(self, state: Any) -> None:
        raise ValueError("never")


@pytest.mark.spec("TXN-54")
def test_a_state_that_can_not_be_given_back_lets_the_connection_start_anew(connection: Connection) -> None:
    root = root_of(connection)
    root["picky"], root["new"] = picky, new = Picky(), Doc("new")
    with pytest.raises(Failed) as caught, connection.savepoint():
        raise Failed
    assert "never" in caught.value.__notes__[0]
    seen: list[type[Exception]] = []
    for _ in range(3):
        try:
            connection.commit()
        except Exception as error:  # one of the state, and one of the interrupt
            seen.append(type(error))
    assert InterruptedTransactionError in seen
    assert root.keys() == ["old"]
    root["new"] = new
    connection.commit()
    root["picky"] = picky
    with pytest.raises((ForeignReferenceError, UnstorableError)):
        connection.commit()


@pytest.mark.spec("TXN-34", "TXN-52")
def test_a_savepoint_belongs_to_its_task(connection: Connection) -> None:
    async def main() -> None:
        opened = asyncio.Event()
        ended = asyncio.Event()

        async def other() -> None:
            with connection.savepoint():
                opened.set()
                await ended.wait()

        task = asyncio.create_task(other())
        await opened.wait()
        for use in (connection.commit, connection.abort, lambda: connection.savepoint().__enter__()):
            with pytest.raises(ConcurrentUseError, match="savepoint"):
                use()
        ended.set()
        await task
        connection.commit()

    asyncio.run(main())


@pytest.mark.spec("TXN-54")
def test_a_savepoint_that_was_not_ended_lets_the_next_commit_start_anew(connection: Connection) -> None:
    for go_on in (connection.commit, lambda: connection.savepoint().__enter__()):
        savepoint = connection.savepoint()
        savepoint.__enter__()
        root_of(connection)["never"] = 1
        del savepoint  # as its `with` statement does it when the interrupt comes before __exit__() has done anything
        with pytest.raises(InterruptedTransactionError):
            go_on()
        assert "never" not in root_of(connection)


@pytest.mark.spec("TXN-54")
def test_an_inner_one_that_was_not_ended_is_noticed_at_the_end_of_the_outer_one(connection: Connection) -> None:
    with connection.savepoint():
        inner = connection.savepoint()
        inner.__enter__()
        root_of(connection)["never"] = 1
    with pytest.raises(InterruptedTransactionError):
        connection.commit()
    assert "never" not in root_of(connection)


# Interrupts


class World:
    """A connection with changes, and a block that makes more of them."""

    STORED: ClassVar[dict[object, object]] = {"old": "old", "tree": [0, 1, 2]}
    BEFORE: ClassVar[dict[object, object]] = {"old": "before", "tree": [0, 1, 2], "new": "new"}
    AFTER: ClassVar[dict[object, object]] = {"old": "inside", "tree": [0, 1, 2, 3], "new": "inside", "made": "made"}

    def __init__(self) -> None:
        self.connection = Connection(MemoryStorage())
        root = root_of(self.connection)
        root["old"], root["tree"] = Doc("old"), tree_of(*range(3))
        self.connection.commit()
        self.new = root["new"] = Doc("new")
        root["old"].text = "before"

    def block(self, fails: bool) -> None:
        root = root_of(self.connection)
        with self.connection.savepoint():
            with self.connection.savepoint():
                root["old"].text = self.new.text = "inside"
            root["made"] = Doc("made")
            root["tree"][3] = 3
            if fails:
                raise Failed

    def fail(self) -> None:
        try:
            self.block(True)
        except Failed:
            return

    def stored(self) -> dict[object, object]:
        """Return what a new connection finds."""
        self.connection.abort()
        storage = MemoryStorage()
        storage.begin()
        for oid, record in self.connection.storage.gen_oid_record():
            storage.store(oid, record)
        storage.end()
        with Connection(storage) as connection:
            return {
                name: [*value] if isinstance(value, BTree) else value.text
                for name, value in root_of(connection).items()
            }

    def check_goes_on(self, where: str) -> None:
        """Check that the connection, and the object that was new, can be used."""
        self.connection.abort()
        assert self.new.text in ("new", "inside"), where
        root = root_of(self.connection)
        root["again"] = self.new
        with self.connection.savepoint():
            root["more"] = Doc("more")
        self.connection.commit()
        found = self.stored()
        assert (found["again"], found["more"]) == (self.new.text, "more"), where
        self.connection.close()


@pytest.mark.spec("TXN-54", "TXN-30")
def test_an_interrupt_of_a_block_that_fails_stores_nothing_of_it() -> None:
    worlds: list[World] = []
    outcomes = set()

    def prepare() -> Callable[[], object]:
        worlds.append(World())
        return worlds[-1].fail

    for where in each_line(prepare):
        world = worlds.pop()
        is_stored = commits(world.connection)
        assert world.stored() == (World.BEFORE if is_stored else World.STORED), where
        world.check_goes_on(where)
        outcomes.add(is_stored)
    assert outcomes == {True, False}


@pytest.mark.spec("TXN-54", "TXN-30")
def test_an_interrupt_of_a_block_that_ends_stores_all_of_it_or_nothing() -> None:
    worlds: list[World] = []

    def prepare() -> Callable[[], object]:
        worlds.append(World())
        return lambda: worlds[-1].block(False)

    for where in each_line(prepare):
        world = worlds.pop()
        is_stored = commits(world.connection)
        assert world.stored() in ((World.BEFORE, World.AFTER) if is_stored else (World.STORED,)), where
        world.check_goes_on(where)


@pytest.mark.spec("TXN-54", "TXN-30")
def test_an_interrupt_of_starting_anew_after_another_one_stores_nothing_of_the_block() -> None:
    number = 0
    while True:
        world = World()
        where = interrupted_at(number, world.fail)
        if where is None:
            break
        if "restore" in where or "go_back" in where:
            for second in range(0, 60, 7):
                world = World()
                assert interrupted_at(number, world.fail) == where
                interrupted_at(second, lambda world=world: commits(world.connection))
                world.connection.abort()
                assert world.stored() == World.STORED
                root_of(world.connection)["ok"] = Doc("ok")
                world.connection.commit()
                assert world.stored() == World.STORED | {"ok": "ok"}
                assert world.new._p_connection is None or world.new.text in ("new", "inside")
        number += 1


@pytest.mark.spec("TXN-54")
def test_an_interrupt_in_the_block_itself_takes_it_back(connection: Connection) -> None:
    failing(connection, lambda: root_of(connection).update(x=1), Interrupt)
    connection.commit()
    assert root_of(connection).keys() == ["old"]
