"""PersistentDict and PersistentList act as dict and list do, and note every change."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


def test_dict_methods() -> None:
    d: PersistentDict[str, int] = PersistentDict(a=1)
    d.update({"b": 2}, c=3)
    d.update(PersistentDict(d=4))
    assert (d.keys(), d.values()) == (["a", "b", "c", "d"], [1, 2, 3, 4])
    assert d.items() == list(d.iteritems()) == list(zip(d.iterkeys(), d.itervalues(), strict=True))
    assert d.data == {"a": 1, "b": 2, "c": 3, "d": 4} == d.copy().data
    assert d == d.copy()
    assert d != d.data
    assert d != 5
    assert list(reversed(d)) == ["d", "c", "b", "a"]
    assert (d | {"a": 9}).data == {"a": 9, "b": 2, "c": 3, "d": 4}
    assert list(({"z": 0, "a": 9} | d).items()) == [("z", 0), ("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert type({} | d) is type(d | {}) is PersistentDict
    assert PersistentDict.fromkeys("ab", 1) == PersistentDict(a=1, b=1)
    with pytest.raises(TypeError, match="takes a mapping"):
        d | [("a", 1)]  # type: ignore[operator]  # that is the point
    assert d.pop("a") == 1
    assert d.pop("a", 9) == 9
    assert d.popitem() == ("d", 4)
    assert (d.setdefault("b", 7), d.setdefault("e", 7)) == (2, 7)
    assert (d.get("zz"), d.get("e"), "e" in d, "zz" in d, len(d), list(d)) == (
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
    assert x[1:3] == [4, 3]
    assert type(x[1:3]) is list
    assert type(x.copy()) is PersistentList
    assert list(reversed(x)) == x[::-1]
    assert (x + [0])[-1] == 0 == ([0] + x)[0]  # noqa: RUF005 (the operators are the point)
    assert x * 2 == 2 * x
    for new in (x + [0], [0] + x, x * 2, 2 * x):  # noqa: RUF005 (likewise)
        assert type(new) is PersistentList
    x *= 2
    assert (len(x), 8 in x, x.pop(), x.index(4)) == (10, True, 1, 1)
    assert x < [9]
    assert x <= [9]
    assert x > [7]
    assert x >= [7]


class NamedDict(PersistentDict[str, int]):
    name = ""


class NamedList(PersistentList[int]):
    name = ""


class NamedSet(PersistentSet[int]):
    name = ""


@pytest.mark.parametrize("cls", [NamedDict, NamedList, NamedSet])
@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, lambda obj: obj.copy()])
def test_a_copy_has_the_other_attributes_of_its_class_too(cls: type[Any], make_copy: Callable[[Any], Any]) -> None:
    obj = cls()
    obj.name = "a name"
    copied = make_copy(obj)
    assert type(copied) is cls
    assert copied.name == "a name"
    assert copied == obj


def test_update_of_a_dict_takes_one_mapping_as_that_of_dict_does() -> None:
    d: PersistentDict[str, int] = PersistentDict(a=1)
    with pytest.raises(TypeError):
        d.update({}, {})  # type: ignore[call-overload]  # that is the point
    with pytest.raises(TypeError):
        d.update([("b", 2), 5])  # type: ignore[list-item]  # likewise
    assert d.items() == [("a", 1)]


def test_what_changes_a_list_or_a_dict_is_noted_and_nothing_else_is() -> None:
    connection = Connection(MemoryStorage())
    root = connection.get_root()
    x: PersistentList[int] = PersistentList([1, 2, 3])
    d: PersistentDict[str, int] = PersistentDict(a=1)
    root["x"], root["d"] = x, d
    connection.commit()
    changes: list[tuple[Callable[[], object], list[int]]] = [
        (lambda: x.__setitem__(0, 5), [5, 2, 3]),
        (lambda: x.__setitem__(slice(1, 3), PersistentList([7])), [1, 7]),
        (lambda: x.__delitem__(0), [2, 3]),
        (lambda: x.__delitem__(slice(0, 2)), [3]),
        (lambda: x.insert(1, 9), [1, 9, 2, 3]),
        (lambda: x.append(4), [1, 2, 3, 4]),
        (lambda: x.extend([4]), [1, 2, 3, 4]),
        (lambda: x.reverse(), [3, 2, 1]),
        (lambda: x.sort(key=lambda n: -n), [3, 2, 1]),
        (lambda: x.sort(reverse=True), [3, 2, 1]),
        (lambda: x.clear(), []),
        (lambda: x.pop(0), [2, 3]),
        (lambda: x.remove(2), [1, 3]),
        (lambda: x.__iadd__([4]), [1, 2, 3, 4]),
        (lambda: x.__imul__(2), [1, 2, 3, 1, 2, 3]),
    ]
    for change, expected in changes:
        change()
        assert list(connection.changed.values()) == [x]
        assert x == expected
        connection.abort()
    for call in (
        lambda: x.sort(),
        lambda: x.__imul__(1),
        lambda: x.extend([]),
        lambda: x.__delitem__(slice(5, 9)),
        lambda: x.__setitem__(slice(0, 2), [1, 2]),
        lambda: d.update({}),
        lambda: d.update([]),
        lambda: d.__ior__({}),
        lambda: d.setdefault("a", 7),
        lambda: d.pop("b", None),
        lambda: PersistentList().clear(),
    ):
        call()
        assert not connection.changed
    for error, failing in (
        (IndexError, lambda: x.__setitem__(9, 1)),
        (IndexError, lambda: x.__delitem__(9)),
        (IndexError, lambda: x.pop(9)),
        (ValueError, lambda: x.remove(9)),
        (KeyError, lambda: d.__delitem__("b")),
        (KeyError, lambda: d.pop("b")),
        (TypeError, lambda: d.__setitem__([], 1)),  # type: ignore[index]  # that is the point
    ):
        with pytest.raises(error):
            failing()
        assert not connection.changed
    d |= {"b": 2}
    assert list(connection.changed.values()) == [d]
    assert d.items() == [("a", 1), ("b", 2)]
    connection.abort()
    root.clear()
    assert list(connection.changed) == [root._p_oid]
