"""The small language of the `steps` examples; spec/transactions.md says what its lines mean."""

import re
from collections.abc import Callable

from durus.connection import Connection
from durus.error import ReadConflictError, WriteConflictError
from durus.persistent import GHOST, SAVED, UNSAVED, Persistent, PersistentObject
from durus.storage import MemoryStorage, Storage
from tests.in_memory_server import InMemoryServer

_STATUS = {"a ghost": GHOST, "saved": SAVED, "unsaved": UNSAVED}
_TARGET = r"(?P<name>\w+)\.(?P<attribute>\w+)"


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
        self._steps: list[tuple[str, Callable[[Connection, str, dict[str, str]], None]]] = [
            (r"(?P<name>\w+) is new", self._create),
            (r"(?P<name>\w+) is (?P<status>a ghost|saved|unsaved)", self._expect_status),
            (r"read " + _TARGET + r" -> (?P<result>.+)", self._read),
            (r"delete " + _TARGET, self._delete),
            (_TARGET + r" = (?P<value>\w+)", self._write),
            (r"commit(?: -> write conflict on (?P<names>.+))?", self._commit),
            (r"abort", self._abort),
            (r"pack", self._pack),
            (r"drop the states", self._drop),
        ]
        self._client("A")

    def run(self, step: str, place: str) -> None:
        prefixed = re.fullmatch(r"([A-Z]): (.+)", step)
        client, rest = prefixed.groups() if prefixed else ("A", step)
        for pattern, action in self._steps:
            match = re.fullmatch(pattern, rest)
            if match:
                try:
                    action(self._client(client), client, match.groupdict())
                except Exception as error:
                    raise AssertionError(f"{place}: {step}: {type(error).__name__}: {error}") from error
                return
        raise AssertionError(f"{place}: no step reads {step!r}")

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

    def _create(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        self._held[client, step["name"]] = Persistent()

    def _expect_status(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        found = self._find(connection, client, step["name"])._p_status
        assert found == _STATUS[step["status"]], f"its status is {found}"

    def _read(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        try:
            obj = self._find(connection, client, step["name"])
            if obj is connection.root:
                found = connection.get_root().get(step["attribute"], "nothing")
            else:
                found = getattr(obj, step["attribute"], "nothing")
        except ReadConflictError:
            found = "read conflict"
        if isinstance(found, PersistentObject):
            assert found is self._find(connection, client, step["result"])
        else:
            assert str(found) == step["result"], f"found {found}"

    def _write(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        value: object = int(step["value"]) if step["value"].isdigit() else self._find(connection, client, step["value"])
        obj = self._find(connection, client, step["name"])
        if obj is connection.root:
            connection.get_root()[step["attribute"]] = value
        else:
            setattr(obj, step["attribute"], value)

    def _delete(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        obj = self._find(connection, client, step["name"])
        if obj is connection.root:
            del connection.get_root()[step["attribute"]]
        else:
            delattr(obj, step["attribute"])

    def _commit(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        conflicts: list[bytes] | None = None
        try:
            connection.commit()
        except WriteConflictError as error:
            conflicts = error.oids
        expected = step["names"] and sorted(self._oids[name] for name in step["names"].split(", "))
        assert conflicts == expected, f"conflicts: {conflicts}"
        for (_, name), obj in self._held.items():
            if obj._p_oid is not None:
                self._oids[name] = obj._p_oid

    def _abort(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        connection.abort()

    def _pack(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        connection.pack()

    def _drop(self, connection: Connection, client: str, step: dict[str, str]) -> None:
        for obj in connection.cache.loaded_objects():
            if obj._p_is_saved() and obj._p_oid is not None:
                connection.cache.make_ghost(obj._p_oid)
