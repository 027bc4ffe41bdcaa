"""Databases of Python 2: each of its strs becomes text or bytes by rule, or is listed. The pickles are made by hand."""

import datetime
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.cli.main import main
from durus.connection import Connection
from durus.error import ArgumentError, RecordError
from durus.file_storage import FileStorage
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.record import pack_record
from durus.storage import MemoryStorage, Storage
from durus.tools.convert import copy_to_file
from durus.tools.python2 import Python2Records, Rules, UndecidedError


class Str(bytes):
    """A str of Python 2."""


class Assembler:
    """Writes pickles as cPickle of Python 2 does at protocol 2: a str that is met again is fetched from the memo."""

    def __init__(self) -> None:
        self._memo: list[object] = []
        self.data = b""

    def _put(self, value: object) -> None:
        self.data += b"q" + bytes([len(self._memo)])
        self._memo.append(value)

    def write(self, value: object) -> "Assembler":
        if isinstance(value, Str):
            if value in self._memo:
                self.data += b"h" + bytes([self._memo.index(value)])
            else:
                size = len(value)
                self.data += (b"U" + bytes([size]) if size < 256 else b"T" + size.to_bytes(4, "little")) + value
                self._put(value)
        elif isinstance(value, str):
            encoded = value.encode()
            self.data += b"X" + len(encoded).to_bytes(4, "little") + encoded
            self._put(None)
        elif isinstance(value, list):
            self.data += b"]"
            self._put(None)
            self.data += b"("
            for item in value:
                self.write(item)
            self.data += b"e"
        elif isinstance(value, tuple):
            self.data += b"("
            for item in value:
                self.write(item)
            self.data += b"t"
            self._put(None)
        elif isinstance(value, dict):
            self.data += b"}"
            self._put(None)
            self.data += b"("
            for key, item in value.items():
                self.write(key).write(item)
            self.data += b"u"
        elif isinstance(value, Raw):
            self.data += value
        else:
            self.data += b"N" if value is None else b"K" + bytes([value])  # type: ignore[list-item]  # small numbers
        return self


class Raw(bytes):
    """Operations as they are."""


def pickled(value: object) -> bytes:
    return b"\x80\x02" + Assembler().write(value).data + b"."


MODULE = "shop_of_python_2"
ITEM = b"\x80\x02c" + MODULE.encode() + b"\nItem\nq\xff."
ROOT = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\xff."
REFERENCE = Raw(b"U\x08" + oid_from_int(1) + b"q\xfec" + MODULE.encode() + b"\nItem\nq\xfd\x86q\xfcQ")
"""To oid 1."""
OLDSTYLE = b"(c" + MODULE.encode() + b"\nOldstyle\no"
"""An instance, without a state."""


class Item(Persistent):
    """Of an application."""


class Oldstyle:
    """Stored by value."""


@pytest.fixture(autouse=True)
def module() -> Iterator[None]:
    made: Any = types.ModuleType(MODULE)
    made.Item, made.Oldstyle = Item, Oldstyle
    sys.modules[MODULE] = made
    yield
    del sys.modules[MODULE]


class Records(MemoryStorage):
    """Holds data as it is given, by oid; the refs of the root lead to all others."""

    def __init__(self, *data: bytes) -> None:
        super().__init__()
        refs = b"".join(oid_from_int(number) for number in range(1, len(data)))
        self.begin()
        for number, one in enumerate(data):
            self.store(oid_from_int(number), pack_record(oid_from_int(number), one, b"" if number else refs))
        self.end()


def database(state: object) -> Storage:
    """Return a database with a root that refers to one item, which has this state."""
    return Records(ROOT + pickled({Str(b"data"): {Str(b"item"): REFERENCE}}), ITEM + pickled(state))


def convert(source: Storage, path: Path, *bytes_attributes: str, encoding: str | None = None) -> None:
    for _ in copy_to_file(Python2Records(source, Rules(bytes_attributes, encoding)), path):
        pass


def converted(state: object, folder: Path, *bytes_attributes: str, encoding: str | None = None) -> dict[str, object]:
    """Return the attributes of the item of a database after its conversion."""
    path = folder / "new"
    convert(database(state), path, *bytes_attributes, encoding=encoding)
    with Connection(path) as connection:
        item = connection.get_root()["item"]
        return dict(vars(item))


