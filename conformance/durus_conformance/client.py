"""The exchanges of wire.md and wire-2.md, played to a client: it must send what they say, and understand the answers.

The kit is the server here, and follows a script. Exchanges that show how a server treats wrong requests have no
calls, and those of a client end before the first request that no call makes.
"""

import select
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from durus_conformance.testee import Testee, TesteeRefusal
from durus_conformance.wire import Difference

Json = Any
_ARGUMENTS = {"N": 0, "M": 1, "L": 8, "S": 0, "C": 0, "P": 0, ".": 0, "V": 4}
"""How many bytes follow a request of version 1."""
LOST = None
"""In place of an answer: the server closes the connection."""
REFUSED: Json = "an error"
"""The result of a call that must fail."""
_EARLY = 0.05
"""How many seconds the kit waits for bytes that must not come. A client that sends them later is not noticed."""
_SINGLE = 64
"""So many bytes of an answer are sent one by one."""


@dataclass
class Call:
    """One call of the client: what it sends, and is answered, in one or two steps, and what it returns."""

    name: str
    arguments: dict[str, Json]
    turns: Sequence[tuple[bytes, bytes | None]]
    result: Json


@dataclass
class Calls:
    """The calls of one client in an exchange."""

    version: int
    greeting: bytes
    calls: list[Call] = field(default_factory=list)
    is_older: bool = False
    """The server speaks version 1 only, and closes the first connection. [WIRE2-1]"""
    spoken: int | None = None
    """A version that the server must not answer with; then the client can't connect."""

    @property
    def expected(self) -> Json:
        if self.spoken is not None:
            return [["connect", REFUSED]]
        return [[call.name, call.result] for call in self.calls]

    def play(self, testee: Testee, deadline: float) -> Json:
        """Return what the calls returned, up to the first difference."""
        came: list[Json] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(deadline)
            address = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
            testee.send("client", call="connect", address=address, protocol=self.version)
            try:
                if self.spoken is not None:
                    came.append(["connect", self._refused(testee, listener, deadline, self.spoken)])
                    return came
                if self.is_older:
                    with self._accept(listener, deadline) as connection:
                        _Script(testee, connection, 1).answer(b"V\0\0\0\2", b"\0\0\0\1")
                with self._accept(listener, deadline) as connection:
                    version = 1 if self.is_older else self.version
                    self._serve(testee, _Script(testee, connection, version), came)
            except (OSError, Difference) as error:
                came.append(f"{type(error).__name__}: {error}")
                testee.stop()
        return came

    def _refused(self, testee: Testee, listener: socket.socket, deadline: float, spoken: int) -> Json:
        """Return what comes of a connection whose server answers with a wrong version."""
        with self._accept(listener, deadline) as connection:
            server = _Script(testee, connection, self.version)
            server.answer(b"V" + self.version.to_bytes(4), spoken.to_bytes(4))
            if not testee.is_first(listener):
                raise Difference(f"the client connected again after the server had answered with version {spoken}")
            try:
                return testee.receive()
            except TesteeRefusal:
                server.expect_nothing()
                return REFUSED

    @staticmethod
    def _accept(listener: socket.socket, deadline: float) -> socket.socket:
        connection, _ = listener.accept()
        connection.settimeout(deadline)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _serve(self, testee: Testee, server: "_Script", came: list[Json]) -> None:
        server.answer(b"V" + server.version.to_bytes(4), server.version.to_bytes(4) + self.greeting)
        testee.receive()
        for call in self.calls:
            came.append([call.name, _perform(call, testee, server)])
        try:
            testee.call("client", call="close")
        except TesteeRefusal:
            if self.calls[-1].result != REFUSED:
                raise


def _perform(call: Call, testee: Testee, server: "_Script") -> Json:
    testee.send("client", call=call.name, **call.arguments)
    for request, answer in call.turns:
        server.answer(request, answer)
    is_refused = call.name == "commit" and call.result != REFUSED and call.result["stored"] is False
    if is_refused:
        server.answer_what_follows([int(oid) for oid in call.arguments["records"]])
    try:
        result = testee.receive()
    except TesteeRefusal:
        if call.result != REFUSED:
            raise
        return REFUSED
    finally:
        if not call.turns:
            server.expect_nothing()
    if is_refused or result.get("stored") == "unknown":
        result.pop("invalid", None)
    return result


