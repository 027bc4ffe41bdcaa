"""The testee of this implementation: `python conformance/testees/durus_testee.py`. ../README.md has the messages.

Where the library has no call for an operation it takes the module that does the work.
"""

import contextlib
import copyreg
import dataclasses
import enum
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from durus import __version__
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import (
    ConflictError,
    DamageError,
    DurusError,
    DurusKeyError,
    FormatError,
    OutcomeUnknownError,
    ReadConflictError,
    RecordError,
    StateError,
    UnsoundTailError,
    WriteConflictError,
)
from durus.file_storage2 import FileStorage2
from durus.files import dfs20, shelf
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.dfs20.scan import scan_transactions as scan_dfs20
from durus.files.file import OperatingSystem
from durus.files.inspection import Finding, Records
from durus.files.record_file import is_unfinished_creation
from durus.files.shelf.scan import scan_transactions as scan_shelf
from durus.files.shelf.shelf import Shelf, checksum_of
from durus.objects.cache import Cache
from durus.oid import FIRST_RESERVED_OID, format_oid, oid_from_int
from durus.open_file import inspect_file, open_file_storage
from durus.persistent import GHOST, SAVED, UNSAVED, ConnectionBase, Persistent, PersistentObject, implementation
from durus.records.record import pack_record, split_oids, unpack_record
from durus.serialize import ObjectReader, ObjectWriter
from durus.sharing.protocol import INVALID, OKAY
from json_lines import Json, answer_requests

STATUSES = {GHOST: "a ghost", SAVED: "saved", UNSAVED: "unsaved"}


def oid_of(text: str) -> bytes:
    return oid_from_int(int(text))


def fault_of(error: DurusError) -> Json:
    if isinstance(error, UnsoundTailError):
        return {"error": "tail", "offset": error.offset}
    if isinstance(error, DamageError):
        return {"error": "damage", "offset": error.offset}
    return {"error": "format" if isinstance(error, FormatError) else "refused"}


# Records


def read_record(request: Json) -> Json:
    try:
        oid, _, refs = unpack_record(bytes.fromhex(request["hex"]))
    except RecordError:
        return {"error": "malformed"}
    return {"oid": format_oid(oid), "refs": [format_oid(each) for each in split_oids(refs)]}


def read_state(request: Json) -> Json:
    try:
        oid, data, refs = unpack_record(bytes.fromhex(request["hex"]))
    except RecordError:
        return {"error": "malformed"}
    reader = ObjectReader(ConnectionBase(), Cache(10), lambda oid: None)
    try:
        obj = reader.ghost_of_record(oid, data)
        reader.load_state(obj, data)
    except (StateError, RecordError):
        return {"error": "state"}
    object.__setattr__(obj, "_p_connection", None)
    found = {"oid": format_oid(oid), "class": class_path(type(obj))}
    state = PersistentObject.__getstate__(obj)
    return {**found, "state": plain(state), "refs": [format_oid(each) for each in split_oids(refs)]}


def write_record(request: Json) -> Json:
    oid, data, _ = unpack_record(bytes.fromhex(request["hex"]))
    connection, cache = ConnectionBase(), Cache(10)
    reader = ObjectReader(connection, cache, lambda oid: None)
    obj = reader.ghost_of_record(oid, data)
    reader.load_state(obj, data)
    writer = ObjectWriter(connection, obj, lambda: bytes(8), reader.has_broken_classes())
    return {"hex": next(record for _, _, record in writer.records([(obj, oid)])).hex()}


def class_path(cls: type) -> str:
    return f"{cls.__module__} {cls.__qualname__}"


