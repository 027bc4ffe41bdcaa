"""Keys of a BTree that have no total order: what a write refuses, and what a lookup finds."""

import copy
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import total_ordering
from typing import Any

import pytest

from durus.btree import BNode, BTree
from durus.persistent import Persistent

NAN = float("nan")


class ByRank:
    """Ordered by one attribute, and equal only to itself."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __lt__(self, other: "ByRank") -> bool:
        return self.rank < other.rank


@total_ordering
class Divisor:
    """A partial order: less than what it divides."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Divisor) and self.number == other.number

    def __lt__(self, other: "Divisor") -> bool:
        return self.number != other.number and other.number % self.number == 0

    __hash__ = None  # type: ignore[assignment]  # not needed


class PersistentRank(Persistent, ByRank):
    pass


class Broken:
    """Can't be compared."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __lt__(self, other: object) -> bool:
        raise self.error("broken order")

    __gt__ = __le__ = __ge__ = __lt__

    def __eq__(self, other: object) -> bool:
        raise self.error("broken equality")

    __hash__ = None  # type: ignore[assignment]  # not needed


class Array:
    """Its comparisons return arrays, one of which is true only if all of it is; an array of two can't tell."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __bool__(self) -> bool:
        if len(self.values) > 1:
            raise ValueError("the truth value of an array is ambiguous")
        return bool(self.values[0])

    def __lt__(self, other: "Array") -> "Array":
        return Array(*(a < b for a, b in zip(self.values, other.values, strict=True)))

    def __ge__(self, other: "Array") -> "Array":
        return Array(*(a >= b for a, b in zip(self.values, other.values, strict=True)))

    def __eq__(self, other: object) -> "Array":  # type: ignore[override]  # as numpy has it
        return Array(*(a == b for a, b in zip(self.values, other.values, strict=True)))  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]  # not needed


def tree_of(*keys: Any) -> BTree[Any, Any]:
    tree: BTree[Any, Any] = BTree(BNode)
    for number, key in enumerate(keys):
        tree[key] = number
    return tree


def stored(*keys: Any, degree: type[BNode[Any, Any]] = BNode) -> BTree[Any, Any]:
    """Return a tree of one leaf as Durus 4.3 wrote it, whatever the order of its keys."""
    tree: BTree[Any, Any] = BTree(degree)
    tree.root.items = [(key, number) for number, key in enumerate(keys)]
    return tree


UNORDERED: dict[str, tuple[list[Any], Any]] = {
    "frozensets": ([frozenset({1})], frozenset({2})),
    "frozensets in tuples": ([("a", frozenset({1}))], ("a", frozenset({2}))),
    "equal in one attribute": ([ByRank(1)], ByRank(1)),
    "persistent objects": ([PersistentRank(1)], PersistentRank(1)),
    "divisors": ([Divisor(2), Divisor(4), Divisor(8)], Divisor(3)),
    "strings beside numbers": ([1, 2, 3], "x"),
    "strings beside numbers in tuples": ([(0, 1), (1, 1)], (1, "x")),
    "None": ([1, 2], None),
    "float NaN": ([1.0, 2.0], NAN),
    "Decimal NaN": ([Decimal(1), Decimal(2)], Decimal("NaN")),
    "NaN in a tuple": ([(1.0, 5), (2.0, 5)], (NAN, 7)),
    "NaN deep in tuples": ([(1, (1.0, 5))], (1, (2.0, (NAN,)))),
    "sets": ([frozenset({1}), frozenset({1, 2}), frozenset({1, 2, 3, 4})], frozenset({1, 2, 5})),
}
WRITES: dict[str, Callable[[BTree[Any, Any], Any], object]] = {
    "[]": lambda tree, key: tree.__setitem__(key, "new"),
    "setdefault": lambda tree, key: tree.setdefault(key, "new"),
    "update": lambda tree, key: tree.update([(key, "new")]),
    "add": lambda tree, key: tree.add(key),
}


@pytest.mark.spec("OBJ-50")
@pytest.mark.parametrize("name", UNORDERED)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_of_a_key_without_order_is_refused_and_changes_nothing(name: str, write: str) -> None:
    keys, key = UNORDERED[name]
    tree = tree_of(*keys)
    before = tree.items()
    with pytest.raises(TypeError, match="order"):
        WRITES[write](tree, key)
    assert tree.items() == before
    assert [tree.get(each) for each in keys] == list(range(len(keys)))


@pytest.mark.spec("OBJ-50")
def test_the_error_shows_both_keys_and_shortens_them() -> None:
    tree = tree_of(frozenset({"a"}))
    with pytest.raises(
        TypeError, match=r"frozenset\(\{'a'\}\) and frozenset\(\{'b+\.\.\.b+'\}\) have no order"
    ) as found:
        tree[frozenset({1000 * "b"})] = 1
    assert len(str(found.value)) < 400


@pytest.mark.spec("OBJ-50")
@pytest.mark.parametrize("name", UNORDERED)
def test_sorted_items_and_copies_go_by_the_same_rule(name: str) -> None:
    keys, key = UNORDERED[name]
    with pytest.raises(TypeError):
        BTree.from_sorted((each, 0) for each in [*keys, key])
    with pytest.raises(TypeError):
        copy.copy(stored(*keys, key))
    with pytest.raises(TypeError):
        stored(*keys, key).set_bnode_minimum_degree(4)


