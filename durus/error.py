"""Every error that Durus raises on purpose.

All of them are a DurusError. Where applications have caught a built-in exception for the same event, that exception
is a base too. A message says what is wrong, where, and what helps.
"""

from collections.abc import Callable, Iterable

from durus.oid import format_oid
from durus.text import printable


class DurusError(Exception):
    """Base of all errors of this package. Their messages are one printable line. [OBJ-79]"""

    def __str__(self) -> str:
        return printable(super().__str__())


class DurusWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


class DurusKeyError(KeyError, DurusError):
    """There is no record with the oid `args[0]` (bytes) in the storage."""

    def __str__(self) -> str:
        if len(self.args) == 1 and isinstance(self.args[0], bytes) and len(self.args[0]) == 8:
            return f"no object has the oid {format_oid(self.args[0])}"
        return printable(" ".join(str(argument) for argument in self.args))


_MAX_SHOWN = 10
_RUN_AGAIN = "call abort() and run the transaction again, as db.run(function) does by itself"


class ConflictError(DurusError):
    """This transaction used data that others have changed; abort() and run it again. [TXN-13] to [TXN-15]

    `oids` is a list of the oids of these objects. `classes` maps oids to class names, for the objects that the message
    names, as far as they are in memory. [TXN-80] `detail` says which client made the change, and when, as far as that
    is known. [TXN-82]
    """

    def __init__(self, oids: Iterable[bytes] | None = None, detail: str = "") -> None:
        self.oids = list(oids or ())
        self.detail = detail
        self.classes: dict[bytes, str] = {}
        super().__init__(self.oids)

    def shown_oids(self) -> list[bytes]:
        """Return the oids that the message names, which are not all if there are very many."""
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
    """commit() found that others have changed what this transaction used; nothing was stored."""


class ReadConflictError(ConflictError):
    """A state does not fit what this transaction has read before."""


class ProtocolError(DurusError):
    """The other side of a connection has violated the protocol."""


class NetworkError(DurusError, OSError):
    """The connection between a client and its server failed."""


class AddressError(NetworkError):
    """A value is not an address, or the address can't be listened on or connected to."""


class TlsError(NetworkError):
    """TLS is not possible: a certificate, its key or another file is wrong, or one side refuses the other. [TLS-3]"""


class ServerUnreachableError(NetworkError):
    """No server listens on the address."""


class DisconnectedError(NetworkError):
    """The connection to the server was lost or closed; abort() connects again if the storage may do so."""


class OutcomeUnknownError(DisconnectedError):
    """The connection was lost before the answer to a commit came: it is stored completely or not at all."""


class ServerError(DurusError):
    """The server could not do what was asked, and says why; nothing of a commit was stored. [WIRE2-40]"""


class NotAllowedError(ServerError):
    """The server does not let this client do what it asks for. [WIRE-51]"""


class LimitError(ServerError):
    """The server has a limit for its clients, which this one has reached. [WIRE2-42]"""


class TransactionError(DurusError):
    """A call does not fit the state of the transaction."""


class SnapshotEndedError(TransactionError):
    """A snapshot is no longer held, so its state can't be read any more. [TXN-64]

    `reason` says why.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return printable(
            f"the snapshot has ended: {self.reason}; call abort(), or begin another snapshot, and read again from there"
        )


class ConcurrentUseError(TransactionError):
    """A connection or storage was called during another call. [TXN-33]"""


class WrongProcessError(DurusError):
    """A connection or storage was made before a fork and used in the child. [TXN-32]"""


class InterruptedTransactionError(TransactionError):
    """An earlier call was interrupted, so the changes of the transaction are lost: run it again. [TXN-30]"""


class ArgumentError(DurusError, ValueError):
    """A call does not accept an argument, or an option of an address."""


class ForeignReferenceError(DurusError, ValueError):
    """A stored object of one connection refers to an object of another one."""


class UnstorableError(DurusError, TypeError):
    """The state of an object can't be pickled; nothing of the transaction was written."""