def plain(value: object) -> Json:
    """Return a value as the JSON of the vectors has it."""
    match value:
        case enum.Enum():
            return {"$global": f"{class_path(type(value))}.{value.name}"}
        case None | bool():
            return value
        case str():
            return value if is_unicode(value) else {"$text": value.encode("utf-8", "surrogatepass").hex()}
        case int():
            return value if abs(value) < 2**53 else {"$int": str(value)}
        case float():
            return {"$float": repr(value)}
        case bytes():
            return {"$bytes": value.hex()}
        case PersistentObject():
            return {"oid": format_oid(value._p_oid or b""), "class": class_path(type(value))}
        case list():
            return [plain(each) for each in value]
        case dict() if type(value) is dict and all(is_name(key) for key in value):
            return {key: plain(each) for key, each in value.items()}
        case dict() if type(value) is dict:
            return {"$dict": [[plain(key), plain(each)] for key, each in value.items()]}
        case tuple():
            return {"$tuple": [plain(each) for each in value]}
        case set() | frozenset():
            return {f"${type(value).__name__}": sorted((plain(each) for each in value), key=json.dumps)}
        case type():
            return {"$global": class_path(value)}
    return made_by(value)


def is_name(key: object) -> bool:
    """Return whether a key of a dict can be one in JSON."""
    return isinstance(key, str) and key[:1] != "$" and is_unicode(key)


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def made_by(value: object) -> Json:
    """Return what makes a value that no opcode pushes."""
    reduce = copyreg.dispatch_table.get(type(value))
    made: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    function, arguments, state, items, pairs = (*made, None, None, None)[:5]
    is_new = function is copyreg.__newobj__  # type: ignore[attr-defined]  # of which typeshed knows nothing
    name = class_path(arguments[0] if is_new else function)
    arguments = arguments[1:] if is_new else arguments
    found = {"$new" if is_new else "$call": name, "args": [plain(each) for each in arguments]}
    found |= {"items": plain(added)} if (added := list(items or ())) else {}
    found |= {"pairs": [[plain(key), plain(each)] for key, each in added]} if (added := list(pairs or ())) else {}
    return found if state is None else {**found, "state": plain(state)}


# Files


def read_file(request: Json) -> Json:
    file = OperatingSystem().open(request["path"], "read")
    is_dfs20 = request["format"] == "DFS20"
    try:
        if is_unfinished_creation(file, (dfs20 if is_dfs20 else shelf).FORMAT.empty_file):
            return {"error": "format"}
        found: Shelf | Dfs20 = Dfs20(file) if is_dfs20 else Shelf(file)
        if found.tail is not None:
            return {"error": "tail", "offset": found.tail.offset}
        objects = {
            format_oid(oid): unpack_record(found.read_entry(oid, offset))[1].decode("latin1")
            for oid, offset in sorted(found.offsets())
        }
        if isinstance(found, Dfs20):
            return {"objects": objects, "transactions": len(list(scan_dfs20(file, found.base_end, found.end)))}
        start = found.map.end
        transactions = len(list(scan_shelf(file, start, found.end, checksum_of(file, start))))
        free = list(found.map.holes())
        return {"objects": objects, "transactions": transactions, "sealed": found.is_sealed, "free": free}
    except FormatError as error:
        return fault_of(error)
    finally:
        file.close()


def write_file(request: Json) -> Json:
    path = request["path"]
    outcomes = []
    try:
        is_new_dfs20 = request["format"] == "DFS20" and not os.path.exists(path)
        storage = FileStorage2(path) if is_new_dfs20 else open_file_storage(path)
    except DurusError as error:
        return fault_of(error)
    for records in request["commits"]:
        try:
            storage.begin()
            for text, record in records.items():
                storage.store(oid_of(text), bytes.fromhex(record))
            storage.end()
            outcomes.append("stored")
        except (RecordError, ConflictError):
            outcomes.append("refused")
    storage.close()
    return {"outcomes": outcomes}


def new_oids(request: Json) -> Json:
    storage = open_file_storage(request["path"])
    try:
        return {"oids": [format_oid(storage.new_oid()) for _ in range(request["count"])]}
    finally:
        storage.close()


def repair(request: Json) -> Json:
    try:
        open_file_storage(request["path"], repair=True).close()
    except DurusError as error:
        return fault_of(error)
    return {}


def check(request: Json) -> Json:
    inspection = inspect_file(request["path"])
    try:
        records = None
        with contextlib.suppress(DurusError):
            records = inspection.records
        return {
            "faults": [each.offset for each in inspection.findings() if each.is_fault and is_of_file(records, each)]
        }
    except FormatError as error:
        return fault_of(error)
    finally:
        inspection.close()


