"""A server that runs already, in place of a testee that starts one. It may hold data, and it keeps them."""

from typing import Any

from durus_conformance import wire
from durus_conformance.testee import Testee

Json = Any


class Server(Testee):
    """Answers where it listens. Only the exchanges run that neither need an empty storage nor change one.

    Args:
        where: a host and a port, with a colon between them, or the path of a Unix socket.
        deadline: how many seconds an answer may take.
    """

    is_alone = False

    def __init__(self, where: str, deadline: float) -> None:
        super().__init__([], deadline)
        host, _, port = where.rpartition(":")
        self._address: Json = {"host": host.strip("[]"), "port": int(port)} if port.isdigit() else {"unix": where}
        self.name = f"the server at {where}"
        self.operations = frozenset(("serve",))

    def start(self) -> None:
        """Find out if it can be reached. TesteeError if not."""
        wire.connect(self._address, self.deadline).close()

    def call(self, operation: str, **arguments: Json) -> dict[str, Json]:
        return {"address": self._address}
