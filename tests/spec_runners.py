"""How each kind of example in spec/ is run."""

import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from durus.error import DamageError, FormatError, RecordError, UnsoundTailError
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.dfs20.scan import scan_transactions as scan_dfs20
from durus.files.file import File, OperatingSystem
from durus.files.record_file import RecordFile
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import Shelf, checksum_of
from durus.objects.cache import Cache
from durus.oid import format_oid, oid_to_int
from durus.persistent import ConnectionBase, PersistentObject
from durus.records.record import unpack_record
from durus.serialize import ObjectReader
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryConnection, InMemoryServer
from tests.spec import Example, bytes_and_expected, exchange, steps
from tests.spec_steps import StepRunner


def _class_path(cls: type) -> str:
    return f"{cls.__module__} {cls.__qualname__}"


def _plain(value: object) -> object:
    """Return a state as the JSON of an example has it."""
    if isinstance(value, PersistentObject):
        return {"oid": format_oid(value._p_oid or b""), "class": _class_path(type(value))}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def run_record(example: Example) -> None:
    record, expected = bytes_and_expected(example)
    try:
        oid, data, refs = unpack_record(record)
    except RecordError:
        assert expected == {"error": "malformed"}
        return
    reader = ObjectReader(ConnectionBase(), Cache(10), lambda oid: None)
    obj = reader.ghost_of_record(oid, data)
    reader.load_state(obj, data)
    found = {
        "oid": format_oid(oid),
        "class": _class_path(type(obj)),
        "state": _plain(PersistentObject.__getstate__(_unattached(obj))),
        "refs": [str(oid_to_int(refs[i : i + 8])) for i in range(0, len(refs), 8)],
    }
    assert found == expected


def _unattached(obj: PersistentObject) -> PersistentObject:
    object.__setattr__(obj, "_p_connection", None)
    return obj


def run_shelf(example: Example) -> None:
    _run_file(example, lambda file: _read_shelf(Shelf(file), file))


def run_dfs20(example: Example) -> None:
    _run_file(example, lambda file: _read_dfs20(Dfs20(file), file))


def _run_file(example: Example, read: Callable[[File], object]) -> None:
    data, expected = bytes_and_expected(example)
    found: object
    with TemporaryDirectory() as directory:
        path = Path(directory, "example.durus")
        path.write_bytes(data)
        file = OperatingSystem().open(str(path), "read")
        try:
            found = read(file)
        except DamageError as error:
            found = {"error": "damage", "offset": error.offset}
        except FormatError:
            found = {"error": "format"}
        finally:
            file.close()
    assert found == expected


def _read_shelf(shelf: Shelf, file: File) -> dict[str, object]:
    if isinstance(shelf.tail, UnsoundTailError):
        return {"error": "tail", "offset": shelf.tail.offset}
    start = shelf.map.end
    checksum = checksum_of(file, start)
    return {
        "objects": _texts(shelf),
        "transactions": len(list(scan_transactions(file, start, shelf.end, checksum))),
        "sealed": shelf.is_sealed,
        "free": list(shelf.map.holes()),
    }


def _read_dfs20(found: Dfs20, file: File) -> dict[str, object]:
    if found.tail is not None:
        return {"error": "tail", "offset": found.tail.offset}
    transactions = scan_dfs20(file, found.base_end, found.end)
    return {"objects": _texts(found), "transactions": len(list(transactions))}


def _texts(found: RecordFile) -> dict[str, str]:
    return {
        format_oid(oid): unpack_record(found.read_entry(oid, offset))[1].decode("ascii")
        for oid, offset in sorted(found.offsets())
    }


def run_steps(example: Example) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for protocol in 1, 2:
            runner = StepRunner(protocol)
            for line, step in steps(example):
                runner.run(step, f"{example.document}:{line}, version {protocol}")


def run_exchange(example: Example) -> None:
    server = InMemoryServer(MemoryStorage())
    connections: dict[str, InMemoryConnection] = {}
    for line in exchange(example):
        if line.client not in connections:
            connections[line.client] = server.connect()
        connection = connections[line.client]
        if line.event == ">":
            for byte in line.data:
                if not connection.is_closed:
                    connection.sendall(bytes([byte]))
        elif line.event == "<":
            assert bytes(connection.received) == line.data, line.place
            connection.received.clear()
        else:
            assert connection.is_closed, line.place
    for client, connection in connections.items():
        assert not connection.received, f"{example.name}: what {client} got at last is not shown"
        assert connection.is_closed == any(
            line.event == "closed" and line.client == client for line in exchange(example)
        ), f"{example.name}: {client} was dropped: {connection.error}"


RUNNERS: dict[str, Callable[[Example], None]] = {
    "record": run_record,
    "shelf": run_shelf,
    "dfs20": run_dfs20,
    "steps": run_steps,
    "exchange": run_exchange,
}
