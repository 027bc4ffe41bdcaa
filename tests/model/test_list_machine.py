"""A stored PersistentList against a list, in any order of calls."""

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import rule

from durus.persistent_list import PersistentList
from tests.model.collection_machine import (
    Call,
    CollectionMachine,
    Keywords,
    Methods,
    Oracle,
    Other,
    as_it_is,
    calls,
    no_args,
    others,
    public_methods,
    run,
)

MAX_LENGTH = 20

# Each is a single object: setting a slice to the same objects is not a change.
items = st.sampled_from([0, 1, 2, 3, 4, 5, None])
lists = st.lists(items, max_size=6)
places = st.integers(-8, 8)
bounds = st.none() | places
steps = st.none() | st.sampled_from([-3, -2, -1, 1, 2, 3, 0])
slices = st.builds(slice, bounds, bounds, steps)
iterables = others(lists, PersistentList, tuple, iter)
operands = others(lists, PersistentList) | st.builds(Other, st.sampled_from([(), (1,), {1}, 5]), st.just(as_it_is))
keys = st.sampled_from([None, lambda item: -(item or 0), lambda item: 0, lambda item: item % 2])

READS: Methods = {
    "__getitem__": st.tuples(places | slices | st.sampled_from(["a", 1.0])),
    "__contains__": st.tuples(items),
    "__len__": no_args(),
    "__bool__": no_args(),
    "__iter__": no_args(),
    "__reversed__": no_args(),
    "__hash__": no_args(),
    "__init__": no_args() | st.tuples(iterables),
    "copy": no_args(),
    "__copy__": no_args(),
    "count": st.tuples(items),
    "index": st.tuples(items) | st.tuples(items, places) | st.tuples(items, places, places),
    "__add__": st.tuples(iterables | items),
    "__radd__": st.tuples(others(lists, PersistentList, tuple) | items),
    "__mul__": st.tuples(st.integers(-1, 3) | lists),
    "__rmul__": st.tuples(st.integers(-1, 3)),
    "__eq__": st.tuples(operands),
    "__ne__": st.tuples(operands),
    "__lt__": st.tuples(operands),
    "__le__": st.tuples(operands),
    "__gt__": st.tuples(operands),
    "__ge__": st.tuples(operands),
}
CHANGES: Methods = {
    "__setitem__": st.tuples(slices, iterables | items),
    "__delitem__": st.tuples(places | slices),
    "append": st.tuples(items),
    "extend": st.tuples(iterables | items),
    "insert": st.tuples(places, items),
    "pop": no_args() | st.tuples(places),
    "remove": st.tuples(items),
    "clear": no_args(),
    "reverse": no_args(),
    "sort": no_args() | st.tuples(st.builds(Keywords, st.fixed_dictionaries({"key": keys, "reverse": st.booleans()}))),
    "__iadd__": st.tuples(iterables | items),
    "__imul__": st.tuples(st.integers(-1, 3)),
}
ASSIGNS: Methods = {"__setitem__": st.tuples(places, items)}


class ListMachine(CollectionMachine):
    makes = frozenset(["copy", "__copy__", "__init__", "__add__", "__radd__", "__mul__", "__rmul__"])
    oracle: ClassVar[Oracle] = {
        "__copy__": list.copy,
        "__add__": lambda model, other: model + list(other),
        "__radd__": lambda model, other: list(other) + model,
        "__eq__": lambda model, other: model == other.plain,
        "__ne__": lambda model, other: model != other.plain,
        "__lt__": lambda model, other: model < other.plain,
        "__le__": lambda model, other: model <= other.plain,
        "__gt__": lambda model, other: model > other.plain,
        "__ge__": lambda model, other: model >= other.plain,
    }

    def make(self) -> tuple[PersistentList[Any], list[Any]]:
        return PersistentList([0]), [0]

    def contents(self, model: list[Any]) -> object:
        return model[:]

    def stored_contents(self, obj: PersistentList[Any]) -> object:
        return obj.data[:]

    @rule(found=st.lists(calls(READS), min_size=1, max_size=6))
    def read(self, found: list[Call]) -> None:
        self.check_reads(found)

    @rule(call=calls(CHANGES))
    def change(self, call: Call) -> None:
        if len(self.model) > MAX_LENGTH:
            call = Call("__delitem__", (slice(MAX_LENGTH // 2, None),))
        self.check_change(call)

    @rule(call=calls(ASSIGNS))
    def assign(self, call: Call) -> None:
        self.check_change(call, may_note=True)

    @rule(call=calls(CHANGES) | calls(ASSIGNS))
    def change_in_another_client(self, call: Call) -> None:
        self.change_elsewhere(call)


def test_a_list_is_what_the_model_is() -> None:
    run(ListMachine)


def test_the_machine_calls_every_method() -> None:
    assert public_methods(PersistentList) <= {*READS, *CHANGES, *ASSIGNS}
