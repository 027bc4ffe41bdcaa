"""Records of a few bytes by which a reader would take much memory or time. Statements REC-33 to REC-36."""

import os
import pickle
import re
import struct
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.connection import Connection
from durus.error import RecordError, UnstorableError
from durus.files.dfs20.layout import parse_index
from durus.objects import unpickling
from durus.objects.trust import Trust
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from durus.records.contents import read_contents
from durus.records.pickle_work import check_work, fits
from durus.records.plain import check_plain
from durus.records.record import pack_record
from durus.serialize import RecordConnection, class_pickle
from durus.storage import MemoryStorage

ONE = oid_from_int(1)
fits_here: Callable[[bytes, bool], bool] = vars(unpickling)["fits"]
"""What readers ask first: the C, if there is one."""
HERE = __name__
PROTO = b"\x80\x04"
HALF, MANY = 1 << 31, (1 << 63) - 1


class Node(Persistent):
    """An object with a state that a test gives."""


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def load(data: bytes, trust: Trust | None = None) -> Persistent:
    """Load an object from the data of its record."""
    connection = RecordConnection({ONE: pack_record(ONE, data, b"")}, lambda oid: b"", False, trust)
    obj = connection.get(ONE)
    assert isinstance(obj, Persistent)
    connection.load_state(obj)
    return obj


TOO_LONG = {
    "LONG_BINPUT": b"}r" + u32(100_000) + b".",
    "PUT": b"}p100000\n.",
    "PUT without an end": b"}p100000",
    "LONG_BINGET": b"}j" + u32(100_000) + b".",
    "BINBYTES": b"B" + u32(HALF) + b"abc.",
    "BINBYTES8": b"\x8e" + u64(MANY) + b"abc.",
    "BYTEARRAY8": b"\x96" + u64(MANY) + b"abc.",
    "BINUNICODE": b"X" + u32(HALF) + b"abc.",
    "BINUNICODE8": b"\x8d" + u64(MANY) + b"abc.",
    "BINSTRING": b"T" + u32(HALF) + b"abc.",
    "LONG4": b"\x8b" + u32(HALF) + b"abc.",
    "SHORT_BINUNICODE": b"\x8c\xffabc.",
    "FRAME": b"\x95" + u64(100_000) + b"}.",
    "a second FRAME": b"\x95" + u64(1) + b"}\x95" + u64(MANY) + b"0}.",
}


@pytest.mark.spec("REC-17", "REC-33", "REC-36")
@pytest.mark.parametrize("trust", [None, Trust([Node])], ids=["all trusted", "one class trusted"])
@pytest.mark.parametrize("name", TOO_LONG)
def test_a_step_that_asks_for_more_than_there_are_bytes_is_refused(name: str, trust: Trust | None) -> None:
    with pytest.raises(RecordError, match=r"^oid 1 "):
        load(class_pickle(Node) + PROTO + TOO_LONG[name], trust)
    assert not fits(PROTO + TOO_LONG[name], False)


@pytest.mark.spec("REC-33")
def test_a_class_pickle_is_held_to_the_same_limits() -> None:
    data = PROTO + b"c" + f"{HERE}\nNode\n".encode() + b"r" + u32(100_000) + b"." + PROTO + b"}."
    with pytest.raises(RecordError, match=r"^oid 1: .*memo entry 100000"):
        load(data)
    with pytest.raises(RecordError, match="memo entry 100000"):
        read_contents(data)


@pytest.mark.spec("REC-33")
def test_memo_entries_may_have_gaps() -> None:
    state = PROTO + b"}\x8c\x01aK\x05r" + u32(65_535) + b"sr" + u32(40_000) + b"0j" + u32(40_000) + b"."
    assert load(class_pickle(Node) + state).__dict__ == {"a": 5}


@pytest.mark.spec("REC-33")
def test_an_index_of_a_file_storage_2_is_held_to_the_same_limits() -> None:
    for steps in TOO_LONG.values():
        with pytest.raises(ValueError, match="it can't be read"):
            parse_index(zlib.compress(PROTO + steps))
    with pytest.raises(ValueError, match="DURUS_MAX_STATE"):
        parse_index(zlib.compress(bytes(65 << 20), 9))


KEY_STEPS = {
    "SETITEM": b"}%sNs.",
    "SETITEMS": b"}(%sNu.",
    "DICT": b"(%sNd.",
    "ADDITEMS": b"\x8f(%s\x90.",
    "FROZENSET": b"(%s\x91.",
}
WIDE = {
    "duplicates": b"K\x01" + b"2\x86" * 40,
    "duplicates after steps without effect": b"K\x01" + b"2\x86Nb(e(u(\x90(1(0" * 40,
    "memo entries": b"K\x01q\x00" + b"0h\x00h\x00\x86q\x00" * 40,
    "memo entries beside other values": b"K\x01q\x00" + b"0h\x00h\x00N\x87q\x00" * 40,
    "MEMOIZE": b"K\x01\x94" + b"".join(b"0h%ch%c\x86\x94" % (i, i) for i in range(40)),
    "text numbers": b"K\x01p0\n" + b"0g0\ng0\n\x86p0\n" * 40,
    "tuples of many": b"K\x01q\x00" + (b"0(" + b"h\x00" * 30 + b"tq\x00") * 8,
    "frozensets": b"(K\x01\x91q\x00" + b"0(h\x00h\x00\x85\x91q\x00" * 40,
}


