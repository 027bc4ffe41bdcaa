"""Records are read for checks without building what their pickles ask for."""

import io
import pickle
import pickletools
import resource
import zlib
from collections import OrderedDict

import pytest

from durus.connection import Connection
from durus.error import RecordError
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.contents import read_contents
from durus.records.pickle_machine import Name, PickleMachine
from durus.records.record import unpack_record
from durus.storage import MemoryStorage

CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
MUCH = 256 << 20


def chain(length: int) -> bytes:
    """Steps that make C.Next.Next and so on."""
    getattr_of = b"c__builtin__\ngetattr\n"
    return getattr_of * length + b"cm\nC\n" + b"U\4Next\x86R" * length


def doubled(times: int) -> bytes:
    """Steps that make a pair of pairs of pairs: little memory, and endless to print or to hash."""
    return b")\x94" + b"".join(b"0h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(times))


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (b"\x80\x04Nr\xff\xff\xff\x0f.", "memo entry"),
        (b"\x80\x04Np2000000000\n.", "memo entry"),
        (b"\x80\x04ca\nb\nca\nb\nR.", None),
        (b"\x80\x04ca\nb\n\x8c\x01aR.", None),
        (b"\x80\x04}" + doubled(60) + b"Ns.", None),
        (b"\x80\x04" + doubled(60) + b"Q.", "must be a pair"),
        (b"\x80\x05\x96\0\0\0\x40\0\0\0\0.", "ends inside"),
        (b"\x80\x04\x8e\0\0\0\x40\0\0\0\0.", "ends inside"),
        (b"\x80\x04cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", None),
        (b"\x80\x04cbuiltins\nlist\n\x940(" + b"N" * 1000 + b"t\x940" + b"(" + b"h\0h\1\x85R" * 100_000 + b"t.", None),
        (b"\x80\x04(\x8c\x01m\x94X\xa0\x86\x01\0" + b"n" * 100_000 + b"\x94" + b"h\0h\1\x93" * 2000 + b"t.", "name of"),
        (b"\x80\x02" + chain(3000) + b".", "name of"),
    ],
    ids=[
        "memo",
        "text memo",
        "class as arguments",
        "text as arguments",
        "hash",
        "repr",
        "bytearray8",
        "bytes8",
        "bytearray by number",
        "copies",
        "long name",
        "long chain",
    ],
)
def test_a_small_record_takes_little_time_and_memory(state: bytes, problem: str | None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if problem is None:
        assert read_contents(CLASS + state).refs == set()
    else:
        with pytest.raises(RecordError, match=problem):
            read_contents(CLASS + state)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MUCH >> 10


def test_nothing_that_a_record_names_is_imported_or_run() -> None:
    data = b"\x80\x04cno.such.module\nIt\n." + b"\x80\x04cos\n_exit\nK\x07\x85R."
    contents = read_contents(data)
    assert (contents.class_name, contents.refs) == ("no.such.module.It", set())


@pytest.mark.parametrize(
    "state", [b"0.", b"t.", b"N", b"h\7.", b"(N.", b"NN.", b"N\x93.", b"P1\n.", b"\x82\1.", b"\x80\x09N."]
)
def test_what_is_no_pickle_is_told(state: bytes) -> None:
    with pytest.raises(RecordError):
        read_contents(CLASS + b"\x80\x04" + state)


class Outer:
    class Inner(Persistent):
        pass


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("compress", [bytes, zlib.compress])
def test_references_are_found_in_states_of_every_protocol(protocol: int, compress: type[bytes]) -> None:
    oid = oid_from_int(0xFF00FF)
    value = {"a": [1, 2.5, "text", b"bytes", {3}, frozenset({4}), 1 << 100, OrderedDict(b=None), (1, 2, 3, 4)]}

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj: object) -> object:
            return (oid, Outer.Inner) if obj is value["a"][0] else None

    file = io.BytesIO()
    pickler = Pickler(file, protocol)  # one for both, as in Durus 4.3: they share a memo
    pickler.dump(Outer.Inner)
    end = file.tell()
    pickler.dump(value)
    state = file.getvalue()[end:]
    assert any(step.name == "BINPERSID" for step, _, _ in pickletools.genops(state))
    contents = read_contents(file.getvalue()[:end] + compress(state))
    assert (contents.class_name, contents.refs) == (f"{__name__}.Outer.Inner", {oid})


def test_every_record_that_is_stored_is_read() -> None:
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root().update(a=Persistent(), b=[Persistent(), {"c": Persistent()}])
    connection.commit()
    _, data, refs = unpack_record(storage.load(bytes(8)))
    contents = read_contents(data)
    assert contents.class_name == "durus.persistent_dict.PersistentDict"
    assert b"".join(sorted(contents.refs)) == refs


@pytest.mark.spec("REC-12")
@pytest.mark.parametrize(
    "puts", [b"p0\n", b"p7\n", b"p1\np1\n", b"q\2\x94", b"\x94q\0", b"q\0q\1", b"q\1\x94\x94"], ids=repr
)
def test_memo_entries_have_the_numbers_that_pickle_gives_them(puts: bytes) -> None:
    """MEMOIZE takes for a number how many entries there are, also where a class pickle made some with others."""
    pickles = b"cbuiltins\nint\n" + puts + b"." + b"\x80\x04cbuiltins\nstr\n\x940h%c."
    for number in range(9):
        data = pickles.replace(b"%c", bytes([number]))
        unpickler = pickle.Unpickler(io.BytesIO(data))
        machine = PickleMachine(data)
        unpickler.load()
        machine.load()
        try:
            expected = unpickler.load()
        except pickle.UnpicklingError:
            with pytest.raises(KeyError):
                machine.load()
        else:
            assert machine.load() == Name("builtins", expected.__name__)
