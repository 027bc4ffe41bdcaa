"""A stored collection compared with a plain one: the common part of the machines of the four collections.

A machine has tables of calls, method by method: calls that only read; calls that are noted as a change if and only if
they make one; and calls that assign, which may be noted even if the new value equals the old one. Each call is made on
the stored collection and on the plain one, the model, and must have the same outcome.
"""

import copy
import operator
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, KeysView, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from durus.btree import BTree
from durus.connection import Connection
from durus.error import TransactionError, WriteConflictError
from durus.file_storage import FileStorage
from durus.persistent import PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.shared_storage import SharedStorage

Args = tuple[Any, ...]
Methods = dict[str, st.SearchStrategy[Args]]
"""The arguments for each method, by its name."""
Oracle = Mapping[str, Callable[..., Any]]
"""What a model does, by the name of the method."""


class Call(NamedTuple):
    method: str
    args: Args


class Other(NamedTuple):
    """An argument that is a collection: the model gets `plain`, the stored collection gets `made` of it."""

    plain: Any
    made: Callable[[Any], Any]


class Itself(NamedTuple):
    """An argument that is the collection whose method is called."""


class Keywords(NamedTuple):
    """The last argument: the keyword arguments."""

    named: dict[str, Any]


def as_it_is(plain: Any) -> Any:
    return plain


def others(plain: st.SearchStrategy[Any], *made: Callable[[Any], Any]) -> st.SearchStrategy[Other | Itself]:
    return st.builds(Other, plain, st.sampled_from([as_it_is, *made])) | st.just(Itself())


def calls(methods: Methods) -> st.SearchStrategy[Call]:
    return st.one_of([st.builds(Call, st.just(name), args) for name, args in methods.items()])


def no_args() -> st.SearchStrategy[Args]:
    return st.just(())


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__bool__": bool,
    "__hash__": hash,
    "__iter__": iter,
    "__reversed__": reversed,
    "__init__": lambda obj, *args: type(obj)(*args),
    "__radd__": lambda obj, other: other + obj,
    "__rmul__": lambda obj, other: other * obj,
    "__rsub__": lambda obj, other: other - obj,
    "__rxor__": lambda obj, other: other ^ obj,
    "__ror__": lambda obj, other: other | obj,
    "__rand__": lambda obj, other: other & obj,
}
"""How to call methods whose function or operator is missing in the module `operator`."""


COMPARISONS = {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}


def call_of(method: str) -> Callable[..., Any]:
    if method in FUNCTIONS:
        return FUNCTIONS[method]
    if hasattr(operator, method) and method.startswith("__"):
        found: Callable[..., Any] = getattr(operator, method)
        return found
    return lambda obj, *args, **keywords: getattr(obj, method)(*args, **keywords)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda obj: pickle.loads(pickle.dumps(obj)),
}


def plain(result: Any, obj: object) -> Any:
    """Return a result in a form that can be compared with what a plain collection gives."""
    if result is obj:
        return Itself()
    if isinstance(result, PersistentDict | PersistentList):
        return result.data
    if isinstance(result, PersistentSet):
        return result.s
    if isinstance(result, BTree):
        return dict(result.items())
    if isinstance(result, Iterator | KeysView) or type(result) in (type({}.values()), type({}.items())):
        # The order of a set depends on its history.
        return Counter(result) if isinstance(obj, PersistentSet | set) else list(result)
    return result


def public_methods(cls: type) -> set[str]:
    """Return the names of the methods that applications call, directly or through an operator or a function."""
    slots = {name for base in cls.__mro__ for name in vars(base).get("__slots__", ())}
    added = set(dir(cls)) - set(dir(PersistentObject)) - slots
    of_types = {"__class_getitem__", "__abstractmethods__", "__orig_bases__", "__parameters__"}
    of_types |= {"__annotations__", "__annotate_func__", "__annotations_cache__"}
    return {name for name in added - of_types if name.endswith("__") or not name.startswith("_")} | COMPARISONS


