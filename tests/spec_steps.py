"""The small language of the `steps` examples; spec/transactions.md says what its lines mean."""

from collections.abc import Callable
from typing import Any

from durus.connection import Connection
from durus.error import ReadConflictError, WriteConflictError
from durus.persistent import GHOST, SAVED, UNSAVED, Persistent, PersistentObject
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer
from tests.spec import parse_step

_STATUS = {"a ghost": GHOST, "saved": SAVED, "unsaved": UNSAVED}
Step = dict[str, Any]


class StepRunner:
    """Runs steps for clients that share one storage: A, and those that steps name.

    Each client has a storage of `new_client`, or one of a server that speaks this version of the protocol.
    """

    def __init__(self, protocol: int = 2, new_client: Callable[[], Storage] | None = None) -> None:
        server = InMemoryServer(MemoryStorage(), protocol=protocol)
        self._new_client = new_client or (lambda: server.new_client(prefetch=0))
        self._clients: dict[str, Connection] = {}
        self._held: dict[tuple[str, str], PersistentObject] = {}
        """The objects that each client has in its variables."""
        self._oids: dict[str, bytes] = {"root": bytes(8)}
        self._steps: dict[str, Callable[[Connection, str, Step], None]] = {
            "new": self._create,
            "status": self._expect_status,
            "read": self._read,
            "delete": self._delete,
            "set": self._write,
            "commit": self._commit,
            "abort": self._abort,
            "pack": self._pack,
            "drop": self._drop,
        }
        self._client("A")

    def run(self, step: str, place: str) -> None:
        parsed = parse_step(step)
        client = parsed["client"]
        try:
            self._steps[parsed["step"]](self._client(client), client, parsed)
        except Exception as error:
            raise AssertionError(f"{place}: {step}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            client.close()

    def _client(self, name: str) -> Connection:
        if name not in self._clients:
            self._clients[name] = Connection(self._new_client())
        return self._clients[name]

    def _find(self, connection: Connection, client: str, name: str) -> PersistentObject:
        if (client, name) not in self._held:
            found = connection.get(self._oids[name])
            if found is None:
                raise KeyError(name)
            self._held[client, name] = found
        return self._held[client, name]

    def _create(self, connection: Connection, client: str, step: Step) -> None:
        self._held[client, step["object"]] = Persistent()

    def _expect_status(self, connection: Connection, client: str, step: Step) -> None:
        found = self._find(connection, client, step["object"])._p_status
        assert found == _STATUS[step["sees"]], f"its status is {found}"

    def _read(self, connection: Connection, client: str, step: Step) -> None:
        try:
            obj = self._find(connection, client, step["object"])
            if obj is connection.root:
                found = connection.get_root().get(step["key"], "nothing")
            else:
                found = getattr(obj, step["key"], "nothing")
        except ReadConflictError:
            found = "read conflict"
        if isinstance(found, PersistentObject):
            assert found is self._find(connection, client, step["sees"]["object"])
        else:
            assert found == step["sees"], f"found {found}"

    def _write(self, connection: Connection, client: str, step: Step) -> None:
        value = step["value"]
        if isinstance(value, dict):
            value = self._find(connection, client, value["object"])
        obj = self._find(connection, client, step["object"])
        if obj is connection.root:
            connection.get_root()[step["key"]] = value
        else:
            setattr(obj, step["key"], value)

    def _delete(self, connection: Connection, client: str, step: Step) -> None:
        obj = self._find(connection, client, step["object"])
        if obj is connection.root:
            del connection.get_root()[step["key"]]
        else:
            delattr(obj, step["key"])

    def _commit(self, connection: Connection, client: str, step: Step) -> None:
        conflicts: list[bytes] | None = None
        try:
            connection.commit()
        except WriteConflictError as error:
            conflicts = error.oids
        sees = step["sees"]
        expected = None if sees == "stored" else sorted(self._oids[name] for name in sees)
        assert conflicts == expected, f"conflicts: {conflicts}"
        for (_, name), obj in self._held.items():
            if obj._p_oid is not None:
                self._oids[name] = obj._p_oid

    def _abort(self, connection: Connection, client: str, step: Step) -> None:
        connection.abort()

    def _pack(self, connection: Connection, client: str, step: Step) -> None:
        connection.pack()

    def _drop(self, connection: Connection, client: str, step: Step) -> None:
        for obj in connection.cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                connection.cache.make_ghost(obj._p_oid)
