"""Every error that Durus raises on purpose.

All of them are a DurusError.  Where applications have caught a built-in exception for the same
event, that built-in one is a base too.  Messages say what was found, where, and what to do.
"""

from collections.abc import Iterable

from durus.oid import format_oid
from durus.text import printable


class DurusError(Exception):
    """Base of all errors of this package. Their texts are in one line, and printable. [OBJ-79]"""

    def __str__(self) -> str:
        return printable(super().__str__())


class DurusWarning(UserWarning):
    """Something that is worth knowing and lets the work go on."""


class DurusKeyError(KeyError, DurusError):
    """There is no record with the oid `args[0]` (bytes) in the storage."""

    def __str__(self) -> str:
        if len(self.args) == 1 and isinstance(self.args[0], bytes) and len(self.args[0]) == 8:
            return f"no object has the oid {format_oid(self.args[0])}"
        return printable(" ".join(str(argument) for argument in self.args))


_MAX_SHOWN = 10
_RUN_AGAIN = "call abort() and run the transaction again, which db.run(function) of a durus.open() does by itself"


class ConflictError(DurusError):
    """This transaction used data that others changed; abort() and start it again. [TXN-13] to [TXN-15]

    `oids` are the objects concerned, a list of 8-byte oids. `classes` gives the names of the classes of those that
    the message shows, by oid, as far as they are in memory. [TXN-80] `detail` tells more, as far as it is known: which
    client made the change, and when. [TXN-82]
    """

    def __init__(self, oids: Iterable[bytes] | None = None, detail: str = "") -> None:
        self.oids = list(oids or ())
        self.detail = detail
        self.classes: dict[bytes, str] = {}
        super().__init__(self.oids)

    def shown_oids(self) -> list[bytes]:
        """Return the oids that the message names: there may be very many."""
        return self.oids[:_MAX_SHOWN]

    def __str__(self) -> str:
        what = "changed by another client, or removed by a pack"
        if self.oids:
            shown = ", ".join(
                f"{self.classes[oid]} {format_oid(oid)}" if oid in self.classes else f"oid {format_oid(oid)}"
                for oid in self.shown_oids()
            )
            more = len(self.oids) - len(self.shown_oids())
            what = f"{what}: {shown}{f' and {more} more' if more else ''}"
        if self.detail:
            what = f"{what} ({self.detail})"
        return printable(f"{what}; {_RUN_AGAIN}")


class WriteConflictError(ConflictError):
    """commit() found changes of others to what this transaction used; nothing was stored."""


class ReadConflictError(ConflictError):
    """A load would have shown a state that does not fit what this transaction has read."""


class ProtocolError(DurusError):
    """The other side of a connection sent what the protocol does not have."""


class NetworkError(DurusError, OSError):
    """Something between a client and its server failed."""


class AddressError(NetworkError):
    """An address is not one, or can't be listened on or connected to."""


class ServerUnreachableError(NetworkError):
    """No server listens on the address."""


class DisconnectedError(NetworkError):
    """The connection to the server was lost, or given up; abort() connects again, where the storage may do so."""


class OutcomeUnknownError(DisconnectedError):
    """The connection was lost before the answer to a commit came: it may be stored, all of it, or not at all."""


class ServerError(DurusError):
    """The server could not do what was asked, and says why; nothing of a commit was stored. [WIRE2-40]"""


class TransactionError(DurusError):
    """The call does not fit the state that the transaction is in."""


class SnapshotEndedError(TransactionError):
    """A snapshot is no longer held, so its state can't be read any more. [TXN-64]

    `reason` tells why.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return printable(
            f"the snapshot has ended: {self.reason}; call abort(), or begin another snapshot, and read again from there"
        )


class ConcurrentUseError(TransactionError):
    """A connection or storage was called while another call was under way in it. [TXN-33]"""


class WrongProcessError(DurusError):
    """A connection or storage was made before a fork and used after it, in the other process. [TXN-32]"""


class InterruptedTransactionError(TransactionError):
    """An earlier call was interrupted, so the changes of the transaction are forgotten: start it again. [TXN-30]"""


class ArgumentError(DurusError, ValueError):
    """An argument, or an option in an address, is not one that the call takes."""


class ForeignReferenceError(DurusError, ValueError):
    """A stored object of one connection refers to an object of another one."""


class UnstorableError(DurusError, TypeError):
    """The state of an object can't be pickled; nothing of the transaction was written."""


class UnnotedChangeError(TransactionError):
    """States were changed and nobody noted it, as Connection(debug=True) found; nothing was stored. [OBJ-85]

    `changes` has a text for each of them.
    """

    def __init__(self, changes: Iterable[str]) -> None:
        self.changes = list(changes)
        super().__init__(self.changes)

    def __str__(self) -> str:
        return printable(text_of_unnoted(self.changes))


class UnnotedChangeWarning(DurusWarning):
    """A state was changed and nobody noted it, as Connection(debug="warn") found, or an abort. [OBJ-86]"""


def text_of_unnoted(changes: list[str]) -> str:
    """Return the message for some changes that were not noted, and how to note them."""
    more = f"; and {len(changes) - 5} more" if len(changes) > 5 else ""
    return (
        f"not noted as a change: {'; '.join(changes[:5])}{more}; call _p_note_change() of the object in each "
        "transaction that changes such a value, or keep a PersistentList, PersistentDict or PersistentSet there"
    )


class RecordError(DurusError, ValueError):
    """The bytes of an object record do not say what a record must say."""


class StateError(DurusError):
    """The state in a record can't be given to its object."""


class ClassNotFoundError(StateError, ImportError):
    """The class that a record or a reference names can't be imported."""


class MissingAttributeError(StateError, AttributeError):
    """An attribute is not in the state of a broken object, and its class, which may have it, can't be imported."""

    def __init__(self, message: str, *, name: str, obj: object) -> None:
        AttributeError.__init__(self, message, name=name, obj=obj)


class FileError(DurusError, OSError):
    """The operating system refused something; `operation` and `filename` tell what and where."""

    operation: str | None = None

    def __str__(self) -> str:
        return printable(f"{self.filename}: {self.strerror}" if self.filename else self.strerror or super().__str__())


class LockedError(FileError):
    """Another process, or another FileStorage of this one, has the file open for writing."""


class AlreadyExistsError(FileError, FileExistsError):
    """A file is there already, and is not to be overwritten; its errno is EEXIST."""


class ReadonlyError(DurusError):
    """The storage was opened with readonly=True and was asked to change something."""


class ClosedError(DurusError):
    """The storage was closed, or gave up its file after a failure, and must be opened again."""


class BackupError(DurusError):
    """A folder is no backup or can't become one, or what was asked of a backup is not in it."""


class NothingToBackUpError(BackupError):
    """The file has no seal yet."""


class FormatError(DurusError, ValueError):
    """The file is not of a kind that this storage reads."""


class DamageError(FormatError):
    """The file is of the right kind, but the bytes at `offset` can't be right."""

    def __init__(self, path: str, offset: int, problem: str, advice: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {problem}; {advice}")
        self.path = path
        self.offset = offset
        self.problem = problem


class UnsoundTailError(DamageError):
    """The file ends in a transaction that was not written whole; repair=True cuts it off."""