def is_of_file(records: Records | None, finding: Finding) -> bool:
    """Return whether a fault is not only that there is no root, or that a record that can be read holds no pickles."""
    if records is None or finding.oid is None or finding.oid >= FIRST_RESERVED_OID:
        return True
    try:
        records.read(finding.oid)
    except DurusError:
        return True
    return False


def pack(request: Json) -> Json:
    try:
        storage = open_file_storage(request["path"])
    except DurusError:
        return {"error": "refused"}
    try:
        storage.pack()
    except DurusError:
        return {"error": "refused"}
    finally:
        storage.close()
    return {}


# Transactions


def connect(address: Json, protocol: int) -> ClientStorage:
    where = address["host"], address["port"]
    return ClientStorage(address=where, protocol=1 if protocol == 1 else None, prefetch=0, reconnect=False)


def exists(storage: ClientStorage, oid: bytes) -> bool:
    storage.sync()
    try:
        return storage.has_record(oid)
    except ReadConflictError:  # since the sync
        return True


class Steps:
    """Performs steps: the clients of one server, and their objects by name."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._folder = TemporaryDirectory()
        self._address = serve({"folder": self._folder.name})["address"]
        self._clients: dict[str, Connection] = {}
        self._held: dict[tuple[str, str], PersistentObject] = {}
        self._oids = {"root": bytes(8)}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        serve({"stop": True})
        self._folder.cleanup()

    def perform(self, step: Json) -> Json:
        letter = step["client"]
        if letter not in self._clients:
            self._clients[letter] = Connection(connect(self._address, self._protocol))
        client = self._clients[letter]
        act: Callable[[Connection, str, Json], Json] = getattr(self, f"_{step['step']}")
        return act(client, letter, step)

    def _object(self, client: Connection, letter: str, name: str) -> PersistentObject:
        if (letter, name) not in self._held:
            found = client.get(self._oids[name])
            if found is None:
                raise DurusKeyError(name)
            self._held[letter, name] = found
        return self._held[letter, name]

    def _values(self, client: Connection, letter: str, step: Json) -> Any:
        obj: Any = self._object(client, letter, step["object"])
        return obj if obj is client.root else Attributes(obj)

    def _new(self, client: Connection, letter: str, step: Json) -> None:
        self._held[letter, step["object"]] = Persistent()

    def _status(self, client: Connection, letter: str, step: Json) -> str:
        return STATUSES[self._object(client, letter, step["object"])._p_status]

    def _read(self, client: Connection, letter: str, step: Json) -> Json:
        try:
            found = self._values(client, letter, step).get(step["key"], "nothing")
        except ReadConflictError:
            return "read conflict"
        if not isinstance(found, PersistentObject):
            return found
        known = [name for (owner, name), obj in self._held.items() if owner == letter and obj is found]
        known += [name for name, oid in self._oids.items() if oid == found._p_oid]
        return {"object": known[0] if known else None}

    def _set(self, client: Connection, letter: str, step: Json) -> None:
        value = step["value"]
        if isinstance(value, dict):
            value = self._object(client, letter, value["object"])
        self._values(client, letter, step)[step["key"]] = value

    def _delete(self, client: Connection, letter: str, step: Json) -> None:
        del self._values(client, letter, step)[step["key"]]

    def _commit(self, client: Connection, letter: str, step: Json) -> Json:
        try:
            client.commit()
        except WriteConflictError as error:
            return [name for name, oid in self._oids.items() if oid in error.oids]
        for (_, name), obj in self._held.items():
            if obj._p_oid is not None:
                self._oids[name] = obj._p_oid
        return "stored"

    def _abort(self, client: Connection, letter: str, step: Json) -> None:
        client.abort()

    def _pack(self, client: Connection, letter: str, step: Json) -> None:
        other = connect(self._address, self._protocol)
        removed = other.new_oid()
        other.begin()
        other.store(removed, pack_record(removed, b"nothing refers to this", b""))
        other.end()
        client.pack()
        while exists(other, removed):  # version 1 tells nobody when a pack ends
            pass
        other.close()
        client.abort()

    def _drop(self, client: Connection, letter: str, step: Json) -> None:
        for obj in client.cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                client.cache.make_ghost(obj._p_oid)


@dataclasses.dataclass
class Attributes:
    """The attributes of an object as the items of a dict."""

    obj: PersistentObject

    def get(self, key: str, default: object) -> Any:
        return getattr(self.obj, key, default)

    def __setitem__(self, key: str, value: object) -> None:
        setattr(self.obj, key, value)

    def __delitem__(self, key: str) -> None:
        delattr(self.obj, key)


def steps(request: Json) -> Json:
    runner = Steps(request["protocol"])
    try:
        return {"seen": [runner.perform(step) for step in request["steps"]]}
    finally:
        runner.close()


# Servers and clients

SERVER: list["subprocess.Popen[str]"] = []


def serve(request: Json) -> Json:
    while SERVER:
        SERVER[0].kill()
        SERVER.pop(0).communicate()
    if request.get("stop"):
        return {}
    command = [sys.executable, "-m", "durus", "serve", "--host", "127.0.0.1", "--port", "0"]
    file = str(Path(request["folder"], "served.durus"))
    null = subprocess.DEVNULL
    SERVER.append(subprocess.Popen([*command, file], stdin=null, stdout=null, stderr=subprocess.PIPE, text=True))
    for line in SERVER[0].stderr or ():
        if "listening on " in line:
            host, _, port = line.partition("listening on ")[2].partition(",")[0].rpartition(":")
            return {"address": {"host": host, "port": int(port)}}
    raise DurusError("the server has ended")


class Transaction:
    """What a commit has accessed, and what its storage tells it."""

    def __init__(self, accessed: list[str]) -> None:
        self.accessed = {oid_of(each) for each in accessed}
        self.invalid: list[str] = []

    def note_invalid(self, oids: Collection[bytes] | None) -> None:
        self.invalid += [format_oid(each) for each in oids or []]

    def handle(self, oids: Collection[bytes] | None) -> None:
        self.note_invalid(oids)
        if conflicts := sorted(self.accessed.intersection(oids or [])):
            raise WriteConflictError(conflicts)


CLIENT: list[ClientStorage] = []


def client(request: Json) -> Json:
    call = request["call"]
    if call == "connect":
        while CLIENT:
            CLIENT.pop().close()
        CLIENT.append(connect(request["address"], request["protocol"]))
        return {}
    storage = CLIENT[0]
    if call == "new_oids":
        parts = [min(255, request["count"] - done) for done in range(0, request["count"], 255)]
        return {"oids": [format_oid(each) for part in parts for each in storage._dialog.new_oids(part)]}
    if call == "load":
        loaded = storage._dialog.load_all([oid_of(each) for each in request["oids"]])[: len(request["oids"])]
        return {"records": [{OKAY: each.record.hex(), INVALID: "invalid"}.get(each.status) for each in loaded]}
    if call == "sync":
        invalid = storage.sync()
        return {"invalid": "any" if invalid is None else [format_oid(each) for each in invalid]}
    if call == "commit":
        transaction = Transaction(request["accessed"])
        storage.set_accesses(transaction)
        storage.begin()
        for oid, record in request["records"].items():
            storage.store(oid_of(oid), bytes.fromhex(record))
        try:
            storage.end(transaction.handle)
        except WriteConflictError:
            return {"stored": False}
        except OutcomeUnknownError:
            return {"stored": "unknown"}
        return {"stored": True, "invalid": transaction.invalid}
    if call == "pack":
        storage.pack(wait=storage.protocol == 2)
    else:
        storage.close()
    return {}


OPERATIONS: dict[str, Callable[[Json], Json]] = {
    each.__name__: each
    for each in (
        read_record,
        read_state,
        write_record,
        read_file,
        write_file,
        new_oids,
        repair,
        check,
        pack,
        steps,
        client,
        serve,
    )
}


def main() -> None:
    warnings.simplefilter("ignore")
    answer_requests({"testee": f"durus {__version__} in {implementation}"}, OPERATIONS)


if __name__ == "__main__":
    main()