def undecided(state: object, folder: Path, *bytes_attributes: str, encoding: str | None = None) -> list[str]:
    with pytest.raises(UndecidedError) as caught:
        convert(database(state), folder / "new", *bytes_attributes, encoding=encoding)
    assert list(folder.iterdir()) == []
    return [str(one) for one in caught.value.undecided]


@pytest.mark.spec("REC-24")
def test_ascii_is_text_and_a_reference_has_its_oid_in_bytes(tmp_path: Path) -> None:
    state = {Str(b"name"): Str(b"Ann"), Str(b"other"): "Zoë", Str(b"long"): Str(b"x" * 300), Str(b"empty"): Str(b"")}
    assert converted(state, tmp_path) == {"name": "Ann", "other": "Zoë", "long": "x" * 300, "empty": ""}


@pytest.mark.spec("REC-24")
def test_the_state_of_dates_and_times_is_bytes(tmp_path: Path) -> None:
    def made(name: str, state: bytes) -> Raw:
        return Raw(f"cdatetime\n{name}\nU".encode() + bytes([len(state)]) + state + b"\x85R")

    state = {
        Str(b"moment"): made("datetime", bytes.fromhex("07d40102030405000080")),
        Str(b"day"): made("date", bytes.fromhex("07d10203")),
        Str(b"ascii"): made("time", bytes.fromhex("010203000004")),
    }
    assert converted(state, tmp_path) == {
        "moment": datetime.datetime(2004, 1, 2, 3, 4, 5, 128),
        "day": datetime.date(2001, 2, 3),
        "ascii": datetime.time(1, 2, 3, 4),
    }


@pytest.mark.spec("REC-24")
@pytest.mark.parametrize("name", ["photo", f"{MODULE}.Item.photo"])
def test_all_that_a_bytes_attribute_holds_is_bytes_but_keys_and_names(tmp_path: Path, name: str) -> None:
    inside = Raw(OLDSTYLE + b"}U\x03rawU\x02\xff\x00sb")
    state = {
        Str(b"photo"): [Str(b"\xff\xd8"), (Str(b"abc"), {Str(b"key"): Str(b"v" * 256)}), inside, "ü", 5],
        Str(b"title"): Str(b"abc"),
    }
    found = converted(state, tmp_path, name)
    assert isinstance(found["photo"], list)
    old = found["photo"].pop(2)
    assert type(old) is Oldstyle
    assert dict(vars(old)) == {"raw": b"\xff\x00"}
    assert found == {"photo": [b"\xff\xd8", (b"abc", {"key": b"v" * 256}), "ü", 5], "title": "abc"}


@pytest.mark.spec("REC-24")
def test_a_bytes_attribute_may_be_a_key_or_that_of_one_class_only(tmp_path: Path) -> None:
    state = {Str(b"files"): {Str(b"raw"): Str(b"\x80"), Str(b"name"): Str(b"n")}}
    assert converted(state, tmp_path, "raw") == {"files": {"raw": b"\x80", "name": "n"}}
    (tmp_path / "new").unlink()
    assert undecided(state, tmp_path, "other.Class.raw") != []


@pytest.mark.spec("REC-24")
def test_an_encoding_makes_text_of_what_it_can_decode(tmp_path: Path) -> None:
    state = {Str(b"name"): Str("Zoë".encode()), Str(b"n"): 1}
    assert converted(state, tmp_path, encoding="utf-8") == {"name": "Zoë", "n": 1}
    (tmp_path / "new").unlink()
    assert converted(state, tmp_path, encoding="latin-1") == {"name": "ZoÃ«", "n": 1}
    (tmp_path / "new").unlink()
    assert len(undecided({Str(b"name"): Str(b"\xff")}, tmp_path, encoding="utf-8")) == 1
    with pytest.raises(ArgumentError, match="'utf-9' is not an encoding"):
        Rules(encoding="utf-9")