@pytest.mark.spec("REC-35")
@pytest.mark.parametrize("use", KEY_STEPS)
@pytest.mark.parametrize("key", WIDE)
def test_a_key_whose_hash_would_take_very_long_is_refused(key: str, use: str) -> None:
    with pytest.raises(RecordError, match=r"^oid 1 .* more than 100000000 parts"):
        load(class_pickle(Node) + PROTO + KEY_STEPS[use].replace(b"%s", WIDE[key]), Trust([Node]))


@pytest.mark.spec("REC-35")
def test_the_hashes_of_large_integers_count() -> None:
    integer = b"\x8b" + u32(1_000_000) + b"\x01" * 1_000_000 + b"q\x00"
    keys = b"h\x00N" * 1000
    with pytest.raises(RecordError, match="parts"):
        load(class_pickle(Node) + PROTO + integer + b"0}(" + keys + b"u.", Trust([Node]))


@pytest.mark.spec("REC-34")
@pytest.mark.parametrize("use", KEY_STEPS)
def test_a_key_of_too_many_tuples_inside_each_other_is_refused(use: str) -> None:
    with pytest.raises(RecordError, match=r"^oid 1 .* 2000 nested tuples"):
        load(class_pickle(Node) + PROTO + KEY_STEPS[use].replace(b"%s", b"K\x01" + b"\x85" * 2000), Trust([Node]))


@pytest.mark.spec("REC-34")
def test_values_may_be_deeper_and_wider_than_keys() -> None:
    deep = PROTO + b"}\x8c\x01a" + b"K\x01" + b"\x85" * 5000 + b"s."
    wide = PROTO + b"}\x8c\x01a" + b"K\x01" + b"2\x86" * 60 + b"s."
    key = PROTO + b"}\x8c\x01a}" + b"K\x01" + b"\x85" * 1000 + b"K\x07ss."
    assert all("a" in load(class_pickle(Node) + state).__dict__ for state in (deep, wide, key))


@pytest.mark.spec("REC-35")
def test_a_state_that_could_not_be_loaded_is_refused_by_the_commit() -> None:
    connection = Connection(MemoryStorage(), classes=[Node])
    shared = (0,) * 20_000
    connection.root["many"] = {(i, shared): i for i in range(5100)}
    with pytest.raises(UnstorableError, match=r"parts, all occurrences counted.*root"):
        connection.commit()
    connection.root["many"] = {(i, i): shared for i in range(5100)}
    connection.commit()


