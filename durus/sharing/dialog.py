"""The common part of the server's dialogs of both versions of the wire protocol: the host, waiting, and turns.

A dialog is a generator that yields how many bytes of the client it needs next, MESSAGE, or EVENT to wait for the host.
It has no sockets, no threads and no clocks; conversation.py drives it.
"""

from collections.abc import Callable, Collection, Generator
from typing import Protocol

from durus.error import DurusError, LimitError, NotAllowedError, TransactionError
from durus.sharing.protocol2 import Hello
from durus.sharing.roles import Role
from durus.sharing.session import Session, SessionCore

EVENT = -1
"""What a dialog yields when it waits for an event and not for bytes."""
MESSAGE = -2
"""What a dialog yields when it waits for a message: as many bytes as a u32 before them says.

It is sent the message without the u32, or nothing if it is empty or longer than MAX_WHOLE: then it reads all of it.
"""
MAX_WHOLE = 1 << 16
"""A longer message is read in parts, so that its bytes are not held twice."""

WORK_AT_A_TIME = 64
"""How many requests, or new oids, are handled before other clients have their turn."""
SENT_AT_A_TIME = 1 << 16
"""How many bytes of a long answer are sent before other clients have their turn."""
COST_OF_A_LOAD = 256
"""How many bytes are added to the size of each record, for the work that it causes."""

Steps = Generator[int, bytes, "Dialog | None"]
"""The steps of a dialog; it returns the dialog that takes over, or None at the end."""


class Host(Protocol):
    """What a conversation needs of the server."""

    is_paused: bool
    """True while the client must read what was sent; the host calls proceed() when it has done so."""
    hello: Hello
    """The limits that clients are told. [WIRE2-2]"""
    role: Role
    """What the client may do. [WIRE-50]"""
    refusal: LimitError | None
    """Why there is no place for the client; None if it has one. [WIRE2-42]"""
    reserve: LimitError | None
    """Why the client has the place that is kept for an ADMIN, and can't use the database; None if it has another."""

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""

    def proceed_soon(self) -> None:
        """Call proceed() later, not within this call."""

    def wake(self) -> None:
        """Call proceed() before the server waits for anything, but not within this call."""

    def commit_is_ready(self) -> None:
        """The core has a commit to write; its outcome may come before this returns."""

    def commit_ended(self, count: int, size: int, error: DurusError | None) -> None:
        """A commit of this many records and bytes is durable, or was refused: a WriteConflictError is a conflict.

        0 records are a commit that was given up.
        """

    def pack(self, on_end: Callable[[DurusError | None], None]) -> None:
        """Begin to pack, if no pack is in progress; call `on_end` when it has ended, with its error if it failed."""

    def status(self) -> dict[str, object]:
        """Return what the server does, as JSON has it. [WIRE2-35]"""

    def file_sent(self) -> None:
        """The client was sent all that it did not have of the file. [WIRE2-50]"""

    def note_refusal(self, error: NotAllowedError | LimitError) -> None:
        """The client has asked for what it may not do or have, and was told so."""

    def quit(self) -> None:
        """End the server, and this connection last of all: that tells the client."""

    def end(self, error: DurusError | None) -> None:
        """Close the connection; the client has gone, or has done what it must not."""