@pytest.mark.spec("REC-26")
def test_what_is_undecided_is_listed_by_place_and_nothing_is_written(tmp_path: Path) -> None:
    state = {
        Str(b"names"): [Str(b"ok"), Str(b"caf\xc3\xa9"), Str(b"\xe9")],
        Str(b"by key"): {Str(b"k\xff"): {1: Str(b"\x80" * 50)}},
        Str(b"instance"): Raw(OLDSTYLE + b"}U\x01aU\x01\xfesb"),
        Str(b"made"): Raw(b"cshop\nmake\nU\x01\xfd\x85R"),
    }
    item = f"{MODULE}.Item"
    assert undecided(state, tmp_path) == [
        f"{item}.by key a key: 1, the first in oid 1 at .by key the key 'k\\xff': b'k\\xff'",
        f"{item}.by key[*][*]: 1, the first in oid 1 at .by key['k\\xff'][1]: b'" + r"\x80" * 40 + "'...",
        f"{item}.instance.a: 1, the first in oid 1 at .instance.a: b'\\xfe'",
        f"{item}.made(*): 1, the first in oid 1 at .made(0): b'\\xfd'",
        f"{item}.names[*]: 2, the first in oid 1 at .names[1]: b'caf\\xc3\\xa9'",
    ]
    with pytest.raises(UndecidedError, match=r"nothing is written.*--bytes-attribute.*--encoding"):
        convert(database(state), tmp_path / "new")


@pytest.mark.spec("REC-26")
@pytest.mark.parametrize(
    ("steps", "place"),
    [
        (b"cshop\nList\n)\x81(U\x01\xffe", "[*]"),
        (b"cshop\nDict\n)\x81(U\x01kU\x01\xffu", "[*][*]"),
        (b"cshop\nSlots\n)\x81N}U\x01aU\x01\xffs\x86b", ".a"),
        (b"cshop\nOwn\n)\x81U\x01\xffb", ".__getstate__()"),
        (b"cshop\nmaker\n(K\x01tR(U\x01\xfftR", "(*)"),
        (b"ccopy_reg\n_reconstructor\n(cshop\nText\nc__builtin__\nstr\nU\x01\xfftR", "(*)"),
        (b"S'\\xff'\n", ""),
        (b"T\x01\0\0\0\xff", ""),
    ],
)
def test_a_str_is_found_wherever_a_value_keeps_it(tmp_path: Path, steps: bytes, place: str) -> None:
    [line] = undecided({Str(b"value"): Raw(steps)}, tmp_path)
    assert line.startswith(f"{MODULE}.Item.value{place}: 1, ")


@pytest.mark.spec("REC-24")
def test_a_bytes_attribute_is_that_of_the_class_that_was_reconstructed(tmp_path: Path) -> None:
    old = b"ccopy_reg\n_reconstructor\n" + OLDSTYLE[:-1] + b"c__builtin__\nobject\nNtR}U\x03rawU\x01\xffsb"
    found = converted({Str(b"old"): Raw(old)}, tmp_path, f"{MODULE}.Oldstyle.raw")
    assert vars(found["old"]) == {"raw": b"\xff"}


@pytest.mark.spec("REC-25")
def test_a_str_in_several_places_is_decided_in_each(tmp_path: Path) -> None:
    oid = Str(oid_from_int(1))
    state = {
        Str(b"data"): Str(b"data"),
        Str(b"text"): [Str(b"data"), oid],
        Str(b"me"): REFERENCE,
    }
    found = converted(state, tmp_path, "data")
    assert (found["data"], found["text"]) == (b"data", ["data", "\0\0\0\0\0\0\0\1"])


@pytest.mark.spec("REC-25")
def test_an_oid_that_is_fetched_is_bytes_and_one_that_is_no_reference_is_not(tmp_path: Path) -> None:
    cls = b"c" + MODULE.encode() + b"\nItem\n"
    state = Raw(
        b"}(U\x03oidU\x08" + oid_from_int(1) + b"q\x07U\x02meh\x07" + cls + b"\x86QU\x05againh\x07" + cls + b"\x86Qu"
    )
    path = tmp_path / "new"
    convert(database(state), path)
    with Connection(path) as connection:
        item: Any = connection.get_root()["item"]
        assert (item.oid, item.me, item.again) == ("\0\0\0\0\0\0\0\1", item, item)


@pytest.mark.spec("REC-25")
def test_a_container_in_several_places_is_bytes_in_all_if_in_one(tmp_path: Path) -> None:
    state = Raw(b"}(U\x01a]q\x01U\x01xaU\x05photoh\x01u")
    found = converted(state, tmp_path, "photo")
    assert found == {"a": [b"x"], "photo": [b"x"]}
    assert found["a"] is found["photo"]


