"""A stored PersistentSet against a set, in any order of calls."""

from collections.abc import KeysView
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from durus.persistent_set import PersistentSet
from tests.model.collection_machine import (
    Call,
    CollectionMachine,
    Methods,
    Oracle,
    Other,
    calls,
    no_args,
    others,
    public_methods,
    run,
)


def as_keys(items: set[Any]) -> KeysView[Any]:
    return dict.fromkeys(items).keys()


items = st.integers(0, 7) | st.none()
no_items: st.SearchStrategy[list[int]] = st.just([])
sets = st.sets(items, max_size=6)
operands = others(sets, PersistentSet, frozenset)
operands_after = others(sets, PersistentSet, frozenset, as_keys)
no_operands = st.sampled_from([[1], 5, None])
iterables = others(sets, PersistentSet, frozenset, list, iter)
several = st.lists(iterables, max_size=3).map(tuple)

READS: Methods = {
    "__contains__": st.tuples(items | no_items),
    "__len__": no_args(),
    "__bool__": no_args(),
    "__iter__": no_args(),
    "__hash__": no_args(),
    "__init__": no_args() | st.tuples(iterables),
    "copy": no_args(),
    "__copy__": no_args(),
    "union": several,
    "intersection": several,
    "difference": several,
    "symmetric_difference": st.tuples(iterables),
    "issubset": st.tuples(iterables),
    "issuperset": st.tuples(iterables),
    "isdisjoint": st.tuples(iterables | no_operands),
    "__or__": st.tuples(operands_after | no_operands),
    "__and__": st.tuples(operands_after | no_operands),
    "__sub__": st.tuples(operands_after | no_operands),
    "__xor__": st.tuples(operands_after | no_operands),
    "__ror__": st.tuples(operands | no_operands),
    "__rand__": st.tuples(operands | no_operands),
    "__rsub__": st.tuples(operands | no_operands),
    "__rxor__": st.tuples(operands | no_operands),
    "__eq__": st.tuples(operands),
    "__ne__": st.tuples(operands),
    "__lt__": st.tuples(operands),
    "__le__": st.tuples(operands),
    "__gt__": st.tuples(operands),
    "__ge__": st.tuples(operands),
}
CHANGES: Methods = {
    "add": st.tuples(items | no_items),
    "discard": st.tuples(items | no_items),
    "remove": st.tuples(items | no_items),
    "clear": no_args(),
    "update": several,
    "intersection_update": several,
    "difference_update": several,
    "symmetric_difference_update": st.tuples(iterables),
    "__ior__": st.tuples(operands_after | no_operands),
    "__iand__": st.tuples(operands_after | no_operands),
    "__isub__": st.tuples(operands_after | no_operands),
    "__ixor__": st.tuples(operands_after | no_operands),
}


def plain(other: Other) -> Any:
    """A plain set treats a persistent one as an object of another kind in a comparison."""
    return other.plain if other.made is PersistentSet else object()


class SetMachine(CollectionMachine):
    makes = frozenset(
        [
            "copy",
            "__copy__",
            "__init__",
            "union",
            "intersection",
            "difference",
            "symmetric_difference",
            "__or__",
            "__and__",
            "__sub__",
            "__xor__",
            "__ror__",
            "__rand__",
            "__rsub__",
            "__rxor__",
        ]
    )
    oracle: ClassVar[Oracle] = {
        "__copy__": set.copy,
        "__eq__": lambda model, other: model == plain(other),
        "__ne__": lambda model, other: model != plain(other),
        "__lt__": lambda model, other: model < plain(other),
        "__le__": lambda model, other: model <= plain(other),
        "__gt__": lambda model, other: model > plain(other),
        "__ge__": lambda model, other: model >= plain(other),
    }

    def make(self) -> tuple[PersistentSet[Any], set[Any]]:
        return PersistentSet([0]), {0}

    def contents(self, model: set[Any]) -> object:
        return set(model)

    def stored_contents(self, obj: PersistentSet[Any]) -> object:
        return set(obj.s)

    @rule(found=st.lists(calls(READS), min_size=1, max_size=6))
    def read(self, found: list[Call]) -> None:
        self.check_reads(found)

    @rule(call=calls(CHANGES))
    def change(self, call: Call) -> None:
        self.check_change(call)

    @rule(call=calls(CHANGES))
    def change_in_another_client(self, call: Call) -> None:
        self.change_elsewhere(call)

    @rule()
    def pop(self) -> None:
        """The set chooses the item."""
        was_unsaved = self.it._p_is_unsaved()
        if self.model:
            self.model.remove(self.it.pop())
            assert self.it._p_is_unsaved()
        else:
            with pytest.raises(KeyError):
                self.it.pop()
            assert self.it._p_is_unsaved() == was_unsaved


def test_a_set_is_what_the_model_is() -> None:
    run(SetMachine)


def test_the_machine_calls_every_method() -> None:
    assert public_methods(PersistentSet) <= {*READS, *CHANGES, "pop"}
