"""The common part of the client's dialogs of both versions of the wire protocol."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from durus.error import DurusKeyError, ProtocolError, ReadConflictError, ServerError
from durus.oid import format_oid
from durus.sharing.prefetch import Prefetch
from durus.sharing.protocol import INVALID, NOT_FOUND, OKAY, Loaded, Reader
from durus.sharing.protocol2 import Answer, FileHead
from durus.storage import Accesses, InvalidationHandler

T = TypeVar("T")

_TOO_OLD = "the server can't tell what it does: it runs an earlier version of Durus, or Durus 4.3; upgrade it"


class Channel(Protocol):
    """The connection to a server, held by a ClientStorage. Any exception here has ended the connection."""

    def send(self, data: bytes) -> None:
        """Send bytes to the server."""

    def check_connected(self) -> None:
        """Raise the error of a lost connection if the server has closed it."""

    def receive(self, reader: Reader[T]) -> T:
        """Return the result of a reader that is given the received bytes."""

    def receive_answer(self, on_wait: Callable[[], object] | None = None) -> Answer:
        """Return the next message of version 2; call `on_wait` for each one that announces it before. [WIRE2-33]"""

    def note_unknown_outcome(self, error: BaseException) -> None:
        """Note that it is unknown whether a commit is stored; raise the error for that in place of a DurusError.

        [WIRE-25]
        """

    def break_off(self, error: BaseException) -> None:
        """End the connection, because an answer that was received is not what the protocol has. [WIRE-25]"""


class ClientDialog:
    """Requests of a storage to its server."""

    version: int

    def __init__(self, channel: Channel, prefetch: Prefetch) -> None:
        self._channel = channel
        self.prefetch = prefetch

    def new_oids(self, count: int) -> list[bytes]:
        """Return new oids."""
        raise NotImplementedError

    def load(self, oid: bytes) -> bytes:
        """Return the record of an oid. DurusKeyError if there is none, ReadConflictError if the oid is invalid."""
        raise NotImplementedError

    def load_all(self, oids: list[bytes]) -> list[Loaded]:
        """Return the answers for several oids."""
        raise NotImplementedError

    def sync(self) -> list[bytes] | None:
        """Return the invalid oids, None for any."""
        raise NotImplementedError

    def commit(
        self,
        records: dict[bytes, bytes],
        accesses: Accesses | None,
        handle_invalidations: InvalidationHandler | None,
    ) -> None:
        """Commit these records. WriteConflictError if that is a conflict.

        `accesses` says what the transaction has used; if it is None, handle_invalidations() finds a conflict.
        """
        raise NotImplementedError

    def pack(self, is_awaited: bool, on_wait: Callable[[], object] | None) -> None:
        """Make the server start a pack, and wait for its end if the protocol supports that."""
        raise NotImplementedError

    def use_snapshots(self) -> bool:
        """Make each sync() take a snapshot; return False if the protocol does not support that. [WIRE2-14]"""
        return False

    def take_turn(self) -> list[bytes] | None:
        """Sync, and keep others from committing if the protocol supports that. [TXN-46]"""
        return self.sync()

    def release(self) -> None:
        """Give up the turn and the snapshot, if there is one."""

    def quit(self) -> None:
        """Stop the server."""
        raise NotImplementedError

    def read_refusal(self) -> None:
        """Raise what the server has answered to quit()."""

    def say_goodbye(self) -> None:
        """Tell the server that the client disconnects."""
        raise NotImplementedError

    def ask_for_file(self, after: bytes) -> FileHead:
        """Ask for the file of the server, after a seal; read_file() then returns it piece by piece. [WIRE2-50]"""
        raise _cannot_follow()

    def read_file(self) -> bytes:
        """Return the next piece of the file, after ask_for_file()."""
        raise _cannot_follow()

    def ping(self) -> None:
        """Return when the server answers."""
        raise NotImplementedError

    def status(self) -> dict[str, object]:
        """Return what the server does. ProtocolError if it can't say, because it is older."""
        raise ProtocolError(_TOO_OLD)

    def _checked(self, oids: list[bytes], answers: list[Loaded]) -> list[Loaded]:
        """Return the answers. If they are not those for these oids: ProtocolError, and the end of the connection."""
        try:
            if len(answers) < len(oids):
                raise ProtocolError(f"the server answered a load of {len(oids)} oids with {len(answers)} entries")
            for oid, answer in zip(oids, answers, strict=False):
                if answer.status == OKAY and answer.record[:8] != oid:
                    problem = f"the server answered the load of oid {format_oid(oid)} with another record"
                    raise ProtocolError(problem)
        except ProtocolError as error:
            self._channel.break_off(error)
            raise
        return answers


def record_of(oid: bytes, answer: Loaded) -> bytes:
    """Return the record in an answer. DurusKeyError if there is none, ReadConflictError if the oid is invalid."""
    if answer.status == INVALID:
        raise ReadConflictError([oid])
    if answer.status == NOT_FOUND:
        raise DurusKeyError(oid)
    return answer.record


def _cannot_follow() -> ServerError:
    return ServerError("the server speaks version 1 of the protocol only, in which its file can't be followed")