VALUES = st.recursive(
    (st.binary(max_size=4) | st.sampled_from([b"a", b"\xff"])).map(Str)
    | st.text(max_size=3)
    | st.integers(0, 99)
    | st.none(),
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from([Str(b"k"), Str(b"raw")]), part, max_size=2)
    ),
    max_leaves=10,
)


def expected(value: Any, is_bytes: bool) -> Any:
    """Return what a value of Python 2 must become (the oracle), with `raw` as bytes attribute and latin-1 for text."""
    if isinstance(value, Str):
        return bytes(value) if is_bytes else value.decode("latin-1")
    if isinstance(value, list | tuple):
        return type(value)(expected(item, is_bytes) for item in value)
    if isinstance(value, dict):
        return {key.decode(): expected(item, is_bytes or key == b"raw") for key, item in value.items()}
    return value


@pytest.mark.spec("REC-24", "REC-25", "REC-27")
@given(st.dictionaries(st.sampled_from([Str(b"k"), Str(b"raw"), Str(b"name")]), VALUES))
def test_every_str_becomes_what_its_place_says(state: dict[Str, object]) -> None:
    rules = Rules(["raw"], "latin-1")
    source = Python2Records(database(state), rules)
    target = MemoryStorage()
    target.begin()
    for oid, record in source.gen_oid_record(oid_from_int(0)):
        target.store(oid, record)
    target.end()
    item: Any = Connection(target).get_root()["item"]
    assert vars(item) == expected(state, False)


@pytest.mark.spec("REC-27")
def test_names_and_numbers_of_python_2_stay_as_they_are(tmp_path: Path) -> None:
    state = {
        Str(b"long"): Raw(b"\x8a\x09" + (2**70).to_bytes(9, "little")),
        Str(b"set"): Raw(b"c__builtin__\nset\n](U\x01bU\x01ae\x85R"),
        Str(b"new"): Raw(b"ccopy_reg\n_reconstructor\n" + OLDSTYLE[:-1] + b"c__builtin__\nobject\nNtR}U\x01aK\x01sb"),
    }
    found = converted(state, tmp_path)
    new = found.pop("new")
    assert found == {"long": 2**70, "set": {"a", "b"}}
    assert (type(new), vars(new)) == (Oldstyle, {"a": 1})


@pytest.mark.spec("REC-27")
def test_a_record_that_python_3_wrote_stays_byte_for_byte() -> None:
    storage = MemoryStorage()
    with_frames = {f"key {number}": b"\xff" for number in range(50)}
    connection = Connection(storage)
    connection.get_root()["a"] = with_frames
    connection.commit()
    [(oid, record)] = list(storage.gen_oid_record(oid_from_int(0)))
    assert list(Python2Records(storage, Rules()).gen_oid_record(oid)) == [(oid, record)]


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"oid 1: .*nothing is written"):
        convert(Records(ROOT + pickled({Str(b"data"): {}}), ITEM + b"\x80\x02U\x09cut"), tmp_path / "new")
    bad_reference = ITEM + b"\x80\x02U\x03oidc" + MODULE.encode() + b"\nItem\n\x86Q."
    with pytest.raises(RecordError, match="oid 1: a reference must be a pair"):
        convert(Records(ROOT + pickled({Str(b"data"): {}}), bad_reference), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_command_tells_what_it_did_or_what_it_could_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    storage = FileStorage(old)
    storage.begin()
    for oid, record in database({Str(b"raw"): Str(b"\xff"), Str(b"a"): Str(b"b")}).gen_oid_record():
        storage.store(oid, record)
    storage.end()
    storage.close()
    assert main(["convert", old, new, "--from-python2"]) == 1
    assert f"{MODULE}.Item.raw: 1, the first in oid 1 at .raw: b'\\xff'" in capsys.readouterr().err
    assert main(["convert", old, new, "--bytes-attribute", "raw"]) == 2
    assert "give --from-python2 too" in capsys.readouterr().err
    assert main(["convert", old, new, "--from-python2", "--bytes-attribute", "raw"]) == 0
    assert f"{old}: of the strs of Python 2, 5 are text and 2 bytes" in capsys.readouterr().out
