"""A database of items on a server in memory, and a connection that counts what is asked."""

from durus.connection import Connection
from durus.persistent import Persistent
from durus.persistent_list import PersistentList
from tests.in_memory_server import InMemoryConnection, InMemoryServer


class Item(Persistent):
    data: bytes

    def __init__(self, n: int) -> None:
        self.n = n


class CountingConnection(InMemoryConnection):
    """Notes each request."""

    def __init__(self, server: InMemoryServer) -> None:
        super().__init__(server)
        self.requests: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.requests.append(data)
        super().sendall(data)

    def loads(self) -> int:
        """Return how many of them are loads of version 1."""
        return sum(request[:1] in (b"L", b"B") for request in self.requests)

    def kinds(self) -> bytes:
        """Return the kinds of all requests since the last call."""
        kinds = b"".join(request[4:5] for request in self.requests)
        self.requests.clear()
        return kinds


def store_items(server: InMemoryServer, count: int) -> None:
    connection = Connection(server.new_client())
    connection.get_root()["items"] = PersistentList(Item(n) for n in range(count))
    connection.commit()


def items_of(connection: Connection) -> list[Item]:
    items: PersistentList[Item] = connection.get_root()["items"]
    return list(items)