class Dialog:
    """The requests of one client and their answers, in order."""

    def __init__(self, core: SessionCore, host: Host, session: Session) -> None:
        self._core = core
        self._host = host
        self._session = session
        self.counts_requests = True
        """True if a time limit applies to each request as a whole, False if it applies to each part that comes."""
        self.is_finishing = False
        self.is_held = False
        """True while the client waits for the answer to a commit, or for the end of the server."""
        self.is_awaited = False
        """True while the client waits for an answer that may take its time."""
        self.is_between_requests = True
        self.is_alone = False
        """True if the last arrival was a single byte, and everything before it is consumed."""
        self.may_leave_unread = False
        """True if the last message to the client is one that it may read whenever it likes. [WIRE2-17]"""
        self.has_unused_input = False
        """True if bytes have arrived after those that the dialog was given last."""
        self.request_count = 0
        """How many requests have begun."""
        self.load_count = 0
        """How many records the client has asked for."""
        self._work = 0

    @property
    def has_exclusive_data(self) -> bool:
        """True while others may wait for the data of this client's commit."""
        return False

    def converse(self) -> Steps:
        """Answer one request after the other."""
        raise NotImplementedError

    def refuse(self, error: LimitError) -> None:
        """Tell the client why its connection is about to be closed, if the protocol has words for that."""

    def keep_waiting(self) -> None:
        """Tell the client that its answer is still to come, if the protocol has words for that."""

    def _require(self, role: Role, what: str) -> None:
        """Raise NotAllowedError if the client may not do what it asks for. [WIRE-51]"""
        if self._host.role < role:
            raise NotAllowedError(
                f"this client may not {what}: it has the role {self._host.role.name.lower()}, and that needs "
                f"{role.name.lower()}; the options --allow-uid, --allow-gid, --tls-roles and --may-stop of the "
                "server give roles"
            )

    def _let_others_go_first(self) -> Generator[int, bytes, None]:
        """Wait until the client has read what was sent, and other clients were served."""
        yield from self._until_read()
        if self._work >= WORK_AT_A_TIME:
            yield from self._let_others_in()

    def _let_others_in(self) -> Generator[int, bytes, None]:
        self._work = 0
        self._host.proceed_soon()
        yield EVENT

    def _until_read(self) -> Generator[int, bytes, None]:
        while self._host.is_paused:
            yield EVENT

    def _until_durable(self, oid: bytes) -> Generator[int, bytes, None]:
        """Wait while the record that this client is to see is not durable. [TXN-23]"""
        while self._session.must_wait(oid):
            self._core.when_written(self._host.wake)  # of this write: another one may follow
            self.is_awaited = True
            yield EVENT
        self.is_awaited = False

    def _until_fresh(self) -> Generator[int, bytes, None]:
        """Wait until the core knows what others have committed, if the storage has other clients. [PG-61]"""
        if self._core.has_others:
            outcomes: list[DurusError | None] = []

            def proceed(error: DurusError | None) -> None:
                outcomes.append(error)
                self._host.wake()

            self._core.when_fresh(proceed)
            yield from self._until(lambda: outcomes)
            if outcomes[0] is not None:
                raise outcomes[0]

    def _begin(self) -> Generator[int, bytes, None]:
        """Have the client begin with the present state of a storage that has other clients. [PG-61]"""
        if self._core.has_others:
            yield from self._until_fresh()
            self._session.sync()

    def _until(self, has_happened: Callable[[], object]) -> Generator[int, bytes, None]:
        """Wait for an event that ends in a call of proceed()."""
        self.is_awaited = True
        while not has_happened():
            yield EVENT
        self.is_awaited = False

    def _until_answered(self, outcomes: Collection[object]) -> Generator[int, bytes, None]:
        """Wait for the outcome of a commit, which is answered even if the server stops meanwhile."""
        self.is_held = True
        yield from self._until(lambda: outcomes)
        self.is_held = False

    def _until_turn(self, lease: float | None = None) -> Generator[int, bytes, "list[bytes] | None"]:
        """Wait for this client's turn to commit; return the invalid oids, None for any. [TXN-21]"""
        yield from self._until_fresh()
        session, soon = self._session, self._host.wake
        grants: list[list[bytes] | None] = []

        def granted(invalid: list[bytes] | None) -> None:
            grants.append(invalid)
            soon()

        session.begin_commit(granted, abandoned=soon, lease=lease)
        yield from self._until(lambda: grants or not session.is_in_line)
        if not grants:
            raise TransactionError("the storage has restarted after an interrupt")
        return grants[0]

    def _quit(self) -> Generator[int, bytes, None]:
        self._host.quit()
        self.is_held = True
        while True:
            yield EVENT
