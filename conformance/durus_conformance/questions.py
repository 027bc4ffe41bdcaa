"""What a server of version 2 is asked whose answer no exchange can have: its bytes are not the same for each server.

The kit asks, and looks whether the answer has the form that wire-2.md gives it.
"""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from durus_conformance import judge
from durus_conformance.wire import VERSION_2, Difference

Json = Any
_MAX_SIZE = 2**24
_SEAL = 53
"""The bytes of the text of a seal."""
_KEYS = {
    "": "durus process address file size garbage uptime commits writes conflicts loads received sent pack connections "
    "refused limits clients",
    "commits": "count objects bytes seconds",
    "writes": "failed seconds",
    "conflicts": "count given_up oids classes",
    "pack": "running bytes_since last",
    "limits": "clients clients_by_peer rate unused_oids commit memory",
    "clients": "count shown",
}
_PERCENTILES = {"count", "p50", "p90", "p99", "max"}


class NotOffered(Exception):
    """The server does not have what it is asked for, and need not have it."""


@dataclass(frozen=True)
class Question:
    """A conversation with a server that has an empty storage, and what must come of it."""

    name: str
    statements: tuple[str, ...]
    shown: list[list[str]]
    """What the client sends first, as lines of an exchange."""
    ask: Callable[["Server"], Json]
    expected: Json


class Server:
    """A connection to a server, as its client."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._serial = 0
        connection.sendall(VERSION_2)
        if self._read(4) != VERSION_2[1:]:
            raise Difference("the server does not speak version 2")
        self._serial = int.from_bytes(self.receive("H")[:8])

    def ask(self, kind: str, body: bytes = b"") -> None:
        self._socket.sendall((1 + len(body)).to_bytes(4) + kind.encode() + body)

    def receive(self, *kinds: str) -> bytes:
        """Return the next message but those that a client ignores, without its kind if only one kind is right."""
        while True:
            size = int.from_bytes(self._read(4))
            if not 1 <= size < _MAX_SIZE:
                raise Difference(f"the server sent a message of {size} bytes")
            message = self._read(size)
            if message[0] < 0x80 and message[:1] != b"W":
                break
        if message[:1].decode("latin1") not in kinds:
            raise Difference(f"the server sent {message[:40].hex()} in place of {' or '.join(kinds)}")
        return message[1:] if len(kinds) == 1 else message

    def commit(self, record: bytes) -> None:
        """Store a record that refers to nothing, without an access."""
        body = b"\0" + self._serial.to_bytes(8) + b"\x08" + bytes(4) + len(record).to_bytes(4) + record
        self.ask("C", body)
        self._serial = int.from_bytes(self.receive("C")[1:9])

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise Difference(f"the server closed the connection after {found[:40].hex() or 'nothing'}")
            found += piece
        return found


def _follow(server: Server) -> Json:
    server.ask("N", b"\0\1")
    server.receive("N")
    server.commit(_record(b"a"))
    came: dict[str, Json] = {}
    is_all, first, seal = _bytes_after(server, b"")
    came["without a seal"] = {"all": is_all, "objects": _objects(first)}
    server.commit(_record(b"b"))
    is_all, more, newer = _bytes_after(server, seal)
    came["with the seal before"] = {"all": is_all, "objects": _objects(first + more)}
    is_all, nothing, _ = _bytes_after(server, newer)
    came["with the last seal"] = {"all": is_all, "bytes": len(nothing)}
    is_all, everything, _ = _bytes_after(server, newer[:-8] + b"%08x" % (int(newer[-8:], 16) ^ 1))
    came["with a seal of another file"] = {"all": is_all, "objects": _objects(everything)}
    server.ask("P", b"\1")
    server.receive("O")
    is_all, everything, _ = _bytes_after(server, newer)
    came["after a pack"] = {"all": is_all, "objects": _objects(everything)}
    return came


def _record(data: bytes) -> bytes:
    return bytes(8) + len(data).to_bytes(4) + data


def _bytes_after(server: Server, seal: bytes) -> tuple[bool, bytes, bytes]:
    """Return whether all bytes of the file came, the bytes, and the text of its last seal."""
    server.ask("F", seal)
    answer = server.receive("F", "E")
    if answer[:1] == b"E":
        raise NotOffered
    if len(answer) != 2 + _SEAL or answer[1] > 1:
        raise Difference(f"the server's last seal is {answer[1:].hex()}")
    last, is_all = answer[2:], answer[1] == 0
    left = _end_of(last) - (0 if is_all else _end_of(seal))
    found = b""
    while len(found) < left:
        piece = server.receive("D")
        if not piece:
            raise Difference("the server sent a piece of no bytes")
        found += piece
    if len(found) != left or (found and found[-_SEAL - 2 : -2] != last):
        raise Difference(f"what the server sent does not end in the seal {last.decode('latin1')}")
    return is_all, found, last


def _end_of(seal: bytes) -> int:
    """Return where the seal with this text ends in its file."""
    return int(seal[:16], 16) + 132


def _objects(file: bytes) -> Json:
    found = judge.contents(file)
    return found.get("objects", found) if found.get("sealed", True) else "not all of it has seals"


def _status(server: Server) -> Json:
    server.ask("I")
    status = json.loads(server.receive("I").decode("ascii"))
    missing = []
    for key, names in _KEYS.items():
        value = status if not key else status.get(key)
        if value is not None or not key:
            missing += [f"{key} {name}".strip() for name in names.split() if name not in value]
    for key in ("commits", "writes"):
        if status.get(key) is not None:
            missing += [f"{key} seconds {name}" for name in sorted(_PERCENTILES - status[key]["seconds"].keys())]
    return {"missing": missing}


QUESTIONS = (
    Question(
        "the-file-is-followed",
        ("WIRE2-50", "WIRE2-51", "WIRE2-52"),
        [["A", ">", VERSION_2.hex()], ["A", ">", "00000003" + b"N\0\1".hex()], ["A", ">", "00000001" + b"F".hex()]],
        _follow,
        {
            "without a seal": {"all": True, "objects": {"0": "a"}},
            "with the seal before": {"all": False, "objects": {"0": "b"}},
            "with the last seal": {"all": False, "bytes": 0},
            "with a seal of another file": {"all": True, "objects": {"0": "b"}},
            "after a pack": {"all": True, "objects": {"0": "b"}},
        },
    ),
    Question(
        "what-the-server-does",
        ("WIRE2-34", "WIRE2-35"),
        [["A", ">", VERSION_2.hex()], ["A", ">", "00000001" + b"I".hex()]],
        _status,
        {"missing": []},
    ),
)