class _Script:
    def __init__(self, testee: Testee, connection: socket.socket, version: int) -> None:
        self._testee = testee
        self._socket = connection
        self.version = self._version = version
        self._begun = False

    def answer(self, expected: bytes, answer: bytes | None) -> None:
        """Wait for a request, which must be this one, and answer it. Without a request, answer at once."""
        if expected:
            self._expect(expected)
        if answer is LOST:
            self._socket.shutdown(socket.SHUT_RDWR)
            return
        if expected == b"C" and self._version == 1 and select.select([self._socket], [], [], _EARLY)[0]:
            raise Difference("the client sent the data of its commit before it had the list of its turn")
        for byte in answer[:_SINGLE]:
            self._socket.sendall(bytes([byte]))
        self._socket.sendall(answer[_SINGLE:])
        self._begun = True

    def expect_nothing(self) -> None:
        """Difference if the client has sent something."""
        try:
            if select.select([self._socket], [], [], 0)[0] and (came := self._socket.recv(64)):
                raise Difference(f"the client used its connection again: it sent {came.hex()}")
        except ConnectionError:
            return  # it has closed it

    def _expect(self, expected: bytes) -> None:
        if self._testee.is_first(self._socket):
            raise Difference(f"the client did not send {expected.hex()}; the call ended with {self._testee.receive()}")
        came = self._request()
        if _compared(came, self._version) != _compared(expected, self._version):
            raise Difference(f"the client sent {came.hex()}, not {expected.hex()}")

    def answer_what_follows(self, changed: list[int]) -> None:
        """Answer what a client asks for after a refused commit [WIRE-11]: others changed these oids; nothing exists."""
        while not self._testee.is_first(self._socket):
            request = self._request()
            kind = request[:1] if self._version == 1 else request[4:5]
            if self._version == 1 and kind == b"S":
                self._socket.sendall(len(changed).to_bytes(4) + b"".join(each.to_bytes(8) for each in changed))
            elif self._version == 1 and kind in (b"L", b"B"):
                self._socket.sendall(b"K" * (1 if kind == b"L" else int.from_bytes(request[1:5])))
            else:
                raise Difference(f"after a commit that was refused, the client sent {request.hex()}")

    def _request(self) -> bytes:
        if self._begun and self._version == 2:
            while True:
                head = self._read(4)
                message = head + self._read(int.from_bytes(head))
                if message[4:5] != b"O":  # options need no answer
                    return message
        kind = self._read(1)
        if kind == b"B":
            count = self._read(4)
            return kind + count + self._read(8 * int.from_bytes(count))
        if kind in (b"\0", b"\1", b"\2"):  # the length of the data of a commit
            length = kind + self._read(3)
            return length + self._read(int.from_bytes(length))
        if kind.decode("latin1") not in _ARGUMENTS:
            raise Difference(f"the client sent a request {kind!r}")
        return kind + self._read(_ARGUMENTS[kind.decode("latin1")])

    def _read(self, size: int) -> bytes:
        if size > 2**24:
            raise Difference(f"the client announced {size} bytes")
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise Difference(f"the client closed the connection after {found.hex() or 'nothing'}")
            found += piece
        return found


def _compared(request: bytes, version: int) -> bytes:
    """Return a request in one of the forms that it can have."""
    if version == 1 or request[:1] == b"V":
        if request == b"M\1":
            return b"N"
        return b"L" + request[5:] if request[:5] == b"B\0\0\0\1" else request
    if request[4:5] == b"L":  # how many more records it wants is its own affair
        return request[:5] + request[7:]
    if request[4:5] == b"C" and not int.from_bytes(request[15:19]):  # the width of no oids
        return request[:14] + request[15:]
    return request


def calls_of(lines: list[list[str]]) -> dict[str, Calls]:
    """Return the calls of each client of an exchange that has some."""
    if any(event == "closed" and request != b"." for request, event in _closings(lines)):
        return {}
    found = {letter: _calls(list(_turns(lines, letter))) for letter in sorted({line[0] for line in lines})}
    return {letter: calls for letter, calls in found.items() if calls.calls}


