"""The exchanges of wire.md and wire-2.md, played to a server: what clients send, and what must come back.

What the documents leave open is not compared: the limits that a server announces in `H`, and the texts in `E` and `X`.
"""

import socket
from collections.abc import Callable
from typing import Any

from durus_conformance.testee import TesteeError

VERSION_1, VERSION_2 = b"V\0\0\0\1", b"V\0\0\0\2"
_NOTHING = bytes(4)


class Difference(Exception):
    """The server did something else than the exchange has."""


def connect(address: dict[str, Any], deadline: float) -> socket.socket:
    """Connect to `{"unix": path}` or `{"host": name, "port": number}`; TesteeError if that can't be done."""
    try:
        if isinstance(address.get("unix"), str):
            found = socket.socket(socket.AF_UNIX)
            found.settimeout(deadline)
            try:
                found.connect(address["unix"])
            except OSError:
                found.close()
                raise
            return found
        return socket.create_connection((str(address["host"]), int(address["port"])), deadline)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise TesteeError(f"its server at {address!r} can't be reached: {error!r}") from error


def depends_on_data(lines: list[list[str]]) -> bool:
    """Return whether an exchange needs an empty storage, changes one, or stops the server."""
    versions: dict[str, bytes] = {}
    for letter, event, hexadecimal in lines:
        data = bytes.fromhex(hexadecimal)
        if event != ">":
            continue
        requests = data[5:] if data[:1] == b"V" else data  # a piece can have one more request after the version
        kind, kinds = (data[4:5], b"NLBTUCPQO") if versions.get(letter) == VERSION_2 else (requests[:1], b"NMLBPQ")
        if kind and kind in kinds:
            return True
        versions.setdefault(letter, data)
    return False


def play(lines: list[list[str]], open_socket: Callable[[], socket.socket], any_serial: bool = False) -> list[list[str]]:
    """Play an exchange, and return it as it went: equal to `lines` if the server does as they say.

    With `any_serial`, the first message of version 2 may have any serial: the server holds data.
    """
    went: list[list[str]] = []
    clients: dict[str, _Client] = {}
    try:
        for letter, event, hexadecimal in lines:
            if letter not in clients:
                clients[letter] = _Client(open_socket(), any_serial)
            client = clients[letter]
            if event == ">":
                client.send(bytes.fromhex(hexadecimal))
                went.append([letter, event, hexadecimal])
            elif event == "<":
                came = client.receive(bytes.fromhex(hexadecimal))
                went.append([letter, event, came.hex()])
            else:
                rest = client.rest()
                went.append([letter, "closed", ""] if not rest else [letter, "<", rest.hex()])
            if went[-1] != [letter, event, hexadecimal]:
                return went
        for letter, client in clients.items():
            rest = client.rest(leave=True)
            if rest:
                went.append([letter, "<", rest.hex()])
    except (OSError, Difference) as error:
        went.append([letter, "error", str(error) or type(error).__name__])
    finally:
        for client in clients.values():
            client.close()
    return went


class _Client:
    def __init__(self, connection: socket.socket, any_serial: bool) -> None:
        self._socket = connection
        self._any_serial = any_serial
        self._last = b""
        self._version = 1
        self._is_over = False
        self._may_be_packing = False

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        if data == b"P":
            self._may_be_packing = True
        self._last = data
        try:
            for byte in data:
                self._socket.sendall(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has closed the connection already, which the next line tells

    def receive(self, expected: bytes) -> bytes:
        """Return what comes in place of the bytes; the bytes themselves if what differs is left open."""
        if self._last == VERSION_2 and expected.startswith(VERSION_2[1:]):
            came = self._read(4)
            if came != expected[:4]:
                return came
            self._version = 2
            return came + self._messages(expected[4:])
        if self._version == 2:
            return self._messages(expected)
        came = self._read(len(expected))
        if self._may_be_packing and self._last == b"S" and expected[:4] != _NOTHING:
            while came[:4] == _NOTHING:  # the pack has not ended yet [WIRE-12]
                count, rest = came[:4], came[4:]
                if rest:
                    raise Difference(f"after the answer {count.hex()} came {rest.hex()}")
                self._socket.sendall(b"S")
                came = self._read(len(expected))
            self._may_be_packing = False
        return came

    def rest(self, leave: bool = False) -> bytes:
        """Return what still comes until the server closes the connection, after the client's end if it leaves."""
        if leave:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:  # the server has closed it already
                return b""
        found = b""
        try:
            while piece := self._socket.recv(2**16):
                found += piece
        except ConnectionResetError:
            return found
        return found

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            if self._may_be_packing and found == _NOTHING:
                return found
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise Difference(f"the server closed the connection after {found.hex() or 'nothing'}")
            found += piece
        return found

    def _messages(self, expected: bytes) -> bytes:
        came = b""
        for wanted in _split(expected):
            message = self._message()
            if self._any_serial and message[4:5] == wanted[4:5] == b"H":
                message = wanted[:13] + message[13:]
            if _compared(message) != _compared(wanted):
                return came + message
            came += wanted
        return came

    def _message(self) -> bytes:
        """Return the next message with its size; the parts of an answer to a load as one."""
        parts = b""
        while True:
            size = int.from_bytes(self._read(4))
            if not 1 <= size < 2**24:
                raise Difference(f"the server sent a message of {size} bytes")
            message = self._read(size)
            if message[0] >= 0x80 or message[:1] == b"W":
                continue
            if message[:1] == b"r":
                parts += message[1:]
                continue
            message = message[:1] + parts + message[1:]
            return len(message).to_bytes(4) + message


def _split(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4])
        found.append(data[:end])
        data = data[end:]
    return found


def _compared(message: bytes) -> tuple[bytes, bytes]:
    """Return the kind of a message, and what of its body is not left open."""
    kind, body = message[4:5], message[5:]
    if kind == b"H":
        return kind, body[:8] if len(body) >= 37 else body
    if kind == b"E":
        return kind, body[:1]
    if kind == b"X":
        end = 4 + 8 * int.from_bytes(body[:4])
        return kind, body[:end] + body[end + 2 + int.from_bytes(body[end : end + 2]) :]
    return kind, body