@pytest.mark.spec("REC-35")
def test_a_list_of_trusted_names_limits_how_often_a_text_becomes_bytes() -> None:
    text = b"X" + u32(1_000_000) + b"a" * 1_000_000 + b"q\x01"
    call = b"h\x00h\x01\x8c\x06latin1\x86R0"
    state = PROTO + b"c_codecs\nencode\nq\x000" + text + b"0" + call * 101 + b"}."
    with pytest.raises(RecordError, match="same text"):
        load(class_pickle(Node) + state, Trust([Node]))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.tuples(st.integers(), st.integers()), inner, max_size=4)
        | st.frozensets(st.integers() | st.tuples(st.integers()), max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.spec("REC-33")
@given(plain, st.integers(0, 5))
def test_what_python_pickles_is_not_refused(value: object, protocol: int) -> None:
    pickles = pickle.dumps([value, value], protocol)
    check_work(pickles, False)
    if protocol > 1:
        assert fits_here(pickles, False)
        assert fits(pickles, False)


def problem_of(pickles: bytes, first_only: bool) -> str | None:
    try:
        check_work(pickles, first_only)
    except RecordError as error:
        return str(error)
    return None


steps = st.sampled_from(
    [
        *(bytes([code]) for code in b"2(t}])NsueaO01dlbRQo.\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94\xff"),
        *(
            b"K\x01",
            b"q\x00",
            b"h\x00",
            b"q\x01",
            b"h\x01",
            b"r\x00\x00\x01\x00",
            b"j\x00\x00\x01\x00",
            b"p7\n",
            b"g7\n",
        ),
        *(b"\x8c\x01a", b"C\x08oidoidoi", b"\x8a\x02ab", b"\x8b" + u32(900) + bytes(900), b"cm\nn\n", b"I5\n"),
        *(b"\x95" + u64(3), b"\x80\x04", b"2\x86" * 30, b"\x85" * 1001),
    ]
)


@pytest.mark.spec("REC-35")
@given(st.lists(steps, max_size=40).map(b"".join), st.booleans())
def test_what_is_called_harmless_is_harmless(pickles: bytes, first_only: bool) -> None:
    problem = problem_of(pickles, first_only)
    assert fits_here(pickles, first_only) == fits(pickles, first_only)
    if fits(pickles, first_only):  # Python's unpicklers refuse other nonsense by themselves
        assert problem is None or re.search("takes more from|does not exist|not a step|parts|inside", problem)


# Steps that would change what the pickle did not make

LIST_CLASS = b"cdurus.persistent_list\nPersistentList\n"
A_LIST = b"C\x08" + oid_from_int(2) + LIST_CLASS + b"\x86Q"
A_CLASS = b"cfractions\nFraction\n"
CHANGES = {
    "SETITEM": A_LIST + b"K\x00K\x07s",
    "SETITEMS": A_LIST + b"(K\x00K\x07u",
    "APPEND": A_LIST + b"K\x07a",
    "APPENDS": A_LIST + b"(K\x07e",
    "ADDITEMS": A_LIST + b"(K\x07\x90",
    "BUILD": A_LIST + b"}b",
    "APPEND to a memo entry": A_LIST + b"\x940h\x00K\x07a",
    "APPEND to a duplicate": A_LIST + b"20K\x07a",
    "APPEND after POP of a mark": A_LIST + b"(0K\x07a",
    "APPEND after POP_MARK": A_LIST + b"(K\x011K\x07a",
    "APPEND below another reference": A_LIST + A_LIST + b"a",
    "APPENDS after a tuple": A_LIST + b"(K\x01t0(K\x07e",
    "BUILD of a class": A_CLASS + b"N}\x86b",
    "BUILD of a class by STACK_GLOBAL": b"\x8c\x09fractions\x8c\x08Fraction\x93N}\x86b",
    "APPEND to sys.path": b"csys\npath\n\x8c\x01xa",
    "SETITEM of os.environ": b"cos\nenviron\n\x8c\x01x\x8c\x01ys",
}


def graph(steps: bytes, trust: Trust | None = None) -> RecordConnection:
    """Return a connection with an object 1, in whose state a value is made by `steps`, and a list 2."""
    state = PROTO + b"}\x8c\x02it" + steps + b"s."
    records = {
        ONE: pack_record(ONE, class_pickle(Node) + state, b""),
        oid_from_int(2): pack_record(
            oid_from_int(2), PROTO + LIST_CLASS + b"." + PROTO + b"}\x8c\x04data]K\x05as.", b""
        ),
    }
    return RecordConnection(records, lambda oid: b"", False, trust)


@pytest.mark.spec("PICKLE-9", "REC-17")
@pytest.mark.parametrize("trust", [None, Trust([Node, Fraction])], ids=["all trusted", "two classes trusted"])
@pytest.mark.parametrize("is_loaded", [False, True], ids=["a ghost", "loaded"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_would_change_another_object_or_a_class_is_refused(
    change: str, is_loaded: bool, trust: Trust | None
) -> None:
    connection = graph(CHANGES[change], trust)
    obj, other = connection.get(ONE), connection.get(oid_from_int(2))
    assert isinstance(obj, Node)
    assert isinstance(other, PersistentList)
    before = sys.path.copy(), dict(os.environ), dict(vars(Fraction))
    if is_loaded:
        other._p_load_state()
    with pytest.raises(RecordError, match=r"^oid 1 .* would change an object or a class that it did not make"):
        obj._p_load_state()
    assert (sys.path, dict(os.environ), dict(vars(Fraction))) == before
    assert other._p_is_saved() == is_loaded
    assert not other._p_is_unsaved()
    assert list(other) == [5]


@pytest.mark.spec("CMD-12", "PICKLE-9")
@pytest.mark.parametrize("change", CHANGES)
def test_such_a_state_is_a_fault_for_a_check(change: str) -> None:
    with pytest.raises(RecordError, match="would change an object or a class that it did not make"):
        check_plain(class_pickle(Node) + PROTO + b"}\x8c\x02it" + CHANGES[change] + b"s.")


@pytest.mark.spec("PICKLE-9")
def test_a_state_may_change_what_it_made_beside_a_reference() -> None:
    steps = b"](" + A_LIST + b"}K\x01K\x02s](K\x03K\x04e" + A_CLASS + A_LIST + b"e"
    obj: Any = graph(steps).get(ONE)
    assert obj.it[1:4] == [{1: 2}, [3, 4], Fraction]
    assert obj.it[0] is obj.it[4]


parts = st.sampled_from(
    [
        *(bytes([code]) for code in b"(]}Nsuaeb02t\x85\x86\x90\x91\x94"),
        *(A_LIST, A_LIST + b"s", A_LIST + b"u", LIST_CLASS, LIST_CLASS + b"\x94", LIST_CLASS + b")\x81", b"\x82\x01"),
        *(b"h\x00", b"q\x00", b"\x8c\x01k", b"\x8c\x01k\x94", b"K\x01", b"C\x08oidoidoih\x00\x86Q"),
    ]
)


@pytest.mark.spec("PICKLE-9")
@given(st.lists(parts, max_size=20).map(b"".join), st.booleans())
def test_pickles_that_are_found_usual_change_nothing_that_they_did_not_make(steps: bytes, first_only: bool) -> None:
    pickles = PROTO + steps + b"."
    assert fits_here(pickles, first_only) == fits(pickles, first_only)
    if fits(pickles, first_only):
        assert "would change" not in (problem_of(pickles, first_only) or "")
