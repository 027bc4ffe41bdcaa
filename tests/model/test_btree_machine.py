"""A stored BTree, with nodes of each class, compared with a dict, with calls in any order.

The range of the keys grows with the size of the nodes, so that trees of all degrees get deep; runs of adjacent keys
fill and empty whole nodes.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from durus.btree import BNode, BNode4, BNode8, BNode16, BNode32, BNode64, BNode128, BNode256, BNode512, BTree
from durus.error import ArgumentError
from durus.persistent import PersistentObject
from tests.model.collection_machine import (
    Call,
    CollectionMachine,
    Methods,
    Oracle,
    call_of,
    calls,
    no_args,
    others,
    public_methods,
    run,
)

NODE_CLASSES: list[type[BNode[int, int]]] = [
    BNode, BNode4, BNode8, BNode16, BNode32, BNode64, BNode128, BNode256, BNode512
]  # fmt: skip
DEGREES = [cls.minimum_degree for cls in NODE_CLASSES]
LAST = 60
"""Single keys are drawn from 0 to this, and multiplied by the stride of the machine."""

Keys = st.SearchStrategy[int]
Items = Iterator[tuple[int, int]]
Model = dict[int, int]

places = st.integers(0, LAST)
lengths = st.integers(1, LAST)
values = st.integers(0, 5)
closed = st.booleans()


def tree_of(plain: Model) -> BTree[int, int]:
    return BTree.from_sorted(sorted(plain.items()))


def reads(keys: Keys) -> Methods:
    ends = st.none() | keys
    operands = others(st.dictionaries(keys, values, max_size=3), tree_of)
    return {
        "__getitem__": st.tuples(keys),
        "__contains__": st.tuples(keys),
        "has_key": st.tuples(keys),
        "get": st.tuples(keys) | st.tuples(keys, values),
        "__len__": no_args(),
        "__bool__": no_args(),
        "__iter__": no_args(),
        "__reversed__": no_args(),
        "__hash__": no_args(),
        "__init__": no_args(),
        "__copy__": no_args(),
        "keys": no_args(),
        "values": no_args(),
        "items": no_args(),
        "iterkeys": no_args(),
        "itervalues": no_args(),
        "iteritems": no_args(),
        "items_backward": no_args(),
        "get_min_item": no_args(),
        "get_max_item": no_args(),
        "items_from": st.tuples(keys) | st.tuples(keys, closed),
        "items_backward_from": st.tuples(keys) | st.tuples(keys, closed),
        "items_range": st.tuples(keys, keys) | st.tuples(keys, keys, closed, closed),
        "irange": st.tuples(ends, ends) | st.tuples(ends, ends, st.tuples(closed, closed), st.booleans()),
        "from_sorted": st.tuples(st.lists(st.tuples(keys, values), max_size=4)),
        "check": no_args(),
        "__eq__": st.tuples(operands),
        "__ne__": st.tuples(operands),
        "__lt__": st.tuples(operands),
        "__le__": st.tuples(operands),
        "__gt__": st.tuples(operands),
        "__ge__": st.tuples(operands),
    }


def changes(keys: Keys) -> Methods:
    return {
        "__delitem__": st.tuples(keys),
        "pop": st.tuples(keys) | st.tuples(keys, values),
        "popitem": no_args(),
        "clear": no_args(),
        "setdefault": st.tuples(keys, values),
        "update": no_args() | st.sampled_from([({},), ([],)]),
    }


def assigns(keys: Keys) -> Methods:
    mappings = others(st.dictionaries(keys, values, max_size=5), tree_of)
    return {
        "__setitem__": st.tuples(keys, values),
        "add": st.tuples(keys) | st.tuples(keys, values),
        "update": st.tuples(mappings) | st.tuples(st.lists(st.tuples(keys, values), max_size=5)),
    }


# The model, which is a dict


def ascending(model: Model) -> Items:
    return iter(sorted(model.items()))


def descending(model: Model) -> Items:
    return iter(sorted(model.items(), reverse=True))


def end_item(model: Model, choose: Callable[[Any], tuple[int, int]]) -> tuple[int, int]:
    if not model:
        raise KeyError
    return choose(model.items())


def items_from(model: Model, key: int, closed: bool = True) -> Items:
    return (item for item in ascending(model) if item[0] > key or (closed and item[0] == key))


def items_backward_from(model: Model, key: int, closed: bool = False) -> Items:
    return (item for item in descending(model) if item[0] < key or (closed and item[0] == key))


def items_range(model: Model, start: int, end: int, closed_start: bool = True, closed_end: bool = False) -> Items:
    low, high = min(start, end), max(start, end)
    return (
        item
        for item in (descending(model) if end < start else ascending(model))
        if low <= item[0] <= high
        and (item[0] != start or (closed_start and (closed_end or start != end)))
        and (item[0] != end or closed_end)
    )


def irange(
    model: Model,
    minimum: int | None = None,
    maximum: int | None = None,
    inclusive: tuple[bool, bool] = (True, True),
    reverse: bool = False,
) -> Iterator[int]:
    return (
        key
        for key, _ in (descending(model) if reverse else ascending(model))
        if (minimum is None or key > minimum or (inclusive[0] and key == minimum))
        and (maximum is None or key < maximum or (inclusive[1] and key == maximum))
    )


def from_sorted(model: Model, items: list[tuple[int, int]]) -> Model:
    if [key for key, _ in items] != sorted({key for key, _ in items}):
        raise ArgumentError
    return dict(items)


def pop_least(model: Model) -> tuple[int, int]:
    item = end_item(model, min)
    del model[item[0]]
    return item


def add(model: Model, key: int, value: int = True) -> None:
    model[key] = value


class BTreeMachine(CollectionMachine):
    """The rules that are the same for all degrees."""

    node_class: type[BNode[int, int]]
    stride: int

    makes = frozenset(["__copy__", "__init__", "from_sorted"])
    oracle: ClassVar[Oracle] = {
        "has_key": dict.__contains__,
        "__iter__": lambda model: iter(sorted(model)),
        "__reversed__": lambda model: iter(sorted(model, reverse=True)),
        "__init__": lambda model: {},
        "__copy__": dict.copy,
        "keys": lambda model: sorted(model),
        "values": lambda model: [value for _, value in ascending(model)],
        "items": lambda model: list(ascending(model)),
        "iterkeys": lambda model: iter(sorted(model)),
        "itervalues": lambda model: (value for _, value in ascending(model)),
        "iteritems": ascending,
        "items_backward": descending,
        "get_min_item": lambda model: end_item(model, min),
        "get_max_item": lambda model: end_item(model, max),
        "items_from": items_from,
        "items_backward_from": items_backward_from,
        "items_range": items_range,
        "irange": irange,
        "from_sorted": from_sorted,
        "check": lambda model: None,
        "popitem": pop_least,
        "add": add,
        "__eq__": lambda model, other: model == other.plain,
        "__ne__": lambda model, other: model != other.plain,
    }

    def make(self) -> tuple[BTree[int, int], Model]:
        return BTree(self.node_class), {}

    def contents(self, model: Model) -> object:
        return sorted(model.items())

    def stored_contents(self, obj: BTree[int, int]) -> object:
        return obj.items()

    def parts(self) -> list[PersistentObject]:
        nodes = [self.it.root]
        for node in nodes:
            nodes.extend(node.nodes or [])
        return [self.it, *nodes]

    def part_contents(self, part: Any) -> object:
        return part.root if isinstance(part, BTree) else (part.items[:], list(part.nodes or []))

    def keys_of_run(self, start: int, length: int, is_backward: bool) -> list[int]:
        keys = range(start * self.stride, min(start + length, LAST) * self.stride)
        return list(reversed(keys) if is_backward else keys)

    @rule(start=places, length=lengths, is_backward=st.booleans(), value=values, commits=st.booleans())
    def insert_a_run(self, start: int, length: int, is_backward: bool, value: int, commits: bool) -> None:
        before = self.snapshot()
        for key in self.keys_of_run(start, length, is_backward):
            self.it[key] = value
            self.model[key] = value
        self.check_noted(before, may_note=True)
        if commits:
            self.commit()

    @rule(start=places, length=lengths, is_backward=st.booleans(), commits=st.booleans())
    def delete_a_run(self, start: int, length: int, is_backward: bool, commits: bool) -> None:
        before = self.snapshot()
        for key in self.keys_of_run(start, length, is_backward):
            if self.model.pop(key, None) is not None:
                del self.it[key]
        self.check_noted(before, may_note=True)
        if commits:
            self.commit()

    @precondition(lambda self: self.it.root.nodes is not None)
    @rule(pick=places, count=st.integers(1, 30))
    def delete_between_children(self, pick: int, count: int) -> None:
        """Delete keys of the root; a key from a leaf replaces each of them."""
        before = self.snapshot()
        for _ in range(count):
            root = self.it.root
            if root.nodes is not None:
                key = root.items[pick % len(root.items)][0]
                del self.it[key], self.model[key]
        self.check_noted(before, may_note=True)

    @rule(degree=st.sampled_from([*DEGREES, 1, 3, 1024]))
    def build_anew(self, degree: int) -> None:
        """Change the degree of the nodes, and change it back so that the machine keeps its own."""
        before = self.snapshot()
        is_built = degree in DEGREES and degree != self.it.root.minimum_degree
        assert self.it.set_bnode_minimum_degree(degree) == is_built
        self.check_noted(before, may_note=False)
        if is_built:
            assert self.it.root.minimum_degree == degree
            self.is_like_the_model()
            assert self.it.set_bnode_minimum_degree(self.node_class.minimum_degree)

    @rule()
    def build_of_sorted_items(self) -> None:
        self.connection.get_root()["it"] = BTree.from_sorted(sorted(self.model.items()), self.node_class)

    @rule(place=places)
    def note_a_change_of_a_value(self, place: int) -> None:
        key = place * self.stride
        changed = set(self.connection.changed)
        if key in self.model:
            self.it.note_change_of_bnode_containing_key(key)
            added = [self.connection.get(oid) for oid in self.connection.changed.keys() - changed]
            assert all(isinstance(node, BNode) and (key, self.model[key]) in node.items for node in added)
            assert len(added) <= 1
        else:
            with pytest.raises(KeyError):
                self.it.note_change_of_bnode_containing_key(key)
            assert set(self.connection.changed) == changed

    @precondition(lambda self: self.model)
    @rule(method=st.sampled_from(["__getitem__", "__contains__", "__delitem__", "get", "pop", "setdefault", "add"]))
    def refuse_a_key_that_has_no_order(self, method: str) -> None:
        before = self.snapshot()
        with pytest.raises(TypeError, match="can't be ordered"):
            call_of(method)(self.it, "a key")
        self.check_noted(before, may_note=False)

    @rule(
        place=places,
        is_backward=st.booleans(),
        how=st.sampled_from(["evict", "commit", "insert", "delete"]),
        run=st.tuples(places, lengths),
    )
    def go_on_with_an_iteration(self, place: int, is_backward: bool, how: str, run: tuple[int, int]) -> None:
        """Whatever happens meanwhile, no key comes twice, and every key that was in the tree all the time comes."""
        before = set(self.model)
        expected = sorted(before, reverse=is_backward)
        items = self.it.items_backward() if is_backward else self.it.iteritems()
        found = [key for key, _ in (next(items) for _ in expected[:place])]
        match how:
            case "evict":
                self.evict()
            case "commit":
                self.commit()
            case "insert":
                self.insert_a_run(*run, is_backward=False, value=0, commits=False)
            case "delete":
                self.delete_a_run(*run, is_backward=False, commits=False)
        found += [key for key, _ in items]
        assert found == sorted(set(found), reverse=is_backward)
        assert before & self.model.keys() <= set(found) <= before | self.model.keys()

    @invariant()
    def is_sound(self) -> None:
        tree = self.it
        tree.check()
        nodes = self.parts()[1:]
        assert tree.get_node_count() == len(nodes)
        depth, node = 1, tree.root
        while node.nodes is not None:
            depth, node = depth + 1, node.nodes[-1]
        assert tree.get_depth() == depth
        assert len(tree) == len(self.model)
        assert all(type(node) is self.node_class for node in nodes)


def machine_of(cls: type[BNode[int, int]]) -> type[BTreeMachine]:
    """Return a machine whose trees have nodes of this class."""
    step = max(2, cls.minimum_degree // 8)
    keys = places.map(lambda place: place * step)

    class Machine(BTreeMachine):
        node_class = cls
        stride = step

        @rule(found=st.lists(calls(reads(keys)), min_size=1, max_size=6))
        def read(self, found: list[Call]) -> None:
            self.check_reads(found)

        @rule(call=calls(changes(keys)))
        def change(self, call: Call) -> None:
            self.check_change(call)

        @rule(call=calls(assigns(keys)))
        def assign(self, call: Call) -> None:
            self.check_change(call, may_note=True)

        @rule(call=calls(assigns(keys)) | calls(changes(keys)))
        def change_in_another_client(self, call: Call) -> None:
            self.change_elsewhere(call)

    return Machine


@pytest.mark.spec("OBJ-30", "OBJ-31", "OBJ-33")
@pytest.mark.parametrize("cls", NODE_CLASSES)
@pytest.mark.filterwarnings("ignore:has_key")
def test_a_tree_is_what_the_model_is(cls: type[BNode[int, int]]) -> None:
    run(machine_of(cls), share=4 if cls.minimum_degree <= 8 else 8)


def test_the_machine_calls_every_method() -> None:
    keys = st.integers()
    by_rules = {"get_depth", "get_node_count", "set_bnode_minimum_degree", "note_change_of_bnode_containing_key"}
    assert public_methods(BTree) <= {*reads(keys), *changes(keys), *assigns(keys), *by_rules}
