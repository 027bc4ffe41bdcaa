"""Other class paths and oids in a record's pickles: what is changed, and that nothing else is."""

import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.error import RecordError
from durus.records.contents import read_contents
from durus.records.rewrite import rename_classes, renumber_references
from durus.serialize import compress_state, decompress_state
from durus.utils import int8_to_str

MODULE = "shop.old"
CLASS = b"\x80\x04cshop.old\nOrder\n."


class Reference(NamedTuple):
    """A reference, as a reading of a pickle finds it."""

    oid: bytes
    cls: type


def class_of(name: str, module: str = MODULE) -> type:
    """Return a class of that name, always the same."""
    if (module, name) not in CLASSES:
        CLASSES[module, name] = type(name, (Instance,), {"__module__": module, "__qualname__": name})
    return CLASSES[module, name]


class Instance:
    """Of a class that is stored by value."""

    state: object = None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.state == vars(other)["state"]

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__name__}({self.state!r})"


CLASSES: dict[tuple[str, str], type] = {}
NAMES = ["Order", "Item"]


class Writer(pickle._Pickler):
    """Writes instances of the classes above, and references, as the pickler of a connection does."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)

    def persistent_id(self, obj: object) -> tuple[bytes, type] | None:
        return (obj.oid, obj.cls) if type(obj) is Reference else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if (obj.__module__, obj.__qualname__) not in CLASSES:
            super().save_global(obj, name)  # type: ignore[misc]  # not in the stubs
        elif self.proto >= 4:  # type: ignore[attr-defined]  # not in the stubs
            self.save(obj.__module__)  # type: ignore[attr-defined]  # not in the stubs
            self.save(obj.__qualname__)  # type: ignore[attr-defined]  # not in the stubs
            self.write(pickle.STACK_GLOBAL)  # type: ignore[attr-defined]  # not in the stubs
            self.memoize(obj)  # type: ignore[attr-defined]  # not in the stubs
        else:
            self.write(f"c{obj.__module__}\n{obj.__qualname__}\n".encode())  # type: ignore[attr-defined]  # likewise
            self.memoize(obj)  # type: ignore[attr-defined]  # not in the stubs


class Reader(pickle.Unpickler):
    def persistent_load(self, reference: Any) -> Reference:
        return Reference(*reference)

    def find_class(self, module: str, name: str) -> Any:
        return class_of(name, module) if module.startswith("shop") else super().find_class(module, name)


def state_pickle(value: object, protocol: int) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


def loaded(data: bytes) -> tuple[type, object]:
    """Return class and state of data with the class pickle in GLOBAL form."""
    end = data.index(b".", data.index(b"\n", data.index(b"\n") + 1)) + 1
    file = io.BytesIO(data[:end] + decompress_state(data[end:]))
    reader = Reader(file)
    return reader.load(), reader.load()


def mapped(value: Any, name: Callable[[str, str], tuple[str, str]], oid: Callable[[bytes], bytes]) -> Any:
    """Return what a value is under other names and oids: the oracle."""

    def new_class(cls: type) -> type:
        module, new_name = name(cls.__module__, cls.__qualname__)
        return class_of(new_name, module)

    if isinstance(value, Reference):
        return Reference(oid(value.oid), new_class(value.cls))
    if isinstance(value, Instance):
        result = new_class(type(value))()
        result.state = mapped(value.state, name, oid)
        return result
    if isinstance(value, type):
        return new_class(value)
    if isinstance(value, dict):
        return {key: mapped(item, name, oid) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, name, oid) for item in value)
    return value


def identities(value: Any) -> list[int]:
    """Return which lists, dicts and instances in a value are identical: for each, the number of the first one."""
    numbers: dict[int, int] = {}
    found = []
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, list | dict | Instance):
            found.append(numbers.setdefault(id(part), len(numbers)))
        if isinstance(part, dict):
            pending += part.values()
        elif isinstance(part, Instance):
            pending.append(part.state)
        elif isinstance(part, list | tuple) and not isinstance(part, Reference):
            pending += part
    return found


def instance(name: str, state: object) -> object:
    result = class_of(name)()
    result.state = state
    return result


OIDS = st.integers(0, 3).map(int8_to_str)
LEAVES = (
    OIDS.map(bytes)
    | st.sampled_from([MODULE, "Order", "shop", "text", 1, None, b"shop.old"])
    | st.builds(Reference, OIDS, st.sampled_from(NAMES).map(class_of))
    | st.sampled_from(NAMES).map(class_of)
)
VALUES = st.recursive(
    LEAVES,
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "Order", MODULE]), part, max_size=3)
        | st.builds(instance, st.sampled_from(NAMES), part)
        | part.map(lambda one: [one, one])
    ),
    max_leaves=12,
)


def rename(module: str, name: str) -> tuple[str, str]:
    return ("shop.very.new", "Offer") if (module, name) == (MODULE, "Order") else (module, name)


def same(module: str, name: str) -> tuple[str, str]:
    return module, name


def renumber(oid: bytes) -> bytes:
    return int8_to_str(int.from_bytes(oid, "big") * 1000 + 7)


@pytest.mark.spec("REC-20", "REC-22")
@given(VALUES, st.integers(1, 5))
def test_renamed_classes_and_nothing_else(value: object, protocol: int) -> None:
    data = CLASS + compress_state(state_pickle(value, protocol))
    new = rename_classes(data, rename)
    assert loaded(new) == (class_of("Offer", "shop.very.new"), mapped(value, rename, bytes))
    assert identities(loaded(new)[1]) == identities(loaded(data)[1])
    assert rename_classes(new, rename) is new


@pytest.mark.spec("REC-21", "REC-22")
@given(VALUES, st.integers(1, 5))
def test_renumbered_references_and_nothing_else(value: object, protocol: int) -> None:
    data = CLASS + compress_state(state_pickle(value, protocol))
    new = renumber_references(data, renumber)
    assert loaded(new) == (class_of("Order"), mapped(value, same, renumber))
    assert identities(loaded(new)[1]) == identities(loaded(data)[1])
    again = renumber_references(rename_classes(new, rename), renumber)
    assert loaded(again)[1] == mapped(value, rename, lambda oid: renumber(renumber(oid)))


def test_an_oid_that_is_also_a_value_stays_one() -> None:
    oid = int8_to_str(5)
    data = CLASS + state_pickle([oid, Reference(oid, class_of("Item")), oid], 4)
    assert loaded(renumber_references(data, renumber))[1] == [
        oid,
        Reference(renumber(oid), class_of("Item")),
        oid,
    ]


def test_a_reference_that_occurs_once_takes_no_more_bytes() -> None:
    data = CLASS + state_pickle([Reference(int8_to_str(n), class_of("Item")) for n in range(9)], 4)
    assert len(renumber_references(data, renumber)) <= len(data)


@pytest.mark.spec("REC-20")
def test_names_of_records_that_4_3_and_python_2_wrote() -> None:
    shared_memo = b"\x80\x02cshop.old\nOrder\nq\x00." + b"\x80\x02}q\x01U\x05otherh\x00s."
    assert rename_classes(shared_memo, rename) == (
        b"\x80\x02cshop.very.new\nOffer\nq\x00." + b"\x80\x02}q\x01U\x05otherh\x00s."
    )
    old_instance = CLASS + b"\x80\x02(ishop.old\nOrder\nq\x01}q\x02b."
    assert rename_classes(old_instance, rename).endswith(b"(ishop.very.new\nOffer\nq\x01}q\x02b.")


NAMES_NOW = ("Line", "Offer", "Order")
NESTED = b"\x80\x02c__builtin__\ngetattr\nq\x00cshop.old\nOrder\nq\x01U\x04Lineq\x02\x86q\x03Rq\x04."


@pytest.mark.spec("REC-20")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("shop.old", "Order.Line"), ("shop.new", "Line")),
        (("shop.old", "Order"), ("shop.new", "Offer")),
        (("shop.old", "Order"), ("shop.new", "Order")),
    ],
)
def test_a_nested_class_as_4_3_names_it_gets_another_path(old: tuple[str, str], new: tuple[str, str]) -> None:
    def nested(module: str, name: str) -> tuple[str, str]:
        is_meant = module == old[0] and f"{name}.".startswith(f"{old[1]}.")
        return (new[0], new[1] + name[len(old[1]) :]) if is_meant else (module, name)

    state = b"\x80\x02]q\x05h\x04a."  # a list with the class, from the memo
    renamed = rename_classes(NESTED + state, nested)
    expected = ".".join(nested("shop.old", "Order.Line"))
    assert read_contents(renamed).class_name == expected
    owners = ("Offer", "Order") if new[1] != "Line" else ()
    classes = {name: type(name, (), {"Line": type("Line", (), {})} if name in owners else {}) for name in NAMES_NOW}

    class Finder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module, name) if module == "__builtin__" else classes[name]

    finder = Finder(io.BytesIO(renamed))
    cls = finder.load()
    assert cls is (classes["Line"] if new[1] == "Line" else vars(classes[new[1]])["Line"])
    assert finder.load() == [cls]


@pytest.mark.spec("REC-20")
def test_a_class_pickle_of_protocol_0_is_renamed() -> None:
    data = b"cshop.old\nOrder\np0\n." + b"\x80\x02}q\x01."
    assert rename_classes(data, rename).startswith(b"cshop.very.new\nOffer\np0\n.")


@pytest.mark.spec("REC-22")
def test_a_pair_or_an_oid_that_is_used_again_as_a_value_stays_one() -> None:
    oid = int8_to_str(5)
    twice = CLASS + b"\x80\x04C\x08" + oid + b"2cshop.old\nItem\n\x86Q\x86."
    assert loaded(renumber_references(twice, renumber))[1] == (oid, Reference(renumber(oid), class_of("Item")))
    pair = CLASS + b"\x80\x04(C\x08" + oid + b"cshop.old\nItem\n\x86\x94Qh\x00l."
    with pytest.raises(RecordError, match="can't be changed"):
        renumber_references(pair, renumber)


@pytest.mark.spec("REC-23")
@pytest.mark.parametrize("new", ["Other.Line", "Order.Other"])
def test_a_nested_class_as_4_3_names_it_gets_no_other_nested_path(new: str) -> None:
    with pytest.raises(RecordError, match="protocol 2 can't name"):
        rename_classes(NESTED + b"N.", lambda module, name: (module, new if name == "Order.Line" else name))


@pytest.mark.spec("REC-23")
def test_a_path_that_python_takes_for_one_of_python_2_is_refused() -> None:
    data = CLASS + state_pickle(class_of("Order"), 2)
    with pytest.raises(RecordError, match="which Python takes for that of a module of Python 2"):
        rename_classes(data, lambda module, name: ("Queue", name) if module == MODULE else (module, name))


@pytest.mark.spec("REC-23")
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"\x80\x02cshop.old\nOrder\n.", "can't name 'Outer.Offer', a nested class"),
        (b"\x80\x04c" + b"a" * 1000 + b"\nb\n.", "a name of"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04]\x94(C\x08\0\0\0\0\0\0\0\x05cshop.old\nOrder\n\x86\x940h\x01Qe.", "can't be changed"),
        (b"\x80\x04N", "can't be read"),
        (b"", "can't be read"),
    ],
)
def test_what_cannot_be_rewritten_is_an_error(state: bytes, message: str) -> None:
    def nest(module: str, name: str) -> tuple[str, str]:
        return module, f"Outer.{name.replace('Order', 'Offer')}"

    with pytest.raises(RecordError, match=message):
        renumber_references(rename_classes(CLASS + state, nest), renumber)


def test_nothing_that_is_named_is_run() -> None:
    data = CLASS + b"\x80\x04csys\nexit\nX\x05\0\0\0wrong\x85R."
    assert b"csys\nexit\n" in rename_classes(data, rename)