class UnnotedChangeError(TransactionError):
    """Connection(debug=True) found changes of states that were not noted; nothing was stored. [OBJ-85]

    `changes` has a text for each of them.
    """

    def __init__(self, changes: Iterable[str]) -> None:
        self.changes = list(changes)
        super().__init__(self.changes)

    def __str__(self) -> str:
        return printable(text_of_unnoted(self.changes))


class UnnotedChangeWarning(DurusWarning):
    """Connection(debug="warn"), or an abort, found a change of a state that was not noted. [OBJ-86]"""


def text_of_unnoted(changes: list[str]) -> str:
    """Return the message for changes that were not noted, which says how to note them.

    Args:
        changes: a text for each change.
    """
    more = f"; and {len(changes) - 5} more" if len(changes) > 5 else ""
    return (
        f"not noted as a change: {'; '.join(changes[:5])}{more}; call _p_note_change() of the object in each "
        "transaction that changes such a value, or use a PersistentList, PersistentDict or PersistentSet for it"
    )


class RecordError(DurusError, ValueError):
    """The bytes of a record do not have the form of a record."""


class StateError(DurusError):
    """The state in a record can't be loaded into its object."""


class ClassNotFoundError(StateError, ImportError):
    """The class that a record or a reference names can't be imported."""


class UntrustedClassError(ClassNotFoundError):
    """The class or function that a record names is not in the list `classes`, so it was not imported. [OBJ-100]"""


class MissingAttributeError(StateError, AttributeError):
    """The state of a broken object lacks an attribute, which its missing class may have."""

    def __init__(self, message: str, *, name: str, obj: object) -> None:
        AttributeError.__init__(self, message, name=name, obj=obj)


class FileError(DurusError, OSError):
    """The operating system refused an operation on a file; `operation` and `filename` name both."""

    operation: str | None = None

    def __str__(self) -> str:
        return printable(f"{self.filename}: {self.strerror}" if self.filename else self.strerror or super().__str__())


class LockedError(FileError):
    """Another process, or another FileStorage of this process, has the file open for writing."""

    advice = "close it there, or open it with readonly=True"
    """What helps, at the end of the text; commands say it in their own words."""

    def __str__(self) -> str:
        return f"{super().__str__()}; {printable(self.advice)}"


class ObjectStoreError(FileError):
    """An object store can't be reached, has no such bucket, or refuses the credentials. [BACKUP-54]"""

    is_permanent = False
    """True if trying again does not help: there is no such bucket, or no right to use it."""


class AlreadyExistsError(FileError, FileExistsError):
    """A file exists that must not be overwritten; its errno is EEXIST."""


class ReadonlyError(DurusError):
    """A change was attempted in a storage that is open with readonly=True."""


class ClosedError(DurusError):
    """The storage is closed, or has closed its file after a failure; open it again."""


class BackupError(DurusError):
    """A folder is not a backup or can't become one, or a backup does not contain what was requested."""


class NothingToBackUpError(BackupError):
    """The file has no seal yet."""


class ReplicaError(DurusError):
    """A file is not a replica of the source that it is to follow, or was written to by others."""


class FormatError(DurusError, ValueError):
    """The file is of a kind that this storage does not read."""


class DamageError(FormatError):
    """The file is of the right kind, but its bytes at `offset` are wrong."""

    def __init__(self, path: str, offset: int, problem: str, advice: str | Callable[[str], str]) -> None:
        """Make the error; `advice` says what helps, or is a function of the path that returns this."""
        helps = advice if isinstance(advice, str) else advice(path)
        super().__init__(f"{path}: at byte {offset}: {problem}; {helps}")
        self.path = path
        self.offset = offset
        self.problem = problem


class UnsoundTailError(DamageError):
    """The file ends in an incomplete transaction; repair=True cuts it off."""
