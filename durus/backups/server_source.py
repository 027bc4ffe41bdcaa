"""A server that a replica follows: it sends the bytes of its file. Statements REPL-19, WIRE2-50 to WIRE2-54."""

from collections.abc import Callable, Generator

from durus.backups.copying import Write
from durus.client_storage import ClientStorage
from durus.error import DamageError, NothingToBackUpError, ProtocolError
from durus.files.forward_reader import Unsound
from durus.files.shelf.layout import Seal, parse_seal_text
from durus.files.shelf.scan import scan_transactions
from durus.sharing.address import AnyAddress, SocketAddress

_ADVICE = "none of it was copied to the replica; check the server's file on the server's machine"


class ServerSource:
    """A server, with one connection for all rounds, as long as it works.

    Args:
        name: the name by which people know it.
        connect: makes the connection.
    """

    def __init__(self, name: str, connect: Callable[[], ClientStorage]) -> None:
        self.name = name
        self._connect = connect
        self._client: ClientStorage | None = None

    def is_file(self, path: str) -> bool:
        return False

    def open(self, limit: int | None = None) -> "_ServerState":
        return _ServerState(self)

    def client(self) -> ClientStorage:
        """Return a client that has no answer to wait for."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def close(self) -> None:
        """Close the connection; the next round makes another one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class _ServerState:
    unsealed = 0

    def __init__(self, source: ServerSource) -> None:
        self._source = source
        self._asked: Seal | None = None
        self._last: Seal | None = None
        self._is_continued = False
        self._is_complete = False
        """True if no byte is on its way."""

    @property
    def last(self) -> Seal:
        """The last seal of the file; NothingToBackUpError if it has none."""
        return self._ask(None) if self._last is None else self._last

    def _ask(self, after: Seal | None) -> Seal:
        if self._last is not None:
            self._source.close()  # the answer to another question is on its way
        self._is_complete = False
        head = self._source.client().ask_for_file(b"" if after is None else str(after).encode("ascii"))
        last = parse_seal_text(head.seal.decode("ascii", "replace"))
        if last is None and head.seal:
            raise self._broken(f"it says that its file ends with {head.seal!r}")
        if last is None:
            self._is_complete = True
            raise NothingToBackUpError(f"{self._source.name}: its file has no seal yet; a commit seals it")
        if head.is_continued and (after is None or last.end < after.end):
            raise self._broken("it continues after a seal that its file does not have")
        self._asked, self._last, self._is_continued = after, last, head.is_continued
        self._is_complete = head.is_continued and last == after
        return last

    def has(self, seal: Seal) -> bool:
        if self._last is None or self._asked != seal:
            self._ask(seal)
        return self._is_continued

    def copy(self, after: Seal | None, write: Write) -> Generator[int, None, None]:
        if after is None and self._is_continued:
            self._ask(None)
        last = self.last
        stream = _Stream(self._source, 0 if after is None else after.end, last.end, write)
        if after is None:  # the replica reads and checks the whole of it
            while stream.offset < last.end:
                stream.read_at(stream.offset, last.end - stream.offset, at_once=True)
                yield stream.offset
        else:
            found: Seal | None = None
            try:
                for transaction in scan_transactions(stream, after.end, last.end, after.checksum):
                    found = transaction.seal
                    yield transaction.end
            except Unsound as unsound:
                raise DamageError(self._source.name, unsound.fault_offset, unsound.problem, _ADVICE) from None
            if found != last:
                problem = f"what it sent ends in the seal {found}, not in {last}"
                raise DamageError(self._source.name, last.end, problem, _ADVICE)
        self._is_complete = True

    def close(self) -> None:
        if not self._is_complete:
            self._source.close()

    def _broken(self, problem: str) -> ProtocolError:
        return ProtocolError(f"{self._source.name}: {problem}")


class _Stream:
    """The bytes that a server sends, as a file that is read forward; each byte is also written."""

    def __init__(self, source: ServerSource, offset: int, end: int, write: Write) -> None:
        self.path = source.name
        self.offset = offset
        self._source = source
        self._end = end
        self._write = write
        self._rest = b""

    def size(self) -> int:
        return self._end

    def read_at(self, offset: int, size: int, at_once: bool = False) -> bytes:
        """Return the next bytes; with `at_once` those that came in one piece."""
        if offset != self.offset:
            raise ValueError(f"bytes are read at {offset}, not at {self.offset}")
        pieces = [self._rest]
        missing = min(size, self._end - offset) - len(self._rest)
        while missing > 0 and not (at_once and len(pieces) > 1):
            piece = self._source.client().read_file()
            if not piece or offset + sum(map(len, pieces)) + len(piece) > self._end:
                raise ProtocolError(f"{self.path}: it sent a part of {len(piece)} bytes, which is empty or too long")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        data, self._rest = data[:size], data[size:]
        self.offset += len(data)
        self._write(data)
        return data

    def close(self) -> None:
        pass


def server_source(name: str, address: AnyAddress) -> ServerSource:
    """Return the server with an address as a source."""
    where = SocketAddress.new(address)
    return ServerSource(name, lambda: ClientStorage(address=where, prefetch=0, reconnect=False, protocol=2))