def _closings(lines: list[list[str]]) -> Iterator[tuple[bytes, str]]:
    last: dict[str, bytes] = {}
    for letter, event, hexadecimal in lines:
        if event == ">":
            last[letter] = bytes.fromhex(hexadecimal)[-1:]
        yield last.get(letter, b""), event


def _turns(lines: list[list[str]], letter: str) -> Iterator[tuple[bytes, bytes]]:
    mine = [(event, bytes.fromhex(hexadecimal)) for client, event, hexadecimal in lines if client == letter]
    for index, (event, data) in enumerate(mine):
        if event == ">":
            following = mine[index + 1 :]
            yield data, following[0][1] if following and following[0][0] == "<" else b""


def _calls(turns: list[tuple[bytes, bytes]]) -> Calls:
    version, greeting = 1, b""
    if turns and turns[0][0][:1] == b"V":
        version, greeting = int.from_bytes(turns[0][0][1:]), turns[0][1][4:]
        turns = turns[1:]
    found = Calls(version, greeting)
    while turns:
        call = _call_1(turns) if version == 1 else _call_2(*turns[0])
        if call is None:
            break
        found.calls.append(call)
        turns = turns[len(call.turns) :]
    return found


def _call_1(turns: list[tuple[bytes, bytes]]) -> Call | None:
    (request, answer), kind = turns[0], turns[0][0][:1]
    if kind in (b"N", b"M") and answer:
        return Call("new_oids", {"count": len(answer) // 8}, turns[:1], {"oids": _oids(answer)})
    if kind == b"L":
        return Call("load", {"oids": _oids(request[1:])}, turns[:1], {"records": list(_loaded(answer))})
    if kind == b"B":
        return Call("load", {"oids": _oids(request[5:])}, turns[:1], {"records": list(_loaded(answer))})
    if kind == b"S":
        return Call("sync", {}, turns[:1], {"invalid": _oids(answer[4:])})
    if kind == b"P":
        return Call("pack", {}, turns[:1], {})
    if kind == b"C" and len(turns) > 1 and len(turns[1][0]) > 4:
        data, status = turns[1]
        records = {str(int.from_bytes(each[:8])): each[8:].hex() for each in _sized(data[4:])}
        result: dict[str, Json] = {"stored": status == b"O"}
        if result["stored"]:
            result["invalid"] = _oids(answer[4:])
        return Call("commit", {"accessed": [], "records": records}, turns[:2], result)
    return None


def _call_2(request: bytes, answer: bytes) -> Call | None:
    kind, body, came = request[4:5], request[5:], answer[5:]
    turns = [(request, answer)]
    if kind == b"N":
        return Call("new_oids", {"count": len(came) // 8}, turns, {"oids": _oids(came)})
    if kind == b"L":
        oids = _oids(body[2:])
        return Call("load", {"oids": oids}, turns, {"records": list(_loaded(came))[: len(oids)]})
    if kind == b"S":
        return Call("sync", {}, turns, {"invalid": _point(came)})
    if kind == b"P":
        return Call("pack", {}, turns, {})
    if kind == b"C":
        width, count = body[9], int.from_bytes(body[10:14])
        end = 14 + width * count
        accessed = [str(int.from_bytes(body[at : at + width])) for at in range(14, end, width)][::-1]
        records = {str(int.from_bytes(each[:8])): each.hex() for each in _sized(body[end:])}
        result: dict[str, Json] = {"stored": answer[4:5] == b"C"}
        if result["stored"]:
            result["invalid"] = _point(came)
        return Call("commit", {"accessed": accessed, "records": records}, turns, result)
    return None


def _point(body: bytes) -> list[str]:
    return _oids(body[13 : 13 + 8 * int.from_bytes(body[9:13])])


def _oids(data: bytes) -> list[str]:
    return [str(int.from_bytes(data[at : at + 8])) for at in range(0, len(data), 8)]


def _sized(data: bytes) -> Iterator[bytes]:
    while data:
        end = 4 + int.from_bytes(data[:4])
        yield data[4:end]
        data = data[end:]


def _loaded(data: bytes) -> Iterator[str | None]:
    while data:
        if data[:1] == b"O":
            end = 5 + int.from_bytes(data[1:5])
            yield data[5:end].hex()
            data = data[end:]
        else:
            yield "invalid" if data[:1] == b"I" else None
            data = data[1:]
