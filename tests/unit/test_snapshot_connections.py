"""Connections that only read, each transaction from one state. TXN-65."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import ReadConflictError, ReadonlyError, SnapshotEndedError, TransactionError
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.shared_storage import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer

STORAGES: dict[str, Callable[[Path], Storage]] = {
    "file": lambda folder: FileStorage(folder / "f"),
    "file2": lambda folder: FileStorage2(folder / "f"),
    "sqlite": lambda folder: SqliteStorage(folder / "f"),
}
every_file = pytest.mark.parametrize("new_storage", STORAGES.values(), ids=STORAGES.keys())
every_storage = pytest.mark.parametrize(
    "new_storage", [*STORAGES.values(), lambda folder: MemoryStorage()], ids=[*STORAGES, "memory"]
)


class Account(Persistent):
    def __init__(self, balance: int) -> None:
        self.balance = balance


Root = PersistentDict[str, Any]


def fill(connection: Connection[Root]) -> None:
    connection.get_root().update(x=Account(1), y=Account(1))
    connection.commit()


def set_balances(connection: Connection[Root], balance: int) -> None:
    for name in "xy":
        connection.get_root()[name].balance = balance
    connection.commit()


@every_storage
@pytest.mark.spec("TXN-65")
def test_each_transaction_of_a_client_reads_one_state(new_storage: Callable[[Path], Storage], tmp_path: Path) -> None:
    storage = new_storage(tmp_path)
    shared = SharedStorage(storage)
    writer = Connection(shared.new_client())
    fill(writer)
    reader = Connection(shared.new_client(), snapshot=True)
    for end in reader.abort, reader.commit:
        root = reader.get_root()
        before = root["x"].balance
        set_balances(writer, before + 1)
        writer.get_root()["z"] = writer.get_root().pop("y")
        writer.commit()
        writer.pack()
        assert (root["y"].balance, sorted(root)) == (before, ["x", "y"])
        end()
        assert (root["x"].balance, sorted(root)) == (before + 1, ["x", "z"])
        writer.get_root()["y"] = writer.get_root().pop("z")
        writer.commit()
        assert "z" in root
        end()
    shared.close()


@every_storage
@pytest.mark.spec("TXN-65")
def test_a_connection_alone_with_its_storage_only_reads(new_storage: Callable[[Path], Storage], tmp_path: Path) -> None:
    storage = new_storage(tmp_path)
    if isinstance(storage, MemoryStorage):
        fill(Connection(SharedStorage(storage).new_client()))
    else:
        fill(Connection(storage))
        storage.close()
        storage = new_storage(tmp_path)
    reader = Connection(storage, snapshot=True)
    root = reader.get_root()
    root["x"].balance = 2
    with pytest.raises(ReadonlyError, match=r"1 changed objects are not stored; call abort.*another connection"):
        reader.commit()
    assert root["x"].balance == 2
    reader.abort()
    assert root["x"].balance == 1
    reader.commit()
    reader.close()


@every_file
@pytest.mark.spec("TXN-65")
def test_a_path_is_opened_beside_a_writer(new_storage: Callable[[Path], Storage], tmp_path: Path) -> None:
    writer = Connection(new_storage(tmp_path))
    fill(writer)
    reader = Connection(tmp_path / "f", snapshot=True)
    assert reader.get_root()["x"].balance == 1
    set_balances(writer, 2)
    assert reader.get_root()["y"].balance == 1
    reader.close()
    writer.close()


@pytest.mark.spec("TXN-65")
def test_a_commit_in_a_shared_storage_is_refused_in_each_of_its_steps() -> None:
    shared = SharedStorage(MemoryStorage())
    fill(Connection(shared.new_client()))
    client = shared.new_client()
    reader = Connection(client, snapshot=True)
    reader.get_root()["x"].balance = 2
    with pytest.raises(ReadonlyError):
        reader.commit()
    with pytest.raises(ReadonlyError, match="make changes in a transaction"):
        client.begin()
    with pytest.raises(ReadonlyError):
        client.new_oid()
    reader.abort()
    with pytest.raises(ReadonlyError), reader.transaction(exclusive=True):
        pass
    with pytest.raises(TransactionError):
        client.end()
    client.release()
    with pytest.raises(SnapshotEndedError, match="it was given up"):
        client.load(bytes(8))
    reader.abort()
    assert reader.get_root()["x"].balance == 1


@pytest.mark.spec("TXN-65")
def test_a_storage_without_a_root_is_not_changed() -> None:
    storage = MemoryStorage()
    with pytest.raises(ReadonlyError, match="has no root object yet"):
        Connection(SharedStorage(storage).new_client(), snapshot=True)
    assert list(storage.gen_oid_record(None)) == []


@pytest.mark.spec("TXN-65")
def test_a_storage_without_snapshots_has_transactions_that_only_read() -> None:
    server = InMemoryServer(MemoryStorage(), protocol=1)
    writer = Connection(server.new_client())
    fill(writer)
    reader = Connection(server.new_client(), snapshot=True)
    root = reader.get_root()
    reader.abort()  # which forgets what came along with the root
    assert list(root) == ["x", "y"]
    set_balances(writer, 2)
    writer.get_root()["z"] = 1
    writer.commit()
    with pytest.raises(ReadConflictError):
        print(root["y"].balance)
    with pytest.raises(ReadConflictError):
        print(root["x"].balance)
    reader.abort()
    root["x"].balance = 3
    with pytest.raises(ReadonlyError):
        reader.commit()
