"""A stored PersistentDict against a dict, in any order of calls."""

from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from durus.persistent_dict import PersistentDict
from tests.model.collection_machine import (
    Call,
    CollectionMachine,
    Keywords,
    Methods,
    Oracle,
    calls,
    no_args,
    others,
    public_methods,
    run,
)

keys = st.sampled_from(["a", "b", "c", 1, 2, None])
values = st.integers(0, 5)
pairs = st.lists(st.tuples(keys, values), max_size=5)
no_keys: st.SearchStrategy[list[int]] = st.just([])
wrong = st.sampled_from([5, [5], [(1, 2, 3)], None])
named = st.dictionaries(st.sampled_from(["a", "b", "other"]), values, min_size=1).map(Keywords)
mappings = others(st.dictionaries(keys, values, max_size=5), PersistentDict)

READS: Methods = {
    "__getitem__": st.tuples(keys | no_keys),
    "__contains__": st.tuples(keys | no_keys),
    "has_key": st.tuples(keys),
    "get": st.tuples(keys | no_keys) | st.tuples(keys, values),
    "__len__": no_args(),
    "__bool__": no_args(),
    "__iter__": no_args(),
    "__reversed__": no_args(),
    "__hash__": no_args(),
    "keys": no_args(),
    "values": no_args(),
    "items": no_args(),
    "iterkeys": no_args(),
    "itervalues": no_args(),
    "iteritems": no_args(),
    "copy": no_args(),
    "__copy__": no_args(),
    "__init__": no_args()
    | st.tuples(named)
    | st.tuples(pairs, named)
    | st.tuples(mappings)
    | st.tuples(pairs)
    | st.tuples(wrong),
    "fromkeys": st.tuples(st.lists(keys, max_size=3)) | st.tuples(st.lists(keys, max_size=3), values),
    "__or__": st.tuples(mappings | pairs | wrong),
    "__ror__": st.tuples(mappings | wrong),
    "__eq__": st.tuples(mappings),
    "__ne__": st.tuples(mappings),
    "__lt__": st.tuples(mappings),
    "__le__": st.tuples(mappings),
    "__gt__": st.tuples(mappings),
    "__ge__": st.tuples(mappings),
}
CHANGES: Methods = {
    "__delitem__": st.tuples(keys | no_keys),
    "pop": st.tuples(keys) | st.tuples(keys, values),
    "popitem": no_args(),
    "clear": no_args(),
    "setdefault": st.tuples(keys | no_keys, values) | st.tuples(keys),
    "update": no_args() | st.sampled_from([({},), ([],), (PersistentDict(),)]) | st.tuples(wrong),
    "__ior__": st.sampled_from([({},), ([],), (PersistentDict(),)]) | st.tuples(wrong),
}
ASSIGNS: Methods = {
    "__setitem__": st.tuples(keys | no_keys, values),
    "update": st.tuples(mappings | pairs | named) | st.tuples(mappings | pairs, named) | st.tuples(mappings, mappings),
    "__ior__": st.tuples(mappings | pairs),
}


def is_equal(model: dict[Any, Any], other: Any) -> bool:
    """A plain dict is never equal to a persistent one."""
    return other.made is PersistentDict and model == other.plain


class DictMachine(CollectionMachine):
    makes = frozenset(["copy", "__copy__", "__init__", "fromkeys", "__or__", "__ror__"])
    oracle: ClassVar[Oracle] = {
        "has_key": dict.__contains__,
        "iterkeys": lambda model: iter(model),
        "itervalues": lambda model: iter(model.values()),
        "iteritems": lambda model: iter(model.items()),
        "__copy__": dict.copy,
        "__eq__": is_equal,
        "__ne__": lambda model, other: not is_equal(model, other),
    }

    def make(self) -> tuple[PersistentDict[Any, int], dict[Any, int]]:
        return PersistentDict({"a": 0}), {"a": 0}

    def contents(self, model: dict[Any, int]) -> object:
        return list(model.items())

    def stored_contents(self, obj: PersistentDict[Any, int]) -> object:
        return list(obj.data.items())

    @rule(found=st.lists(calls(READS), min_size=1, max_size=6))
    def read(self, found: list[Call]) -> None:
        self.check_reads(found)

    @rule(call=calls(CHANGES))
    def change(self, call: Call) -> None:
        self.check_change(call)

    @rule(call=calls(ASSIGNS))
    def assign(self, call: Call) -> None:
        self.check_change(call, may_note=True)

    @rule(call=calls(ASSIGNS) | calls(CHANGES))
    def change_in_another_client(self, call: Call) -> None:
        self.change_elsewhere(call)


@pytest.mark.filterwarnings("ignore:has_key")
def test_a_dict_is_what_the_model_is() -> None:
    run(DictMachine)


def test_the_machine_calls_every_method() -> None:
    assert public_methods(PersistentDict) <= {*READS, *CHANGES, *ASSIGNS}
