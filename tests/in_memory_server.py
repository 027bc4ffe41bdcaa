"""A server without sockets, clocks or threads: what one call sets going is done when it returns."""

from collections import deque
from collections.abc import Callable, Iterator

from durus.client_storage import ClientStorage
from durus.error import DurusError, LimitError, NotAllowedError
from durus.progress import Progress
from durus.sharing.compression import ZLIB
from durus.sharing.conversation import Conversation
from durus.sharing.protocol import Version, encode_request, receive
from durus.sharing.protocol2 import Answer, Hello, read_answer
from durus.sharing.roles import Role
from durus.sharing.session import SessionCore
from durus.storage import Storage


class InMemoryServer:
    """Serves a storage to clients in the same thread."""

    def __init__(self, storage: Storage, packs_at_once: bool = True, protocol: int = 2) -> None:
        self.storage = storage
        self.protocol = protocol
        """The version of the protocol that its clients speak."""
        self.now = 0.0
        """The time, which passes where a client waits for its turn."""
        self.core = SessionCore(storage, lambda: self.now)
        self.connections: list[InMemoryConnection] = []
        self.work: deque[Callable[[], None]] = deque()
        self.packing: Iterator[Progress] | None = None
        self.waiting_for_pack: list[Callable[[DurusError | None], None]] = []
        self._packs_at_once = packs_at_once

    def connect(self, refusal: LimitError | None = None, reserve: LimitError | None = None) -> "InMemoryConnection":
        connection = InMemoryConnection(self, refusal, reserve)
        self.connections.append(connection)
        return connection

    def new_client(self, prefetch: int = 100, protocol: int | None = None) -> ClientStorage:
        return ClientStorage(stream=self.connect(), prefetch=prefetch, protocol=protocol or self.protocol)

    def settle(self) -> None:
        """Do all that can be done now."""
        while self.work or self.core.has_ready_commits or self.core.is_news_due:
            while self.work:
                self.work.popleft()()
            if self.core.is_news_due:
                self.core.take_news()
            if self.core.has_ready_commits:
                self.write()
        if self._packs_at_once and self.packing is not None:
            while self.packing is not None:
                self.pack_a_step()
            self.settle()

    def let_time_pass(self) -> bool:
        """Let as much time pass as it takes until a turn is passed on; False if nobody waits for one."""
        seconds = self.core.pass_turn_on()
        if seconds is not None:
            self.now += seconds
            self.core.pass_turn_on()
            self.settle()
        return seconds is not None

    def write(self) -> None:
        write = self.core.begin_write()
        failure = None
        try:
            write.write()
        except DurusError as error:
            failure = error
        write.finish(failure)

    def pack_a_step(self) -> None:
        if self.packing is None:
            return
        error = None
        try:
            if next(self.packing, None) is not None:
                return
        except DurusError as failure:
            error = failure
        self.packing = None
        waiting, self.waiting_for_pack = self.waiting_for_pack, []
        for on_end in waiting:
            on_end(error)


class InMemoryConnection:
    """Both ends of one connection: a Host to the conversation, and a Stream to a ClientStorage."""

    def __init__(
        self, server: InMemoryServer, refusal: LimitError | None = None, reserve: LimitError | None = None
    ) -> None:
        self._server = server
        self.is_paused = False
        self.hello = Hello(compressions=1 << ZLIB)  # whatever this Python has
        self.role = Role.ADMIN
        self.refusal = refusal
        self.reserve = reserve
        self.refusals: list[str] = []
        self.received = bytearray()
        """What the server has sent and the client has not taken."""
        self.is_closed = False
        self.error: DurusError | None = None
        """Why the server has dropped the client."""
        self.conversation = Conversation(server.core, self)

    # What the conversation calls

    def send(self, data: bytes) -> None:
        self.received += data

    def proceed_soon(self) -> None:
        self._server.work.append(self.conversation.proceed)

    wake = proceed_soon

    def commit_is_ready(self) -> None:
        pass

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        pass

    def pack(self, on_end: Callable[[DurusError | None], None]) -> None:
        self._server.waiting_for_pack.append(on_end)
        if self._server.packing is None:
            self._server.packing = self._server.core.gen_pack()

    def status(self) -> dict[str, object]:
        return {"answers": "this test"}

    def file_sent(self) -> None:
        pass

    def note_refusal(self, error: NotAllowedError | LimitError) -> None:
        self.refusals.append(str(error))

    def quit(self) -> None:
        for connection in self._server.connections:
            connection.conversation.finish()
        self._server.work.append(lambda: self.end(None))

    def end(self, error: DurusError | None) -> None:
        self.is_closed = True
        self.error = error

    # What the client calls

    def sendall(self, data: bytes) -> None:
        if self.is_closed:
            raise BrokenPipeError("the server has closed it")
        self.conversation.receive(data)
        self._server.settle()

    def recv(self, size: int) -> bytes:
        while size and not self.received and not self.is_closed and self._server.let_time_pass():
            pass
        if size and not self.received and not self.is_closed:
            raise TimeoutError("the server does not answer")
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def close(self) -> None:
        self.conversation.close()
        self._server.settle()


def greeted(server: InMemoryServer) -> InMemoryConnection:
    """Return a connection on which version 2 is agreed on, without what the server has sent so far."""
    connection = server.connect()
    connection.sendall(encode_request(Version(2)))
    connection.received.clear()
    return connection


def answers(connection: InMemoryConnection) -> list[Answer]:
    """Return what the server has sent."""
    found = []
    while connection.received:
        found.append(receive(read_answer(), connection.recv))
    return found