class CollectionMachine(RuleBasedStateMachine):
    """The client's side: opening, transactions, evictions, another client; and calls of methods."""

    oracle: ClassVar[Oracle] = {}
    """What the model does where a stored collection differs from a plain one; comparisons get an Other."""
    makes: ClassVar[frozenset[str]] = frozenset()
    """The methods that return a new collection of the same class."""

    model: Any
    committed: Any

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())

    # What a machine defines for its collection

    def make(self) -> tuple[Any, Any]:
        """Return a new collection and a model of it."""
        raise NotImplementedError

    def contents(self, model: Any) -> object:
        """Return everything that can be observed about a model."""
        raise NotImplementedError

    def stored_contents(self, obj: Any) -> object:
        """Return the same for a stored collection."""
        raise NotImplementedError

    def parts(self) -> list[PersistentObject]:
        """Return the persistent objects that the collection is made of."""
        return [self.it]

    def part_contents(self, part: Any) -> object:
        return self.stored_contents(part)

    # The client's side

    @initialize(cache_size=st.sampled_from([1, 3, 100]))
    def start(self, cache_size: int) -> None:
        self.cache_size = cache_size
        self.open()
        obj, self.model = self.make()
        self.connection.get_root()["it"] = obj
        self.commit()

    def open(self) -> None:
        self.storage = SharedStorage(FileStorage(self.directory / "f", durability="os"))
        self.connection = Connection(self.storage.new_client(), self.cache_size)
        self.other = Connection(self.storage.new_client(), self.cache_size)

    def close(self) -> None:
        self.connection.close()
        self.other.close()
        self.storage.close()

    @property
    def it(self) -> Any:
        return self.connection.get_root()["it"]

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = copy.copy(self.model)
        self.other.abort()
        assert self.stored_contents(self.other.get_root()["it"]) == self.contents(self.committed)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = copy.copy(self.committed)

    @rule()
    def evict(self) -> None:
        """Drop the states of all objects that are not noted as changed."""
        cache = self.connection.get_cache()
        for obj in cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                cache.make_ghost(obj._p_oid)

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()
        self.model = copy.copy(self.committed)

    @rule()
    def pack(self) -> None:
        if self.connection.changed:
            with pytest.raises(TransactionError, match="not committed"):
                self.connection.pack()
            self.abort()
        self.connection.pack()

    @rule(how=st.sampled_from(sorted(COPIES)), is_stored=st.booleans())
    def copy(self, how: str, is_stored: bool) -> None:
        """A copy is a new object with equal contents, and shares none of them with the other one."""
        changed = dict(self.connection.changed)
        new = COPIES[how](self.it)
        assert type(new) is type(self.it)
        assert new._p_oid is new._p_connection is None
        assert self.stored_contents(new) == self.contents(self.model)
        assert self.connection.changed == changed
        if is_stored:
            self.connection.get_root()["it"] = new
        else:
            new.clear()
            assert self.connection.changed == changed

    # Calls

    def outcome(self, method: str, obj: Any, args: Args, is_model: bool) -> tuple[str, Any]:
        """Return what a call returns or raises."""
        function = call_of(method)
        given = []
        keywords: dict[str, Any] = {}
        for arg in args:
            if isinstance(arg, Keywords):
                keywords = arg.named
            elif isinstance(arg, Other):
                given.append(copy.copy(arg.plain) if is_model else arg.made(copy.copy(arg.plain)))
            else:
                given.append(obj if isinstance(arg, Itself) else arg)
        if is_model and method in self.oracle:
            function = self.oracle[method]
            if method in COMPARISONS:  # their outcome depends on the other operand
                given = [Other(obj, type(self.it)) if isinstance(arg, Itself) else arg for arg in args]
        try:
            result = function(obj, *given, **keywords)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            return "raised", type(error)
        is_made = method in self.makes if is_model else result is not obj and type(result) is type(obj)
        contents = copy.copy(plain(result, obj))
        if is_made:
            result.clear()  # which is independent of the collection that it was made from
        return "made" if is_made else "returned", contents

    def call_both(self, call: Call, obj: Any, model: Any) -> tuple[Any, bool]:
        """Make a call on a stored collection and on a model; return the model after it, and whether the call raised."""
        before = copy.copy(model)
        found = self.outcome(call.method, obj, call.args, is_model=False)
        expected = self.outcome(call.method, model, call.args, is_model=True)
        assert found == expected
        has_raised = expected[0] == "raised"
        return (before if has_raised else model), has_raised  # the model, for example a list, may be half sorted now

    def check_reads(self, calls: list[Call]) -> None:
        changed = dict(self.connection.changed)
        before = copy.copy(self.model)
        for call in calls:
            self.call_both(call, self.it, self.model)
        assert self.contents(self.model) == self.contents(before)
        assert self.connection.changed == changed

    def check_change(self, call: Call, may_note: bool = False) -> None:
        before, model = self.snapshot(), copy.copy(self.model)
        self.model, has_raised = self.call_both(call, self.it, self.model)
        has_changed = self.contents(self.model) != self.contents(model)
        self.check_noted(before, has_changed or (may_note and not has_raised))

    def snapshot(self) -> list[tuple[PersistentObject, bool, object]]:
        """Return the parts of the collection: whether they are noted as changed, and their contents."""
        return [(part, part._p_is_unsaved(), self.part_contents(part)) for part in self.parts()]

    def check_noted(self, before: list[tuple[PersistentObject, bool, object]], may_note: bool) -> None:
        """Every change must be noted, and nothing else, unless it `may`."""
        for part, was_unsaved, contents in before:
            if self.part_contents(part) != contents:
                assert part._p_is_unsaved()
            elif not may_note:
                assert part._p_is_unsaved() == was_unsaved

    def change_elsewhere(self, call: Call) -> None:
        """Another client makes a change and commits it; the changes of this one since its last commit are refused."""
        self.other.abort()
        model, _ = self.call_both(call, self.other.get_root()["it"], copy.copy(self.committed))
        has_changed = bool(self.other.changed)
        self.other.commit()
        if not has_changed:
            return
        if self.connection.changed:
            with pytest.raises(WriteConflictError):
                self.connection.commit()
        self.committed = model
        self.abort()

    @invariant()
    def is_like_the_model(self) -> None:
        assert self.stored_contents(self.it) == self.contents(self.model)

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.directory)


def run(machine: type[CollectionMachine], share: int = 2) -> None:
    """Run a machine on 20 examples, plus one for each `share` of those of the profile."""
    run_state_machine_as_test(
        machine, settings=settings(max_examples=20 + settings().max_examples // share, stateful_step_count=50)
    )