@pytest.mark.spec("OBJ-50")
def test_a_tree_without_order_takes_no_new_key_beside_those_that_have_none() -> None:
    tree = stored(frozenset({1}), frozenset({2}))
    with pytest.raises(TypeError, match="have no order"):
        tree[frozenset({1})] = "new"
    assert tree.items() == [(frozenset({1}), 0), (frozenset({2}), 1)]


@pytest.mark.spec("OBJ-50", "OBJ-51")
def test_keys_of_types_that_have_one_order_go_together() -> None:
    tree = tree_of(2, False, True, 1.5, Decimal(3))
    assert tree.keys() == [False, True, 1.5, 2, Decimal(3)]
    assert tree[1] == tree[True] == tree[1.0] == 2
    tree[0] = "zero"
    assert tree[False] == "zero"
    assert tree.keys()[0] is False


@pytest.mark.spec("OBJ-51")
@pytest.mark.parametrize("name", [name for name in UNORDERED if "beside" not in name and name != "None"])
def test_a_lookup_never_gives_the_value_of_another_key(name: str) -> None:
    keys, key = UNORDERED[name]
    tree = tree_of(*keys)
    assert tree.get(key) is None
    assert key not in tree
    assert tree.pop(key, "none") == "none"
    for call in (tree.__getitem__, tree.__delitem__, tree.pop, tree.note_change_of_bnode_containing_key):
        with pytest.raises(KeyError):
            call(key)
    assert tree.keys() == keys


@pytest.mark.spec("OBJ-51")
def test_a_lookup_in_a_leaf_without_order_finds_every_key_that_4_3_finds() -> None:
    # 4.3 looks for the first key that is >= the one asked for.
    keys = [frozenset({n}) for n in range(9)]
    tree = stored(*keys)
    assert [tree[key] for key in keys] == list(range(9))
    assert list(tree.items_from(keys[3])) == tree.items()[3:]
    assert list(tree.items_backward_from(keys[3])) == tree.items()[2::-1]
    assert list(tree.items_range(keys[3], frozenset({3, 7}), closed_end=True)) == tree.items()[3:]
    del tree[keys[4]]
    assert tree.pop(keys[8]) == 8
    assert tree.keys() == keys[:4] + keys[5:8]
    numbers = stored(1.0, NAN, 2.0, 3.0)
    assert [numbers.get(key) for key in (1.0, 2.0, 3.0, NAN, 2.5)] == [0, 2, 3, None, None]


@pytest.mark.spec("OBJ-51")
def test_an_iteration_gives_the_items_as_they_are_stored() -> None:
    tree: BTree[Any, Any] = BTree(BNode)
    children = []
    for start in 40, 0, 20:
        node: BNode[Any, Any] = BNode()
        node.items = [(frozenset({n}), n) for n in range(start, start + 3)]
        children.append(node)
    tree.root.items = [(frozenset({90}), 90), (frozenset({10}), 10)]
    tree.root.nodes = children
    assert tree.values() == [40, 41, 42, 90, 0, 1, 2, 10, 20, 21, 22]
    assert list(reversed(tree)) == tree.keys()[::-1]
    assert [value for _, value in tree.items_from(frozenset({21}))] == [21, 22]


@pytest.mark.spec("OBJ-52")
@pytest.mark.parametrize("key", [NAN, (NAN,), (1, (NAN, 2)), Decimal("NaN"), frozenset, Broken(TypeError)])
def test_a_key_without_order_is_refused_by_an_empty_tree_too(key: object) -> None:
    tree = tree_of()
    with pytest.raises(TypeError):
        tree[key] = 1
    assert tree.items() == []


@pytest.mark.spec("OBJ-53")
@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError, ValueError])
def test_an_error_of_a_comparison_comes_out_and_nothing_is_changed(error: type[Exception]) -> None:
    tree = tree_of(1, 2, 3)
    key = Broken(error)
    for call in (
        lambda: tree[key],
        lambda: tree.get(key),
        lambda: key in tree,
        lambda: tree.__delitem__(key),
        lambda: tree.__setitem__(key, 1),
        lambda: list(tree.items_from(key)),
    ):
        with pytest.raises(error, match="broken"):
            call()
    assert tree.items() == [(1, 0), (2, 1), (3, 2)]


@pytest.mark.spec("OBJ-53")
def test_comparisons_may_return_what_is_true_or_false_only() -> None:
    tree = tree_of(Array(1), Array(3), Array(2))
    assert [key.values for key in tree] == [(1,), (2,), (3,)]
    assert tree[Array(3)] == 1
    assert tree.get(Array(4)) is None
    with pytest.raises(ValueError, match="ambiguous"):
        tree_of(Array(1, 2))[Array(2, 1)] = 1


@pytest.mark.parametrize(
    "keys",
    [
        "Decimal(2), Decimal('2.5')",
        "Fraction(1, 3), Fraction(1, 2)",
        "UUID(int=1), UUID(int=2)",
        "(1, Decimal(1)), (1, Decimal(2))",
    ],
)
def test_the_module_of_an_ordered_type_is_imported_by_its_user(keys: str) -> None:
    program = (
        "import sys; before = set(sys.modules); from durus import BTree; from durus.btree import ORDERED_TYPES;"
        "print(sorted({'decimal', 'fractions', 'uuid'} & set(sys.modules) - before));"  # coverage has some of them
        "from decimal import Decimal; from fractions import Fraction; from uuid import UUID;"
        f"low, high = {keys}; tree = BTree(); tree[high] = 2; tree[low] = 1; count = len(ORDERED_TYPES);"
        "print(list(tree.values()), tree[low], list(tree.items_range(low, high, closed_end=True))[1][1], count)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "[1, 2] 1 2 10"]
