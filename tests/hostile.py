"""A database that is meant to harm whoever shows it."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

from durus.files.shelf.layout import pack_entry
from durus.files.shelf.shelf import EMPTY_FILE
from durus.oid import oid_from_int
from durus.persistent import Persistent
from durus.records.record import pack_record

HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def record(oid: int, class_name: str, state: bytes, *refs: int) -> tuple[bytes, bytes]:
    module, _, name = class_name.rpartition(".")
    data = f"\x80\x04c{module}\n{name}\n.".encode("latin-1") + state
    return oid_from_int(oid), pack_record(oid_from_int(oid), data, b"".join(map(oid_from_int, refs)))


def state_of(value: object) -> bytes:
    return pickle.dumps(value, 4)


def write(path: Path, *records: tuple[bytes, bytes]) -> None:
    """Write a file with records that no storage would take."""
    entries = b"".join(pack_entry(oid, each) for oid, each in records)
    path.write_bytes(EMPTY_FILE + len(entries).to_bytes(8, "big") + entries)


class Ref:
    """A reference to an object in a state; `Pickler` writes it."""

    def __init__(self, oid: int, cls: type) -> None:
        self.pair = oid_from_int(oid), cls


def state_with_refs(value: object) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj.pair if isinstance(obj, Ref) else None

    stream = io.BytesIO()
    Pickler(stream, 4).dump(value)
    return stream.getvalue()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


LOOP: list[Any] = []
LOOP.append(LOOP)

HOSTILE: dict[str, object] = {
    HTML: HTML,
    "\x1b]0;title\x07\x1b[2J": "\x1b[31mred\x00\r\n\x9b",
    "\u202egnp.exe": "\u202e\u2066\u200f",
    "\ud800": "lone \udfff",
    "text": "<b>" * 3_333_333,
    "bytes": bytes(range(256)) * 40_000,
    "number": 10**20_000,
    "wide": list(range(20_000)),
    "mapping": {n: str(n) for n in range(20_000)},
    "keys": {HTML: HTML, ("a", HTML): 1, b"<b>": 2, None: 3, 1.5: float("nan")},
    "deep": deep(100),
    "loop": LOOP,
    "bomb": Bomb(),
    "": "no name",
    "__proto__": {"$ref": 1, "$dict": HTML},
}


def write_hostile(path: Path) -> None:
    """Write the file. If the state of an object were loaded, it would make a folder `was-run`."""
    many = {f"a{number}": HTML for number in range(1000)}
    write(
        path,
        record(
            0,
            "durus.persistent_dict.PersistentDict",
            state_with_refs({"data": [Ref(n, Persistent) for n in range(9)]}),
            *range(1, 9),
        ),
        record(1, f"{HTML}.{HTML}", state_of(HOSTILE)),
        record(2, "a" * 100_000 + ".B", state_of(None)),
        record(3, "m.NoPickle", b"\x80\x04(((("),
        record(4, "m.Rest", b"\x80\x04N.rest"),
        record(5, "m.Deep", state_of({"x": deep(400)})),
        record(6, "\x1b[2J.\xe2\x80\xae", state_of([1, 2])),
        record(7, "m.Dangling", state_with_refs({"x": Ref(4711, Persistent), "self": Ref(7, Persistent)}), 4711),
        record(8, "m.Attributes", state_of({"n" * 100_000: 1, HTML: HTML})),
        record(10, "m.Many", state_of(many)),
        (oid_from_int(9), pack_record(oid_from_int(9), b"no pickle at all " + HTML.encode(), oid_from_int(0) * 1000)),
    )
