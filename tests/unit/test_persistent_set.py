"""PersistentSet acts as set does, notes what is a change and nothing else, and compares with its like only."""

import copy
import pickle

import pytest

from durus.connection import Connection
from durus.persistent import PersistentObject
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


def test_methods_that_make_new_sets() -> None:
    s = PersistentSet([1, 2, 3])
    for result, expected in (
        (s | {5}, {1, 2, 3, 5}),
        ({5} | s, {1, 2, 3, 5}),
        (s & {1, 9}, {1}),
        ({1, 9} & s, {1}),
        (s - {1}, {2, 3}),
        ({1, 9} - s, {9}),
        (s ^ {1, 9}, {2, 3, 9}),
        ({1, 9} ^ s, {2, 3, 9}),
        (s | PersistentSet([7]), {1, 2, 3, 7}),
        (s.union([4], PersistentSet([5])), {1, 2, 3, 4, 5}),
        (s.intersection([2, 9], PersistentSet([2])), {2}),
        (s.difference([2], PersistentSet([3])), {1}),
        (s.symmetric_difference([3, 4]), {1, 2, 4}),
        (s.copy(), {1, 2, 3}),
        (copy.copy(s), {1, 2, 3}),
        (copy.deepcopy(s), {1, 2, 3}),
        (pickle.loads(pickle.dumps(s)), {1, 2, 3}),
        (PersistentSet(s), {1, 2, 3}),
    ):
        assert type(result) is PersistentSet
        assert result.s == expected
        assert result.s is not s.s
    assert s.s == {1, 2, 3}
    with pytest.raises(TypeError, match="takes a set, not list"):
        s | [1]  # type: ignore[operator]  # that is the point


def test_questions() -> None:
    s = PersistentSet([1, 2])
    assert (len(s), sorted(s), 1 in s, 3 in s, bool(s), bool(PersistentSet())) == (2, [1, 2], True, False, True, False)
    assert s.issubset([1, 2, 3])
    assert s.issuperset(PersistentSet([1]))
    assert s.isdisjoint([5])
    assert s == PersistentSet([2, 1])
    assert s != PersistentSet([1])
    assert s != {1, 2}
    assert s < PersistentSet([1, 2, 3])
    assert s <= s
    assert s > PersistentSet([1])
    assert s >= PersistentSet([1])
    with pytest.raises(TypeError):
        s < {1, 2, 3}  # noqa: B015 (that is the point)
    with pytest.raises(TypeError, match="unhashable"):
        hash(s)
    assert repr(s).startswith("<PersistentSet @")
    assert repr(s).endswith(" with 2 items: {1, 2}>")


def test_changes_are_made_and_noted_and_nothing_else_is() -> None:
    connection = Connection(MemoryStorage())
    s: PersistentSet[int] = PersistentSet([1, 2, 3])
    connection.get_root()["s"] = s
    connection.commit()
    for change, expected in (
        (lambda: s.add(4), {1, 2, 3, 4}),
        (lambda: s.discard(1), {2, 3}),
        (lambda: s.remove(1), {2, 3}),
        (lambda: s.pop(), None),
        (lambda: s.clear(), set()),
        (lambda: s.update([4], [5]), {1, 2, 3, 4, 5}),
        (lambda: s.intersection_update([1, 2], [2]), {2}),
        (lambda: s.difference_update([1], [2]), {3}),
        (lambda: s.symmetric_difference_update([1, 9]), {2, 3, 9}),
        (lambda: s.__ior__({8}), {1, 2, 3, 8}),
        (lambda: s.__iand__({1}), {1}),
        (lambda: s.__isub__({1}), {2, 3}),
        (lambda: s.__ixor__({1, 9}), {2, 3, 9}),
    ):
        change()
        assert list(connection.changed.values()) == [s]
        assert expected is None or s.s == expected
        connection.abort()
        assert s.s == {1, 2, 3}
    for no_change in (
        lambda: s.add(1),
        lambda: s.discard(9),
        lambda: s.update(),
        lambda: s.update([1], []),
        lambda: s.intersection_update([1, 2, 3, 4]),
        lambda: s.difference_update([9]),
        lambda: s.symmetric_difference_update([]),
        lambda: s.__ior__({1}),
    ):
        no_change()
        assert not connection.changed
    with pytest.raises(KeyError):
        s.remove(9)
    assert not connection.changed


def test_it_is_stored_as_4_3_stores_it() -> None:
    assert PersistentObject.__getstate__(PersistentSet([1])) == {"s": {1}}
