"""How each kind of example in spec/ is run."""

import json
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import durus_testee
from durus.error import ConflictError, DamageError, DurusError, FormatError, RecordError, UnsoundTailError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.files import dfs20, shelf
from durus.files.dfs20.dfs20 import Dfs20
from durus.files.dfs20.scan import scan_transactions as scan_dfs20
from durus.files.file import File, OperatingSystem
from durus.files.inspection import Finding
from durus.files.record_file import RecordFile, is_unfinished_creation
from durus.files.shelf.scan import scan_transactions
from durus.files.shelf.shelf import Shelf, checksum_of
from durus.oid import format_oid, oid_from_int
from durus.open_file import inspect_file, open_file_storage
from durus.records.record import pack_record, unpack_record
from durus.storage import MemoryStorage
from durus_conformance import large
from tests.in_memory_server import InMemoryConnection, InMemoryServer
from tests.spec import Example, bytes_and_expected, exchange, recipe, steps
from tests.spec_steps import StepRunner


def run_record(example: Example) -> None:
    record, expected = bytes_and_expected(example)
    assert durus_testee.read_state({"hex": record.hex()}) == expected


def run_shelf(example: Example) -> None:
    _run_file(example, lambda file: _read_shelf(Shelf(file), file))


def run_dfs20(example: Example) -> None:
    _run_file(example, lambda file: _read_dfs20(Dfs20(file), file))


def _run_file(example: Example, read: Callable[[File], object]) -> None:
    data, expected = bytes_and_expected(example)
    expected.pop("or", None)  # for readers without block tables
    found: object
    with TemporaryDirectory() as directory:
        path = Path(directory, "example.durus")
        path.write_bytes(data)
        file = OperatingSystem().open(str(path), "read")
        empty_file = (shelf if example.kind == "shelf" else dfs20).FORMAT.empty_file
        try:
            found = {"error": "format"} if is_unfinished_creation(file, empty_file) else read(file)
        except DamageError as error:
            found = {"error": "damage", "offset": error.offset}
        except FormatError:
            found = {"error": "format"}
        finally:
            file.close()
        found_offsets = {each.offset for each in _findings(path)} if "faults" in expected else set()
    assert found_offsets.issuperset(expected.pop("faults", []))
    assert found == expected


def _findings(path: Path) -> list[Finding]:
    with closing(inspect_file(path)) as inspection:
        return [each for each in inspection.findings() if each.is_fault]


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
        format_oid(oid): unpack_record(found.read_entry(oid, offset))[1].decode("latin1")
        for oid, offset in sorted(found.offsets())
    }


def run_write(example: Example) -> None:
    before, expected = bytes_and_expected(example)
    with TemporaryDirectory() as directory:
        path = Path(directory, "example.durus")
        if before:
            path.write_bytes(before)
        found = _write(path, expected)
        after = path.read_bytes()
        if "error" in found:
            assert after == before
        else:
            assert after.startswith(before) or len(before) <= 40
            found |= _read(path)
    assert found == {key: value for key, value in expected.items() if key not in ("commits", "format")}


def _write(path: Path, expected: dict[str, Any]) -> dict[str, object]:
    storage_class = FileStorage2 if expected.get("format") == "DFS20" else FileStorage
    try:
        storage = storage_class(path)
    except UnsoundTailError as error:
        return {"error": "tail", "offset": error.offset}
    except DamageError as error:
        return {"error": "damage", "offset": error.offset}
    except FormatError:
        return {"error": "format"}
    with closing(storage):
        return {"outcomes": [_commit(storage, records) for records in expected["commits"]]}


def _commit(storage: FileStorage | FileStorage2, records: dict[str, Any]) -> str:
    try:
        storage.begin()
        for oid, record in records.items():
            own = oid_from_int(int(oid))
            storage.store(own, _record(own, record))
        storage.end()
    except (RecordError, ConflictError):
        return "refused"
    return "stored"


def _record(oid: bytes, record: Any) -> bytes:
    if isinstance(record, dict) and "hex" in record:
        return bytes.fromhex(record["hex"])
    data, refs = (record, []) if isinstance(record, str) else (record["data"], record["refs"])
    return pack_record(oid, data.encode(), b"".join(oid_from_int(int(each)) for each in refs))


def run_pack(example: Example) -> None:
    before, expected = bytes_and_expected(example)
    with TemporaryDirectory() as directory:
        path = Path(directory, "example.durus")
        path.write_bytes(before)
        with closing(open_file_storage(path)) as storage:
            try:
                storage.pack()
            except DurusError:
                assert expected == {"error": "refused"}
                assert path.read_bytes() == before
                return
        found = _read(path)
        assert {key: found[key] for key in expected} == expected


def _read(path: Path) -> dict[str, object]:
    file = OperatingSystem().open(str(path), "read")
    with closing(file):
        return (
            _read_dfs20(Dfs20(file), file) if path.read_bytes().startswith(b"DFS20") else _read_shelf(Shelf(file), file)
        )


def run_large(example: Example) -> None:
    for made in large.examples(example.name, recipe(example)):
        body = f"{made['hex']}\n---\n{json.dumps(made['expected'])}"
        RUNNERS[made["kind"]](replace(example, kind=made["kind"], name=made["name"], body=body))


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
    "write": run_write,
    "pack": run_pack,
    "large": run_large,
    "steps": run_steps,
    "exchange": run_exchange,
}
