"""Clients whose connection is lost: what they say, and that they connect again."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError, DisconnectedError
from durus.file_storage import FileStorage
from tests.green_sockets import GreenSocket, use_green_sockets
from tests.threaded_server import serving


def serving_in(folder: Path) -> AbstractContextManager[object]:
    return serving(FileStorage(folder / "f", durability="os"), folder / "s")


def count(connection: Connection) -> None:
    with connection.transaction() as root:
        root["n"] = root.get("n", 0) + 1


@pytest.mark.spec("WIRE-30", "WIRE-25")
def test_a_restart_of_the_server_costs_each_client_one_transaction_at_most(short_path: Path) -> None:
    with serving_in(short_path):
        clients = [Connection(ClientStorage(address=short_path / "s")) for _ in range(30)]
        for client in clients:
            count(client)
        for client in clients[:10]:
            client.get_root()["lost"] = True
    with serving_in(short_path):
        for client in clients[:10]:
            with pytest.raises(DisconnectedError, match=r"call abort\(\) to connect again"):
                client.commit()
            client.abort()
        for client in clients:
            count(client)
        clients[0].abort()
        assert dict(clients[0].get_root()) == {"n": 60}
        for client in clients:
            client.close()


@pytest.mark.spec("WIRE-30", "TXN-46")
@pytest.mark.parametrize("is_noticed_before", [False, True])
def test_an_exclusive_transaction_connects_again(short_path: Path, is_noticed_before: bool) -> None:
    with serving_in(short_path):
        client = Connection(ClientStorage(address=short_path / "s"))
        count(client)
    if is_noticed_before:
        with pytest.raises(DisconnectedError):
            client.abort()
    with serving_in(short_path):
        other = Connection(ClientStorage(address=short_path / "s"))
        with client.transaction(exclusive=True) as root:
            root["n"] += 1
            other.get_root()["n"] = 7
        with pytest.raises(ConflictError):
            other.commit()
        other.abort()
        assert dict(other.get_root()) == {"n": 2}
        client.close()
        other.close()


@pytest.mark.spec("WIRE-30")
def test_while_no_server_is_there_each_call_says_so_and_the_changes_are_forgotten(short_path: Path) -> None:
    with serving_in(short_path):
        client = Connection(ClientStorage(address=short_path / "s"))
        count(client)
        client.get_root()["lost"] = True
    for _ in range(2):
        with pytest.raises(DisconnectedError):
            client.commit()
    for call in (client.abort, lambda: count(client), client.commit):
        with pytest.raises(DisconnectedError, match="connecting again failed"):
            call()
    assert not client.changed
    with serving_in(short_path):
        count(client)
        assert dict(client.get_root()) == {"n": 2}
        client.close()
        with pytest.raises(DisconnectedError, match="was closed here"):
            client.abort()


@pytest.mark.spec("TXN-81")
def test_a_lost_connection_tells_how_to_go_on_and_does_not_repeat_itself(short_path: Path) -> None:
    with serving_in(short_path):
        client = Connection(ClientStorage(address=short_path / "s"))
        final = Connection(ClientStorage(address=short_path / "s", reconnect=False))
    texts = []
    for _ in range(3):
        with pytest.raises(DisconnectedError) as caught:
            client.abort()
        texts.append(str(caught.value))
    assert texts[0] == texts[2]
    assert texts[0].count("was lost") == texts[0].count("call abort() again when the server runs") == 1
    with pytest.raises(DisconnectedError, match=r"open a new storage and a new Connection, and run the transaction"):
        final.abort()


@pytest.mark.spec("WIRE-30")
def test_an_error_inside_of_a_block_is_not_hidden_by_the_loss_of_the_connection(short_path: Path) -> None:
    with serving_in(short_path):
        client = Connection(ClientStorage(address=short_path / "s", reconnect=False))
        with pytest.raises(ValueError, match="mine"), client.transaction() as root:  # noqa: PT012 (a block is meant)
            root["x"] = 1
            client.storage._stream.close()  # type: ignore[attr-defined]  # a ClientStorage
            raise ValueError("mine")
    with pytest.raises(DisconnectedError, match="open a new storage"):
        count(client)


@pytest.mark.spec("WIRE-31")
def test_a_socket_that_does_not_wait_in_the_kernel_gets_the_timeout_itself(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_green_sockets(monkeypatch)
    with serving_in(short_path):
        storage = ClientStorage(address=short_path / "s", timeout=17)
        assert isinstance(storage._stream, GreenSocket)
        assert storage._stream.gettimeout() == 17
        storage.close()
