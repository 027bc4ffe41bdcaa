"""What the errors of a conflict and of a commit without an answer tell. Statements TXN-80, TXN-81, DB-25."""

import contextlib
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import durus
from durus.client_storage import ClientStorage
from durus.concurrency.connecting_again import BY_ABORT, BY_NEXT_TRANSACTION
from durus.connection import Connection
from durus.error import DisconnectedError, OutcomeUnknownError, ReadConflictError, WriteConflictError
from durus.persistent import Persistent
from durus.shared_storage import SharedStorage
from durus.storage import MemoryStorage
from tests.in_memory_server import InMemoryServer
from tests.threaded_server import serving


class Issue(Persistent):
    votes = 0


def two_clients() -> tuple[Connection, Connection]:
    """Return two connections to storages that share an issue, at root["issue"]."""
    shared = SharedStorage(MemoryStorage())
    one, two = (Connection(shared.new_client()) for _ in range(2))
    one.get_root()["issue"] = Issue()
    one.get_root()["other"] = Issue()
    one.commit()
    two.abort()
    return one, two


@pytest.mark.spec("TXN-80")
def test_a_conflict_of_a_commit_names_class_and_oid_and_what_to_do() -> None:
    one, two = two_clients()
    one.get_root()["issue"].votes = 1
    two.get_root()["issue"].votes = 2
    one.commit()
    with pytest.raises(WriteConflictError) as caught:
        two.commit()
    issue = one.get_root()["issue"]
    assert caught.value.oids == [issue._p_oid]
    assert f"a pack: {__name__}.Issue {issue._p_format_oid()} (changed " in str(caught.value)
    assert " by the thread MainThread); call abort() and run" in str(caught.value)
    assert "db.run(function)" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.oids, again.classes) == (str(caught.value), caught.value.oids, caught.value.classes)


@pytest.mark.spec("TXN-80")
def test_a_conflict_of_a_load_names_class_and_oid() -> None:
    one, two = two_clients()
    mine, others = (client.get_root()["issue"] for client in (two, one))
    late = two.get_root()["other"]
    mine.votes = 5
    others.votes = 1
    one.get_root()["other"].votes = 1
    one.commit()
    for _ in range(2):  # the second time, the connection knows
        with pytest.raises(ReadConflictError) as caught:
            late.votes  # noqa: B018 (reading is the point)
        assert f": {__name__}.Issue {late._p_format_oid()}; call abort()" in str(caught.value)


@pytest.mark.spec("TXN-80", "TXN-82")
def test_a_conflict_that_a_server_finds_names_class_and_oid() -> None:
    server = InMemoryServer(MemoryStorage())
    one, two = (Connection(server.new_client()) for _ in range(2))
    one.get_root()["issue"] = Issue()
    one.commit()
    two.abort()
    two.get_root()["issue"].votes = 5
    one.get_root()["issue"].votes = 1
    one.commit()
    with pytest.raises(WriteConflictError, match=r"Issue 1 \(changed 0 s ago by another client\); call abort\(\)"):
        two.commit()


@pytest.mark.spec("TXN-82")
def test_a_conflict_of_threads_names_the_one_that_has_committed() -> None:
    shared = SharedStorage(MemoryStorage())
    one, two = (Connection(shared.new_client()) for _ in range(2))

    def change() -> None:
        one.get_root()["n"] = 1
        one.commit()

    two.get_root()["n"] = 2
    other = threading.Thread(target=change, name="the\x1bother")
    other.start()
    other.join()
    told = r"PersistentDict 0 \(changed [0-9.]+ s ago by the thread the\\x1bother\); call abort"
    with pytest.raises(WriteConflictError, match=told):
        two.commit()


@pytest.mark.spec("TXN-80")
def test_a_conflict_on_many_objects_names_ten_and_counts_the_rest() -> None:
    many = WriteConflictError(number.to_bytes(8, "big") for number in range(10**5))
    many.classes[bytes(8)] = "evil\x1b.Class"
    assert r": evil\x1b.Class 0, oid 1, oid 2, " in str(many)
    assert ", oid 9 and 99990 more; call abort()" in str(many)
    assert len(str(many)) < 400


@pytest.mark.spec("TXN-81")
def test_an_unknown_outcome_tells_to_look_first() -> None:
    storage = InMemoryServer(MemoryStorage()).new_client()
    connection = Connection(storage)
    connection.get_root()["n"] = 1
    stream: Any = storage._stream
    sendall = stream.sendall

    def send_and_lose(data: bytes) -> None:
        sendall(data)
        if len(data) > 60:  # the records, whose answer is lost
            stream.recv = lambda size: b""

    stream.sendall = send_and_lose
    with pytest.raises(OutcomeUnknownError) as caught:
        connection.commit()
    text = str(caught.value)
    assert (
        "before the answer to a commit came, so the commit is stored completely or not at all; open a new storage"
        in text
    )
    assert text.endswith("and check whether it is stored before you run it again")
    assert text.count("open a new storage") == 1


@pytest.mark.spec("DB-25")
def test_lost_connection_is_told_with_what_helps_in_a_database_and_with_a_connection(short_path: Path) -> None:
    address = short_path / "s"
    with serving(MemoryStorage(), address):
        db = durus.open(f"durus+unix:{address}")
        connection = Connection(ClientStorage(address=str(address)))
        blocks = contextlib.ExitStack()
        root: Any = blocks.enter_context(db.transaction())
    with pytest.raises(DisconnectedError) as told:
        root._p_connection.storage.load(bytes(8))
    assert str(told.value).endswith("; run the transaction again, which connects again")
    with pytest.raises(DisconnectedError), blocks:
        root["x"] = 1
    with pytest.raises(DisconnectedError) as told:
        connection.storage.load(bytes(8))
    assert str(told.value).endswith("; call abort() to connect again, and run the transaction again")
    with pytest.raises(DisconnectedError) as told:
        connection.abort()
    assert str(told.value).endswith("; call abort() again when the server runs, then run the transaction again")
    connection.close()
    db.close()


def test_words_for_a_database_do_not_speak_of_calls_of_a_connection() -> None:
    assert all("abort()" in words for words in BY_ABORT)
    assert not any("abort()" in words for words in BY_NEXT_TRANSACTION)
