"""The testee of Durus 4.3: `python conformance/testees/durus43_testee.py`, with a Python that has it.

What of the specification applies to 4.3 is what it shares with this implementation: records, packs, and a server and
clients of version 1 of the protocol. durus43_known_failures.txt has the cases in which 4.3 differs.
"""

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError, ReadConflictError, WriteConflictError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.serialize import pack_record, split_oids, unpack_record
from durus.storage_server import wait_for_server
from json_lines import Json, answer_requests

Object = Any
"""A persistent object of 4.3, which has no types."""

STATUSES = {-1: "a ghost", 0: "saved", 1: "unsaved"}
DFS20 = b"DFS20\0"
STARTS = 200


def number_of(oid: bytes) -> str:
    return str(int.from_bytes(oid, "big"))


def read_record(request: Json) -> Json:
    oid, _, refs = unpack_record(bytes.fromhex(request["hex"]))
    return {"oid": number_of(oid), "refs": [number_of(each) for each in split_oids(refs)]}


def pack(request: Json) -> Json:
    with open(request["path"], "rb") as file:
        storage_class: Any = FileStorage2 if file.read(len(DFS20)) == DFS20 else FileStorage
    storage = storage_class(request["path"])
    try:
        storage.pack()
    except KeyError:  # a reference to nothing
        return {"error": "refused"}
    finally:
        storage.close()
    return {}


SERVER: list["subprocess.Popen[bytes]"] = []


def serve(request: Json) -> Json:
    while SERVER:
        SERVER[0].kill()
        SERVER.pop(0).wait()
    if request.get("stop"):
        return {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        host, port = free.getsockname()
    file = str(Path(request["folder"], "served.durus"))
    command = [sys.executable, "-m", "durus", "-s", "--file", file, "--host", host, "--port", str(port)]
    null = subprocess.DEVNULL
    SERVER.append(subprocess.Popen(command, stdin=null, stdout=null, stderr=null))
    wait_for_server(host, port, maxtries=STARTS, sleeptime=0.05)
    return {"address": {"host": host, "port": port}}


class Steps:
    """Performs steps: the clients of one server, and their objects by name."""

    def __init__(self, address: Json) -> None:
        self._address = address["host"], address["port"]
        self._clients: dict[str, Any] = {}
        self._held: dict[tuple[str, str], Object] = {}
        self._oids = {"root": bytes(8)}

    def perform(self, step: Json) -> Json:
        letter, name = step["client"], step.get("object")
        if letter not in self._clients:
            self._clients[letter] = Connection(ClientStorage(address=self._address))
        client = self._clients[letter]
        if step["step"] == "new":
            self._held[letter, name] = Persistent()
            return None
        obj = name and self._object(letter, name)
        act: Callable[[Any, str, Object, Json], Json] = getattr(self, f"_{step['step']}")
        return act(client, letter, obj, step)

    def _object(self, letter: str, name: str) -> Object:
        if (letter, name) not in self._held:
            self._held[letter, name] = self._clients[letter].get(self._oids[name])
        return self._held[letter, name]

    def _status(self, client: Any, letter: str, obj: Object, step: Json) -> str:
        return STATUSES[obj._p_status]

    def _read(self, client: Any, letter: str, obj: Object, step: Json) -> Json:
        try:
            if obj is client.get_root():
                found = obj.get(step["key"], "nothing")
            else:
                found = getattr(obj, step["key"], "nothing")
        except ReadConflictError:
            return "read conflict"
        if not isinstance(found, Persistent):
            return found
        names = [name for (owner, name), each in self._held.items() if owner == letter and each is found]
        names += [name for name, oid in self._oids.items() if oid == found._p_oid]
        return {"object": names[0] if names else None}

    def _set(self, client: Any, letter: str, obj: Object, step: Json) -> None:
        value = step["value"]
        if isinstance(value, dict):
            value = self._object(letter, value["object"])
        if obj is client.get_root():
            obj[step["key"]] = value
        else:
            setattr(obj, step["key"], value)

    def _delete(self, client: Any, letter: str, obj: Object, step: Json) -> None:
        if obj is client.get_root():
            del obj[step["key"]]
        else:
            delattr(obj, step["key"])

    def _commit(self, client: Any, letter: str, obj: Object, step: Json) -> Json:
        try:
            client.commit()
        except WriteConflictError as error:
            return [name for name, oid in self._oids.items() if oid in (error.args[0] if error.args else ())]
        self._oids |= {name: each._p_oid for (_, name), each in self._held.items() if each._p_oid is not None}
        return "stored"

    def _abort(self, client: Any, letter: str, obj: Object, step: Json) -> None:
        client.abort()

    def _pack(self, client: Any, letter: str, obj: Object, step: Json) -> None:
        """Pack, and wait until a record is gone to which nothing refers: nothing reports when a pack ends."""
        other = ClientStorage(address=self._address)
        removed = other.new_oid()
        other.begin()
        other.store(removed, pack_record(removed, b"nothing refers to this", b""))
        other.end()
        client.pack()
        while self._exists(other, removed):
            pass
        other.close()
        client.abort()

    @staticmethod
    def _exists(storage: Any, oid: bytes) -> bool:
        storage.sync()
        try:
            return bool(storage.load(oid))
        except KeyError:
            return False
        except ConflictError:
            return True

    def _drop(self, client: Any, letter: str, obj: Object, step: Json) -> None:
        for each in client.get_cache():
            if each._p_is_saved():
                each._p_set_status_ghost()


def steps(request: Json) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        runner = Steps(serve({"folder": folder})["address"])
        try:
            return {"seen": [runner.perform(step) for step in request["steps"]]}
        finally:
            serve({"stop": True})


OPERATIONS: dict[str, Callable[[Json], Json]] = {each.__name__: each for each in (read_record, pack, steps, serve)}


def main() -> None:
    answer_requests({"testee": "durus 4.3", "protocols": [1]}, OPERATIONS)


if __name__ == "__main__":
    main()
