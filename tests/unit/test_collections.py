"""PersistentDict and PersistentList act as dict and list do, and note every change."""

import copy

import pytest

from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.storage import MemoryStorage


def test_dict_methods() -> None:
    d: PersistentDict[str, int] = PersistentDict(a=1)
    d.update({"b": 2}, c=3)
    d.update(PersistentDict(d=4))
    assert (d.keys(), d.values()) == (["a", "b", "c", "d"], [1, 2, 3, 4])
    assert d.items() == list(d.iteritems()) == list(zip(d.iterkeys(), d.itervalues(), strict=True))
    assert d == {"a": 1, "b": 2, "c": 3, "d": 4} == d.copy().data
    assert d != 5
    assert d.pop("a") == 1
    assert d.pop("a", 9) == 9
    assert d.popitem() == ("d", 4)
    assert (d.setdefault("b", 7), d.setdefault("e", 7)) == (2, 7)
    assert (d.get("zz"), d.get("e"), "e" in d, d.has_key("zz"), len(d), list(d)) == (
        None,
        7,
        True,
        False,
        3,
        ["b", "c", "e"],
    )
    del d["e"]
    with pytest.raises(KeyError):
        del d["e"]
    d.clear()
    assert not d


def test_list_methods() -> None:
    x: PersistentList[int] = PersistentList([3, 1])
    x.append(2)
    x.extend([5])
    x.insert(0, 9)
    x += [4]
    x.sort()
    x.reverse()
    assert x == [9, 5, 4, 3, 2, 1] == copy.copy(x).data
    x[0] = 8
    del x[1]
    assert x[1:3] == PersistentList([4, 3])
    assert (x + [0])[-1] == 0 == ([0] + x)[0]  # noqa: RUF005 (the operators are the point)
    assert x * 2 == 2 * x
    x *= 2
    assert (len(x), 8 in x, x.pop(), x.index(4)) == (10, True, 1, 1)
    assert x < [9]
    assert x <= [9]
    assert x > [7]
    assert x >= [7]


def test_what_changes_nothing_is_no_change() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    root["a"] = PersistentList()
    connection.commit()
    root.update({})
    root.setdefault("a", 1)
    root.pop("zz", None)
    root["a"].extend([])  # type: ignore[attr-defined]  # root values are objects
    assert not connection.changed
    root.clear()
    assert list(connection.changed) == [root._p_oid]
